"""Makes the table of features and clients from what the clients' checks printed.

Usage: matrix.py FOLDER > MATRIX.md; FOLDER has one file per client.
"""

import pathlib
import sys

HEAD = """# What the official clients were seen doing

Generated from a run of `.ci/run`, which fails when this file and the run differ. Each client is taken
unmodified from its registry, with its default settings: Java and Go over TLS, the others in plaintext.
"–" is what a client has no call for, or what it is known not to do itself (see [README.md](README.md)).
"""
CLIENTS = {
    "java": "Java 5.2.0",
    "go": "Go 5.1.4",
    "rust": "Rust 5.0.0",
    "python": "Python 5.1.2",
    "node": "Node 1.0.8",
}
CELLS = {"ok": "yes", "none": "–"}


def main(folder):
    seen = {}
    for client in CLIENTS:
        for line in (folder / client).read_text().splitlines():
            word, _, feature = line.partition(" ")
            if word in CELLS:
                seen[client, feature] = CELLS[word]
    print(HEAD)
    print("| Feature | What is checked |", " | ".join(CLIENTS.values()), "|")
    print("|---|---|" + "---|" * len(CLIENTS))
    features = pathlib.Path(__file__).with_name("features.tsv").read_text().splitlines()
    for feature, _, _, text in (line.split("\t") for line in features):
        cells = (seen.get((client, feature), "FAILED") for client in CLIENTS)
        print(f"| {feature} | {text} |", " | ".join(cells), "|")


main(pathlib.Path(sys.argv[1]))
