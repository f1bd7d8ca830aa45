//! The server: both ports, the broker behind them, and an orderly end.
//!
//! Order of the start: take the ports (so that a taken one fails at once), listen, open the data folder,
//! start SQL and its jobs, then open the gate. Calls that come earlier are told to try again. Order of
//! the end: shut the gate (waiting polls end empty, telemetry streams end), stop accepting, let calls
//! finish for a while, cut what is left, close the broker.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _, Shared};
use millpond_proto::limits;
use millpond_proto::remedy::Remedy;
use millpond_proto::task::{Lane, Spawn, Task};
use millpond_proto::time::{Clock, SteadyClock, within};
use millpond_proto::wire::DESCRIPTORS;
use millpond_proto::wire::admin::admin_server::AdminServer;
use millpond_proto::wire::rocketmq::messaging_service_server::MessagingServiceServer;
use millpond_sql::error::SqlError;
use millpond_sql::job::runtime::{JobParts, Jobs};
use millpond_sql::job::undivided::Undivided;
use millpond_sql::sql::{Sql, SqlParts};
use millpond_storage::error::OpenError;
use millpond_storage::log::COLD_DEFAULT;
use millpond_storage::log::folder::cold_of;
use millpond_storage::metrics::Metrics;
use millpond_storage::tier::objects::DiskObjectStore;
use millpond_storage::tier::probe::{ProbeError, probe};
use object_store::ObjectStore;
use tokio::sync::oneshot;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::authorize::Policy;
use crate::broker::Broker;
use crate::config::{Checked, Config, ConfigError};
use crate::net::{Listener, Network};
use crate::parts::Parts;
use crate::process;
use crate::service::admin::Administration;
use crate::service::front::Front;
use crate::service::gate::{Gate, Open};
use crate::service::http::{Pages, router};
use crate::service::messaging::Messaging;
use crate::service::statements::Database;
use crate::tls::{Cut, Door, TlsError, self_signed};

/// Folder of the state of continuous queries, below the data folder.
const STATE: &str = "state";
/// Folder that `COPY … TO` writes to, below the data folder.
const EXPORT: &str = "export";
/// How long calls may take to finish once the server stops.
const FINISH_LIMIT: Duration = Duration::from_secs(10);
/// Of how many parts of the open files that there may be for connections the ports get how many.
const SHARES: u64 = 4;
const GRPC_SHARE: u64 = 3;
const HTTP_SHARE: u64 = 1;
/// Calls that a client may give up before they are looked at; the default of 20 breaks off clients that
/// cancel a burst of polls.
const PENDING_RESETS_MAX: usize = 1024;
/// How often a silent connection is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// How long it may take to answer that.
const KEEPALIVE_LIMIT: Duration = Duration::from_secs(20);
/// Bytes in flight per call and per connection.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// Most bytes that a client may send in one piece: a batch comes in one or two, not in one for each 16 KiB.
const FRAME_BYTES_MAX: u32 = 128 * 1024;

/// Why the server did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The configuration must not be served.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Someone else has the port.
    #[error("{address} is in use by another process; stop that one, or choose another with {flag}")]
    PortInUse {
        /// The address.
        address: SocketAddr,
        /// The flag that sets it.
        flag: &'static str,
    },
    /// The address can not be listened on.
    #[error("could not listen on {address}; choose an address of this machine with {flag}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The flag that sets it.
        flag: &'static str,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// TLS could not be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The contracts could not be read for reflection.
    #[error("could not set up gRPC reflection; please report this")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The data folder could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The cold tier is not fit for it.
    #[error(transparent)]
    Cold(#[from] ProbeError),
    /// SQL could not be set up.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// A part of the server ended by itself.
    #[error("the {what} ended unexpectedly; see the log, and please report it")]
    Ended {
        /// Which part.
        what: &'static str,
    },
}

impl ServeError {
    /// What to do next.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Config(error) => error.remedy(),
            Self::PortInUse { .. } | Self::Bind { .. } => Remedy::FixRequest,
            Self::Open(error) => error.remedy(),
            Self::Cold(error) => error.remedy(),
            Self::Sql(error) => error.remedy(),
            Self::Tls(_) | Self::Reflection(_) | Self::Ended { .. } => Remedy::Bug,
        }
    }
}

/// The server as a whole.
#[derive(Clone, Copy, Debug)]
pub struct Server;

/// Two ports that were taken and are not served yet.
struct Bound {
    grpc: Box<dyn Listener>,
    http: Box<dyn Listener>,
}

/// A server that listens; dropping it cuts every connection without closing the broker.
#[derive(Debug)]
pub struct Running {
    /// Where gRPC listens.
    pub grpc_addr: SocketAddr,
    /// Where HTTP listens.
    pub http_addr: SocketAddr,
    /// The broker.
    pub broker: Arc<Broker>,
    jobs: Arc<Jobs>,
    listening: Listening,
}

/// Both ports being served.
#[derive(Debug)]
struct Listening {
    gate: Arc<Gate>,
    health: HealthReporter,
    clock: Arc<dyn Clock>,
    cut: Cut,
    stop: Option<oneshot::Sender<()>>,
    grpc: Task,
    http: Task,
    /// Renews leases; ends by itself when the gate shuts.
    _renewal: Task,
    /// Asks about open transactions; ends by itself when the gate shuts.
    _checks: Task,
    grpc_addr: SocketAddr,
    http_addr: SocketAddr,
}

impl Server {
    /// Starts a server and returns once it serves calls.
    ///
    /// # Errors
    /// [`ServeError`]; nothing is left running.
    pub async fn start(config: Config, parts: Parts) -> Result<Running, ServeError> {
        let config = config.check()?;
        let bound = bind(&config, parts.network.as_ref()).await?;
        let spawn = Arc::clone(&parts.storage.spawn);
        // The machine's clock may be set while we run; deadlines and leases must not wait for it.
        let clock: Arc<dyn Clock> = Arc::new(SteadyClock::over(parts.storage.clock));
        let storage = millpond_storage::log::Parts {
            clock: Arc::clone(&clock),
            ..parts.storage
        };
        let (storage, metrics) = Metrics::watch(storage);
        let listening = Listening::begin(&config, bound, clock, spawn, metrics).await?;
        match open(&config, storage).await {
            Ok((open, jobs)) => {
                let broker = Arc::clone(&open.broker);
                listening.open(open).await;
                Ok(Running {
                    grpc_addr: listening.grpc_addr,
                    http_addr: listening.http_addr,
                    broker,
                    jobs,
                    listening,
                })
            }
            Err(error) => {
                listening.end().await;
                Err(error)
            }
        }
    }
}

impl Running {
    /// Serves until `shutdown` resolves, then ends in order.
    ///
    /// # Errors
    /// [`ServeError::Ended`] when a part of the server ended by itself.
    pub async fn until(mut self, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
        let ended = tokio::select! {
            biased;
            () = shutdown => None,
            what = self.listening.ended() => Some(what),
        };
        self.stop().await;
        ended.map_or(Ok(()), |what| Err(ServeError::Ended { what }))
    }

    /// Ends in order; returns once the broker is closed.
    pub async fn stop(self) {
        self.listening.end().await;
        self.jobs.stop().await;
        self.broker.close().await;
    }
}

/// The broker and SQL over one data folder.
async fn open(
    config: &Checked,
    parts: millpond_storage::log::Parts,
) -> Result<(Open, Arc<Jobs>), ServeError> {
    let folder = |name| -> Arc<dyn ObjectStore> {
        Arc::new(DiskObjectStore::new(Arc::clone(&parts.disk), name))
    };
    let (clock, spawn) = (Arc::clone(&parts.clock), Arc::clone(&parts.spawn));
    let (state, export) = (folder(STATE), folder(EXPORT));
    if config.storage.cold != COLD_DEFAULT {
        // Our own store in the data folder keeps its word.
        let name = &config.storage.cold;
        match probe(&*parts.objects, &*parts.chance, name).await {
            // It was fit when it was first tried, and a server that restarts must not wait for it.
            Err(error) if error.is_outage() && cold_of(&*parts.disk)?.as_ref() == Some(name) => {
                tracing::warn!(
                    error = crate::service::code::explain(&error),
                    "starting without the cold tier"
                );
            }
            probed => probed?,
        }
    }
    let broker = Broker::start(parts, config.storage.clone()).await?;
    let parts = JobParts {
        topics: Arc::clone(&broker) as _,
        clock,
        spawn: Arc::clone(&spawn),
        state,
    };
    let jobs = Jobs::start(parts.clone());
    let changes = Undivided::new(Arc::clone(&jobs) as _, spawn);
    let sql = Sql::new(SqlParts::beside(Arc::new(changes), parts, export))?;
    let sql = Arc::new(Database::new(Arc::new(sql)));
    let makes_on_first_use = config.makes_on_first_use();
    let open = Open {
        broker,
        sql,
        makes_on_first_use,
    };
    Ok((open, jobs))
}

async fn bind(config: &Checked, network: &dyn Network) -> Result<Bound, ServeError> {
    Ok(Bound {
        grpc: bind_one(network, config.grpc, "--grpc").await?,
        http: bind_one(network, config.http, "--http").await?,
    })
}

async fn bind_one(
    network: &dyn Network,
    address: SocketAddr,
    flag: &'static str,
) -> Result<Box<dyn Listener>, ServeError> {
    network.bind(address).await.map_err(|source| {
        if source.kind() == io::ErrorKind::AddrInUse {
            ServeError::PortInUse { address, flag }
        } else {
            ServeError::Bind {
                address,
                flag,
                source,
            }
        }
    })
}

impl Listening {
    async fn begin(
        config: &Checked,
        bound: Bound,
        clock: Arc<dyn Clock>,
        spawn: Arc<dyn Spawn>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ServeError> {
        let policy = Policy {
            insecure: config.insecure,
        };
        let gate = Arc::new(Gate::new(policy, Arc::clone(&clock)));
        let (grpc_addr, http_addr) = (bound.grpc.address(), bound.http.address());
        let cut = Cut::default();
        let (stop, stopped) = oneshot::channel();
        // A dropped sender means the same as a sent word: stop.
        let stopped = stopped.map(|_| ()).boxed().shared();

        let messaging = Messaging::new(Arc::clone(&gate), &grpc_addr.to_string());
        let renewal = messaging.renewal().boxed();
        let checks = messaging.checks().boxed();
        let (health, front) = grpc_front(&gate, Arc::clone(&spawn), messaging).await?;
        let names = vec!["localhost".to_owned(), grpc_addr.ip().to_string()];
        let tls = self_signed(names)?;
        let files_max = process::files_max();
        let connections = |share| connections_max(files_max, share);
        let door = Door::http2(bound.grpc, Some(tls), Arc::clone(&clock), cut.clone())
            .at_most(connections(GRPC_SHARE));
        let grpc = serve_grpc(front, door, stopped.clone());

        let pages = Pages {
            gate: Arc::clone(&gate),
            grpc: grpc_addr,
            http: http_addr,
            metrics,
        };
        let door = Door::http1(bound.http, Arc::clone(&clock), cut.clone())
            .at_most(connections(HTTP_SHARE));
        let http = serve_http(pages, door, stopped);

        Ok(Self {
            gate,
            health,
            clock,
            cut,
            stop: Some(stop),
            grpc: spawn.spawn(Lane::Service, grpc),
            http: spawn.spawn(Lane::Service, http),
            _renewal: spawn.spawn(Lane::Service, renewal),
            _checks: spawn.spawn(Lane::Service, checks),
            grpc_addr,
            http_addr,
        })
    }

    async fn open(&self, open: Open) {
        self.gate.open(open);
        set_health(&self.health, ServingStatus::Serving).await;
    }

    /// Resolves to the name of a part that ended by itself.
    async fn ended(&mut self) -> &'static str {
        tokio::select! {
            _ = &mut self.grpc => "gRPC server",
            _ = &mut self.http => "HTTP server",
        }
    }

    /// Stops accepting, lets calls finish for a while, then cuts what is left.
    async fn end(mut self) {
        self.gate.stop();
        set_health(&self.health, ServingStatus::NotServing).await;
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        let (grpc, http) = (&mut self.grpc, &mut self.http);
        let done = async {
            for (what, task) in [("gRPC server", grpc), ("HTTP server", http)] {
                if !task.is_finished()
                    && let Err(error) = task.await
                {
                    tracing::error!(%error, what, "ended badly");
                }
            }
        };
        if within(self.clock.as_ref(), FINISH_LIMIT, done)
            .await
            .is_none()
        {
            tracing::warn!("calls did not finish in time and are cut");
        }
        self.cut.now();
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.gate.stop();
        self.cut.now();
    }
}

type Stopped = Shared<BoxFuture<'static, ()>>;

/// Messages at hand, the other services behind a router.
type GrpcFront = Front<MessagingServiceServer<Messaging>>;

fn serve_grpc(front: GrpcFront, door: Door, stopped: Stopped) -> BoxFuture<'static, ()> {
    let server = tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_concurrent_streams(limits::STREAMS_PER_CONNECTION)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_LIMIT))
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX));
    async move {
        let served = server
            .serve_with_incoming_shutdown(front, Box::pin(door.into_stream()), stopped)
            .await;
        if let Err(error) = served {
            tracing::error!(
                error = crate::service::code::explain(&error),
                "gRPC server failed"
            );
        }
    }
    .boxed()
}

fn serve_http(pages: Pages, door: Door, stopped: Stopped) -> BoxFuture<'static, ()> {
    async move {
        let make = router(pages).into_make_service_with_connect_info::<crate::tls::Peer>();
        let served = axum::serve(door, make)
            .with_graceful_shutdown(stopped)
            .await;
        if let Err(error) = served {
            tracing::error!(%error, "HTTP server failed");
        }
    }
    .boxed()
}

/// How many connections a port serves at once: its share of the files that may be open, less those of the log, without
/// which the server would stop.
fn connections_max(files_max: Option<u64>, share: u64) -> usize {
    let Some(files_max) = files_max else {
        return limits::CONNECTIONS_MAX;
    };
    let left = files_max.saturating_sub(limits::FILES_RESERVED);
    let connections = (left / SHARES).max(1).saturating_mul(share);
    usize::try_from(connections)
        .unwrap_or(usize::MAX)
        .min(limits::CONNECTIONS_MAX)
}

async fn grpc_front(
    gate: &Arc<Gate>,
    spawn: Arc<dyn Spawn>,
    messaging: Messaging,
) -> Result<(HealthReporter, GrpcFront), ServeError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    set_health(&health, ServingStatus::NotServing).await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let messaging =
        MessagingServiceServer::new(messaging).max_decoding_message_size(limits::REQUEST_BYTES_MAX);
    let admin = AdminServer::new(Administration::new(Arc::clone(gate), spawn))
        .max_decoding_message_size(limits::REQUEST_BYTES_MAX);
    let others = Routes::new(admin)
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .prepare();
    Ok((health, Front::new(messaging, others)))
}

/// The whole server and both services stand and fall together.
async fn set_health(health: &HealthReporter, status: ServingStatus) {
    for service in [
        "",
        "apache.rocketmq.v2.MessagingService",
        "millpond.v1.Admin",
    ] {
        health.set_service_status(service, status).await;
    }
}

#[cfg(test)]
mod tests;
