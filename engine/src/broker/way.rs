//! What is on its way to the log: a bound on the bytes of messages that shards have been asked to store and have not
//! answered yet.
//!
//! Whoever asked may have left; what it asked for is stored all the same, and counts until it is. So a disk that hangs
//! under producers that give up and come again fills no memory: over the bound they are refused before
//! anything is handed over. What jobs write is not counted: each waits for what it wrote before.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use millpond_proto::limits;
use millpond_storage::format::envelope::Envelope;

use crate::broker::request::{Reason, Refused, Request};

/// What a message takes besides its body: properties are bounded, and few have many.
const MESSAGE_BYTES: usize = 1024;

/// Bytes on their way.
#[derive(Debug, Default)]
pub(super) struct Way(Arc<AtomicUsize>);

/// Some of the room; free again when this is dropped.
#[derive(Debug)]
pub struct Held {
    way: Arc<AtomicUsize>,
    bytes: usize,
}

impl Way {
    /// Takes room for the messages of a request; nothing for one that stores none. One alone always finds room.
    pub(super) fn take(&self, request: &Request) -> Result<Option<Held>, Refused> {
        let messages = match request {
            Request::Send(send) => &send.messages,
            Request::Shelve(shelve) => &shelve.messages,
            _ => return Ok(None),
        };
        let bytes = messages.iter().map(size_of).sum();
        let way = Arc::clone(&self.0);
        let before = way.fetch_add(bytes, Ordering::Relaxed);
        let held = Held { way, bytes };
        if before > 0 && before + bytes > limits::SENDING_BYTES_MAX {
            return Err(Refused {
                reason: Reason::WayFull.into(),
                what: String::new(),
            });
        }
        Ok(Some(held))
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.way.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

fn size_of(message: &Envelope) -> usize {
    MESSAGE_BYTES + message.body.as_ref().map_or(0, bytes::Bytes::len)
}
