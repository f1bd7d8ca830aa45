//! One look of a poll at the shards of its topic.
//!
//! It asks those alone that may have something, as they told ([`super::hints`]). Of these it asks one for all it wants:
//! a batch out of a backlog is one record in the log, and so are its acknowledgements. What that one has not it asks of as
//! many others as seem to have enough, then of all that are left, and then of those that said that they have more: a few
//! waits for the log at most, however many queues there are.
//!
//! The one that it asks first is the one that polls of the group have passed over for the longest; of those that
//! none has passed over another one each time. So a shard waits for as many polls as there are shards that have something,
//! and in it each queue for its turn. A group that polls seldom would let it wait for long: shards that were passed over
//! for [`WAIT_MS`] are all asked for a share.

use millpond_proto::message::ShardId;
use millpond_proto::time::Timestamp;

use crate::broker::BrokerError;
use crate::broker::hints::Told;
use crate::broker::poll::{Poll, Visit};
use crate::broker::spread::Turned;

/// Rounds of one visit: one shard, some of the others, all of them, then the rest; more only when others take what was
/// promised.
const ROUNDS_MAX: usize = 6;

/// How long polls of a group may pass over a shard that has something before they all ask it.
const WAIT_MS: i64 = 500;

/// A shard that a visit asks.
struct Stop {
    shard: ShardId,
    /// Which of the topic's it is.
    index: usize,
    /// Queues in which it may have something.
    promised: usize,
}

impl Poll<'_> {
    /// Asks the shards of the topic for up to `limit` messages.
    pub(super) async fn visit(&self, limit: usize) -> Result<Visit, BrokerError> {
        let now = self.broker.parts.clock.now();
        let pair = (self.topic.id, self.group.id);
        let (topic, queues) = (self.topic.id, self.topic.queues);
        let spread = self
            .incarnation
            .spreads()
            .of(topic, queues, |queue| self.incarnation.shard(topic, queue));
        let hints = self.incarnation.hints();
        let told = hints.of(pair, queues, spread.shards());
        let poll = told.next_poll();
        let turned = Turned::new(spread, poll);
        let is_plain = self.is_plain();
        // What an earlier poll of the same attempt got is in flight.
        let repeats = !is_plain && self.poll_id() != 0;
        let open = hints.open(&told, turned.shards(), now, repeats);
        let shards: Vec<ShardId> = turned.shards().collect();
        let mut visit = if is_plain {
            let stops = open.shards.iter().map(|&(index, promised)| Stop {
                shard: shards[index],
                index,
                promised: promised as usize,
            });
            let (stops, overdue) = in_order(stops.collect(), &told, now);
            let queues = |stop: &Stop| turned.queues(stop.index);
            let first = overdue.clamp(1, limit);
            let mut is_asked = vec![false; stops.len()];
            let visited = self.visit_plain(&stops, &told, queues, limit, first, &mut is_asked);
            let visit = visited.await;
            for (stop, _) in stops.iter().zip(is_asked).filter(|(_, asked)| !asked) {
                told.pass_over(stop.shard, poll, now);
            }
            visit?
        } else {
            let stops = open.shards.iter();
            let shards: Vec<_> = stops
                .map(|&(index, _)| (shards[index], turned.queues(index)))
                .collect();
            self.visit_scanning(&shards, &told, limit).await?
        };
        let due = [visit.next_due_ms, open.next_due_ms];
        visit.next_due_ms = due.into_iter().flatten().min();
        Ok(visit)
    }

    /// Whether the group needs a place in a queue before its first message comes.
    pub(super) fn meets_queues(&self) -> bool {
        self.group.from_latest || self.group.start_at_ms.is_some()
    }

    /// Asks the first so many for a share and others as needed, in their order; notes which of them.
    async fn visit_plain(
        &self,
        stops: &[Stop],
        told: &Told,
        queues: impl Fn(&Stop) -> Vec<u32>,
        limit: usize,
        first: usize,
        is_asked: &mut [bool],
    ) -> Result<Visit, BrokerError> {
        let mut visit = Visit::default();
        let mut shares = even_shares(limit, first.min(stops.len()));
        let mut asked_before = 0;
        let mut refused = None;
        let mut more = vec![0; stops.len()];
        for round in 0..ROUNDS_MAX {
            // A share of nothing still tells how much there is, where nobody has asked yet.
            let asked = stops.iter().zip(&shares).enumerate();
            let asked = asked.filter(|(index, (_, share))| *index >= asked_before || **share > 0);
            let asked = asked.map(|(index, (stop, share))| {
                if *share > 0 {
                    // Before it answers: a poll beside this one begins with another.
                    told.ask(stop.shard);
                    is_asked[index] = true;
                }
                let pop = self.request(&queues(stop), *share, Vec::new());
                async move { (index, self.pop(stop.shard, pop).await) }
            });
            let mut unstarted = Vec::new();
            let answers = futures::future::join_all(asked).await;
            if asked_before == stops.len() {
                more.fill(0);
            }
            for (index, found) in answers {
                match found {
                    Ok(found) => {
                        more[index] = found.leases.more as usize;
                        if found.leases.unstarted.is_empty() {
                            told.met(stops[index].shard);
                        }
                        unstarted.extend(found.leases.unstarted.iter().copied());
                        visit.add(found);
                    }
                    // A damaged shard does not keep the others from delivering.
                    Err(error) => refused = Some(error),
                }
            }
            // A cursor that was set to the end of its queue gives nothing now.
            visit.advanced |= !unstarted.is_empty();
            self.start(unstarted).await?;
            let room = limit.saturating_sub(visit.leases.len());
            asked_before = shares.len();
            if room > 0 && asked_before < stops.len() {
                let left = &stops[asked_before..];
                shares = vec![0; asked_before];
                shares.extend(if round == 0 {
                    promised_shares(room, left.iter().map(|stop| stop.promised))
                } else {
                    even_shares(room, left.len())
                });
                continue;
            }
            if room == 0 || more.iter().all(|more| *more == 0) {
                break;
            }
            shares = shares_of(room, &more);
        }
        match refused {
            Some(error) if visit.leases.is_empty() => Err(error),
            _ => Ok(visit),
        }
    }
}

/// Those that were passed over for the longest first, the others as they come; and how many of them for too long.
fn in_order(mut stops: Vec<Stop>, told: &Told, now: Timestamp) -> (Vec<Stop>, usize) {
    // A time that lies ahead was written down before the clock was set back.
    let is_late = |since: i64| !(0..WAIT_MS).contains(&now.as_ms().saturating_sub(since));
    let mut overdue = 0;
    stops.sort_by_cached_key(|stop| {
        let passed = told.passed_over(stop.shard);
        overdue += usize::from(passed.is_some_and(|passed| is_late(passed.since_ms)));
        passed.map_or(u64::MAX, |passed| passed.by)
    });
    (stops, overdue)
}

/// The limit spread over so many shards; the first ones get what does not divide.
pub(super) fn even_shares(limit: usize, shards: usize) -> Vec<usize> {
    let shards_or_one = shards.max(1);
    (0..shards)
        .map(|index| limit / shards_or_one + usize::from(index < limit % shards_or_one))
        .collect()
}

/// The limit to as many of the next shards as promise enough, one message a queue; what they do not promise is spread
/// over them all the same, because a queue may have more.
fn promised_shares(limit: usize, promised: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut room = limit;
    let mut shares = Vec::new();
    for promised in promised {
        if room == 0 {
            break;
        }
        let share = promised.min(room);
        room -= share;
        shares.push(share);
    }
    let rest = even_shares(room, shares.len());
    for (share, rest) in shares.iter_mut().zip(rest) {
        *share += rest;
    }
    shares
}

/// What is left of the limit, to those that have more, in order.
fn shares_of(mut room: usize, more: &[usize]) -> Vec<usize> {
    let share = |more: &usize| {
        let share = room.min(*more);
        room -= share;
        share
    };
    more.iter().map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::hints::Hints;

    #[test]
    fn shares_never_exceed_the_limit() {
        assert_eq!(even_shares(32, 8), [4; 8]);
        assert_eq!(even_shares(5, 3), [2, 2, 1]);
        assert_eq!(even_shares(1, 3), [1, 0, 0]);
        assert_eq!(shares_of(10, &[3, 0, 20, 4]), [3, 0, 7, 0]);
    }

    #[test]
    fn what_was_passed_over_for_the_longest_goes_first() {
        let hints = Hints::new(Timestamp(0));
        let shards = [7, 3, 5, 1].map(ShardId);
        let told = hints.of((1, 1), 4, shards.into_iter());
        let order = |now_ms| {
            let stops = shards.into_iter().enumerate().map(|(index, shard)| Stop {
                shard,
                index,
                promised: 1,
            });
            let (stops, overdue) = in_order(stops.collect(), &told, Timestamp(now_ms));
            let shards: Vec<u16> = stops.iter().map(|stop| stop.shard.0).collect();
            (shards, overdue)
        };
        assert_eq!(order(0), (vec![7, 3, 5, 1], 0), "as they come");
        told.pass_over(ShardId(5), 2, Timestamp(100));
        told.pass_over(ShardId(1), 1, Timestamp(90));
        told.pass_over(ShardId(1), 3, Timestamp(120));
        assert_eq!(order(200), (vec![1, 5, 7, 3], 0));
        assert_eq!(order(90 + WAIT_MS), (vec![1, 5, 7, 3], 1));
        assert_eq!(order(100 + WAIT_MS), (vec![1, 5, 7, 3], 2));
        told.ask(ShardId(1));
        assert_eq!(order(100 + WAIT_MS), (vec![5, 7, 3, 1], 1));
        assert_eq!(order(50), (vec![5, 7, 3, 1], 1), "the clock was set back");
    }

    #[test]
    fn as_many_shards_are_asked_as_promise_enough() {
        assert_eq!(promised_shares(16, [16, 16, 16].into_iter()), [16]);
        assert_eq!(promised_shares(16, [5, 20, 3].into_iter()), [5, 11]);
        assert_eq!(promised_shares(16, [1, 2].into_iter()), [8, 8]);
        assert_eq!(promised_shares(16, std::iter::empty()), [0; 0]);
    }
}
