//! Workload files of the OpenMessaging Benchmark: what they say is obeyed, and what is not known here is refused
//! by name, so that no figure stands under a workload that was not run.
//!
//! A workload has its own words for things: partitions are queues, subscriptions are groups. Its `producerRate` is
//! that of all producers together; 0, with which that benchmark looks for the highest rate, is a closed loop here.
//! Bodies keep their length, but their first eight bytes tell when the message was due. Not done: backlogs
//! (`consumerBacklogSizeGB`), which hold consumers back on purpose.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use millpond_proto::chance::{Chance as _, Entropy};
use millpond_proto::limits;
use serde::Deserialize;

use crate::cli::bench::plan::{Keys, Plan, STAMP_BYTES};
use crate::cli::error::CliError;

/// Keys that distributors deal out, as that benchmark does.
const KEYS: u64 = 10_000;
/// Bodies that are made by chance at most; more would only fill the memory.
const POOL_MAX: usize = 10_000;
/// Workers of a run, as on the command line.
const WORKERS_MAX: usize = 10_000;
/// Topics of a run.
const TOPICS_MAX: usize = 1000;
/// Longest run.
const MINUTES_MAX: u64 = 24 * 60;

/// A file as it is written.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    name: Option<String>,
    #[serde(default = "one")]
    topics: usize,
    #[serde(default = "one_queue")]
    partitions_per_topic: u32,
    #[serde(default)]
    key_distributor: KeyDistributor,
    message_size: usize,
    #[serde(default)]
    use_randomized_payloads: bool,
    #[serde(default)]
    random_bytes_ratio: f64,
    #[serde(default)]
    randomized_payload_pool_size: usize,
    payload_file: Option<PathBuf>,
    #[serde(default)]
    subscriptions_per_topic: usize,
    #[serde(default)]
    producers_per_topic: usize,
    #[serde(default)]
    consumer_per_subscription: usize,
    #[serde(default)]
    producer_rate: u32,
    #[serde(rename = "consumerBacklogSizeGB", default)]
    consumer_backlog_size_gb: u64,
    backlog_drain_ratio: Option<f64>,
    test_duration_minutes: u64,
    #[serde(default = "one_minute")]
    warmup_duration_minutes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
enum KeyDistributor {
    #[default]
    #[serde(rename = "NO_KEY")]
    NoKey,
    #[serde(rename = "KEY_ROUND_ROBIN")]
    RoundRobin,
    #[serde(rename = "RANDOM_NANO")]
    Random,
}

fn one() -> usize {
    1
}

fn one_queue() -> u32 {
    1
}

fn one_minute() -> u64 {
    1
}

/// A workload that can be run.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// What it is called.
    pub name: String,
    /// Queues of each topic.
    pub queues: u32,
    /// The run; its topics and groups are names that are free.
    pub plan: Plan,
}

impl Workload {
    /// Reads a file.
    ///
    /// # Errors
    /// [`CliError`] names what can not be read or run.
    pub fn read(path: &Path) -> Result<Self, CliError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|cause| CliError::File {
                path: path.to_owned(),
                verb: "read",
                cause,
            })
        };
        let text = read(path)?;
        let file: File = serde_yaml_ng::from_slice(&text).map_err(|error| CliError::Usage {
            what: format!("{} is no workload that can be run: {error}", path.display()),
            help: "leave out or mend what is named; millpond bench --help tells what is obeyed"
                .to_owned(),
        })?;
        let payload = match &file.payload_file {
            // As that benchmark looks for it, or beside the workload.
            Some(payload) if payload.exists() => Some(read(payload)?),
            Some(payload) => Some(read(&path.with_file_name(payload))?),
            None => None,
        };
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        file.check(path)?;
        file.plan(&stem, payload)
    }

    /// The same load for so many seconds that all count; as the file says when nothing is given.
    #[must_use]
    pub fn lasting(mut self, seconds: Option<u64>) -> Self {
        if let Some(seconds) = seconds {
            self.plan.warm_up = Duration::ZERO;
            self.plan.time = Duration::from_secs(seconds);
        }
        self
    }
}

impl File {
    /// Refuses what can not be run as it is written.
    fn check(&self, path: &Path) -> Result<(), CliError> {
        let refused = |what: String, help: &str| {
            Err(CliError::Usage {
                what: format!("{}: {what}", path.display()),
                help: help.to_owned(),
            })
        };
        if self.consumer_backlog_size_gb > 0 {
            return refused(
                format!(
                    "consumerBacklogSizeGB is {}, and backlogs are not built here",
                    self.consumer_backlog_size_gb
                ),
                "set it to 0, or fill a topic with millpond bench produce and drain it with millpond bench consume",
            );
        }
        if self.backlog_drain_ratio.is_some_and(|ratio| ratio != 1.0) {
            return refused(
                "backlogDrainRatio belongs to a backlog, and backlogs are not built here"
                    .to_owned(),
                "leave it out",
            );
        }
        let body_max = limits::BODY_BYTES_MAX;
        let bounds = [
            ("topics", self.topics, 1, TOPICS_MAX),
            (
                "partitionsPerTopic",
                self.partitions_per_topic as usize,
                1,
                limits::QUEUES_MAX as usize,
            ),
            ("messageSize", self.message_size, STAMP_BYTES, body_max),
            (
                "producersPerTopic",
                self.producers_per_topic,
                1,
                WORKERS_MAX,
            ),
            (
                "randomizedPayloadPoolSize",
                self.randomized_payload_pool_size,
                0,
                POOL_MAX,
            ),
        ];
        for (name, found, least, most) in bounds {
            if !(least..=most).contains(&found) {
                return refused(
                    format!("{name} is {found}, allowed are {least} to {most}"),
                    "give another number",
                );
            }
        }
        for (name, minutes, least) in [
            ("testDurationMinutes", self.test_duration_minutes, 1),
            ("warmupDurationMinutes", self.warmup_duration_minutes, 0),
        ] {
            if !(least..=MINUTES_MAX).contains(&minutes) {
                return refused(
                    format!("{name} is {minutes}, allowed are {least} to {MINUTES_MAX}"),
                    "give another number",
                );
            }
        }
        let consumers = self
            .subscriptions_per_topic
            .saturating_mul(self.consumer_per_subscription);
        for (name, workers) in [
            ("producers", self.producers_per_topic),
            ("consumers", consumers),
        ] {
            if workers.saturating_mul(self.topics) > WORKERS_MAX {
                return refused(
                    format!("there are more than {WORKERS_MAX} {name} in all"),
                    "have fewer of them, or fewer topics",
                );
            }
        }
        if self.subscriptions_per_topic > 0 && self.consumer_per_subscription == 0 {
            return refused(
                "subscriptionsPerTopic without consumerPerSubscription: nobody consumes".to_owned(),
                "give both, or neither to produce alone",
            );
        }
        if !(0.0..=1.0).contains(&self.random_bytes_ratio) {
            return refused(
                format!(
                    "randomBytesRatio is {}, allowed are 0 to 1",
                    self.random_bytes_ratio
                ),
                "give another number",
            );
        }
        if self.use_randomized_payloads && self.randomized_payload_pool_size == 0 {
            return refused(
                "useRandomizedPayloads needs a randomizedPayloadPoolSize".to_owned(),
                "give how many bodies to make",
            );
        }
        if self.use_randomized_payloads && self.payload_file.is_some() {
            return refused(
                "useRandomizedPayloads and payloadFile both say what bodies are".to_owned(),
                "leave one of them out",
            );
        }
        Ok(())
    }

    fn plan(self, stem: &str, payload: Option<Vec<u8>>) -> Result<Workload, CliError> {
        if let Some(payload) = &payload
            && payload.len() != self.message_size
        {
            return Err(CliError::Usage {
                what: format!(
                    "the payloadFile has {} bytes, and messageSize is {}",
                    payload.len(),
                    self.message_size
                ),
                help: "make them equal".to_owned(),
            });
        }
        let bodies = match payload {
            Some(payload) => vec![payload.into()],
            None if self.use_randomized_payloads => (0..self.randomized_payload_pool_size)
                .map(|_| body_by_chance(self.message_size, self.random_bytes_ratio))
                .collect(),
            None => vec![vec![b'x'; self.message_size].into()],
        };
        let run = format!("{:016x}", Entropy.next_u64());
        let groups = 0..self.subscriptions_per_topic;
        let plan = Plan {
            topics: (0..self.topics)
                .map(|n| format!("bench-{run}-{n}"))
                .collect(),
            groups: groups.map(|n| format!("bench-{run}-{n}")).collect(),
            producers: self.producers_per_topic,
            consumers: self.consumer_per_subscription,
            rate: Some(self.producer_rate).filter(|rate| *rate > 0),
            warm_up: Duration::from_secs(self.warmup_duration_minutes * 60),
            time: Duration::from_secs(self.test_duration_minutes * 60),
            batch: 1,
            receive: limits::RECEIVE_BATCH_MAX,
            bodies,
            keys: match self.key_distributor {
                KeyDistributor::NoKey => Keys::None,
                KeyDistributor::RoundRobin => Keys::InTurn(KEYS),
                KeyDistributor::Random => Keys::ByChance(KEYS),
            },
            stamped: true,
        };
        Ok(Workload {
            name: self.name.unwrap_or_else(|| stem.to_owned()),
            queues: self.partitions_per_topic,
            plan,
        })
    }
}

/// A body of which so much does not compress.
fn body_by_chance(size: usize, ratio: f64) -> Bytes {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a size lies between 0 and it"
    )]
    let random = (size as f64 * ratio).round() as usize;
    let chance = std::iter::repeat_with(|| Entropy.next_u64().to_le_bytes()).flatten();
    let mut body: Vec<u8> = chance.take(random.min(size)).collect();
    body.resize(size, 0);
    body.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIMPLE: &str = "\
name: 1 topic / 1 partition / 1Kb

topics: 1
partitionsPerTopic: 16
messageSize: 1024
payloadFile: \"payload-1Kb.data\"
subscriptionsPerTopic: 1
consumerPerSubscription: 4
producersPerTopic: 2
producerRate: 50000
consumerBacklogSizeGB: 0
testDurationMinutes: 15
";

    fn read(text: &str) -> Result<Workload, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("payload-1Kb.data"), [b'p'; 1024]).unwrap();
        let path = folder.path().join("simple.yaml");
        std::fs::write(&path, text).unwrap();
        Workload::read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn a_workload_as_they_are_published_is_obeyed() {
        let workload = read(SIMPLE).unwrap();
        let plan = &workload.plan;
        assert_eq!(workload.name, "1 topic / 1 partition / 1Kb");
        assert_eq!(
            (workload.queues, plan.topics.len(), plan.groups.len()),
            (16, 1, 1)
        );
        assert_eq!(
            (plan.producers, plan.consumers, plan.rate),
            (2, 4, Some(50_000))
        );
        assert_eq!(plan.time, Duration::from_secs(900));
        assert_eq!(
            plan.warm_up,
            Duration::from_secs(60),
            "a minute when nothing is said"
        );
        assert_eq!(plan.bodies, [Bytes::from(vec![b'p'; 1024])]);
        assert_eq!(plan.keys, Keys::None);
        assert_eq!(workload.clone().lasting(None), workload);
        let plan = workload.lasting(Some(3)).plan;
        assert_eq!((plan.warm_up, plan.time.as_secs()), (Duration::ZERO, 3));
    }

    #[test]
    fn many_topics_random_bodies_and_keys() {
        let text = "\
topics: 3
partitionsPerTopic: 1
keyDistributor: KEY_ROUND_ROBIN
messageSize: 100
useRandomizedPayloads: true
randomBytesRatio: 0.5
randomizedPayloadPoolSize: 7
subscriptionsPerTopic: 2
consumerPerSubscription: 1
producersPerTopic: 1
producerRate: 0
testDurationMinutes: 1
warmupDurationMinutes: 0
";
        let workload = read(text).unwrap();
        let plan = &workload.plan;
        assert_eq!(workload.name, "simple", "named after its file");
        assert_eq!((plan.all_producers(), plan.all_consumers()), (3, 6));
        assert_eq!(plan.rate, None, "as fast as the producers can");
        assert_eq!(plan.warm_up, Duration::ZERO);
        assert_eq!(plan.bodies.len(), 7);
        assert!(
            plan.bodies
                .iter()
                .all(|body| body.len() == 100 && body[50..] == [0; 50])
        );
        assert_ne!(plan.bodies[0], plan.bodies[1]);
        assert_eq!(plan.keys, Keys::InTurn(KEYS));
    }

    #[test]
    fn what_is_unknown_or_can_not_be_run_is_refused_by_its_name() {
        let cases = [
            (
                "consumerBacklogSizeGB: 0",
                "consumerBacklogSizeGB: 100",
                "consumerBacklogSizeGB",
            ),
            ("topics: 1", "topics: 0", "topics"),
            ("topics: 1", "topicz: 1", "topicz"),
            (
                "partitionsPerTopic: 16",
                "partitionsPerTopic: 1000000",
                "partitionsPerTopic",
            ),
            ("messageSize: 1024", "messageSize: 3", "messageSize"),
            ("messageSize: 1024", "messageSize: 1000", "payloadFile"),
            ("payload-1Kb.data", "gone.data", "gone.data"),
            (
                "producersPerTopic: 2",
                "producersPerTopic: 0",
                "producersPerTopic",
            ),
            (
                "producersPerTopic: 2",
                "producersPerTopic: 9\nkeyDistributor: BY_MOOD",
                "BY_MOOD",
            ),
            (
                "producersPerTopic: 2",
                "producersPerTopic: 9\nbacklogDrainRatio: 0.5",
                "backlogDrainRatio",
            ),
            (
                "producersPerTopic: 2",
                "producersPerTopic: 9\nuseRandomizedPayloads: true",
                "useRandomizedPayloads",
            ),
            (
                "consumerPerSubscription: 4",
                "consumerPerSubscription: 0",
                "consumerPerSubscription",
            ),
            (
                "consumerPerSubscription: 4",
                "consumerPerSubscription: 20000",
                "consumers",
            ),
            (
                "testDurationMinutes: 15",
                "testDurationMinutes: 0",
                "testDurationMinutes",
            ),
            ("testDurationMinutes: 15", "", "testDurationMinutes"),
        ];
        for (before, after, name) in cases {
            let text = SIMPLE.replace(before, after);
            let error = read(&text).unwrap_err();
            assert!(error.contains(name), "{after:?}: {error}");
        }
    }
}
