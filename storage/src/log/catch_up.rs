//! Reads of the cold tier, which whoever catches up asks for as fast as they are answered.
//!
//! Parquet is decoded on the threads of [`Lane::Reading`], which stand back for those that serve calls and for tiering, and
//! at most half of them decode for readers at the same time: so a catch-up leaves the producers their CPU, and
//! statements a share. A read has its turn for as long as it computes; while it waits for
//! the object store others have theirs, so a store that is far away keeps nobody from reading beside it.
//!
//! **Bounds.** One read answers with up to [`COLD_READ_BYTES_MAX`], whatever was asked for; all that are on
//! their way may answer with [`COLD_READS_BYTES_MAX`], and further ones wait.
//!
//! Scans are not paced: a statement runs on these threads already and asks for few at a time.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use millpond_proto::limits::{BODY_BYTES_MAX, COLD_READ_BYTES_MAX, COLD_READS_BYTES_MAX};
use millpond_proto::message::{Offset, QueueId, TopicId};
use millpond_proto::task::{Lane, Spawn};
use tokio::sync::{Semaphore, oneshot};

use crate::error::ReadError;
use crate::format::envelope::Envelope;
use crate::log::ReadLimit;
use crate::tier::cold::Cold;

/// A read's share of the bound is counted in these.
const SHARE_BYTES: usize = 4096;

const _: () = assert!(COLD_READ_BYTES_MAX <= COLD_READS_BYTES_MAX);
const _: () = assert!(COLD_READS_BYTES_MAX / SHARE_BYTES <= u32::MAX as usize);

/// Where reads of the cold tier are worked off.
#[derive(Debug)]
pub(crate) struct CatchUp {
    spawn: Arc<dyn Spawn>,
    /// One for each read that may compute.
    turns: Arc<Semaphore>,
    shares: Semaphore,
}

impl CatchUp {
    pub(crate) fn new(spawn: Arc<dyn Spawn>) -> Self {
        let turns = (spawn.workers(Lane::Reading) / 2).max(1);
        Self {
            spawn,
            turns: Arc::new(Semaphore::new(turns)),
            shares: Semaphore::new(COLD_READS_BYTES_MAX / SHARE_BYTES),
        }
    }

    /// Reads as [`Cold::read`] does.
    pub(crate) async fn read(
        &self,
        cold: &Arc<Cold>,
        topic: TopicId,
        queue: QueueId,
        from: Offset,
        limit: ReadLimit,
    ) -> Result<Vec<Envelope>, ReadError> {
        let limit = ReadLimit {
            bytes: limit.bytes.min(COLD_READ_BYTES_MAX),
            ..limit
        };
        // Held until the answer is there.
        let _share = self.shares.acquire_many(share(limit)).await;
        let (reply, answer) = oneshot::channel();
        let (cold, turns) = (Arc::clone(cold), Arc::clone(&self.turns));
        let work = async move {
            let read = in_turns(&turns, cold.read(topic, queue, from, limit)).await;
            // The reader may have left.
            let _ = reply.send(read);
        };
        // Held too: dropping the task stops it, so a reader that leaves gives up its turn.
        let _task = self.spawn.spawn(Lane::Reading, Box::pin(work));
        answer.await.unwrap_or_else(|_| {
            let ended = std::io::Error::other("the reading thread has ended");
            Err(ReadError::Disk {
                place: "the cold tier".to_owned(),
                source: Arc::new(ended),
            })
        })
    }
}

/// What a read may bring into memory, in shares.
fn share(limit: ReadLimit) -> u32 {
    let bytes = limit.messages.saturating_mul(BODY_BYTES_MAX);
    let shares = bytes.min(limit.bytes).div_ceil(SHARE_BYTES);
    u32::try_from(shares).expect("a read is bounded")
}

/// Does `work` with a turn for each of its steps, and none while it waits.
async fn in_turns<F: Future>(turns: &Semaphore, work: F) -> F::Output {
    let mut work = pin!(work);
    loop {
        let turn = turns.acquire().await;
        let step = poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await;
        drop(turn);
        if let Poll::Ready(done) = step {
            return done;
        }
        // Its step has seen to it that this task is woken.
        let mut was_asked = false;
        poll_fn(|_| {
            if std::mem::replace(&mut was_asked, true) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures::FutureExt as _;
    use futures::future::join_all;

    use super::*;

    #[tokio::test]
    async fn so_many_compute_at_once_and_those_that_wait_are_in_nobodys_way() {
        let turns = Semaphore::new(1);
        let (ready, waits) = oneshot::channel::<u32>();
        let far = in_turns(&turns, async { waits.await.unwrap() });
        let mut far = pin!(far);
        assert_eq!(far.as_mut().now_or_never(), None, "it waits for the store");
        let near = in_turns(&turns, async { 1 });
        assert_eq!(near.now_or_never(), Some(1), "and so it has no turn");
        let turn = turns.acquire().await.unwrap();
        assert_eq!(in_turns(&turns, async { 2 }).now_or_never(), None);
        ready.send(3).unwrap();
        assert_eq!(far.as_mut().now_or_never(), None, "both want one again");
        drop(turn);
        assert_eq!(far.await, 3);
    }

    #[tokio::test]
    async fn work_with_many_steps_comes_to_its_end_beside_others() {
        let turns = Semaphore::new(2);
        let steps = Cell::new(0);
        let work = |count: u64| {
            let steps = &steps;
            in_turns(&turns, async move {
                for _ in 0..count {
                    steps.set(steps.get() + 1);
                    tokio::task::yield_now().await;
                }
                count
            })
        };
        let done = join_all((0..20).map(work)).await;
        assert_eq!(done, (0..20).collect::<Vec<_>>());
        assert_eq!(steps.get(), 190);
    }

    #[test]
    fn a_read_has_a_share_of_what_it_may_bring_and_never_more_than_there_is() {
        let of = |messages, bytes| share(ReadLimit { messages, bytes }) as usize * SHARE_BYTES;
        assert_eq!(of(1, COLD_READ_BYTES_MAX), BODY_BYTES_MAX);
        assert_eq!(of(usize::MAX, COLD_READ_BYTES_MAX), COLD_READ_BYTES_MAX);
        assert_eq!(of(9, 1), SHARE_BYTES);
    }
}
