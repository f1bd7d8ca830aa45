//! A query whose state is several times its memory: the answers are right, also after kill -9, what it holds in memory stays
//! below its limit, and the whole server within a bound that does not grow with the state. The figures are printed.

use std::time::Duration;

use millpond_tests::harness::{Folder, Server, eventually};

const LIMIT: Duration = Duration::from_secs(240);
/// Keys of the query's groups, each of about [`KEY_BYTES`].
const KEYS: usize = 24_000;
const KEY_BYTES: usize = 300;
/// How much memory the query may have for its state.
const STATE_MIB: usize = 4;
/// Rows of a statement.
const ROWS: usize = 6_000;
/// What the server may come to hold more than before the query's first row: the query's state, its rows on their way and the log's caches.
const RESIDENT_MIB_MAX: u64 = 256;

fn run(server: &Server, sql: &str) {
    let _ = server.millpond(&["sql", "-c", sql]);
}

/// Sends one row for each key, all with the same number.
fn send(server: &Server, number: usize) {
    for first in (0..KEYS).step_by(ROWS) {
        let last = first + ROWS;
        run(
            server,
            &format!(
                "INSERT INTO numbers SELECT lpad(CAST(n AS VARCHAR), {KEY_BYTES}, 'k') AS k, {number} AS v \
                 FROM (SELECT unnest(range({first}, {last})) AS n) AS numbered"
            ),
        );
    }
}

/// The most memory that the server's process had at any time (`VmHWM`), or has (`VmRSS`).
fn memory_mib(server: &Server, which: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
    let mut lines = status.lines();
    let kib = lines.find_map(|line| line.strip_prefix(which)).unwrap();
    let kib = kib.trim_start_matches(':').split_whitespace().next();
    kib.unwrap().parse::<u64>().unwrap() / 1024
}

fn number(rows: &[Vec<String>]) -> u64 {
    rows[0][0].parse().unwrap()
}

/// What a query came to hold, in bytes.
struct Held {
    in_memory_most: u64,
    at_rest: u64,
}

/// Waits until each key was counted as often as `times`, with `sum` for each.
async fn counted(server: &Server, times: usize, sum: usize) -> Held {
    let wanted = vec![vec![
        KEYS.to_string(),
        KEYS.to_string(),
        times.to_string(),
        times.to_string(),
        sum.to_string(),
        sum.to_string(),
    ]];
    let answer = "SELECT count(*), count(DISTINCT k), min(c), max(c), min(s), max(s) FROM per_key";
    let mut in_memory_most = 0;
    eventually("all numbers are counted", LIMIT, async || {
        let held = number(&server.rows("SELECT state_bytes FROM millpond.jobs"));
        in_memory_most = in_memory_most.max(held);
        server.rows(answer) == wanted
    })
    .await;
    let at_rest = "SELECT sum(state_bytes_at_rest) FROM millpond.job_operators";
    Held {
        in_memory_most,
        at_rest: number(&server.rows(at_rest)),
    }
}

fn check(server: &Server, held: &Held, before_mib: u64) {
    let most_mib = memory_mib(server, "VmHWM");
    println!(
        "{KEYS} groups: at most {} KiB of state in memory (limit {STATE_MIB} MiB), {} KiB at rest; the server at most {most_mib} MiB, \
         {before_mib} MiB before",
        held.in_memory_most / 1024,
        held.at_rest / 1024,
    );
    let limit = (STATE_MIB * 1024 * 1024) as u64;
    let Held {
        in_memory_most,
        at_rest,
    } = held;
    assert!(*in_memory_most <= limit, "{in_memory_most} bytes of state");
    assert!(*at_rest > 2 * limit, "{at_rest} bytes of state at rest");
    assert!(
        most_mib < before_mib + RESIDENT_MIB_MAX,
        "the server held {most_mib} MiB, and {before_mib} MiB before"
    );
}

#[tokio::test]
async fn state_several_times_its_memory_gives_right_answers_through_a_kill() {
    let folder = Folder::new();
    let server = folder.serve();
    run(
        &server,
        "CREATE TOPIC numbers (k VARCHAR, v BIGINT) WITH (queues = 2)",
    );
    run(
        &server,
        "CREATE MATERIALIZED VIEW per_key AS SELECT k, count(*) AS c, sum(v) AS s FROM numbers GROUP BY k",
    );
    run(
        &server,
        &format!("ALTER JOB per_key SET (state_limit = '{STATE_MIB} MiB')"),
    );
    let before_mib = memory_mib(&server, "VmRSS");
    send(&server, 1);
    let held = counted(&server, 1, 1).await;
    check(&server, &held, before_mib);
    server.kill();
    let server = folder.serve();
    send(&server, 10);
    let held = counted(&server, 2, 11).await;
    check(&server, &held, before_mib);
    let job = server.rows("SELECT state FROM millpond.jobs");
    assert_eq!(job, [["running"]]);
    assert!(server.stop());
}
