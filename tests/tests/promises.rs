//! Keeps what documents name: the tests of the tables that say which asserts what, and the files of the code. One that was renamed or
//! taken away is missed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use millpond_tests::harness::workspace;

/// The least number of words that make a test's name rather than that of something else.
const WORDS_MIN: usize = 4;

/// Names of all functions of a folder's Rust files.
fn functions(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let source = fs::read_to_string(&path).unwrap();
            let heads = source.lines().filter_map(|line| line.split_once("fn "));
            let names = heads.filter_map(|(_, head)| head.split_once("()"));
            found.extend(names.map(|(name, _)| name.to_owned()));
        }
    }
}

/// Paths of all Rust files of a folder.
fn paths(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            paths(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(format!("/{}", path.to_str().unwrap().replace('\\', "/")));
        }
    }
}

/// What looks like a test's name between the backquotes of a table's lines.
fn named(text: &str) -> BTreeSet<&str> {
    let rows = text.lines().filter(|line| line.contains("| "));
    let quoted = rows.flat_map(|row| row.split('`').skip(1).step_by(2));
    let is_name = |word: &&str| {
        word.chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            && word.split('_').count() >= WORDS_MIN
    };
    quoted.filter(is_name).collect()
}

#[test]
fn every_test_that_is_said_to_assert_a_promise_is_there() {
    let root = workspace();
    let mut there = BTreeSet::new();
    for folder in ["proto/src", "storage/src", "sql/src", "engine/src", "tests"] {
        functions(&root.join(folder), &mut there);
    }
    for (page, at_least) in [
        ("ARCHITECTURE.md", 20),
        ("engine/src/broker/tests/elsewhere.rs", 16),
    ] {
        let text = fs::read_to_string(root.join(page)).unwrap();
        let tests = named(&text);
        assert!(tests.len() >= at_least, "{page} names {tests:?}");
        let missing: Vec<_> = tests
            .iter()
            .filter(|test| !there.contains(**test))
            .collect();
        assert!(
            missing.is_empty(),
            "{page} names tests that are not there: {missing:?}; name those that assert it now"
        );
    }
}

#[test]
fn every_file_that_a_document_names_is_there() {
    let root = workspace();
    let mut there = Vec::new();
    for folder in [
        "proto",
        "storage",
        "connectors",
        "sql",
        "engine",
        "examples",
        "tests",
    ] {
        paths(&root.join(folder), &mut there);
    }
    let mut count = 0;
    for page in [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "storage/FORMAT.md",
    ] {
        let text = fs::read_to_string(root.join(page)).unwrap();
        let quoted = text.split('`').skip(1).step_by(2);
        let files = quoted.filter(|word| word.ends_with(".rs") && !word.contains([' ', '*', '<']));
        for file in files {
            count += 1;
            let is_there = there.iter().any(|path| path.ends_with(&format!("/{file}")));
            assert!(is_there, "{page} names {file}, which is not there");
        }
    }
    assert!(count >= 150, "documents name {count} files");
}
