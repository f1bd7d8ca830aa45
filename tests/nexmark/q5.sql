-- Hot items: the auctions with most bids of each window.
SELECT counted.auction, counted.num, counted.window_start, counted.window_end
FROM (
    SELECT auction, count(*) AS num, window_start, window_end
    FROM HOP(TABLE bid, DESCRIPTOR(date_time), INTERVAL '2 seconds', INTERVAL '10 seconds')
    GROUP BY auction, window_start, window_end
) AS counted
JOIN (
    SELECT max(num) AS most, window_start, window_end
    FROM (
        SELECT auction, count(*) AS num, window_start, window_end
        FROM HOP(TABLE bid, DESCRIPTOR(date_time), INTERVAL '2 seconds', INTERVAL '10 seconds')
        GROUP BY auction, window_start, window_end
    ) AS again
    GROUP BY window_start, window_end
) AS best
ON counted.window_start = best.window_start AND counted.window_end = best.window_end AND counted.num = best.most
