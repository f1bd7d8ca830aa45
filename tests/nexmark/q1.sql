-- Currency conversion.
SELECT auction, bidder, CAST(price AS DECIMAL(18, 0)) * CAST(0.908 AS DECIMAL(4, 3)) AS price, date_time, extra
FROM bid
