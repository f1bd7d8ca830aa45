//! The gate: every call of every service passes here, and only here does it get the broker.
//!
//! [`Gate::admit`] asks [`Policy::authorize`] and hands out an [`Admitted`]; the broker and SQL can be
//! reached through that alone, so a call that forgets to ask gets nothing. Services listen before the
//! data folder is open; until then, and while the server stops, calls are told to try again.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use millpond_proto::time::Clock;
use millpond_proto::wire::rocketmq::Code;
use tokio::sync::watch;
use tonic::Extensions;

use crate::authorize::{Action, Policy, Principal, Refused, Resource};
use crate::broker::Broker;
use crate::service::code::Refusal;
use crate::service::query::Statements;
use crate::tls::Peer;

/// What is behind the gate once the data folder is open.
#[derive(Clone, Debug)]
pub struct Open {
    /// Topics, groups and messages.
    pub broker: Arc<Broker>,
    /// Statements and continuous queries.
    pub sql: Arc<dyn Statements>,
    /// Whether topics and groups are made on first use.
    pub makes_on_first_use: bool,
}

/// Where the server stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The data folder is being opened.
    Starting,
    /// Calls are served.
    Serving,
    /// Polls are ended, no new calls are taken.
    Stopping,
}

/// The one way in.
#[derive(Debug)]
pub struct Gate {
    policy: Policy,
    clock: Arc<dyn Clock>,
    open: OnceLock<Open>,
    phase: watch::Sender<Phase>,
}

/// Why a call did not pass.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// May not.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The connection does not say where it comes from.
    #[error("the connection has no address; please report this")]
    NoPeer,
    /// Not yet.
    #[error("the server is opening its data folder; try again a little later")]
    Starting,
    /// No more.
    #[error("the server is stopping; try again once it is back")]
    Stopping,
}

/// A call that may go on.
#[derive(Debug)]
#[must_use = "the broker is reached through it"]
pub struct Admitted<'a> {
    gate: &'a Gate,
    /// Who calls.
    pub principal: Principal,
}

impl Gate {
    /// A gate that is still shut.
    #[must_use]
    pub fn new(policy: Policy, clock: Arc<dyn Clock>) -> Self {
        Self {
            policy,
            clock,
            open: OnceLock::new(),
            phase: watch::Sender::new(Phase::Starting),
        }
    }

    /// Opens it, once.
    pub fn open(&self, open: Open) {
        if self.open.set(open).is_ok() {
            self.phase.send_replace(Phase::Serving);
        }
    }

    /// What is behind it, for the server's own work; calls of others go through [`Gate::admit`]. None while
    /// the server starts or stops.
    #[must_use]
    pub fn opened(&self) -> Option<&Open> {
        self.open.get().filter(|_| self.phase() == Phase::Serving)
    }

    /// Shuts it for good and ends what waits on [`Gate::stopping`].
    pub fn stop(&self) {
        self.phase.send_replace(Phase::Stopping);
    }

    /// Where the server stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Resolves when the server stops.
    pub async fn stopping(&self) {
        let mut phase = self.phase.subscribe();
        // The sender lives in `self`, so waiting can not fail.
        let _ = phase.wait_for(|phase| *phase == Phase::Stopping).await;
    }

    /// Time.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Lets a gRPC call pass.
    ///
    /// # Errors
    /// [`Denied`] when it may not.
    pub fn admit(
        &self,
        extensions: &Extensions,
        action: Action,
        resource: Resource<'_>,
    ) -> Result<Admitted<'_>, Denied> {
        let peer = extensions.get::<Peer>().ok_or(Denied::NoPeer)?;
        self.admit_peer(peer.address, action, resource)
    }

    /// Lets a call from this address pass.
    ///
    /// # Errors
    /// [`Denied`] when it may not.
    pub fn admit_peer(
        &self,
        peer: SocketAddr,
        action: Action,
        resource: Resource<'_>,
    ) -> Result<Admitted<'_>, Denied> {
        let principal = Principal { peer };
        self.policy.authorize(principal, action, resource)?;
        Ok(Admitted {
            gate: self,
            principal,
        })
    }
}

impl<'a> Admitted<'a> {
    /// Lets the same caller do one more thing in the same call.
    ///
    /// # Errors
    /// [`Denied`] when it may not.
    pub fn also(self, action: Action, resource: Resource<'_>) -> Result<Self, Denied> {
        self.gate
            .policy
            .authorize(self.principal, action, resource)?;
        Ok(self)
    }

    /// What is behind the gate.
    ///
    /// # Errors
    /// [`Denied`] while the server starts or stops.
    pub fn inside(&self) -> Result<&'a Open, Denied> {
        match self.gate.phase() {
            Phase::Stopping => Err(Denied::Stopping),
            Phase::Starting | Phase::Serving => self.gate.open.get().ok_or(Denied::Starting),
        }
    }

    /// The broker.
    ///
    /// # Errors
    /// [`Denied`] while the server starts or stops.
    pub fn broker(&self) -> Result<&'a Arc<Broker>, Denied> {
        Ok(&self.inside()?.broker)
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        let message = denied.to_string();
        match denied {
            Denied::Refused(refused) => refused.into(),
            Denied::NoPeer => Self::new(Code::InternalServerError, message),
            // Producers back off on this code instead of trying again at once.
            Denied::Starting | Denied::Stopping => Self::new(Code::TooManyRequests, message),
        }
    }
}

impl From<Denied> for tonic::Status {
    fn from(denied: Denied) -> Self {
        let message = denied.to_string();
        match denied {
            Denied::Refused(_) => Self::permission_denied(message),
            Denied::NoPeer => Self::internal(message),
            Denied::Starting | Denied::Stopping => Self::unavailable(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use millpond_proto::time::SystemClock;

    use super::*;

    fn gate() -> Gate {
        Gate::new(Policy { insecure: false }, Arc::new(SystemClock))
    }

    #[test]
    fn a_call_without_address_does_not_pass() {
        let denied = gate()
            .admit(&Extensions::new(), Action::Describe, Resource::Server)
            .map(|_| ())
            .unwrap_err();
        assert_eq!(denied, Denied::NoPeer);
    }

    #[test]
    fn before_the_folder_is_open_callers_are_told_to_wait() {
        let gate = gate();
        let peer = "127.0.0.1:9".parse().unwrap();
        let admitted = gate
            .admit_peer(peer, Action::Describe, Resource::Server)
            .unwrap();
        assert_eq!(admitted.broker().map(|_| ()).unwrap_err(), Denied::Starting);
        gate.stop();
        assert_eq!(admitted.broker().map(|_| ()).unwrap_err(), Denied::Stopping);
        let refusal = Refusal::from(Denied::Stopping);
        assert_eq!(refusal.code, Code::TooManyRequests);
    }

    #[test]
    fn strangers_are_refused_on_both_kinds_of_wire() {
        let peer = "10.0.0.1:9".parse().unwrap();
        let denied = gate()
            .admit_peer(peer, Action::Publish, Resource::Topic("t"))
            .map(|_| ())
            .unwrap_err();
        assert_eq!(Refusal::from(denied.clone()).code, Code::Unauthorized);
        assert_eq!(
            tonic::Status::from(denied).code(),
            tonic::Code::PermissionDenied
        );
    }
}
