//! The main job on real data: import, pop and ack through two kills, SQL, views, Parquet, tiering.
//!
//! `FLIGHTS_CSV` names the full file (336,776 flights of 2013); without it the shipped sample serves. What
//! the product answers is compared with what this file computes from the CSV on its own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::util::display::{ArrayFormatter, FormatOptions};
use millpond_proto::client::{Admin, ClientError, SimpleConsumer};
use millpond_proto::remedy::Remedy;
use millpond_proto::wire::admin::ReadRequest;
use millpond_tests::harness::{Folder, Kill, Server, eventually, workspace};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

const TOPIC: &str = "flights";
const GROUP: &str = "dispatch";
const QUEUES: u32 = 8;
const DAY_MINUTES: i64 = 24 * 60;
const LIMIT: Duration = Duration::from_secs(600);

const CREATE: &str = "CREATE TOPIC flights (
    year BIGINT, month BIGINT, day BIGINT, dep_time BIGINT, sched_dep_time BIGINT, dep_delay BIGINT,
    arr_time BIGINT, sched_arr_time BIGINT, arr_delay BIGINT, carrier VARCHAR, flight BIGINT,
    tailnum VARCHAR, origin VARCHAR, dest VARCHAR, air_time BIGINT, distance BIGINT, hour BIGINT,
    minute BIGINT, time_hour TIMESTAMP,
    departure AS (to_timestamp_seconds(to_unixtime(time_hour) + (minute + dep_delay) * 60)),
    WATERMARK FOR departure AS departure - INTERVAL '24 hours'
) WITH (queues = 8)";

/// Columns that name a flight, and one with nulls.
const NAMING: [&str; 9] = [
    "year",
    "month",
    "day",
    "sched_dep_time",
    "carrier",
    "flight",
    "tailnum",
    "origin",
    "dep_delay",
];

/// One flight, as the CSV has it.
#[derive(Clone, Debug)]
struct Flight {
    /// [`NAMING`], joined; `NA` is an empty text.
    name: String,
    carrier: String,
    dep_delay: Option<i64>,
    /// Minutes since the epoch, UTC; none for a flight that never left.
    departure: Option<i64>,
}

/// Count and sum, so that averages are compared where they are exact.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Delay {
    flights: u64,
    known: u64,
    sum: i64,
}

impl Delay {
    fn add(&mut self, flight: &Flight) {
        self.flights += 1;
        if let Some(delay) = flight.dep_delay {
            self.known += 1;
            self.sum += delay;
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "sums of minutes are small")]
    fn average(self) -> f64 {
        self.sum as f64 / self.known as f64
    }
}

fn csv() -> PathBuf {
    match std::env::var_os("FLIGHTS_CSV") {
        Some(path) => PathBuf::from(path),
        None => workspace().join("examples/data/flights.csv"),
    }
}

/// Days since the epoch of a civil date (Howard Hinnant's algorithm).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// `2013-01-01T10:00:00Z`, or any text that starts like it, as minutes since the epoch.
fn minutes(text: &str) -> i64 {
    let number = |range: std::ops::Range<usize>| text[range].parse::<i64>().unwrap();
    days(number(0..4), number(5..7), number(8..10)) * DAY_MINUTES
        + number(11..13) * 60
        + number(14..16)
}

fn read_flights() -> Vec<Flight> {
    let path = csv();
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut lines = text.lines();
    let header: HashMap<&str, usize> = lines
        .next()
        .unwrap()
        .split(',')
        .enumerate()
        .map(|(index, name)| (name, index))
        .collect();
    let flights: Vec<Flight> = lines
        .map(|line| {
            let values: Vec<&str> = line.split(',').collect();
            let value = |name: &str| Some(values[header[name]]).filter(|value| *value != "NA");
            let number = |name: &str| value(name).map(|text| text.parse::<i64>().unwrap());
            let scheduled = minutes(value("time_hour").unwrap()) + number("minute").unwrap();
            Flight {
                name: NAMING.map(|name| value(name).unwrap_or("")).join("|"),
                carrier: value("carrier").unwrap().to_owned(),
                dep_delay: number("dep_delay"),
                departure: number("dep_delay").map(|delay| scheduled + delay),
            }
        })
        .collect();
    let names: BTreeSet<&String> = flights.iter().map(|flight| &flight.name).collect();
    assert_eq!(
        names.len(),
        flights.len(),
        "a flight is named by {NAMING:?}"
    );
    flights
}

/// The name of the flight in a message's body.
fn name_of(body: &[u8]) -> String {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap();
    NAMING
        .map(|column| match body.get(column) {
            None | Some(serde_json::Value::Null) => String::new(),
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        })
        .join("|")
}

/// What two consumers have in common: who was acknowledged, and when.
#[derive(Debug, Default)]
struct Progress {
    /// Ticks with every call and every answer, so that "later" has a meaning.
    tick: AtomicUsize,
    state: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Flights that came at least once.
    delivered: BTreeSet<String>,
    /// Tick at which an ack was answered OK, by queue and offset.
    acked: HashMap<(i32, i64), usize>,
    /// Acks without an answer: the server may or may not have taken them.
    open: BTreeSet<(i32, i64)>,
    /// Deliveries that came after the ack was answered.
    returned: Vec<String>,
    redelivered: usize,
}

impl Progress {
    fn now(&self) -> usize {
        self.tick.fetch_add(1, Ordering::SeqCst)
    }

    fn acked(&self) -> usize {
        self.state.lock().unwrap().acked.len()
    }
}

/// Pops and acknowledges until `enough` says so or the server is gone.
async fn consume(server: &Server, progress: &Progress, enough: impl Fn() -> bool) {
    let consumer = SimpleConsumer::new(&server.client(), GROUP, TOPIC);
    while !enough() {
        let called = progress.now();
        let (invisible, poll) = (Duration::from_secs(10), Duration::from_secs(1));
        let messages = match consumer.receive(32, invisible, poll).await {
            Ok(messages) => messages,
            Err(error) if is_outage(&error) => return,
            Err(error) => panic!("receive: {error}"),
        };
        {
            let mut seen = progress.state.lock().unwrap();
            for message in &messages {
                let place = (message.queue, message.offset);
                let name = name_of(&message.body);
                if seen.acked.get(&place).is_some_and(|acked| *acked < called) {
                    seen.returned.push(name.clone());
                }
                seen.redelivered += usize::from(!seen.delivered.insert(name));
                seen.open.insert(place);
            }
        }
        let answers = match consumer.ack_all(&messages).await {
            Ok(answers) => answers,
            Err(error) if is_outage(&error) => return,
            Err(error) => panic!("ack: {error}"),
        };
        let answered = progress.now();
        let mut seen = progress.state.lock().unwrap();
        for (message, answer) in messages.iter().zip(answers) {
            let place = (message.queue, message.offset);
            // An ack may come too late for its invisible time; the message then comes again.
            if answer.is_ok() {
                seen.acked.entry(place).or_insert(answered);
                seen.open.remove(&place);
            }
        }
    }
}

/// Whether a call failed because the server went away under it.
fn is_outage(error: &ClientError) -> bool {
    matches!(error, ClientError::Unreachable { .. }) || error.remedy() != Remedy::FixRequest
}

/// Two consumers until `share` of all flights is acknowledged.
async fn consume_until(server: &Server, progress: &Progress, acked: usize) {
    let enough = || progress.acked() >= acked;
    futures::future::join(
        consume(server, progress, enough),
        consume(server, progress, enough),
    )
    .await;
    assert!(progress.acked() >= acked, "the server went away by itself");
}

/// Kills the server while both consumers are in the middle of their work.
async fn kill_at_work(server: Server, progress: &Progress, after: usize) {
    let goal = progress.acked() + after;
    let kill = Kill::of(&server);
    let pid_goes = kill.when(|| progress.acked() >= goal);
    let work = futures::future::join(
        consume(&server, progress, || false),
        consume(&server, progress, || false),
    );
    futures::future::join(pid_goes, work).await;
    server.kill();
}

/// Every message of the topic as the server reads it, by queue and offset.
async fn read_all(admin: &Admin) -> BTreeMap<(u32, u64), String> {
    let mut found = BTreeMap::new();
    for queue in 0..QUEUES {
        let mut from = 0;
        loop {
            let request = ReadRequest {
                topic: TOPIC.to_owned(),
                queue,
                from,
                limit: 1024,
            };
            let answer = admin.read_topic(request).await.unwrap();
            if answer.messages.is_empty() {
                break;
            }
            for (offset, message) in (from..).zip(answer.messages) {
                assert_eq!(message.offset, offset, "offsets are dense from 0");
                found.insert((queue, message.offset), format!("{message:?}"));
            }
            from = answer.next;
        }
    }
    found
}

/// Whether a continuous query has committed everything there is to read.
async fn has_caught_up(admin: &Admin, job: &str) -> bool {
    let job = admin.describe_job(job).await.unwrap();
    assert_eq!(job.state, "running", "{job:?}");
    job.lag == 0 && job.rows_in > 0
}

fn close_to(found: &str, expected: f64) -> bool {
    let found: f64 = found
        .parse()
        .unwrap_or_else(|_| panic!("{found:?} is a number"));
    (found - expected).abs() < 1e-6
}

fn check_carriers(server: &Server, flights: &[Flight]) {
    let mut expected: BTreeMap<&str, Delay> = BTreeMap::new();
    for flight in flights {
        expected.entry(&flight.carrier).or_default().add(flight);
    }
    let rows = server.rows(
        "SELECT carrier, count(*) AS n, avg(dep_delay) AS d FROM flights GROUP BY carrier ORDER BY carrier",
    );
    assert_eq!(rows.len(), expected.len(), "{rows:?}");
    for (row, (carrier, delay)) in rows.iter().zip(expected) {
        assert_eq!(
            (row[0].as_str(), row[1].parse().unwrap()),
            (carrier, delay.flights)
        );
        assert!(
            close_to(&row[2], delay.average()),
            "{row:?}, expected {delay:?}"
        );
    }
}

/// Compares a view over one-day windows with the same computed from the CSV.
fn check_days(server: &Server, view: &str, flights: &[Flight], closed_before: Option<i64>) {
    let mut expected: BTreeMap<(i64, &str), Delay> = BTreeMap::new();
    for flight in flights {
        let Some(departure) = flight.departure else {
            continue;
        };
        let day = departure.div_euclid(DAY_MINUTES) * DAY_MINUTES;
        if closed_before.is_none_or(|watermark| day + DAY_MINUTES <= watermark) {
            expected
                .entry((day, &flight.carrier))
                .or_default()
                .add(flight);
        }
    }
    let rows = server.rows(&format!(
        "SELECT window_start, carrier, flights, delay FROM {view} ORDER BY window_start, carrier"
    ));
    assert_eq!(rows.len(), expected.len(), "rows of {view}");
    for (row, ((day, carrier), delay)) in rows.iter().zip(expected) {
        assert_eq!(
            (minutes(&row[0]), row[1].as_str()),
            (day, carrier),
            "{view}: {row:?}"
        );
        assert_eq!(row[2].parse(), Ok(delay.flights), "{view}: {row:?}");
        assert!(
            close_to(&row[3], delay.average()),
            "{view}: {row:?}, expected {delay:?}"
        );
    }
}

fn check_export(server: &Server, folder: &Folder, flights: &[Flight]) {
    let file = folder.beside("flights.parquet");
    let _ = server.millpond(&["export", TOPIC, "--to", file.to_str().unwrap()]);
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&file).unwrap())
        .unwrap()
        .build()
        .unwrap();
    let mut found = BTreeSet::new();
    let mut count = 0;
    for batch in reader {
        let batch = batch.unwrap();
        let options = FormatOptions::default();
        let columns = NAMING.map(|name| {
            let column = batch
                .column_by_name(name)
                .unwrap_or_else(|| panic!("column {name}"));
            ArrayFormatter::try_new(column, &options).unwrap()
        });
        for row in 0..batch.num_rows() {
            let values: Vec<String> = columns.iter().map(|c| c.value(row).to_string()).collect();
            found.insert(values.join("|"));
            count += 1;
        }
    }
    let expected: BTreeSet<String> = flights.iter().map(|flight| flight.name.clone()).collect();
    assert_eq!(count, flights.len(), "rows in the exported file");
    assert!(found == expected, "the exported file has the same rows");
}

fn submit_view(server: &Server, name: &str, emit: &str) {
    let _ = server.millpond(&[
        "job",
        "submit",
        &format!(
            "CREATE MATERIALIZED VIEW {name} AS \
             SELECT window_start, carrier, count(*) AS flights, avg(dep_delay) AS delay \
             FROM TUMBLE(TABLE flights, DESCRIPTOR(departure), INTERVAL '1 day') \
             GROUP BY window_start, window_end, carrier {emit}"
        ),
    ]);
}

#[tokio::test]
async fn every_flight_is_delivered_and_counted_through_two_kills() {
    let flights = read_flights();
    let folder = Folder::new();
    let progress = Progress::default();

    let server = folder.serve();
    let _ = server.millpond(&["sql", "-c", CREATE]);
    // One view follows the import, the other starts from history.
    submit_view(&server, "days", "");
    let file = csv();
    let _ = server.millpond(&[
        "import",
        file.to_str().unwrap(),
        "--to",
        TOPIC,
        "--key",
        "tailnum",
        "--null",
        "NA",
        "--order-by",
        "time_hour, minute",
    ]);
    submit_view(&server, "closed_days", "EMIT ON WINDOW CLOSE");
    // Read from the log, before a turn of the tierer or soon enough after its first.
    let before = read_all(&server.admin()).await;

    let third = flights.len() / 3;
    consume_until(&server, &progress, third / 2).await;
    kill_at_work(server, &progress, third / 2).await;

    let server = folder.serve();
    consume_until(&server, &progress, third + third / 2).await;
    server.admin().tier().await.unwrap();
    let topic = server.admin().describe_topic(TOPIC).await.unwrap();
    for range in &topic.ranges {
        assert_eq!(range.tiered, range.next, "all of it lies in Parquet now");
    }
    let after = read_all(&server.admin()).await;
    assert_eq!(before.len(), flights.len());
    assert!(
        before == after,
        "offsets read the same before and after tiering"
    );
    drop((before, after));
    kill_at_work(server, &progress, third / 4).await;

    let server = folder.serve();
    let admin = server.admin();
    let lag = async || {
        let group = admin.describe_group(GROUP).await.unwrap();
        let of_topic = group.progress.iter().filter(|queue| queue.topic == TOPIC);
        of_topic.map(|queue| queue.lag).sum::<u64>()
    };
    eventually("the group has acknowledged everything", LIMIT, async || {
        let calls = AtomicUsize::new(0);
        let enough = || calls.fetch_add(1, Ordering::Relaxed) > 100;
        futures::future::join(
            consume(&server, &progress, enough),
            consume(&server, &progress, enough),
        )
        .await;
        lag().await == 0
    })
    .await;
    {
        let seen = progress.state.lock().unwrap();
        assert_eq!(seen.returned, Vec::<String>::new(), "came after their ack");
        let expected: BTreeSet<&String> = flights.iter().map(|flight| &flight.name).collect();
        assert!(seen.delivered.iter().collect::<BTreeSet<_>>() == expected);
        let settled = seen.acked.len() + seen.open.len();
        assert_eq!(
            settled,
            flights.len(),
            "acknowledged, or lost with the answer"
        );
        println!(
            "{} flights, {} acks without an answer, {} redelivered",
            flights.len(),
            seen.open.len(),
            seen.redelivered
        );
    }

    check_carriers(&server, &flights);
    let watermark = flights.iter().filter_map(|flight| flight.departure).max();
    let watermark = watermark.map(|latest| latest - DAY_MINUTES);
    for (view, closed_before) in [("days", None), ("closed_days", watermark)] {
        let admin = server.admin();
        let what = format!("{view} has caught up");
        eventually(&what, LIMIT, async || has_caught_up(&admin, view).await).await;
        check_days(&server, view, &flights, closed_before);
        let job = admin.describe_job(view).await.unwrap();
        let never_left = flights.iter().filter(|f| f.departure.is_none()).count() as u64;
        assert_eq!(job.rows_without_time, never_left, "{job:?}");
        assert_eq!((job.rows_late, job.rows_undecodable), (0, 0), "{job:?}");
    }
    check_export(&server, &folder, &flights);
    assert!(server.stop(), "SIGTERM ends it cleanly");
}
