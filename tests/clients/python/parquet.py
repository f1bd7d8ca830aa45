"""Opens an exported Parquet file with another reader (DuckDB) and compares it with the CSV it came from: every column and row.

Usage: parquet.py EXPORTED.parquet SOURCE.csv

Prints one line per check and exits 1 when one fails.
"""

import sys

import duckdb

failed = 0


def check(what, ok, detail=""):
    global failed
    failed += 0 if ok else 1
    print(f"{'ok' if ok else 'FAILED'}: duckdb: {what}{'' if ok else f' ({detail})'}", flush=True)


def main(exported, source):
    db = duckdb.connect()
    header = db.sql(f"DESCRIBE SELECT * FROM read_csv('{source}', nullstr = 'NA')").fetchall()
    columns = ", ".join(name for name, *_ in header)
    check("every column of the source is compared", len(header) == 19, columns)
    db.execute(f"CREATE VIEW ours AS SELECT {columns} FROM read_parquet('{exported}')")
    db.execute(f"CREATE VIEW theirs AS SELECT {columns} FROM read_csv('{source}', nullstr = 'NA')")
    counts = [db.sql(f"SELECT count(*) FROM {view}").fetchall()[0][0] for view in ("ours", "theirs")]
    check("the exported file has as many rows as its source", counts[0] == counts[1] > 0, counts)
    for one, other in (("ours", "theirs"), ("theirs", "ours")):
        missing = db.sql(f"SELECT * FROM {one} EXCEPT ALL SELECT * FROM {other}").fetchall()
        check(f"no row of {one} is missing in {other}", missing == [], missing[:3])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
    sys.exit(1 if failed else 0)
