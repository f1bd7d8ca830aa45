//! Windows over views of closed windows: nothing of them is late, whatever happened to either query, and their answer is that of the
//! same SQL asked once.

use super::equality::{ask, assert_same, sql_over, world_of};
use super::tests::{Fuse, STEPS, World, crashes_at, create, status};
use super::timed::{TRIPS, send};
use crate::continuous::JobState;
use crate::topic::Topics as _;

const TENTHS: &str = "CREATE MATERIALIZED VIEW tenths AS SELECT window_start, window_end, carrier, count(*) AS trips, sum(n) AS total \
     FROM TUMBLE(TABLE trips, DESCRIPTOR(at), INTERVAL '100 milliseconds') GROUP BY window_start, window_end, carrier \
     EMIT ON WINDOW CLOSE";

/// Further windows over them, by name.
const OVER: [[&str; 2]; 4] = [
    [
        "by_start",
        "SELECT window_start, window_end, carrier, sum(trips) AS trips, max(total) AS most \
         FROM TUMBLE(TABLE tenths, DESCRIPTOR(window_start), INTERVAL '500 milliseconds') \
         GROUP BY window_start, window_end, carrier",
    ],
    [
        "by_end",
        "SELECT window_start, window_end, sum(total) AS total \
         FROM HOP(TABLE tenths, DESCRIPTOR(window_end), INTERVAL '250 milliseconds', INTERVAL '500 milliseconds') \
         GROUP BY window_start, window_end",
    ],
    [
        "in_sessions",
        "SELECT window_start, window_end, carrier, count(*) AS tenths \
         FROM SESSION(TABLE tenths PARTITION BY carrier, DESCRIPTOR(window_end), INTERVAL '200 milliseconds') \
         GROUP BY window_start, window_end, carrier",
    ],
    [
        "pairs",
        "SELECT a.window_start, a.window_end, a.carrier, b.carrier AS other, a.total + b.total AS total FROM tenths a JOIN tenths b \
         ON a.window_start = b.window_start AND a.window_end = b.window_end AND a.carrier < b.carrier",
    ],
];

async fn check(seed: u64, crashes: &[Option<Fuse>]) {
    let world = world_of(seed, 7, &[TRIPS, super::timed::PRICES, super::timed::FLEET]).await;
    let jobs = world.jobs(None);
    create(&jobs, TENTHS).await.unwrap();
    let declared = world.topics.topic("tenths").unwrap().watermark.unwrap();
    assert_eq!(declared.column, "window_end");
    for [name, query] in OVER {
        for (suffix, emit) in [("", ""), ("_closed", "EMIT ON WINDOW CLOSE")] {
            let sql = format!("CREATE MATERIALIZED VIEW {name}{suffix} AS {query} {emit}");
            let made = create(&jobs, &sql).await;
            made.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
    }
    jobs.stop().await;
    let turn = |world: &World| {
        send(world);
        match world.chance.below(10) {
            0 => 900,
            _ => world.chance.below(160),
        }
    };
    world.lives(crashes, 25, turn).await;
    let jobs = world.jobs(None);
    world.wait_ms(30_000).await;
    let sql = sql_over(&world);
    for [name, query] in OVER {
        // What the last rows of the view have closed.
        let until = "window_end <= (SELECT max(window_end) - INTERVAL '1 second' FROM tenths)";
        let asked = ask(&sql, &format!("SELECT * FROM ({query}) WHERE {until}")).await;
        assert!(asked.len() > 3, "{name} tests nothing");
        for suffix in ["", "_closed"] {
            let view = format!("{name}{suffix}");
            let state = status(&jobs, &view);
            let found = (state.state, state.rows_late);
            assert_eq!(found, (JobState::Running, 0), "{view}: {state:?}");
            let rows = ask(&sql, &format!("SELECT * FROM {view} WHERE {until}")).await;
            assert_same(&view, &rows, &asked);
        }
    }
    jobs.stop().await;
}

#[tokio::test(start_paused = true)]
async fn windows_over_closed_windows_equal_their_bounded_answer() {
    check(80, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn windows_over_closed_windows_equal_their_bounded_answer_after_a_crash_at_any_step() {
    for (seed, step) in (81..).zip(STEPS) {
        check(seed, &crashes_at(step)).await;
    }
}
