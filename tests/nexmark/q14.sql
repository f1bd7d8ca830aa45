-- Calculation.
SELECT auction, bidder, CAST(price AS DECIMAL(18, 0)) * CAST(0.908 AS DECIMAL(4, 3)) AS price,
    CASE
        WHEN extract(HOUR FROM date_time) BETWEEN 8 AND 18 THEN 'day'
        WHEN extract(HOUR FROM date_time) <= 6 OR extract(HOUR FROM date_time) >= 20 THEN 'night'
        ELSE 'other'
    END AS bid_time_type,
    date_time, extra, length(extra) - length(replace(extra, 'c', '')) AS c_counts
FROM bid
WHERE CAST(price AS DECIMAL(18, 0)) * CAST(0.908 AS DECIMAL(4, 3)) BETWEEN 1000000 AND 50000000
