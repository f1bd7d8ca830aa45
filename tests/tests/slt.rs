//! Every file of `tests/slt`, statement by statement, against SQL over a real broker.
//!
//! `MILLPOND_SLT=joins` runs the files whose names contain the word; `MILLPOND_SLT_WRITE=1` writes what was
//! answered into the files, to be read before it is believed.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use millpond_engine::broker::Broker;
use millpond_proto::chance::Seeded;
use millpond_proto::task::{Runtimes, Spawn};
use millpond_proto::time::{Clock, SimulatedClock, Timestamp};
use millpond_sql::job::runtime::{JobParts, Jobs};
use millpond_sql::slt::{Outcome, World, run, run_behind};
use millpond_sql::sql::{Sql, SqlParts};
use millpond_storage::disk::Disk;
use millpond_storage::disk::simulated::SimulatedDisk;
use millpond_storage::log::{Parts, Settings};
use millpond_storage::tier::objects::DiskObjectStore;
use millpond_tests::harness::workspace;
use object_store::ObjectStore;

/// 2013-01-01T00:00:00Z.
const NEW_YEAR: Timestamp = Timestamp(1_356_998_400_000);

/// What the files hold together at least.
const STATEMENTS_MIN: usize = 1700;
/// As many of them as this are run as views too.
const STREAMED_MIN: usize = 800;

fn files() -> Vec<(String, PathBuf)> {
    let folder = workspace().join("tests/slt");
    let wanted = std::env::var("MILLPOND_SLT").unwrap_or_default();
    let mut files: Vec<(String, PathBuf)> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), path))
        .inspect(|(name, _)| assert!(name.ends_with(".slt"), "{name} would be left out"))
        .filter(|(name, _)| name.contains(&wanted))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no file has {wanted:?} in its name");
    files
}

/// Where messages lie while the statements run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Messages {
    Hot,
    /// Everything is moved to the cold tier before each statement, and small files are merged.
    Cold,
}

fn outcome(name: &str, text: &str, messages: Messages) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let (world, broker) = start().await;
        let outcome = match messages {
            Messages::Hot => run(&world, name, text).await,
            Messages::Cold => {
                let moved = async || {
                    broker.tier().await.unwrap();
                    broker.compact(None).await.unwrap();
                };
                run_behind(&world, name, text, moved).await
            }
        };
        world.jobs.stop().await;
        broker.close().await;
        outcome
    })
}

/// A broker of its own, on a simulated disk.
async fn start() -> (World, Arc<Broker>) {
    let clock: Arc<dyn Clock> = Arc::new(SimulatedClock::starting_at(NEW_YEAR));
    let spawn: Arc<dyn Spawn> = Arc::new(Runtimes::single());
    let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::new());
    let folder =
        |name| -> Arc<dyn ObjectStore> { Arc::new(DiskObjectStore::new(Arc::clone(&disk), name)) };
    let (objects, state, export) = (
        DiskObjectStore::new(Arc::clone(&disk), "objects"),
        folder("state"),
        folder("export"),
    );
    let parts = Parts {
        disk: Arc::clone(&disk),
        objects: Arc::new(objects),
        clock: Arc::clone(&clock),
        chance: Arc::new(Seeded::new(1)),
        spawn: Arc::clone(&spawn),
    };
    let settings = Settings {
        shards: 4,
        location: Some("memory:/objects".to_owned()),
        ..Settings::default()
    };
    let broker = Broker::start(parts, settings).await.unwrap();
    let parts = JobParts {
        topics: Arc::clone(&broker) as _,
        clock: Arc::clone(&clock),
        spawn,
        state,
    };
    let jobs = Jobs::start(parts.clone());
    let sql = Sql::new(SqlParts::beside(Arc::clone(&jobs) as _, parts, export)).unwrap();
    (World { sql, jobs, clock }, broker)
}

#[test]
fn every_statement_answers_as_written() {
    let writes = std::env::var_os("MILLPOND_SLT_WRITE").is_some();
    let is_all = std::env::var_os("MILLPOND_SLT").is_none();
    let (mut statements, mut streamed, mut failures) = (0, 0, Vec::new());
    for (name, path) in files() {
        let outcome = outcome(&name, &fs::read_to_string(&path).unwrap(), Messages::Hot);
        println!(
            "{name}: {} statements, {} of them streaming as well",
            outcome.statements, outcome.streamed
        );
        statements += outcome.statements;
        streamed += outcome.streamed;
        failures.extend(outcome.failures);
        if writes {
            fs::write(&path, outcome.actual).unwrap();
        }
    }
    println!("{statements} statements, {streamed} of them streaming as well");
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    let is_whole = statements >= STATEMENTS_MIN && streamed >= STREAMED_MIN;
    assert!(!is_all || is_whole, "{statements}, {streamed} streaming");
}

/// Files whose answers tell where messages lie.
const TELLS_THE_TIER: [&str; 1] = ["broker_system.slt"];
/// What the others hold together at least.
const COLD_MIN: usize = 1600;

#[test]
fn statements_answer_alike_from_typed_columns_of_cold_files() {
    let is_all = std::env::var_os("MILLPOND_SLT").is_none();
    let (mut statements, mut failures) = (0, Vec::new());
    for (name, path) in files() {
        if TELLS_THE_TIER.contains(&name.as_str()) {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let outcome = outcome(&name, &text, Messages::Cold);
        statements += outcome.statements;
        failures.extend(outcome.failures);
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    assert!(!is_all || statements >= COLD_MIN, "{statements}");
}
