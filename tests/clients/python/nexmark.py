"""Nexmark q0 to q22 by another engine (DuckDB), over the same events.

Usage: nexmark.py answers FOLDER           prints tests/nexmark/answers.tsv for the events in FOLDER
       nexmark.py rows FOLDER QUERY        prints the rows of one query
       nexmark.py check FOLDER MILLPOND    sends the events to the server in MILLPOND_SERVER with the binary
                                           MILLPOND, keeps every query as a materialized view there, and compares

FOLDER holds person.ndjson, auction.ndjson, bid.ndjson and side_input.ndjson. The test
the_events_are_the_same_each_time_and_are_written_where_asked writes them:

    MILLPOND_NEXMARK_TO=FOLDER cargo test --workspace the_events_are_the_same

Prints one line per check and exits 1 when one fails.
"""

import os
import pathlib
import sys

import duckdb

from duck import Server, exit_code, theirs

QUERIES = pathlib.Path(__file__).resolve().parents[2] / "nexmark"
QUEUES = {"person": 2, "auction": 2, "bid": 3, "side_input": 1}
COLUMNS = {
    "person": "id BIGINT, name VARCHAR, email_address VARCHAR, credit_card VARCHAR, city VARCHAR, state VARCHAR, "
    "date_time BIGINT, extra VARCHAR",
    "auction": "id BIGINT, item_name VARCHAR, description VARCHAR, initial_bid BIGINT, reserve BIGINT, "
    "date_time BIGINT, expires BIGINT, seller BIGINT, category BIGINT, extra VARCHAR",
    "bid": "auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, url VARCHAR, date_time BIGINT, "
    "extra VARCHAR",
    "side_input": "key BIGINT, value VARCHAR",
}
TIMES = ("date_time", "expires")

PRICE = "CAST(price AS DECIMAL(18, 0)) * CAST(0.908 AS DECIMAL(4, 3))"
DAY = "strftime(date_time, '%Y-%m-%d')"
WINNING = """(
    SELECT a.*, b.auction, b.bidder, b.price, b.date_time AS bid_time, row_number() OVER (
        PARTITION BY a.id ORDER BY b.price DESC, b.date_time, b._queue, b._offset) AS place
    FROM auction a JOIN bid b ON a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires)"""
COUNTED = """(
    SELECT auction, count(*) AS num, make_timestamp_ms(start) AS window_start,
        make_timestamp_ms(start + 10000) AS window_end
    FROM (SELECT auction, unnest([epoch_ms(date_time) // 2000 * 2000 - 2000 * k for k in range(5)]) AS start FROM bid)
    GROUP BY auction, start)"""


def tumbled(topic, column="date_time"):
    start = f"epoch_ms({column}) // 10000 * 10000"
    return (
        f"(SELECT *, make_timestamp_ms({start}) AS window_start, "
        f"make_timestamp_ms({start} + 10000) AS window_end FROM {topic})"
    )


def ranks(what, name):
    return f"""{what} AS total_{name},
        {what} FILTER (WHERE price < 10000) AS rank1_{name},
        {what} FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_{name},
        {what} FILTER (WHERE price >= 1000000) AS rank3_{name}"""


RANKS = ", ".join(
    ranks(what, name)
    for what, name in (
        ("count(*)", "bids"),
        ("count(DISTINCT bidder)", "bidders"),
        ("count(DISTINCT auction)", "auctions"),
    )
)

DUCKDB = {
    "q0": "SELECT auction, bidder, price, date_time, extra FROM bid",
    "q1": f"SELECT auction, bidder, {PRICE} AS price, date_time, extra FROM bid",
    "q2": "SELECT auction, price FROM bid WHERE auction % 123 = 0",
    "q3": """SELECT p.name, p.city, p.state, a.id FROM auction a JOIN person p ON a.seller = p.id
        WHERE a.category = 10 AND p.state IN ('or', 'id', 'ca')""",
    "q4": """SELECT category, avg(final) AS average FROM (
        SELECT max(b.price) AS final, a.category FROM auction a, bid b
        WHERE a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires
        GROUP BY a.id, a.category) GROUP BY category""",
    "q5": f"""SELECT auction, num, window_start, window_end FROM {COUNTED}
        QUALIFY rank() OVER (PARTITION BY window_start ORDER BY num DESC) = 1""",
    "q6": f"""SELECT seller, avg(price) AS average FROM (
        SELECT seller, price, row_number() OVER (PARTITION BY seller ORDER BY bid_time DESC, id) AS last
        FROM {WINNING} WHERE place = 1) WHERE last <= 10 GROUP BY seller""",
    "q7": f"""SELECT b.auction, b.price, b.bidder, b.date_time, b.extra FROM bid b JOIN (
        SELECT max(price) AS most, window_end FROM {tumbled("bid")} GROUP BY window_end) w ON b.price = w.most
        WHERE b.date_time BETWEEN w.window_end - INTERVAL 10 SECOND AND w.window_end""",
    "q8": f"""SELECT DISTINCT p.id, p.name, p.window_start FROM {tumbled("person")} p
        JOIN {tumbled("auction")} a ON p.id = a.seller AND p.window_start = a.window_start""",
    "q9": f"""SELECT id, item_name, initial_bid, reserve, date_time, expires, seller, category, auction, bidder, price,
        bid_time FROM {WINNING} WHERE place = 1""",
    "q10": f"""SELECT auction, bidder, price, date_time, extra, {DAY} AS day,
        strftime(date_time, '%H:%M') AS minute FROM bid""",
    "q11": """SELECT bidder, count(*) AS bids, min(date_time) AS window_start,
        max(date_time) + INTERVAL 10 SECOND AS window_end FROM (
            SELECT *, sum(fresh) OVER (PARTITION BY bidder ORDER BY date_time, _queue, _offset) AS session FROM (
                SELECT *, CASE WHEN date_time - lag(date_time) OVER (
                    PARTITION BY bidder ORDER BY date_time, _queue, _offset) <= INTERVAL 10 SECOND
                    THEN 0 ELSE 1 END AS fresh FROM bid))
        GROUP BY bidder, session""",
    "q12": f"""SELECT bidder, count(*) AS bids, window_start, window_end
        FROM {tumbled("bid", "_stored_at")} GROUP BY bidder, window_start, window_end""",
    "q13": """SELECT b.auction, b.bidder, b.price, b.date_time, s.value
        FROM bid b JOIN side_input s ON b.auction % 100 = s.key""",
    "q14": f"""SELECT auction, bidder, {PRICE} AS price,
        CASE WHEN hour(date_time) BETWEEN 8 AND 18 THEN 'day'
            WHEN hour(date_time) <= 6 OR hour(date_time) >= 20 THEN 'night' ELSE 'other' END AS bid_time_type,
        date_time, extra, length(extra) - length(replace(extra, 'c', '')) AS c_counts
        FROM bid WHERE {PRICE} BETWEEN 1000000 AND 50000000""",
    "q15": f"SELECT {DAY} AS day, {RANKS} FROM bid GROUP BY ALL",
    "q16": f"""SELECT channel, {DAY} AS day, max(strftime(date_time, '%H:%M')) AS minute, {RANKS}
        FROM bid GROUP BY channel, {DAY}""",
    "q17": f"""SELECT auction, {DAY} AS day, {ranks("count(*)", "bids")}, min(price) AS min_price,
        max(price) AS max_price, avg(price) AS avg_price, sum(price) AS sum_price
        FROM bid GROUP BY auction, {DAY}""",
    "q18": """SELECT auction, bidder, price, channel, url, date_time, extra FROM bid
        QUALIFY row_number() OVER (PARTITION BY bidder, auction ORDER BY date_time DESC, _queue, _offset) = 1""",
    "q19": """SELECT auction, bidder, price, channel, date_time,
        row_number() OVER (PARTITION BY auction ORDER BY price DESC, _queue, _offset) AS rank
        FROM bid QUALIFY rank <= 10""",
    "q20": """SELECT b.auction, b.bidder, b.price, b.channel, b.date_time, a.item_name, a.initial_bid, a.reserve,
        a.date_time AS auction_time, a.expires, a.seller, a.category
        FROM bid b JOIN auction a ON b.auction = a.id WHERE a.category = 10""",
    "q21": r"""SELECT auction, bidder, price, channel,
        CASE lower(channel) WHEN 'apple' THEN '0' WHEN 'google' THEN '1' WHEN 'facebook' THEN '2'
            WHEN 'baidu' THEN '3' ELSE regexp_extract(url, '(&|^)channel_id=([^&]*)', 2) END AS channel_id
        FROM bid WHERE regexp_matches(url, '(&|^)channel_id=([^&]*)')
            OR lower(channel) IN ('apple', 'google', 'facebook', 'baidu')""",
    "q22": """SELECT auction, bidder, price, channel, split_part(url, '/', 4) AS dir1,
        split_part(url, '/', 5) AS dir2, split_part(url, '/', 6) AS dir3 FROM bid""",
}

def load(folder):
    """The events as tables; each event stands where the test sends it: the queues take turns."""
    db = duckdb.connect(config={"threads": 1, "preserve_insertion_order": True})
    db.execute("SET TimeZone = 'UTC'")
    for topic, queues in QUEUES.items():
        columns = ", ".join(f"'{name}': '{kind}'" for name, kind in map(str.split, COLUMNS[topic].split(", ")))
        times = ", ".join(f"make_timestamp_ms({name}) AS {name}" for name in TIMES if f"{name} " in COLUMNS[topic])
        replace = f"REPLACE ({times})" if times else ""
        db.execute(f"""CREATE TABLE {topic} AS
            SELECT * EXCLUDE (n) {replace}, CAST(n % {queues} AS BIGINT) AS _queue, CAST(n // {queues} AS BIGINT) AS _offset
            FROM (SELECT *, row_number() OVER () - 1 AS n
                FROM read_json('{folder}/{topic}.ndjson', format = 'newline_delimited', columns = {{{columns}}}))""")
    return db


def digest(lines):
    total = 0
    for line in lines:
        hashed = 0xCBF29CE484222325
        for byte in line.encode():
            hashed = (hashed ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
        total += hashed
    return f"{total & 0xFFFFFFFFFFFFFFFF:016x}"


def answers(db):
    print("# Rows and digest of each query, by DuckDB; made by tests/clients/python/nexmark.py answers FOLDER.")
    print("# q12 is not here: its windows are of the time at which a run stores the bids.")
    for query in DUCKDB:
        if query != "q12":
            found = theirs(db, DUCKDB[query])
            print(f"{query}\t{len(found)}\t{digest(found)}")


def written(name):
    return (QUERIES / f"{name}.sql").read_text()


def compare(db, server):
    server.run("sql", "-c", written("topics"))
    for query in DUCKDB:
        server.run("sql", "-c", f"CREATE MATERIALIZED VIEW {query} AS {written(query)}")
    for topic in QUEUES:
        server.run("import", os.path.join(sys.argv[2], f"{topic}.ndjson"), "--to", topic)
    server.wait()
    for topic in QUEUES:
        server.take_over(db, topic, [column.split()[0] for column in COLUMNS[topic].split(", ")])
    for query in DUCKDB:
        server.compare(db, query, written(query), DUCKDB[query])


if __name__ == "__main__":
    database = load(sys.argv[2])
    match sys.argv[1]:
        case "answers":
            answers(database)
        case "rows":
            print("\n".join(theirs(database, DUCKDB[sys.argv[3]])))
        case "check":
            compare(database, Server(sys.argv[3]))
    sys.exit(exit_code())
