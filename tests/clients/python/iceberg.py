"""Reads tiered topics as Iceberg tables with pyiceberg and DuckDB, and compares them with `millpond sql`.

Usage: iceberg.py MILLPOND HTTP DATA FLIGHTS.csv

MILLPOND is the binary (it finds the server by MILLPOND_SERVER), HTTP the address of the server's HTTP port, DATA
its data folder. The topic is read by its folder and through the REST catalog, before and after files are merged, a
column is added and old messages are let go. Prints one line per check and exits 1 when one fails.
"""

import csv
import io
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request

import duckdb
from pyiceberg.catalog import load_catalog
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError
from pyiceberg.table import StaticTable

TOPIC = "ci-iceberg"
ROWS = 12_000
# Three imports: several files, so that there is something to merge.
PARTS = 3
COLUMNS = "year, month, day, carrier, flight, tailnum, origin, dest, dep_delay, distance"
SUMS = f"""
SELECT carrier, origin, count(*) AS n, sum(distance) AS miles, count(dep_delay) AS departed,
       min(flight) AS least, max(dest) AS last
FROM {{source}} WHERE {{condition}} GROUP BY carrier, origin ORDER BY carrier, origin"""

failed = 0


def check(what, ok, detail=""):
    global failed
    failed += 0 if ok else 1
    print(f"{'ok' if ok else 'FAILED'}: iceberg: {what}{'' if ok else f' ({detail})'}", flush=True)


def millpond(*arguments):
    done = subprocess.run([MILLPOND, *arguments], capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise SystemExit(f"millpond {' '.join(arguments)}: {done.stdout}{done.stderr}")
    return done.stdout


def ours(sql):
    rows = list(csv.reader(io.StringIO(millpond("sql", "-c", sql, "-o", "csv"))))
    return [tuple(plain(value) for value in row) for row in rows[1:]]


def plain(value):
    """A value as text that does not depend on who prints it."""
    if value is None or value == "":
        return ""
    try:
        return f"{float(value):.6g}" if float(value) != int(float(value)) else str(int(float(value)))
    except ValueError:
        return str(value)


def theirs(arrow, sql):
    db = duckdb.connect()
    db.register("rows_read", arrow)
    return [tuple(plain(value) for value in row) for row in db.sql(sql).fetchall()]


def compare(when, table, condition="true"):
    """One way to the table agrees with SQL, in sums and in every row."""
    name, table = table
    arrow = table.scan().to_arrow()
    expected = ours(SUMS.format(source=f'"{TOPIC}"', condition=condition))
    found = theirs(arrow, SUMS.format(source="rows_read", condition=condition))
    check(f"{when}: {name} answers as millpond sql", found == expected and found != [], (found[:2], expected[:2]))
    places = {(row["_queue"], row["_offset"]) for row in arrow.select(["_queue", "_offset"]).to_pylist()}
    check(f"{when}: {name} has every place once", len(places) == arrow.num_rows, len(places))
    row = arrow.slice(0, 1).to_pylist()[0]
    body = json.loads(row["_body"])
    check(f"{when}: {name} has the body beside its columns", body["carrier"] == row["carrier"], row)


def by_folder():
    return ("the folder", StaticTable.from_metadata(f"file://{DATA}/objects/topics/{topic_id()}"))


def by_catalog():
    catalog = load_catalog("millpond", type="rest", uri=f"http://{HTTP}")
    return ("the catalog", catalog.load_table(f"topics.{TOPIC}"))


def topic_id():
    return ours(f"SELECT id FROM millpond.topics WHERE name = '{TOPIC}'")[0][0]


def parquet(when):
    """DuckDB alone, over the Parquet files that the table names."""
    table = by_catalog()[1]
    files = [task.file.file_path.removeprefix("file://") for task in table.scan().plan_files()]
    sql = SUMS.format(source=f"read_parquet({files}, union_by_name = true)", condition="true")
    for column in ("carrier", "origin", "distance", "dep_delay", "flight", "dest"):
        sql = sql.replace(column, f"v_{column}")
    found = [tuple(plain(value) for value in row) for row in duckdb.sql(sql).fetchall()]
    expected = ours(SUMS.format(source=f'"{TOPIC}"', condition="true"))
    check(f"{when}: the Parquet files of {len(files)} answer as millpond sql", found == expected, found[:2])
    return files


def all_ways(when):
    for way in (by_folder, by_catalog):
        compare(when, way())
    return parquet(when)


def moved(source):
    with open(source, newline="") as file:
        header = file.readline()
        lines = [file.readline() for _ in range(ROWS)]
    for part in range(PARTS):
        path = f"{DATA}/ci-iceberg.csv"
        with open(path, "w") as out:
            out.write(header)
            out.writelines(lines[part * ROWS // PARTS : (part + 1) * ROWS // PARTS])
        millpond("import", path, "--to", TOPIC, "--key", "tailnum", "--null", "NA")
        millpond("storage", "tier")


def catalog_itself():
    catalog = load_catalog("millpond", type="rest", uri=f"http://{HTTP}")
    check("the catalog lists its namespace", catalog.list_namespaces() == [("topics",)], catalog.list_namespaces())
    tables = catalog.list_tables("topics")
    check("the catalog lists the topic", ("topics", TOPIC) in tables, tables)
    check("a table that exists exists", catalog.table_exists(f"topics.{TOPIC}"))
    check("a table that does not does not", not catalog.table_exists("topics.nobody"))
    for error, call in (
        (NoSuchTableError, lambda: catalog.load_table("topics.nobody")),
        (NoSuchNamespaceError, lambda: catalog.list_tables("elsewhere")),
    ):
        try:
            call()
            check(f"{error.__name__} is raised", False)
        except error as refused:
            check(f"{error.__name__} is raised", len(str(refused)) > 20, refused)
    request = urllib.request.Request(f"http://{HTTP}/v1/namespaces/topics/tables/{TOPIC}", method="DELETE")
    try:
        urllib.request.urlopen(request, timeout=10)
        check("a write is refused", False)
    except urllib.error.HTTPError as refused:
        answer = json.load(refused)["error"]
        check("a write is refused with the reason", refused.code == 406 and "read-only" in answer["message"], answer)


def conditions():
    table = by_catalog()[1]
    late = table.scan(row_filter="dep_delay > 100", selected_fields=("carrier", "dep_delay")).to_arrow()
    count = ours(f'SELECT count(*) FROM "{TOPIC}" WHERE dep_delay > 100')[0][0]
    check("a condition on a declared column", str(late.num_rows) == count != "0", (late.num_rows, count))
    none = table.scan(row_filter="_stored_at < '2000-01-01T00:00:00+00:00'")
    check("a condition on the time leaves no file", list(none.plan_files()) == [], none)
    every = list(table.scan(row_filter="_stored_at > '2000-01-01T00:00:00+00:00'").plan_files())
    check("the day of the store time is the partition", every[0].file.partition[0] is not None, every[0])


def add_column():
    before = by_catalog()[1]
    millpond("sql", "-c", f'ALTER TOPIC "{TOPIC}" ADD COLUMN mood VARCHAR')
    millpond("sql", "-c", f"""INSERT INTO "{TOPIC}" (carrier, origin, mood) VALUES ('ZZ', 'JFK', 'fine')""")
    millpond("storage", "tier")
    for name, table in (by_folder(), by_catalog()):
        rows = table.scan(row_filter="carrier = 'ZZ'").to_arrow().to_pylist()
        check(f"an added column: {name} has it", [row["mood"] for row in rows] == ["fine"], rows)
        old = table.scan(row_filter="mood is null", selected_fields=("carrier",)).to_arrow()
        check(f"an added column: {name} has nulls in older files", old.num_rows == ROWS, old.num_rows)
    check("an added column: it has another schema", before.schema() != by_catalog()[1].schema())


def compact_by_key():
    count = f'SELECT count(*) FROM "{TOPIC}" WHERE _key IS NOT NULL'
    last = f'SELECT _key, max(_offset) FROM "{TOPIC}" WHERE _key IS NOT NULL GROUP BY _key ORDER BY _key'
    before, lasts = ours(count), ours(last)
    millpond("sql", "-c", f"""ALTER TOPIC "{TOPIC}" SET (cleanup = 'compact')""")
    millpond("storage", "compact", TOPIC)
    after = ours(count)
    check("after key compaction: one message of each key is left", after == [(str(len(lasts)),)], (before, after))
    check("after key compaction: it is the last one", ours(last) == lasts, lasts[:2])
    all_ways("after key compaction")


def let_go_of_some(source):
    """Some of several files: every way has the rows that are left, and no others."""
    millpond("sql", "-c", f"""ALTER TOPIC "{TOPIC}" SET (cleanup = 'delete')""")
    moved(source)
    before = by_catalog()[1]
    rows = before.scan().to_arrow().num_rows
    sizes = [task.file.file_size_in_bytes for task in before.scan().plan_files()]
    # The newest stay; how much that is in messages the server counts for itself.
    millpond("topic", "alter", TOPIC, "--retention-bytes", f"{sum(sizes) // 2}B")
    for _ in range(300):
        left = by_catalog()[1].scan().to_arrow().num_rows
        if left < rows:
            break
        time.sleep(0.2)
    check("after retention of some files: some rows are left, not all", 0 < left < rows, (left, rows, sizes))
    all_ways("after retention of some files")


def let_go():
    millpond("topic", "alter", TOPIC, "--retention-bytes", "1B")
    # The next turn of upkeep, some ten seconds away, lets go of all whole files.
    for _ in range(300):
        left = by_catalog()[1].scan().to_arrow().num_rows
        if left == 0:
            break
        time.sleep(0.2)
    count = ours(f'SELECT count(*) FROM "{TOPIC}"')[0][0]
    check("after retention: the catalog has no more rows than millpond sql", str(left) == count == "0", (left, count))
    left = by_folder()[1].scan().to_arrow().num_rows
    check("after retention: the folder has none either", left == 0, left)


def family():
    """Small topics that share a table: each has its rows in it, under its name."""
    names = [f"ci-meter-{n}" for n in range(3)]
    for name in names:
        millpond("topic", "create", name, "--queues", "1", "--schema", "n BIGINT", "--family", "ci-meters")
        millpond("sql", "-c", f"""INSERT INTO "{name}" VALUES (1), (2), ({len(name)})""")
    millpond("storage", "tier")
    catalog = load_catalog("millpond", type="rest", uri=f"http://{HTTP}")
    listed = {name for _, name in catalog.list_tables("topics")}
    check("a family is listed as one table", "ci-meters" in listed and not listed & set(names), listed)
    rows = catalog.load_table("topics.ci-meters").scan().to_arrow()
    found = theirs(rows, "SELECT _topic, count(*), count(DISTINCT _topic_id) FROM rows_read GROUP BY _topic ORDER BY _topic")
    check("the family's table has the rows of each topic", found == [(name, "3", "1") for name in names], found)
    sums = [ours(f'SELECT count(*), sum(n) FROM "{name}"')[0] for name in names]
    check("millpond sql reads each topic from it", sums == [("3", str(3 + len(names[0])))] * 3, sums)


def main(source):
    moved(source)
    files = all_ways("as moved")
    catalog_itself()
    conditions()
    millpond("storage", "compact", TOPIC)
    merged = all_ways("after merging")
    check("after merging: there are fewer files", len(merged) < len(files), (len(files), len(merged)))
    add_column()
    all_ways("after a column was added")
    millpond("storage", "compact", TOPIC)
    all_ways("after merging with the added column")
    compact_by_key()
    let_go_of_some(source)
    let_go()
    family()


if __name__ == "__main__":
    MILLPOND, HTTP, DATA = sys.argv[1:4]
    HTTP = HTTP.removeprefix("http://")
    main(sys.argv[4])
    sys.exit(1 if failed else 0)
