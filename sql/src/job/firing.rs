//! When rows leave: at the beats of `EMIT EVERY`, when a window closes, and again when late rows change it; and where
//! rows go that came too late.

use millpond_proto::message::QueueId;
use millpond_proto::time::Clock as _;

use super::equality::{ask, assert_same, sql_over, world_of};
use super::tests::{Fuse, STEPS, World, crashes_at, create, status};
use crate::continuous::JobState;
use crate::testing::StoredMessage;
use crate::topic::Topics as _;

const TRIPS: &str = "CREATE TOPIC trips (carrier VARCHAR, plane BIGINT, n BIGINT, at TIMESTAMP, \
     WATERMARK FOR at AS at - INTERVAL '700 milliseconds') WITH (queues = 3)";
const PRICES: &str = "CREATE TOPIC prices (plane BIGINT, price BIGINT, at TIMESTAMP, \
     WATERMARK FOR at AS at - INTERVAL '700 milliseconds') WITH (queues = 2)";

/// What is stored under a name: its query, and when rows leave.
const BEATS: [[&str; 3]; 7] = [
    [
        "per_carrier",
        "SELECT carrier, count(*) AS rows, sum(n) AS total FROM trips GROUP BY carrier",
        "EMIT EVERY '1 second'",
    ],
    [
        "hops",
        "SELECT carrier, window_end, count(*) AS rows FROM \
         HOP(TABLE trips, DESCRIPTOR(at), INTERVAL '500 milliseconds', INTERVAL '1 second') \
         GROUP BY carrier, window_end HAVING count(*) < 4",
        "EMIT CHANGES EVERY INTERVAL '600' MILLISECOND",
    ],
    [
        "hops_closed",
        "SELECT carrier, window_end, sum(n) AS total FROM \
         HOP(TABLE trips, DESCRIPTOR(at), INTERVAL '500 milliseconds', INTERVAL '1 second') \
         GROUP BY carrier, window_end HAVING sum(n) < 90",
        "EMIT ON WINDOW CLOSE AND EVERY '2 seconds'",
    ],
    [
        "sessions",
        "SELECT plane, window_start, window_end, count(*) AS rows FROM \
         SESSION(TABLE trips PARTITION BY plane, DESCRIPTOR(at), INTERVAL '250 milliseconds') \
         GROUP BY plane, window_start, window_end HAVING count(*) > 1",
        "EMIT EVERY '800 milliseconds'",
    ],
    [
        "sessions_closed",
        "SELECT plane, window_start, window_end, sum(n) AS total FROM \
         SESSION(TABLE trips PARTITION BY plane, DESCRIPTOR(at), INTERVAL '250 milliseconds') \
         GROUP BY plane, window_start, window_end",
        "EMIT ON WINDOW CLOSE AND EVERY '3 seconds'",
    ],
    [
        "joined",
        "SELECT t.carrier, count(*) AS rows, max(p.price) AS most FROM trips t \
         JOIN prices p ON t.plane = p.plane GROUP BY t.carrier",
        "EMIT EVERY '1 second'",
    ],
    [
        "pairs",
        "SELECT t.n, p.price FROM trips t LEFT JOIN prices p ON t.plane = p.plane AND p.price > 50",
        "EMIT EVERY '1 second'",
    ],
];

fn send_some(world: &World) {
    let now_ms = world.clock.now().as_ms();
    let before = |most: u64| now_ms - i64::try_from(world.chance.below(most)).unwrap();
    for _ in 0..world.chance.below(5) {
        let carrier = ["AA", "B6", "UA"][usize::try_from(world.chance.below(3)).unwrap()];
        let (plane, n, at) = (world.chance.below(4), world.chance.below(40), before(600));
        let body = format!("{{\"carrier\":\"{carrier}\",\"plane\":{plane},\"n\":{n},\"at\":{at}}}");
        world.topics.send("trips", None, Some(&body));
    }
    if world.chance.below(3) == 0 {
        let (plane, price, at) = (world.chance.below(5), world.chance.below(90), before(600));
        let body = format!("{{\"plane\":{plane},\"price\":{price},\"at\":{at}}}");
        world.topics.send("prices", None, Some(&body));
    }
}

/// Everything that left, queue by queue.
fn left(world: &World, topic: &str) -> Vec<(QueueId, String, Option<String>)> {
    let text = |bytes: bytes::Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let messages = world.topics.messages(topic).into_iter();
    messages
        .map(|(queue, message)| {
            let key = message.key.map(text).unwrap_or_default();
            (queue, key, message.body.map(text))
        })
        .collect()
}

async fn check_beats(world: &World, crashes: &[Option<Fuse>]) {
    let jobs = world.jobs(None);
    for [name, query, emit] in BEATS {
        let sql = format!("CREATE MATERIALIZED VIEW {name} AS {query} {emit}");
        let made = create(&jobs, &sql).await;
        made.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    jobs.stop().await;
    let turn = |world: &World| {
        send_some(world);
        match world.chance.below(10) {
            0 => 2900,
            _ => world.chance.below(160),
        }
    };
    world.lives(crashes, 25, turn).await;
    let jobs = world.jobs(None);
    // What waits for a beat leaves although no row comes any more.
    world.wait_ms(30_000).await;
    for [name, query, emit] in BEATS {
        let sql = format!("CREATE MATERIALIZED VIEW {name}_again AS {query} {emit}");
        create(&jobs, &sql).await.unwrap();
    }
    world.wait_ms(30_000).await;
    let sql = sql_over(world);
    for [name, query, _] in BEATS {
        let again = format!("{name}_again");
        let state = status(&jobs, &again);
        assert_eq!(state.state, JobState::Running, "{name}: {state:?}");
        assert!(!left(world, name).is_empty(), "{name} tests nothing");
        assert_eq!(
            left(world, name),
            left(world, &again),
            "{name}, read at once"
        );
        let columns = world.topics.topic(name).unwrap().columns.into_iter();
        let columns: Vec<String> = columns.map(|column| column.name).collect();
        let columns = columns.join(", ");
        let asked = ask(&sql, &format!("SELECT {columns} FROM ({query})")).await;
        let view = ask(&sql, &format!("SELECT {columns} FROM {name}")).await;
        assert_same(name, &view, &asked);
    }
    jobs.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_leaves_at_beats_is_the_same_at_any_pace() {
    for (seed, batch_rows) in [(1, 1), (2, 4096)] {
        let world = world_of(seed, batch_rows, &[TRIPS, PRICES]).await;
        check_beats(&world, &[]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_leaves_at_beats_is_the_same_after_a_crash_at_any_step() {
    for (seed, step) in (10..).zip(STEPS) {
        let world = world_of(seed, 7, &[TRIPS, PRICES]).await;
        check_beats(&world, &crashes_at(step)).await;
    }
}

fn trip(world: &World, n: i64, at: i64) {
    let body = format!("{{\"carrier\":\"AA\",\"plane\":1,\"n\":{n},\"at\":{at}}}");
    world.topics.send("trips", None, Some(&body));
}

#[tokio::test(start_paused = true)]
async fn a_row_that_changed_waits_for_the_beat_and_leaves_though_no_other_comes() {
    let world = world_of(1, 7, &[TRIPS]).await;
    let jobs = world.jobs(None);
    let sql = "CREATE MATERIALIZED VIEW v AS SELECT carrier, count(*) AS rows FROM trips GROUP BY carrier \
               EMIT EVERY '10 seconds'";
    create(&jobs, sql).await.unwrap();
    let start = world.clock.now().as_ms();
    for n in 0..3 {
        world.wait_ms(1000).await;
        trip(&world, n, start);
    }
    world.wait_ms(6500).await;
    assert_eq!(left(&world, "v").len(), 0, "before the beat");
    world.wait_ms(1000).await;
    let now = left(&world, "v");
    assert_eq!(now.len(), 1, "one row for three changes: {now:?}");
    assert_eq!(now[0].2.as_deref(), Some("{\"carrier\":\"AA\",\"rows\":3}"));
    let epoch = status(&jobs, "v").epoch;
    world.wait_ms(60_000).await;
    assert_eq!(status(&jobs, "v").epoch, epoch, "nothing waits any more");
    jobs.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_closed_window_is_given_again_when_late_rows_change_it() {
    let world = world_of(1, 7, &[TRIPS]).await;
    let jobs = world.jobs(None);
    let sql = "CREATE MATERIALIZED VIEW v WITH (late = 'update', allowed_lateness = '2 seconds') AS \
               SELECT window_start, count(*) AS rows FROM TUMBLE(TABLE trips, DESCRIPTOR(at), INTERVAL '1 second') \
               GROUP BY window_start EMIT ON WINDOW CLOSE";
    create(&jobs, sql).await.unwrap();
    let start = world.clock.now().as_ms();
    let rows = |world: &World| -> Vec<i64> {
        let bodies = left(world, "v").into_iter().filter_map(|(_, _, body)| body);
        let counts = bodies.map(|body| serde_json::from_str::<serde_json::Value>(&body).unwrap());
        counts.map(|body| body["rows"].as_i64().unwrap()).collect()
    };
    for (n, at, expected) in [
        (1, start + 10, vec![]),
        (2, start + 1800, vec![1]),
        (3, start + 500, vec![1, 2]),
        (4, start + 600, vec![1, 2, 3]),
        // The watermark stands at 5300: windows up to 3300 are forgotten.
        (5, start + 6000, vec![1, 2, 3, 1]),
        (6, start + 100, vec![1, 2, 3, 1]),
    ] {
        trip(&world, n, at);
        world.wait_ms(500).await;
        let mut seen = rows(&world);
        seen.sort_unstable();
        let mut expected = expected;
        expected.sort_unstable();
        assert_eq!(seen, expected, "after trip {n}");
    }
    assert_eq!(status(&jobs, "v").rows_late, 1);
    let late = world.topics.messages("v_late");
    assert_eq!(late.len(), 1);
    let reason = ("late_reason".to_owned(), "state_expired".to_owned());
    assert!(late[0].1.properties.contains(&reason));
    jobs.stop().await;
}

#[tokio::test(start_paused = true)]
async fn late_rows_of_a_join_go_where_the_query_says() {
    let world = world_of(1, 7, &[TRIPS, PRICES]).await;
    let jobs = world.jobs(None);
    let query = "SELECT t.n, p.price FROM trips t JOIN prices p \
                 ON t.plane = p.plane AND t.at BETWEEN p.at AND p.at + INTERVAL '1 second'";
    for (name, with) in [
        ("aside", ""),
        ("topic", "WITH (late = 'topic')"),
        ("dropped", "WITH (late = 'drop')"),
        ("taken", "WITH (late = 'update')"),
    ] {
        let sql = format!("CREATE MATERIALIZED VIEW {name} {with} AS {query}");
        create(&jobs, &sql).await.unwrap();
    }
    let start = world.clock.now().as_ms();
    let price = |price: i64, at: i64| {
        let body = format!("{{\"plane\":1,\"price\":{price},\"at\":{at}}}");
        world.topics.send("prices", None, Some(&body));
    };
    trip(&world, 1, start + 10_000);
    price(1, start + 10_000);
    world.wait_ms(500).await;
    let trips = world.topics.topic("trips").unwrap();
    let body = format!("{{\"n\":2,\"plane\":1,\"at\":{}}}", start + 1000);
    let tagged = StoredMessage {
        tag: Some("delayed".to_owned()),
        body: Some(body.into()),
        ..StoredMessage::default()
    };
    world.topics.store(trips.id, QueueId(0), tagged);
    world.wait_ms(500).await;
    price(2, start + 900);
    world.wait_ms(500).await;
    for (name, rows, late) in [
        ("aside", 1, 2),
        ("topic", 1, 2),
        ("dropped", 1, 2),
        ("taken", 2, 0),
    ] {
        let status = status(&jobs, name);
        assert_eq!(status.state, JobState::Running, "{status:?}");
        assert_eq!((status.rows_out, status.rows_late), (rows, late), "{name}");
        let side = format!("{name}_late");
        let is_aside = matches!(name, "aside" | "topic");
        assert_eq!(world.topics.topic(&side).is_some(), is_aside, "{name}");
    }
    let late = world.topics.messages("aside_late");
    let told: Vec<[&str; 3]> = late
        .iter()
        .map(|(_, message)| {
            ["source_topic", "late_reason", "event_time"].map(|name| {
                let mut properties = message.properties.iter();
                let found = properties.find(|(key, _)| key == name);
                found.map_or("", |(_, value)| value.as_str())
            })
        })
        .collect();
    assert!(
        told.iter()
            .any(|told| told[..2] == ["trips", "time_passed"])
    );
    let tag = ("source_tag".to_owned(), "delayed".to_owned());
    let has_tag = |topic: &str, properties: &[(String, String)]| {
        let source = ("source_topic".to_owned(), topic.to_owned());
        properties.contains(&source) && properties.contains(&tag)
    };
    let of = |topic: &str| {
        let mut late = late.iter();
        late.any(|(_, message)| has_tag(topic, &message.properties))
    };
    assert!(of("trips") && !of("prices"));
    assert!(
        told.iter()
            .any(|told| told[..2] == ["prices", "time_passed"])
    );
    assert!(told.iter().all(|told| told[2].ends_with('Z')), "{told:?}");
    jobs.stop().await;
}
