-- Average selling price of a seller's last ten auctions, without a frame: the winning bid of each auction, the
-- last ten of each seller, their average.
SELECT seller, avg(final) AS average
FROM (
    SELECT seller, final, ROW_NUMBER() OVER (PARTITION BY seller ORDER BY date_time DESC, id) AS place
    FROM (
        SELECT id, seller, price AS final, bid_time AS date_time
        FROM (
            SELECT a.id, a.seller, b.price, b.date_time AS bid_time, ROW_NUMBER() OVER (
                PARTITION BY a.id ORDER BY b.price DESC, b.date_time, b._queue, b._offset
            ) AS rank
            FROM auction AS a JOIN bid AS b
            ON a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires
        ) AS bids
        WHERE rank = 1
    ) AS won
) AS numbered
WHERE place <= 10
GROUP BY seller
