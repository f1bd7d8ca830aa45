//! Savepoints over a broker in memory: a job that goes on from one writes what an undisturbed one writes.

use object_store::ObjectStore;
use object_store::path::Path;

use super::super::tests::{STEPS, World, create, status};
use super::*;
use crate::continuous::{Continuous, JobState};
use crate::topic::{ColumnSpec, NewTopic};

const SUMS: &str =
    "SELECT carrier, count(*) AS n, sum(delay) AS total FROM flights GROUP BY carrier";
const CLOSED: &str = "SELECT carrier, count(*) AS n, sum(delay) AS total \
     FROM TUMBLE(TABLE flights, DESCRIPTOR(at), INTERVAL '1 second') \
     GROUP BY carrier, window_start, window_end EMIT ON WINDOW CLOSE";
const PAIRS: &str = "SELECT a.carrier, count(*) AS n, sum(b.delay) AS total FROM flights a \
     JOIN flights b ON a.carrier = b.carrier AND a.delay = b.delay GROUP BY a.carrier";

async fn target(world: &World, name: &str, is_keyed: bool) {
    let column = |name: &str, sql_type: &str| ColumnSpec {
        name: name.to_owned(),
        sql_type: sql_type.to_owned(),
        expression: None,
    };
    let topic = NewTopic {
        name: name.to_owned(),
        queues: Some(1),
        columns: vec![
            column("carrier", "VARCHAR"),
            column("n", "BIGINT"),
            column("total", "DOUBLE"),
        ],
        primary_key: is_keyed.then(|| "carrier".to_owned()).into_iter().collect(),
        ..NewTopic::default()
    };
    world.topics.create_topic(topic).await.unwrap();
}

async fn send_for_a_while(world: &World) {
    for _ in 0..20 {
        world.send_some();
        world.wait_ms(world.chance.below(160)).await;
    }
}

async fn change(jobs: &Jobs, sql: &str) -> Result<(), SqlError> {
    match parse(sql)? {
        Statement::Savepoint(change) => jobs.savepoint(&change).await,
        other => panic!("{other:?}"),
    }
}

async fn objects(world: &World) -> Vec<String> {
    let folder = Path::from(FOLDER);
    let listed = world.state.list(Some(&folder));
    let listed = listed.map(|object| object.unwrap().location.to_string());
    listed.collect().await
}

#[tokio::test(start_paused = true)]
async fn a_job_that_goes_on_from_a_savepoint_writes_what_one_writes_that_never_stopped() {
    let crashes = STEPS.iter().map(|step| Some((*step, 2))).chain([None]);
    for (seed, crash) in (900..).zip(crashes) {
        let mut world = World::new(seed).await;
        // A savepoint holds the whole state, wherever it lies.
        world.rests_above = (seed % 2 == 0).then_some(0);
        let queries = [
            ("sums", SUMS, true),
            ("closed", CLOSED, false),
            ("pairs", PAIRS, true),
        ];
        let jobs = world.jobs(None);
        for (name, query, is_keyed) in queries {
            for topic in [name.to_owned(), format!("{name}_whole")] {
                target(&world, &topic, is_keyed).await;
                let job = format!("CREATE JOB {topic}_job AS INSERT INTO {topic} {query}");
                create(&jobs, &job).await.unwrap();
            }
        }
        send_for_a_while(&world).await;
        for (name, ..) in queries {
            let stop = format!("STOP JOB {name}_job WITH SAVEPOINT {name}_point");
            change(&jobs, &stop).await.unwrap();
            assert!(jobs.describe(&format!("{name}_job")).is_none());
        }
        send_for_a_while(&world).await;
        jobs.stop().await;
        drop(jobs);
        world.lanes = Some(2);
        let jobs = world.jobs(None);
        for (name, query, _) in queries {
            let job = format!(
                "CREATE JOB again_{name} WITH (savepoint = '{name}_point', parallelism = 3) AS INSERT INTO {name} {query}"
            );
            create(&jobs, &job).await.unwrap();
        }
        drop(jobs);
        let turn = |world: &World| {
            world.send_some();
            world.chance.below(160)
        };
        world.lives(&[crash], 20, turn).await;
        let jobs = world.jobs(None);
        world.wait_ms(30_000).await;
        for (name, _, is_keyed) in queries {
            let whole = format!("{name}_whole");
            assert_eq!(world.view(name), world.view(&whole), "{name}, seed {seed}");
            if !is_keyed {
                let sorted = |topic: &str| {
                    let mut rows = world.rows(topic);
                    rows.sort();
                    rows
                };
                assert!(sorted(name).len() > 10, "the test closes windows");
                assert_eq!(sorted(name), sorted(&whole), "{name}, seed {seed}");
            }
            change(&jobs, &format!("DROP SAVEPOINT {name}_point"))
                .await
                .unwrap();
        }
        assert_eq!(objects(&world).await, Vec::<String>::new());
        jobs.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_savepoint_of_a_running_job_parts_its_rows_into_those_before_and_those_after() {
    let world = World::new(920).await;
    for topic in ["closed", "after"] {
        target(&world, topic, false).await;
    }
    let jobs = world.jobs(None);
    create(
        &jobs,
        &format!("CREATE JOB j AS INSERT INTO closed {CLOSED}"),
    )
    .await
    .unwrap();
    send_for_a_while(&world).await;
    change(&jobs, "CREATE SAVEPOINT s FOR JOB j").await.unwrap();
    let before = world.rows("closed").len();
    assert!(before > 0, "windows closed before it");
    send_for_a_while(&world).await;
    let after = format!("CREATE JOB k WITH (savepoint = 's') AS INSERT INTO after {CLOSED}");
    create(&jobs, &after).await.unwrap();
    world.wait_ms(30_000).await;
    assert_eq!(status(&jobs, "j").state, JobState::Running);
    assert_eq!(world.rows("closed")[before..], world.rows("after"));
    jobs.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_rests_gives_the_state_that_it_would_go_on_from() {
    let world = World::new(930).await;
    for topic in ["sums", "again"] {
        target(&world, topic, true).await;
    }
    let jobs = world.jobs(None);
    create(&jobs, &format!("CREATE JOB j AS INSERT INTO sums {SUMS}"))
        .await
        .unwrap();
    send_for_a_while(&world).await;
    world.wait_ms(1000).await;
    jobs.pause("j").await.unwrap();
    change(&jobs, "CREATE SAVEPOINT s FOR JOB j").await.unwrap();
    assert_eq!(status(&jobs, "j").state, JobState::Paused);
    let again = format!("CREATE JOB k WITH (savepoint = 's') AS INSERT INTO again {SUMS}");
    create(&jobs, &again).await.unwrap();
    world.wait_ms(1000).await;
    assert_eq!(world.rows("again").len(), 0, "nothing is written twice");
    assert_eq!(status(&jobs, "k").rows_in, status(&jobs, "j").rows_in);
    jobs.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_can_not_be_gone_on_from_is_refused_with_the_reason() {
    let world = World::new(940).await;
    target(&world, "sums", true).await;
    let jobs = world.jobs(None);
    create(&jobs, &format!("CREATE JOB j AS INSERT INTO sums {SUMS}"))
        .await
        .unwrap();
    create(
        &jobs,
        "CREATE MATERIALIZED VIEW v AS SELECT carrier FROM flights",
    )
    .await
    .unwrap();
    for _ in 0..20 {
        world.send_some();
    }
    world.wait_ms(1000).await;
    change(&jobs, "CREATE SAVEPOINT point FOR JOB j")
        .await
        .unwrap();
    for (sql, expected) in [
        ("CREATE SAVEPOINT point FOR JOB j", "exists already"),
        ("CREATE SAVEPOINT other FOR JOB jj", "did you mean j?"),
        (
            "CREATE SAVEPOINT other FOR MATERIALIZED VIEW v",
            "v is a materialized view",
        ),
        ("DROP SAVEPOINT poind", "did you mean point?"),
    ] {
        let error = change(&jobs, sql).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let changed = SUMS.replace("sum(delay)", "max(delay)");
    let other = format!("CREATE JOB k WITH (savepoint = 'point') AS INSERT INTO sums {changed}");
    let error = create(&jobs, &other).await.unwrap_err().to_string();
    assert!(
        error.contains("savepoint point is of another query: it has \"query SELECT carrier"),
        "{error}"
    );
    // A job that has not saved anything stands on the savepoint.
    jobs.pause("j").await.unwrap();
    let again = format!("CREATE JOB k WITH (savepoint = 'point') AS INSERT INTO sums {SUMS}");
    create(&jobs, &again).await.unwrap();
    let error = change(&jobs, "DROP SAVEPOINT point")
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("job k began with savepoint point"),
        "{error}"
    );
    for _ in 0..20 {
        world.send_some();
    }
    world.wait_ms(1000).await;
    // Rows went that come after it.
    let flights = world.topics.topic("flights").unwrap().id;
    for extent in world.topics.extents(flights).unwrap() {
        world.topics.let_go(flights, extent.queue, extent.next);
    }
    let late = again.replace("JOB k", "JOB late");
    let error = create(&jobs, &late).await.unwrap_err().to_string();
    assert!(
        error.contains("savepoint point goes on from offset"),
        "{error}"
    );
    assert!(
        error.contains("of topic flights, and rows before offset"),
        "{error}"
    );
    change(&jobs, "DROP SAVEPOINT point").await.unwrap();
    change(&jobs, "DROP SAVEPOINT IF EXISTS point")
        .await
        .unwrap();
    jobs.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_meets_trouble_again_and_again_says_so_to_whoever_asks_and_to_whoever_stops_it()
{
    let mut world = World::new(950).await;
    target(&world, "sums", true).await;
    let jobs = world.jobs(None);
    create(&jobs, &format!("CREATE JOB j AS INSERT INTO sums {SUMS}"))
        .await
        .unwrap();
    send_for_a_while(&world).await;
    jobs.stop().await;
    world.refuses = Some((1, u64::MAX));
    let jobs = world.jobs(None);
    world.wait_ms(1000).await;
    assert_eq!(status(&jobs, "j").state, JobState::Restarting);
    let error = change(&jobs, "CREATE SAVEPOINT s FOR JOB j").await;
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("the query starts over after trouble"),
        "{error}"
    );
    // One that asks is not in the way of the end.
    let asks = async {
        let asked = change(&jobs, "CREATE SAVEPOINT s FOR JOB j").await;
        assert!(asked.is_err());
    };
    tokio::join!(asks, jobs.stop());
}
