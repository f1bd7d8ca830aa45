//! One look of a poll at the shards of its topic.
//!
//! It asks those alone that may have something, as they told ([`super::hints`]). Of these it asks one for all it wants,
//! another one each time ([`super::round`]): a batch out of a backlog is one record in the log, and so are its
//! acknowledgements. What that one has not it asks of as many others as seem to have enough, then of all that are left,
//! and then of those that said that they have more: a few waits for the log at most, however many queues there are.

use millpond_proto::message::ShardId;

use crate::broker::BrokerError;
use crate::broker::hints::Told;
use crate::broker::poll::{Poll, Visit};

/// Rounds of one visit: one shard, some of the others, all of them, then the rest; more only when others take what was
/// promised.
const ROUNDS_MAX: usize = 6;

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
        let turn = self.incarnation.rounds().next(pair.0, pair.1, now);
        let spreads = self.incarnation.spreads();
        let (topic, queues) = (self.topic.id, self.topic.queues);
        let turned = spreads.turned(topic, queues, turn.number, |queue| {
            self.incarnation.shard(topic, queue)
        });
        let hints = self.incarnation.hints();
        let told = hints.of(pair, queues, turned.shards());
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
            let stops: Vec<Stop> = stops.collect();
            let queues = |stop: &Stop| turned.queues(stop.index);
            self.visit_plain(&stops, &told, queues, limit, turn.asks_all)
                .await?
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

    async fn visit_plain(
        &self,
        stops: &[Stop],
        told: &Told,
        queues: impl Fn(&Stop) -> Vec<u32>,
        limit: usize,
        asks_all: bool,
    ) -> Result<Visit, BrokerError> {
        let mut visit = Visit::default();
        let first = if asks_all {
            stops.len()
        } else {
            1.min(stops.len())
        };
        let mut shares = even_shares(limit, first);
        let mut asked_before = 0;
        let mut refused = None;
        let mut more = vec![0; stops.len()];
        for round in 0..ROUNDS_MAX {
            // A share of nothing still tells how much there is, where nobody has asked yet.
            let asked = stops.iter().zip(&shares).enumerate();
            let asked = asked.filter(|(index, (_, share))| *index >= asked_before || **share > 0);
            let asked = asked.map(|(index, (stop, share))| {
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

    #[test]
    fn shares_never_exceed_the_limit() {
        assert_eq!(even_shares(32, 8), [4; 8]);
        assert_eq!(even_shares(5, 3), [2, 2, 1]);
        assert_eq!(even_shares(1, 3), [1, 0, 0]);
        assert_eq!(shares_of(10, &[3, 0, 20, 4]), [3, 0, 7, 0]);
    }

    #[test]
    fn as_many_shards_are_asked_as_promise_enough() {
        assert_eq!(promised_shares(16, [16, 16, 16].into_iter()), [16]);
        assert_eq!(promised_shares(16, [5, 20, 3].into_iter()), [5, 11]);
        assert_eq!(promised_shares(16, [1, 2].into_iter()), [8, 8]);
        assert_eq!(promised_shares(16, std::iter::empty()), [0; 0]);
    }
}
