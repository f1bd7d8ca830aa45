//! The first bytes of a connection: they tell TLS from plaintext, they must come, and they are given again.
//!
//! What comes behind them is the protocols' own: HTTP/2 asks those that fall silent later whether they are still there,
//! and the door of HTTP/1 lets them go.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio_rustls::TlsAcceptor;

use crate::net::{Accepted, Duplex};
use crate::tls::Peer;

/// First byte of a TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;
/// What a client of HTTP/2 says first (RFC 9113, 3.4), without waiting for anything.
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What is spoken behind a door.
#[derive(Clone)]
pub(super) enum Opening {
    /// HTTP/2, over TLS if there is an acceptor and the client wants it.
    Http2(Option<TlsAcceptor>),
    /// HTTP/1 in the clear.
    Http1,
}

/// Takes a connection through its first bytes; resolves when they are there.
pub(super) async fn open(
    accepted: Accepted,
    opening: Opening,
) -> io::Result<(Box<dyn Duplex>, Peer)> {
    let Accepted { io, peer: address } = accepted;
    let peer = |tls| Peer { address, tls };
    let mut io = Peeked::new(io);
    io.more(PREFACE.len()).await?;
    let Opening::Http2(tls) = opening else {
        return Ok((Box::new(io), peer(false)));
    };
    let is_tls = io.head.first() == Some(&TLS_HANDSHAKE);
    match tls.filter(|_| is_tls) {
        Some(tls) => {
            let mut io = Peeked::new(Box::new(tls.accept(io).await?));
            io.preface().await?;
            Ok((Box::new(io), peer(true)))
        }
        None => {
            io.preface().await?;
            Ok((Box::new(io), peer(false)))
        }
    }
}

/// A stream whose first bytes were looked at and are given again.
struct Peeked {
    head: Vec<u8>,
    /// How many of them were given.
    given: usize,
    io: Box<dyn Duplex>,
}

impl Peeked {
    fn new(io: Box<dyn Duplex>) -> Self {
        Self {
            head: Vec::new(),
            given: 0,
            io,
        }
    }

    /// Reads one byte at least, and no more than so many.
    async fn more(&mut self, most: usize) -> io::Result<()> {
        let mut bytes = [0; PREFACE.len()];
        let room = most.min(bytes.len());
        let read = self.io.read(&mut bytes[..room]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.head.extend_from_slice(&bytes[..read]);
        Ok(())
    }

    /// Reads until the preface is whole, or something else was said, which whoever speaks HTTP/2 refuses.
    async fn preface(&mut self) -> io::Result<()> {
        while self.head.len() < PREFACE.len() && PREFACE.starts_with(&self.head) {
            self.more(PREFACE.len() - self.head.len()).await?;
        }
        Ok(())
    }
}

impl AsyncRead for Peeked {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let rest = this.head.get(this.given..).unwrap_or_default();
        if rest.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, buffer);
        }
        let now = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..now]);
        this.given += now;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Peeked {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
