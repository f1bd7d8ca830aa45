//! The lessons of `examples/`: each runs to its end against one server, twice, and prints what it teaches.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use millpond_tests::harness::{Folder, binary, workspace};

/// What each prints among others, in this order.
const LESSONS: [(&str, &[&str]); 7] = [
    (
        "hello_queue",
        &[
            "sent one at offset 0",
            "received three, delivery 1",
            "0 messages are left",
        ],
    ),
    ("flights", &["sent ", "SELECT 15 (one row per carrier)"]),
    (
        "streaming_view",
        &["sent an order of 1 at", r#""orders":3,"amount":26"#],
    ),
    (
        "joins",
        &[
            r#"before: {"city":"Oslo","amount":21,"orders":2}"#,
            r#"after: {"city":"Oslo","amount":21,"orders":2}"#,
            r#"after: {"city":"Rome","amount":5,"orders":1}"#,
        ],
    ),
    (
        "view_as_table",
        &[
            r#"m7 after 100 messages: {"readings":10,"kwh":1.5}"#,
            r#"m7 after 200 messages: {"readings":20,"kwh":2.5}"#,
        ],
    ),
    (
        "cdc_upserts",
        &[
            r#"after change 2: {"name":"Ada","city":"Oslo"} {"name":"Bob","city":"Oslo"} | {"city":"Oslo","people":2}"#,
            r#"after change 4: {"name":"Ada","city":"Rome"} | {"city":"Rome","people":1}"#,
        ],
    ),
    ("export", &["COPY 2: export/lessons/sales.parquet"]),
];

#[test]
fn every_lesson_runs_twice_and_prints_what_it_teaches() {
    let sources = std::fs::read_dir(workspace().join("examples/examples")).unwrap();
    let names = sources.map(|file| file.unwrap().path());
    let names: BTreeSet<String> = names
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    let listed = LESSONS.iter().map(|(name, _)| (*name).to_owned());
    assert_eq!(names, listed.collect(), "each lesson is run");

    let folder = Folder::new();
    let server = folder.serve();
    let built = binary().parent().unwrap().join("examples");
    for (name, words) in LESSONS.iter().chain(&LESSONS) {
        let lesson = built.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
        assert!(
            lesson.exists(),
            "{name} is not built; run: cargo test --workspace"
        );
        let output = Command::new(lesson)
            .env("MILLPOND_SERVER", server.url())
            .env_remove("FLIGHTS_CSV")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.success(),
            "{name}: {}\n{said}{errors}",
            output.status
        );
        let mut rest = said.as_str();
        for word in *words {
            let Some((_, behind)) = rest.split_once(word) else {
                panic!("{name} does not print {word:?} in its place:\n{said}");
            };
            rest = behind;
        }
    }
    assert!(folder.data().join("export/lessons/sales.parquet").exists());
    assert!(server.stop());
}
