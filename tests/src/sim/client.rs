//! How a client calls: over a network that loses answers.

use std::future::Future;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use millpond_engine::broker::Broker;
use millpond_proto::chance::Seeded;
use millpond_proto::name::{GroupName, TopicName};
use millpond_proto::time::Timestamp;

use crate::history::Event;
use crate::sim::{Clocks, World};

/// One client of the broker.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) name: Arc<str>,
    pub(super) world: Arc<World>,
    pub(super) broker: Arc<Broker>,
    pub(super) clocks: Clocks,
    pub(super) chance: Seeded,
}

/// Steps after which a client may leave in the middle of a call.
const STEPS_MAX: u64 = 12;

impl Client {
    pub(super) fn note(&self, event: Event) {
        self.world.history.record(self.now(), &self.name, event);
    }

    pub(super) fn broken(&self, what: String) {
        self.note(Event::Broken(what));
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clocks.steady.now()
    }

    pub(super) async fn sleep(&self, ms: u64) {
        self.clocks.steady.sleep(Duration::from_millis(ms)).await;
    }

    pub(super) async fn pause(&self, ms_max: u64) {
        self.sleep(self.chance.below(ms_max)).await;
    }

    /// Calls the broker. `None` when the client never learns what became of it: it left in the middle of the
    /// call, or the answer was lost on its way back.
    pub(super) fn call<'a, T: 'a>(
        &'a self,
        call: impl Future<Output = T> + 'a,
    ) -> impl Future<Output = Option<T>> + 'a {
        // What the broker gives is large, and whoever calls it would be at least as large.
        let mut call = Box::pin(call);
        async move {
            self.world.history.count();
            if self.world.is_last {
                return Some(call.await);
            }
            match self.chance.below(100) {
                0 => {
                    let mut left = self.chance.below(STEPS_MAX);
                    std::future::poll_fn(|context| {
                        if left == 0 {
                            return Poll::Ready(None);
                        }
                        left -= 1;
                        call.as_mut().poll(context).map(Some)
                    })
                    .await
                }
                1 => {
                    call.await;
                    None
                }
                _ => Some(call.await),
            }
        }
    }
}

pub(super) fn topic_name(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

pub(super) fn group_name(name: &str) -> GroupName {
    GroupName::new(name).unwrap()
}
