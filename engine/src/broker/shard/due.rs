//! What a shard's owner does for its shelf: it looks what is due, has it read, and places it slice by slice.
//!
//! A slice is an append of its own, and others go first between two of them: however much is due at once, whoever
//! else has work on this thread waits for a slice of it and not for all that was read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt as _;
use millpond_proto::message::{QueueId, TopicId};
use millpond_proto::time::{Sleep, Timestamp};
use millpond_storage::error::AppendError;
use tokio::sync::mpsc;

use crate::broker::ahead::{Lot, Reach, Turn};
use crate::broker::errand::{self, Ahead, Due, Errand, Outcome, Reader};
use crate::broker::request::Request;
use crate::broker::shard::{Call, GROUPS_IN_FLIGHT, InFlight, Shard, own};
use crate::broker::shelf::{Spot, shelf_topic};
use crate::broker::state::shelving::Fire;
use crate::broker::timer::Wish;

/// Messages of a slice: about as much work as a group of sends.
const SLICE_MESSAGES: usize = 64;
/// Longest wait for something that is due: the machine's clock may be set meanwhile.
const ALARM_MAX: Duration = Duration::from_secs(1);

/// What is under way for the shelf.
#[derive(Default)]
pub(super) struct Errands {
    pub(super) firing: Option<Errand>,
    pub(super) loading: Option<Errand>,
    /// What was read before its time.
    lot: Option<Lot>,
    /// How far it is read ahead.
    reach: Reach,
    /// When to look again, and the time that it was set for.
    pub(super) alarm: Option<(Timestamp, Sleep)>,
    /// A failed errand is not tried again before this time.
    not_before: Timestamp,
    /// Whether the last group came of an errand: then others go first.
    pub(super) had_turn: bool,
}

pub(super) async fn next_outcome(
    firing: &mut Option<Errand>,
    loading: &mut Option<Errand>,
) -> Outcome {
    tokio::select! {
        biased;
        outcome = done(firing) => outcome,
        outcome = done(loading) => outcome,
    }
}

pub(super) async fn woken(alarm: &mut Option<(Timestamp, Sleep)>) {
    match alarm {
        Some((_, sleep)) => sleep.await,
        None => std::future::pending().await,
    }
}

async fn done(errand: &mut Option<Errand>) -> Outcome {
    match errand {
        Some(errand) => errand.await,
        None => std::future::pending().await,
    }
}

impl Shard {
    fn reader(&self) -> Reader {
        Reader {
            shard: self.id,
            storage: Arc::clone(&self.storage),
            spawn: Arc::clone(&self.spawn),
            room: self.ahead.clone(),
        }
    }

    /// Sends errands for what is due or soon will be, and sets the alarm for the rest.
    pub(super) fn look_at_shelf(&mut self, errands: &mut Errands) {
        if std::mem::take(&mut self.reads_anew) {
            (errands.firing, errands.lot) = (None, None);
        }
        let next_check = self.state.shelf().transactions().next_check();
        let next_check = next_check.map_or(i64::MAX, Timestamp::as_ms);
        self.next_check.store(next_check, Ordering::Relaxed);
        let now = self.now();
        let mut wish = self.state.shelf().wish(now);
        if wish.wake_at.is_some_and(|at| at <= now) && self.storage.room().check(true).is_err() {
            // What is due waits for room in the log, as what is sent does.
            errands.not_before = errands.not_before.max(now + ALARM_MAX);
        }
        if now < errands.not_before && wish != Wish::default() {
            wish.load = None;
            let again = errands.not_before;
            wish.wake_at = Some(wish.wake_at.map_or(again, |at| at.max(again)));
        }
        if let Some((bucket, count)) = wish.load
            && errands.loading.is_none()
        {
            errands.loading = Some(self.reader().load(bucket, count));
            self.state.shelf_mut().timer_mut().begin(bucket);
        }
        let Some(wake_at) = wish.wake_at else {
            errands.alarm = None;
            return;
        };
        if wake_at <= now && errands.firing.is_none() {
            let messages = self.state.shelf_mut().take_due(now, errand::FIRE_MESSAGES);
            if !messages.is_empty() {
                let due = self.due(messages, &mut errands.lot, errands.reach);
                let catalog = Arc::clone(&self.catalog.borrow());
                errands.firing = Some(self.reader().fire(due, catalog));
            }
        }
        // What is under way looks again by itself.
        if errands.firing.is_none() && errands.alarm.as_ref().is_none_or(|(at, _)| *at != wake_at) {
            let wait = wake_at
                .since(now)
                .clamp(Duration::from_millis(1), ALARM_MAX);
            errands.alarm = Some((wake_at, self.clock.sleep(wait)));
        }
    }

    /// What is known of messages that are due, and what to read ahead when some of the others lie in files.
    fn due(&self, messages: Vec<(Timestamp, Spot)>, lot: &mut Option<Lot>, reach: Reach) -> Due {
        let mut messages = messages;
        let mut known = BTreeMap::new();
        if let Some(lot) = lot.as_mut() {
            let (taken, seen) = lot.take_due(&messages, errand::FIRE_BYTES / 2);
            // The rest of the lot waits for the next turn.
            messages.truncate(seen);
            known = taken;
        }
        let spots = messages.iter().map(|&(_, spot)| spot);
        let unknown: Vec<Spot> = spots.filter(|spot| !known.contains_key(spot)).collect();
        let mut due = Due {
            messages,
            known,
            ahead: None,
        };
        // However late it is: a burst is worked off out of one lot after the other.
        if let Some(&(at, spot)) = due.messages.last() {
            lot.take_if(|lot| lot.is_over(at, spot));
        }
        let topic = TopicId(shelf_topic(self.id));
        let lies_in_files = |spot: &Spot| {
            let extent = self.storage.extent(topic, QueueId(spot.bucket));
            extent.is_some_and(|extent| spot.number < extent.tiered.0)
        };
        if unknown.iter().any(lies_in_files) {
            // What the lot has still is due later than what was just found to be missing.
            let lot = lot.take().or_else(|| self.ahead.take());
            due.ahead = lot.map(|lot| {
                let shelf = self.state.shelf();
                let mut next = shelf.next_due(due.messages.len(), reach.messages());
                next.retain(|&(at, spot)| !lot.has(at, spot));
                Ahead { lot, next }
            });
        }
        due
    }

    /// What came of an errand; a request, when there is something to decide.
    pub(super) fn take_outcome(
        &mut self,
        outcome: Outcome,
        errands: &mut Errands,
    ) -> Option<(Fire, Option<Turn>)> {
        match outcome {
            Outcome::Fire(fire, lot, turn) => {
                errands.firing = None;
                if let Some(mut lot) = lot {
                    errands.reach = errands.reach.after(&mut lot);
                    errands.lot = Some(lot);
                }
                if fire.spots.is_empty() && fire.lost.is_empty() {
                    // Not to be had now, for whatever reason: not again at once.
                    errands.not_before = self.now() + ALARM_MAX;
                    return None;
                }
                Some((fire, turn))
            }
            Outcome::Loaded {
                bucket,
                messages,
                lost,
            } => {
                errands.loading = None;
                self.state.shelf_mut().loaded(bucket, messages);
                let spots = lost.into_iter().map(|number| Spot { bucket, number });
                let lost: Vec<Spot> = spots.collect();
                (!lost.is_empty()).then(|| {
                    let fire = Fire {
                        lost_due_ms: vec![0; lost.len()],
                        lost,
                        ..Fire::default()
                    };
                    (fire, None)
                })
            }
            Outcome::Failed(bucket) => {
                match bucket {
                    Some(bucket) => {
                        errands.loading = None;
                        self.state.shelf_mut().timer_mut().abandon(bucket);
                    }
                    None => errands.firing = None,
                }
                errands.not_before = self.now() + ALARM_MAX;
                None
            }
        }
    }

    /// Places what is due, a slice at a time; the turn is held until the last one is durable. What it does not come to
    /// is due still.
    pub(super) async fn place_due(
        &mut self,
        fire: Fire,
        turn: Option<Turn>,
        calls: &mut mpsc::Receiver<Call>,
        in_flight: &mut InFlight,
    ) -> Result<(), AppendError> {
        let mut turn = turn;
        let mut slices = fire.slices(SLICE_MESSAGES).peekable();
        while let Some(slice) = slices.next() {
            // An erasure came between two slices: what is left was read before it and is read anew.
            if self.reads_anew {
                break;
            }
            while in_flight.len() >= GROUPS_IN_FLIGHT {
                let Some((settled, durable)) = in_flight.next().await else {
                    break;
                };
                self.settle(settled, durable)?;
            }
            let held = if slices.peek().is_none() {
                turn.take()
            } else {
                None
            };
            let call = own(Request::Fire(slice));
            self.serve(call, held, calls, in_flight).await?;
        }
        Ok(())
    }
}
