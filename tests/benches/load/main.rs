//! Whole-system load over the wire: durable sends, pops with acks, sends beside acks, and bounded queries.
//!
//! The server is the built binary in a process of its own, so its CPU time is told apart from the
//! clients'. Figures are ratios against something measured in the same run, or CPU time per unit, since
//! machines are shared and noisy: a send against a bare tonic service that echoes as many bytes over as many
//! connections, a rate against raw writes. Build the server first:
//!
//! ```console
//! $ cargo build --release && cargo bench -p millpond-tests --bench load
//! ```
//!
//! `-- messages`, `-- acks` or `-- queries` runs a part.

#![expect(clippy::unwrap_used, reason = "a bench that fails ends")]

mod acks;
mod echo;
mod measure;
mod messages;
mod queries;

use millpond_tests::harness::{Folder, Server};

use crate::echo::Echo;
use crate::measure::{raw_writes, say};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| words.iter().any(|given| given == word);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    if has(echo::WORD) {
        return runtime.block_on(echo::serve());
    }
    let all = !["messages", "acks", "queries"].into_iter().any(has);
    runtime.block_on(run(|part| all || has(part)));
}

/// Each part has a server of its own, whose log stays too small to be moved into Parquet meanwhile.
async fn run(wants: impl Fn(&str) -> bool) {
    if wants("messages") {
        let raw = raw_writes(&Folder::new());
        say(&format!("raw 64 KiB write + fdatasync: {raw:.0} a second"));
        on_a_server(async |server| messages::sends(server, &Echo::start(), raw).await).await;
        on_a_server(messages::batches).await;
        on_a_server(messages::pops).await;
    }
    if wants("acks") {
        on_a_server(acks::run).await;
    }
    if wants("queries") {
        on_a_server(queries::run).await;
    }
}

async fn on_a_server(part: impl AsyncFnOnce(&Server)) {
    let folder = Folder::new();
    let server = folder.serve();
    part(&server).await;
    assert!(server.stop());
}
