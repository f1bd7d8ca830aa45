//! Producers of a bench, and the care that keeps their log short.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use millpond_proto::message::{QueueId, ShardId, TopicId, shard_of};
use millpond_storage::log::{ShardSnapshot, Storage};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::{BODY_BYTES, Load, SHARDS, messages};

/// The log is cut when it has grown to this.
const KEPT_BYTES: u64 = 256 * 1024 * 1024;

/// What producers do.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) producers: u32,
    /// Messages of each send.
    pub(crate) batch: u64,
}

/// Messages go to a topic until the log is cut; then its messages are forgotten and the next one's turn comes.
pub(crate) async fn produce(
    storage: &Arc<Storage>,
    background: &Handle,
    topic: &Arc<AtomicU64>,
    shape: Shape,
    time: Duration,
) -> Load {
    // Of its own, so that offsets begin at 0 again.
    topic.fetch_add(1, Ordering::Relaxed);
    let start = Instant::now();
    let producer = |queue: u32| {
        // Its own, as that of a request: one for all would measure how cores fight for its count.
        let body = Bytes::from(vec![7; BODY_BYTES]);
        async move {
            let mut latencies = Vec::new();
            let mut at = (0, 0);
            while start.elapsed() < time {
                let topic = topic.load(Ordering::Relaxed);
                at = if at.0 == topic { at } else { (topic, 0) };
                let shard = shard_of(TopicId(topic), QueueId(queue), SHARDS);
                let records = messages(topic, queue, at.1, shape.batch, &body);
                let began = Instant::now();
                let durable = storage
                    .append(shard, records)
                    .await
                    .expect("the log is open");
                durable.await.expect("the disk works");
                latencies.push(began.elapsed());
                at.1 += shape.batch;
            }
            latencies
        }
    };
    let cutting = keep_short(storage, background, topic);
    let all = futures::future::join_all((0..shape.producers).map(producer)).await;
    let seconds = start.elapsed().as_secs_f64();
    cutting.abort();
    let latencies: Vec<Duration> = all.into_iter().flatten().collect();
    Load {
        bytes: latencies.len() as u64 * shape.batch * BODY_BYTES as u64,
        seconds,
        latencies,
    }
}

/// Cuts the log whenever it has grown too long, until the task is aborted. As in a server, where the care of the log
/// has a runtime of its own.
pub(crate) fn keep_short(
    storage: &Arc<Storage>,
    background: &Handle,
    topic: &Arc<AtomicU64>,
) -> JoinHandle<()> {
    let (storage, topic) = (Arc::clone(storage), Arc::clone(topic));
    background.spawn(async move {
        loop {
            if storage.sizes().wal_bytes >= KEPT_BYTES {
                cut(&storage, &topic).await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
}

/// Lets go of all but the last topic's messages.
async fn cut(storage: &Storage, topic: &AtomicU64) {
    let last = topic.fetch_add(1, Ordering::Relaxed);
    for old in storage.topics() {
        if old.0 < last {
            storage
                .forget(old)
                .await
                .expect("nothing is in the cold tier");
        }
    }
    let mut snapshots = Vec::new();
    for shard in (0..SHARDS).map(ShardId) {
        let position = storage
            .append(shard, Vec::new())
            .await
            .expect("the log is open");
        snapshots.push(ShardSnapshot {
            shard,
            position: position.await.expect("the disk works"),
            state: Bytes::new(),
        });
    }
    storage.checkpoint(snapshots).await.expect("the disk works");
}
