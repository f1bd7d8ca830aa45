//! The same log in one lane and in three: equal rows in equal order, and state that moves between them.

use std::collections::BTreeMap;

use millpond_proto::time::Clock as _;

use super::equality::{self, GRAPHS, PLANES, WINDOWS, world_of};
use super::tests::{World, create, status};
use super::timed::{self, FLEET, PRICES, TRIPS};
use crate::continuous::JobState;
use crate::testing::StoredMessage;

/// What a query of every kind wrote, by topic.
async fn written(
    seed: u64,
    batch_rows: usize,
    lanes: usize,
    rests_above: Option<usize>,
) -> BTreeMap<String, Vec<String>> {
    let topics = [TRIPS, PLANES, PRICES, FLEET];
    let mut world = world_of(seed, batch_rows, &topics).await;
    world.lanes = Some(lanes);
    world.rests_above = rests_above;
    let jobs = world.jobs(None);
    let cases = WINDOWS
        .iter()
        .chain(GRAPHS)
        .map(|case| (case.name, case.query, case.on_close));
    let cases: Vec<_> = cases
        .chain(timed::CASES.iter().map(|case| {
            let changes = timed::CHANGING.contains(&case.name);
            (case.name, case.query, changes)
        }))
        .collect();
    let mut names = Vec::new();
    for (name, query, on_close) in cases {
        let view = format!("CREATE MATERIALIZED VIEW {name} AS {query}");
        create(&jobs, &view).await.unwrap();
        names.push(name.to_owned());
        if on_close {
            let closed = format!("{name}_closed");
            let view = format!("CREATE MATERIALIZED VIEW {closed} AS {query} EMIT ON WINDOW CLOSE");
            create(&jobs, &view).await.unwrap();
            names.extend([format!("{closed}_late"), closed]);
        }
    }
    for _ in 0..25 {
        equality::send_both(&world);
        timed::send(&world);
        world.wait_ms(world.chance.below(160)).await;
    }
    world.wait_ms(30_000).await;
    let mut written = BTreeMap::new();
    for name in names {
        if !name.ends_with("_late") {
            assert_eq!(status(&jobs, &name).state, JobState::Running, "{name}");
        }
        written.insert(name.clone(), messages(&world, &name));
    }
    jobs.stop().await;
    written
}

fn messages(world: &World, topic: &str) -> Vec<String> {
    let messages = match crate::topic::Topics::topic(world.topics.as_ref(), topic) {
        Some(_) => world.topics.messages(topic),
        None => Vec::new(),
    };
    let text = |(queue, message): (millpond_proto::message::QueueId, StoredMessage)| {
        let body = message
            .body
            .as_ref()
            .map(|body| String::from_utf8_lossy(body));
        format!(
            "{queue} {:?} {body:?} {:?}",
            message.key, message.properties
        )
    };
    messages.into_iter().map(text).collect()
}

#[tokio::test(start_paused = true)]
async fn one_lane_and_three_write_the_same_messages_in_the_same_order() {
    for (seed, batch_rows) in [(80, 1), (81, 7), (82, 4096)] {
        let one = written(seed, batch_rows, 1, None).await;
        let three = written(seed, batch_rows, 3, None).await;
        for (name, rows) in one {
            assert!(
                name.ends_with("_late") || rows.len() > 3,
                "{name} tests nothing"
            );
            assert_eq!(three[&name], rows, "{name}, batches of {batch_rows}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_messages_are_written_when_all_state_rests_that_can() {
    let all = written(83, 7, 2, None).await;
    let resting = written(83, 7, 2, Some(0)).await;
    for (name, rows) in all {
        assert_eq!(resting[&name], rows, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn rows_that_are_added_up_apart_give_the_same_messages_as_one_after_the_other() {
    let mut before: Option<Vec<Vec<String>>> = None;
    for lanes in [1, 3] {
        let mut world = world_of(84, 512, &[TRIPS]).await;
        world.lanes = Some(lanes);
        let jobs = world.jobs(None);
        let sums = "count(*) AS rows, sum(n) AS total, min(carrier) AS least, max(n) AS most, count(plane) FILTER (WHERE n > 7) AS some";
        let window = "TABLE trips, DESCRIPTOR(at), INTERVAL";
        for (name, query) in [
            ("all", format!("SELECT {sums} FROM trips")),
            (
                "few",
                "SELECT count(*) AS rows FROM trips HAVING count(*) % 2 = 0".to_owned(),
            ),
            (
                "means",
                "SELECT avg(x) AS mean, count(*) AS rows FROM trips".to_owned(),
            ),
            (
                "tumbled",
                format!(
                    "SELECT window_end, {sums} FROM TUMBLE({window} '1 second') GROUP BY window_end EMIT ON WINDOW CLOSE"
                ),
            ),
            (
                "hopped",
                format!(
                    "SELECT window_start, {sums} FROM HOP({window} '500 milliseconds', INTERVAL '2 seconds') GROUP BY window_start"
                ),
            ),
            // Nearly all rows have one key, so that one lane of several has nearly all of them.
            (
                "hot",
                format!("SELECT carrier, {sums} FROM trips GROUP BY carrier"),
            ),
            (
                "hot_tumbled",
                format!(
                    "SELECT carrier, window_end, {sums} FROM TUMBLE({window} '1 second') GROUP BY carrier, window_end EMIT ON WINDOW CLOSE"
                ),
            ),
        ] {
            let view = format!("CREATE MATERIALIZED VIEW {name} AS {query}");
            create(&jobs, &view).await.unwrap();
        }
        for round in 0..8_u64 {
            let now_ms = world.clock.now().as_ms();
            for row in 0..1400 {
                let (n, at) = ((row * 37 + round) % 91, world.chance.below(3000));
                let at = now_ms - i64::try_from(at).unwrap();
                let body = format!(
                    "{{\"carrier\":\"C{}\",\"plane\":{},\"n\":{n},\"x\":{n}.5,\"at\":{at}}}",
                    if row % 16 == 0 { row % 5 } else { 0 },
                    row % 7
                );
                world.topics.send("trips", None, Some(&body));
            }
            world.wait_ms(world.chance.below(900)).await;
        }
        world.wait_ms(10_000).await;
        let names = [
            "all",
            "few",
            "means",
            "tumbled",
            "tumbled_late",
            "hopped",
            "hot",
            "hot_tumbled",
            "hot_tumbled_late",
        ];
        let now: Vec<Vec<String>> = names.iter().map(|name| messages(&world, name)).collect();
        for (name, rows) in names.iter().zip(&now) {
            assert!(rows.len() > 1, "{name} tests nothing");
        }
        jobs.stop().await;
        if let Some(before) = &before {
            assert!(before == &now, "in {lanes} lanes");
        }
        before = Some(now);
    }
}
