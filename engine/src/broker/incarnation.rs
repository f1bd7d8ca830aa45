//! One run of the broker over its data folder, under one term.
//!
//! It ends when a write or sync fails or a shard's owner panics; what was not durable was never
//! answered, and the next incarnation is rebuilt from what is on disk.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use millpond_proto::limits;
use millpond_proto::message::{JobId, QueueId, ShardId, TopicId, shard_of};
use millpond_proto::task::{Lane, Task};
use millpond_proto::time::{Clock, Timestamp, within};
use millpond_storage::error::{AppendError, OpenError, TierError};
use millpond_storage::log::{Parts, Position, Settings, ShardSnapshot, Storage, Tiered};
use tokio::sync::{Mutex, mpsc, oneshot, watch};

use crate::broker::ahead::Room;
use crate::broker::care::Care;
use crate::broker::catalog::Catalog;
use crate::broker::hints::Hints;
use crate::broker::lite;
use crate::broker::lite::listeners::Listeners;
use crate::broker::request::{Empty, Reason, Refused, Reply, Request};
use crate::broker::rewrites::Rewrites;
use crate::broker::room::Need;
use crate::broker::shard::{Call, Shard};
use crate::broker::spread::Spreads;
use crate::broker::state::{CATALOG_SHARD, ShardState};
use crate::broker::tables::CatalogTables;
use crate::broker::traffic::Traffic;
use crate::broker::waiting::Waiting;
use crate::broker::way::Way;

/// How long a deletion waits for an object store; the rest is done in the background.
const FORGET_LIMIT: Duration = Duration::from_secs(5);

/// A shard's door, or why it stays closed.
type Door = Result<mpsc::Sender<Call>, String>;

/// What whoever asked is told when the shard's owner ends before it answers: it may have handed the records down,
/// and then they may be found on disk.
pub(super) fn unanswered() -> AppendError {
    AppendError::Failed {
        cause: Arc::new(io::Error::other("the shard ended before it answered")),
    }
}

/// One run of the broker.
#[derive(Debug)]
pub struct Incarnation {
    storage: Arc<Storage>,
    doors: Vec<Door>,
    catalog: watch::Receiver<Arc<Catalog>>,
    waiting: Arc<Waiting>,
    listeners: Arc<Listeners>,
    traffic: Arc<Traffic>,
    rewrites: Arc<Rewrites>,
    spreads: Spreads,
    hints: Arc<Hints>,
    owners: Mutex<FuturesUnordered<Task>>,
    care: Care,
    clock: Arc<dyn Clock>,
    way: Way,
    /// When a producer is to be asked about a transaction of each shard next, ms.
    checks: Vec<(ShardId, Arc<AtomicI64>)>,
}

impl Incarnation {
    /// Recovers the data folder and starts an owner for every shard.
    ///
    /// # Errors
    /// [`OpenError`] when the folder can not be opened.
    ///
    /// # Panics
    /// When there are more shards than 16 bits count, which opening refuses.
    pub(super) async fn open(
        parts: &Parts,
        settings: &Settings,
        listeners: &Arc<Listeners>,
        traffic: &Arc<Traffic>,
        rewrites: &Arc<Rewrites>,
    ) -> Result<Arc<Self>, OpenError> {
        let (storage, recovered) =
            Storage::open::<ShardState>(parts.clone(), settings.clone()).await?;
        if recovered.torn_bytes > 0 {
            tracing::info!(bytes = recovered.torn_bytes, "cut the torn tail of the log");
        }
        for damage in &recovered.damage {
            tracing::error!(%damage, "damage found in the log");
        }
        // Store time goes on where any shard or any recorded cut left it, even if the clock was set
        // back meanwhile: a row must never appear in a tick that a query has closed.
        let floors = recovered
            .shards
            .iter()
            .flatten()
            .map(|s| s.stored_at().max(s.last_tick()));
        let floor = floors.max().unwrap_or(Timestamp(0));
        parts.clock.was(floor);

        let first = recovered.shards.get(usize::from(CATALOG_SHARD.0));
        let known = first
            .and_then(|s| s.as_ref().ok())
            .map(|s| s.catalog().clone());
        let (shown, catalog) = watch::channel(Arc::new(known.unwrap_or_default()));
        storage.set_tables(Arc::new(CatalogTables::new(catalog.clone())));
        let waiting = Arc::new(Waiting::default());
        let hints = Arc::new(Hints::new(floor));
        let ahead = Room::default();
        let owners = FuturesUnordered::new();
        let mut doors = Vec::with_capacity(recovered.shards.len());
        let mut checks = Vec::with_capacity(recovered.shards.len());
        for (index, state) in recovered.shards.into_iter().enumerate() {
            let id = ShardId(u16::try_from(index).expect("shards are counted in 16 bits"));
            let state = match state {
                Ok(state) => state,
                Err(damaged) => {
                    tracing::error!(shard = id.0, %damaged, "shard stays closed");
                    doors.push(Err(damaged.to_string()));
                    continue;
                }
            };
            let (door, calls) = mpsc::channel(limits::SHARD_QUEUE_MAX);
            let next_check = Arc::new(AtomicI64::new(i64::MAX));
            let shard = Shard {
                id,
                state,
                storage: Arc::clone(&storage),
                clock: Arc::clone(&parts.clock),
                chance: Arc::clone(&parts.chance),
                floor,
                waiting: Arc::clone(&waiting),
                hints: Arc::clone(&hints),
                listeners: Arc::clone(listeners),
                traffic: Arc::clone(traffic),
                catalog: shown.clone(),
                own: Vec::new(),
                spawn: Arc::clone(&parts.spawn),
                next_check: Arc::clone(&next_check),
                ahead: ahead.clone(),
                reads_anew: false,
            };
            checks.push((id, next_check));
            owners.push(parts.spawn.spawn(Lane::Service, Box::pin(shard.run(calls))));
            doors.push(Ok(door));
        }
        let owners = Mutex::new(owners);
        Ok(Arc::new(Self {
            storage,
            doors,
            catalog,
            waiting,
            listeners: Arc::clone(listeners),
            traffic: Arc::clone(traffic),
            rewrites: Arc::clone(rewrites),
            spreads: Spreads::default(),
            hints,
            owners,
            care: Care::default(),
            clock: Arc::clone(&parts.clock),
            way: Way::default(),
            checks,
        }))
    }

    /// The log.
    #[must_use]
    pub fn storage(&self) -> &Arc<Storage> {
        &self.storage
    }

    /// The catalog as it is durable.
    #[must_use]
    pub fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.borrow())
    }

    /// The catalog as it becomes durable; ends with this incarnation.
    #[must_use]
    pub fn catalog_changes(&self) -> watch::Receiver<Arc<Catalog>> {
        self.catalog.clone()
    }

    /// Polls that wait.
    #[must_use]
    pub fn waiting(&self) -> &Waiting {
        &self.waiting
    }

    /// How often something was taken out of topics.
    pub(super) fn rewrites(&self) -> &Rewrites {
        &self.rewrites
    }

    /// How the queues of topics lie in shards.
    pub(super) fn spreads(&self) -> &Spreads {
        &self.spreads
    }

    /// Where groups may find something.
    pub(super) fn hints(&self) -> &Hints {
        &self.hints
    }

    /// The shard that owns a queue, or the one that a lite queue lies in.
    ///
    /// # Panics
    /// When there are more shards than 16 bits count, which opening refuses.
    #[must_use]
    pub fn shard(&self, topic: u64, queue: u32) -> ShardId {
        let shards = u16::try_from(self.doors.len()).expect("shards are counted in 16 bits");
        shard_of(TopicId(topic), QueueId(lite::real(queue)), shards)
    }

    /// Shards with transactions about which a producer is to be asked by now.
    pub(super) fn to_check(&self, now: Timestamp) -> impl Iterator<Item = ShardId> {
        let due = move |at: &AtomicI64| at.load(Ordering::Relaxed) <= now.as_ms();
        let checks = self.checks.iter();
        checks
            .filter(move |(_, at)| due(at))
            .map(|&(shard, _)| shard)
    }

    /// The shard that keeps a job's log.
    #[must_use]
    pub fn home(&self, job: JobId) -> ShardId {
        self.shard(job.0, 0)
    }

    /// All shards.
    ///
    /// # Panics
    /// When there are more shards than 16 bits count, which opening refuses.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> {
        let shards = u16::try_from(self.doors.len()).expect("shards are counted in 16 bits");
        (0..shards).map(ShardId)
    }

    /// Asks a shard and waits for the durable answer.
    ///
    /// # Errors
    /// [`AppendError::Failed`] when the log failed: whether it was done is unknown. With any other nothing was done.
    pub async fn ask(&self, shard: ShardId, request: Request) -> Result<Reply, AppendError> {
        let answer = self.call(shard, request).await?;
        answer.await.unwrap_or_else(|_| Err(unanswered()))
    }

    /// Asks a shard; the durable answer comes over the channel.
    ///
    /// # Errors
    /// [`AppendError::Closed`] when the shard takes no more, [`AppendError::Full`] when the log does not.
    pub(super) async fn call(
        &self,
        shard: ShardId,
        request: Request,
    ) -> Result<oneshot::Receiver<Result<Reply, AppendError>>, AppendError> {
        let room = self.storage.room();
        match Need::of(&request) {
            Need::Messages => room.check(true)?,
            Need::Notes => room.check(false)?,
            Need::Nothing => {}
        }
        let (reply, answer) = oneshot::channel();
        let held = match self.way.take(&request) {
            Ok(held) => held,
            Err(refused) => {
                let _ = reply.send(Ok(Reply::Refused(refused)));
                return Ok(answer);
            }
        };
        let call = Call {
            request,
            reply,
            held,
        };
        match self.doors.get(usize::from(shard.0)) {
            Some(Ok(door)) => door.send(call).await.map_err(|_| AppendError::Closed)?,
            Some(Err(why)) => {
                let refused = Refused {
                    reason: Reason::Damaged.into(),
                    what: why.clone(),
                };
                let _ = call.reply.send(Ok(Reply::Refused(refused)));
            }
            None => return Err(AppendError::Closed),
        }
        Ok(answer)
    }

    /// Asks every open shard the same.
    ///
    /// # Errors
    /// [`AppendError`] of the first shard that could not answer.
    pub async fn ask_all(&self, request: Request) -> Result<Vec<(ShardId, Reply)>, AppendError> {
        let asked = self.shards().map(|shard| {
            let request = request.clone();
            async move { self.ask(shard, request).await.map(|reply| (shard, reply)) }
        });
        futures::future::try_join_all(asked).await
    }

    /// Makes every shard forget what was deleted; what an earlier run left undone included.
    ///
    /// # Errors
    /// [`AppendError`] when the log failed; done again by the next incarnation.
    pub async fn finish_deletions(&self) -> Result<(), AppendError> {
        let catalog = self.catalog();
        for topic in catalog.dropped_topics() {
            let replies = self.ask_all(Request::ForgetTopic(topic)).await?;
            self.waiting.forget(topic);
            self.listeners.forget_topic(topic);
            self.traffic.forget(topic);
            self.rewrites.forget(TopicId(topic));
            let forgetting = self.storage.forget(TopicId(topic));
            let Some(forgotten) = within(&*self.clock, FORGET_LIMIT, forgetting).await else {
                tracing::warn!(
                    topic,
                    "the objects of a deleted topic take long; going on later"
                );
                continue;
            };
            if let Err(error) = forgotten {
                tracing::warn!(topic, %error, "a deleted topic still has objects; trying again later");
            } else if replies
                .iter()
                .all(|(_, reply)| matches!(reply, Reply::Done(_)))
            {
                self.ask(CATALOG_SHARD, Request::TopicGone(topic)).await?;
            }
        }
        for group in catalog.dropped_groups() {
            let replies = self.ask_all(Request::ForgetGroup(group)).await?;
            if replies
                .iter()
                .all(|(_, reply)| matches!(reply, Reply::Done(_)))
            {
                self.ask(CATALOG_SHARD, Request::GroupGone(group)).await?;
            }
        }
        Ok(())
    }

    /// Saves the state of every shard, so that the log before it can be let go.
    ///
    /// # Errors
    /// [`TierError`]; the checkpoint before stays valid.
    pub async fn checkpoint(&self) -> Result<(), TierError> {
        let Ok(replies) = self.ask_all(Request::Snapshot(Empty {})).await else {
            // The log has failed: there is nothing to save that is not on disk already.
            return Ok(());
        };
        let snapshots = replies
            .into_iter()
            .filter_map(|(shard, reply)| match reply {
                Reply::Snapshot(snapshot) => Some(ShardSnapshot {
                    shard,
                    position: Position(snapshot.position),
                    state: snapshot.state,
                }),
                _ => None,
            });
        self.storage.checkpoint(snapshots.collect()).await
    }

    /// Moves what is durable into Parquet and saves the state of every shard.
    ///
    /// # Errors
    /// [`TierError`]; what was not moved stays in the log.
    pub async fn tier(&self) -> Result<Tiered, TierError> {
        let tiered = self.storage.tier().await?;
        self.checkpoint().await?;
        Ok(tiered)
    }

    /// What is on its way to the log.
    #[cfg(test)]
    pub(super) fn way(&self) -> &Way {
        &self.way
    }

    /// What the last turns of retention did.
    pub(super) fn care_taken(&self) -> &Care {
        &self.care
    }

    /// Resolves when this incarnation has ended by a failure, with the reason in words.
    pub async fn ended(&self) -> String {
        let mut owners = self.owners.lock().await;
        tokio::select! {
            biased;
            error = self.storage.failed() => error.to_string(),
            Some(ended) = owners.next() => match ended {
                Err(panicked) => format!("a shard's owner stopped: {panicked}"),
                Ok(()) => "a shard's owner stopped".to_owned(),
            },
        }
    }

    /// Wakes every poll that waits, so that it sees the end.
    pub fn wake_all(&self) {
        self.waiting.wake_all();
        self.listeners.look_at_all();
    }
}
