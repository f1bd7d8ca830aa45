//! Clients that the server knows: what they said in their settings, and when they were last heard.
//!
//! Bounded by [`limits::CLIENTS_MAX`]; a client without a call for [`limits::CLIENT_EXPIRY_MS`] is
//! forgotten when room is needed or a while has passed. One whose stream of commands has ended is gone earlier, after
//! [`limits::CLIENT_HUNG_UP_MS`]: that is what a process leaves that was killed; it is kept until it is parted with.
//! Forgetting is harmless: calls of a client without settings get defaults.

use std::collections::BTreeMap;
use std::sync::Mutex;

use millpond_proto::limits;
use millpond_proto::time::Timestamp;
use millpond_proto::wire::rocketmq::Code;
use tonic::metadata::MetadataMap;

use crate::service::code::Refusal;
use crate::service::time::millis;

/// Longest client id.
const CLIENT_ID_BYTES_MAX: usize = 1024;
/// Timeout of ordinary calls when the client does not say.
pub const REQUEST_TIMEOUT_MS_DEFAULT: i64 = 3_000;

/// What the server keeps of a client's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Timeout of its ordinary calls.
    pub request_timeout_ms: i64,
    /// Whether it is a push consumer: the client works the messages off by itself.
    pub is_push: bool,
    /// Whether it is a consumer of lite topics; none: it has not said what it is.
    pub is_lite: Option<bool>,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            request_timeout_ms: REQUEST_TIMEOUT_MS_DEFAULT,
            is_push: false,
            is_lite: None,
        }
    }
}

/// The clients of this server, by id.
#[derive(Debug, Default)]
pub struct Clients(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    clients: BTreeMap<String, Seen>,
    swept_at: Timestamp,
}

/// A client, and when it was heard last.
#[derive(Clone, Copy, Debug)]
struct Seen {
    client: Client,
    heard: Timestamp,
    /// Whether its stream of commands has ended since.
    hung_up: bool,
}

impl Seen {
    fn lives(&self, now: Timestamp) -> bool {
        let silent = if self.hung_up {
            limits::CLIENT_HUNG_UP_MS
        } else {
            limits::CLIENT_EXPIRY_MS
        };
        now.since(self.heard) <= millis(silent)
    }

    fn is_gone(&self, now: Timestamp) -> bool {
        self.hung_up && !self.lives(now)
    }
}

impl Clients {
    /// Remembers a client's settings.
    ///
    /// # Errors
    /// `TOO_MANY_REQUESTS` when there are too many clients.
    ///
    /// # Panics
    /// When a holder of the lock has panicked, which is a bug here.
    pub fn remember(&self, id: &str, client: Client, now: Timestamp) -> Result<(), Refusal> {
        let mut known = self.0.lock().expect("no holder panics");
        let full = known.clients.len() >= limits::CLIENTS_MAX;
        let expiry = millis(limits::CLIENT_EXPIRY_MS);
        if now.since(known.swept_at) > expiry || (full && now > known.swept_at) {
            // Who hung up is kept until it is parted with: its messages would wait for their time otherwise.
            known
                .clients
                .retain(|_, seen| seen.hung_up || seen.lives(now));
            known.swept_at = now;
        }
        if known.clients.len() >= limits::CLIENTS_MAX && !known.clients.contains_key(id) {
            return Err(Refusal::new(
                Code::TooManyRequests,
                format!(
                    "{} clients are connected, which is the limit; close some or try again later",
                    limits::CLIENTS_MAX
                ),
            ));
        }
        let seen = Seen {
            client,
            heard: now,
            hung_up: false,
        };
        known.clients.insert(id.to_owned(), seen);
        Ok(())
    }

    /// Notes that a client called, and tells what is known of it.
    ///
    /// # Panics
    /// When a holder of the lock has panicked, which is a bug here.
    pub fn heard(&self, id: &str, now: Timestamp) -> Option<Client> {
        let mut known = self.0.lock().expect("no holder panics");
        let seen = known.clients.get_mut(id)?;
        (seen.heard, seen.hung_up) = (now, false);
        Some(seen.client)
    }

    /// Notes that a client's stream of commands has ended; whatever is heard of it later says that it lives.
    ///
    /// # Panics
    /// When a holder of the lock has panicked, which is a bug here.
    pub fn hung_up(&self, id: &str) {
        let mut known = self.0.lock().expect("no holder panics");
        if let Some(seen) = known.clients.get_mut(id) {
            seen.hung_up = true;
        }
    }

    /// The clients that hung up and have been silent ever since; whoever asks lets go what they hold.
    ///
    /// # Panics
    /// When a holder of the lock has panicked, which is a bug here.
    #[must_use]
    pub fn gone(&self, now: Timestamp) -> Vec<String> {
        let known = self.0.lock().expect("no holder panics");
        let clients = known.clients.iter();
        let gone = clients.filter(|(_, seen)| seen.is_gone(now));
        gone.map(|(id, _)| id.clone()).collect()
    }

    /// Whether a client is one of [`Clients::gone`] still.
    ///
    /// # Panics
    /// When a holder of the lock has panicked, which is a bug here.
    #[must_use]
    pub fn is_gone(&self, id: &str, now: Timestamp) -> bool {
        let known = self.0.lock().expect("no holder panics");
        known.clients.get(id).is_some_and(|seen| seen.is_gone(now))
    }

    /// Notes that a client called; one that has not sent its settings is known by its defaults from now
    /// on, if there is room.
    pub fn beat(&self, id: &str, now: Timestamp) {
        if self.heard(id, now).is_none() {
            // Over the bound it stays unknown, which costs it nothing but the renewal of its leases.
            let _ = self.remember(id, Client::default(), now);
        }
    }

    /// Whether a client was heard of lately.
    ///
    /// # Panics
    /// When a holder of the lock has panicked, which is a bug here.
    #[must_use]
    pub fn lives(&self, id: &str, now: Timestamp) -> bool {
        let known = self.0.lock().expect("no holder panics");
        known.clients.get(id).is_some_and(|seen| seen.lives(now))
    }

    /// Forgets a client.
    ///
    /// # Panics
    /// When a holder of the lock has panicked, which is a bug here.
    pub fn forget(&self, id: &str) {
        self.0.lock().expect("no holder panics").clients.remove(id);
    }

    /// How many are known.
    ///
    /// # Panics
    /// When a holder of the lock has panicked, which is a bug here.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.lock().expect("no holder panics").clients.len()
    }
}

/// The client's id, which every call must carry.
///
/// # Errors
/// `CLIENT_ID_REQUIRED` without one.
pub fn client_id(metadata: &MetadataMap) -> Result<&str, Refusal> {
    let id = metadata
        .get("x-mq-client-id")
        .and_then(|id| id.to_str().ok())
        .unwrap_or("");
    if id.trim().is_empty() || id.len() > CLIENT_ID_BYTES_MAX {
        return Err(Refusal::new(
            Code::ClientIdRequired,
            format!("set the header x-mq-client-id to 1 to {CLIENT_ID_BYTES_MAX} characters"),
        ));
    }
    Ok(id)
}

/// The version of the client's SDK, empty when it does not say.
#[must_use]
pub fn client_version(metadata: &MetadataMap) -> &str {
    metadata
        .get("x-mq-client-version")
        .and_then(|text| text.to_str().ok())
        .unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_known_until_it_ends_or_falls_silent() {
        let clients = Clients::default();
        let at = |s: i64| Timestamp(1_700_000_000_000 + s * 1000);
        let client = Client {
            request_timeout_ms: 5000,
            is_push: false,
            is_lite: None,
        };
        clients.remember("a", client, at(0)).unwrap();
        clients.remember("b", client, at(0)).unwrap();
        assert_eq!(clients.heard("a", at(100)), Some(client));
        clients.remember("c", client, at(200)).unwrap();
        assert_eq!(clients.heard("b", at(200)), None);
        assert!(clients.lives("a", at(220)) && !clients.lives("a", at(221)));
        assert!(!clients.lives("b", at(200)));
        assert_eq!(clients.count(), 2);
        clients.forget("a");
        assert_eq!(clients.heard("a", at(201)), None);
    }

    #[test]
    fn a_client_that_hangs_up_and_is_not_heard_again_is_gone_early() {
        let clients = Clients::default();
        let at = |ms: i64| Timestamp(1_700_000_000_000 + ms);
        for id in ["dead", "moved", "quiet"] {
            clients.remember(id, Client::default(), at(0)).unwrap();
        }
        clients.hung_up("dead");
        clients.hung_up("moved");
        clients.hung_up("never heard of");
        clients.beat("moved", at(1));
        let late = limits::CLIENT_HUNG_UP_MS;
        assert!(clients.lives("dead", at(late)) && clients.gone(at(late)).is_empty());
        assert!(!clients.lives("dead", at(late + 1)));
        assert_eq!(clients.gone(at(late + 1)), ["dead"]);
        assert!(clients.lives("moved", at(late + 2)) && clients.lives("quiet", at(late + 2)));
    }

    #[test]
    fn a_client_that_hung_up_is_kept_until_it_is_parted_with() {
        let clients = Clients::default();
        let at = |s: i64| Timestamp(1_700_000_000_000 + s * 1000);
        clients.remember("dead", Client::default(), at(0)).unwrap();
        clients.hung_up("dead");
        clients
            .remember("other", Client::default(), at(121))
            .unwrap();
        assert_eq!(clients.gone(at(121)), ["dead"]);
        // One that calls between is none of them any more.
        clients.beat("dead", at(122));
        assert!(!clients.is_gone("dead", at(122)));
    }

    #[test]
    fn a_call_without_client_id_is_refused() {
        let mut metadata = MetadataMap::new();
        assert_eq!(
            client_id(&metadata).unwrap_err().code,
            Code::ClientIdRequired
        );
        metadata.insert("x-mq-client-id", "  ".parse().unwrap());
        assert_eq!(
            client_id(&metadata).unwrap_err().code,
            Code::ClientIdRequired
        );
        metadata.insert("x-mq-client-id", "host@1@2".parse().unwrap());
        assert_eq!(client_id(&metadata).unwrap(), "host@1@2");
    }
}
