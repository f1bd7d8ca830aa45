//! How a query is run may change while it runs: nothing that it computes does.

use millpond_proto::message::JobId;

use super::tests::{World, check, create_both, status};
use crate::continuous::{Continuous, JobState};
use crate::statement::{Statement, parse};
use crate::topic::{JobSettings, Topics};

async fn alter(jobs: &dyn Continuous, sql: &str) {
    match parse(sql).unwrap() {
        Statement::AlterJob { name, change } => jobs.alter_job(&name, change).await.unwrap(),
        other => panic!("{other:?}"),
    }
}

async fn send(world: &World) {
    for _ in 0..20 {
        world.send_some();
        world.wait_ms(world.chance.below(160)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_altered_parallelism_holds_over_restarts_and_changes_no_row() {
    let world = World::new(300).await;
    let jobs = world.jobs(None);
    create_both(&jobs, "").await;
    send(&world).await;
    for lanes in [3_u64, 1, 5] {
        for view in ["changes", "closed"] {
            let set = format!("ALTER MATERIALIZED VIEW {view} SET (parallelism = {lanes})");
            alter(jobs.as_ref(), &set).await;
        }
        send(&world).await;
        assert_eq!(status(&jobs, "closed").parallelism, lanes);
    }
    jobs.stop().await;
    let jobs = world.jobs(None);
    send(&world).await;
    world.wait_ms(30_000).await;
    assert_eq!(status(&jobs, "changes").parallelism, 5);
    check(&world, &jobs, "altered");
    alter(
        jobs.as_ref(),
        "ALTER JOB closed SET (parallelism = DEFAULT)",
    )
    .await;
    assert_eq!(world.topics.jobs()[1].settings, JobSettings::default());
    let nobody = parse("ALTER JOB nobody SET (parallelism = 2)").unwrap();
    let Statement::AlterJob { name, change } = nobody else {
        panic!("{nobody:?}");
    };
    assert!(jobs.alter_job(&name, change).await.is_err());
    jobs.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_query_that_met_its_state_limit_goes_on_when_it_is_raised() {
    let world = World::new(301).await;
    let jobs = world.jobs(None);
    create_both(&jobs, "").await;
    for job in world.topics.jobs() {
        let settings = JobSettings {
            state_bytes_max: Some(700),
            ..JobSettings::default()
        };
        world.topics.set_job(JobId(job.id), settings).await.unwrap();
    }
    jobs.stop().await;
    let jobs = world.jobs(None);
    send(&world).await;
    world.wait_ms(1000).await;
    let failed = status(&jobs, "changes");
    assert_eq!(
        (failed.state, failed.state_bytes_max),
        (JobState::Failed, 700)
    );
    let error = failed.error.unwrap();
    assert!(
        error.contains("limit 700") && error.contains("ALTER JOB"),
        "{error}"
    );
    for view in ["changes", "closed"] {
        let set = format!("ALTER JOB {view} SET (state_limit = '1 MiB')");
        alter(jobs.as_ref(), &set).await;
    }
    world.wait_ms(30_000).await;
    check(&world, &jobs, "raised");
    jobs.stop().await;
}

#[tokio::test(start_paused = true)]
async fn trouble_that_does_not_pass_fails_the_query_and_a_resume_goes_on() {
    let world = World::new(302).await;
    let jobs = world.jobs(None);
    create_both(&jobs, "").await;
    alter(jobs.as_ref(), "ALTER JOB changes SET (restarts = 2)").await;
    jobs.stop().await;
    let jobs = world.troubled_jobs(None, 20);
    for _ in 0..5 {
        world.send_some();
    }
    world.wait_ms(400).await;
    let troubled = status(&jobs, "closed");
    assert_eq!(troubled.state, JobState::Restarting, "{troubled:?}");
    assert!(troubled.error.is_some() && troubled.restarts > 0);
    world.wait_ms(10_000).await;
    let failed = status(&jobs, "changes");
    assert_eq!((failed.state, failed.restarts), (JobState::Failed, 2));
    let error = failed.error.unwrap();
    assert!(
        error.contains("started over 2 times within an hour") && error.contains("RESUME JOB"),
        "{error}"
    );
    world.wait_ms(120_000).await;
    jobs.resume("changes").await.unwrap();
    send(&world).await;
    world.wait_ms(30_000).await;
    check(&world, &jobs, "resumed");
    jobs.stop().await;
}
