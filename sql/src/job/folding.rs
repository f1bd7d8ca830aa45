//! Ticks of an epoch that are one step: what is computed is the same, and what comes and goes within the epoch is not told from node to node.

use millpond_proto::time::{Clock as _, Timestamp};

use super::equality::{TRIPS, ask, assert_same, sql_over, world_of};
use super::tests::{World, create, status};
use crate::continuous::JobState;

const TICKS: i64 = 20;
const MOST: &str = "SELECT window_end, max(rows) AS most FROM (SELECT window_end, plane, count(*) AS rows \
     FROM TUMBLE(TABLE trips, DESCRIPTOR(at), INTERVAL '1 second') GROUP BY window_end, plane) GROUP BY window_end";

fn trip(world: &World, at: Timestamp) {
    let body = format!("{{\"plane\":1,\"n\":2,\"at\":{}}}", at.as_ms());
    world.topics.send("trips", None, Some(&body));
}

/// Computes trips of several ticks that were there before the query, with one that is late in some of them; answers how many rows the first
/// of its aggregates gave.
async fn given(late: std::ops::Range<i64>) -> u64 {
    let world = world_of(80, 4096, &[TRIPS]).await;
    let start = world.clock.now();
    for tick in 0..TICKS {
        trip(&world, world.clock.now());
        if late.contains(&tick) {
            trip(&world, Timestamp(start.as_ms() - 3_600_000));
        }
        world.wait_ms(100).await;
    }
    let jobs = world.jobs(None);
    let view = format!("CREATE MATERIALIZED VIEW most WITH (late = 'drop') AS {MOST}");
    create(&jobs, &view).await.unwrap();
    world.wait_ms(1000).await;
    let told = status(&jobs, "most");
    assert_eq!(told.state, JobState::Running, "{told:?}");
    assert_eq!(told.rows_late, late.count() as u64);
    let sql = sql_over(&world);
    let on_time = format!(
        "({MOST}) WHERE window_end > to_timestamp_millis({})",
        start.as_ms()
    );
    let asked = ask(&sql, &format!("SELECT window_end, most FROM {on_time}")).await;
    let view = ask(&sql, "SELECT window_end, most FROM most").await;
    assert!(!asked.is_empty());
    assert_same("most", &view, &asked);
    jobs.stop().await;
    let mut steps = told.operators.iter();
    let first = steps.find(|step| step.operator.starts_with("aggregate"));
    first.unwrap().rows_out
}

#[tokio::test(start_paused = true)]
async fn ticks_of_an_epoch_are_one_step_unless_a_row_of_theirs_is_late() {
    // A row for each window, and for each step that meets one again, one that goes and one that comes.
    let together = given(0..0).await;
    assert!(together <= 3, "{together}");
    let around_one = given(10..11).await;
    assert!(
        (together + 1..=together + 4).contains(&around_one),
        "{around_one}"
    );
    let each = given(1..TICKS).await;
    assert!(each > 30, "{each}");
}
