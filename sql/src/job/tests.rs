//! Continuous queries over a broker in memory, in simulated time, with crashes between any two steps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use millpond_proto::chance::Seeded;
use millpond_proto::message::{JobId, Offset, QueueId};
use millpond_proto::time::{Clock, SimulatedClock, Timestamp};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::Value;

use super::runtime::{JobParts, Jobs};
use crate::continuous::{Continuous, JobState, JobStatus};
use crate::error::SqlError;
use crate::progress::tick_of;
use crate::statement::{Statement, parse};
pub(super) use crate::testing::dying::{Dying, Fuse, STEPS, Step};
use crate::testing::hands::Hands;
use crate::testing::store::{DyingStore, Last};
use crate::testing::{MemoryTopics, StoredMessage};
use crate::topic::{ColumnSpec, NewTopic, Topics, WatermarkSpec};

const START_MS: i64 = 1_700_000_000_000;
const WINDOW_MS: i64 = 1000;
const DELAY_MS: i64 = 700;
const QUEUES: u32 = 3;

const AGGREGATES: &str = "SELECT carrier, window_start, window_end, count(*) AS n, sum(delay) AS total, \
     avg(delay) AS mean, min(delay) AS least, max(delay) AS most, stddev(delay) AS spread, \
     count(DISTINCT delay) AS kinds FROM TUMBLE(TABLE flights, DESCRIPTOR(at), INTERVAL '1 second') \
     GROUP BY carrier, window_start, window_end";

/// A broker, its clock and its state store; all outlive the jobs.
pub(super) struct World {
    pub(super) clock: Arc<SimulatedClock>,
    pub(super) topics: Arc<MemoryTopics>,
    pub(super) state: Arc<InMemory>,
    pub(super) chance: Seeded,
    /// In how many lanes jobs compute; `None`: another number at each start.
    pub(super) lanes: Option<usize>,
    /// After which call nobody hears from the state store again.
    pub(super) last_call: Option<(u64, Last)>,
    /// Of how many reads the state store refuses one, and how often after each start.
    pub(super) refuses: Option<(u64, u64)>,
    /// Memory above which state goes to rest; `None`: as it is outside of tests.
    pub(super) rests_above: Option<usize>,
    starts: AtomicUsize,
}

/// Turns of one life, at most: a query that did not die by then never would.
const TURNS_MAX: u32 = 400;

/// The lives that queries lead, one after the other, so that each step is met early and late: where state is saved,
/// at the first save, at one that lays a layer on it, and at one that merges.
pub(super) fn crashes_at(step: Step) -> Vec<Option<Fuse>> {
    let times: &[u32] = if step.is_of_saving() {
        &[1, 2, 3]
    } else {
        &[2, 14]
    };
    times.iter().map(|times| Some((step, *times))).collect()
}

impl World {
    pub(super) async fn new(seed: u64) -> Self {
        let clock = Arc::new(SimulatedClock::starting_at(Timestamp(START_MS)));
        let topics = MemoryTopics::new(Arc::clone(&clock) as Arc<dyn Clock>);
        let world = Self {
            clock,
            topics,
            state: Arc::new(InMemory::new()),
            chance: Seeded::new(seed),
            lanes: None,
            last_call: None,
            refuses: None,
            rests_above: None,
            starts: AtomicUsize::new(0),
        };
        world.make_flights("flights", true).await;
        world
    }

    async fn make_flights(&self, name: &str, with_watermark: bool) {
        let column = |name: &str, sql_type: &str| ColumnSpec {
            name: name.to_owned(),
            sql_type: sql_type.to_owned(),
            expression: None,
        };
        let topic = NewTopic {
            name: name.to_owned(),
            queues: Some(QUEUES),
            columns: vec![
                column("carrier", "VARCHAR"),
                column("delay", "DOUBLE"),
                column("at", "TIMESTAMP"),
            ],
            watermark: with_watermark.then(|| WatermarkSpec {
                column: "at".to_owned(),
                delay_ms: DELAY_MS,
                behind: Vec::new(),
            }),
            primary_key: Vec::new(),
            written_by: None,
            ..NewTopic::default()
        };
        self.topics.create_topic(topic).await.unwrap();
    }

    pub(super) fn jobs(&self, fuse: Option<Fuse>) -> Arc<Jobs> {
        self.troubled_jobs(fuse, 0)
    }

    pub(super) fn troubled_jobs(&self, fuse: Option<Fuse>, troubles: u32) -> Arc<Jobs> {
        self.jobs_over(Arc::new(Dying::new(
            Arc::clone(&self.topics),
            fuse,
            troubles,
        )))
    }

    /// Lets queries live and die as told, one life after the other, and in the end one life that is only ended. A
    /// turn sends and says how long to wait; a life has `turns` of them, and more until its queries died.
    pub(super) async fn lives(
        &self,
        fuses: &[Option<Fuse>],
        turns: u32,
        turn: impl Fn(&Self) -> u64,
    ) {
        for fuse in fuses.iter().copied().chain([None]) {
            let topics = Arc::new(Dying::new(Arc::clone(&self.topics), fuse, 0));
            let jobs = self.jobs_over(Arc::clone(&topics));
            let mut count = 0;
            while count < turns || fuse.is_some_and(|fuse| !self.died_enough(fuse, &topics)) {
                let alive = || self.alive(&topics);
                assert!(count < TURNS_MAX, "{fuse:?} never burned for {:?}", alive());
                count += 1;
                self.wait_ms(turn(self)).await;
                // Time is what later saves wait for.
                if fuse.is_some_and(|(step, _)| step.is_of_saving()) && self.chance.below(8) == 0 {
                    self.wait_ms(10_000).await;
                }
            }
            drop(jobs);
        }
    }

    /// The queries that may still die: one that reads what a dead query writes is given no more of it.
    fn alive(&self, topics: &Dying) -> Vec<String> {
        let died = topics.died();
        let is_starved = |sql: &str| {
            let mut words = sql.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
            words.any(|word| died.iter().any(|dead| dead == word))
        };
        let jobs = self.topics.jobs().into_iter();
        let jobs = jobs.filter(|job| !is_starved(&job.sql));
        jobs.map(|job| job.name).collect()
    }

    /// Each query reads, commits and saves; some have nothing more to write, or seldom.
    fn died_enough(&self, (step, _): Fuse, topics: &Dying) -> bool {
        let (died, alive) = (topics.died().len(), self.alive(topics).len());
        match step {
            Step::AfterAppend => died > alive,
            _ => alive == 0,
        }
    }

    fn jobs_over(&self, topics: Arc<Dying>) -> Arc<Jobs> {
        let start = self.starts.fetch_add(1, Ordering::Relaxed);
        let lanes = self.lanes.unwrap_or([1, 3, 2][start % 3]);
        let parts = JobParts {
            topics,
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            spawn: Arc::new(Hands::new(lanes)),
            state: self.store(),
        };
        Jobs::start_resting(parts, self.rests_above)
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        let state = Arc::clone(&self.state) as Arc<dyn ObjectStore>;
        match (self.last_call, self.refuses) {
            (Some((last, is)), _) => Arc::new(DyingStore::dying(state, last, is)),
            (None, Some((every, times))) => Arc::new(DyingStore::refusing(state, every, times)),
            (None, None) => state,
        }
    }

    pub(super) async fn wait_ms(&self, ms: u64) {
        self.clock.sleep(Duration::from_millis(ms)).await;
    }

    pub(super) fn send(&self, queue: u32, body: &str) -> Offset {
        let id = self.topics.topic("flights").unwrap().id;
        let message = StoredMessage {
            body: Some(Bytes::copy_from_slice(body.as_bytes())),
            properties: vec![("from".to_owned(), "test".to_owned())],
            ..StoredMessage::default()
        };
        self.topics.store(id, QueueId(queue), message)
    }

    /// A few rows whose event times lie around now; some have no time and some can not be decoded.
    pub(super) fn send_some(&self) {
        let now_ms = self.clock.now().as_ms();
        for _ in 0..self.chance.below(6) {
            let carrier = ["AA", "B6", "UA"][usize::try_from(self.chance.below(3)).unwrap()];
            let delay = self.chance.below(1000) as f64 / 7.0;
            let at = now_ms - i64::try_from(self.chance.below(3000)).unwrap();
            let body = match self.chance.below(20) {
                0 => "{\"carrier\":".to_owned(),
                1 => format!("{{\"carrier\":\"{carrier}\",\"delay\":{delay}}}"),
                _ => format!("{{\"carrier\":\"{carrier}\",\"delay\":{delay},\"at\":{at}}}"),
            };
            let queue = u32::try_from(self.chance.below(u64::from(QUEUES))).unwrap();
            self.send(queue, &body);
        }
    }

    /// Keys and bodies of a topic, queue by queue.
    pub(super) fn rows(&self, topic: &str) -> Vec<(u32, String, Option<String>)> {
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        self.topics
            .messages(topic)
            .into_iter()
            .map(|(queue, message)| {
                let key = message.key.map(text).unwrap_or_default();
                (queue.0, key, message.body.map(text))
            })
            .collect()
    }

    /// An updating view as a table: the last body of each key.
    pub(super) fn view(&self, topic: &str) -> BTreeMap<String, String> {
        let mut view = BTreeMap::new();
        for (_, key, body) in self.rows(topic) {
            match body {
                Some(body) => view.insert(key, body),
                None => view.remove(&key),
            };
        }
        view
    }
}

pub(super) async fn create(jobs: &Jobs, sql: &str) -> Result<(), SqlError> {
    match parse(sql)? {
        Statement::CreateMaterializedView(view) => jobs.create_view(&view).await,
        Statement::CreateJob(job) => jobs.create_job(&job).await,
        other => panic!("{other:?}"),
    }
}

pub(super) async fn create_both(jobs: &Jobs, suffix: &str) {
    create(
        jobs,
        &format!("CREATE MATERIALIZED VIEW changes{suffix} AS {AGGREGATES}"),
    )
    .await
    .unwrap();
    let on_close =
        format!("CREATE MATERIALIZED VIEW closed{suffix} AS {AGGREGATES} EMIT ON WINDOW CLOSE");
    create(jobs, &on_close).await.unwrap();
}

pub(super) fn status(jobs: &Jobs, name: &str) -> JobStatus {
    jobs.describe(name).unwrap()
}

/// A row of the log as the test computes with it.
#[derive(Clone, Debug)]
struct Row {
    tick_ms: i64,
    queue: u32,
    offset: u64,
    at: Option<i64>,
    carrier: String,
    delay: f64,
}

struct Expected {
    rows: Vec<Row>,
    undecodable: u64,
    without_time: u64,
}

impl Expected {
    fn of(world: &World) -> Self {
        let mut expected = Self {
            rows: Vec::new(),
            undecodable: 0,
            without_time: 0,
        };
        let mut offsets = BTreeMap::new();
        for (queue, message) in world.topics.messages("flights") {
            let offset: &mut u64 = offsets.entry(queue).or_default();
            *offset += 1;
            let Ok(body) = serde_json::from_slice::<Value>(&message.body.unwrap()) else {
                expected.undecodable += 1;
                continue;
            };
            expected.without_time += u64::from(body["at"].is_null());
            expected.rows.push(Row {
                tick_ms: tick_of(message.stored_at_ms),
                queue: queue.0,
                offset: *offset - 1,
                at: body["at"].as_i64(),
                carrier: body["carrier"].as_str().unwrap().to_owned(),
                delay: body["delay"].as_f64().unwrap(),
            });
        }
        expected
            .rows
            .sort_by_key(|row| (row.tick_ms, row.queue, row.offset));
        expected
    }

    fn is_late(&self, row: &Row) -> bool {
        let before = self.rows.iter().filter(|other| other.tick_ms < row.tick_ms);
        let greatest = before.filter_map(|other| other.at).max();
        match (greatest, row.at) {
            (Some(greatest), Some(at)) => window_end(at) <= greatest - DELAY_MS,
            _ => false,
        }
    }

    fn late(&self) -> Vec<&Row> {
        self.rows.iter().filter(|row| self.is_late(row)).collect()
    }

    /// Per carrier and window end: count, sum in log order, least and most.
    fn groups(&self, with_late: bool) -> BTreeMap<(String, i64), [i64; 4]> {
        let mut groups: BTreeMap<(String, i64), (i64, f64, f64, f64)> = BTreeMap::new();
        for row in &self.rows {
            let Some(at) = row.at else { continue };
            if !with_late && self.is_late(row) {
                continue;
            }
            let key = (row.carrier.clone(), window_end(at));
            let group = groups.entry(key).or_insert((0, 0.0, f64::MAX, f64::MIN));
            *group = (
                group.0 + 1,
                group.1 + row.delay,
                row.delay.min(group.2),
                row.delay.max(group.3),
            );
        }
        let rounded = |(key, (n, total, least, most)): ((String, i64), (i64, f64, f64, f64))| {
            (
                key,
                [n, millionths(total), millionths(least), millionths(most)],
            )
        };
        groups.into_iter().map(rounded).collect()
    }
}

/// JSON readers differ in the last bit of a float, so this side of the comparison is rounded.
#[expect(
    clippy::cast_possible_truncation,
    reason = "sums of the test are small"
)]
fn millionths(number: f64) -> i64 {
    (number * 1e6).round() as i64
}

fn window_end(at: i64) -> i64 {
    at.div_euclid(WINDOW_MS) * WINDOW_MS + WINDOW_MS
}

fn computed<'a>(bodies: impl Iterator<Item = &'a String>) -> BTreeMap<(String, i64), [i64; 4]> {
    bodies
        .map(|body| {
            let body: Value = serde_json::from_str(body).unwrap();
            let end = body["window_end"].as_str().unwrap().trim_end_matches('Z');
            let end = arrow::compute::kernels::cast_utils::string_to_timestamp_nanos(end).unwrap();
            let number = |name: &str| body[name].as_f64().unwrap();
            assert!(
                (number("mean") - number("total") / number("n")).abs() < 1e-6,
                "{body}"
            );
            (
                (
                    body["carrier"].as_str().unwrap().to_owned(),
                    end / 1_000_000,
                ),
                [
                    body["n"].as_i64().unwrap(),
                    millionths(number("total")),
                    millionths(number("least")),
                    millionths(number("most")),
                ],
            )
        })
        .collect()
}

/// Sends for a while under jobs that crash as told, then lets them catch up.
async fn live(world: &World, crashes: &[Option<Fuse>]) -> Arc<Jobs> {
    let jobs = world.jobs(None);
    create_both(&jobs, "").await;
    drop(jobs);
    let turn = |world: &World| {
        world.send_some();
        world.chance.below(160)
    };
    world.lives(crashes, 40, turn).await;
    let jobs = world.jobs(None);
    world.wait_ms(30_000).await;
    jobs
}

pub(super) fn check(world: &World, jobs: &Jobs, context: &str) {
    let expected = Expected::of(world);
    let changes = world.view("changes");
    assert_eq!(
        computed(changes.values()),
        expected.groups(true),
        "{context}"
    );

    let closed = world.rows("closed");
    let keys: BTreeSet<&String> = closed.iter().map(|(_, key, _)| key).collect();
    assert_eq!(
        keys.len(),
        closed.len(),
        "{context}: each window closes once"
    );
    let bodies: Vec<String> = closed.into_iter().filter_map(|(_, _, body)| body).collect();
    let on_time = expected.groups(false);
    let greatest = expected.rows.iter().filter_map(|row| row.at).max().unwrap();
    let over = on_time
        .into_iter()
        .filter(|((_, end), _)| *end <= greatest - DELAY_MS);
    assert_eq!(computed(bodies.iter()), over.collect(), "{context}");

    let late: BTreeSet<(u32, u64)> = expected
        .late()
        .iter()
        .map(|row| (row.queue, row.offset))
        .collect();
    let property = |message: &StoredMessage, name: &str| {
        let found = message.properties.iter().find(|(key, _)| key == name);
        found.unwrap().1.clone()
    };
    let side: Vec<(u32, u64)> = world
        .topics
        .messages("closed_late")
        .iter()
        .map(|(_, message)| {
            assert_eq!(property(message, "from"), "test");
            assert_eq!(property(message, "late_reason"), "window_closed");
            (
                property(message, "source_queue").parse().unwrap(),
                property(message, "source_offset").parse().unwrap(),
            )
        })
        .collect();
    assert_eq!(side.len(), late.len(), "{context}: each late row once");
    assert_eq!(side.into_iter().collect::<BTreeSet<_>>(), late, "{context}");

    for name in ["changes", "closed"] {
        let status = status(jobs, name);
        assert_eq!(status.state, JobState::Running, "{context}: {status:?}");
        assert_eq!(
            status.rows_in,
            expected.rows.len() as u64 + expected.undecodable
        );
        assert_eq!(status.rows_undecodable, expected.undecodable, "{context}");
        assert_eq!(status.rows_without_time, expected.without_time, "{context}");
        assert_eq!(status.lag, 0, "{context}");
        assert_eq!(
            status.watermark,
            Some(Timestamp(greatest - DELAY_MS)),
            "{context}"
        );
    }
    assert_eq!(status(jobs, "closed").rows_late, late.len() as u64);
}

#[tokio::test(start_paused = true)]
async fn a_tumbling_view_equals_a_plain_computation_over_the_log() {
    for seed in 0..4 {
        let world = World::new(seed).await;
        let jobs = live(&world, &[]).await;
        check(&world, &jobs, &format!("seed {seed}"));
        jobs.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_step_changes_no_row() {
    for step in STEPS {
        for seed in 0..3 {
            let world = World::new(100 + seed).await;
            let jobs = live(&world, &crashes_at(step)).await;
            check(&world, &jobs, &format!("{step:?}, seed {seed}"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_log_read_in_one_go_gives_the_same_bytes_as_it_gave_live() {
    for seed in 0..3 {
        let world = World::new(200 + seed).await;
        let crashes = [(Step::AfterCommit, 4), (Step::AfterAppend, 2)];
        let jobs = live(&world, &crashes.map(Some)).await;
        create_both(&jobs, "_again").await;
        world.wait_ms(30_000).await;
        assert!(status(&jobs, "closed_again").epoch < status(&jobs, "closed").epoch);
        assert_eq!(
            world.view("changes"),
            world.view("changes_again"),
            "seed {seed}"
        );
        assert_eq!(
            world.rows("closed"),
            world.rows("closed_again"),
            "seed {seed}"
        );
        let late = |topic| {
            world
                .rows(topic)
                .into_iter()
                .map(|(_, _, body)| body)
                .collect::<Vec<_>>()
        };
        let (mut live, mut again) = (late("closed_late"), late("closed_again_late"));
        live.sort();
        again.sort();
        assert_eq!(live, again, "seed {seed}");
        // What was emitted once stays in the view, but for late rows that came to it afterwards.
        let view = world.view("changes");
        assert!(
            world
                .rows("closed")
                .iter()
                .all(|(_, key, _)| view.contains_key(key))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn having_that_turns_false_deletes_the_row() {
    let world = World::new(1).await;
    let jobs = world.jobs(None);
    let sql = "CREATE MATERIALIZED VIEW few AS SELECT carrier, count(*) + 1 AS more FROM flights \
               GROUP BY carrier HAVING count(*) < 2";
    create(&jobs, sql).await.unwrap();
    world.send(0, r#"{"carrier":"AA"}"#);
    world.send(0, r#"{"carrier":"UA"}"#);
    world.wait_ms(300).await;
    assert_eq!(world.view("few").len(), 2);
    world.send(1, r#"{"carrier":"AA"}"#);
    world.wait_ms(300).await;
    let expected = BTreeMap::from([("UA".to_owned(), r#"{"carrier":"UA","more":2}"#.to_owned())]);
    assert_eq!(world.view("few"), expected);
    assert_eq!(world.rows("few").len(), 3);
    assert_eq!(world.topics.topic("few").unwrap().primary_key, ["carrier"]);
}

#[tokio::test(start_paused = true)]
async fn a_job_writes_into_a_topic_and_bad_bodies_can_be_asked_for() {
    let world = World::new(1).await;
    world.make_flights("slow", false).await;
    let jobs = world.jobs(None);
    let sql = "CREATE JOB copy AS INSERT INTO slow SELECT carrier, delay * 2, at FROM flights WHERE delay > 10";
    create(&jobs, sql).await.unwrap();
    let bad = "CREATE MATERIALIZED VIEW bad AS SELECT _body AS body, _decode_error AS reason FROM flights \
               WHERE _decode_error IS NOT NULL";
    create(&jobs, bad).await.unwrap();
    world.send(0, r#"{"carrier":"AA","delay":15}"#);
    world.send(0, r#"{"carrier":"UA","delay":5}"#);
    world.send(2, r#"{"carrier""#);
    world.wait_ms(300).await;
    let bodies = |topic| {
        world
            .rows(topic)
            .into_iter()
            .filter_map(|(_, _, body)| body)
            .collect::<Vec<_>>()
    };
    assert_eq!(bodies("slow"), [r#"{"carrier":"AA","delay":30.0}"#]);
    assert_eq!(bodies("bad").len(), 1);
    let status = status(&jobs, "copy");
    assert_eq!(
        (status.rows_in, status.rows_out, status.rows_undecodable),
        (3, 1, 1)
    );
    assert!(
        status
            .error
            .unwrap()
            .contains("at offset 0 in queue 2 of topic flights")
    );
    assert_eq!(status.output_topic, "slow");
}

#[tokio::test(start_paused = true)]
async fn a_query_that_fails_names_the_row_and_leaves_the_others_running() {
    let world = World::new(1).await;
    let jobs = world.jobs(None);
    let fails =
        "CREATE MATERIALIZED VIEW fails AS SELECT 10 / CAST(delay AS INT) AS x FROM flights";
    create(&jobs, fails).await.unwrap();
    create(
        &jobs,
        "CREATE MATERIALIZED VIEW works AS SELECT carrier FROM flights",
    )
    .await
    .unwrap();
    world.send(1, r#"{"carrier":"AA","delay":5}"#);
    world.send(1, r#"{"carrier":"UA","delay":0}"#);
    world.wait_ms(300).await;
    let failed = status(&jobs, "fails");
    assert_eq!(failed.state, JobState::Failed);
    let error = failed.error.unwrap();
    assert!(
        error.contains("at offset 1 in queue 1 of topic flights"),
        "{error}"
    );
    assert_eq!(status(&jobs, "works").state, JobState::Running);
    assert_eq!(world.rows("works").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_or_missing_checkpoint_fails_its_query_alone() {
    for damage in [true, false] {
        let world = World::new(1).await;
        let jobs = world.jobs(None);
        create_both(&jobs, "").await;
        world.send(
            0,
            &format!("{{\"carrier\":\"AA\",\"delay\":1,\"at\":{START_MS}}}"),
        );
        world.wait_ms(300).await;
        jobs.stop().await;
        let spec = world
            .topics
            .jobs()
            .into_iter()
            .find(|job| job.name == "closed")
            .unwrap();
        let progress = world.topics.progress(JobId(spec.id)).await.unwrap();
        let key = Path::from(progress.checkpoint.unwrap().1);
        if damage {
            world
                .state
                .put(&key, Bytes::from_static(b"MPCPxxxxxxxxxxxxxxxx").into())
                .await
                .unwrap();
        } else {
            world.state.delete(&key).await.unwrap();
        }
        let jobs = world.jobs(None);
        world.wait_ms(300).await;
        let failed = status(&jobs, "closed");
        assert_eq!(failed.state, JobState::Failed);
        assert!(failed.error.unwrap().contains(key.as_ref()));
        assert_eq!(status(&jobs, "changes").state, JobState::Running);
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_a_view_leaves_nothing_and_an_orphan_is_made_anew() {
    let world = World::new(1).await;
    let jobs = world.jobs(None);
    create_both(&jobs, "").await;
    world.send(
        0,
        &format!("{{\"carrier\":\"AA\",\"delay\":1,\"at\":{START_MS}}}"),
    );
    world.wait_ms(300).await;
    jobs.end("changes").await.unwrap();
    jobs.end("closed").await.unwrap();
    assert!(jobs.end("closed").await.is_err());
    let left: Vec<String> = world
        .topics
        .topics()
        .into_iter()
        .map(|topic| topic.name)
        .collect();
    assert_eq!(left, ["flights"]);
    assert!(world.topics.jobs().is_empty());

    let orphan = NewTopic {
        name: "changes".to_owned(),
        queues: None,
        columns: Vec::new(),
        watermark: None,
        primary_key: Vec::new(),
        written_by: Some("changes".to_owned()),
        ..NewTopic::default()
    };
    world.topics.create_topic(orphan).await.unwrap();
    create_both(&jobs, "").await;
    world.wait_ms(300).await;
    assert_eq!(world.view("changes").len(), 1);
    let again = format!("CREATE MATERIALIZED VIEW changes AS {AGGREGATES}");
    assert!(
        create(&jobs, &again)
            .await
            .unwrap_err()
            .to_string()
            .contains("exists already")
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_continuous_query_does_not_take_is_refused_by_name() {
    let world = World::new(1).await;
    world.make_flights("plain", false).await;
    let jobs = world.jobs(None);
    create(&jobs, "CREATE MATERIALIZED VIEW sums AS SELECT carrier, count(*) AS n FROM flights GROUP BY carrier")
        .await
        .unwrap();
    for (query, expected) in [
        (
            "SELECT f.carrier FROM flights f JOIN plain p ON f.carrier = p.carrier EMIT ON WINDOW CLOSE",
            "tells when a row is final",
        ),
        (
            "SELECT f.carrier, array_agg(f.delay) AS all FROM flights f JOIN plain p ON f.carrier = p.carrier GROUP BY f.carrier",
            "depends on the order of rows",
        ),
        (
            "SELECT _properties FROM flights UNION SELECT _properties FROM plain",
            "_properties",
        ),
        ("SELECT carrier FROM flights ORDER BY carrier", "ORDER BY"),
        ("SELECT carrier FROM flights LIMIT 3", "LIMIT"),
        (
            "SELECT carrier, rank() OVER (ORDER BY delay) AS r FROM flights",
            "OVER",
        ),
        ("SELECT carrier FROM flights WHERE at < now()", "now()"),
        ("SELECT carrier, random() AS r FROM flights", "random()"),
        (
            "SELECT carrier, window_end, sum(DISTINCT delay) AS s FROM \
             TUMBLE(TABLE flights, DESCRIPTOR(at), INTERVAL '1 minute') GROUP BY carrier, window_end",
            "DISTINCT in sum",
        ),
        (
            "SELECT carrier FROM flights EMIT ON WINDOW CLOSE",
            "tells when a row is final",
        ),
        ("SELECT carrier FROM flihgts", "did you mean flights?"),
        (
            "SELECT window_start, count(*) AS n FROM TUMBLE(TABLE plain, DESCRIPTOR(at), INTERVAL '1 day') GROUP BY window_start",
            "WATERMARK FOR at AS at - INTERVAL",
        ),
    ] {
        let error = create(
            &jobs,
            &format!("CREATE MATERIALIZED VIEW refused AS {query}"),
        )
        .await;
        let error = error.expect_err(query).to_string();
        assert!(error.contains(expected), "{query}: {error}");
        assert!(world.topics.topic("refused").is_none(), "{query}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_trouble_that_passes_is_waited_out_and_changes_no_row() {
    for troubles in [1, 5] {
        let world = World::new(7).await;
        let jobs = world.jobs(None);
        create_both(&jobs, "").await;
        drop(jobs);
        let jobs = world.troubled_jobs(None, troubles);
        for _ in 0..20 {
            world.send_some();
            world.wait_ms(50).await;
        }
        world.wait_ms(30_000).await;
        check(&world, &jobs, &format!("{troubles} troubles"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_window_takes_updates_for_a_year_and_is_forgotten_then() {
    const DAY_MS: i64 = 24 * 60 * 60 * 1000;
    for sql in [
        AGGREGATES.to_owned(),
        AGGREGATES
            .replace(
                "INTERVAL '1 second'",
                "INTERVAL '500 milliseconds', INTERVAL '1 second'",
            )
            .replace("TUMBLE", "HOP"),
        AGGREGATES
            .replace("TABLE flights", "TABLE flights PARTITION BY carrier")
            .replace("TUMBLE", "SESSION"),
    ] {
        let world = World::new(1).await;
        let jobs = world.jobs(None);
        create(&jobs, &format!("CREATE MATERIALIZED VIEW changes AS {sql}"))
            .await
            .unwrap();
        let send = |days: i64| {
            let at = START_MS + days * DAY_MS;
            world.send(
                0,
                &format!("{{\"carrier\":\"AA\",\"delay\":1,\"at\":{at}}}"),
            );
        };
        send(0);
        world.wait_ms(300).await;
        let rows = world.view("changes").len();
        let one = status(&jobs, "changes").state_bytes;
        send(364);
        world.wait_ms(300).await;
        send(0);
        world.wait_ms(300).await;
        assert_eq!(status(&jobs, "changes").rows_late, 0, "{sql}");
        assert!(status(&jobs, "changes").state_bytes > one);
        assert_eq!(
            world
                .view("changes")
                .values()
                .filter(|body| body.contains("\"n\":2"))
                .count(),
            rows
        );
        send(366);
        world.wait_ms(300).await;
        send(0);
        world.wait_ms(300).await;
        let after = status(&jobs, "changes");
        assert_eq!(
            (after.rows_late, after.state),
            (1, JobState::Running),
            "{sql}"
        );
        assert_eq!(
            world.view("changes").len(),
            3 * rows,
            "what was counted stays in the view"
        );
        let late = world.topics.messages("changes_late");
        assert!(
            late[0]
                .1
                .properties
                .contains(&("late_reason".to_owned(), "state_expired".to_owned()))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_paused_query_rests_over_restarts_and_goes_on_without_a_gap() {
    let world = World::new(11).await;
    let jobs = world.jobs(None);
    create_both(&jobs, "").await;
    for _ in 0..10 {
        world.send_some();
        world.wait_ms(100).await;
    }
    world.wait_ms(1000).await;
    jobs.pause("changes").await.unwrap();
    jobs.pause("changes").await.unwrap();
    let before = world.rows("changes");
    assert_eq!(status(&jobs, "changes").state, JobState::Paused);
    for _ in 0..10 {
        world.send_some();
        world.wait_ms(100).await;
    }
    assert_eq!(
        world.rows("changes"),
        before,
        "a paused query writes nothing"
    );
    assert!(status(&jobs, "changes").lag > 0);
    drop(jobs);
    let jobs = world.jobs(None);
    world.wait_ms(1000).await;
    assert_eq!(status(&jobs, "changes").state, JobState::Paused);
    assert_eq!(status(&jobs, "closed").state, JobState::Running);
    assert_eq!(world.rows("changes"), before, "it rests over a restart");
    jobs.resume("changes").await.unwrap();
    jobs.resume("changes").await.unwrap();
    world.wait_ms(30_000).await;
    check(&world, &jobs, "after it was resumed");
    assert!(
        jobs.pause("nothing")
            .await
            .unwrap_err()
            .to_string()
            .contains("nothing")
    );
    jobs.pause("closed").await.unwrap();
    jobs.end("closed").await.unwrap();
    assert!(world.topics.topic("closed").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_query_without_state_passes_a_row_on_before_its_tick_is_over() {
    let world = World::new(9).await;
    let jobs = world.jobs(None);
    create(
        &jobs,
        "CREATE MATERIALIZED VIEW slow AS SELECT carrier FROM flights WHERE delay > 5",
    )
    .await
    .unwrap();
    for turn in 1..5 {
        world.wait_ms(130).await;
        world.send(0, "{\"carrier\":\"AA\",\"delay\":9}");
        world.wait_ms(1).await;
        assert_eq!(world.rows("slow").len(), turn);
    }
    jobs.stop().await;
}
