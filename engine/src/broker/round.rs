//! Which shard of a topic a group's poll asks first, and when it asks all of them.
//!
//! A poll that finds all it wants in one shard leaves the others alone, so each poll of a group begins
//! with another one. That alone would let a message that comes back wait for its shard's turn, for long
//! if the group polls seldom: so the first poll after [`SWEEP_MS`] asks all shards that have something for a share.
//!
//! Kept in memory only, and only for groups that poll: what is forgotten begins anew, and with a sweep, because nobody
//! knows how long the shards had waited.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use millpond_proto::time::Timestamp;

/// How long a shard may go unasked while its group polls.
const SWEEP_MS: i64 = 500;
/// Rounds that are kept before those of groups that no longer poll are let go.
const ROUNDS_KEPT: usize = 4096;

/// How a poll is to go round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// Numbers the polls of the group.
    pub(super) number: u32,
    /// Whether every shard is asked for a share.
    pub(super) asks_all: bool,
}

/// Where the groups are on their ways round.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// By topic and group.
    rounds: BTreeMap<(u64, u64), Round>,
    /// Whether some were let go.
    has_forgotten: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Round {
    turn: u32,
    swept_ms: Option<i64>,
}

impl Rounds {
    /// The next poll's turn.
    pub(super) fn next(&self, topic: u64, group: u64, now: Timestamp) -> Turn {
        let now_ms = now.as_ms();
        let is_late = |round: &Round| {
            let since = round.swept_ms.map(|at| now_ms.saturating_sub(at));
            since.is_none_or(|since| !(0..SWEEP_MS).contains(&since))
        };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let Kept {
            rounds,
            has_forgotten,
        } = &mut *kept;
        if rounds.len() >= ROUNDS_KEPT {
            rounds.retain(|_, round| !is_late(round));
            *has_forgotten = true;
        }
        let round = rounds.entry((topic, group)).or_insert_with(|| Round {
            swept_ms: (!*has_forgotten).then_some(now_ms),
            ..Round::default()
        });
        let asks_all = is_late(round);
        if asks_all {
            round.swept_ms = Some(now_ms);
        }
        let number = round.turn;
        round.turn = round.turn.wrapping_add(1);
        Turn { number, asks_all }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_poll_begins_elsewhere_and_all_shards_are_asked_in_time() {
        let rounds = Rounds::default();
        let turn = |group, ms| {
            let turn = rounds.next(7, group, Timestamp(ms));
            (turn.number, turn.asks_all)
        };
        assert_eq!(turn(1, 1000), (0, false));
        assert_eq!(turn(1, 1001), (1, false));
        assert_eq!(turn(2, 1001), (0, false), "groups do not share their ways");
        assert_eq!(turn(1, 1499), (2, false));
        assert_eq!(turn(1, 1500), (3, true));
        assert_eq!(turn(1, 1999), (4, false));
        assert_eq!(turn(1, 900), (5, true), "the clock was set back");
    }

    #[test]
    fn groups_that_no_longer_poll_are_forgotten() {
        let rounds = Rounds::default();
        for group in 0..2 * ROUNDS_KEPT as u64 {
            rounds.next(7, group, Timestamp(i64::try_from(group).unwrap() * 10));
        }
        assert!(rounds.kept.lock().unwrap().rounds.len() <= ROUNDS_KEPT);
        let turn = rounds.next(7, 0, Timestamp(1_000_000));
        assert!(turn.asks_all, "nobody knows how long the shards had waited");
    }
}
