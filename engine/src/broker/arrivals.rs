//! How a continuous query learns that its topics have new rows: it waits on the bells of [`Waiting`] as polls do.
//!
//! A job rings under a group of its own, far from those of consumers, so that it takes no ring from them nor they
//! from it.

use std::future::Future;

use futures::future::select_all;
use millpond_proto::message::{JobId, TopicId};

use crate::broker::waiting::{Bell, Waiting};

/// Bells of one job. Nobody else waits on them, so nobody is to be woken when they are let go.
struct Bells(Vec<Bell>);

impl Drop for Bells {
    fn drop(&mut self) {
        self.0.drain(..).for_each(Bell::stay);
    }
}

/// Ends when one of the topics had something become durable since this was called; it may also end without.
pub(crate) fn of(
    waiting: &Waiting,
    job: JobId,
    topics: &[TopicId],
) -> impl Future<Output = ()> + Send + use<> {
    let bells = topics.iter();
    let bells = Bells(
        bells
            .map(|topic| waiting.bell(topic.0, u64::MAX - job.0))
            .collect(),
    );
    async move {
        let notifies: Vec<_> = bells.0.iter().map(Bell::notify).collect();
        let rings = notifies.iter().map(|notify| Box::pin(notify.notified()));
        if notifies.is_empty() {
            return;
        }
        select_all(rings).await;
        drop(bells);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn a_ring_between_taking_hold_and_waiting_is_not_missed() {
        let waiting = Waiting::default();
        let topics = [TopicId(1), TopicId(2)];
        let arrived = of(&waiting, JobId(3), &topics);
        waiting.wake(2);
        assert!(arrived.now_or_never().is_some());
        assert!(
            of(&waiting, JobId(3), &topics).now_or_never().is_none(),
            "nothing came since"
        );
        let mut both = [JobId(3), JobId(4)].map(|job| Box::pin(of(&waiting, job, &topics)));
        waiting.wake(1);
        for arrived in &mut both {
            assert!(arrived.now_or_never().is_some(), "each job hears of it");
        }
    }
}
