//! Aggregates without GROUP BY and aggregates with an order of their own: as the same SQL asked once, under any crash, in
//! any number of lanes, with rows and without.

use std::collections::BTreeSet;

use super::equality::{Case, TRIPS, ask, check, send_trips, sql_over, world_of};
use super::tests::{STEPS, World, crashes_at, create, status};
use crate::continuous::JobState;

const CASES: &[Case] = &[
    Case {
        name: "whole",
        query: "SELECT count(*) AS rows, sum(n) AS total, min(x) AS least, avg(n) AS mean FROM trips",
        on_close: false,
    },
    Case {
        name: "whole_of_none",
        query: "SELECT count(*) AS rows, sum(n) AS total, max(carrier) AS most FROM trips WHERE n > 1000",
        on_close: false,
    },
    Case {
        name: "whole_of_groups",
        query: "SELECT max(c) AS most, count(*) AS groups FROM \
                (SELECT plane, count(*) AS c FROM trips GROUP BY plane HAVING count(*) % 2 = 0)",
        on_close: false,
    },
    Case {
        name: "joined",
        query: "SELECT t.carrier, t.rows, w.all_rows FROM \
                (SELECT carrier, count(*) AS rows FROM trips GROUP BY carrier) t \
                CROSS JOIN (SELECT count(*) AS all_rows FROM trips WHERE x > 3) w",
        on_close: false,
    },
    Case {
        name: "ordered",
        query: "SELECT carrier, string_agg(CAST(n AS VARCHAR), ',' ORDER BY at, n) AS ns, \
                first_value(n ORDER BY at, n) AS first, last_value(n ORDER BY at DESC, n DESC) AS last \
                FROM trips GROUP BY carrier",
        on_close: false,
    },
    Case {
        name: "ordered_of_changing",
        query: "SELECT c, string_agg(DISTINCT CAST(plane AS VARCHAR), '+' ORDER BY CAST(plane AS VARCHAR)) AS planes, \
                last_value(plane ORDER BY plane) AS greatest FROM \
                (SELECT plane, count(*) % 5 AS c FROM trips GROUP BY plane) GROUP BY c",
        on_close: false,
    },
];

#[tokio::test(start_paused = true)]
async fn aggregates_of_all_rows_and_in_order_equal_the_answer_after_a_crash_at_any_step() {
    for (seed, batch_rows) in [(300, 1), (301, 4096)] {
        let world = world_of(seed, batch_rows, &[TRIPS]).await;
        check(&world, CASES, &[], send_trips).await;
    }
    for (seed, step) in (310..).zip(STEPS) {
        let world = world_of(seed, 7, &[TRIPS]).await;
        check(&world, CASES, &crashes_at(step), send_trips).await;
    }
}

async fn rows(world: &World, view: &str) -> Vec<String> {
    ask(&sql_over(world), &format!("SELECT * FROM {view}")).await
}

#[tokio::test(start_paused = true)]
async fn a_view_of_all_rows_has_its_row_before_any_comes_in_any_number_of_lanes() {
    let mut written = BTreeSet::new();
    for lanes in [1, 2, 3, 8] {
        let mut world = world_of(320, 7, &[TRIPS]).await;
        world.lanes = Some(lanes);
        let sql =
            "CREATE MATERIALIZED VIEW v AS SELECT count(*) AS rows, sum(n) AS total FROM trips";
        let beats = "CREATE MATERIALIZED VIEW beats AS SELECT count(*) AS rows FROM trips EMIT EVERY '1 second'";
        let jobs = world.jobs(None);
        create(&jobs, sql).await.unwrap();
        create(&jobs, beats).await.unwrap();
        world.wait_ms(2500).await;
        assert_eq!(rows(&world, "v").await.len(), 1, "{lanes} lanes");
        assert_eq!(rows(&world, "beats").await, [r#"{"rows":0}"#]);
        // Nor does a restart write it again, whether its state was saved or not.
        jobs.stop().await;
        drop(jobs);
        let jobs = world.jobs(None);
        world.wait_ms(1000).await;
        assert_eq!(world.topics.messages("v").len(), 1, "{lanes} lanes");
        world.topics.send("trips", None, Some(r#"{"n":4}"#));
        world.wait_ms(1000).await;
        assert_eq!(status(&jobs, "v").state, JobState::Running);
        assert_eq!(rows(&world, "v").await, [r#"{"rows":1,"total":4}"#]);
        jobs.stop().await;
        written.insert(format!("{:?}", world.topics.messages("v")));
    }
    assert_eq!(written.len(), 1, "each number of lanes writes the same");
}
