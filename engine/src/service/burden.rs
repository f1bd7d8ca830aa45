//! What producers have on its way to the log: a bound on the bytes of it, over all of them.
//!
//! A log that is slower than its producers would otherwise fill the memory with what waits. Over the bound a
//! send is refused before anything is stored, with the code on which producers back off; what is on its
//! way already is finished. It is given back when a call ends, also by its client: what was handed to the broker by then
//! is counted there until it is stored (`broker/way.rs`), under the same bound.

use std::sync::atomic::{AtomicUsize, Ordering};

use millpond_proto::limits;
use millpond_proto::wire::rocketmq as pb;
use millpond_proto::wire::rocketmq::Code;

use crate::service::code::Refusal;

/// What a message takes besides its body: properties are bounded, and few have many.
const MESSAGE_BYTES: usize = 1024;

/// Bytes on their way.
#[derive(Debug, Default)]
pub struct Burden(AtomicUsize);

/// Some of the room; free again when this is dropped.
#[derive(Debug)]
#[must_use = "the room is held by it"]
pub struct Taken<'a> {
    burden: &'a Burden,
    bytes: usize,
}

impl Burden {
    /// Takes room for messages.
    ///
    /// # Errors
    /// `TOO_MANY_REQUESTS` when there is none. One call alone always finds room.
    pub fn take(&self, messages: &[pb::Message]) -> Result<Taken<'_>, Refusal> {
        let bodies = messages.iter().map(|message| message.body.len());
        let bytes = bodies.map(|body| body + MESSAGE_BYTES).sum();
        let burden = self;
        let before = self.0.fetch_add(bytes, Ordering::Relaxed);
        let taken = Taken { burden, bytes };
        if before > 0 && before + bytes > limits::SENDING_BYTES_MAX {
            return Err(Refusal::new(
                Code::TooManyRequests,
                format!(
                    "{before} bytes of messages are on their way to the log, limit {}; send again a \
                     little later, and in fewer calls at once",
                    limits::SENDING_BYTES_MAX
                ),
            ));
        }
        Ok(taken)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.burden.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(bodies: &[usize]) -> Vec<pb::Message> {
        let message = |len: &usize| pb::Message {
            body: vec![0_u8; *len].into(),
            ..pb::Message::default()
        };
        bodies.iter().map(message).collect()
    }

    #[test]
    fn sends_over_the_bound_are_refused_until_others_are_done() {
        let burden = Burden::default();
        let most = limits::SENDING_BYTES_MAX - 4 * MESSAGE_BYTES;
        let held = burden.take(&messages(&[most])).unwrap();
        let small = burden.take(&messages(&[1, 2])).unwrap();
        let refused = burden.take(&messages(&[4 * MESSAGE_BYTES])).unwrap_err();
        assert_eq!(refused.code, Code::TooManyRequests);
        assert!(refused.message.contains("later"), "{refused}");
        drop(held);
        assert!(burden.take(&messages(&[most])).is_ok());
        drop(small);
        assert_eq!(
            burden.0.load(Ordering::Relaxed),
            0,
            "a refusal holds nothing"
        );
    }
}
