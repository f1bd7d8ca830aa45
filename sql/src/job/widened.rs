//! A topic that gets a column under queries that name those that they read; one that reads `*` is in its way, see
//! [`crate::batch::dependents`].

use super::tests::{World, create, status};
use crate::continuous::JobState;
use crate::topic::{ColumnSpec, TopicChange, Topics};

async fn widen(world: &World) {
    let column = ColumnSpec {
        name: "more".to_owned(),
        sql_type: "BIGINT".to_owned(),
        expression: None,
    };
    let change = TopicChange {
        add_columns: vec![column],
        ..TopicChange::default()
    };
    world.topics.alter_topic("flights", change).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn queries_that_name_their_columns_go_on_when_there_is_one_more() {
    let world = World::new(310).await;
    let jobs = world.jobs(None);
    for (view, sql) in [
        ("rows", "SELECT carrier, delay, at FROM flights"),
        (
            "groups",
            "SELECT DISTINCT carrier, _queue AS queue FROM flights",
        ),
        (
            "windows",
            "SELECT carrier, window_start, count(*) AS c FROM TUMBLE(TABLE flights, DESCRIPTOR(at), INTERVAL '1 hour') GROUP BY carrier, window_start",
        ),
        (
            "joined",
            "SELECT a.carrier, b.delay AS later FROM flights a JOIN flights b ON a.carrier = b.carrier AND a.at < b.at",
        ),
    ] {
        create(&jobs, &format!("CREATE MATERIALIZED VIEW {view} AS {sql}"))
            .await
            .unwrap();
    }
    let send = async || {
        for _ in 0..5 {
            world.send_some();
            world.wait_ms(300).await;
        }
        world.wait_ms(2000).await;
    };
    send().await;
    widen(&world).await;
    jobs.stop().await;
    let jobs = world.jobs(None);
    send().await;
    for view in ["rows", "groups", "windows", "joined"] {
        let status = status(&jobs, view);
        // Its error may tell of a row that could not be decoded.
        assert_eq!(
            (status.state, status.lag),
            (JobState::Running, 0),
            "{view}: {:?}",
            status.error
        );
        assert!(!world.rows(view).is_empty(), "{view}");
    }
    jobs.stop().await;
}
