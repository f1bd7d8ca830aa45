-- Winning bids.
SELECT id, item_name, initial_bid, reserve, date_time, expires, seller, category, auction, bidder, price, bid_time
FROM (
    SELECT a.id, a.item_name, a.initial_bid, a.reserve, a.date_time, a.expires, a.seller, a.category,
        b.auction, b.bidder, b.price, b.date_time AS bid_time, ROW_NUMBER() OVER (
            PARTITION BY a.id ORDER BY b.price DESC, b.date_time, b._queue, b._offset
        ) AS rank
    FROM auction AS a JOIN bid AS b
    ON a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires
) AS bids
WHERE rank = 1
