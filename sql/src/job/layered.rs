//! Queries whose state store dies at any call: what is restored is what was recorded, and nothing is left over.

use std::collections::BTreeSet;

use futures::StreamExt as _;
use millpond_proto::message::JobId;
use millpond_proto::time::Clock as _;
use object_store::path::Path;
use object_store::{ObjectStore as _, ObjectStoreExt as _};

use super::tests::{World, check, create, create_both, status};
use crate::continuous::JobState;
use crate::state::checkpoint::{Checkpoint, Facts, object_at};
use crate::testing::store::Last;
use crate::topic::Topics as _;

/// Long enough for checkpoints, which come every ten seconds.
async fn send_for_a_while(world: &World) {
    for _ in 0..30 {
        world.send_some();
        world.wait_ms(world.chance.below(1200)).await;
    }
}

/// What a query recorded that it goes on from.
pub(super) async fn saved(world: &World, job: u64) -> (String, Facts) {
    let progress = world.topics.progress(JobId(job)).await.unwrap();
    let (_, key) = progress.checkpoint.expect("it was saved");
    let object = object_at(world.state.as_ref(), &key).await.unwrap();
    let facts = Checkpoint::decode(&key, &object).unwrap().facts;
    (key, facts)
}

/// Every object is one that a recorded checkpoint needs, and is there.
async fn nothing_is_left_over(world: &World, context: &str) {
    let (found, needed) = objects(world, context).await;
    assert_eq!(found, needed, "{context}");
}

/// The objects that are there, and those that a recorded checkpoint needs.
pub(super) async fn objects(world: &World, context: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let mut needed = BTreeSet::new();
    for job in world.topics.jobs() {
        let (key, facts) = saved(world, job.id).await;
        assert!(facts.objects().count() > 0, "{context}: {key}");
        needed.extend(facts.objects().map(|layer| layer.key.clone()));
        needed.insert(key);
    }
    let found = world
        .state
        .list(None)
        .map(|object| object.unwrap().location.to_string());
    (found.collect().await, needed)
}

#[tokio::test(start_paused = true)]
async fn a_store_that_dies_at_any_call_leaves_what_was_recorded() {
    for last in 0..16 {
        for is in [Last::Undone, Last::Done] {
            let context = format!("last call {last}, {is:?}");
            let mut world = World::new(300 + last).await;
            let jobs = world.jobs(None);
            create_both(&jobs, "").await;
            send_for_a_while(&world).await;
            drop(jobs);
            world.last_call = Some((last, is));
            let jobs = world.jobs(None);
            send_for_a_while(&world).await;
            drop(jobs);
            world.last_call = None;
            let jobs = world.jobs(None);
            send_for_a_while(&world).await;
            world.wait_ms(30_000).await;
            check(&world, &jobs, &context);
            jobs.stop().await;
            nothing_is_left_over(&world, &context).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_query_that_took_few_rows_since_writes_little() {
    let world = World::new(400).await;
    let jobs = world.jobs(None);
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
    let send = |numbers: std::ops::Range<u32>| {
        let at = world.clock.now().as_ms();
        for delay in numbers {
            let body = format!("{{\"carrier\":\"AA\",\"delay\":{delay},\"at\":{at}}}");
            world.send(delay % 3, &body);
        }
    };
    send(0..3000);
    world.wait_ms(11_000).await;
    send(2990..3010);
    world.wait_ms(1000).await;
    jobs.stop().await;
    for job in world.topics.jobs() {
        let (_, facts) = saved(&world, job.id).await;
        let bytes: Vec<u64> = facts.layers.iter().map(|layer| layer.bytes).collect();
        let is_small = matches!(bytes[..], [base, top] if base > 20 * top);
        assert!(is_small, "{}: {bytes:?}", job.name);
    }
}

#[tokio::test(start_paused = true)]
async fn saved_state_of_other_steps_is_refused_and_not_taken_for_these() {
    let world = World::new(401).await;
    let jobs = world.jobs(None);
    create_both(&jobs, "").await;
    send_for_a_while(&world).await;
    jobs.stop().await;
    let job = &world.topics.jobs()[0];
    let (key, mut facts) = saved(&world, job.id).await;
    let steps = std::mem::replace(&mut facts.steps, vec!["sessions: Utf8".to_owned()]);
    assert_eq!(steps.len(), 1, "{steps:?}");
    let state = None;
    let object = Checkpoint { facts, state }.encode().unwrap();
    let location = Path::from(key.as_str());
    world.state.put(&location, object.into()).await.unwrap();
    let jobs = world.jobs(None);
    world.wait_ms(1000).await;
    let failed = status(&jobs, &job.name);
    assert_eq!(failed.state, JobState::Failed);
    let error = failed.error.unwrap();
    let told = format!("step 0 was sessions: Utf8, now it is {}", steps[0]);
    assert!(error.contains(&told), "{error}");
    jobs.stop().await;
}
