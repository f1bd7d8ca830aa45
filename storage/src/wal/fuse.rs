//! What a lane leaves behind when it panics: a log that has ended, at once and for everybody.
//!
//! A lane that panics takes its group with it, and maybe the duty to answer the others. Without the fuse
//! they would wait for it until the log is closed; with it they hear of the failure as of a failed sync, and
//! whoever supervises the incarnation opens the log again from what is on disk.
//!
//! **Invariant.** A lane ends by its own will, or the view has a failure before its thread goes on.
//!
//! It does not say what became of the lane's own group: those who wait for it hear that the log is closed,
//! and find out from the next one.

use std::io;
use std::sync::Arc;

use millpond_proto::task::Panicked;

use crate::wal::writer::Writer;

/// Held by a lane for as long as it runs.
pub(super) struct Fuse(Arc<Writer>);

impl Fuse {
    pub(super) fn new(writer: Arc<Writer>) -> Self {
        Self(writer)
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The panic itself was told by the hook; the supervisor logs why the incarnation ended.
            self.0.break_down(io::Error::other(Panicked));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Wake, Waker};

    use bytes::Bytes;
    use millpond_proto::chance::Seeded;
    use millpond_proto::message::ShardId;
    use millpond_proto::task::Runtimes;
    use millpond_proto::time::SystemClock;

    use crate::disk::Disk;
    use crate::disk::simulated::SimulatedDisk;
    use crate::error::{AppendError, ShardDamaged};
    use crate::log::{Durable, Parts, Projection, Record, Replayed, Settings, Storage};
    use crate::tier::objects::DiskObjectStore;

    struct Count(u64);

    impl Projection for Count {
        fn restore(_: ShardId, _: Option<&[u8]>) -> Result<Self, ShardDamaged> {
            Ok(Self(0))
        }

        fn apply(&mut self, _: &Replayed) -> Result<(), ShardDamaged> {
            self.0 += 1;
            Ok(())
        }
    }

    /// Blows up whoever answers it.
    struct Bomb;

    impl Wake for Bomb {
        fn wake(self: Arc<Self>) {
            panic!("the one who waits can not be woken");
        }
    }

    async fn open(disk: &Arc<dyn Disk>) -> (Arc<Storage>, u64) {
        let parts = Parts {
            objects: Arc::new(DiskObjectStore::new(Arc::clone(disk), "objects")),
            disk: Arc::clone(disk),
            clock: Arc::new(SystemClock),
            chance: Arc::new(Seeded::new(1)),
            spawn: Arc::new(Runtimes::single()),
        };
        let settings = Settings {
            shards: 1,
            overlap_bytes: 0,
            ..Settings::default()
        };
        let opened = Storage::open::<Count>(parts, settings).await;
        let (storage, recovered) = opened.unwrap();
        assert!(recovered.damage.is_empty());
        let shards = recovered.shards.into_iter();
        (storage, shards.map(|shard| shard.unwrap().0).sum())
    }

    async fn append(storage: &Storage) -> Result<Durable, AppendError> {
        let record = Record::State(Bytes::from_static(b"a change"));
        storage.append(ShardId(0), vec![record]).await
    }

    #[tokio::test]
    async fn a_panic_while_a_lane_answers_ends_the_log_for_everyone_at_once() {
        let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::new());
        let (storage, _) = open(&disk).await;
        append(&storage).await.unwrap().await.unwrap();
        let mut bomb = append(&storage).await.unwrap();
        let waker = Waker::from(Arc::new(Bomb));
        assert!(
            Pin::new(&mut bomb)
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
        // These are on their way behind it, or wait.
        let mut behind = Vec::new();
        for turn in 0..20 {
            match append(&storage).await {
                Ok(durable) => behind.push(durable),
                Err(error) => assert!(matches!(error, AppendError::Failed { .. }), "{error}"),
            }
            if turn > 4 {
                tokio::task::yield_now().await;
            }
        }
        assert!(behind.len() > 4);
        for answer in futures::future::join_all(behind).await {
            let error = answer.unwrap_err();
            let is_end = matches!(error, AppendError::Failed { .. } | AppendError::Closed);
            assert!(is_end, "{error}");
        }
        let AppendError::Failed { cause } = storage.failed().await else {
            panic!("an incarnation ends by a failure");
        };
        assert!(cause.to_string().contains("panicked"), "{cause}");
        let late = append(&storage).await;
        assert!(matches!(late, Err(AppendError::Failed { .. })));
        storage.close().await;

        // What was acknowledged is there, and the log goes on.
        let (storage, records) = open(&disk).await;
        assert!((1..=22).contains(&records), "{records} records");
        append(&storage).await.unwrap().await.unwrap();
        storage.close().await;
    }
}
