//! What the README promises: its commands run as they stand, one after the other, and print what they are there for.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use millpond_engine::demo;
use millpond_proto::time::{Clock as _, SystemClock};
use millpond_tests::harness::{Folder, binary, eventually, workspace};

/// What Cargo runs: by the reader, and by whoever runs this test.
const CARGO: [&str; 2] = ["cargo run --release", "cargo test --workspace"];

/// How long a command may take to print what it is there for, and the pause before it is run again.
const LIMIT: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(200);

/// What commands that begin so must print, at once or when what they look at has come so far.
const PRINTS: [(&str, &[&str]); 12] = [
    ("millpond topic consume orders", &["Oslo", "Rome"]),
    ("millpond group info billing", &["orders"]),
    (
        "millpond sql -c \"SELECT city",
        &["Oslo", "12.5", "Rome", "7.25"],
    ),
    ("millpond topic info departures", &["departures", "tailnum"]),
    ("millpond sql -c \"SELECT carrier", &["UA,", "AA,"]),
    ("millpond job ls", &["orders_by_city"]),
    (
        "millpond sql -c \"SELECT * FROM orders_by_city",
        &["Oslo", "12.5", "Rome"],
    ),
    ("millpond delay ls", &["reminders"]),
    ("millpond msg find orders", &["Oslo"]),
    (
        "millpond sql -c \"SELECT * FROM daily_carriers",
        &["UA", "2013-01-05"],
    ),
    ("millpond topic consume flights", &["carrier"]),
    ("millpond storage ls", &["orders"]),
];

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

#[tokio::test]
async fn every_command_of_the_readme_runs_as_it_stands() {
    let folder = Folder::new();
    // As the reader has it: with the demo and what it says to try.
    let server = folder.serve_with(&["--demo"], &[]).unwrap();
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
    let (mut count, mut printing) = (0, 0);
    let mut commands = commands("README.md");
    let guide = demo::guide("millpond");
    let tries = guide
        .lines()
        .filter_map(|line| line.strip_prefix("  millpond "));
    commands.extend(tries.map(|rest| format!("millpond {rest}")));
    for command in commands {
        if words_after_millpond(&command).is_none() {
            assert!(
                CARGO.contains(&command.as_str()),
                "{command:?} is run by nobody"
            );
            continue;
        }
        let run = || {
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
            said
        };
        let mut said = run();
        let of_command = PRINTS
            .iter()
            .find(|(begins, _)| command.starts_with(begins));
        if let Some((_, words)) = of_command {
            let what = format!("{command} prints {words:?}");
            eventually(&what, LIMIT, async || {
                let prints = words.iter().all(|word| said.contains(word));
                if !prints {
                    println!("{command}\n{said}");
                    SystemClock.sleep(PAUSE).await;
                    said.push_str(&run());
                }
                prints
            })
            .await;
            printing += 1;
        }
        count += 1;
    }
    assert!(count > 28, "the README has commands to try");
    assert_eq!(printing, PRINTS.len(), "each of them was run");
    assert!(here.join("flights.parquet").exists());
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
