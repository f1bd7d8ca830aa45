//! A job's state under a name, over the wire and through kill -9: what was counted before is counted once.

use std::time::Duration;

use millpond_tests::harness::{Folder, Server, eventually};

const LIMIT: Duration = Duration::from_secs(60);
const COUNT: &str = "SELECT k, count(*) AS n, sum(v) AS total FROM numbers GROUP BY k";

fn run(server: &Server, sql: &str) {
    let _ = server.millpond(&["sql", "-c", sql]);
}

/// Sends numbers under keys that take turns.
fn send(server: &Server, numbers: impl Iterator<Item = u32>) {
    let rows: Vec<String> = numbers
        .map(|number| format!("('k{}', {number})", number % 7))
        .collect();
    run(
        server,
        &format!("INSERT INTO numbers VALUES {}", rows.join(", ")),
    );
}

/// Waits until a topic says what there is to count, of all keys or one.
async fn counted(server: &Server, topic: &str, of: &str) {
    let all = server.rows(&format!("SELECT * FROM ({COUNT}) AS c {of} ORDER BY k"));
    eventually("all numbers are counted", LIMIT, async || {
        server.rows(&format!("SELECT k, n, total FROM {topic} ORDER BY k")) == all
    })
    .await;
}

#[tokio::test]
async fn a_job_goes_on_from_a_savepoint_through_kills_and_counts_everything_once() {
    let folder = Folder::new();
    let server = folder.serve();
    run(&server, "CREATE TOPIC numbers (k VARCHAR, v BIGINT)");
    for topic in ["counts", "later"] {
        let columns = "(k VARCHAR, n BIGINT, total BIGINT, PRIMARY KEY (k))";
        run(&server, &format!("CREATE TOPIC {topic} {columns}"));
    }
    run(
        &server,
        &format!("CREATE JOB first AS INSERT INTO counts {COUNT}"),
    );
    send(&server, 0..500);
    counted(&server, "counts", "").await;
    let _ = server.millpond(&[
        "job",
        "savepoint",
        "create",
        "moved",
        "--job",
        "first",
        "--stop",
    ]);
    assert!(server.rows("SELECT name FROM millpond.jobs").is_empty());
    server.kill();

    // From now on there is one key, and its count begins with what was counted before.
    let server = folder.serve();
    let listed = server.millpond(&["job", "savepoint", "ls"]);
    assert!(listed.contains("moved"), "{listed}");
    let second =
        "CREATE JOB second WITH (savepoint = 'moved', parallelism = 2) AS INSERT INTO later";
    run(&server, &format!("{second} {COUNT}"));
    send(&server, (500..900).filter(|number| number % 7 == 0));
    counted(&server, "later", "WHERE k = 'k0'").await;
    server.kill();

    let server = folder.serve();
    send(&server, (900..999).filter(|number| number % 7 == 0));
    counted(&server, "later", "WHERE k = 'k0'").await;
    let drop = ["job", "savepoint", "drop", "moved"];
    eventually("it has saved its own state", LIMIT, async || {
        server.try_millpond(&drop).status.success()
    })
    .await;
    let listed = server.millpond(&["job", "savepoint", "ls"]);
    assert!(!listed.contains("moved"), "{listed}");
    assert!(server.stop(), "it stops in order");
}
