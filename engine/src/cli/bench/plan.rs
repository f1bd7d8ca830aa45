//! What a run does, wherever it was asked for: on the command line or in a workload file.

use std::time::Duration;

use bytes::Bytes;
use millpond_proto::chance::{Chance as _, Entropy};

use crate::cli::bench_args::BenchArgs;

/// Bytes at the start of a body that tell when its message was due, in microseconds of the run.
pub const STAMP_BYTES: usize = 8;

/// A run.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Topics that are sent to and consumed from.
    pub topics: Vec<String>,
    /// Groups of each topic, by name.
    pub groups: Vec<String>,
    /// Producers of each topic, each with one send at a time.
    pub producers: usize,
    /// Consumers of each topic and group, each with one poll at a time.
    pub consumers: usize,
    /// Messages per second in all; none: as fast as the producers can.
    pub rate: Option<u32>,
    /// How long to produce before anything counts.
    pub warm_up: Duration,
    /// How long to produce.
    pub time: Duration,
    /// Messages per send.
    pub batch: usize,
    /// Messages per poll.
    pub receive: usize,
    /// The bodies, in turn; each is at least [`STAMP_BYTES`] long.
    pub bodies: Vec<Bytes>,
    /// How messages get their keys.
    pub keys: Keys,
    /// Whether what is consumed was produced by this run.
    pub stamped: bool,
}

/// How messages get their keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keys {
    /// They have none.
    #[default]
    None,
    /// As many as this, in turn.
    InTurn(u64),
    /// One of so many, by chance.
    ByChance(u64),
}

impl Plan {
    /// A run of the command line over a topic.
    #[must_use]
    pub fn of(args: &BenchArgs, topic: &str) -> Self {
        Self {
            topics: vec![topic.to_owned()],
            groups: vec![args.group.clone()],
            producers: args.producers,
            consumers: args.consumers,
            rate: args.rate,
            warm_up: Duration::ZERO,
            time: Duration::from_secs(args.seconds),
            batch: args.batch,
            receive: args.receive,
            bodies: vec![vec![b'x'; args.size.max(STAMP_BYTES)].into()],
            keys: Keys::None,
            stamped: args.topic.is_none(),
        }
    }

    /// When the run is over.
    #[must_use]
    pub fn end(&self) -> Duration {
        self.warm_up + self.time
    }

    /// Producers in all.
    #[must_use]
    pub fn all_producers(&self) -> usize {
        self.topics.len() * self.producers
    }

    /// Consumers in all.
    #[must_use]
    pub fn all_consumers(&self) -> usize {
        self.topics.len() * self.groups.len() * self.consumers
    }

    /// The body of a message that was due then.
    #[must_use]
    pub fn body(&self, number: u64, due: Duration) -> Bytes {
        let turn = usize::try_from(number).unwrap_or(0) % self.bodies.len().max(1);
        let mut body = self
            .bodies
            .get(turn)
            .map_or_else(Vec::new, |body| body.to_vec());
        let us = u64::try_from(due.as_micros()).unwrap_or(u64::MAX);
        if let Some(stamp) = body.get_mut(..STAMP_BYTES) {
            stamp.copy_from_slice(&us.to_le_bytes());
        }
        body.into()
    }

    /// When a message that was received was due, if this run sent it.
    #[must_use]
    pub fn due(&self, body: &Bytes) -> Option<Duration> {
        let stamp: [u8; STAMP_BYTES] = body.get(..STAMP_BYTES)?.try_into().ok()?;
        self.stamped
            .then(|| Duration::from_micros(u64::from_le_bytes(stamp)))
    }
}

impl Keys {
    /// The key of a message.
    #[must_use]
    pub fn of(self, number: u64) -> Option<String> {
        let key = match self {
            Self::None => return None,
            Self::InTurn(count) => number % count.max(1),
            Self::ByChance(count) => Entropy.next_u64() % count.max(1),
        };
        Some(format!("key-{key:07}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_take_turns_and_carry_when_they_were_due() {
        let mut plan = Plan {
            topics: vec!["t".to_owned()],
            groups: Vec::new(),
            producers: 1,
            consumers: 1,
            rate: None,
            warm_up: Duration::ZERO,
            time: Duration::from_secs(1),
            batch: 1,
            receive: 32,
            bodies: [&b"aaaaaaaa-1"[..], b"bbbbbbbb-2"]
                .map(Bytes::from_static)
                .into(),
            keys: Keys::None,
            stamped: true,
        };
        let due = Duration::from_micros(77);
        assert!(plan.body(2, due).ends_with(b"-1"));
        assert!(plan.body(3, due).ends_with(b"-2"));
        assert_eq!(plan.due(&plan.body(3, due)), Some(due));
        plan.stamped = false;
        assert_eq!(plan.due(&plan.body(3, due)), None, "a topic of others");
    }

    #[test]
    fn keys_in_turn_come_again_after_as_many() {
        let keys = |keys: Keys| (0..4).map(|number| keys.of(number)).collect::<Vec<_>>();
        assert_eq!(keys(Keys::None), [None, None, None, None]);
        let in_turn = keys(Keys::InTurn(2));
        assert_eq!(in_turn[0], in_turn[2]);
        assert_ne!(in_turn[0], in_turn[1]);
        assert!(keys(Keys::ByChance(2)).iter().all(Option::is_some));
    }
}
