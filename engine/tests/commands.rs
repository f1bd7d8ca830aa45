//! Commands as they are typed, against a server in a process of its own: what they print, and what is there afterwards.
//!
//! The server says when it listens, so nothing here waits for a time.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

struct Server {
    process: Child,
    url: String,
    http: String,
    folder: tempfile::TempDir,
}

/// What a command printed, and whether it did what it should.
#[derive(Debug)]
struct Said {
    out: String,
    err: String,
    is_done: bool,
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut process = Command::new(env!("CARGO_BIN_EXE_millpond"))
            .arg("serve")
            .env("MILLPOND_DATA", folder.path().join("data"))
            .env("MILLPOND_GRPC", "localhost:0")
            .env("MILLPOND_HTTP", "localhost:0")
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary was built");
        let mut lines = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        let mut listening = |on: &str| {
            let told = lines.by_ref().map_while(Result::ok);
            let mut found =
                told.filter_map(|line| Some(format!("http://{}", line.strip_prefix(on)?)));
            found.next().expect("it says where it listens")
        };
        Self {
            url: listening("grpc listening on "),
            http: listening("http listening on "),
            process,
            folder,
        }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    }

    fn run(&self, words: &[&str]) -> Said {
        self.run_with(words, "")
    }

    fn run_with(&self, words: &[&str], input: &str) -> Said {
        let mut process = Command::new(env!("CARGO_BIN_EXE_millpond"))
            .args(words)
            .env("MILLPOND_SERVER", &self.url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary was built");
        let mut stdin = process.stdin.take().expect("it is piped");
        stdin.write_all(input.as_bytes()).expect("it reads");
        drop(stdin);
        let output = process.wait_with_output().expect("it ends");
        Said {
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
            is_done: output.status.success(),
        }
    }

    fn done(&self, words: &[&str]) -> Said {
        let said = self.run(words);
        assert!(said.is_done, "{words:?}: {said:?}");
        said
    }

    fn refused(&self, words: &[&str]) -> String {
        let said = self.run(words);
        assert!(!said.is_done, "{words:?}: {said:?}");
        said.err
    }

    /// Rows as CSV, without the header.
    fn rows(&self, sql: &str) -> Vec<String> {
        let said = self.done(&["sql", "-o", "csv", "-c", sql]);
        said.out.lines().skip(1).map(str::to_owned).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its folder goes as well, so it needs no time to end in order.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn rows_of_a_topic_with_a_primary_key_replace_each_other_however_they_come() {
    let server = Server::start();
    server.done(&[
        "sql",
        "-c",
        "CREATE TOPIC customers (id INT, name VARCHAR, PRIMARY KEY (id)); INSERT INTO customers VALUES (1, 'Ann'), (2, 'Bob')",
    ]);
    let csv = server.file("customers.csv", "id,name\n1,new\n2,b\n");
    let lines = server.file("customers.ndjson", "{\"id\":3,\"name\":\"c\"}\n");
    server.done(&["import", &csv, "--to", "customers", "--key", "id"]);
    server.done(&["import", &csv, "--to", "customers"]);
    server.done(&["import", &lines, "--to", "customers"]);
    server.done(&[
        "topic",
        "produce",
        "customers",
        "--body",
        "{\"id\":2,\"name\":\"p\"}",
    ]);
    let all = "SELECT id, name, _key FROM customers ORDER BY id";
    assert_eq!(server.rows(all), ["1,new,[1]", "2,p,[2]", "3,c,[3]"]);
    for (words, said) in [
        (
            &["import", &csv, "--to", "customers", "--key", "name"][..],
            "has PRIMARY KEY (id), which tells its rows apart, and not name",
        ),
        (
            &[
                "topic",
                "produce",
                "customers",
                "--key",
                "3",
                "--body",
                "{\"id\":3}",
            ],
            "the row's key is [3]",
        ),
        (
            &["topic", "produce", "customers", "--key", "3", "--tombstone"],
            "--key '[3]'",
        ),
    ] {
        let err = server.refused(words);
        assert!(err.contains(said), "{err}");
    }
    server.done(&[
        "topic",
        "produce",
        "customers",
        "--key",
        "[3]",
        "--tombstone",
    ]);
    let piped = server.run_with(
        &["topic", "produce", "customers"],
        "{\"id\":1}\n{\"name\":\"x\"}\n",
    );
    assert!(
        !piped.is_done && piped.err.contains("1 rows were sent before"),
        "{piped:?}"
    );
    assert_eq!(server.rows(all), ["1,,[1]", "2,p,[2]"]);
}

#[test]
fn a_file_is_read_as_it_is_or_refused_by_its_line() {
    let server = Server::start();
    let lines = server.file(
        "mixed.ndjson",
        "{\"a\":1,\"b\":\"x\"}\n{\"a\":2.5,\"c\":[1,2]}\n{\"a\":\"str\",\"b\":\"\"}\n",
    );
    let said = server.done(&["import", &lines, "--to", "mixed"]);
    assert!(
        said.err.contains("created topic mixed (b TEXT, c TEXT)"),
        "{said:?}"
    );
    let left_out = "it has no column for a: a number in line 1, a text in line 3";
    assert!(said.err.contains(left_out), "{said:?}");
    let rows = server.rows("SELECT b, c FROM mixed ORDER BY _offset, _queue");
    let mut sorted = rows.clone();
    sorted.sort();
    // Nothing and an empty text are two things in CSV.
    assert_eq!(sorted, ["\"\",", ",\"[1,2]\"", "x,"]);
    let open = server.file("open.csv", "a,b\n1,\"unclosed\n2,x\n");
    let err = server.refused(&["import", &open, "--to", "open"]);
    assert!(
        err.contains("line 2: a value begins with a quote and is never closed"),
        "{err}"
    );
    let words = [
        "import",
        "-",
        "--to",
        "semi",
        "--format",
        "csv",
        "--delimiter",
        ";",
    ];
    let piped = server.run_with(&words, "a;b\n1;x,y\n");
    assert!(
        piped.is_done && piped.err.contains("imported 1 row into semi"),
        "{piped:?}"
    );
    assert_eq!(server.rows("SELECT a, b FROM semi"), ["1,\"x,y\""]);
    let tabs = server.file("tabs.tsv", "a\tb\n1\t2\n");
    server.done(&["import", &tabs, "--to", "tabs"]);
    assert_eq!(server.rows("SELECT a + b FROM tabs"), ["3"]);
}

#[test]
fn erasing_a_key_tells_what_is_so() {
    let server = Server::start();
    server.done(&["topic", "create", "work"]);
    server.done(&["topic", "produce", "work", "--key", "k", "--body", "hello"]);
    server.done(&["group", "create", "dead"]);
    server.done(&["topic", "create", "%DLQ%dead"]);
    server.done(&[
        "topic",
        "produce",
        "%DLQ%dead",
        "--key",
        "k",
        "--body",
        "hello",
    ]);
    let none = server
        .done(&["topic", "erase", "work", "--key", "other"])
        .err;
    assert!(
        none.contains("has no message with the key \"other\""),
        "{none}"
    );
    assert!(!none.contains("dead letters of"), "{none}");
    let erased = server.done(&["topic", "erase", "work", "--key", "k"]).err;
    assert!(
        erased.contains("millpond topic erase '%DLQ%dead' --key 'k'"),
        "{erased}"
    );
    server.done(&["topic", "erase", "%DLQ%dead", "--key", "k"]);
    let again = server.done(&["topic", "erase", "work", "--key", "k"]).err;
    let nothing = "no file of the server holds any as a message of this topic";
    assert!(
        erased.contains(nothing) && again.contains(nothing),
        "{again}"
    );
    assert!(!again.contains("dead letters of"), "{again}");
}

#[test]
fn a_paused_group_is_told_as_such() {
    let server = Server::start();
    server.done(&["topic", "create", "orders"]);
    let backoff = [
        "group",
        "create",
        "billing",
        "--attempts",
        "3",
        "--backoff",
        "1s..2h",
    ];
    server.done(&backoff);
    server.done(&["group", "pause", "billing"]);
    let info = server.done(&["group", "info", "billing"]).out;
    for fact in ["billing, paused", "earliest", "attempts     3", "1s..2h"] {
        assert!(info.contains(fact), "{fact}: {info}");
    }
    let got = server
        .done(&["topic", "consume", "orders", "--group", "billing"])
        .err;
    assert!(got.contains("millpond group resume billing"), "{got}");
}

#[test]
fn a_job_is_shown_as_a_record_and_says_what_goes_with_it() {
    let server = Server::start();
    server.done(&["sql", "-c", "CREATE TOPIC orders (id INT)"]);
    let select = format!(
        "SELECT id FROM orders WHERE id > {}",
        "1 + ".repeat(200) + "1"
    );
    let view = format!("CREATE MATERIALIZED VIEW v AS {select}");
    server.done(&["job", "submit", &view]);
    let info = server.done(&["job", "info", "v"]).out;
    let rows_in = info.lines().find(|line| line.starts_with("rows_in"));
    assert!(rows_in.is_some_and(|line| line.len() < 40), "{info}");
    let json = server.done(&["job", "info", "v", "-o", "json"]).out;
    assert!(json.contains("\"error\":null"), "{json}");
    server.done(&[
        "sql",
        "-c",
        "CREATE MATERIALIZED VIEW w AS SELECT id FROM v",
    ]);
    let err = server.refused(&["job", "cancel", "v"]);
    assert!(err.contains("read by w"), "{err}");
    server.done(&["job", "cancel", "w"]);
    server.done(&["job", "cancel", "v"]);
}

#[test]
fn the_port_of_the_pages_is_no_server_to_talk_to() {
    let server = Server::start();
    let err = server.refused(&["--server", &server.http, "topic", "ls"]);
    assert!(err.contains("is no gRPC server"), "{err}");
    assert!(err.contains("grpc listening on"), "{err}");
}
