//! `millpond bench --workload`: a workload file of the OpenMessaging Benchmark, from the file to the figures.

use millpond_tests::harness::{Folder, Server};
use serde_json::Value;

/// Two topics, two groups of each, keys, bodies by chance and a rate: every word that changes the run.
const TINY: &str = "\
name: tiny
topics: 2
partitionsPerTopic: 2
keyDistributor: KEY_ROUND_ROBIN
messageSize: 100
useRandomizedPayloads: true
randomBytesRatio: 0.5
randomizedPayloadPoolSize: 5
subscriptionsPerTopic: 2
consumerPerSubscription: 2
producersPerTopic: 2
producerRate: 200
consumerBacklogSizeGB: 0
testDurationMinutes: 5
";

fn run(server: &Server, folder: &Folder, text: &str) -> Vec<Value> {
    let path = folder.beside("tiny.yaml");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap();
    let printed = server.millpond(&["bench", "--workload", path, "--seconds", "1", "-o", "json"]);
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
}

#[test]
fn a_workload_runs_from_its_file_to_its_figures_and_leaves_nothing_behind() {
    let folder = Folder::new();
    let server = folder.serve();
    let rows = run(&server, &folder, TINY);
    assert_eq!(rows.len(), 2, "{rows:?}");
    let (produced, consumed) = (&rows[0], &rows[1]);
    assert_eq!(produced["what"], "produce");
    assert_eq!(produced["messages"], 200, "so many are due in a second");
    assert_eq!(consumed["what"], "end to end");
    assert_eq!(consumed["messages"], 400, "both groups get each message");
    for row in &rows {
        assert_eq!(row["errors"], 0, "{row}");
        assert!(row["p99_ms"].as_f64().unwrap() > 0.0, "{row}");
    }
    for of in ["topic", "group"] {
        let left = server.millpond(&[of, "list", "-o", "csv"]);
        assert!(!left.contains("bench-"), "{left}");
    }
    assert!(server.stop());
}

#[test]
fn a_workload_without_groups_produces_alone_and_an_unknown_word_is_named() {
    let folder = Folder::new();
    let server = folder.serve();
    let alone = TINY
        .replace("subscriptionsPerTopic: 2", "subscriptionsPerTopic: 0")
        .replace("consumerPerSubscription: 2\n", "")
        .replace("producerRate: 200", "producerRate: 0");
    let rows = run(&server, &folder, &alone);
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert!(rows[0]["messages"].as_u64().unwrap() > 0, "{rows:?}");
    assert_eq!(rows[0]["errors"], 0, "{rows:?}");

    let path = folder.beside("odd.yaml");
    std::fs::write(&path, format!("{TINY}moonPhase: full\n")).unwrap();
    let refused = server.try_millpond(&["bench", "--workload", path.to_str().unwrap()]);
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("moonPhase"), "{said}");
    assert!(server.stop());
}
