//! The tools that look after what is stored, as an operator types them: with a server and without one.

use std::path::{Path, PathBuf};
use std::process::Output;

use millpond_tests::harness::{Folder, Server, binary};

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// Everything that a command says, when it succeeds.
fn told(server: &Server, arguments: &[&str]) -> String {
    let output = server.try_millpond(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    said(&output)
}

fn without_a_server(arguments: &[&str]) -> Output {
    let mut command = std::process::Command::new(binary());
    command.arg("storage").args(arguments).output().unwrap()
}

/// How many files of the data folder have these bytes in them.
fn holding(folder: &Folder, secret: &str) -> usize {
    let holds = |path: &PathBuf| {
        let bytes = std::fs::read(path).unwrap_or_default();
        let mut parts = bytes.windows(secret.len());
        parts.any(|part| part == secret.as_bytes())
    };
    below(&folder.data()).into_iter().filter(holds).count()
}

fn parquet_files(folder: &Folder) -> usize {
    let files = below(&folder.data()).into_iter();
    files
        .filter(|path| path.extension().is_some_and(|end| end == "parquet"))
        .count()
}

fn below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(below(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[test]
fn what_is_stored_can_be_listed_merged_checked_and_printed() {
    let folder = Folder::new();
    let server = folder.serve();
    let create = ["topic", "create", "o", "--queues", "1", "--retention", "7d"];
    told(&server, &create);
    for body in ["first", "second", "third"] {
        told(
            &server,
            &["topic", "produce", "o", "--body", body, "--key", "k"],
        );
        if body != "third" {
            told(&server, &["storage", "tier"]);
        }
    }
    let altered = told(
        &server,
        &["topic", "alter", "o", "--retention-bytes", "1GiB"],
    );
    assert!(altered.contains("kept for 7d and up to 1 GiB"), "{altered}");
    let info = told(&server, &["topic", "info", "o"]);
    assert!(
        info.contains("cold") && info.contains("in 2 messages and 2 files"),
        "{info}"
    );
    let merged = told(&server, &["storage", "compact", "o"]);
    assert!(merged.contains("merged 2 files"), "{merged}");
    let listed = told(&server, &["storage", "ls", "-o", "csv"]);
    let row: Vec<&str> = listed
        .lines()
        .find(|l| l.starts_with("o,"))
        .unwrap()
        .split(',')
        .collect();
    assert_eq!(row[3..], ["1", "1", "2", "0", "0", "3"], "{listed}");
    let dumped = told(&server, &["storage", "dump", "o", "0", "1"]);
    assert!(!dumped.contains("first"), "{dumped}");
    assert!(
        dumped.contains("offset 1") && dumped.contains("body of 6 bytes \"second\""),
        "{dumped}"
    );
    let behind = said(&server.try_millpond(&["storage", "dump", "o", "0", "99"]));
    assert!(
        behind.contains("no message at or behind offset 99"),
        "{behind}"
    );
    let checked = told(&server, &["storage", "verify"]);
    assert!(checked.contains("1 files with 2 messages"), "{checked}");

    let data = folder.data();
    let at = data.to_str().unwrap();
    let in_use = without_a_server(&["verify", "--data", at]);
    assert!(
        !in_use.status.success() && said(&in_use).contains("stop that one"),
        "{}",
        said(&in_use)
    );
    assert!(server.stop());

    let whole = without_a_server(&["verify", "--data", at]);
    assert!(whole.status.success(), "{}", said(&whole));
    let dumped = said(&without_a_server(&["dump", "o", "--data", at]));
    let elsewhere = said(&without_a_server(&["dump", "o", "9", "--data", at]));
    assert!(elsewhere.contains("in queue 9 of o"), "{elsewhere}");
    let bodies: Vec<bool> = ["first", "second", "third"]
        .map(|b| dumped.contains(b))
        .into();
    assert_eq!(bodies, [true, true, true], "{dumped}");
    let files = below(&data);
    let find = |end: &str| {
        files
            .iter()
            .find(|path| path.to_str().unwrap().ends_with(end))
            .unwrap()
    };
    let segment = find(".log").strip_prefix(&data).unwrap().to_str().unwrap();
    let records = said(&without_a_server(&["dump", segment, "--data", at]));
    assert!(records.contains("change TopicSet"), "{records}");

    // Those that were merged still wait for readers outside, and nobody else looks at them.
    let all = files
        .iter()
        .filter(|path| path.extension().is_some_and(|end| end == "parquet"));
    for parquet in all {
        let mut bytes = std::fs::read(parquet).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(parquet, bytes).unwrap();
    }
    let damaged = without_a_server(&["verify", "--data", at]);
    assert_eq!(damaged.status.code(), Some(1));
    assert!(
        said(&damaged).contains("offsets 0 to 1 of queue 0"),
        "{}",
        said(&damaged)
    );
    let nowhere = without_a_server(&["verify", "--data", "nowhere-at-all"]);
    assert!(!nowhere.status.success() && !Path::new("nowhere-at-all").exists());
}

#[test]
fn a_topic_that_keeps_the_last_message_of_each_key_is_compacted_by_hand_and_says_what_it_did() {
    let folder = Folder::new();
    let server = folder.serve();
    let create = [
        "topic",
        "create",
        "c",
        "--queues",
        "1",
        "--cleanup",
        "compact",
    ];
    told(&server, &create);
    let send = |key: &str, body: &[&str]| {
        let arguments = [&["topic", "produce", "c", "--key", key], body].concat();
        told(&server, &arguments);
    };
    for round in ["1", "2", "3"] {
        send("anna", &["--body", &format!("anna-{round}")]);
        send("bert", &["--body", &format!("bert-{round}")]);
        told(&server, &["storage", "tier"]);
    }
    send("bert", &["--tombstone"]);
    send("carl", &["--body", "carl-1"]);
    told(&server, &["storage", "tier"]);
    let keyless = server.try_millpond(&["topic", "produce", "c", "--body", "x"]);
    assert!(
        !keyless.status.success() && said(&keyless).contains("cleanup = compact"),
        "{}",
        said(&keyless)
    );
    let last = "SELECT _key, count(*) AS n, max(_offset) AS at FROM c WHERE _body IS NOT NULL \
                GROUP BY _key HAVING max(_offset) = 4 OR max(_offset) = 7 ORDER BY _key";
    let before = told(&server, &["sql", "-o", "csv", "-c", last]);
    let done = told(&server, &["storage", "compact", "c"]);
    assert!(
        done.contains("topic c: superseded by later ones of their key: 5 messages")
            && done.contains("merged 2 files"),
        "{done}"
    );
    let after = told(&server, &["sql", "-o", "csv", "-c", last]);
    assert!(
        before.contains("anna,3,4") && after.contains("anna,1,4"),
        "{before}{after}"
    );
    let read = told(&server, &["topic", "consume", "c"]);
    assert!(
        read.contains("anna-3") && read.contains("carl-1") && !read.contains("anna-2"),
        "{read}"
    );
    let listed = told(&server, &["topic", "ls"]);
    assert!(listed.contains("the last message of each key"), "{listed}");
    let info = told(&server, &["topic", "info", "c"]);
    assert!(info.contains("5 superseded"), "{info}");
    let checked = told(&server, &["storage", "verify"]);
    assert!(checked.contains("1 files with 3 messages"), "{checked}");
    let altered =
        "ALTER TOPIC c SET (cleanup = 'delete', retention = '7 days', retention_bytes = 1048576)";
    told(&server, &["sql", "-c", altered]);
    let info = told(&server, &["topic", "info", "c"]);
    assert!(
        info.contains("kept for 7d and up to 1 MiB") && !info.contains("the last message"),
        "{info}"
    );
    assert!(server.stop());
}

const SECRET: &str = "4929-1234-5678-9012";

#[test]
fn what_was_erased_is_in_no_file_of_the_data_folder() {
    let folder = Folder::new();
    let server = folder.serve();
    let keep = ["--retention", "7d", "--table-retention", "365d"];
    let created = [&["topic", "create", "e", "--queues", "1"], &keep[..]].concat();
    told(&server, &created);
    for (key, body) in [("anna", SECRET), ("bert", "other"), ("anna", SECRET)] {
        let arguments = ["topic", "produce", "e", "--key", key, "--body", body];
        told(&server, &arguments);
    }
    assert!(holding(&folder, SECRET) > 0, "the log has it as it came");
    let erased = told(&server, &["topic", "erase", "e", "--key", "anna"]);
    assert!(
        erased.contains("erased 2 messages") && erased.contains("no file of the server holds any"),
        "{erased}"
    );
    assert_eq!(holding(&folder, SECRET), 0);
    let info = told(&server, &["topic", "info", "e"]);
    assert!(
        info.contains("kept for 7d, its table kept for 365d"),
        "{info}"
    );
    let read = told(&server, &["topic", "consume", "e"]);
    assert!(read.contains("other"), "{read}");
    assert!(server.stop());
    let checked = without_a_server(&["verify", "--data", folder.data().to_str().unwrap()]);
    assert!(checked.status.success(), "{}", said(&checked));
}

#[test]
fn what_waits_on_a_shelf_for_hours_or_years_is_erased_in_every_file_too() {
    let folder = Folder::new();
    let server = folder.serve();
    let create = ["topic", "create", "r", "--type", "delay", "--queues", "1"];
    told(&server, &create);
    let send = |key: &str, body: &str, delay: &str| {
        let message = ["--key", key, "--body", body, "--delay", delay];
        told(
            &server,
            &[&["topic", "produce", "r"], &message[..]].concat(),
        );
    };
    for delay in ["20m", "5h", "3650d"] {
        send("anna", SECRET, delay);
        send("bert", "other", delay);
    }
    told(&server, &["storage", "tier"]);
    assert!(
        parquet_files(&folder) > 0,
        "what waits for hours lies in a file"
    );
    send("anna", SECRET, "30d");
    assert!(holding(&folder, SECRET) > 0, "the log has it as it came");
    let erased = told(&server, &["topic", "erase", "r", "--key", "anna"]);
    assert!(
        erased.contains("erased 4 messages") && erased.contains("no file of the server holds any"),
        "{erased}"
    );
    assert_eq!(holding(&folder, SECRET), 0);
    server.kill();

    // What is left of them waits on, and can be taken back.
    let server = folder.serve();
    assert_eq!(holding(&folder, SECRET), 0);
    let listed = told(&server, &["delay", "ls", "r", "-o", "csv"]);
    let sizes: Vec<&str> = listed
        .lines()
        .skip(1)
        .filter_map(|line| line.split(',').nth(4))
        .collect();
    let mut sorted = sizes.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, ["0", "0", "0", "0", "5", "5", "5"], "{listed}");
    let last = listed
        .lines()
        .last()
        .and_then(|line| line.rsplit(',').next());
    told(&server, &["delay", "cancel", "r", last.unwrap()]);
    assert!(server.stop());
    let checked = without_a_server(&["verify", "--data", folder.data().to_str().unwrap()]);
    assert!(checked.status.success(), "{}", said(&checked));
}

#[test]
fn small_topics_of_a_family_share_their_files_and_nothing_else() {
    let folder = Folder::new();
    let server = folder.serve();
    for topic in ["meter-1", "meter-2", "meter-3"] {
        let create = [
            "topic", "create", topic, "--queues", "1", "--family", "meters",
        ];
        told(&server, &create);
        for body in ["a", "b"] {
            let body = format!("{topic}-{body}");
            told(
                &server,
                &["topic", "produce", topic, "--key", "k", "--body", &body],
            );
        }
    }
    told(&server, &["storage", "tier"]);
    assert_eq!(parquet_files(&folder), 1);
    let info = told(&server, &["topic", "info", "meter-2"]);
    assert!(
        info.contains("of family meters") && info.contains("in 2 messages and 1 file\n"),
        "{info}"
    );
    for (more, why) in [
        (["--cleanup", "compact"], "compacts by key"),
        (["--table-retention", "7d"], "table is kept apart"),
    ] {
        let create = [
            &["topic", "create", "meter-4", "--family", "meters"],
            &more[..],
        ]
        .concat();
        let refused = server.try_millpond(&create);
        assert!(
            !refused.status.success() && said(&refused).contains(why),
            "{}",
            said(&refused)
        );
    }
    let taken = server.try_millpond(&["topic", "create", "meters"]);
    assert!(
        !taken.status.success(),
        "its name is that of a table already"
    );
    told(&server, &["topic", "erase", "meter-2", "--key", "k"]);
    told(&server, &["topic", "rm", "meter-1"]);
    server.kill();

    let server = folder.serve();
    assert_eq!(
        server.rows("SELECT count(*) FROM \"meter-2\" WHERE _body IS NOT NULL"),
        [["0"]]
    );
    let read = told(&server, &["topic", "consume", "meter-3"]);
    assert!(
        read.contains("meter-3-a") && read.contains("meter-3-b") && !read.contains("meter-1"),
        "{read}"
    );
    let gone = server.try_millpond(&["topic", "consume", "meter-1"]);
    assert!(!gone.status.success(), "{}", said(&gone));
    let checked = told(&server, &["storage", "verify"]);
    assert!(checked.contains("1 files"), "{checked}");
    assert!(server.stop());
}
