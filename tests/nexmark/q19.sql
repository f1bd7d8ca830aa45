-- Ten highest bids of each auction.
SELECT auction, bidder, price, channel, date_time, rank
FROM (
    SELECT *, ROW_NUMBER() OVER (PARTITION BY auction ORDER BY price DESC, _queue, _offset) AS rank
    FROM bid
) AS bids
WHERE rank <= 10
