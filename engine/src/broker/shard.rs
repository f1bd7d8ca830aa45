//! A shard's owner: the one task that decides for it.
//!
//! It takes all that waits, decides on each request in order, applies what it decided at once, so that
//! the next decision sees it, and hands the records of the whole group down as one append. Replies leave
//! in order, when the log says that the append is durable. If the append fails, nothing is answered:
//! the incarnation ends and every shard is rebuilt from what is on disk.
//!
//! It wakes by itself for what waits on its shelf: messages that are due are read by an [`errand`] and come
//! back as a request, which takes turns with those of others.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::FuturesOrdered;
use millpond_proto::chance::Chance;
use millpond_proto::limits;
use millpond_proto::message::{QueueId, ShardId, TopicId};
use millpond_proto::task::Spawn;
use millpond_proto::time::{Clock, Sleep, Timestamp};
use millpond_storage::error::AppendError;
use millpond_storage::format::envelope::Envelope;
use millpond_storage::log::{Position, Record, Storage};
use tokio::sync::{mpsc, oneshot, watch};

use crate::broker::ahead::{LOT_MESSAGES, Lot, Room, Turn};
use crate::broker::catalog::Catalog;
use crate::broker::errand::{self, Ahead, Due, Errand, Outcome, Reader};
use crate::broker::hints::{self, Hints};
use crate::broker::lite;
use crate::broker::lite::listeners::Listeners;
use crate::broker::request::{Reply, Request, Return};
use crate::broker::shelf::{Spot, shelf_topic};
use crate::broker::state::shelving::Fire;
use crate::broker::state::{CATALOG_SHARD, Moment, ShardState};
use crate::broker::timer::Wish;
use crate::broker::waiting::Waiting;

/// Bytes of messages after which a group of requests is handed down.
const GROUP_BYTES: usize = 1024 * 1024;
/// Groups handed down and not yet durable.
const GROUPS_IN_FLIGHT: usize = 8;
/// Longest wait for something that is due: the machine's clock may be set meanwhile.
const ALARM_MAX: Duration = Duration::from_secs(1);

/// A request and where its answer goes.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// Where the answer goes; the asker may have left.
    pub reply: oneshot::Sender<Result<Reply, AppendError>>,
}

/// The owner of one shard.
#[derive(Debug)]
pub struct Shard {
    /// Which one.
    pub id: ShardId,
    /// Its state.
    pub state: ShardState,
    /// The log.
    pub storage: Arc<Storage>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub chance: Arc<dyn Chance>,
    /// No message is stored before this time.
    pub floor: Timestamp,
    /// Polls that wait for a message.
    pub waiting: Arc<Waiting>,
    /// Where it tells what groups may find here.
    pub hints: Arc<Hints>,
    /// Consumers that listen to lite topics.
    pub listeners: Arc<Listeners>,
    /// Where the catalog shard shows its catalog.
    pub catalog: watch::Sender<Arc<Catalog>>,
    /// Deliveries whose asker had left when they were durable; given back next.
    pub unclaimed: Vec<Return>,
    /// Where work runs.
    pub spawn: Arc<dyn Spawn>,
    /// When a producer is to be asked about a transaction of this shard next, ms; for others to see.
    pub next_check: Arc<AtomicI64>,
    /// Room for delayed messages that are read before their time.
    pub ahead: Room,
    /// Whether what was read off the shelf and not placed yet may hold what was erased meanwhile.
    pub reads_anew: bool,
}

/// What is under way for the shelf.
#[derive(Default)]
struct Errands {
    firing: Option<Errand>,
    loading: Option<Errand>,
    /// What was read before its time.
    lot: Option<Lot>,
    /// When to look again, and the time that it was set for.
    alarm: Option<(Timestamp, Sleep)>,
    /// A failed errand is not tried again before this time.
    not_before: Timestamp,
    /// Whether the last group came of an errand: then others go first.
    had_turn: bool,
}

/// What the owner wakes for.
enum Event {
    Durable(Settled, Result<Position, AppendError>),
    Outcome(Outcome),
    Call(Option<Call>),
    Alarm,
}

/// A request of the owner's own, whose answer nobody waits for.
fn own(request: Request) -> Call {
    let (reply, _nobody) = oneshot::channel();
    Call { request, reply }
}

async fn next_outcome(firing: &mut Option<Errand>, loading: &mut Option<Errand>) -> Outcome {
    tokio::select! {
        biased;
        outcome = done(firing) => outcome,
        outcome = done(loading) => outcome,
    }
}

async fn woken(alarm: &mut Option<(Timestamp, Sleep)>) {
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

/// Lets tasks that are ready run before the caller goes on.
async fn others_first() {
    let mut went = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut went, true) {
            return Poll::Ready(());
        }
        // Woken by itself a task queues up behind the others; a task that another one wakes may overtake them.
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// What is done once a group is durable.
struct Settled {
    replies: Vec<(Reply, oneshot::Sender<Result<Reply, AppendError>>)>,
    topics: Vec<u64>,
    /// Lite topics that may have something now: parent, group if it is for one alone, name.
    lites: Vec<(u64, Option<u64>, String)>,
    catalog: Option<Arc<Catalog>>,
    /// Whether an answer says up to where the log went.
    wants_position: bool,
    /// Held until then by messages that were due.
    turn: Option<Turn>,
}

type InFlight = FuturesOrdered<BoxFuture<'static, (Settled, Result<Position, AppendError>)>>;

impl Shard {
    /// Serves calls until all callers are gone or the log fails.
    pub async fn run(mut self, mut calls: mpsc::Receiver<Call>) {
        let mut in_flight: InFlight = FuturesOrdered::new();
        let mut errands = Errands::default();
        loop {
            if let Some(back) = self.unclaimed.pop() {
                let call = own(Request::Return(back));
                let served = self.serve(call, None, &mut calls, &mut in_flight);
                if served.await.is_err() {
                    return;
                }
                continue;
            }
            self.look_at_shelf(&mut errands);
            let has_room = in_flight.len() < GROUPS_IN_FLIGHT;
            // With others waiting, every second group is theirs.
            let may_fire = has_room && (!errands.had_turn || calls.is_empty());
            let (firing, loading, alarm) = (
                &mut errands.firing,
                &mut errands.loading,
                &mut errands.alarm,
            );
            let event = tokio::select! {
                biased;
                Some((settled, durable)) = in_flight.next() => Event::Durable(settled, durable),
                outcome = next_outcome(firing, loading), if may_fire => Event::Outcome(outcome),
                call = calls.recv(), if has_room => Event::Call(call),
                () = woken(alarm) => Event::Alarm,
            };
            let mut turn = None;
            let call = match event {
                Event::Durable(settled, durable) => {
                    if self.settle(settled, durable).is_err() {
                        return;
                    }
                    continue;
                }
                Event::Alarm => {
                    errands.alarm = None;
                    continue;
                }
                Event::Outcome(outcome) => match self.take_outcome(outcome, &mut errands) {
                    Some((fire, its_turn)) => {
                        turn = its_turn;
                        errands.had_turn = true;
                        own(Request::Fire(fire))
                    }
                    None => continue,
                },
                Event::Call(Some(call)) => {
                    errands.had_turn = false;
                    call
                }
                Event::Call(None) => break,
            };
            let served = self.serve(call, turn, &mut calls, &mut in_flight);
            if served.await.is_err() {
                return;
            }
        }
        while let Some((settled, durable)) = in_flight.next().await {
            if self.settle(settled, durable).is_err() {
                return;
            }
        }
    }

    /// Decides on a call and those that wait behind it, and hands the records down. Whoever is about to ask
    /// goes first: what they ask is then one group, with one append and one way back.
    async fn serve(
        &mut self,
        call: Call,
        turn: Option<Turn>,
        calls: &mut mpsc::Receiver<Call>,
        in_flight: &mut InFlight,
    ) -> Result<(), AppendError> {
        others_first().await;
        let (records, mut settled) = self.decide_group(call, calls);
        settled.turn = turn;
        if records.is_empty() && !settled.wants_position {
            // What the answers rest on is durable once all before them is: they wait for that and need no
            // way through the log.
            let durable = std::future::ready((settled, Ok(Position::default())));
            in_flight.push_back(durable.boxed());
            return Ok(());
        }
        match self.storage.append(self.id, records).await {
            Ok(durable) => {
                in_flight.push_back(durable.map(|at| (settled, at)).boxed());
                Ok(())
            }
            Err(error) => self.settle(settled, Err(error)),
        }
    }

    fn now(&self) -> Timestamp {
        self.clock.now().max(self.floor)
    }

    fn reader(&self) -> Reader {
        Reader {
            shard: self.id,
            storage: Arc::clone(&self.storage),
            spawn: Arc::clone(&self.spawn),
            room: self.ahead.clone(),
        }
    }

    /// Sends errands for what is due or soon will be, and sets the alarm for the rest.
    fn look_at_shelf(&mut self, errands: &mut Errands) {
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
                let due = self.due(messages, &mut errands.lot);
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
    fn due(&self, messages: Vec<(Timestamp, Spot)>, lot: &mut Option<Lot>) -> Due {
        let mut due = Due::default();
        let mut bytes = 0;
        let mut unknown = Vec::new();
        for (at, spot) in messages {
            let known = lot.as_mut().and_then(|lot| lot.take(at, spot));
            match known {
                Some(message) => {
                    bytes += message.body.as_ref().map_or(0, bytes::Bytes::len);
                    due.known.insert(spot, message);
                }
                None => unknown.push(spot),
            }
            due.messages.push((at, spot));
            // The rest of the lot waits for the next turn.
            if bytes >= errand::FIRE_BYTES / 2 {
                break;
            }
        }
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
                let mut next = shelf.next_due(due.messages.len(), LOT_MESSAGES);
                next.retain(|&(at, spot)| !lot.has(at, spot));
                Ahead { lot, next }
            });
        }
        due
    }

    /// What came of an errand; a request, when there is something to decide.
    fn take_outcome(
        &mut self,
        outcome: Outcome,
        errands: &mut Errands,
    ) -> Option<(Fire, Option<Turn>)> {
        match outcome {
            Outcome::Fire(fire, lot, turn) => {
                errands.firing = None;
                errands.lot = lot.or(errands.lot.take());
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

    /// Decides on and applies the call and those that wait behind it.
    fn decide_group(
        &mut self,
        first: Call,
        calls: &mut mpsc::Receiver<Call>,
    ) -> (Vec<Record>, Settled) {
        // A record and a reply for each of those that wait, most often.
        let expected = 1 + calls.len().min(limits::SHARD_QUEUE_MAX);
        let mut records: Vec<Record> = Vec::new();
        let mut settled = Settled {
            replies: Vec::with_capacity(expected),
            topics: Vec::new(),
            lites: Vec::new(),
            catalog: None,
            wants_position: false,
            turn: None,
        };
        let mut bytes = 0;
        let mut polled = Vec::new();
        let mut next = Some(first);
        while let Some(Call { request, reply }) = next.take() {
            if let Request::CloseTick(tick_ms) = request {
                self.floor = self.floor.max(Timestamp(tick_ms));
                self.hints.raise(self.floor);
            }
            if let Request::Return(back) = &request {
                settled.topics.push(back.topic);
            }
            self.reads_anew |= matches!(request, Request::NoteErasure(_));
            let now = self.clock.now().max(self.floor);
            let moment = Moment {
                now,
                random: self.chance.next_u64(),
            };
            let touched = lite::touched(&request);
            polled.extend(hints::polled(&request));
            let decision = self.state.decide(request, moment);
            for record in &decision.records {
                self.state.apply_record(record);
                if let Record::Message(message) = record {
                    bytes += size_of(message);
                    if settled.topics.last() != Some(&message.topic) {
                        settled.topics.push(message.topic);
                    }
                    if let Some(name) = &message.lite_topic {
                        settled.lites.push((message.topic, None, name.clone()));
                    }
                }
            }
            for one in touched {
                if let Some(name) = self.state.freed(&one, now) {
                    let ring = (one.topic, Some(one.group), name.to_owned());
                    settled.lites.push(ring);
                }
            }
            if records.is_empty() && calls.is_empty() {
                // A batch that comes alone stays where it is.
                records = decision.records;
            } else {
                if records.is_empty() {
                    records.reserve(expected);
                }
                records.extend(decision.records);
            }
            // A snapshot ends its group: replay begins behind the group's append, and must not pass over anything
            // that was decided after the snapshot.
            settled.wants_position = matches!(decision.reply, Reply::Snapshot(_));
            settled.replies.push((decision.reply, reply));
            if !settled.wants_position
                && bytes < GROUP_BYTES
                && settled.replies.len() < limits::SHARD_QUEUE_MAX
            {
                next = calls.try_recv().ok();
            }
        }
        self.hints.tell(self.id, &mut self.state, polled);
        let shown = self.catalog.borrow().revision();
        if self.id == CATALOG_SHARD && shown != self.state.catalog().revision() {
            settled.catalog = Some(Arc::new(self.state.catalog().clone()));
        }
        (records, settled)
    }

    /// Sends the replies of a group whose fate is known.
    fn settle(
        &mut self,
        settled: Settled,
        durable: Result<Position, AppendError>,
    ) -> Result<(), AppendError> {
        drop(settled.turn);
        if durable.is_ok() {
            if let Some(catalog) = settled.catalog {
                self.catalog.send_replace(catalog);
            }
            for topic in settled.topics {
                self.waiting.wake(topic);
            }
            for (topic, group, name) in settled.lites {
                self.listeners.arrived(topic, group, &name);
            }
        }
        for (reply, asker) in settled.replies {
            let answer = match (&durable, reply) {
                (Ok(position), Reply::Snapshot(mut snapshot)) => {
                    snapshot.position = position.0;
                    Ok(Reply::Snapshot(snapshot))
                }
                (Ok(_), reply) => Ok(reply),
                (Err(error), _) => Err(error.clone()),
            };
            // The asker may have left; what is stored stays, what was leased goes back.
            if let Err(Ok(Reply::Leases(found))) = asker.send(answer)
                && !found.leases.is_empty()
            {
                self.unclaimed.push(Return {
                    group: found.group,
                    topic: found.topic,
                    handles: found.leases.into_iter().map(|lease| lease.handle).collect(),
                    unseen: true,
                });
            }
        }
        durable.map(|_| ())
    }
}

fn size_of(message: &Envelope) -> usize {
    message.body.as_ref().map_or(0, bytes::Bytes::len) + 128
}
