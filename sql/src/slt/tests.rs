//! The files over the broker in memory, but for those that ask what only a real one knows.

use std::fs;
use std::path::Path;

use millpond_proto::task::Runtimes;
use millpond_proto::time::{SimulatedClock, Timestamp};
use object_store::ObjectStore;
use object_store::memory::InMemory;

use super::*;
use crate::job::runtime::JobParts;
use crate::sql::SqlParts;
use crate::testing::MemoryTopics;
use crate::topic::Topics;

mod questions;

/// 2013-01-01T00:00:00Z.
const NEW_YEAR: Timestamp = Timestamp(1_356_998_400_000);
/// Files that begin so are for the real broker alone.
const BROKER_ONLY: &str = "broker_";
/// As many statements as this are run both ways at least.
const STREAMED_MIN: usize = 800;

/// What outlives the queries of a [`World`].
struct Remains {
    clock: Arc<dyn Clock>,
    topics: Arc<dyn Topics>,
    state: Arc<dyn ObjectStore>,
}

impl Remains {
    fn new() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SimulatedClock::starting_at(NEW_YEAR));
        Self {
            topics: MemoryTopics::new(Arc::clone(&clock)),
            clock,
            state: Arc::new(InMemory::new()),
        }
    }
}

/// A world of its own over what is there.
fn world_over(remains: &Remains) -> World {
    let clock = Arc::clone(&remains.clock);
    let parts = JobParts {
        topics: Arc::clone(&remains.topics),
        clock: Arc::clone(&clock),
        spawn: Arc::new(Runtimes::single()),
        state: Arc::clone(&remains.state),
    };
    let jobs = Jobs::start(parts.clone());
    let beside = SqlParts::beside(Arc::clone(&jobs) as _, parts, Arc::new(InMemory::new()));
    let sql = Sql::new(beside).unwrap();
    World { sql, jobs, clock }
}

#[test]
fn every_file_answers_as_written_over_a_broker_in_memory() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/slt");
    let writes = std::env::var_os("MILLPOND_SLT_WRITE").is_some();
    let wanted = std::env::var("MILLPOND_SLT").unwrap_or_default();
    let mut failures = Vec::new();
    let (mut streamed, mut is_chosen) = (0, false);
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(name.ends_with(".slt"), "{name} would be left out");
        is_chosen |= name.contains(&wanted);
        if name.starts_with(BROKER_ONLY) || !name.contains(&wanted) {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let outcome =
            runtime.block_on(async { run(&world_over(&Remains::new()), &name, &text).await });
        failures.extend(outcome.failures);
        streamed += outcome.streamed;
        if writes {
            fs::write(&path, outcome.actual).unwrap();
        }
    }
    assert!(is_chosen, "no file has {wanted:?} in its name");
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    if wanted.is_empty() {
        assert!(
            streamed >= STREAMED_MIN,
            "only {streamed} were run as views"
        );
    }
}
