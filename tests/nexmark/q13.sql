-- Lookup in a side topic.
SELECT b.auction, b.bidder, b.price, b.date_time, s.value
FROM (SELECT *, auction % 100 AS part FROM bid) AS b JOIN side_input AS s ON b.part = s.key
