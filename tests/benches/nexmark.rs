//! Nexmark, q0 to q22: events per CPU-second of each query, continuous beside bounded, from the log and from Parquet.
//!
//! The broker runs in this process, so CPU time is all of it: reading, decoding, computing; the rows of
//! continuous queries are thrown away where they would be appended. Bounded is DataFusion over the same rows, through
//! the same tables; each is asked by itself, so that it finds no columns that another has decoded. Rates count the events of
//! all three streams, as is usual, whichever a query reads. The share is that of a query's time which reading and decoding
//! the same columns of the bids takes alone, for queries that read nothing else.
//! Each figure is the best of `NEXMARK_TURNS`, which is 1 unless it is said otherwise: what disturbs a run makes it dearer, never cheaper.
//! Behind the table: how fast rows are read and decoded alone, how long a job takes to its first row, and how long a
//! message takes through a filter into another topic, beside durable writes of the same run.
//!
//! ```console
//! $ NEXMARK_EVENTS=1000000 NEXMARK_QUERIES=4,16 cargo bench -p millpond-tests --bench nexmark
//! ```

#![expect(clippy::unwrap_used, reason = "a bench that fails ends")]

#[path = "../tests/nexmark/events.rs"]
mod events;

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use millpond_engine::broker::Broker;
use millpond_proto::chance::Seeded;
use millpond_proto::task::{Runtimes, Spawn};
use millpond_proto::time::{Clock, SystemClock};
use millpond_sql::answer::Finished;
use millpond_sql::continuous::{Continuous, JobState};
use millpond_sql::decode::TopicDecoder;
use millpond_sql::job::runtime::{JobParts, Jobs};
use millpond_sql::sql::{Sql, SqlParts};
use millpond_sql::testing::discarding::Discarding;
use millpond_sql::topic::{OutputRow, Topics};
use millpond_storage::disk::Disk;
use millpond_storage::disk::local::LocalDisk;
use millpond_storage::log::{Parts, Settings};
use millpond_storage::tier::cold::typed::Reads;
use millpond_storage::tier::objects::DiskObjectStore;
use millpond_tests::harness::{Folder, workspace};
use object_store::ObjectStore;

use events::{TOPICS, events};

/// Events, unless `NEXMARK_EVENTS` says otherwise.
const EVENTS: usize = 500_000;
/// Rows per append while the topics are filled.
const ROWS: usize = 2000;
/// How long a dropped query may take to let go of its state.
const SETTLED: Duration = Duration::from_millis(300);
/// Messages whose way through a filter is timed.
const MESSAGES: usize = 200;

/// The columns of the bids that a query reads, if it reads nothing else.
const COLUMNS: [Option<&[usize]>; 23] = [
    Some(&[0, 1, 2, 5, 6]),
    Some(&[0, 1, 2, 5, 6]),
    Some(&[0, 2]),
    None,
    None,
    Some(&[0, 5]),
    None,
    Some(&[0, 1, 2, 5, 6]),
    None,
    None,
    Some(&[0, 1, 2, 5, 6]),
    Some(&[1, 5]),
    Some(&[1, 5]),
    None,
    Some(&[0, 1, 2, 5, 6]),
    Some(&[0, 1, 2, 5]),
    Some(&[0, 1, 2, 3, 5]),
    Some(&[0, 2, 5]),
    Some(&[0, 1, 2, 3, 4, 5, 6]),
    Some(&[0, 1, 2, 3, 4, 5, 6]),
    None,
    Some(&[0, 1, 2, 3, 4]),
    Some(&[0, 1, 2, 3, 4]),
];

/// The broker, and SQL over it: with its rows thrown away, and with its rows kept.
struct World {
    broker: Arc<Broker>,
    clock: Arc<dyn Clock>,
    spawn: Arc<dyn Spawn>,
    state: Arc<dyn ObjectStore>,
    discarding: (Arc<Jobs>, Sql),
    keeping: (Arc<Jobs>, Sql),
}

impl World {
    async fn start(folder: &Folder) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let spawn: Arc<dyn Spawn> = Arc::new(Runtimes::single());
        let disk: Arc<dyn Disk> = Arc::new(LocalDisk::open(folder.beside("bench")).unwrap());
        let parts = Parts {
            disk: Arc::clone(&disk),
            objects: Arc::new(DiskObjectStore::new(Arc::clone(&disk), "objects")),
            clock: Arc::clone(&clock),
            chance: Arc::new(Seeded::new(1)),
            spawn: Arc::clone(&spawn),
        };
        let broker = Broker::start(parts, Settings::default()).await.unwrap();
        let over = |topics: Arc<dyn Topics>, name: &str| {
            let state: Arc<dyn ObjectStore> =
                Arc::new(DiskObjectStore::new(Arc::clone(&disk), name));
            let parts = JobParts {
                topics,
                clock: Arc::clone(&clock),
                spawn: Arc::clone(&spawn),
                state: Arc::clone(&state),
            };
            let jobs = Jobs::start(parts.clone());
            let sql = Sql::new(SqlParts::beside(Arc::clone(&jobs) as _, parts, state));
            (jobs, sql.unwrap())
        };
        let discarding = Arc::new(Discarding {
            inner: Arc::clone(&broker) as Arc<dyn Topics>,
        });
        Self {
            discarding: over(discarding, "state"),
            keeping: over(Arc::clone(&broker) as Arc<dyn Topics>, "kept"),
            state: Arc::new(DiskObjectStore::new(disk, "bounded")),
            spawn,
            clock,
            broker,
        }
    }

    async fn ask(&self, statement: &str) -> Finished {
        let answer = self.discarding.1.execute(statement).await.unwrap();
        answer.finish().await.unwrap()
    }

    async fn fill(&self, count: usize) {
        let topics = std::fs::read_to_string(workspace().join("tests/nexmark/topics.sql")).unwrap();
        for statement in topics.split_inclusive(";\n").map(str::trim) {
            if !statement.is_empty() {
                self.ask(statement.trim_end_matches(';')).await;
            }
        }
        let mut rows: Vec<Vec<OutputRow>> = vec![Vec::new(); TOPICS.len()];
        for sent in events(count) {
            rows[sent.topic].push(OutputRow {
                key: None,
                body: Some(Bytes::from(sent.body)),
                properties: Vec::new(),
            });
            if rows[sent.topic].len() == ROWS {
                let full = std::mem::take(&mut rows[sent.topic]);
                self.insert(TOPICS[sent.topic].0, full).await;
            }
        }
        for (rows, (topic, _)) in rows.into_iter().zip(TOPICS) {
            self.insert(topic, rows).await;
        }
    }

    async fn insert(&self, topic: &str, rows: Vec<OutputRow>) {
        let id = Topics::topic(self.broker.as_ref(), topic).unwrap().id;
        Topics::insert(self.broker.as_ref(), id, rows)
            .await
            .unwrap();
    }

    /// CPU time of a continuous query over all that is there; what stands in its way if it is not taken.
    async fn continuous(&self, name: &str, query: &str) -> Result<Duration, String> {
        let (jobs, sql) = &self.discarding;
        let before = cpu();
        let create = format!("CREATE MATERIALIZED VIEW {name} AS {query}");
        sql.execute(&create)
            .await
            .map_err(|error| error.to_string())?;
        let failed = loop {
            self.clock.sleep(Duration::from_millis(20)).await;
            let status = jobs.describe(name).unwrap();
            // A query that has not looked yet has nothing before it either.
            let is_done = status.lag == 0 && status.rows_in > 0;
            if is_done || status.state != JobState::Running {
                break status.error.filter(|_| !is_done);
            }
        };
        let spent = cpu() - before;
        self.ask(&format!("DROP MATERIALIZED VIEW {name}")).await;
        // A state that is let go of must not be counted for what runs next.
        self.clock.sleep(SETTLED).await;
        failed.map_or(Ok(spent), Err)
    }

    /// CPU time of the same query asked once, its rows read and dropped.
    async fn bounded(&self, query: &str) -> Result<Duration, String> {
        let sql = Sql::new(SqlParts {
            topics: Arc::clone(&self.broker) as Arc<dyn Topics>,
            clock: Arc::clone(&self.clock),
            spawn: Arc::clone(&self.spawn),
            export: Arc::clone(&self.state),
            state: Arc::clone(&self.state),
            jobs: Arc::clone(&self.discarding.0) as Arc<dyn Continuous>,
        });
        let sql = sql.unwrap();
        let before = cpu();
        let answer = sql.execute(query).await;
        let mut answer = answer.map_err(|error| error.to_string())?;
        while let Some(batch) = answer.batches.next().await {
            batch.map_err(|error| error.to_string())?;
        }
        Ok(cpu() - before)
    }

    /// CPU time of reading every bid, and of making columns of some of its fields as well; how many bids there are.
    async fn decoded(&self, columns: Option<&[usize]>) -> (u64, Duration) {
        let bids = Topics::topic(self.broker.as_ref(), "bid").unwrap();
        let decoder = TopicDecoder::new(&bids, columns.unwrap_or_default()).unwrap();
        let before = cpu();
        let mut rows = 0;
        for extent in Topics::extents(self.broker.as_ref(), bids.id).unwrap() {
            let range = extent.first..extent.next;
            let envelope = match columns {
                Some(_) => decoder.envelope_columns(),
                None => vec!["body"],
            };
            let reads = Reads::of(&envelope);
            let mut scan = Topics::scan(self.broker.as_ref(), bids.id, extent.queue, range, &reads);
            while let Some(batch) = scan.next().await {
                let batch = batch.unwrap();
                rows += batch.num_rows() as u64;
                if columns.is_some() {
                    assert_eq!(decoder.decode(&batch).unwrap().undecodable, 0);
                }
            }
        }
        (rows, cpu() - before)
    }

    /// From the statement to the first row that others can read.
    async fn first_row(&self) -> Duration {
        let started = now();
        let create =
            "CREATE MATERIALIZED VIEW first AS SELECT auction, price FROM bid WHERE price > 100";
        self.keeping.1.execute(create).await.unwrap();
        self.grown("first", 0).await;
        let elapsed = started.elapsed();
        self.keeping
            .1
            .execute("DROP MATERIALIZED VIEW first")
            .await
            .unwrap();
        elapsed
    }

    /// Waits until a topic has more rows than that; answers how many.
    async fn grown(&self, topic: &str, above: u64) -> u64 {
        let id = Topics::topic(self.broker.as_ref(), topic).unwrap().id;
        loop {
            let extents = Topics::extents(self.broker.as_ref(), id).unwrap();
            let count = extents.iter().map(|extent| extent.next.0).sum();
            if count > above {
                return count;
            }
            self.clock.sleep(Duration::from_micros(200)).await;
        }
    }

    /// How long single messages take into a topic, and through a filter into the next.
    async fn latencies(&self) -> (Vec<Duration>, Vec<Duration>) {
        let sql = &self.keeping.1;
        for statement in [
            "CREATE TOPIC single (n BIGINT) WITH (queues = 1)",
            "CREATE MATERIALIZED VIEW passed AS SELECT n FROM single WHERE n >= 0",
        ] {
            sql.execute(statement).await.unwrap();
        }
        let (mut writes, mut through) = (Vec::new(), Vec::new());
        let mut rows = 0;
        for n in 0..MESSAGES {
            let row = OutputRow {
                key: None,
                body: Some(Bytes::from(format!("{{\"n\":{n}}}"))),
                properties: Vec::new(),
            };
            let started = now();
            self.insert("single", vec![row]).await;
            writes.push(started.elapsed());
            rows = self.grown("passed", rows).await;
            through.push(started.elapsed());
            self.clock.sleep(Duration::from_millis(7)).await;
        }
        (writes, through)
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(Box::pin(run()));
}

async fn run() {
    let mut out = std::io::stdout();
    let count = std::env::var("NEXMARK_EVENTS").map_or(EVENTS, |count| count.parse().unwrap());
    let turns: usize = std::env::var("NEXMARK_TURNS").map_or(1, |turns| turns.parse().unwrap());
    let wanted: Vec<usize> = std::env::var("NEXMARK_QUERIES").map_or(Vec::new(), |wanted| {
        wanted
            .split(',')
            .map(|query| query.parse().unwrap())
            .collect()
    });
    let folder = Folder::new();
    let raw = raw_writes(&folder);
    let world = World::start(&folder).await;
    world.fill(count).await;
    writeln!(out, "{count} events").unwrap();

    let mut rates = vec![String::new(); 23];
    for place in ["JSON in the log", "JSON in Parquet"] {
        if place == "JSON in Parquet" {
            world.broker.tier().await.unwrap();
        }
        let (rows, read) = world.decoded(None).await;
        let (_, decoded) = world.decoded(Some(&[0, 1, 2, 3, 4, 5, 6])).await;
        writeln!(
            out,
            "{place}: {:.2} M bids read, {:.2} M read and decoded per CPU-second",
            per_second(rows, read) / 1e6,
            per_second(rows, decoded) / 1e6
        )
        .unwrap();
        for (number, rates) in rates.iter_mut().enumerate() {
            if !wanted.is_empty() && !wanted.contains(&number) {
                continue;
            }
            let path = workspace().join(format!("tests/nexmark/q{number}.sql"));
            let query = std::fs::read_to_string(path).unwrap();
            let (mut continuous, mut bounded) = (Err(String::new()), Err(String::new()));
            for _ in 0..turns {
                continuous = best(
                    continuous,
                    world.continuous(&format!("q{number}"), &query).await,
                );
                bounded = best(bounded, world.bounded(&query).await);
            }
            for spent in [&continuous, &bounded] {
                match spent {
                    Ok(spent) => {
                        write!(rates, " {:>8.0}", per_second(count as u64, *spent) / 1e3).unwrap();
                    }
                    Err(error) => {
                        writeln!(out, "q{number}: {error}").unwrap();
                        rates.push_str("        -");
                    }
                }
            }
            let share = match (COLUMNS[number], continuous) {
                (Some(columns), Ok(spent)) => {
                    let mut alone = Duration::MAX;
                    for _ in 0..turns {
                        alone = alone.min(world.decoded(Some(columns)).await.1);
                    }
                    format!("{:.0} %", 100.0 * alone.as_secs_f64() / spent.as_secs_f64())
                }
                _ => String::new(),
            };
            write!(rates, " {share:>7}").unwrap();
        }
    }
    writeln!(out, "thousands of events per CPU-second").unwrap();
    writeln!(
        out,
        "     log: cont.  bounded  share | Parquet: cont.  bounded  share"
    )
    .unwrap();
    for (number, rates) in rates
        .iter()
        .enumerate()
        .filter(|(_, rates)| !rates.is_empty())
    {
        writeln!(out, "q{number:<3}{rates}").unwrap();
    }

    let first = world.first_row().await;
    writeln!(
        out,
        "a job's first row on a warm topic: {:.1} ms",
        ms(first)
    )
    .unwrap();
    let (writes, through) = world.latencies().await;
    for (what, times) in [
        ("raw 4 KiB write + fdatasync", raw),
        ("durable send of one message", writes),
        ("send and through a filter", through),
    ] {
        let (half, most) = percentiles(times);
        writeln!(
            out,
            "{what}: p50 {:.2} ms, p99 {:.2} ms",
            ms(half),
            ms(most)
        )
        .unwrap();
    }
    world.keeping.0.stop().await;
    world.discarding.0.stop().await;
    world.broker.close().await;
}

/// The lesser of two times; a turn that failed tells no more than that if another did not.
fn best(
    one: Result<Duration, String>,
    other: Result<Duration, String>,
) -> Result<Duration, String> {
    match (one, other) {
        (Ok(one), Ok(other)) => Ok(one.min(other)),
        (Ok(one), Err(_)) | (Err(_), Ok(one)) => Ok(one),
        (Err(_), Err(error)) => Err(error),
    }
}

fn per_second(count: u64, spent: Duration) -> f64 {
    // The kernel counts in hundredths of a second.
    count as f64 / spent.as_secs_f64().max(0.01)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn percentiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

/// Times of durable writes of 4 KiB, one after the other, on the file system of the data folder.
fn raw_writes(folder: &Folder) -> Vec<Duration> {
    let path = folder.beside("raw");
    let file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .open(&path)
        .unwrap();
    let block = vec![7_u8; 4096];
    let times = (0..MESSAGES as u64)
        .map(|turn| {
            let started = now();
            file.write_all_at(&block, turn * 4096).unwrap();
            file.sync_data().unwrap();
            started.elapsed()
        })
        .collect();
    std::fs::remove_file(path).unwrap();
    times
}

/// CPU time that this process has used, by the kernel's count of its user and system ticks.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a bench measures the real passing of time"
)]
fn now() -> Instant {
    Instant::now()
}
