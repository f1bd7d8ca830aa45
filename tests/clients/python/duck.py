"""What the comparisons of the server with another engine (DuckDB) share: checks, values as text, the command line."""

import datetime
import json
import os
import subprocess
import sys
import tempfile
import time

failed = 0


def check(what, ok, detail=""):
    global failed
    failed += 0 if ok else 1
    print(f"{'ok' if ok else 'FAILED'}: {what}{'' if ok else f' ({detail})'}", flush=True)


def exit_code():
    return 1 if failed else 0


def text(value):
    """As the tests in Rust write a value."""
    if value is None:
        return "NULL"
    if isinstance(value, datetime.datetime):
        since = value.replace(tzinfo=datetime.timezone.utc) - datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
        return str(since // datetime.timedelta(milliseconds=1))
    return repr(value) if isinstance(value, float) else str(value)


def theirs(db, query):
    """The rows of DuckDB as text, sorted."""
    return sorted("".join(f"{text(value)}|" for value in row) for row in db.execute(query).fetchall())


def differing(db, one, other):
    """How many rows two relations do not share, and some of them."""
    only = [f"SELECT * FROM {a} EXCEPT ALL SELECT * FROM {b}" for a, b in ((one, other), (other, one))]
    found = [db.execute(query).fetchall() for query in only]
    return len(found[0]) + len(found[1]), [rows[:2] for rows in found]


class Server:
    """The server, through its command line."""

    def __init__(self, binary):
        self.binary = binary
        self.folder = os.environ.get("WORK", tempfile.gettempdir())

    def run(self, *arguments):
        done = subprocess.run([self.binary, *arguments], capture_output=True, text=True, timeout=300)
        if done.returncode != 0:
            sys.exit(f"millpond {' '.join(arguments)[:200]}: {done.stderr}")
        return done.stdout

    def ask(self, sql):
        return json.loads(self.run("sql", "-o", "json", "-c", sql))

    def wait(self, seconds=180):
        """Waits until every continuous query has read everything."""
        deadline = time.monotonic() + seconds
        while True:
            jobs = self.ask("SELECT name, state, lag FROM millpond.jobs")
            behind = [job for job in jobs if job["lag"] != 0 or job["state"] != "running"]
            if not behind or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        check("every view has read everything", behind == [], behind)

    def fetch(self, db, table, query, kinds):
        """The answer of a query as a table of DuckDB with these types."""
        path = os.path.join(self.folder, f"{table}.parquet")
        self.run("export", query, "--to", path, "--force")
        columns = ", ".join(f'CAST("{name}" AS {kind}) AS "{name}"' for name, kind in kinds.items())
        db.execute(f"CREATE OR REPLACE TABLE {table} AS SELECT {columns} FROM read_parquet('{path}')")
        os.remove(path)

    def take_over(self, db, topic, columns):
        """Replaces a table by the same rows from the server, with the places that it gave them.

        Checks that the server holds exactly the rows of the table, by these columns.
        """
        listed = ", ".join(f'"{name}"' for name in columns)
        described = db.execute(f"DESCRIBE SELECT {listed} FROM {topic}").fetchall()
        kinds = {name: kind for name, kind, *_ in described}
        kinds |= {"_queue": "BIGINT", "_offset": "BIGINT", "_stored_at": "TIMESTAMP"}
        self.fetch(db, "kept", f"SELECT {listed}, _queue, _offset, _stored_at FROM {topic}", kinds)
        count, some = differing(db, f"(SELECT {listed} FROM kept)", f"(SELECT {listed} FROM {topic})")
        check(f"the server holds exactly the rows of {topic}", count == 0, some)
        db.execute(f"DROP TABLE {topic}; ALTER TABLE kept RENAME TO {topic}")

    def same(self, db, what, query, answer):
        """What the server answers to a query against what DuckDB answers to another."""
        db.execute(f"CREATE OR REPLACE TABLE expected AS {answer}")
        kinds = {name: kind for name, kind, *_ in db.execute("DESCRIBE expected").fetchall()}
        rows = db.execute("SELECT count(*) FROM expected").fetchone()[0]
        self.fetch(db, "found", query, kinds)
        count, some = differing(db, "found", "expected")
        check(f"{what} is what DuckDB answers: {rows} rows", count == 0 and rows, (count, some))

    def compare(self, db, view, query, answer):
        """A view, and its query asked once, against the answer of a query of DuckDB."""
        self.same(db, f"the view {view}", f"SELECT * FROM {view}", answer)
        self.same(db, f"asked once, {view}", query, answer)
