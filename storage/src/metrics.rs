//! What an operator watches of the storage: counts of what goes through its two doors, the disk and the object store.
//!
//! [`Metrics::watch`] wraps both, so nothing behind them knows that it is counted. Reading order: this file, `disk`
//! (durable writes of the WAL), `objects` (calls of the cold tier).
//!
//! **Invariant.** Counting changes nothing: answers and errors pass as they are.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::log::Parts;
use crate::metrics::disk::WatchedDisk;
use crate::metrics::objects::WatchedStore;

mod disk;
mod objects;

/// Upper ends of the buckets that durable writes are counted in.
const BUCKETS_SECONDS: [f64; 14] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
];

/// Counts since the process started.
#[derive(Debug, Default)]
pub struct Metrics {
    pub(crate) wal: WalCounts,
    pub(crate) objects: [CallCounts; 4],
    /// Parquet files put, also those that others were merged into.
    pub(crate) files: AtomicU64,
    /// Their bytes.
    pub(crate) file_bytes: AtomicU64,
}

/// Durable writes of the WAL: one block each.
#[derive(Debug, Default)]
pub(crate) struct WalCounts {
    pub(crate) bytes: AtomicU64,
    pub(crate) errors: AtomicU64,
    buckets: [AtomicU64; BUCKETS_SECONDS.len()],
    count: AtomicU64,
    nanoseconds: AtomicU64,
}

impl WalCounts {
    pub(crate) fn took(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let fits = BUCKETS_SECONDS.iter().position(|end| seconds <= *end);
        if let Some(bucket) = fits.and_then(|at| self.buckets.get(at)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

/// A kind of call to the object store.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Call {
    Put,
    Get,
    List,
    Delete,
}

impl Call {
    const ALL: [Self; 4] = [Self::Put, Self::Get, Self::List, Self::Delete];

    fn word(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::List => "list",
            Self::Delete => "delete",
        }
    }
}

/// Calls of one kind.
#[derive(Debug, Default)]
pub(crate) struct CallCounts {
    pub(crate) calls: AtomicU64,
    /// Those that failed; that an object is missing or exists is an answer.
    pub(crate) errors: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

/// One of the counts of a kind of call.
type CountOf = fn(&CallCounts) -> &AtomicU64;

impl Metrics {
    /// The same parts, watched.
    #[must_use]
    pub fn watch(parts: Parts) -> (Parts, Arc<Self>) {
        let metrics = Arc::new(Self::default());
        let disk = WatchedDisk::new(parts.disk, Arc::clone(&parts.clock), Arc::clone(&metrics));
        let objects = WatchedStore::new(parts.objects, Arc::clone(&metrics));
        let watched = Parts {
            disk: Arc::new(disk),
            objects: Arc::new(objects),
            ..parts
        };
        (watched, metrics)
    }

    pub(crate) fn of(&self, call: Call) -> &CallCounts {
        let [put, get, list, delete] = &self.objects;
        match call {
            Call::Put => put,
            Call::Get => get,
            Call::List => list,
            Call::Delete => delete,
        }
    }

    /// The counts in the text form of Prometheus, version 0.0.4.
    #[must_use]
    pub fn text(&self) -> String {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let mut text = Text::default();
        text.family(
            "millpond_wal_write_seconds",
            "histogram",
            "durable writes of the log, one block each",
        );
        let mut below = 0;
        for (end, bucket) in BUCKETS_SECONDS.iter().zip(&self.wal.buckets) {
            below += read(bucket);
            text.value(
                "millpond_wal_write_seconds_bucket",
                &format!("le=\"{end}\""),
                below,
            );
        }
        let count = read(&self.wal.count);
        text.value("millpond_wal_write_seconds_bucket", "le=\"+Inf\"", count);
        let seconds = Duration::from_nanos(read(&self.wal.nanoseconds)).as_secs_f64();
        text.value("millpond_wal_write_seconds_sum", "", seconds);
        text.value("millpond_wal_write_seconds_count", "", count);
        text.one(
            "millpond_wal_written_bytes_total",
            "counter",
            "bytes of those writes",
            read(&self.wal.bytes),
        );
        text.one(
            "millpond_wal_write_errors_total",
            "counter",
            "those that failed",
            read(&self.wal.errors),
        );
        let of_calls: [(&str, &str, CountOf); 3] = [
            (
                "millpond_objects_calls_total",
                "calls of the object store",
                |of| &of.calls,
            ),
            ("millpond_objects_errors_total", "those that failed", |of| {
                &of.errors
            }),
            ("millpond_objects_bytes_total", "bytes put and got", |of| {
                &of.bytes
            }),
        ];
        for (name, what, of) in of_calls {
            text.family(name, "counter", what);
            for call in Call::ALL {
                let label = format!("operation=\"{}\"", call.word());
                text.value(name, &label, read(of(self.of(call))));
            }
        }
        text.one(
            "millpond_tiered_files_total",
            "counter",
            "Parquet files written, by moving and by merging",
            read(&self.files),
        );
        text.one(
            "millpond_tiered_bytes_total",
            "counter",
            "bytes of those files",
            read(&self.file_bytes),
        );
        text.0
    }
}

/// Text of metrics as it grows.
#[derive(Debug, Default)]
pub struct Text(String);

impl Text {
    /// Begins a metric: its name, type and meaning.
    pub fn family(&mut self, name: &str, kind: &str, what: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {what}\n# TYPE {name} {kind}");
    }

    /// One value of the metric that was begun; `labels` may be empty.
    pub fn value(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = if labels.is_empty() {
            writeln!(self.0, "{name} {value}")
        } else {
            writeln!(self.0, "{name}{{{labels}}} {value}")
        };
    }

    /// A metric of one value without labels.
    pub fn one(&mut self, name: &str, kind: &str, what: &str, value: impl std::fmt::Display) {
        self.family(name, kind, what);
        self.value(name, "", value);
    }

    /// The text.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use millpond_proto::chance::Seeded;
    use millpond_proto::task::Runtimes;
    use millpond_proto::time::SystemClock;
    use object_store::ObjectStoreExt as _;
    use object_store::path::Path;

    use super::*;
    use crate::disk::Way;
    use crate::disk::simulated::SimulatedDisk;
    use crate::tier::simulated::SimulatedStore;

    fn value(text: &str, name: &str) -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} is not in {text}"))
            .trim()
            .parse()
            .unwrap()
    }

    #[tokio::test]
    async fn what_goes_through_the_doors_is_counted_and_passes_as_it_is() {
        let store = SimulatedStore::new(1);
        let parts = Parts {
            disk: Arc::new(SimulatedDisk::new()),
            objects: Arc::new(store.clone()),
            clock: Arc::new(SystemClock),
            chance: Arc::new(Seeded::new(1)),
            spawn: Arc::new(Runtimes::single()),
        };
        let (parts, metrics) = Metrics::watch(parts);
        parts.disk.create("a").unwrap().set_len(8192).unwrap();
        let file = parts.disk.open_durable("a", Way::Buffered).unwrap();
        file.write_durable(&[1; 100], 0).unwrap();
        file.write_durable(&[2; 50], 100).unwrap();
        let mut read = [0; 3];
        assert_eq!(file.read_at(&mut read, 99).unwrap(), 3);
        assert_eq!(read, [1, 2, 2]);

        let path = Path::from("topics/7/data/1.parquet");
        parts.objects.put(&path, "rows".into()).await.unwrap();
        let found = parts
            .objects
            .get(&path)
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap();
        assert_eq!(found, "rows");
        let missing = parts.objects.get(&Path::from("x")).await.unwrap_err();
        assert!(
            matches!(missing, object_store::Error::NotFound { .. }),
            "{missing}"
        );
        store.set_down(true);
        parts.objects.delete(&path).await.unwrap_err();

        let text = metrics.text();
        for (name, expected) in [
            ("millpond_wal_write_seconds_count ", 2.0),
            ("millpond_wal_write_seconds_bucket{le=\"+Inf\"} ", 2.0),
            ("millpond_wal_written_bytes_total ", 150.0),
            ("millpond_wal_write_errors_total ", 0.0),
            ("millpond_objects_calls_total{operation=\"put\"} ", 1.0),
            ("millpond_objects_calls_total{operation=\"get\"} ", 2.0),
            ("millpond_objects_errors_total{operation=\"get\"} ", 0.0),
            ("millpond_objects_errors_total{operation=\"delete\"} ", 1.0),
            ("millpond_objects_bytes_total{operation=\"put\"} ", 4.0),
            ("millpond_objects_bytes_total{operation=\"get\"} ", 4.0),
            ("millpond_tiered_files_total ", 1.0),
            ("millpond_tiered_bytes_total ", 4.0),
        ] {
            assert!(
                (value(&text, name) - expected).abs() < 1e-9,
                "{name} in {text}"
            );
        }
    }
}
