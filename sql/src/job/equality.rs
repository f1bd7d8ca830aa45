//! A continuous query against the same SQL asked once: equal rows at any batch size, under any crash.

use std::sync::Arc;

use bytes::Bytes;
use millpond_connectors::format::json::encode_rows;
use millpond_proto::task::Runtimes;
use millpond_proto::time::{Clock, Timestamp};
use object_store::memory::InMemory;

use super::runtime::Jobs;
use super::tests::{Fuse, STEPS, World, crashes_at, create, status};
use crate::continuous::{JobState, NoJobs};
use crate::sql::{Sql, SqlParts};
use crate::testing::MemoryTopics;
use crate::topic::Topics;

/// Trips of planes; every row comes within the delay of its watermark, so none is late.
pub(super) const TRIPS: &str = "CREATE TOPIC trips (carrier VARCHAR, plane BIGINT, n BIGINT, x DOUBLE, at TIMESTAMP, \
     WATERMARK FOR at AS at - INTERVAL '700 milliseconds') WITH (queues = 3)";

/// What is stored under a name; the query, and whether it can be emitted on close.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) query: &'static str,
    pub(super) on_close: bool,
}

pub(super) fn sql_over(world: &World) -> Sql {
    Sql::new(SqlParts {
        topics: Arc::clone(&world.topics) as Arc<dyn Topics>,
        clock: Arc::clone(&world.clock) as Arc<dyn Clock>,
        spawn: Arc::new(Runtimes::single()),
        export: Arc::new(InMemory::new()),
        state: Arc::new(InMemory::new()),
        jobs: Arc::new(NoJobs),
    })
    .unwrap()
}

/// The rows of a bounded statement as JSON, sorted.
pub(super) async fn ask(sql: &Sql, query: &str) -> Vec<String> {
    let finished = match sql.execute(query).await {
        Ok(answer) => answer.finish().await,
        Err(error) => Err(error),
    };
    let finished = finished.unwrap_or_else(|error| panic!("{query}: {error}"));
    let mut rows: Vec<String> = Vec::new();
    for batch in &finished.batches {
        let bodies: Vec<Bytes> = encode_rows(batch).unwrap();
        rows.extend(
            bodies
                .iter()
                .map(|body| String::from_utf8_lossy(body).into_owned()),
        );
    }
    rows.sort();
    rows
}

pub(super) async fn world_of(seed: u64, batch_rows: usize, topics: &[&str]) -> World {
    let mut world = World::new(seed).await;
    let clock = Arc::clone(&world.clock) as Arc<dyn Clock>;
    world.topics = MemoryTopics::with_batch_rows(clock, batch_rows);
    let sql = sql_over(&world);
    for topic in topics {
        sql.execute(topic).await.unwrap();
    }
    world
}

pub(super) fn send_trips(world: &World) {
    let now_ms = world.clock.now().as_ms();
    for _ in 0..world.chance.below(5) {
        let carrier = ["AA", "B6", "UA"][usize::try_from(world.chance.below(3)).unwrap()];
        let plane = world.chance.below(4);
        let n = world.chance.below(40);
        let at = now_ms - i64::try_from(world.chance.below(600)).unwrap();
        let x = f64::from(u32::try_from(world.chance.below(64)).unwrap()) / 4.0;
        let body = match world.chance.below(12) {
            0 => format!("{{\"carrier\":\"{carrier}\",\"plane\":{plane},\"n\":{n},\"x\":{x}}}"),
            1 => format!("{{\"plane\":{plane},\"at\":{at}}}"),
            _ => format!(
                "{{\"carrier\":\"{carrier}\",\"plane\":{plane},\"n\":{n},\"x\":{x},\"at\":{at}}}"
            ),
        };
        world.topics.send("trips", None, Some(&body));
    }
}

/// Runs the cases under crashes and compares each with its bounded answer.
pub(super) async fn check(
    world: &World,
    cases: &[Case],
    crashes: &[Option<Fuse>],
    send: impl Fn(&World),
) {
    let jobs = world.jobs(None);
    for case in cases {
        let Case { name, query, .. } = case;
        let sql = format!("CREATE MATERIALIZED VIEW {name} AS {query}");
        let made = create(&jobs, &sql).await;
        made.unwrap_or_else(|error| panic!("{sql}: {error}"));
        if case.on_close {
            let sql =
                format!("CREATE MATERIALIZED VIEW {name}_closed AS {query} EMIT ON WINDOW CLOSE");
            create(&jobs, &sql).await.unwrap();
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
    compare(world, &jobs, cases).await;
    jobs.stop().await;
}

pub(super) async fn compare(world: &World, jobs: &Jobs, cases: &[Case]) {
    let sql = sql_over(world);
    for case in cases {
        let Case { name, query, .. } = case;
        let state = status(jobs, name);
        assert_eq!(state.state, JobState::Running, "{name}: {state:?}");
        let columns: Vec<String> = world
            .topics
            .topic(name)
            .unwrap()
            .columns
            .into_iter()
            .map(|column| column.name)
            .collect();
        let columns = columns.join(", ");
        let asked = ask(&sql, &format!("SELECT {columns} FROM ({query})")).await;
        let view = ask(&sql, &format!("SELECT {columns} FROM {name}")).await;
        assert!(!asked.is_empty(), "{name} tests nothing");
        assert_same(name, &view, &asked);
        if case.on_close {
            let closed = format!("{name}_closed");
            let state = status(jobs, &closed);
            assert_eq!(state.rows_late, 0, "{closed}");
            let Timestamp(watermark) = state.watermark.unwrap();
            let over = format!(
                "SELECT {columns} FROM ({query}) WHERE window_end <= to_timestamp_millis({watermark})"
            );
            let asked = ask(&sql, &over).await;
            let view = ask(&sql, &format!("SELECT {columns} FROM {closed}")).await;
            assert!(!asked.is_empty(), "{closed} tests nothing");
            assert_same(&closed, &view, &asked);
        }
    }
}

pub(super) fn assert_same(name: &str, view: &[String], asked: &[String]) {
    let only = |these: &[String], those: &[String]| -> Vec<String> {
        let mut rest = those.to_vec();
        let mut only = Vec::new();
        for row in these {
            match rest.iter().position(|other| other == row) {
                Some(at) => drop(rest.swap_remove(at)),
                None => only.push(row.clone()),
            }
        }
        only.truncate(8);
        only
    };
    assert!(
        view == asked,
        "{name}: only in the view {:#?}, only asked {:#?}",
        only(view, asked),
        only(asked, view)
    );
}

pub(super) const WINDOWS: &[Case] = &[
    Case {
        name: "hops",
        query: "SELECT carrier, window_start, window_end, count(*) AS rows, sum(n) AS total, avg(x) AS mean, \
                min(n) AS least, max(n) AS most, count(DISTINCT plane) AS planes, \
                sum(n) FILTER (WHERE plane > 1) AS some, bool_or(n > 35) AS large \
                FROM HOP(TABLE trips, DESCRIPTOR(at), INTERVAL '200 milliseconds', INTERVAL '1 second') \
                GROUP BY carrier, window_start, window_end",
        on_close: true,
    },
    Case {
        name: "hops_by_start",
        query: "SELECT window_start, count(*) + 1 AS more FROM \
                HOP(TABLE trips, DESCRIPTOR(at), INTERVAL '500 milliseconds', INTERVAL '1 second') \
                WHERE n > 3 GROUP BY window_start HAVING count(*) < 6",
        on_close: false,
    },
    Case {
        name: "hops_with_bounds",
        query: "SELECT window_end, plane, sum(n) AS total FROM \
                HOP(TABLE trips, DESCRIPTOR(at), INTERVAL '250 milliseconds', INTERVAL '500 milliseconds') \
                WHERE window_start < at GROUP BY window_end, plane",
        on_close: true,
    },
    Case {
        name: "cumulated",
        query: "SELECT window_start, window_end, plane, count(*) AS rows, sum(n) AS total FROM \
                CUMULATE(TABLE trips, DESCRIPTOR(at), INTERVAL '300 milliseconds', INTERVAL '900 milliseconds') \
                GROUP BY window_start, window_end, plane",
        on_close: true,
    },
    Case {
        name: "sessions",
        query: "SELECT plane, window_start, window_end, count(*) AS rows, sum(n) AS total, max(carrier) AS last FROM \
                SESSION(TABLE trips PARTITION BY plane, DESCRIPTOR(at), INTERVAL '250 milliseconds') \
                GROUP BY plane, window_start, window_end",
        on_close: true,
    },
    Case {
        name: "sessions_by_end",
        query: "SELECT window_end, plane, carrier, sum(n) AS total FROM \
                SESSION(TABLE trips PARTITION BY (carrier, plane), DESCRIPTOR(at), INTERVAL '400 milliseconds') \
                GROUP BY carrier, plane, window_end HAVING sum(n) > 20",
        on_close: true,
    },
    Case {
        name: "one_session",
        query: "SELECT window_start, count(*) AS rows FROM \
                SESSION(TABLE trips, DESCRIPTOR(at), INTERVAL '100 milliseconds') GROUP BY window_start",
        on_close: false,
    },
    Case {
        name: "tumbled_rows",
        query: "SELECT plane, window_end, n FROM TUMBLE(TABLE trips, DESCRIPTOR(at), INTERVAL '1 second') WHERE n > 10",
        on_close: false,
    },
    Case {
        name: "hopped_rows",
        query: "SELECT plane, window_start, n FROM \
                HOP(TABLE trips, DESCRIPTOR(at), INTERVAL '1 second', INTERVAL '3 seconds')",
        on_close: false,
    },
    Case {
        name: "kinds",
        query: "SELECT DISTINCT carrier, plane FROM trips",
        on_close: false,
    },
];

#[tokio::test(start_paused = true)]
async fn windows_equal_their_bounded_answer_at_any_batch_size() {
    for (seed, batch_rows) in [(1, 1), (2, 7), (3, 4096)] {
        let world = world_of(seed, batch_rows, &[TRIPS]).await;
        check(&world, WINDOWS, &[], send_trips).await;
    }
}

#[tokio::test(start_paused = true)]
async fn windows_equal_their_bounded_answer_after_a_crash_at_any_step() {
    for (seed, step) in (10..).zip(STEPS) {
        let world = world_of(seed, 7, &[TRIPS]).await;
        check(&world, WINDOWS, &crashes_at(step), send_trips).await;
    }
}

/// What planes are; several rows for a plane, and planes without trips.
pub(super) const PLANES: &str = "CREATE TOPIC planes (plane BIGINT, model VARCHAR, size BIGINT, at TIMESTAMP, \
     WATERMARK FOR at AS at - INTERVAL '700 milliseconds') WITH (queues = 2)";

pub(super) fn send_both(world: &World) {
    send_trips(world);
    if world.chance.below(3) == 0 {
        let at = world.clock.now().as_ms() - i64::try_from(world.chance.below(600)).unwrap();
        let plane = world.chance.below(6);
        let size = world.chance.below(40);
        let body = match world.chance.below(8) {
            0 => format!("{{\"size\":{size},\"at\":{at}}}"),
            _ => format!("{{\"plane\":{plane},\"model\":\"M{size}\",\"size\":{size},\"at\":{at}}}"),
        };
        world.topics.send("planes", None, Some(&body));
    }
}

pub(super) const GRAPHS: &[Case] = &[
    Case {
        name: "joined",
        query: "SELECT t.carrier, t.n, p.model FROM trips t JOIN planes p ON t.plane = p.plane WHERE t.n > 5",
        on_close: false,
    },
    Case {
        name: "distinct",
        query: "SELECT carrier, count(DISTINCT plane) AS planes, count(DISTINCT plane) FILTER (WHERE n > 5) AS some, \
                sum(DISTINCT n) AS total, avg(n) AS mean, min(x) AS least FROM trips GROUP BY carrier",
        on_close: false,
    },
    Case {
        name: "lefts",
        query: "SELECT t.carrier, t.n, p.model FROM trips t LEFT JOIN planes p ON t.plane = p.plane AND p.size > t.n",
        on_close: false,
    },
    Case {
        name: "rights",
        query: "SELECT t.n, p.model, p.plane FROM trips t RIGHT JOIN planes p ON t.plane = p.plane AND t.n > 30",
        on_close: false,
    },
    Case {
        name: "fulls",
        query: "SELECT t.carrier, t.n, p.size FROM trips t FULL JOIN planes p ON t.n = p.size",
        on_close: false,
    },
    Case {
        name: "known",
        query: "SELECT carrier, n FROM trips t WHERE EXISTS (SELECT 1 FROM planes p WHERE p.plane = t.plane AND p.size > 20)",
        on_close: false,
    },
    Case {
        name: "unknown",
        query: "SELECT carrier, n FROM trips t WHERE NOT EXISTS (SELECT 1 FROM planes p WHERE p.size = t.n)",
        on_close: false,
    },
    Case {
        name: "listed",
        query: "SELECT carrier, n FROM trips WHERE n IN (SELECT size FROM planes)",
        on_close: false,
    },
    Case {
        name: "within",
        query: "SELECT t.carrier, t.n, p.model, t.at FROM trips t JOIN planes p ON t.plane = p.plane \
                AND p.at BETWEEN t.at - INTERVAL '300 milliseconds' AND t.at",
        on_close: false,
    },
    Case {
        name: "same_window",
        query: "SELECT t.window_start, t.plane, t.n, p.size \
                FROM TUMBLE(TABLE trips, DESCRIPTOR(at), INTERVAL '500 milliseconds') t \
                JOIN TUMBLE(TABLE planes, DESCRIPTOR(at), INTERVAL '500 milliseconds') p \
                ON t.window_start = p.window_start AND t.window_end = p.window_end AND t.plane = p.plane",
        on_close: false,
    },
    Case {
        name: "totals",
        query: "SELECT carrier, sum(n) AS total, count(*) AS rows FROM trips GROUP BY carrier",
        on_close: false,
    },
    Case {
        name: "of_totals",
        query: "SELECT count(*) AS carriers, sum(total) AS total, avg(total) AS mean, max(total) AS most, \
                min(rows) AS least, count(carrier) AS named FROM totals",
        on_close: false,
    },
    Case {
        name: "with_totals",
        query: "SELECT t.n, s.total, s.rows FROM trips t JOIN totals s ON t.carrier = s.carrier WHERE t.n > 30",
        on_close: false,
    },
    Case {
        name: "classes",
        query: "SELECT total % 3 AS class, count(*) AS planes, min(total) AS least, max(rows) AS most, \
                sum(total) FILTER (WHERE rows > 2) AS some, count(DISTINCT rows) AS kinds, round(stddev(rows), 9) AS spread \
                FROM (SELECT plane, sum(n) AS total, count(*) AS rows FROM trips GROUP BY plane) GROUP BY total % 3",
        on_close: false,
    },
    Case {
        name: "sizes",
        query: "SELECT p.model, count(*) AS trips, sum(t.n) AS total, max(t.x) AS most FROM trips t \
                LEFT JOIN planes p ON t.plane = p.plane GROUP BY p.model HAVING count(*) > 1",
        on_close: false,
    },
    Case {
        name: "hottest",
        query: "SELECT a.window_end, a.plane, a.rows FROM (SELECT window_end, plane, count(*) AS rows \
                FROM HOP(TABLE trips, DESCRIPTOR(at), INTERVAL '500 milliseconds', INTERVAL '1 second') \
                GROUP BY window_end, plane) a JOIN (SELECT window_end, max(rows) AS most FROM (\
                SELECT window_end, plane, count(*) AS rows \
                FROM HOP(TABLE trips, DESCRIPTOR(at), INTERVAL '500 milliseconds', INTERVAL '1 second') \
                GROUP BY window_end, plane) GROUP BY window_end) b \
                ON a.window_end = b.window_end AND a.rows = b.most",
        on_close: false,
    },
    Case {
        name: "largest",
        query: "SELECT carrier, plane, n, place FROM (SELECT carrier, plane, n, ROW_NUMBER() OVER \
                (PARTITION BY carrier ORDER BY n DESC, _queue, _offset) AS place FROM trips) WHERE place <= 3",
        on_close: false,
    },
    Case {
        name: "last_trip",
        query: "SELECT plane, carrier, n FROM (SELECT plane, carrier, n, ROW_NUMBER() OVER \
                (PARTITION BY plane ORDER BY at DESC NULLS LAST, _queue, _offset) AS place FROM trips) WHERE place = 1",
        on_close: false,
    },
    Case {
        name: "largest_totals",
        query: "SELECT carrier, total FROM (SELECT carrier, total, ROW_NUMBER() OVER \
                (ORDER BY total DESC, carrier) AS place FROM totals) WHERE place < 3 AND total > 10",
        on_close: false,
    },
    Case {
        name: "both",
        query: "SELECT carrier AS name, n AS number FROM trips UNION ALL SELECT model, size FROM planes",
        on_close: false,
    },
    Case {
        name: "either",
        query: "SELECT n FROM trips UNION SELECT size FROM planes",
        on_close: false,
    },
];

#[tokio::test(start_paused = true)]
async fn joins_and_changing_tables_equal_their_bounded_answer_at_any_batch_size() {
    // No fuse: the jobs only stop and go on.
    let restarts = [None; 2];
    for (seed, batch_rows) in [(30, 1), (31, 7), (32, 4096)] {
        let world = world_of(seed, batch_rows, &[TRIPS, PLANES]).await;
        check(&world, GRAPHS, &restarts, send_both).await;
    }
}

#[tokio::test(start_paused = true)]
async fn joins_and_changing_tables_equal_their_bounded_answer_after_a_crash_at_any_step() {
    for (seed, step) in (30..).zip(STEPS) {
        let world = world_of(seed, 7, &[TRIPS, PLANES]).await;
        check(&world, GRAPHS, &crashes_at(step), send_both).await;
    }
}

#[tokio::test(start_paused = true)]
async fn each_edge_is_told_as_append_upsert_or_retract() {
    let world = world_of(1, 7, &[TRIPS, PLANES]).await;
    let explain = async |query: &str| -> Vec<String> {
        let query = crate::statement::parse_query(query).unwrap();
        let topics = world.topics.as_ref();
        let planned =
            crate::plan::continuous::plan(&query, crate::statement::Emit::Changes, topics);
        planned.await.unwrap().explained
    };
    let joined =
        explain("SELECT t.n, p.size FROM trips t JOIN planes p ON t.plane = p.plane").await;
    assert!(
        joined.contains(&"Inner join: append".to_owned()),
        "{joined:?}"
    );
    let left =
        explain("SELECT t.n, p.size FROM trips t LEFT JOIN planes p ON t.plane = p.plane").await;
    assert!(left.contains(&"Left join: retract".to_owned()), "{left:?}");
    let sums = explain(
        "SELECT rows, count(*) AS n FROM (SELECT plane, count(*) AS rows FROM trips GROUP BY plane) GROUP BY rows",
    )
    .await;
    assert!(
        sums.contains(&"aggregate: upsert by (plane)".to_owned()),
        "{sums:?}"
    );
    assert_eq!(
        sums.first(),
        Some(&"project: upsert by (rows)".to_owned()),
        "{sums:?}"
    );
    let chain = explain("SELECT plane, count(*) AS rows FROM trips GROUP BY plane").await;
    assert_eq!(
        chain[0],
        "aggregate by plane, state by group: upsert by (plane)"
    );
}
