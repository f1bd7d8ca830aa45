-- Last bid of each bidder on each auction.
SELECT auction, bidder, price, channel, url, date_time, extra
FROM (
    SELECT *, ROW_NUMBER() OVER (
        PARTITION BY bidder, auction ORDER BY date_time DESC, _queue, _offset
    ) AS rank
    FROM bid
) AS bids
WHERE rank <= 1
