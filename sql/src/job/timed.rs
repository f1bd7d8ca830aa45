//! Continuous queries whose rows leave by time, against the same SQL asked once; and state that ends.
//!
//! The last row of every topic lies far behind all others, so that whatever came before it is final: a
//! query that waits for time must then have answered all of it.

use millpond_proto::time::{Clock as _, Timestamp};

use super::equality::{ask, sql_over, world_of};
use super::tests::{Fuse, STEPS, World, crashes_at, create, status};
use crate::continuous::JobState;
use crate::topic::Topics as _;

pub(super) const TRIPS: &str = "CREATE TOPIC trips (carrier VARCHAR, plane BIGINT, n BIGINT, x DOUBLE, at TIMESTAMP, \
     WATERMARK FOR at AS at - INTERVAL '700 milliseconds') WITH (queues = 3)";
pub(super) const PRICES: &str = "CREATE TOPIC prices (plane BIGINT, price BIGINT, at TIMESTAMP, \
     WATERMARK FOR at AS at - INTERVAL '700 milliseconds') WITH (queues = 2)";
pub(super) const FLEET: &str = "CREATE TOPIC fleet (plane BIGINT, model VARCHAR, at TIMESTAMP, PRIMARY KEY (plane), \
     WATERMARK FOR at AS at - INTERVAL '700 milliseconds') WITH (queues = 2)";

/// What is stored under a name, and the query; it answers a column `at`, by which rows are final.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) query: &'static str,
}

/// Cases whose rows change until they are final; they are also emitted once.
pub(super) const CHANGING: [&str; 10] = [
    "within_or_alone",
    "alone_or_within",
    "per_window",
    "top_of_window",
    "rolled_up",
    "alone",
    "named_sessions",
    "rows_of_sessions",
    "sessions_of_counts",
    "of_tenths",
];

pub(super) fn send(world: &World) {
    let now_ms = world.clock.now().as_ms();
    let before = |most: u64| now_ms - i64::try_from(world.chance.below(most)).unwrap();
    for _ in 0..world.chance.below(5) {
        let carrier = ["AA", "B6", "UA"][usize::try_from(world.chance.below(3)).unwrap()];
        let (plane, n) = (world.chance.below(4), world.chance.below(40));
        let (at, x) = (before(600), world.chance.below(64) as f64 / 4.0);
        let body = match world.chance.below(12) {
            0 => format!("{{\"carrier\":\"{carrier}\",\"n\":{n},\"x\":{x},\"at\":{at}}}"),
            _ => format!(
                "{{\"carrier\":\"{carrier}\",\"plane\":{plane},\"n\":{n},\"x\":{x},\"at\":{at}}}"
            ),
        };
        world.topics.send("trips", None, Some(&body));
    }
    if world.chance.below(2) == 0 {
        let (plane, price, at) = (world.chance.below(5), world.chance.below(90), before(600));
        let body = format!("{{\"plane\":{plane},\"price\":{price},\"at\":{at}}}");
        world.topics.send("prices", None, Some(&body));
    }
    if world.chance.below(2) == 0 {
        let (plane, model, at) = (world.chance.below(5), world.chance.below(9), before(600));
        let body = format!("{{\"plane\":{plane},\"model\":\"M{model}\",\"at\":{at}}}");
        let body = (world.chance.below(4) > 0).then_some(body.as_str());
        world
            .topics
            .send("fleet", Some(&format!("[{plane}]")), body);
    }
}

/// A row of every topic that lies behind all others, on a whole second: no stretch begins before it and holds it.
fn send_last(world: &World) -> i64 {
    let at = (world.clock.now().as_ms() / 1000 + 60) * 1000;
    for (topic, key) in [("trips", None), ("prices", None), ("fleet", Some("[99]"))] {
        let body = format!("{{\"plane\":99,\"at\":{at}}}");
        world.topics.send(topic, key, Some(&body));
    }
    at
}

async fn check(world: &World, cases: &[Case], crashes: &[Option<Fuse>]) {
    let jobs = world.jobs(None);
    for Case { name, query } in cases {
        let sql = format!("CREATE MATERIALIZED VIEW {name} AS {query}");
        let made = create(&jobs, &sql).await;
        made.unwrap_or_else(|error| panic!("{sql}: {error}"));
        if CHANGING.contains(name) {
            let sql =
                format!("CREATE MATERIALIZED VIEW {name}_closed AS {query} EMIT ON WINDOW CLOSE");
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
    let last = send_last(world);
    world.wait_ms(30_000).await;
    let sql = sql_over(world);
    for Case { name, query } in cases {
        let state = status(&jobs, name);
        assert_eq!(state.state, JobState::Running, "{name}: {state:?}");
        assert_eq!(state.rows_late, 0, "{name}");
        let columns = world.topics.topic(name).unwrap().columns.into_iter();
        let columns: Vec<String> = columns.map(|column| column.name).collect();
        let columns = columns.join(", ");
        let until = format!("at IS NULL OR at < to_timestamp_millis({last})");
        let asked = ask(
            &sql,
            &format!("SELECT {columns} FROM ({query}) WHERE {until}"),
        )
        .await;
        let view = ask(&sql, &format!("SELECT {columns} FROM {name} WHERE {until}")).await;
        assert!(asked.len() > 3, "{name} tests nothing");
        super::equality::assert_same(name, &view, &asked);
        if CHANGING.contains(name) {
            let closed = format!("{name}_closed");
            let state = status(&jobs, &closed);
            assert_eq!(
                (state.state, state.rows_late),
                (JobState::Running, 0),
                "{closed}"
            );
            assert!(world.topics.topic(&closed).unwrap().primary_key.is_empty());
            let view = format!("SELECT {columns} FROM {closed} WHERE {until}");
            super::equality::assert_same(&closed, &ask(&sql, &view).await, &asked);
        }
    }
    jobs.stop().await;
}

pub(super) const CASES: &[Case] = &[
    Case {
        name: "priced",
        query: "SELECT t.carrier, t.n, t.at, p.price, p.at AS since FROM trips t ASOF JOIN prices p \
                MATCH_CONDITION (t.at >= p.at) ON t.plane = p.plane",
    },
    Case {
        name: "priced_before",
        query: "SELECT t.n, t.at, p.price FROM trips t ASOF JOIN prices p \
                MATCH_CONDITION (p.at < t.at) ON t.plane = p.plane WHERE p.price > 30",
    },
    Case {
        name: "versioned",
        query: "SELECT t.carrier, t.n, t.at, f.model FROM trips t \
                JOIN fleet FOR SYSTEM_TIME AS OF t.at AS f ON t.plane = f.plane",
    },
    Case {
        name: "looked_up",
        query: "SELECT t.carrier, t.n, t.at, f.model FROM trips t \
                LEFT JOIN fleet FOR SYSTEM_TIME AS OF t._stored_at f ON f.plane = t.plane",
    },
    Case {
        name: "last_rows",
        query: "SELECT plane, n, at, sum(n) OVER w AS total, avg(x) OVER w AS mean, max(n) OVER w AS most, \
                count(*) FILTER (WHERE n > 9) OVER w AS some, lag(n) OVER (PARTITION BY plane ORDER BY at, _queue, _offset) AS before \
                FROM trips WINDOW w AS (PARTITION BY plane ORDER BY at, _queue, _offset ROWS BETWEEN 3 PRECEDING AND CURRENT ROW)",
    },
    Case {
        name: "last_stretch",
        query: "SELECT plane, n, at, sum(n) OVER w AS total, count(DISTINCT n) OVER (PARTITION BY plane ORDER BY at) AS kinds, \
                min(x) OVER w AS least FROM trips \
                WINDOW w AS (PARTITION BY plane ORDER BY at RANGE BETWEEN INTERVAL '400 milliseconds' PRECEDING AND CURRENT ROW)",
    },
    Case {
        name: "so_far",
        query: "SELECT carrier, n, at, sum(n) OVER (PARTITION BY carrier ORDER BY at) AS total, \
                row_number() OVER (PARTITION BY carrier ORDER BY at, _queue, _offset) AS place FROM trips",
    },
    Case {
        name: "within_time",
        query: "SELECT t.carrier, t.n, p.price, t.at FROM trips t JOIN prices p ON t.plane = p.plane \
                AND p.at >= t.at - INTERVAL '300 milliseconds' AND p.at <= t.at + INTERVAL '100 milliseconds'",
    },
    Case {
        name: "within_or_alone",
        query: "SELECT t.carrier, t.n, p.price, t.at FROM trips t LEFT JOIN prices p ON t.plane = p.plane \
                AND t.at BETWEEN p.at AND p.at + INTERVAL '250 milliseconds'",
    },
    Case {
        name: "alone_or_within",
        query: "SELECT t.at AS since, t.n, p.price, p.at FROM trips t RIGHT JOIN prices p ON t.plane = p.plane \
                AND t.at BETWEEN p.at AND p.at + INTERVAL '250 milliseconds'",
    },
    Case {
        name: "alone",
        query: "SELECT t.carrier, t.n, t.at FROM trips t WHERE NOT EXISTS (SELECT 1 FROM prices p WHERE t.plane = p.plane \
                AND p.at BETWEEN t.at - INTERVAL '200 milliseconds' AND t.at)",
    },
    Case {
        name: "per_window",
        query: "SELECT t.window_end AS at, t.plane, count(*) AS pairs, sum(p.price) AS total \
                FROM TUMBLE(TABLE trips, DESCRIPTOR(at), INTERVAL '500 milliseconds') t \
                JOIN TUMBLE(TABLE prices, DESCRIPTOR(at), INTERVAL '500 milliseconds') p \
                ON t.window_start = p.window_start AND t.window_end = p.window_end AND t.plane = p.plane \
                GROUP BY t.window_end, t.plane",
    },
    Case {
        name: "top_of_window",
        query: "SELECT at, plane, total FROM (SELECT at, plane, total, ROW_NUMBER() OVER \
                (PARTITION BY at ORDER BY total DESC, plane) AS place FROM (\
                SELECT window_end AS at, plane, sum(n) AS total \
                FROM HOP(TABLE trips, DESCRIPTOR(at), INTERVAL '500 milliseconds', INTERVAL '1 second') \
                GROUP BY window_end, plane)) WHERE place <= 2",
    },
    Case {
        name: "rolled_up",
        query: "SELECT date_bin(INTERVAL '1 second', at) AS at, carrier, plane, grouping(plane) AS all_planes, \
                sum(n) AS total FROM trips GROUP BY date_bin(INTERVAL '1 second', at), ROLLUP (carrier, plane)",
    },
    Case {
        name: "named_sessions",
        query: "SELECT s.window_end AS at, s.plane, m.name, s.trips FROM (SELECT plane, window_start, window_end, count(*) AS trips \
                FROM SESSION(TABLE trips PARTITION BY plane, DESCRIPTOR(at), INTERVAL '150 milliseconds') \
                GROUP BY plane, window_start, window_end) s \
                JOIN (VALUES (0, 'none'), (1, 'one'), (2, 'two'), (2, 'pair')) m (plane, name) ON m.plane = s.plane",
    },
    Case {
        name: "rows_of_sessions",
        query: "SELECT carrier, n, window_start, window_end AS at \
                FROM SESSION(TABLE trips PARTITION BY carrier, DESCRIPTOR(at), INTERVAL '150 milliseconds') WHERE n > 5",
    },
    Case {
        name: "sessions_of_counts",
        query: "SELECT carrier, trips, window_start, window_end AS at FROM SESSION(TABLE (SELECT carrier, \
                date_bin(INTERVAL '40 milliseconds', at) AS since, count(*) AS trips FROM trips \
                GROUP BY carrier, date_bin(INTERVAL '40 milliseconds', at) HAVING count(*) < 3) \
                PARTITION BY carrier, DESCRIPTOR(since), INTERVAL '120 milliseconds')",
    },
    Case {
        name: "of_tenths",
        query: "SELECT window_end AS at, sum(trips) AS trips, count(*) AS tenths FROM TUMBLE((SELECT window_time AS t, count(*) AS trips \
                FROM TUMBLE(TABLE trips, DESCRIPTOR(at), INTERVAL '100 milliseconds') \
                GROUP BY window_start, window_end, window_time), DESCRIPTOR(t), INTERVAL '200 milliseconds') \
                GROUP BY window_start, window_end",
    },
    Case {
        name: "cubed",
        query: "SELECT max(at) AS at, carrier, plane, count(DISTINCT n) AS kinds FROM trips WHERE plane < 50 \
                GROUP BY CUBE (carrier, plane)",
    },
];

#[tokio::test(start_paused = true)]
async fn rows_that_leave_by_time_equal_their_bounded_answer_at_any_batch_size() {
    for (seed, batch_rows) in [(50, 1), (51, 7), (52, 4096)] {
        let world = world_of(seed, batch_rows, &[TRIPS, PRICES, FLEET]).await;
        check(&world, CASES, &[]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn rows_that_leave_by_time_equal_their_bounded_answer_after_a_crash_at_any_step() {
    for (seed, step) in (60..).zip(STEPS) {
        let world = world_of(seed, 7, &[TRIPS, PRICES, FLEET]).await;
        check(&world, CASES, &crashes_at(step)).await;
    }
}

fn trip(world: &World, plane: u64, n: u64, at: Timestamp) {
    let at = at.as_ms();
    let body = format!("{{\"plane\":{plane},\"n\":{n},\"at\":{at}}}");
    world.topics.send("trips", None, Some(&body));
}

fn price(world: &World, plane: u64, price: u64, at: Timestamp) {
    let at = at.as_ms();
    let body = format!("{{\"plane\":{plane},\"price\":{price},\"at\":{at}}}");
    world.topics.send("prices", None, Some(&body));
}

#[tokio::test(start_paused = true)]
async fn a_join_that_time_bounds_forgets_its_rows_and_counts_the_late_ones() {
    let world = world_of(70, 7, &[TRIPS, PRICES]).await;
    let jobs = world.jobs(None);
    let within = "SELECT t.n, p.price FROM trips t JOIN prices p ON t.plane = p.plane \
                  AND p.at BETWEEN t.at - INTERVAL '1 second' AND t.at";
    create(
        &jobs,
        &format!("CREATE MATERIALIZED VIEW strict AS {within}"),
    )
    .await
    .unwrap();
    let lenient = "CREATE MATERIALIZED VIEW lenient WITH (allowed_lateness = '1 hour') AS";
    create(&jobs, &format!("{lenient} {within}")).await.unwrap();
    let start = world.clock.now();
    for n in 0..200 {
        let at = world.clock.now();
        trip(&world, n % 4, n, at);
        price(&world, n % 4, n, at);
        world.wait_ms(500).await;
    }
    world.wait_ms(1000).await;
    // A few rows, and all four hundred.
    let (strict, lenient) = ["strict", "lenient"]
        .map(|name| status(&jobs, name).state_bytes)
        .into();
    assert!(strict < 10_000, "{strict}");
    assert!((25_000..60_000).contains(&lenient), "{lenient}");
    // Long before the watermark; its price is still known where an hour is allowed.
    trip(&world, 0, 1000, start);
    world.wait_ms(1000).await;
    assert_eq!(status(&jobs, "strict").rows_late, 1);
    assert_eq!(status(&jobs, "lenient").rows_late, 0);
    let sql = sql_over(&world);
    let of = |view: &str| format!("SELECT count(*) AS n FROM {view} WHERE n = 1000");
    assert_eq!(ask(&sql, &of("strict")).await, ["{\"n\":0}"]);
    assert_eq!(ask(&sql, &of("lenient")).await, ["{\"n\":1}"]);
    jobs.stop().await;
}

#[tokio::test(start_paused = true)]
async fn state_that_rests_longer_than_its_ttl_is_forgotten_and_its_rows_stay() {
    let world = world_of(71, 7, &[TRIPS, PRICES]).await;
    let jobs = world.jobs(None);
    for (name, query) in [
        (
            "totals",
            "SELECT plane, sum(n) AS total FROM trips GROUP BY plane",
        ),
        (
            "joined",
            "SELECT t.plane, t.n, p.price FROM trips t JOIN prices p ON t.plane = p.plane",
        ),
        (
            "first",
            "SELECT plane, n FROM (SELECT plane, n, ROW_NUMBER() OVER (PARTITION BY plane ORDER BY n) AS place \
             FROM trips) WHERE place = 1",
        ),
    ] {
        let ttl =
            format!("CREATE MATERIALIZED VIEW {name} WITH (state_ttl = '10 seconds') AS {query}");
        create(&jobs, &ttl).await.unwrap();
    }
    let now = || world.clock.now();
    trip(&world, 1, 5, now());
    trip(&world, 2, 7, now());
    price(&world, 1, 100, now());
    for _ in 0..4 {
        world.wait_ms(4000).await;
        trip(&world, 2, 7, now());
    }
    world.wait_ms(500).await;
    // Plane 1 rested for sixteen seconds, plane 2 never for ten.
    trip(&world, 1, 30, now());
    world.wait_ms(500).await;
    let sql = sql_over(&world);
    let totals = "SELECT plane, total FROM totals ORDER BY plane";
    assert_eq!(
        ask(&sql, totals).await,
        ["{\"plane\":1,\"total\":30}", "{\"plane\":2,\"total\":35}"]
    );
    let joined = "SELECT n, price FROM joined";
    assert_eq!(ask(&sql, joined).await, ["{\"n\":5,\"price\":100}"]);
    let first = "SELECT plane, n FROM first ORDER BY plane";
    assert_eq!(
        ask(&sql, first).await,
        ["{\"plane\":1,\"n\":30}", "{\"plane\":2,\"n\":7}"]
    );
    jobs.stop().await;
}

#[tokio::test(start_paused = true)]
async fn of_a_key_that_was_forgotten_meanwhile_the_last_row_counts_also_in_one_epoch() {
    let mut world = world_of(72, 7, &[TRIPS, PRICES]).await;
    let now = |world: &World| world.clock.now();
    trip(&world, 1, 5, now(&world));
    world.wait_ms(200).await;
    trip(&world, 1, 6, now(&world));
    price(&world, 1, 100, now(&world));
    for _ in 0..4 {
        world.wait_ms(4000).await;
        trip(&world, 2, 7, now(&world));
    }
    // Plane 1 rested for sixteen seconds, plane 2 never for ten.
    trip(&world, 1, 30, now(&world));
    world.wait_ms(500).await;
    let totals = "SELECT plane, sum(n) AS total FROM trips GROUP BY plane";
    let first = "SELECT plane, n FROM (SELECT plane, n, ROW_NUMBER() OVER (PARTITION BY plane ORDER BY n) AS place \
                 FROM trips) WHERE place = 1";
    world.lanes = Some(1);
    let jobs = world.jobs(None);
    for (name, query, emit) in [
        ("totals", totals, ""),
        ("first", first, ""),
        ("totals_at_beats", totals, "EMIT EVERY '1 minute'"),
        ("first_at_beats", first, "EMIT EVERY '1 minute'"),
    ] {
        let ttl = format!(
            "CREATE MATERIALIZED VIEW {name} WITH (state_ttl = '10 seconds') AS {query} {emit}"
        );
        create(&jobs, &ttl).await.unwrap();
    }
    world.wait_ms(2000).await;
    // What waits for its beat is saved and taken up again by other lanes.
    jobs.stop().await;
    drop(jobs);
    world.lanes = Some(3);
    let jobs = world.jobs(None);
    world.wait_ms(62_000).await;
    let sql = sql_over(&world);
    for suffix in ["", "_at_beats"] {
        let totals = format!("SELECT plane, total FROM totals{suffix} ORDER BY plane");
        assert_eq!(
            ask(&sql, &totals).await,
            ["{\"plane\":1,\"total\":30}", "{\"plane\":2,\"total\":28}"],
            "{totals}"
        );
        let first = format!("SELECT plane, n FROM first{suffix} ORDER BY plane");
        assert_eq!(
            ask(&sql, &first).await,
            ["{\"plane\":1,\"n\":30}", "{\"plane\":2,\"n\":7}"],
            "{first}"
        );
    }
    jobs.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_changed_and_waits_for_a_beat_finds_the_lane_of_its_key_again() {
    let mut world = world_of(73, 7, &[TRIPS]).await;
    world.lanes = Some(3);
    let jobs = world.jobs(None);
    let view = "CREATE MATERIALIZED VIEW kinds AS SELECT plane, count(DISTINCT n) AS kinds FROM trips GROUP BY plane \
                EMIT EVERY '1 minute'";
    create(&jobs, view).await.unwrap();
    for plane in 0..20 {
        trip(&world, plane, 1, world.clock.now());
    }
    world.wait_ms(62_000).await;
    for plane in 0..20 {
        trip(&world, plane, 2, world.clock.now());
    }
    world.wait_ms(2000).await;
    jobs.stop().await;
    drop(jobs);
    let jobs = world.jobs(None);
    for plane in 0..20 {
        trip(&world, plane, 3, world.clock.now());
    }
    world.wait_ms(62_000).await;
    let held = ask(&sql_over(&world), "SELECT plane, kinds FROM kinds").await;
    let mut expected: Vec<String> = (0..20)
        .map(|plane| format!("{{\"plane\":{plane},\"kinds\":3}}"))
        .collect();
    expected.sort();
    assert_eq!(held, expected);
    jobs.stop().await;
}
