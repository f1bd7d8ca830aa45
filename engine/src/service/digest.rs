//! Digests of bodies, which every delivered message carries because the clients check them.
//!
//! A digest is most of what a small delivery computes, so it is computed when a message is delivered first, of all of a batch side
//! by side ([`lanes`]), and remembered for other groups and later attempts. A send does not pay for it: many messages are never
//! delivered over this wire.
//!
//! **Invariants.** What is remembered belongs to one topic id, queue and offset, and the body there never changes
//! once it can be delivered, but for one that is erased and then empty. Bounded by [`limits::DIGESTS_MAX`]: of messages that share a place the last one stays,
//! and neighbours of a queue never share one.

mod lanes;

use std::sync::{Mutex, PoisonError};

use md5::{Digest as _, Md5};
use millpond_proto::limits;
use millpond_storage::format::envelope::Envelope;

use crate::service::digest::lanes::{LANES, blocks, digests};

/// Bodies of more blocks are computed alone: beside one that is longer the others wait.
const BLOCKS_MAX: usize = 64;
/// So many bodies take less time side by side than one after the other.
const TOGETHER_MIN: usize = 3;

/// Digests that were computed lately.
#[derive(Debug)]
pub struct Digests {
    places: Box<[Mutex<Known>]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    topic: u64,
    offset: u64,
    queue: u32,
    md5: [u8; 16],
}

impl Default for Digests {
    fn default() -> Self {
        Self::new(limits::DIGESTS_MAX)
    }
}

impl Digests {
    fn new(places: usize) -> Self {
        Self {
            places: (0..places).map(|_| Mutex::default()).collect(),
        }
    }

    /// Computes what is not known yet of messages that are delivered together.
    pub fn prepare<'a>(&self, messages: impl Iterator<Item = &'a Envelope>) {
        let mut new: Vec<(usize, &[u8], &Envelope)> = messages
            .filter_map(|message| {
                let body = message.body.as_deref().filter(|body| !body.is_empty())?;
                let blocks = blocks(body);
                let is_new = blocks <= BLOCKS_MAX && self.known(message).is_none();
                is_new.then_some((blocks, body, message))
            })
            .collect();
        // Those of a size beside each other, so that few lanes stand idle.
        new.sort_by_key(|(blocks, ..)| *blocks);
        for together in new.chunks(LANES).filter(|some| some.len() >= TOGETHER_MIN) {
            let body = |lane: usize| together.get(lane).map_or(&[][..], |(_, body, _)| *body);
            let computed = digests(std::array::from_fn(body));
            for ((.., message), md5) in together.iter().zip(computed) {
                self.remember(message, md5);
            }
        }
    }

    /// The MD5 of a stored message's body, in upper-case hexadecimal digits.
    #[must_use]
    pub fn of(&self, message: &Envelope) -> String {
        let body = message.body.as_deref().unwrap_or_default();
        // What was erased has no body any more, and what is remembered is of the one that it had.
        if body.is_empty() {
            return text(Md5::digest(body).into());
        }
        let md5 = self.known(message).unwrap_or_else(|| {
            let md5 = Md5::digest(body).into();
            self.remember(message, md5);
            md5
        });
        text(md5)
    }

    fn known(&self, message: &Envelope) -> Option<[u8; 16]> {
        let known = *self
            .place(message)?
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // No topic has the id 0, so that an empty place is nobody's.
        let is_it = known.topic == message.topic
            && known.queue == message.queue
            && known.offset == message.offset
            && message.topic != 0;
        is_it.then_some(known.md5)
    }

    fn remember(&self, message: &Envelope, md5: [u8; 16]) {
        if let Some(place) = self.place(message) {
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Known {
                topic: message.topic,
                offset: message.offset,
                queue: message.queue,
                md5,
            };
        }
    }

    /// Neighbours lie side by side, queues anywhere.
    fn place(&self, message: &Envelope) -> Option<&Mutex<Known>> {
        const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;
        let queue = (message.topic ^ u64::from(message.queue)).wrapping_mul(SPREAD) >> 32;
        let place = queue.wrapping_add(message.offset) % (self.places.len() as u64).max(1);
        self.places.get(usize::try_from(place).ok()?)
    }
}

/// Two digits a byte, written in one go: one character after the other takes as long as half of the digest.
fn text(md5: [u8; 16]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut digits = Vec::with_capacity(2 * md5.len());
    for byte in md5 {
        digits.extend([byte >> 4, byte & 15].map(|half| DIGITS[usize::from(half)]));
    }
    String::from_utf8(digits).expect("digits are text")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn message(queue: u32, offset: u64, body: &str) -> Envelope {
        Envelope {
            topic: 7,
            queue,
            offset,
            body: Some(Bytes::copy_from_slice(body.as_bytes())),
            ..Envelope::default()
        }
    }

    #[test]
    fn a_digest_is_computed_once() {
        let digests = Digests::new(8);
        let hello = message(3, 42, "hello");
        assert_eq!(digests.known(&hello), None);
        assert_eq!(digests.of(&hello), "5D41402ABC4B2A76B9719D911017C592");
        assert!(digests.known(&hello).is_some());
        assert_eq!(digests.of(&hello), "5D41402ABC4B2A76B9719D911017C592");
    }

    #[test]
    fn what_is_delivered_together_has_the_digests_that_it_has_alone() {
        let digests = Digests::default();
        let bodies = [0, 1, 5000, 64, 55, 56, 1000, 3, 128, 128, 128, 128, 63];
        let messages: Vec<Envelope> = (0..)
            .zip(bodies)
            .map(|(offset, size)| message(3, offset, &"x".repeat(size)))
            .collect();
        digests.prepare(messages.iter());
        let prepared = |message: &&Envelope| digests.known(message).is_some();
        assert_eq!(messages.iter().filter(prepared).count(), 11);
        for message in &messages {
            let right = hex::encode_upper(Md5::digest(message.body.as_ref().unwrap()));
            assert_eq!(digests.of(message), right);
        }
    }

    #[test]
    fn a_body_that_was_erased_has_the_digest_of_nothing() {
        const NOTHING: &str = "D41D8CD98F00B204E9800998ECF8427E";
        let digests = Digests::new(8);
        assert_ne!(digests.of(&message(3, 42, "hello")), NOTHING);
        assert_eq!(digests.of(&message(3, 42, "")), NOTHING);
    }

    #[test]
    fn no_message_gets_the_digest_of_another_in_its_place() {
        let digests = Digests::new(1);
        let nobodys = Envelope::default();
        assert_eq!(digests.known(&nobodys), None, "an empty place");
        for (queue, offset) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let body = format!("{queue}-{offset}");
            let right = hex::encode_upper(Md5::digest(&body));
            let message = message(queue, offset, &body);
            assert_eq!(digests.of(&message), right);
            assert_eq!(digests.of(&message), right);
        }
        assert_eq!(digests.known(&message(0, 0, "0-0")), None, "it had to go");
    }
}
