-- Windows of the time that bids were stored.
SELECT bidder, count(*) AS bids, window_start, window_end
FROM TUMBLE(TABLE bid, DESCRIPTOR(_stored_at), INTERVAL '10 seconds')
GROUP BY bidder, window_start, window_end
