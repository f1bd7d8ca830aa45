//! A shard's owner: the one task that decides for it.
//!
//! It takes all that waits, decides on each request in order, applies what it decided at once, so that
//! the next decision sees it, and hands the records of the whole group down as one append. Replies leave
//! in order, when the log says that the append is durable. If the append fails, nothing is answered:
//! the incarnation ends and every shard is rebuilt from what is on disk.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::FuturesOrdered;
use millpond_proto::chance::Chance;
use millpond_proto::limits;
use millpond_proto::message::ShardId;
use millpond_proto::time::{Clock, Timestamp};
use millpond_storage::error::AppendError;
use millpond_storage::format::envelope::Envelope;
use millpond_storage::log::{Position, Record, Storage};
use tokio::sync::{mpsc, oneshot, watch};

use crate::broker::catalog::Catalog;
use crate::broker::request::{Reply, Request, Return};
use crate::broker::state::{CATALOG_SHARD, Moment, ShardState};
use crate::broker::waiting::Waiting;

/// Bytes of messages after which a group of requests is handed down.
const GROUP_BYTES: usize = 1024 * 1024;
/// Groups handed down and not yet durable.
const GROUPS_IN_FLIGHT: usize = 8;

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
    /// Where the catalog shard shows its catalog.
    pub catalog: watch::Sender<Arc<Catalog>>,
    /// Deliveries whose asker had left when they were durable; given back next.
    pub unclaimed: Vec<Return>,
}

/// What is done once a group is durable.
struct Settled {
    replies: Vec<(Reply, oneshot::Sender<Result<Reply, AppendError>>)>,
    topics: Vec<u64>,
    catalog: Option<Arc<Catalog>>,
    /// Whether an answer says up to where the log went.
    wants_position: bool,
}

type InFlight = FuturesOrdered<BoxFuture<'static, (Settled, Result<Position, AppendError>)>>;

impl Shard {
    /// Serves calls until all callers are gone or the log fails.
    pub async fn run(mut self, mut calls: mpsc::Receiver<Call>) {
        let mut in_flight: InFlight = FuturesOrdered::new();
        loop {
            if let Some(back) = self.unclaimed.pop() {
                let (reply, _nobody) = oneshot::channel();
                let request = Request::Return(back);
                let call = Call { request, reply };
                if self.serve(call, &mut calls, &mut in_flight).await.is_err() {
                    return;
                }
                continue;
            }
            let call = tokio::select! {
                biased;
                Some((settled, durable)) = in_flight.next() => {
                    if self.settle(settled, durable).is_err() {
                        return;
                    }
                    continue;
                }
                call = calls.recv(), if in_flight.len() < GROUPS_IN_FLIGHT => call,
            };
            let Some(call) = call else { break };
            if self.serve(call, &mut calls, &mut in_flight).await.is_err() {
                return;
            }
        }
        while let Some((settled, durable)) = in_flight.next().await {
            if self.settle(settled, durable).is_err() {
                return;
            }
        }
    }

    /// Decides on the call and those that wait behind it, and hands their records down.
    async fn serve(
        &mut self,
        first: Call,
        calls: &mut mpsc::Receiver<Call>,
        in_flight: &mut InFlight,
    ) -> Result<(), AppendError> {
        let (records, settled) = self.decide_group(first, calls);
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

    /// Decides on and applies the call and those that wait behind it.
    fn decide_group(
        &mut self,
        first: Call,
        calls: &mut mpsc::Receiver<Call>,
    ) -> (Vec<Record>, Settled) {
        let mut records = Vec::new();
        let mut settled = Settled {
            replies: Vec::new(),
            topics: Vec::new(),
            catalog: None,
            wants_position: false,
        };
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(Call { request, reply }) = next.take() {
            if let Request::CloseTick(tick_ms) = request {
                self.floor = self.floor.max(Timestamp(tick_ms));
            }
            if let Request::Return(back) = &request {
                settled.topics.push(back.topic);
            }
            let now = self.clock.now().max(self.floor);
            let moment = Moment {
                now,
                random: self.chance.next_u64(),
            };
            let decision = self.state.decide(request, moment);
            for record in &decision.records {
                self.state.apply_record(record);
                if let Record::Message(message) = record {
                    bytes += size_of(message);
                    if settled.topics.last() != Some(&message.topic) {
                        settled.topics.push(message.topic);
                    }
                }
            }
            records.extend(decision.records);
            settled.wants_position |= matches!(decision.reply, Reply::Snapshot(_));
            settled.replies.push((decision.reply, reply));
            if bytes < GROUP_BYTES && settled.replies.len() < limits::SHARD_QUEUE_MAX {
                next = calls.try_recv().ok();
            }
        }
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
        if durable.is_ok() {
            if let Some(catalog) = settled.catalog {
                self.catalog.send_replace(catalog);
            }
            for topic in settled.topics {
                self.waiting.wake(topic);
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
