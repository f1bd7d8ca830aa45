//! Queries whose state has no room in memory: they give what they would give, and read what they need.

use std::sync::Arc;

use millpond_proto::message::JobId;
use millpond_proto::time::Clock as _;
use object_store::ObjectStore;

use super::equality::{self, Case, GRAPHS, PLANES, TRIPS, send_both, world_of};
use super::layered::{objects, saved};
use super::runtime::{JobParts, Jobs};
use super::tests::{Step, World, crashes_at, create, status};
use crate::continuous::JobState;
use crate::testing::hands::Hands;
use crate::testing::store::DyingStore;
use crate::topic::{JobSettings, Topics};

/// A chain of one step besides those that are graphs.
const CHAINS: &[Case] = &[
    Case {
        name: "by_plane",
        query: "SELECT plane, count(*) AS rows, sum(n) AS total, avg(x) AS mean FROM trips GROUP BY plane HAVING count(*) > 2",
        on_close: false,
    },
    Case {
        name: "kinds",
        query: "SELECT DISTINCT carrier, plane FROM trips",
        on_close: false,
    },
];

/// What went to rest since the last save may be there besides.
async fn nothing_is_missing(world: &World) {
    let (found, needed) = objects(world, "at rest").await;
    assert!(needed.is_subset(&found), "{needed:#?} of {found:#?}");
}

#[tokio::test(start_paused = true)]
async fn queries_whose_state_rests_equal_their_bounded_answer_after_crashes() {
    for (seed, batch_rows, step) in [
        (90, 7, Step::AfterCommit),
        (91, 4096, Step::BeforeCheckpointed),
    ] {
        let mut world = world_of(seed, batch_rows, &[TRIPS, PLANES]).await;
        world.rests_above = Some(0);
        for cases in [CHAINS, GRAPHS] {
            equality::check(&world, cases, &crashes_at(step), send_both).await;
        }
        nothing_is_missing(&world).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_reads_now_and_then_makes_a_query_start_over_and_not_err() {
    let mut world = world_of(92, 7, &[TRIPS, PLANES]).await;
    world.rests_above = Some(0);
    world.refuses = Some((97, 6));
    equality::check(&world, CHAINS, &[], send_both).await;
    let joins: Vec<&Case> = GRAPHS.iter().filter(|case| case.name == "lefts").collect();
    for case in joins {
        let case = Case { ..*case };
        equality::check(&world, &[case], &[], send_both).await;
    }
}

#[tokio::test(start_paused = true)]
async fn state_goes_to_rest_when_it_outgrows_its_memory_and_comes_back_when_there_is_room() {
    let mut world = world_of(93, 4096, &[TRIPS, PLANES]).await;
    let mut stretches = Vec::new();
    for (name, rests_above) in [
        ("a", None),
        ("b", Some(0)),
        ("c", Some(usize::MAX)),
        ("d", Some(2000)),
    ] {
        world.rests_above = rests_above;
        let jobs = world.jobs(None);
        let case = &GRAPHS[0];
        if name == "a" {
            let view = format!("CREATE MATERIALIZED VIEW {} AS {}", case.name, case.query);
            create(&jobs, &view).await.unwrap();
        }
        // State is saved every ten seconds.
        for _ in 0..20 {
            send_both(&world);
            world.wait_ms(700).await;
        }
        world.wait_ms(10_000).await;
        equality::compare(&world, &jobs, &GRAPHS[..1]).await;
        jobs.stop().await;
        let job = Topics::jobs(world.topics.as_ref())[0].id;
        stretches.push(saved(&world, job).await.1.stretches);
    }
    assert_eq!(stretches[..3], [0, 16, 0]);
    nothing_is_missing(&world).await;
}

/// Starts the queries of a world over a store that counts.
fn counted(world: &World) -> (Arc<Jobs>, DyingStore) {
    let store = DyingStore::counting(Arc::clone(&world.state) as Arc<dyn ObjectStore>);
    let parts = JobParts {
        topics: Arc::clone(&world.topics) as _,
        clock: Arc::clone(&world.clock) as _,
        spawn: Arc::new(Hands::new(2)),
        state: Arc::new(store.clone()),
    };
    (Jobs::start_resting(parts, world.rests_above), store)
}

#[tokio::test(start_paused = true)]
async fn a_restart_reads_what_its_rows_need_and_a_save_writes_what_they_change() {
    let mut world = World::new(94).await;
    world.rests_above = Some(100_000);
    let send = |world: &World, numbers: std::ops::Range<u32>| {
        let at = world.clock.now().as_ms();
        for delay in numbers {
            let body = format!("{{\"carrier\":\"AA\",\"delay\":{delay},\"at\":{at}}}");
            world.send(delay % 3, &body);
        }
    };
    let (jobs, _) = counted(&world);
    for (name, query) in [
        (
            "chain",
            "SELECT delay, count(*) AS n FROM flights GROUP BY delay",
        ),
        (
            "graph",
            "SELECT a.delay, count(*) AS n FROM flights a JOIN flights b ON a.delay = b.delay GROUP BY a.delay",
        ),
    ] {
        let view = format!("CREATE MATERIALIZED VIEW {name} AS {query}");
        create(&jobs, &view).await.unwrap();
    }
    send(&world, 0..4000);
    world.wait_ms(30_000).await;
    jobs.stop().await;
    let mut whole = 0;
    for job in Topics::jobs(world.topics.as_ref()) {
        let (_, facts) = saved(&world, job.id).await;
        assert_eq!(facts.stretches, 16, "{}", job.name);
        whole += facts.objects().map(|layer| layer.bytes).sum::<u64>();
    }
    let (jobs, store) = counted(&world);
    world.wait_ms(5000).await;
    let started = store.bytes_read();
    assert!(
        started < whole / 4,
        "{started} of {whole} bytes read to start"
    );
    send(&world, 77..78);
    world.wait_ms(30_000).await;
    let (read, wrote) = (store.bytes_read(), store.bytes_written());
    assert!(read < whole / 3, "{read} of {whole} bytes read for a row");
    assert!(
        wrote < whole / 8,
        "{wrote} bytes written for a row, of {whole}"
    );
    for name in ["chain", "graph"] {
        let status = status(&jobs, name);
        assert_eq!(status.state, JobState::Running, "{name}");
        let rest: u64 = status.operators.iter().map(|step| step.rest_bytes).sum();
        assert!(
            rest > 10 * status.state_bytes,
            "{name}: {rest} bytes at rest"
        );
    }
    let one = world.view("chain").into_values();
    assert_eq!(one.filter(|row| row.contains("\"n\":2")).count(), 1);
    jobs.stop().await;
}

#[tokio::test(start_paused = true)]
async fn state_in_many_stretches_comes_together_in_a_few() {
    let mut world = World::new(95).await;
    let send = |world: &World, numbers: std::ops::Range<u32>| {
        let at = world.clock.now().as_ms();
        for delay in numbers {
            let body = format!("{{\"carrier\":\"AA\",\"delay\":{delay},\"at\":{at}}}");
            world.send(delay % 3, &body);
        }
    };
    world.lanes = Some(1);
    world.rests_above = Some(1000);
    let jobs = world.jobs(None);
    let view =
        "CREATE MATERIALIZED VIEW chain AS SELECT delay, count(*) AS n FROM flights GROUP BY delay";
    create(&jobs, view).await.unwrap();
    send(&world, 0..1000);
    world.wait_ms(30_000).await;
    jobs.stop().await;
    let job = Topics::jobs(world.topics.as_ref())[0].id;
    let (_, facts) = saved(&world, job).await;
    assert_eq!(facts.stretches, 16);
    let memory: u64 = facts.parts.iter().map(|part| part.memory_bytes).sum();
    let limit = |state_bytes_max: Option<u64>| {
        let settings = JobSettings {
            state_bytes_max,
            ..JobSettings::default()
        };
        Topics::set_job(world.topics.as_ref(), JobId(job), settings)
    };
    // Two of sixteen have no room, two of more have.
    limit(Some(memory / 10)).await.unwrap();
    let jobs = world.jobs(None);
    send(&world, 0..100);
    world.wait_ms(30_000).await;
    jobs.stop().await;
    assert_eq!(saved(&world, job).await.1.stretches, 64);
    // There is room for it as a whole, until it grows.
    limit(None).await.unwrap();
    world.rests_above = Some(usize::try_from(memory).unwrap() * 4);
    let jobs = world.jobs(None);
    send(&world, 500..8000);
    world.wait_ms(30_000).await;
    let status = status(&jobs, "chain");
    assert_eq!(status.state, JobState::Running, "{:?}", status.error);
    jobs.stop().await;
    assert_eq!(saved(&world, job).await.1.stretches, 16);
    let rows: Vec<String> = world.view("chain").into_values().collect();
    assert_eq!(rows.len(), 8000);
    let twice = rows.iter().filter(|row| row.contains("\"n\":2"));
    assert_eq!(twice.count(), 600);
}
