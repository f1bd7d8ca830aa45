//! Who may do what: one question that every service asks before it touches anything.
//!
//! Today the answer depends on where the caller comes from: loopback may do everything, others only
//! when the server runs with `--insecure`. Users, groups and rules will change this file alone.
//! Services reach it through [`crate::service::gate`], which hands out the broker only after a yes.

use std::net::SocketAddr;

use millpond_proto::remedy::Remedy;

use crate::config::is_loopback;

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Address of the other end of the connection.
    pub peer: SocketAddr,
}

/// What a caller wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Store messages.
    Publish,
    /// Receive, acknowledge, change invisible times.
    Consume,
    /// Look at what there is, without messages.
    Describe,
    /// Read messages or rows without a consumer group.
    Read,
    /// Make, change or delete.
    Manage,
}

/// What a caller wants to do it to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource<'a> {
    /// A topic, by name.
    Topic(&'a str),
    /// A consumer group, by name.
    Group(&'a str),
    /// A continuous query, by name.
    Job(&'a str),
    /// The server as a whole: lists, statements, health.
    Server,
}

impl std::fmt::Display for Resource<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Topic(name) => write!(f, "topic {name:?}"),
            Self::Group(name) => write!(f, "consumer group {name:?}"),
            Self::Job(name) => write!(f, "job {name:?}"),
            Self::Server => f.write_str("this server"),
        }
    }
}

/// The rules that a server runs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Lets in whoever reaches a port.
    pub insecure: bool,
}

/// The answer no.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{action} of {resource} is refused to {peer}: only this machine may call until there is \
     authentication; connect through loopback, or start the server with --insecure"
)]
pub struct Refused {
    /// What was asked, in a word.
    pub action: &'static str,
    /// About what.
    pub resource: String,
    /// Who asked.
    pub peer: SocketAddr,
}

impl Refused {
    /// What to do next.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        Remedy::FixRequest
    }
}

impl Action {
    fn word(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Consume => "consume",
            Self::Describe => "describe",
            Self::Read => "read",
            Self::Manage => "manage",
        }
    }
}

impl Policy {
    /// Says whether `principal` may do `action` to `resource`.
    ///
    /// # Errors
    /// [`Refused`] says what was refused and how to be let in.
    pub fn authorize(
        self,
        principal: Principal,
        action: Action,
        resource: Resource<'_>,
    ) -> Result<(), Refused> {
        if self.insecure || is_loopback(principal.peer.ip()) {
            return Ok(());
        }
        Err(Refused {
            action: action.word(),
            resource: resource.to_string(),
            peer: principal.peer,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(peer: &str, insecure: bool) -> Result<(), Refused> {
        let peer = peer.parse().unwrap();
        Policy { insecure }.authorize(
            Principal { peer },
            Action::Publish,
            Resource::Topic("flights"),
        )
    }

    #[test]
    fn loopback_may_do_everything() {
        assert_eq!(ask("127.0.0.1:1", false), Ok(()));
        assert_eq!(ask("[::1]:1", false), Ok(()));
    }

    #[test]
    fn others_are_refused_unless_the_server_is_insecure() {
        let refused = ask("10.0.0.7:5", false).unwrap_err();
        assert!(refused.to_string().contains("publish of topic \"flights\""));
        assert_eq!(ask("10.0.0.7:5", true), Ok(()));
    }
}
