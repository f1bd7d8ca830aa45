//! What jobs commit and append: once, in order, and never before a tick that is closed.

use millpond_sql::topic::{ColumnSpec, TimeBehind, WatermarkSpec};

use super::*;

#[tokio::test(start_paused = true)]
async fn an_effect_asked_twice_adds_nothing_and_epochs_come_in_order() {
    let disk = SimulatedDisk::new();
    let broker = open(&disk).await;
    let output = broker.create_topic(new_topic()).await.unwrap();
    let sql: &dyn Topics = &*broker;
    let job = JobId(
        sql.create_job("j", "SELECT 1", &[output.id])
            .await
            .unwrap()
            .id,
    );
    let cut = |epoch| EpochCut {
        epoch,
        tick_ms: 100,
        offsets: vec![(1, 0, epoch)],
    };
    let rows: Vec<OutputRow> = (0..10)
        .map(|n| OutputRow {
            key: Some(Bytes::from(format!("k{n}"))),
            body: Some(Bytes::from(format!("v{n}"))),
            properties: Vec::new(),
        })
        .collect();
    sql.commit(job, cut(1)).await.unwrap();
    sql.commit(job, cut(1)).await.unwrap();
    assert!(sql.commit(job, cut(3)).await.is_err());
    for _ in 0..2 {
        sql.append(job, output.id, Epoch(1), rows.clone())
            .await
            .unwrap();
    }
    for _ in 0..2 {
        sql.pause_job(job, true).await.unwrap();
    }
    assert!(sql.pause_job(JobId(job.0 + 1), true).await.is_err());
    let settings = JobSettings {
        parallelism: Some(3),
        state_bytes_max: Some(1 << 30),
        restarts_max: None,
    };
    sql.set_job(job, settings).await.unwrap();
    assert!(sql.set_job(JobId(job.0 + 1), settings).await.is_err());
    drop(broker);
    let disk = disk.crash(&Seeded::new(9));
    let broker = open(&disk).await;
    let sql: &dyn Topics = &*broker;
    assert!(sql.jobs()[0].paused, "a job rests over a crash");
    assert_eq!(
        sql.jobs()[0].settings,
        settings,
        "and is run as it was told"
    );
    sql.pause_job(job, false).await.unwrap();
    assert!(!sql.jobs()[0].paused);
    // Queues that were added meanwhile change nothing of what the epoch has.
    let more = millpond_sql::topic::TopicChange {
        queues: Some(8),
        ..Default::default()
    };
    sql.alter_topic(topic().as_str(), more).await.unwrap();
    sql.append(job, output.id, Epoch(1), rows).await.unwrap();
    let extents = Topics::extents(&*broker, output.id).unwrap();
    let stored: u64 = extents.iter().map(|e| e.next.0).sum();
    assert_eq!(stored, 10);
    assert_eq!(sql.progress(job).await.unwrap().cuts, [cut(1)]);
    sql.checkpointed(job, Epoch(1), "jobs/1").await.unwrap();
    let progress = sql.progress(job).await.unwrap();
    assert_eq!(
        (progress.checkpoint, progress.cuts),
        (Some((1, "jobs/1".to_owned())), vec![])
    );
}

#[tokio::test(start_paused = true)]
async fn no_row_is_stored_before_a_closed_tick_even_when_the_clock_was_set_back() {
    let disk = SimulatedDisk::new();
    let broker = open(&disk).await;
    let made = broker.create_topic(new_topic()).await.unwrap();
    let future = Timestamp(broker.now().as_ms() + 3_600_000);
    broker.close_ticks(&[made.id], future).await.unwrap();
    send(&broker, &["a"]).await;
    let (read, next) = {
        let mut found = (Vec::new(), Offset(0));
        for queue in 0..4 {
            let (read, next) = broker
                .read(&topic(), QueueId(queue), Offset(0), 10)
                .await
                .unwrap();
            if !read.is_empty() {
                found = (read, next);
            }
        }
        found
    };
    assert_eq!(next, Offset(1));
    assert!(read[0].stored_at() >= future);
}

#[tokio::test(start_paused = true)]
async fn no_row_is_stored_before_the_tick_of_the_epoch_that_was_saved_last() {
    let disk = SimulatedDisk::new();
    let broker = open(&disk).await;
    broker.create_topic(new_topic()).await.unwrap();
    let sql: &dyn Topics = &*broker;
    let job = JobId(sql.create_job("view", "SELECT 1", &[]).await.unwrap().id);
    let tick = Timestamp(broker.now().as_ms() + 3_600_000);
    let cut = EpochCut {
        epoch: 1,
        tick_ms: tick.as_ms(),
        offsets: Vec::new(),
    };
    sql.commit(job, cut).await.unwrap();
    sql.checkpointed(job, Epoch(1), "jobs/1").await.unwrap();
    broker.close().await;
    let broker = open(&disk).await;
    assert!(broker.now() < tick, "the clock was set back");
    let sent = send(&broker, &["a"]).await[0];
    let read = broker
        .read(&topic(), sent.queue, sent.offset, 1)
        .await
        .unwrap();
    assert!(read.0[0].stored_at() >= tick);
    broker.close().await;
}

#[tokio::test(start_paused = true)]
async fn rows_of_a_view_that_have_an_event_time_are_stored_in_its_order() {
    let broker = open(&SimulatedDisk::new()).await;
    let closed = NewTopic {
        columns: vec![ColumnSpec {
            name: "window_end".into(),
            sql_type: "TIMESTAMP".into(),
            expression: None,
        }],
        watermark: Some(WatermarkSpec {
            column: "window_end".into(),
            delay_ms: 0,
            behind: Vec::new(),
        }),
        written_by: Some(topic().as_str().to_owned()),
        ..new_topic()
    };
    let output = broker.create_topic(closed).await.unwrap();
    let sql: &dyn Topics = &*broker;
    let made = sql
        .create_job(topic().as_str(), "SELECT 1", &[output.id])
        .await;
    let job = JobId(made.unwrap().id);
    for epoch in 1..=8 {
        let cut = EpochCut {
            epoch,
            tick_ms: 100,
            offsets: Vec::new(),
        };
        sql.commit(job, cut).await.unwrap();
        let row = |n| OutputRow {
            key: None,
            body: Some(Bytes::from(format!("{epoch}-{n}"))),
            properties: Vec::new(),
        };
        let rows = (0..3).map(row).collect();
        sql.append(job, output.id, Epoch(epoch), rows)
            .await
            .unwrap();
    }
    let mut queues = Vec::new();
    for queue in 0..4 {
        let read = broker.read(&topic(), QueueId(queue), Offset(0), 100).await;
        let bodies = read.unwrap().0.into_iter().map(|one| one.body.unwrap());
        queues.push(bodies.collect::<Vec<Bytes>>());
    }
    let epochs = queues.iter().flat_map(|bodies| bodies.chunks(3));
    let mut told: Vec<String> = epochs
        .map(|rows| String::from_utf8(rows.concat()).unwrap())
        .collect();
    told.sort();
    let expected: Vec<String> = (1..=8).map(|n| format!("{n}-0{n}-1{n}-2")).collect();
    assert_eq!(told, expected, "an epoch lies in one queue");
    let used = queues.iter().filter(|bodies| !bodies.is_empty()).count();
    assert!(used > 1, "epochs share the queues");
    broker.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_topic_remembers_over_a_crash_which_times_follow_its_event_time() {
    let disk = SimulatedDisk::new();
    let broker = open(&disk).await;
    let watermark = WatermarkSpec {
        column: "window_end".to_owned(),
        delay_ms: 0,
        behind: vec![TimeBehind {
            column: "window_start".to_owned(),
            by_ms: 60_000,
        }],
    };
    let made = NewTopic {
        watermark: Some(watermark.clone()),
        written_by: Some("minutes".to_owned()),
        ..new_topic()
    };
    broker.create_topic(made).await.unwrap();
    drop(broker);
    let broker = open(&disk.crash(&Seeded::new(11))).await;
    let found = Topics::topic(&*broker, topic().as_str()).unwrap();
    assert_eq!(found.watermark, Some(watermark));
}
