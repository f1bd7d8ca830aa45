//! Keeps the house in order: reads the workspace and holds it to the rules a program can check.
//!
//! Layers, doors (clock, disk, network, tasks), one version of what must be one, module docs, no
//! leftovers. A rule with exceptions lists each of them with its reason; a failure names the file and
//! the rule, and says what to do instead.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Crates from the ground up, each with those of ours that it may use.
const LAYERS: [(&str, &[&str]); 7] = [
    ("proto", &[]),
    ("storage", &["proto"]),
    ("connectors", &["proto"]),
    ("sql", &["proto", "storage", "connectors"]),
    ("engine", &["proto", "storage", "connectors", "sql"]),
    ("examples", &["proto"]),
    (
        "tests",
        &["proto", "storage", "connectors", "sql", "engine"],
    ),
];

/// What may stand at the top besides the crates and what `.gitignore` names.
const TOP_LEVEL: [&str; 13] = [
    ".cargo",
    ".ci",
    ".git",
    ".gitignore",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "clippy.toml",
    "rustfmt.toml",
];

/// Something that only certain files may do.
struct Door {
    /// What it looks like in the code.
    marks: &'static [&'static str],
    /// Where the rule holds: prefixes of paths.
    within: &'static [&'static str],
    /// Prefixes of paths that may, each with the reason.
    may: &'static [(&'static str, &'static str)],
    /// What everyone else does instead.
    instead: &'static str,
}

const PRODUCT: &[&str] = &["proto/", "storage/", "connectors/", "sql/", "engine/"];

const DOORS: [Door; 6] = [
    Door {
        marks: &["SystemTime::now", "Instant::now"],
        within: PRODUCT,
        may: &[("proto/src/time.rs", "the one file that reads a clock")],
        instead: "take the time from the Clock that is passed in",
    },
    Door {
        marks: &[
            "tokio::spawn(",
            "thread::spawn(",
            "thread::Builder",
            "spawn_blocking(",
            "JoinSet",
        ],
        within: PRODUCT,
        may: &[("proto/src/task.rs", "the one file that starts work")],
        instead: "spawn through the Spawn that is passed in, and own the Task",
    },
    Door {
        marks: &[
            "std::fs",
            "tokio::fs",
            "File::open(",
            "File::create(",
            "OpenOptions",
        ],
        within: PRODUCT,
        may: &[
            ("storage/src/disk", "the one door to local files"),
            (
                "engine/src/cli/",
                "import and export read and write files of the user, on the client",
            ),
            (
                "connectors/src/import.rs",
                "an import reads the file of a user, on the client",
            ),
            ("proto/build.rs", "a build script writes what it generates"),
            (
                "engine/src/process.rs",
                "what the kernel tells of this process stands in files",
            ),
        ],
        instead: "go through the Disk or the ObjectStore that is passed in",
    },
    Door {
        marks: &[
            "TcpListener",
            "TcpStream",
            "UdpSocket",
            "UnixStream",
            "UnixListener",
            "reqwest",
        ],
        within: &["sql/", "storage/"],
        may: &[],
        instead: "storage and sql open no socket: ask for what is needed as a passed-in part",
    },
    Door {
        marks: &["sqlparser", "datafusion"],
        within: &["engine/", "storage/", "connectors/", "proto/"],
        may: &[],
        instead: "only sql parses and plans SQL",
    },
    Door {
        marks: &["env::var"],
        within: PRODUCT,
        may: &[
            (
                "proto/build.rs",
                "a build script is told its folders by Cargo",
            ),
            (
                "engine/src/main.rs",
                "what configures a client of an object store has no fixed names, and clap would write the server that the environment names into every line of usage; both are passed in",
            ),
        ],
        instead: "name the variable at the command line's argument (clap) and pass the value in",
    },
];

/// Packages of which a second version, or a first one, would hurt.
const ONE_VERSION: [&str; 16] = [
    "arrow",
    "arrow-array",
    "arrow-schema",
    "axum",
    "bytes",
    "datafusion",
    "http",
    "object_store",
    "parquet",
    "prost",
    "prost-types",
    "rustls",
    "sqlparser",
    "tokio",
    "tonic",
    "tonic-prost",
];
const BANNED_PACKAGES: [(&str, &str); 6] = [
    ("aws-lc-rs", "rustls uses ring alone"),
    ("aws-lc-sys", "rustls uses ring alone"),
    (
        "cmake",
        "a fresh machine needs cargo and a C compiler, nothing else",
    ),
    ("openssl-sys", "no system library"),
    ("protobuf-src", "protox compiles the protos"),
    ("protoc-bin-vendored", "protox compiles the protos"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate stands in the workspace")
        .to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn names(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Every Rust file of the seven crates, by its path from the root with `/`.
fn rust_files() -> BTreeMap<String, String> {
    fn walk(folder: &Path, path: &str, found: &mut BTreeMap<String, String>) {
        for name in names(folder) {
            let (here, path) = (folder.join(&name), format!("{path}/{name}"));
            if here.is_dir() {
                if name != "target" && name != "node_modules" {
                    walk(&here, &path, found);
                }
            } else if name.ends_with(".rs") {
                found.insert(path, read(&here));
            }
        }
    }
    let mut found = BTreeMap::new();
    for (name, _) in LAYERS {
        walk(&root().join(name), name, &mut found);
    }
    assert!(found.len() > 20, "the walk found the workspace");
    found
}

/// The code that ships: without comments, and without test modules.
fn shipped(source: &str) -> String {
    let mut lines = source.lines().peekable();
    let mut kept = String::new();
    while let Some(line) = lines.next() {
        let next_is_module = lines
            .peek()
            .is_some_and(|next| next.trim_start().starts_with("mod "));
        if line.trim() == "#[cfg(test)]" && next_is_module {
            let module = lines.next().expect("it was peeked");
            if module.ends_with('{') {
                let indent = module.len() - module.trim_start().len();
                let end = format!("{}}}", " ".repeat(indent));
                while lines.next().is_some_and(|line| line != end) {}
            }
            continue;
        }
        let code = match line.find("//") {
            // `://` is an address inside a string.
            Some(at) if !line[..at].ends_with(':') => &line[..at],
            _ => line,
        };
        kept.push_str(code);
        kept.push('\n');
    }
    kept
}

/// Tests and benches use real time and files as they like.
fn is_test_file(path: &str) -> bool {
    let folders = ["/tests/", "/benches/"];
    path.starts_with("tests/")
        || path.ends_with("/tests.rs")
        || folders.iter().any(|folder| path.contains(folder))
}

/// `name = …` lines of the tables of a manifest whose heading ends in `dependencies`.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let mut wanted = false;
    let mut found = BTreeSet::new();
    for line in manifest.lines() {
        if let Some(heading) = line.strip_prefix('[') {
            wanted = heading.trim_end_matches(']').ends_with("dependencies");
        } else if wanted && !line.starts_with('#') {
            let name: String = line
                .chars()
                .take_while(|&c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
                .collect();
            if !name.is_empty() {
                found.insert(name);
            }
        }
    }
    found
}

fn manifest(name: &str) -> String {
    read(&root().join(name).join("Cargo.toml"))
}

fn report(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

#[test]
fn the_top_level_is_fixed() {
    let ignored: Vec<String> = read(&root().join(".gitignore"))
        .lines()
        .map(|line| line.trim_matches('/').to_owned())
        .collect();
    let crates: BTreeSet<&str> = LAYERS.iter().map(|(name, _)| *name).collect();
    let stray: Vec<String> = names(&root())
        .into_iter()
        .filter(|name| !ignored.contains(name))
        .filter(|name| !crates.contains(name.as_str()) && !TOP_LEVEL.contains(&name.as_str()))
        .collect();
    report("only the agreed entries stand at the top", &stray);
    let missing: Vec<String> = (TOP_LEVEL.iter().filter(|name| **name != ".git"))
        .chain(&crates)
        .filter(|name| !root().join(name).exists())
        .map(ToString::to_string)
        .collect();
    report("the agreed entries stand at the top", &missing);
}

#[test]
fn arrows_between_crates_point_down() {
    let mut broken = Vec::new();
    for (name, allowed) in LAYERS {
        for dependency in dependencies(&manifest(name)) {
            let Some(ours) = dependency.strip_prefix("millpond-") else {
                continue;
            };
            // A crate may name itself, to turn a feature on in its own tests.
            if ours != name && !allowed.contains(&ours) {
                broken.push(format!("{name} uses {ours}"));
            }
        }
    }
    report("a crate uses only crates below it", &broken);
}

#[test]
fn what_touches_the_world_goes_through_its_door() {
    let mut broken = Vec::new();
    for (path, source) in rust_files() {
        if is_test_file(&path) {
            continue;
        }
        let code = shipped(&source);
        for door in &DOORS {
            let watched = door.within.iter().any(|prefix| path.starts_with(prefix));
            let may = door.may.iter().any(|(prefix, _)| path.starts_with(prefix));
            if !watched || may {
                continue;
            }
            for mark in door.marks.iter().filter(|mark| code.contains(**mark)) {
                broken.push(format!("{path} has {mark}: {}", door.instead));
            }
        }
    }
    report(
        "clock, tasks, disk, network and SQL have one door each",
        &broken,
    );
}

#[test]
fn an_exception_that_nobody_uses_is_taken_away() {
    let files = rust_files();
    let mut broken = Vec::new();
    for door in &DOORS {
        for (prefix, reason) in door.may {
            let used = files.iter().any(|(path, source)| {
                path.starts_with(prefix) && door.marks.iter().any(|mark| source.contains(mark))
            });
            if !used {
                broken.push(format!("{prefix} ({reason}) uses none of {:?}", door.marks));
            }
        }
    }
    report("an exception is used", &broken);
}

#[test]
fn what_must_be_one_is_one() {
    let lock = read(&root().join("Cargo.lock"));
    let count = |name: &str| lock.matches(&format!("\nname = \"{name}\"\n")).count();
    let mut broken = Vec::new();
    for name in ONE_VERSION {
        if count(name) != 1 {
            broken.push(format!(
                "{name} is there {} times, wanted once",
                count(name)
            ));
        }
    }
    for (name, reason) in BANNED_PACKAGES {
        if count(name) != 0 {
            broken.push(format!("{name} is there: {reason}"));
        }
    }
    for foreign in lock.matches("source = \"git+") {
        broken.push(format!("{foreign}…: no dependency comes from a repository"));
    }
    report(
        "Cargo.lock holds one version of what everyone shares",
        &broken,
    );
}

#[test]
fn no_build_script_calls_protoc() {
    let broken: Vec<String> = rust_files()
        .into_iter()
        .filter(|(path, _)| path.ends_with("build.rs"))
        .filter(|(_, source)| shipped(source).to_lowercase().contains("protoc"))
        .map(|(path, _)| path)
        .collect();
    report(
        "protox compiles the protos, a fresh machine has no protoc",
        &broken,
    );
}

#[test]
fn every_shared_dependency_is_used_and_named_once() {
    let workspace = read(&root().join("Cargo.toml"));
    let shared: BTreeSet<String> = dependencies(&workspace);
    let mut used = BTreeSet::new();
    let mut broken = Vec::new();
    for (name, _) in LAYERS {
        let manifest = manifest(name);
        used.extend(dependencies(&manifest));
        for line in manifest
            .lines()
            .filter(|line| line.contains("version = \""))
        {
            broken.push(format!(
                "{name}: {line}: versions stand in the workspace's manifest"
            ));
        }
    }
    for unused in shared.difference(&used) {
        broken.push(format!(
            "{unused} is in [workspace.dependencies] and nobody uses it"
        ));
    }
    report("versions live once, and are used", &broken);
}

#[test]
fn every_module_says_what_it_is_for() {
    let broken: Vec<String> = rust_files()
        .into_iter()
        // The tests of a module that outgrew it stand beside it and belong to its doc.
        .filter(|(path, _)| !path.ends_with("/tests.rs"))
        .filter(|(_, source)| !source.starts_with("//!"))
        .map(|(path, _)| path)
        .collect();
    report("a file opens with its module doc (//!)", &broken);
}

#[test]
fn every_crate_takes_the_workspace_lints() {
    let broken: Vec<String> = LAYERS
        .iter()
        .filter(|(name, _)| !manifest(name).contains("[lints]\nworkspace = true"))
        .map(|(name, _)| (*name).to_owned())
        .collect();
    report("lints are the workspace's", &broken);
}

#[test]
fn nothing_is_left_for_later_in_the_code() {
    // Written apart, so that this file does not find itself.
    let marks = [
        "todo".to_owned() + "!(",
        "unimplemented".to_owned() + "!(",
        "#[".to_owned() + "ignore",
    ];
    let mut broken = Vec::new();
    for (path, source) in rust_files() {
        for mark in marks.iter().filter(|mark| source.contains(mark.as_str())) {
            broken.push(format!("{path} has {mark}"));
        }
    }
    report("what is there works and is tested", &broken);
}

#[test]
fn nothing_names_the_machine_it_was_written_on() {
    let marks = [
        "/ro".to_owned() + "ot/",
        "/ho".to_owned() + "me/",
        "/wo".to_owned() + "rk/",
    ];
    let mut broken = Vec::new();
    for (path, source) in rust_files() {
        for mark in marks.iter().filter(|mark| source.contains(mark.as_str())) {
            broken.push(format!("{path} has {mark}"));
        }
    }
    report("paths are relative or come from the caller", &broken);
}

#[cfg(unix)]
#[test]
fn what_ci_runs_is_executable() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = root().join(".ci");
    let broken: Vec<String> = names(&folder)
        .into_iter()
        .filter(|name| {
            fs::metadata(folder.join(name))
                .unwrap()
                .permissions()
                .mode()
                & 0o111
                == 0
        })
        .collect();
    report("files in .ci are executable", &broken);
}

#[test]
fn the_scanner_sees_code_and_not_comments_or_tests() {
    let source = "fn a() {} // std::fs\nlet url = \"http://x\";\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\nfn b() {}\n";
    let code = shipped(source);
    assert!(!code.contains("std::fs"), "{code}");
    assert!(
        code.contains("http://x") && code.contains("fn b()"),
        "{code}"
    );
}
