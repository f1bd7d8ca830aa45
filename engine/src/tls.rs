//! One port for TLS and plaintext: the first byte tells which.
//!
//! A TLS connection begins with a handshake record (0x16), an HTTP/2 one in the clear with `PRI`. The
//! certificate is self-signed and lives in memory only: clients that verify nothing (Java, Go, C# and
//! C++ by default) connect, and nothing is kept that could leak.
//!
//! Silent connections are let go after a while and never keep others from being accepted: at first by the time that the
//! first bytes may take ([`opening`]), later by HTTP/2's own pings, or by the time that the other port's may be idle.
//! As many are served as the system lets this process have open files, less those that the log needs.

mod idle;
mod opening;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, Stream, StreamExt as _};
use futures::task::AtomicWaker;
use millpond_proto::limits;
use millpond_proto::time::{Clock, within};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tonic::transport::server::Connected;

use crate::net::{Accepted, Duplex, Listener};
use crate::tls::idle::Idle;
use crate::tls::opening::{Opening, open};

/// Longest time from the accepted connection to its first words, behind a TLS handshake if there is one.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Connections that may be in their handshake at once.
const HANDSHAKES_MAX: usize = 1024;
/// How long a connection of HTTP/1 may be silent: longer than anybody waits between two looks at the metrics.
const IDLE_LIMIT: Duration = Duration::from_secs(300);
/// Pause after an accept that failed, for example because files ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No certificate.
    #[error("could not make a self-signed certificate; please report this")]
    Certificate(#[from] rcgen::Error),
    /// No configuration.
    #[error("could not set up TLS; please report this")]
    Rustls(#[from] rustls::Error),
}

/// Makes a certificate for these names and a configuration that speaks HTTP/2.
///
/// # Errors
/// [`TlsError`] when a name can not stand in a certificate.
pub fn self_signed(names: Vec<String>) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    let made = rcgen::generate_simple_self_signed(names)?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], PrivateKeyDer::Pkcs8(key))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Whether it speaks TLS.
    pub tls: bool,
}

/// Ends every connection that was accepted under it.
#[derive(Clone, Debug, Default)]
pub struct Cut(Arc<CutState>);

#[derive(Debug, Default)]
struct CutState {
    done: AtomicBool,
    readers: Mutex<Vec<Weak<AtomicWaker>>>,
}

impl Cut {
    /// Ends them; later ones end at once.
    ///
    /// # Panics
    /// When a holder of the lock has panicked, which is a bug here.
    pub fn now(&self) {
        self.0.done.store(true, Ordering::SeqCst);
        let readers = std::mem::take(&mut *self.0.readers.lock().expect("no holder panics"));
        for reader in readers.iter().filter_map(Weak::upgrade) {
            reader.wake();
        }
    }

    fn is_done(&self) -> bool {
        self.0.done.load(Ordering::SeqCst)
    }

    fn reader(&self) -> Arc<AtomicWaker> {
        let reader = Arc::new(AtomicWaker::new());
        let mut readers = self.0.readers.lock().expect("no holder panics");
        // Forget those that are gone, each time the list would have to grow.
        if readers.len() == readers.capacity() {
            readers.retain(|reader| reader.strong_count() > 0);
        }
        readers.push(Arc::downgrade(&reader));
        reader
    }
}

/// A connection ready to be served.
///
/// Answers that become ready together leave together: at the first write of a burst the connection lets other
/// tasks go first, whose answers then share a system call and a packet with the first one's.
pub struct Connection {
    io: Box<dyn Duplex>,
    /// Whether others had their turn since the last flush.
    gathered: bool,
    peer: Peer,
    cut: Cut,
    reader: Arc<AtomicWaker>,
    idle: Option<Idle>,
    _permit: OwnedSemaphorePermit,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// The other end.
    #[must_use]
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// Whether what is to be written may go; the first time after a flush others go first.
    fn gather(&mut self, cx: &Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.gathered, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Registering comes before looking, so that a cut in between wakes this task.
        self.reader.register(cx.waker());
        if self.cut.is_done() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let read = Pin::new(&mut self.io).poll_read(cx, buffer);
        match (&mut self.idle, &read) {
            (Some(idle), Poll::Pending) => {
                ready!(idle.poll_over(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            (Some(idle), Poll::Ready(_)) => {
                idle.stirred();
                read
            }
            (None, _) => read,
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.gather(cx));
        if let Some(idle) = &mut self.idle {
            idle.stirred();
        }
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.gathered = false;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.gather(cx));
        if let Some(idle) = &mut self.idle {
            idle.stirred();
        }
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// Accepts connections and takes them through their first bytes, many at a time.
pub struct Door {
    listener: Box<dyn Listener>,
    opening: Opening,
    clock: Arc<dyn Clock>,
    permits: Arc<Semaphore>,
    /// Whether it was told that there are as many connections as there may be.
    full_told: bool,
    cut: Cut,
    handshakes: FuturesUnordered<BoxFuture<'static, Option<Connection>>>,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door")
            .field("listener", &self.listener)
            .finish_non_exhaustive()
    }
}

impl Door {
    /// Serves HTTP/2 over TLS and in the clear with `tls`, in the clear alone without.
    #[must_use]
    pub fn http2(
        listener: Box<dyn Listener>,
        tls: Option<Arc<rustls::ServerConfig>>,
        clock: Arc<dyn Clock>,
        cut: Cut,
    ) -> Self {
        let opening = Opening::Http2(tls.map(TlsAcceptor::from));
        Self::new(listener, opening, clock, cut)
    }

    /// Serves HTTP/1 in the clear.
    #[must_use]
    pub fn http1(listener: Box<dyn Listener>, clock: Arc<dyn Clock>, cut: Cut) -> Self {
        Self::new(listener, Opening::Http1, clock, cut)
    }

    fn new(listener: Box<dyn Listener>, opening: Opening, clock: Arc<dyn Clock>, cut: Cut) -> Self {
        Self {
            listener,
            opening,
            clock,
            permits: Arc::new(Semaphore::new(limits::CONNECTIONS_MAX)),
            full_told: false,
            cut,
            handshakes: FuturesUnordered::new(),
        }
    }

    /// Serves no more than so many connections at once; more wait to be accepted.
    #[must_use]
    pub fn at_most(mut self, connections: usize) -> Self {
        let connections = connections.min(limits::CONNECTIONS_MAX);
        self.permits = Arc::new(Semaphore::new(connections));
        self
    }

    /// The address it stands at.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// The next connection that is ready to be served; never ends.
    pub async fn next(&mut self) -> Connection {
        loop {
            let room = self.handshakes.len() < HANDSHAKES_MAX;
            if room && self.permits.available_permits() == 0 && !self.full_told {
                self.full_told = true;
                tracing::warn!(
                    address = %self.address(),
                    "as many connections are open as the limit of open files allows, more wait; raise the hard one (ulimit -Hn)"
                );
            }
            tokio::select! {
                biased;
                Some(ready) = self.handshakes.next() => {
                    if let Some(connection) = ready {
                        return connection;
                    }
                }
                arrival = arrival(self.listener.as_mut(), &self.permits), if room => match arrival {
                    Ok((accepted, permit)) => self.begin(accepted, permit),
                    Err(error) => {
                        tracing::warn!(%error, address = %self.address(), "could not accept a connection");
                        self.clock.sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    /// All connections, as tonic wants them.
    pub fn into_stream(self) -> impl Stream<Item = io::Result<Connection>> + Send {
        futures::stream::unfold(self, |mut door| async move {
            let connection = door.next().await;
            Some((Ok(connection), door))
        })
    }

    fn begin(&self, accepted: Accepted, permit: OwnedSemaphorePermit) {
        let (opening, cut) = (self.opening.clone(), self.cut.clone());
        let clock = Arc::clone(&self.clock);
        let idles = matches!(opening, Opening::Http1);
        self.handshakes.push(Box::pin(async move {
            let address = accepted.peer;
            let opened = within(clock.as_ref(), HANDSHAKE_LIMIT, open(accepted, opening)).await;
            match opened {
                Some(Ok((io, peer))) => Some(Connection {
                    io,
                    gathered: false,
                    peer,
                    reader: cut.reader(),
                    cut,
                    idle: idles.then(|| Idle::new(clock, IDLE_LIMIT)),
                    _permit: permit,
                }),
                Some(Err(error)) => {
                    tracing::debug!(%error, peer = %address, "connection ended in its handshake");
                    None
                }
                None => {
                    tracing::debug!(peer = %address, "connection stayed silent and was let go");
                    None
                }
            }
        }));
    }
}

async fn arrival(
    listener: &mut dyn Listener,
    permits: &Arc<Semaphore>,
) -> io::Result<(Accepted, OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits)
        .acquire_owned()
        .await
        .expect("nobody closes the semaphore");
    Ok((listener.accept().await?, permit))
}

/// HTTP's way of accepting: the same door, without TLS.
impl axum::serve::Listener for Door {
    type Io = Connection;
    type Addr = Peer;

    async fn accept(&mut self) -> (Connection, Peer) {
        let connection = self.next().await;
        let peer = connection.peer();
        (connection, peer)
    }

    fn local_addr(&self) -> io::Result<Peer> {
        Ok(Peer {
            address: self.address(),
            tls: false,
        })
    }
}

impl axum::extract::connect_info::Connected<axum::serve::IncomingStream<'_, Door>> for Peer {
    fn connect_info(stream: axum::serve::IncomingStream<'_, Door>) -> Self {
        *stream.remote_addr()
    }
}

#[cfg(test)]
mod tests {
    use millpond_proto::time::{SimulatedClock, Timestamp};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::net::{MemoryNetwork, Network as _};
    use crate::tls::opening::PREFACE;

    async fn door(network: &MemoryNetwork) -> Door {
        let listener = network.bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let clock = Arc::new(SimulatedClock::starting_at(Timestamp(0)));
        let tls = self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        Door::http2(listener, Some(tls), clock, Cut::default())
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_keeps_nobody_out_and_is_let_go() {
        let network = MemoryNetwork::default();
        let mut door = door(&network).await;
        let (silent, talker) = ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
        let mut silent = network.connect(door.address(), silent).unwrap();
        let mut ours = network.connect(door.address(), talker).unwrap();
        ours.write_all(PREFACE).await.unwrap();
        let mut theirs = door.next().await;
        let plain = Peer {
            address: talker,
            tls: false,
        };
        assert_eq!(theirs.peer(), plain);
        let mut read = vec![0; PREFACE.len()];
        theirs.read_exact(&mut read).await.unwrap();
        assert_eq!(read, PREFACE, "what was looked at is given again");
        let mut byte = [0; 1];
        tokio::select! {
            connection = door.next() => panic!("nobody else came: {connection:?}"),
            end = silent.read(&mut byte) => assert_eq!(end.unwrap(), 0),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_cut_ends_connections_that_wait() {
        let network = MemoryNetwork::default();
        let mut door = door(&network).await;
        let peer = "10.0.0.1:1".parse().unwrap();
        let mut ours = network.connect(door.address(), peer).unwrap();
        ours.write_all(PREFACE).await.unwrap();
        let mut theirs = door.next().await;
        let cut = door.cut.clone();
        let mut bytes = [0; PREFACE.len()];
        theirs.read_exact(&mut bytes).await.unwrap();
        let (read, ()) = tokio::join!(theirs.read(&mut bytes), async { cut.now() });
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_in_the_middle_of_the_first_words_is_let_go() {
        let network = MemoryNetwork::default();
        let mut door = door(&network).await;
        let mut half = network
            .connect(door.address(), "10.0.0.1:1".parse().unwrap())
            .unwrap();
        half.write_all(&PREFACE[..5]).await.unwrap();
        let mut byte = [0; 1];
        tokio::select! {
            connection = door.next() => panic!("it has not said what it speaks: {connection:?}"),
            end = half.read(&mut byte) => assert_eq!(end.unwrap(), 0),
        }
        // Whoever speaks something else is passed on, to be refused by those who know.
        let mut other = network
            .connect(door.address(), "10.0.0.1:2".parse().unwrap())
            .unwrap();
        other.write_all(b"GET /").await.unwrap();
        let mut read = [0; 5];
        door.next().await.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"GET /");
    }

    #[tokio::test(start_paused = true)]
    async fn http_connections_that_say_nothing_are_let_go_at_once_or_later() {
        let network = MemoryNetwork::default();
        let listener = network.bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let clock = Arc::new(SimulatedClock::starting_at(Timestamp(0)));
        let mut door = Door::http1(
            listener,
            Arc::clone(&clock) as Arc<dyn Clock>,
            Cut::default(),
        );
        let connect = |port: u16| {
            let peer = SocketAddr::from(([10, 0, 0, 1], port));
            network.connect(door.address(), peer).unwrap()
        };
        let (mut silent, mut ours) = (connect(1), connect(2));
        ours.write_all(b"G").await.unwrap();
        let mut theirs = door.next().await;
        let mut byte = [0; 1];
        tokio::select! {
            connection = door.next() => panic!("nobody else came: {connection:?}"),
            end = silent.read(&mut byte) => assert_eq!(end.unwrap(), 0),
        }
        theirs.read_exact(&mut byte).await.unwrap();
        let began = clock.now();
        let error = theirs.read_exact(&mut byte).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(clock.now().since(began), IDLE_LIMIT);
    }
}
