//! The network as a part that is passed in: addresses to listen on, connections with a peer.
//!
//! [`TcpNetwork`] is real. [`MemoryNetwork`] joins both ends in one process, for tests and the
//! simulation. TLS is not the network's business; see [`crate::tls`].

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::sync::mpsc;

/// Bytes that an in-memory connection holds in each direction.
const MEMORY_PIPE_BYTES: usize = 256 * 1024;
/// In-memory connections that may wait to be accepted.
const MEMORY_BACKLOG: usize = 1024;
/// First port that an in-memory listener gets when it asks for any.
const MEMORY_PORT_FIRST: u16 = 40_000;

/// Bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection that was just accepted.
pub struct Accepted {
    /// Its bytes.
    pub io: Box<dyn Duplex>,
    /// The other end.
    pub peer: SocketAddr,
}

impl fmt::Debug for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accepted")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// A bound address.
#[async_trait]
pub trait Listener: Send + fmt::Debug {
    /// Waits for the next connection. May be dropped and called again without losing one.
    ///
    /// # Errors
    /// What the operating system says; the listener can be asked again.
    async fn accept(&mut self) -> io::Result<Accepted>;

    /// The address, with the port that was really taken.
    fn address(&self) -> SocketAddr;
}

/// Where connections come from.
#[async_trait]
pub trait Network: Send + Sync + fmt::Debug {
    /// Takes an address; port 0 takes any free port.
    ///
    /// # Errors
    /// What the operating system says; `AddrInUse` when someone else has it.
    async fn bind(&self, address: SocketAddr) -> io::Result<Box<dyn Listener>>;
}

/// The machine's network.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpNetwork;

#[derive(Debug)]
struct TcpDoor {
    listener: tokio::net::TcpListener,
    address: SocketAddr,
}

#[async_trait]
impl Network for TcpNetwork {
    async fn bind(&self, address: SocketAddr) -> io::Result<Box<dyn Listener>> {
        let listener = tokio::net::TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Box::new(TcpDoor { listener, address }))
    }
}

#[async_trait]
impl Listener for TcpDoor {
    async fn accept(&mut self) -> io::Result<Accepted> {
        let (stream, peer) = self.listener.accept().await?;
        // Answers are small and awaited: waiting to fill a packet would only delay them.
        stream.set_nodelay(true)?;
        Ok(Accepted {
            io: Box::new(stream),
            peer,
        })
    }

    fn address(&self) -> SocketAddr {
        self.address
    }
}

/// A network inside this process.
#[derive(Clone, Debug, Default)]
pub struct MemoryNetwork {
    doors: Arc<Mutex<Doors>>,
}

#[derive(Debug, Default)]
struct Doors {
    open: BTreeMap<SocketAddr, mpsc::Sender<Accepted>>,
    ports_given: u16,
}

#[derive(Debug)]
struct MemoryDoor {
    arrivals: mpsc::Receiver<Accepted>,
    address: SocketAddr,
}

impl MemoryNetwork {
    /// Connects to a bound address, as coming from `peer`.
    ///
    /// # Errors
    /// `ConnectionRefused` when nobody listens there, or when too many wait to be accepted.
    ///
    /// # Panics
    /// When a holder of the lock has panicked, which is a bug here.
    pub fn connect(&self, to: SocketAddr, peer: SocketAddr) -> io::Result<DuplexStream> {
        let doors = self.doors.lock().expect("no holder panics");
        let door = doors
            .open
            .get(&to)
            .ok_or(io::ErrorKind::ConnectionRefused)?;
        let (ours, theirs) = tokio::io::duplex(MEMORY_PIPE_BYTES);
        let arrival = Accepted {
            io: Box::new(theirs),
            peer,
        };
        match door.try_send(arrival) {
            Ok(()) => Ok(ours),
            Err(_) => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }
}

#[async_trait]
impl Network for MemoryNetwork {
    async fn bind(&self, mut address: SocketAddr) -> io::Result<Box<dyn Listener>> {
        let mut doors = self.doors.lock().expect("no holder panics");
        doors.open.retain(|_, door| !door.is_closed());
        if address.port() == 0 {
            let port = MEMORY_PORT_FIRST
                .checked_add(doors.ports_given)
                .ok_or(io::ErrorKind::AddrInUse)?;
            doors.ports_given += 1;
            address.set_port(port);
        }
        if doors.open.contains_key(&address) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let (door, arrivals) = mpsc::channel(MEMORY_BACKLOG);
        doors.open.insert(address, door);
        Ok(Box::new(MemoryDoor { arrivals, address }))
    }
}

#[async_trait]
impl Listener for MemoryDoor {
    async fn accept(&mut self) -> io::Result<Accepted> {
        match self.arrivals.recv().await {
            Some(accepted) => Ok(accepted),
            // The network itself is gone: nobody can come any more.
            None => std::future::pending().await,
        }
    }

    fn address(&self) -> SocketAddr {
        self.address
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const ANY: &str = "127.0.0.1:0";

    #[tokio::test]
    async fn both_ends_of_memory_meet() {
        let network = MemoryNetwork::default();
        let mut listener = network.bind(ANY.parse().unwrap()).await.unwrap();
        let peer = "10.1.1.1:7".parse().unwrap();
        let mut ours = network.connect(listener.address(), peer).unwrap();
        let mut theirs = listener.accept().await.unwrap();
        assert_eq!(theirs.peer, peer);
        ours.write_all(b"hello").await.unwrap();
        let mut got = [0; 5];
        theirs.io.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hello");
    }

    #[tokio::test]
    async fn an_address_is_taken_once_and_free_again_after_its_listener() {
        let network = MemoryNetwork::default();
        let listener = network.bind(ANY.parse().unwrap()).await.unwrap();
        let address = listener.address();
        let error = network.bind(address).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        let refused = network.connect(address, address).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert!(network.bind(address).await.is_ok());
    }
}
