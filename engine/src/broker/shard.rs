//! A shard's owner: the one task that decides for it.
//!
//! It takes all that waits, decides on each request in order, applies what it decided at once, so that
//! the next decision sees it, and hands the records of the whole group down as one append. Replies leave
//! in order, when the log says that the append is durable. If the append fails, nothing is answered:
//! the incarnation ends and every shard is rebuilt from what is on disk. So what the log can not take is never handed
//! down ([`handed`]): a decision that is too large changes nothing, and its asker alone is told.
//!
//! It wakes by itself for what waits on its shelf ([`due`]): messages that are due are read by an
//! [`errand`](crate::broker::errand) and come back as requests, which take turns with those of others.

mod due;
mod handed;

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::task::Poll;

use futures::StreamExt as _;
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::FuturesOrdered;
use millpond_proto::chance::Chance;
use millpond_proto::limits;
use millpond_proto::message::ShardId;
use millpond_proto::task::Spawn;
use millpond_proto::time::{Clock, Timestamp};
use millpond_storage::error::AppendError;
use millpond_storage::log::{Position, Record, Storage};
use tokio::sync::{mpsc, oneshot, watch};

use crate::broker::ahead::{Room, Turn};
use crate::broker::catalog::Catalog;
use crate::broker::errand::Outcome;
use crate::broker::hints::{self, Hints};
use crate::broker::lite::listeners::Listeners;
use crate::broker::lite::{self, LiteName, StartLite};
use crate::broker::request::{Reply, Request, Return};
use crate::broker::shard::due::{Errands, next_outcome, woken};
use crate::broker::shard::handed::{Handed, measured};
use crate::broker::state::{CATALOG_SHARD, Decision, Moment, ShardState};
use crate::broker::traffic::{Arrived, Traffic};
use crate::broker::waiting::{self, Ring, Waiting};
use crate::broker::way::Held;

/// Groups handed down and not yet durable.
const GROUPS_IN_FLIGHT: usize = 8;

/// Where an answer goes.
pub type Asker = oneshot::Sender<Result<Reply, AppendError>>;

/// A request and where its answer goes.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// Where the answer goes; the asker may have left.
    pub reply: Asker,
    /// The room that its messages take until it is answered.
    pub held: Option<Held>,
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
    /// What is counted of what is stored.
    pub traffic: Arc<Traffic>,
    /// Where the catalog shard shows its catalog.
    pub catalog: watch::Sender<Arc<Catalog>>,
    /// What the owner asks itself next: deliveries whose asker had left when they were durable are given back, and groups
    /// that listen to a lite topic that was made get their places in it.
    pub own: Vec<Request>,
    /// Where work runs.
    pub spawn: Arc<dyn Spawn>,
    /// When a producer is to be asked about a transaction of this shard next, ms; for others to see.
    pub next_check: Arc<AtomicI64>,
    /// Room for delayed messages that are read before their time.
    pub ahead: Room,
    /// Whether what was read off the shelf and not placed yet may hold what was erased meanwhile.
    pub reads_anew: bool,
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
    Call {
        request,
        reply,
        held: None,
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
    replies: Vec<(Reply, Asker, Option<Held>)>,
    topics: Vec<u64>,
    arrived: Arrived,
    /// Whether groups may have something now of topics that nobody names.
    rings_all: bool,
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
            if let Some(request) = self.own.pop() {
                let call = own(request);
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
                Event::Outcome(outcome) => {
                    if let Some((fire, turn)) = self.take_outcome(outcome, &mut errands) {
                        errands.had_turn = true;
                        let placed = self.place_due(fire, turn, &mut calls, &mut in_flight);
                        if placed.await.is_err() {
                            return;
                        }
                    }
                    continue;
                }
                Event::Call(Some(call)) => {
                    errands.had_turn = false;
                    call
                }
                Event::Call(None) => break,
            };
            let served = self.serve(call, None, &mut calls, &mut in_flight);
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
        let (handed, mut settled) = self.decide_group(call, calls);
        settled.turn = turn;
        if handed.is_empty() && !settled.wants_position {
            // What the answers rest on is durable once all before them is: they wait for that and need no
            // way through the log.
            let durable = std::future::ready((settled, Ok(Position::default())));
            in_flight.push_back(durable.boxed());
            return Ok(());
        }
        match handed.append(&self.storage, self.id).await {
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

    /// Decides on and applies the call and those that wait behind it.
    fn decide_group(&mut self, first: Call, calls: &mut mpsc::Receiver<Call>) -> (Handed, Settled) {
        // A record and a reply for each of those that wait, most often.
        let expected = 1 + calls.len().min(limits::SHARD_QUEUE_MAX);
        let mut handed = Handed::expecting(expected);
        let mut settled = Settled {
            replies: Vec::with_capacity(expected),
            topics: Vec::new(),
            arrived: Arrived::default(),
            rings_all: false,
            lites: Vec::new(),
            catalog: None,
            wants_position: false,
            turn: None,
        };
        let mut polled = Vec::new();
        let mut next = Some(first);
        while let Some(call) = next.take() {
            let Call {
                request,
                reply,
                held,
            } = call;
            if let Request::CloseTick(tick_ms) = request {
                self.floor = self.floor.max(Timestamp(tick_ms));
                self.hints.raise(self.floor);
            }
            let rung = waiting::rung(&request);
            self.reads_anew |= matches!(request, Request::NoteErasure(_));
            let now = self.clock.now().max(self.floor);
            let moment = Moment {
                now,
                random: self.chance.next_u64(),
            };
            let touched = lite::touched(&request);
            polled.extend(hints::polled(&request));
            let Decision {
                records,
                reply: answer,
            } = self.state.decide(request, moment);
            let decided = match measured(records) {
                Ok(decided) => decided,
                Err(error) => {
                    // The asker may have left.
                    let _ = reply.send(Err(error));
                    next = self.next_call(calls);
                    continue;
                }
            };
            for record in decided.records() {
                self.state.apply_record(record);
                if let Record::Message(message) = record {
                    settled.arrived.count(message);
                    if settled.topics.last() != Some(&message.topic) {
                        settled.topics.push(message.topic);
                    }
                    if let Some(name) = &message.lite_topic {
                        settled.lites.push((message.topic, None, name.clone()));
                        if self.state.is_first_of_lite(message) {
                            let groups = self.listeners.groups_of(message.topic, name);
                            let starts = groups.into_iter().map(|group| StartLite {
                                group,
                                topic: message.topic,
                                names: vec![LiteName {
                                    queue: message.queue,
                                    name: name.clone(),
                                }],
                                offset: Some(message.offset),
                                tail: 0,
                                only_new: true,
                            });
                            self.own.extend(starts.map(Request::StartLite));
                        }
                    }
                }
            }
            for one in touched {
                if let Some(name) = self.state.freed(&one, now) {
                    let ring = (one.topic, Some(one.group), name.to_owned());
                    settled.lites.push(ring);
                }
            }
            match rung {
                Some(Ring::Topic(topic)) if settled.topics.last() != Some(&topic) => {
                    settled.topics.push(topic);
                }
                Some(Ring::Unnamed) => settled.rings_all |= !decided.records().is_empty(),
                Some(Ring::Topic(_)) | None => {}
            }
            handed.add(decided, calls.is_empty());
            // A snapshot ends its group: replay begins behind the group's append, and must not pass over anything
            // that was decided after the snapshot.
            settled.wants_position = matches!(answer, Reply::Snapshot(_));
            settled.replies.push((answer, reply, held));
            if !settled.wants_position
                && !handed.is_full()
                && settled.replies.len() < limits::SHARD_QUEUE_MAX
            {
                next = self.next_call(calls);
            }
        }
        self.hints.tell(self.id, &mut self.state, polled);
        let shown = self.catalog.borrow().revision();
        if self.id == CATALOG_SHARD && shown != self.state.catalog().revision() {
            settled.catalog = Some(Arc::new(self.state.catalog().clone()));
        }
        (handed, settled)
    }

    /// What waits: the owner's own requests first.
    fn next_call(&mut self, calls: &mut mpsc::Receiver<Call>) -> Option<Call> {
        let request = self.own.pop().map(own);
        request.or_else(|| calls.try_recv().ok())
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
            self.traffic.stored(&settled.arrived);
            for topic in settled.topics {
                self.waiting.wake(topic);
            }
            if settled.rings_all {
                self.waiting.ring_all();
                self.listeners.look_at_all();
            }
            for (topic, group, name) in settled.lites {
                self.listeners.arrived(topic, group, &name);
            }
        }
        for (reply, asker, _held) in settled.replies {
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
                self.own.push(Request::Return(Return {
                    group: found.group,
                    topic: found.topic,
                    handles: found.leases.into_iter().map(|lease| lease.handle).collect(),
                    unseen: true,
                }));
            }
        }
        durable.map(|_| ())
    }
}
