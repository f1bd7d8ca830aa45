//! A network that misbehaves by seed: connections are slow, cut at any time, or go silent.
//!
//! Bytes come in order or not at all, as TCP has it; what was on its way when a connection was cut has left and does not arrive. One
//! that is silent takes everything and brings nothing, in both directions, until whoever waits gives it up.
//!
//! **Invariant.** What happens depends on times and on how often something is written, never on how many bytes it is: an answer's
//! date is that of the machine and longer or shorter by the day.

use std::future::{Ready, ready};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::task::{Context, Poll, ready as is_ready};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use millpond_engine::net::MemoryNetwork;
use millpond_proto::chance::{Chance as _, Seeded};
use millpond_proto::time::{Clock, Sleep, Timestamp};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tonic::codegen::Service;
use tonic::transport::Uri;

/// Bytes that travel together at most: more than is ever under way, see the invariant.
const PACKET_BYTES: usize = 256 * 1024;

/// How bad it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
    /// Longest time that what is written together takes.
    pub(super) delay_ms_max: u64,
    /// Of a hundred connections, those that end badly.
    pub(super) percent: u64,
    /// Longest time that one of these works.
    pub(super) works_ms_max: u64,
}

impl Weather {
    /// Nothing goes wrong.
    pub(super) const CALM: Self = Self {
        delay_ms_max: 1,
        percent: 0,
        works_ms_max: 1,
    };
}

/// Makes connections to one server.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    pub(super) network: MemoryNetwork,
    pub(super) address: SocketAddr,
    pub(super) weather: Weather,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) chance: Arc<Seeded>,
    /// Where clients come from.
    pub(super) ports: Arc<AtomicU16>,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Pipe>;
    type Error = io::Error;
    type Future = Ready<io::Result<TokioIo<Pipe>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let port = self.ports.fetch_add(1, Ordering::Relaxed);
        let peer = SocketAddr::from(([127, 0, 0, 1], port));
        let chance = Seeded::new(self.chance.next_u64());
        let Weather {
            delay_ms_max,
            percent,
            works_ms_max,
        } = self.weather;
        let end = chance.percent(percent).then(|| {
            let works = Duration::from_millis(chance.below(works_ms_max));
            End {
                comes: self.clock.sleep(works),
                at: self.clock.now() + works,
                is_silent: chance.percent(30),
            }
        });
        let connected = self.network.connect(self.address, peer);
        ready(connected.map(|inner| {
            TokioIo::new(Pipe {
                line: Line::Open(inner),
                end,
                delay_ms_max,
                buffer: vec![0; PACKET_BYTES],
                arriving: Vec::new(),
                arrives: None,
                leaves: None,
                clock: Arc::clone(&self.clock),
                chance,
            })
        }))
    }
}

/// How a connection ends badly, and when.
struct End {
    comes: Sleep,
    at: Timestamp,
    is_silent: bool,
}

enum Line {
    Open(DuplexStream),
    /// The other end waits in vain as well.
    Silent(#[expect(dead_code, reason = "it is held so that it does not close")] DuplexStream),
    Cut,
}

/// The client's end of a connection.
pub(super) struct Pipe {
    line: Line,
    end: Option<End>,
    delay_ms_max: u64,
    /// Where what arrives is read into.
    buffer: Vec<u8>,
    /// What is on its way here, and when it arrives.
    arriving: Vec<u8>,
    arrives: Option<Sleep>,
    /// When what is written next leaves.
    leaves: Option<Sleep>,
    clock: Arc<dyn Clock>,
    chance: Seeded,
}

impl Pipe {
    fn delay(&self) -> Sleep {
        let ms = self.chance.below(self.delay_ms_max + 1);
        self.clock.sleep(Duration::from_millis(ms))
    }

    /// Ends badly when the time has come; whoever waits for bytes is woken then.
    fn meet_its_end(&mut self, context: Option<&mut Context<'_>>) {
        let Some(end) = &mut self.end else {
            return;
        };
        let has_come = match context {
            Some(context) => end.comes.as_mut().poll(context).is_ready(),
            None => self.clock.now() >= end.at,
        };
        if !has_come {
            return;
        }
        let is_silent = end.is_silent;
        self.end = None;
        self.line = match std::mem::replace(&mut self.line, Line::Cut) {
            Line::Open(inner) if is_silent => Line::Silent(inner),
            _ => Line::Cut,
        };
        self.arriving.clear();
        self.arrives = None;
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let pipe = &mut *self;
        pipe.meet_its_end(Some(context));
        loop {
            if let Some(arrives) = &mut pipe.arrives {
                is_ready!(arrives.as_mut().poll(context));
                pipe.arrives = None;
            }
            if !pipe.arriving.is_empty() {
                let count = pipe.arriving.len().min(buffer.remaining());
                buffer.put_slice(&pipe.arriving[..count]);
                pipe.arriving.drain(..count);
                return Poll::Ready(Ok(()));
            }
            let inner = match &mut pipe.line {
                Line::Open(inner) => inner,
                // Whoever waits has a limit for it.
                Line::Silent(_) => return Poll::Pending,
                Line::Cut => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            };
            let mut packet = ReadBuf::new(&mut pipe.buffer);
            is_ready!(Pin::new(inner).poll_read(context, &mut packet))?;
            if packet.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            pipe.arriving.extend_from_slice(packet.filled());
            pipe.arrives = Some(pipe.delay());
        }
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let pipe = &mut *self;
        if pipe.leaves.is_none() {
            pipe.leaves = Some(pipe.delay());
        }
        if let Some(leaves) = &mut pipe.leaves {
            is_ready!(leaves.as_mut().poll(context));
        }
        pipe.meet_its_end(None);
        match &mut pipe.line {
            Line::Open(inner) => {
                let written = is_ready!(Pin::new(inner).poll_write(context, bytes))?;
                pipe.leaves = None;
                Poll::Ready(Ok(written))
            }
            Line::Silent(_) => Poll::Ready(Ok(bytes.len())),
            Line::Cut => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.line {
            Line::Open(inner) => Pin::new(inner).poll_flush(context),
            Line::Silent(_) | Line::Cut => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.line {
            Line::Open(inner) => Pin::new(inner).poll_shutdown(context),
            Line::Silent(_) | Line::Cut => Poll::Ready(Ok(())),
        }
    }
}
