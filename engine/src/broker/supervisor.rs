//! Opening the broker, and what happens when an incarnation ends: the next one.
//!
//! After a failed write or sync nothing more is answered OK; all shards reopen under a new term from
//! what is on disk. While that lasts, callers are told to try again.
//!
//! **Invariant.** What topics, groups and queries there are is known from the first run on: between two runs it is what the
//! last one had made durable, since nothing can change it then. "There is none" is never said for "I can not tell".

use std::convert::Infallible;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millpond_proto::task::Lane;
use millpond_proto::time::Timestamp;
use millpond_storage::error::{AppendError, OpenError, TierError};
use millpond_storage::log::room::Room;
use millpond_storage::log::{Parts, Settings, Storage, Tiered};
use tokio::sync::{Notify, mpsc, watch};

use crate::broker::Broker;
use crate::broker::catalog::Catalog;
use crate::broker::incarnation::Incarnation;
use crate::broker::lite::listeners::Listeners;
use crate::broker::parking::Parking;
use crate::broker::request::Return;
use crate::broker::rewrites::Rewrites;
use crate::broker::traffic::Traffic;
use crate::broker::undelivered::{RETURNS_MAX, give_back};

/// Pause between attempts to reopen a log that failed.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);
/// How often the broker looks whether the log has grown enough to be tiered.
const UPKEEP_PAUSE: Duration = Duration::from_secs(10);
/// The same while messages are refused for want of room.
const FULL_PAUSE: Duration = Duration::from_secs(1);
/// Bytes of the log that start a turn of the tierer: two segments, of which one can be let go.
const TIER_BYTES: u64 = 128 * 1024 * 1024;

/// What serves now.
#[derive(Clone, Debug)]
pub(super) enum Run {
    /// This one.
    Serving(Arc<Incarnation>),
    /// None: the log is opened anew, or the broker was closed. The catalog is that of the last one.
    Between(Arc<Catalog>),
}

impl Broker {
    /// Opens the data folder and starts every shard.
    ///
    /// # Errors
    /// [`OpenError`] says what to do; nothing was changed.
    pub async fn start(parts: Parts, settings: Settings) -> Result<Arc<Self>, OpenError> {
        let listeners = Arc::new(Listeners::default());
        let traffic = Arc::new(Traffic::default());
        let rewrites = Arc::default();
        let first = Incarnation::open(&parts, &settings, &listeners, &traffic, &rewrites).await?;
        let (shown, current) = watch::channel(Run::Serving(Arc::clone(&first)));
        let (returns, returned) = mpsc::channel(RETURNS_MAX);
        let broker = Arc::new(Self {
            parts: parts.clone(),
            returns,
            current,
            supervisor: Mutex::new(None),
            stop: Notify::new(),
            turn: AtomicU32::new(0),
            parking: Parking::default(),
            listeners,
            traffic,
        });
        let supervised = supervise(
            Arc::clone(&broker),
            settings,
            shown,
            first,
            returned,
            rewrites,
        );
        let task = parts.spawn.spawn(Lane::Background, Box::pin(supervised));
        *broker
            .supervisor
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(task);
        Ok(broker)
    }

    /// The log that is open now, for those who only look at it; none while it is opened anew.
    pub(crate) fn storage(&self) -> Option<Arc<Storage>> {
        let incarnation = self.incarnation().ok()?;
        Some(Arc::clone(incarnation.storage()))
    }

    /// The run that serves now.
    ///
    /// # Errors
    /// [`AppendError::Closed`] between two runs and after the last one.
    pub(super) fn incarnation(&self) -> Result<Arc<Incarnation>, AppendError> {
        match &*self.current.borrow() {
            Run::Serving(incarnation) => Ok(Arc::clone(incarnation)),
            Run::Between(_) => Err(AppendError::Closed),
        }
    }

    /// The catalog as it is durable; between two runs as the last one left it.
    pub(super) fn catalog(&self) -> Arc<Catalog> {
        match &*self.current.borrow() {
            Run::Serving(incarnation) => incarnation.catalog(),
            Run::Between(catalog) => Arc::clone(catalog),
        }
    }

    /// Moves what is durable into Parquet now, and checkpoints.
    ///
    /// # Errors
    /// [`TierError`]; what was not moved stays in the log.
    pub async fn tier(&self) -> Result<Tiered, TierError> {
        match self.incarnation() {
            Ok(incarnation) => incarnation.tier().await,
            Err(_) => Ok(Tiered::default()),
        }
    }

    /// The broker's clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.parts.clock.now()
    }

    /// Checkpoints, writes what is queued, stops the shards.
    pub async fn close(&self) {
        self.stop.notify_one();
        let task = self
            .supervisor
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(task) = task
            && let Err(panicked) = task.await
        {
            tracing::error!(%panicked, "the supervisor of the broker stopped");
        }
    }
}

/// Keeps an incarnation running until the broker is told to stop.
async fn supervise(
    broker: Arc<Broker>,
    settings: Settings,
    shown: watch::Sender<Run>,
    first: Arc<Incarnation>,
    mut returned: mpsc::Receiver<Return>,
    rewrites: Arc<Rewrites>,
) {
    let clock = Arc::clone(&broker.parts.clock);
    let mut incarnation = first;
    loop {
        let why = tokio::select! {
            biased;
            () = broker.stop.notified() => None,
            why = incarnation.ended() => Some(why),
            () = upkeep(&broker, &incarnation) => None,
            () = tidy_objects(&broker, &incarnation, &settings) => None,
            () = give_back(&incarnation, &mut returned) => None,
        };
        shown.send_replace(Run::Between(incarnation.catalog()));
        incarnation.wake_all();
        let Some(why) = why else {
            if let Err(error) = incarnation.checkpoint().await {
                tracing::warn!(%error, "no checkpoint at the end; the next start replays more");
            }
            incarnation.storage().close().await;
            return;
        };
        tracing::error!(%why, "the log has stopped; reopening from what is on disk");
        incarnation.storage().close().await;
        drop(incarnation);
        incarnation = loop {
            let opened = Incarnation::open(
                &broker.parts,
                &settings,
                &broker.listeners,
                &broker.traffic,
                &rewrites,
            )
            .await;
            match opened {
                Ok(next) => break next,
                Err(error) => tracing::error!(%error, "could not reopen the log; trying again"),
            }
            tokio::select! {
                biased;
                () = broker.stop.notified() => return,
                () = clock.sleep(REOPEN_PAUSE) => {}
            }
        };
        shown.send_replace(Run::Serving(Arc::clone(&incarnation)));
        broker.listeners.look_at_all();
    }
}

/// Does what needs no object store in time: moves dead letters, looks for room; never ends by itself.
async fn upkeep(broker: &Broker, incarnation: &Incarnation) {
    loop {
        if let Err(error) = broker.finish_transfers(incarnation).await {
            tracing::warn!(%error, "dead letters wait for the next turn");
        }
        if let Err(error) = broker.sweep_lites(incarnation).await {
            tracing::warn!(%error, "lite topics that are over wait for the next turn");
        }
        let room = incarnation.storage().look_for_room();
        let pause = if room == Room::Enough {
            UPKEEP_PAUSE
        } else {
            FULL_PAUSE
        };
        broker.parts.clock.sleep(pause).await;
    }
}

/// Finishes deletions, tiers and checkpoints as the log grows, keeps topics within their retention, merges
/// small files; never ends by itself. All of it may wait for an object store, however long that is down.
async fn tidy_objects(broker: &Broker, incarnation: &Incarnation, settings: &Settings) {
    // A bounded log moves on well before its bound.
    let tier_bytes = settings
        .log_bytes_max
        .map_or(TIER_BYTES, |max| TIER_BYTES.min(max / 2));
    let mut saved_at = 0;
    match incarnation.storage().sweep().await {
        Ok(0) => {}
        Ok(objects) => tracing::info!(objects, "removed what a crash had left in the cold tier"),
        Err(error) => tracing::warn!(%error, "the cold tier was not swept; the next start does it"),
    }
    loop {
        if let Err(error) = incarnation.finish_deletions().await {
            tracing::debug!(%error, "deletions wait for the next incarnation");
        }
        let storage = incarnation.storage();
        let log_bytes = storage.sizes().wal_bytes;
        let is_full = storage.room() != Room::Enough;
        let mut goes_on = false;
        if log_bytes >= tier_bytes || is_full {
            match tier(broker, incarnation, tier_bytes / 2).await {
                Ok(tiered) => {
                    saved_at = 0;
                    goes_on = is_full && tiered.messages > 0;
                    tracing::info!(tiered.messages, tiered.bytes, "tiered");
                }
                Err(error) => {
                    tracing::warn!(%error, "could not tier; the log keeps the messages");
                    // The next start must not replay all that could not be moved.
                    if log_bytes >= saved_at + TIER_BYTES && incarnation.checkpoint().await.is_ok()
                    {
                        saved_at = log_bytes;
                    }
                }
            }
        }
        incarnation.sweep_shelves(broker.now()).await;
        incarnation.care(broker.now()).await;
        let pause = if goes_on { FULL_PAUSE } else { UPKEEP_PAUSE };
        broker.parts.clock.sleep(pause).await;
        incarnation.storage().choose_wal_io();
    }
}

/// Moves what is durable into Parquet. A turn over very many topics takes long: whenever the log has grown by so many bytes
/// meanwhile the shards are saved and what has moved is let go, so that neither the log's bound nor the next start waits
/// for the end of it.
async fn tier(
    broker: &Broker,
    incarnation: &Incarnation,
    save_bytes: u64,
) -> Result<Tiered, TierError> {
    tokio::select! {
        biased;
        tiered = incarnation.tier() => tiered,
        never = save_as_it_grows(broker, incarnation, save_bytes) => match never {},
    }
}

async fn save_as_it_grows(
    broker: &Broker,
    incarnation: &Incarnation,
    save_bytes: u64,
) -> Infallible {
    let appended = || incarnation.storage().appended().bytes;
    let mut saved_at = appended();
    loop {
        broker.parts.clock.sleep(UPKEEP_PAUSE).await;
        let now_at = appended();
        if now_at.saturating_sub(saved_at) < save_bytes {
            continue;
        }
        match incarnation.checkpoint().await {
            Ok(()) => saved_at = now_at,
            Err(error) => tracing::warn!(%error, "no checkpoint beside the turn of the tierer"),
        }
    }
}
