//! What a poll gets: those that come back, those that were passed over, new ones.
//!
//! Everything here reads the cursor and changes nothing.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;

use millpond_proto::limits;
use millpond_proto::message::Offset;
use millpond_proto::time::Timestamp;

use crate::broker::group::window::{Holding, Span, Window};
use crate::broker::group::{Choice, Chosen, Cursor, Facts, Wish};
use crate::broker::request::Scan;

/// Candidates, best first.
type Candidates = BTreeSet<(Reverse<i32>, u64)>;

impl Cursor {
    /// Chooses up to `limit` messages: those that come back first, then new ones. Changes nothing.
    #[must_use]
    pub fn decide(&self, wish: &Wish<'_>) -> Choice {
        let mut choice = Choice {
            next: self.next,
            ..Choice::default()
        };
        let mut candidates = self.candidates(wish, &mut choice);
        let mut room = self.room();
        let mut fresh = BTreeMap::new();
        if let (true, Some(scan)) = (wish.by_priority, self.fitting(wish.scan)) {
            let most = self.parking_room().min(limits::PRIORITY_WINDOW) + wish.limit;
            choice.next = self.look_ahead(scan, most, &mut fresh);
            candidates.extend(fresh.iter().map(|(&o, f)| (Reverse(f.priority), o)));
        }
        while choice.chosen.len() < wish.limit
            && let Some((_, offset)) = candidates.pop_first()
        {
            let known = self.facts(offset);
            let is_new = self.kept.window.get(offset).is_none();
            let facts = known.or_else(|| fresh.get(&offset).copied());
            if is_new && room == 0 {
                continue;
            }
            room -= usize::from(is_new);
            fresh.remove(&offset);
            choice.chosen.push(Chosen {
                offset: Offset(offset),
                attempt: self.attempts(offset) + 1,
                facts: facts.unwrap_or_default(),
            });
            if let Some(successor) = self.successor(offset) {
                self.consider(successor, wish, &mut candidates, &mut choice);
            }
        }
        if wish.by_priority {
            choice.parked.extend(fresh);
        } else {
            match wish.scan {
                None => self.take_fresh(wish, room, &mut choice),
                Some(_) => self.take_scanned(wish, room, &mut choice),
            }
        }
        choice
    }

    /// How many messages could be delivered at `now` without a scan, counted up to `most`.
    #[must_use]
    pub fn available(&self, now: Timestamp, end: Offset, most: usize) -> usize {
        let again = self.kept.leases.visible_count(now, most);
        let room = self.room() as u64;
        let fresh = end.0.saturating_sub(self.next).min(room);
        let known = again + self.kept.free.len();
        most.min(known.saturating_add(usize::try_from(fresh).unwrap_or(most)))
    }

    /// Priorities of those below `next` that could be delivered at `now`, best first.
    #[must_use]
    pub fn ready(&self, wish: &Wish<'_>) -> Vec<i32> {
        let known = Wish {
            scan: None,
            end: self.next(),
            ..*wish
        };
        let chosen = self.decide(&known).chosen.into_iter();
        chosen.map(|one| one.facts.priority).collect()
    }

    /// Those below `next` that nothing holds back, up to what the wish can use.
    fn candidates(&self, wish: &Wish<'_>, choice: &mut Choice) -> Candidates {
        let most = if wish.by_priority {
            limits::PRIORITY_WINDOW
        } else {
            // One that is dead leaves even when nothing is wanted.
            wish.limit.max(1)
        };
        let mut candidates = Candidates::new();
        for offset in self.visible(wish.now) {
            if candidates.len() >= most {
                break;
            }
            if self.is_head(offset) {
                self.consider(offset, wish, &mut candidates, choice);
            }
        }
        for &offset in self.kept.free.iter().take(most) {
            self.consider(offset, wish, &mut candidates, choice);
        }
        candidates
    }

    /// Takes a message for a candidate when it is visible; one that is dead gives way to the next of its
    /// message group.
    fn consider(
        &self,
        offset: u64,
        wish: &Wish<'_>,
        candidates: &mut Candidates,
        choice: &mut Choice,
    ) {
        let mut next = Some(offset);
        while let Some(offset) = next {
            let delivered = self.kept.window.get(offset);
            if let Some(delivered) = delivered {
                if self.kept.leases.visible_at(delivered.holding) > wish.now {
                    return;
                }
                if wish.attempts_max > 0 && delivered.attempts >= wish.attempts_max {
                    if choice.dead.len() >= limits::DEAD_LETTERS_AT_ONCE {
                        return;
                    }
                    choice.dead.push(offset);
                    next = self.successor(offset);
                    continue;
                }
            }
            let facts = self.facts(offset).unwrap_or_default();
            let rank = if wish.by_priority { facts.priority } else { 0 };
            candidates.insert((Reverse(rank), offset));
            return;
        }
    }

    /// New messages, all of which are wanted.
    fn take_fresh(&self, wish: &Wish<'_>, room: usize, choice: &mut Choice) {
        let fresh = (wish.limit - choice.chosen.len()).min(room) as u64;
        let until = wish
            .end
            .0
            .min(self.next.saturating_add(fresh))
            .max(self.next);
        let new = (self.next..until).map(|offset| Chosen {
            offset: Offset(offset),
            attempt: 1,
            facts: Facts::default(),
        });
        choice.chosen.extend(new);
        choice.next = until;
    }

    /// New messages that a scan accepted; those of a busy message group are parked.
    fn take_scanned(&self, wish: &Wish<'_>, mut room: usize, choice: &mut Choice) {
        let Some(scan) = self.fitting(wish.scan) else {
            return;
        };
        let mut taken: BTreeMap<u64, usize> = BTreeMap::new();
        let gone = choice.chosen.iter().map(|one| one.offset.0);
        for offset in gone.chain(choice.dead.iter().copied()) {
            let group = self.facts(offset).unwrap_or_default().message_group;
            *taken.entry(group).or_default() += 1;
        }
        let mut waiting = BTreeSet::new();
        for fact in scan.accepted.iter().filter(|fact| fact.offset >= self.next) {
            let facts = Facts::of(fact);
            let group = facts.message_group;
            let before = self.kept.chains.get(&group).map_or(0, BTreeSet::len);
            let free = group == 0
                || (!waiting.contains(&group) && before == taken.get(&group).copied().unwrap_or(0));
            choice.next = fact.offset;
            if choice.chosen.len() >= wish.limit {
                return;
            }
            if free {
                if room == 0 {
                    return;
                }
                room -= 1;
                choice.chosen.push(Chosen {
                    offset: Offset(fact.offset),
                    attempt: 1,
                    facts,
                });
            } else {
                if choice.parked.len() >= self.parking_room() {
                    return;
                }
                waiting.insert(group);
                choice.parked.push((fact.offset, facts));
            }
        }
        choice.next = scan.to;
    }

    /// Accepted messages of a scan, so many; where the look ends.
    fn look_ahead(&self, scan: &Scan, most: usize, fresh: &mut BTreeMap<u64, Facts>) -> u64 {
        for fact in scan.accepted.iter().filter(|fact| fact.offset >= self.next) {
            if fresh.len() >= most {
                return fact.offset;
            }
            fresh.insert(fact.offset, Facts::of(fact));
        }
        scan.to
    }

    /// The scan, if it goes on where the cursor stands.
    fn fitting<'a>(&self, scan: Option<&'a Scan>) -> Option<&'a Scan> {
        scan.filter(|scan| scan.from <= self.next && self.next < scan.to)
    }

    /// The pending messages that are visible at `now`, by when they became so, then by offset.
    fn visible(&self, now: Timestamp) -> impl Iterator<Item = u64> {
        Visible {
            window: &self.kept.window,
            upcoming: self.kept.leases.visible(now).peekable(),
            heads: BTreeSet::new(),
        }
    }
}

/// Walks what is visible; leases that end at the same time are walked side by side.
struct Visible<'a, I: Iterator<Item = (Timestamp, Holding, Span)>> {
    window: &'a Window,
    upcoming: Peekable<I>,
    /// The next message of each of those that end at the time that is walked.
    heads: BTreeSet<(u64, Holding, Span)>,
}

impl<I: Iterator<Item = (Timestamp, Holding, Span)>> Iterator for Visible<'_, I> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        while self.heads.is_empty() {
            let at = self.upcoming.peek()?.0;
            while let Some((_, holding, span)) = self.upcoming.next_if(|next| next.0 == at) {
                let head = self.window.next_of(holding, span, 0);
                self.heads
                    .extend(head.map(|offset| (offset, holding, span)));
            }
        }
        let (offset, holding, span) = self.heads.pop_first()?;
        let following = self.window.next_of(holding, span, offset + 1);
        self.heads
            .extend(following.map(|offset| (offset, holding, span)));
        Some(offset)
    }
}
