//! One connection to a server, and who we say that we are on it.

use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::chance::{Chance, Entropy};
use crate::client::error::ClientError;
use crate::limits;
use crate::time::{self, Clock, SystemClock, Timestamp};
use crate::wire::admin::admin_client::AdminClient;
use crate::wire::rocketmq::messaging_service_client::MessagingServiceClient;

/// A dial that takes longer than this has nobody at its other end.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection with calls on it that says nothing for this long is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// One that does not answer that for this long is given up, and with it its calls.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Seconds from 1970 to 2021-01-01 00:00 UTC, where message ids start to count.
const MESSAGE_ID_EPOCH_S: i64 = 1_609_459_200;

/// A connection to one server; cheap to clone, all clones share the connection.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    address: Arc<str>,
    identity: Arc<Identity>,
}

/// Who we are: the client id on every call, and the start of every message id.
struct Identity {
    client_id: MetadataValue<Ascii>,
    clock: Arc<dyn Clock>,
    chance: Arc<dyn Chance>,
    /// Stands where other clients put MAC address and process id.
    origin: [u8; 8],
    counter: AtomicU32,
}

pub(crate) type Messaging = MessagingServiceClient<InterceptedService<Channel, Headers>>;

/// Adds the headers that every RocketMQ client sends.
#[derive(Clone)]
pub(crate) struct Headers(Arc<Identity>);

impl Client {
    /// Names a server, for example `http://127.0.0.1:8081` or `127.0.0.1:8081`; dials on first use.
    ///
    /// Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`ClientError::Address`] when `endpoint` is not an address.
    pub fn connect(endpoint: &str) -> Result<Self, ClientError> {
        Self::connect_with(endpoint, Arc::new(SystemClock), Arc::new(Entropy))
    }

    /// As [`Client::connect`], with time and chance passed in.
    ///
    /// # Errors
    /// [`ClientError::Address`] when `endpoint` is not an address.
    pub fn connect_with(
        endpoint: &str,
        clock: Arc<dyn Clock>,
        chance: Arc<dyn Chance>,
    ) -> Result<Self, ClientError> {
        let wrong = || ClientError::Address {
            endpoint: endpoint.to_owned(),
        };
        let with_scheme = if endpoint.contains("://") {
            endpoint.to_owned()
        } else {
            format!("http://{endpoint}")
        };
        let dial = Endpoint::from_shared(with_scheme).map_err(|_| wrong())?;
        let uri = dial.uri();
        let address = match (uri.scheme_str(), uri.authority()) {
            (Some("http"), Some(authority)) if uri.path() == "/" => authority.to_string(),
            _ => return Err(wrong()),
        };
        let channel = dial
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .connect_lazy();
        Ok(Self {
            channel,
            address: Arc::from(address),
            identity: Arc::new(Identity::new(clock, chance)),
        })
    }

    /// Host and port, as dialled.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Now, by this client's clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.identity.clock.now()
    }

    /// What a call gives, unless that takes longer than `limit`; its outcome is then unknown.
    ///
    /// The timeout that goes with a request ends when an answer begins, which says nothing of its end.
    pub(crate) async fn within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        // A call is large, and would make all that wait for it so.
        match time::within(self.identity.clock.as_ref(), limit, Box::pin(call)).await {
            Some(answer) => answer,
            None => Err(ClientError::Status {
                code: Code::DeadlineExceeded,
                message: format!(
                    "{} did not answer within {limit:?}; try again",
                    self.address
                ),
            }),
        }
    }

    pub(crate) fn messaging(&self) -> Messaging {
        let headers = Headers(Arc::clone(&self.identity));
        MessagingServiceClient::with_interceptor(self.channel.clone(), headers)
            .max_decoding_message_size(limits::REQUEST_BYTES_MAX * 2)
    }

    pub(crate) fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel.clone())
            .max_decoding_message_size(limits::REQUEST_BYTES_MAX * 2)
    }

    /// A message id as RocketMQ 5 forms it (contract 12.3): 34 hex digits.
    pub(crate) fn next_message_id(&self) -> String {
        let seconds = self.now().as_ms().div_euclid(1000) - MESSAGE_ID_EPOCH_S;
        let count = self.identity.counter.fetch_add(1, Ordering::Relaxed);
        let mut id = String::with_capacity(34);
        id.push_str("01");
        for byte in self.identity.origin {
            let _ = write!(id, "{byte:02X}"); // Writing to a string can not fail.
        }
        let _ = write!(id, "{:08X}{count:08X}", seconds & 0xffff_ffff);
        id
    }

    pub(crate) fn status_error(&self, status: &Status) -> ClientError {
        ClientError::from_status(status, &self.address)
    }

    pub(crate) fn incomplete(&self, what: &'static str) -> ClientError {
        ClientError::Incomplete {
            what,
            address: self.address.to_string(),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("address", &self.address)
            .field("client_id", &self.identity.client_id)
            .finish_non_exhaustive()
    }
}

impl Identity {
    fn new(clock: Arc<dyn Clock>, chance: Arc<dyn Chance>) -> Self {
        let origin = chance.next_u64();
        let client_id = format!("millpond@{}@{origin:016x}", std::process::id());
        Self {
            client_id: MetadataValue::try_from(client_id).expect("hex digits are ASCII"),
            clock,
            chance,
            origin: origin.to_be_bytes(),
            counter: AtomicU32::new(0),
        }
    }
}

impl Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let request_id = format!("{:016x}", self.0.chance.next_u64());
        let request_id = MetadataValue::try_from(request_id).expect("hex digits are ASCII");
        let headers = request.metadata_mut();
        headers.insert("x-mq-client-id", self.0.client_id.clone());
        headers.insert("x-mq-language", MetadataValue::from_static("RUST"));
        headers.insert(
            "x-mq-client-version",
            MetadataValue::from_static(concat!("5.0.3-millpond-", env!("CARGO_PKG_VERSION"))),
        );
        headers.insert("x-mq-protocol", MetadataValue::from_static("v2"));
        headers.insert("x-mq-request-id", request_id);
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Seeded;
    use crate::time::SimulatedClock;

    fn client(endpoint: &str) -> Result<Client, ClientError> {
        let start = Timestamp((MESSAGE_ID_EPOCH_S + 16) * 1000);
        let clock = Arc::new(SimulatedClock::starting_at(start));
        Client::connect_with(endpoint, clock, Arc::new(Seeded::new(7)))
    }

    #[tokio::test]
    async fn an_address_may_leave_out_the_scheme() {
        assert_eq!(
            client("localhost:8081").unwrap().address(),
            "localhost:8081"
        );
        assert_eq!(client("http://[::1]:1").unwrap().address(), "[::1]:1");
    }

    #[tokio::test]
    async fn what_is_no_address_is_refused_with_an_example() {
        for wrong in ["", "a b", "ftp://x:1", "http://x:1/path"] {
            let error = client(wrong).unwrap_err();
            assert!(
                error.to_string().contains("http://127.0.0.1:8081"),
                "{wrong}"
            );
        }
    }

    #[tokio::test]
    async fn message_ids_have_34_digits_and_never_repeat() {
        let client = client("localhost:1").unwrap();
        let (first, second) = (client.next_message_id(), client.next_message_id());
        assert_eq!(first.len(), 34);
        assert!(
            first.starts_with("01") && first.ends_with("0000001000000000"),
            "{first}"
        );
        assert_ne!(first, second);
    }

    #[tokio::test]
    async fn a_port_without_listener_says_how_to_start_a_server() {
        // Port 1 (tcpmux) is refused at once wherever tests run.
        let client = Client::connect("http://127.0.0.1:1").unwrap();
        let error = client.admin_handle().list_topics().await.unwrap_err();
        assert!(
            matches!(error, ClientError::Unreachable { .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains("millpond serve --data DIR"));
    }
}
