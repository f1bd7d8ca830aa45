//! Parting with a client: what it held and what was remembered for it goes.
//!
//! A client says that it is gone, or its stream of commands ended and it has not been heard of for a while
//! ([`Clients::gone`]). Then what it works off as a push consumer is delivered to others at once, its filter no longer
//! binds its group, and its lite topics go to others. Whoever was only cut off for that long is served as before when it
//! is back; its old handles are refused, as those are of leases that have ended.

use std::sync::Arc;

use crate::service::client::Clients;
use crate::service::gate::Gate;
use crate::service::subscription::Subscriptions;

/// All that remembers clients.
#[derive(Clone, Debug)]
pub struct Parting {
    /// Where the broker is.
    pub gate: Arc<Gate>,
    /// Who was heard of.
    pub clients: Arc<Clients>,
    /// Who polls through which filter.
    pub subscriptions: Arc<Subscriptions>,
}

impl Parting {
    /// Parts with one client.
    pub async fn part(&self, id: &str) {
        self.clients.forget(id);
        self.subscriptions.forget(id);
        let Some(open) = self.gate.opened() else {
            return;
        };
        if let Err(error) = open.broker.release(id).await {
            tracing::debug!(%error, "a client's messages come back when their time ends");
        }
        open.broker.listens_no_more(id);
    }

    /// Parts with those that hung up and are silent.
    pub async fn sweep(&self) {
        let clock = self.gate.clock();
        for id in self.clients.gone(clock.now()) {
            // Parting with those before took its time, and this one may be back.
            if !self.clients.is_gone(&id, clock.now()) {
                continue;
            }
            tracing::debug!(
                client = id,
                "it hung up and is silent; what it held goes to others"
            );
            self.part(&id).await;
        }
    }
}
