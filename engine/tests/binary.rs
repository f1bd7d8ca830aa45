//! The binary as a file: that it runs, and that wrong use is answered with the right command.
//!
//! This file stands here because Cargo builds a package's binary for the tests of that package: the
//! tests above the crates (`tests/`) run the same file as a server.

use std::process::{Command, Output};

fn millpond(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_millpond"))
        .args(arguments)
        .output()
        .expect("the binary was built")
}

#[test]
fn it_tells_its_version() {
    let output = millpond(&["--version"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(said.contains(env!("CARGO_PKG_VERSION")), "{said}");
}

#[test]
fn wrong_use_fails_and_names_the_right_command() {
    let output = millpond(&["topic", "creat", "orders"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{output:?}");
    assert!(said.contains("create"), "{said}");
}
