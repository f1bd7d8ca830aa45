//! What the README promises: its commands run as they stand, one after the other.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use millpond_tests::harness::{Folder, binary, workspace};

/// What Cargo runs: by the reader, and by whoever runs this test.
const CARGO: [&str; 2] = ["cargo run --release", "cargo test --workspace"];

/// Lines behind `$ ` in the fenced console blocks of a page.
fn commands(page: &str) -> Vec<String> {
    let text = std::fs::read_to_string(workspace().join(page)).unwrap();
    let mut inside = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if inside {
            let command = line.strip_prefix("$ ");
            found.extend(command.map(str::to_owned));
        }
    }
    found
}

fn words_after_millpond(command: &str) -> Option<Vec<&str>> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "millpond")?;
    Some(words[at + 1..].to_vec())
}

#[test]
fn the_two_cargo_commands_are_the_only_ones() {
    let found: Vec<String> = (commands("README.md").into_iter())
        .filter(|command| command.starts_with("cargo"))
        .collect();
    assert_eq!(found, CARGO);
}

#[test]
fn every_command_of_the_readme_runs_as_it_stands() {
    let folder = Folder::new();
    let server = folder.serve();
    let here = folder.beside("reader");
    std::fs::create_dir(&here).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(workspace().join("examples"), here.join("examples")).unwrap();
    let path = std::env::join_paths(
        std::iter::once(binary().parent().unwrap().to_owned()).chain(std::env::split_paths(
            &std::env::var_os("PATH").unwrap_or_default(),
        )),
    )
    .unwrap();
    let mut count = 0;
    for command in commands("README.md") {
        if words_after_millpond(&command).is_none() {
            assert!(
                CARGO.contains(&command.as_str()),
                "{command:?} is run by nobody"
            );
            continue;
        }
        let output = Command::new("sh")
            .args(["-c", &command])
            .current_dir(&here)
            .env("PATH", &path)
            .env("MILLPOND_SERVER", server.url())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.success(),
            "{command}: {}\n{said}{errors}",
            output.status
        );
        count += 1;
    }
    assert!(count > 8, "the README has commands to try");
    assert!(here.join("late.parquet").exists());
}

#[test]
fn every_page_that_the_documents_point_to_is_there() {
    for page in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let text = std::fs::read_to_string(workspace().join(page)).unwrap();
        for rest in text.split("](").skip(1) {
            let target = rest.split(')').next().unwrap_or_default();
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            let path: PathBuf = workspace().join(file);
            assert!(
                path.exists(),
                "{page} points to {target}, which is not there"
            );
        }
    }
}
