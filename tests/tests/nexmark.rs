//! Nexmark, q0 to q22: continuous queries over JSON topics against DuckDB's answers and their own bounded ones.
//!
//! The queries are the files of `tests/nexmark`, in our dialect; `answers.tsv` there holds how many rows DuckDB
//! answers over the same events and a digest of them (`tests/clients/python/nexmark.py` has its SQL and says how
//! to make it anew). All queries run at once over one broker in memory, fed by an interleaving of the queues, a batch
//! size and a schedule of crashes that follow from a seed: each query dies in each step, of saving its state at a later
//! save; after each crash they go on in another number of lanes.
//!
//! `MILLPOND_NEXMARK_TO=folder` writes the events there, as many as `MILLPOND_NEXMARK_EVENTS` says.

mod events;
mod killed;

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytes::Bytes;
use millpond_connectors::format::json::encode_rows;
use millpond_proto::chance::Seeded;
use millpond_proto::message::QueueId;
use millpond_proto::task::Runtimes;
use millpond_proto::time::{Clock, SimulatedClock, Timestamp};
use millpond_sql::answer::Finished;
use millpond_sql::continuous::{Continuous, JobState};
use millpond_sql::job::runtime::{JobParts, Jobs};
use millpond_sql::sql::{Sql, SqlParts};
use millpond_sql::testing::dying::{Dying, Fuse, STEPS, Step};
use millpond_sql::testing::hands::Hands;
use millpond_sql::testing::{MemoryTopics, StoredMessage};
use millpond_sql::topic::Topics;
use millpond_tests::harness::workspace;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use serde_json::Value;

use events::{Sent, TOPICS, events};

/// How many events the checked-in answers are of.
const EVENTS: usize = 3000;
/// How far a queue may run ahead of another in event time: less than the watermarks' delay, so that no row is late.
const AHEAD_MS: i64 = 3000;
/// When the events are stored: long after they happened.
const START: Timestamp = Timestamp(1_700_000_000_000);
/// Window of q12.
const STORE_WINDOW_MS: i64 = 10_000;
/// Queries that can be emitted on close as well.
const ON_CLOSE: [&str; 3] = ["q11", "q12", "q5_counts"];
/// What q5 counts, as a query of its own: q5 itself joins, and joins are not emitted on close.
const Q5_COUNTS: &str = "SELECT auction, count(*) AS num, window_start, window_end \
     FROM HOP(TABLE bid, DESCRIPTOR(date_time), INTERVAL '2 seconds', INTERVAL '10 seconds') \
     GROUP BY auction, window_start, window_end";

/// The queries by name, each a file.
fn queries() -> Vec<(String, String)> {
    let folder = workspace().join("tests/nexmark");
    let files = (0..=22).map(|number| format!("q{number}"));
    let mut queries: Vec<(String, String)> = files
        .map(|name| {
            let text = fs::read_to_string(folder.join(format!("{name}.sql"))).unwrap();
            (name, text)
        })
        .collect();
    queries.push(("q5_counts".to_owned(), Q5_COUNTS.to_owned()));
    queries
}

/// Rows as text that every engine writes alike: whole numbers, times as milliseconds, the shortest form of a float.
fn texts(finished: &Finished) -> Vec<String> {
    let mut rows: Vec<String> = finished.batches.iter().flat_map(texts_of_batch).collect();
    rows.sort();
    rows
}

fn texts_of_batch(batch: &RecordBatch) -> Vec<String> {
    let columns: Vec<_> = batch
        .columns()
        .iter()
        .map(|column| match column.data_type() {
            DataType::Timestamp(_, _) => {
                let ms = DataType::Timestamp(TimeUnit::Millisecond, None);
                cast(&cast(column, &ms).unwrap(), &DataType::Int64).unwrap()
            }
            _ => Arc::clone(column),
        })
        .collect();
    let options = FormatOptions::new();
    let formats: Vec<ArrayFormatter<'_>> = columns
        .iter()
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap())
        .collect();
    (0..batch.num_rows())
        .map(|row| {
            let mut text = String::new();
            for (column, format) in columns.iter().zip(&formats) {
                if column.is_null(row) {
                    text.push_str("NULL|");
                } else if let Some(floats) = column.as_primitive_opt::<Float64Type>() {
                    write!(text, "{:?}|", floats.value(row)).unwrap();
                } else {
                    write!(text, "{}|", format.value(row)).unwrap();
                }
            }
            text
        })
        .collect()
}

/// A digest that does not depend on the order of rows: the sum of their FNV-1a hashes.
fn digest(rows: &[String]) -> String {
    let hash = |row: &String| {
        row.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    };
    let sum = rows
        .iter()
        .fold(0_u64, |sum, row| sum.wrapping_add(hash(row)));
    format!("{sum:016x}")
}

/// What DuckDB answers: rows and digest by query.
fn answers() -> BTreeMap<String, (usize, String)> {
    let text = fs::read_to_string(workspace().join("tests/nexmark/answers.tsv")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.split('\t');
            let mut word = || words.next().unwrap().to_owned();
            (word(), (word().parse().unwrap(), word()))
        })
        .collect()
}

/// A broker with its clock and the state of its queries, which all outlive the jobs.
struct World {
    clock: Arc<SimulatedClock>,
    topics: Arc<MemoryTopics>,
    state: Arc<InMemory>,
    chance: Seeded,
    /// How often jobs were started: it decides in how many lanes they compute.
    starts: AtomicUsize,
}

impl World {
    fn new(seed: u64, batch_rows: usize) -> Self {
        let clock = Arc::new(SimulatedClock::starting_at(START));
        Self {
            topics: MemoryTopics::with_batch_rows(Arc::clone(&clock) as Arc<dyn Clock>, batch_rows),
            clock,
            state: Arc::new(InMemory::new()),
            chance: Seeded::new(seed),
            starts: AtomicUsize::new(0),
        }
    }

    fn jobs(&self, fuse: Option<Fuse>) -> Arc<Jobs> {
        self.jobs_over(Arc::new(Dying::new(Arc::clone(&self.topics), fuse, 0)))
    }

    fn jobs_over(&self, topics: Arc<Dying>) -> Arc<Jobs> {
        let lanes = [1, 3][self.starts.fetch_add(1, Ordering::Relaxed) % 2];
        Jobs::start(JobParts {
            topics,
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            spawn: Arc::new(Hands::new(lanes)),
            state: Arc::clone(&self.state) as Arc<dyn ObjectStore>,
        })
    }

    fn sql(&self, jobs: &Arc<Jobs>) -> Sql {
        Sql::new(SqlParts {
            topics: Arc::clone(&self.topics) as Arc<dyn Topics>,
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            spawn: Arc::new(Runtimes::single()),
            export: Arc::new(InMemory::new()),
            state: Arc::clone(&self.state) as Arc<dyn ObjectStore>,
            jobs: Arc::clone(jobs) as Arc<dyn Continuous>,
        })
        .unwrap()
    }

    /// Makes the topics and starts every query.
    async fn begin(&self, queries: &[(String, String)]) {
        let jobs = self.jobs(None);
        let sql = self.sql(&jobs);
        let topics = fs::read_to_string(workspace().join("tests/nexmark/topics.sql")).unwrap();
        for statement in topics.split_inclusive(";\n") {
            if !statement.trim().is_empty() {
                run(&sql, statement.trim().trim_end_matches(';')).await;
            }
        }
        for (name, query) in queries {
            run(&sql, &format!("CREATE MATERIALIZED VIEW {name} AS {query}")).await;
            if ON_CLOSE.contains(&name.as_str()) {
                let query = query.trim_end();
                let closed = format!(
                    "CREATE MATERIALIZED VIEW {name}_closed AS {query} EMIT ON WINDOW CLOSE"
                );
                run(&sql, &closed).await;
            }
        }
        jobs.stop().await;
    }

    /// Sends everything, in an interleaving of the queues, while jobs run and die.
    async fn feed(&self, sent: Vec<Sent>) {
        let mut queues: BTreeMap<(usize, u32), VecDeque<Sent>> = BTreeMap::new();
        let count = sent.len();
        for message in sent {
            let queue = queues.entry((message.topic, message.queue)).or_default();
            queue.push_back(message);
        }
        let mut left = count;
        for (run, step) in (1..).zip(STEPS) {
            let times = match step.is_of_saving() {
                true => 2,
                false => 2 + u32::try_from(self.chance.below(4)).unwrap(),
            };
            let topics = Arc::new(Dying::new(Arc::clone(&self.topics), Some((step, times)), 0));
            let jobs = self.jobs_over(Arc::clone(&topics));
            let until = count - count * run / STEPS.len();
            while left > until {
                for _ in 0..=self.chance.below(100) {
                    left -= usize::from(self.send_one(&mut queues));
                }
                let ms = match self.chance.below(8) {
                    0 => 2000,
                    // State is saved every ten seconds.
                    1..4 if step.is_of_saving() => 10_000,
                    _ => self.chance.below(300),
                };
                self.clock.sleep(Duration::from_millis(ms)).await;
            }
            // Some have no more rows to write by then; all read, commit and save.
            let (died, all) = (topics.died().len(), self.topics.jobs().len());
            let is_enough = died == all || step == Step::AfterAppend && died > all / 2;
            assert!(is_enough, "{step:?} {times} times: {died} of {all} died");
            drop(jobs);
        }
    }

    /// Sends the next message of some queue that is not too far ahead; `false` when there is none left.
    fn send_one(&self, queues: &mut BTreeMap<(usize, u32), VecDeque<Sent>>) -> bool {
        let heads = |queues: &BTreeMap<(usize, u32), VecDeque<Sent>>| -> Vec<((usize, u32), i64)> {
            let heads = queues.iter();
            heads
                .filter_map(|(at, queue)| Some((*at, queue.front()?.at_ms)))
                .collect()
        };
        let mut able = heads(queues);
        let Some(least) = able.iter().map(|(_, at_ms)| *at_ms).min() else {
            return false;
        };
        able.retain(|(_, at_ms)| *at_ms <= least + AHEAD_MS);
        let chosen = usize::try_from(self.chance.below(able.len() as u64)).unwrap();
        let message = queues
            .get_mut(&able[chosen].0)
            .unwrap()
            .pop_front()
            .unwrap();
        let id = self.topics.topic(TOPICS[message.topic].0).unwrap().id;
        let stored = StoredMessage {
            body: Some(Bytes::from(message.body)),
            ..StoredMessage::default()
        };
        self.topics.store(id, QueueId(message.queue), stored);
        true
    }

    /// q12 computed from what is stored, since store times are those of this run.
    fn windows_of_store_time(&self) -> Vec<String> {
        let mut counts: BTreeMap<(i64, i64), u64> = BTreeMap::new();
        for (_, message) in self.topics.messages("bid") {
            let body: Value = serde_json::from_slice(&message.body.unwrap()).unwrap();
            let start = message.stored_at_ms - message.stored_at_ms % STORE_WINDOW_MS;
            *counts
                .entry((body["bidder"].as_i64().unwrap(), start))
                .or_default() += 1;
        }
        let rows = counts.iter().map(|((bidder, start), bids)| {
            format!("{bidder}|{bids}|{start}|{}|", start + STORE_WINDOW_MS)
        });
        let mut rows: Vec<String> = rows.collect();
        rows.sort();
        rows
    }

    /// The last body of each key that a view's topic holds, as a reader of the stream would keep it.
    fn replayed(&self, view: &str) -> Vec<Value> {
        let has_keys = !self.topics.topic(view).unwrap().primary_key.is_empty();
        let mut kept = BTreeMap::new();
        for (at, (_, message)) in self.topics.messages(view).into_iter().enumerate() {
            let key = match message.key {
                Some(key) if has_keys => key.to_vec(),
                _ => at.to_be_bytes().to_vec(),
            };
            kept.insert(key, message.body);
        }
        let bodies = kept.into_values().flatten();
        values(bodies)
    }
}

fn values(bodies: impl Iterator<Item = Bytes>) -> Vec<Value> {
    let mut values: Vec<Value> = bodies
        .map(|body| serde_json::from_slice(&body).unwrap())
        .collect();
    values.sort_by_cached_key(Value::to_string);
    values
}

async fn run(sql: &Sql, statement: &str) -> Finished {
    let finished = match sql.execute(statement).await {
        Ok(answer) => answer.finish().await,
        Err(error) => Err(error),
    };
    finished.unwrap_or_else(|error| panic!("{statement}: {error}"))
}

fn same(name: &str, these: (&str, &[String]), those: (&str, &[String])) {
    let missing = |these: &[String], those: &[String]| -> Vec<String> {
        let others: std::collections::BTreeSet<&String> = those.iter().collect();
        let only = these.iter().filter(|row| !others.contains(row));
        only.take(5).cloned().collect()
    };
    assert!(
        these.1 == those.1,
        "{name}: {} rows {}, {} rows {}; only {} {:#?}, only {} {:#?}",
        these.1.len(),
        these.0,
        those.1.len(),
        those.0,
        these.0,
        missing(these.1, those.1),
        those.0,
        missing(those.1, these.1)
    );
}

async fn check(world: &World, sql: &Sql, jobs: &Jobs, queries: &[(String, String)]) {
    let answers = answers();
    for (name, query) in queries {
        let status = jobs.describe(name).unwrap();
        assert_eq!(status.state, JobState::Running, "{name}: {status:?}");
        assert_eq!(status.lag, 0, "{name} did not catch up");
        let bounded = run(sql, query).await;
        let columns: Vec<String> = bounded
            .schema
            .fields()
            .iter()
            .map(|field| format!("\"{}\"", field.name()))
            .collect();
        let columns = columns.join(", ");
        let bounded = texts(&bounded);
        assert!(!bounded.is_empty(), "{name} tests nothing");
        if name == "q12" {
            let counted = world.windows_of_store_time();
            same(name, ("asked", &bounded), ("counted", &counted));
        } else if let Some((rows, expected)) = answers.get(name) {
            assert!(
                *rows == bounded.len() && *expected == digest(&bounded),
                "{name}: DuckDB has {rows} rows {expected}, ours are {} rows {}: {:#?}; see what it has with \
                 tests/clients/python/nexmark.py rows FOLDER {name}",
                bounded.len(),
                digest(&bounded),
                &bounded[..bounded.len().min(5)]
            );
        } else {
            assert_eq!(name, "q5_counts", "it has no answer of DuckDB");
        }
        let read = run(sql, &format!("SELECT {columns} FROM {name}")).await;
        let view = texts(&read);
        same(name, ("in the view", &view), ("asked", &bounded));
        let bodies = read
            .batches
            .iter()
            .flat_map(|batch| encode_rows(batch).unwrap());
        assert_eq!(
            world.replayed(name),
            values(bodies),
            "{name}: its changelog is not the view"
        );
        if ON_CLOSE.contains(&name.as_str()) {
            let closed = format!("{name}_closed");
            let status = jobs.describe(&closed).unwrap();
            assert_eq!(
                (status.state, status.rows_late),
                (JobState::Running, 0),
                "{closed}: {status:?}"
            );
            let Timestamp(watermark) = status.watermark.unwrap();
            let over = format!(
                "SELECT {columns} FROM ({query}) WHERE window_end <= to_timestamp_millis({watermark})"
            );
            let over = texts(&run(sql, &over).await);
            let closed_rows = texts(&run(sql, &format!("SELECT {columns} FROM {closed}")).await);
            assert!(
                !over.is_empty() && over.len() < bounded.len(),
                "{closed} tests nothing"
            );
            same(
                &closed,
                ("emitted", &closed_rows),
                ("of the view and closed", &over),
            );
        }
    }
}

/// Everything that a seed, a batch size and crashes lead to.
fn outcome(seed: u64, batch_rows: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let world = World::new(seed, batch_rows);
        let queries = queries();
        world.begin(&queries).await;
        world.feed(events(EVENTS)).await;
        let jobs = world.jobs(None);
        let sql = world.sql(&jobs);
        world.clock.sleep(Duration::from_secs(5)).await;
        check(&world, &sql, &jobs, &queries).await;
        jobs.stop().await;
    });
}

#[test]
fn every_query_equals_duckdb_row_by_row_in_spite_of_crashes() {
    outcome(1, 1);
}

#[test]
fn every_query_equals_duckdb_in_small_batches_in_spite_of_crashes() {
    outcome(2, 7);
}

#[test]
fn every_query_equals_duckdb_in_large_batches_in_spite_of_crashes() {
    outcome(3, 4096);
}

#[test]
fn the_events_are_the_same_each_time_and_are_written_where_asked() {
    assert_eq!(events(500), events(500));
    let Some(folder) = std::env::var_os("MILLPOND_NEXMARK_TO") else {
        return;
    };
    let count =
        std::env::var("MILLPOND_NEXMARK_EVENTS").map_or(EVENTS, |count| count.parse().unwrap());
    let folder = std::path::PathBuf::from(folder);
    fs::create_dir_all(&folder).unwrap();
    let events = events(count);
    for (topic, (name, _)) in TOPICS.iter().enumerate() {
        let lines = events.iter().filter(|sent| sent.topic == topic);
        let text: String = lines.map(|sent| format!("{}\n", sent.body)).collect();
        fs::write(folder.join(format!("{name}.ndjson")), text).unwrap();
    }
}
