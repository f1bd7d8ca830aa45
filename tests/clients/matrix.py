"""Makes the table of features and clients from what the clients' checks printed.

Usage: matrix.py FOLDER > MATRIX.md; FOLDER has one file per client.
"""

import pathlib
import re
import sys

HEAD = """# What the official clients were seen doing

Generated from a run of `.ci/run`, which fails when this file and the run differ. Each client is taken
unmodified from its registry, with its default settings: Java and Go over TLS, the others in plaintext.
"–" is what a client has no call for, or what it is known not to do itself (see [README.md](README.md)).
"""
HERE = pathlib.Path(__file__).parent
# Where the version stands that is fetched: what the table says ran is what ran.
CLIENTS = {
    "java": ("java/pom.xml", r"<artifactId>rocketmq-client-java</artifactId>\s*<version>([\d.]+)<"),
    "go": ("go/go.mod", r"rocketmq-clients/golang/v5 v([\d.]+)"),
    "rust": ("rust/Cargo.toml", r'rocketmq = "=([\d.]+)"'),
    "python": ("../../.ci/run", r"rocketmq-python-client==([\d.]+)"),
    "node": ("node/package.json", r'"rocketmq-client-nodejs": "([\d.]+)"'),
}
CELLS = {"ok": "yes", "none": "–"}


def called(client):
    file, version = CLIENTS[client]
    return f"{client.capitalize()} {re.search(version, (HERE / file).read_text()).group(1)}"


def main(folder):
    seen = {}
    for client in CLIENTS:
        for line in (folder / client).read_text().splitlines():
            word, _, feature = line.partition(" ")
            if word in CELLS:
                seen[client, feature] = CELLS[word]
    print(HEAD)
    print("| Feature | What is checked |", " | ".join(map(called, CLIENTS)), "|")
    print("|---|---|" + "---|" * len(CLIENTS))
    features = pathlib.Path(__file__).with_name("features.tsv").read_text().splitlines()
    for feature, _, _, text in (line.split("\t") for line in features):
        cells = (seen.get((client, feature), "FAILED") for client in CLIENTS)
        print(f"| {feature} | {text} |", " | ".join(cells), "|")


main(pathlib.Path(sys.argv[1]))
