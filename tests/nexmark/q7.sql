-- Highest bid of each window.
SELECT b.auction, b.price, b.bidder, b.date_time, b.extra
FROM bid AS b
JOIN (
    SELECT max(price) AS most, window_end
    FROM TUMBLE(TABLE bid, DESCRIPTOR(date_time), INTERVAL '10 seconds')
    GROUP BY window_start, window_end
) AS best
ON b.price = best.most
WHERE b.date_time BETWEEN best.window_end - INTERVAL '10 seconds' AND best.window_end
