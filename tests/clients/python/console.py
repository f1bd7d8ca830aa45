"""Types at the prompt of `millpond sql`, as a person at a terminal does, and looks at what is shown.

Usage: console.py MILLPOND (MILLPOND_SERVER says which server)

Prints one line per check and exits 1 when one fails.
"""

import os
import pty
import re
import select
import sys
import tempfile
import time

LIMIT = 30
failed = 0


def check(what, ok, detail=""):
    global failed
    failed += 0 if ok else 1
    print(f"{'ok' if ok else 'FAILED'}: prompt: {what}{'' if ok else f' ({detail!r})'}", flush=True)


class Console:
    """The command on a terminal of its own."""

    def __init__(self, program, home):
        self.child, self.terminal = pty.fork()
        if self.child == 0:
            kept = {name: os.environ[name] for name in ("MILLPOND_SERVER", "PATH") if name in os.environ}
            os.execve(program, [program, "sql"], {**kept, "HOME": home, "TERM": "xterm-256color"})
        self.shown = ""
        self.looked_at = 0

    def wait_for(self, *texts):
        """Reads until one of the texts stands behind what was looked at; answers what was shown up to its end, without colours."""
        ends = time.monotonic() + LIMIT
        while True:
            plain = re.sub(r"\x1b(\[[0-9;?<>=]*[ -/]*[@-~]|\][^\x07]*\x07|[=>78])", "", self.shown)
            found = [plain.find(text, self.looked_at) + len(text) for text in texts if text in plain[self.looked_at :]]
            if found or time.monotonic() > ends:
                start, self.looked_at = self.looked_at, min(found, default=len(plain))
                return plain[start : self.looked_at]
            ready, _, _ = select.select([self.terminal], [], [], 0.1)
            if not ready:
                continue
            try:
                read = os.read(self.terminal, 65536).decode(errors="replace")
            except OSError:
                return plain[self.looked_at :]
            self.shown += read
            # The editor asks the terminal where its cursor is.
            for _ in range(read.count("\x1b[6n")):
                os.write(self.terminal, b"\x1b[1;1R")

    def prompt(self):
        self.wait_for("millpond> ")

    def type(self, keys):
        os.write(self.terminal, keys.encode())

    def leave(self):
        self.type("\\q\r")
        return self.left()

    def left(self):
        ends = time.monotonic() + LIMIT
        while time.monotonic() < ends:
            done, status = os.waitpid(self.child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            self.wait_for_nothing()
        return None

    def wait_for_nothing(self):
        ready, _, _ = select.select([self.terminal], [], [], 0.1)
        if ready:
            try:
                os.read(self.terminal, 65536)
            except OSError:
                pass


def main(program):
    console = None

    def does(what, keys, expected, *also):
        """Types at the prompt, waits for the last of the texts that are expected, and then for the next prompt."""
        console.type(keys)
        shown = console.wait_for(expected, "error:")
        check(what, all(text in shown for text in (expected, *also)), shown)
        console.prompt()

    home = tempfile.mkdtemp()
    console = Console(program, home)
    console.prompt()
    does("a statement is done", "CREATE TOPIC prompt_rows (name VARCHAR, n BIGINT);\r", "\nCREATE TOPIC")
    console.type("INSERT INTO prompt_rows\r")
    console.wait_for("...> ")
    does("a statement ends at its semicolon, lines later", "VALUES ('first', 1), ('second', 2);\r", "INSERT 2")
    does("\\d lists topics without a semicolon", "\\d\r", "\nSHOW", " prompt_rows ")
    does("Tab completes a topic", "SELECT sum(n) AS total FROM prompt_r\t;\r", "SELECT 1", "total", " 3")
    does("Tab completes a column", "SELECT nam\t FROM prompt_rows WHERE n = 1;\r", "SELECT 1", "first")
    console.type("SELECT nothing FROM prompt_rows;\r")
    check("an error is shown", "error: line 1, column 8" in console.wait_for("column 8"))
    console.prompt()
    console.type("\\x\r")
    console.prompt()
    does("\\x shows a line a column", "SELECT name FROM prompt_rows WHERE n = 2;\r", "name  second", "row 1")
    console.type("SELECT name FROM prompt_rows EMIT CHANGES;\r")
    check("rows are shown as they come", '"second"' in console.wait_for('"second"', "error"))
    console.type("\x03")
    check("Ctrl-C cancels a statement that runs", "cancelled" in console.wait_for("cancelled"))
    console.prompt()
    does("and the prompt goes on", "SELECT 20 + 3 AS found;\r", "found  23")
    check("\\q leaves", console.leave() == 0)
    console = Console(program, home)
    console.prompt()
    console.type("\x1b[A\x1b[A")
    check("what was typed is remembered", "20 + 3" in console.wait_for("20 + 3"))
    console.type("\x03")
    console.prompt()
    console.type("\x04")
    check("Ctrl-D leaves", console.left() == 0)


if __name__ == "__main__":
    main(os.path.abspath(sys.argv[1]))
    sys.exit(1 if failed else 0)
