//! Delayed messages that were read before their time.
//!
//! What has left the log lies in files of columns, where one message costs about as much as thousands. So an
//! errand that must look there reads on for those that are due next, and the shard's owner fires them from memory
//! when their time comes. What lies in the log is not read ahead: there a message costs itself alone.
//!
//! It is no state of the shard: what is here can be had again from the shelf, and a message is fired only because
//! the timer says so. Bounded over all shards by [`limits::FIRE_AHEAD_BYTES_MAX`], of which each lot takes
//! [`LOT_BYTES`]; a shard that gets no share reads only what is due. A message waits there as the bytes that the log has of
//! it: its fields apart, each in memory of its own, would be several times as much.

use std::collections::BTreeMap;
use std::sync::Arc;

use millpond_proto::limits;
use millpond_proto::time::Timestamp;
use millpond_storage::format::envelope::Envelope;
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::broker::shelf::Spot;

/// Bytes of one lot.
pub const LOT_BYTES: usize = 4 * 1024 * 1024;
/// Messages of one lot.
pub const LOT_MESSAGES: usize = 16 * 1024;
/// Messages that are read on for while nobody knows how large they are.
const REACH_FIRST: usize = 512;
/// What a message takes besides its bytes: its place among the others, and what the allocator adds.
const MESSAGE_BYTES: usize = 96;

/// Appends of due messages that are under way at the same time, of all shards.
const TURNS: usize = 2;
/// Looks into files that are under way at the same time, of all shards: each keeps a thread busy.
const LOOKS: usize = 1;

const _: () = assert!(LOT_BYTES <= limits::FIRE_AHEAD_BYTES_MAX);

/// The room for messages that were read ahead, and the turns at placing them, shared by all shards.
#[derive(Clone, Debug)]
pub struct Room {
    lots: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    looks: Arc<Semaphore>,
}

/// The right to place due messages; held until they are durable. However much is due at once, what producers send
/// meanwhile then waits for a few small appends and not for all of it.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "it is only held")] OwnedSemaphorePermit);

/// Messages of one shard that were read ahead: those that are due first of all that were added, one at least however
/// large.
#[derive(Debug)]
pub struct Lot {
    messages: BTreeMap<(Timestamp, Spot), Box<[u8]>>,
    bytes: usize,
    /// How many there were when one found no room; none when all did.
    held: Option<usize>,
    /// Held for as long as the messages are.
    _share: OwnedSemaphorePermit,
}

impl Default for Room {
    fn default() -> Self {
        let lots = limits::FIRE_AHEAD_BYTES_MAX / LOT_BYTES;
        Self {
            lots: Arc::new(Semaphore::new(lots)),
            turns: Arc::new(Semaphore::new(TURNS)),
            looks: Arc::new(Semaphore::new(LOOKS)),
        }
    }
}

impl Room {
    /// An empty lot, when there is room for one.
    #[must_use]
    pub fn take(&self) -> Option<Lot> {
        let share = Arc::clone(&self.lots).try_acquire_owned().ok()?;
        Some(Lot {
            messages: BTreeMap::new(),
            bytes: 0,
            held: None,
            _share: share,
        })
    }

    /// The next turn; whoever asked first has it first.
    ///
    /// # Panics
    /// Never: nobody closes what the turns come from.
    pub fn turn(&self) -> impl Future<Output = Turn> + use<> {
        let turn = Arc::clone(&self.turns).acquire_owned();
        async move { Turn(turn.await.expect("it is never closed")) }
    }

    /// Waits until nobody else looks into files; hold it for as long as the look takes.
    ///
    /// # Panics
    /// Never: nobody closes what it comes from.
    pub async fn look(&self) -> OwnedSemaphorePermit {
        let look = Arc::clone(&self.looks).acquire_owned();
        look.await.expect("it is never closed")
    }
}

impl Lot {
    /// Adds a message. When the lot is full, those that are due last leave it: files have them in another order,
    /// and a lot with a hole is of no use behind it.
    pub fn add(&mut self, spot: Spot, message: Envelope) {
        let due = Timestamp(message.due_at_ms.unwrap_or(0));
        let message = message.encode_to_vec().into_boxed_slice();
        self.bytes += size(&message);
        if let Some(before) = self.messages.insert((due, spot), message) {
            self.bytes -= size(&before);
        }
        while self.messages.len() > LOT_MESSAGES
            || (self.bytes > LOT_BYTES && self.messages.len() > 1)
        {
            let Some((_, last)) = self.messages.pop_last() else {
                break;
            };
            self.bytes -= size(&last);
            self.held = Some(self.messages.len());
        }
    }

    /// Takes a message out.
    pub fn take(&mut self, due: Timestamp, spot: Spot) -> Option<Envelope> {
        let message = self.messages.remove(&(due, spot))?;
        self.bytes -= size(&message);
        Envelope::decode(&*message).ok()
    }

    /// Takes out those of these messages that are here, in order, until they have so many bytes of bodies; with how many
    /// of these it got to, whether they were here or not. The others stay for the next turn.
    pub fn take_due(
        &mut self,
        due: &[(Timestamp, Spot)],
        bytes_max: usize,
    ) -> (BTreeMap<Spot, Envelope>, usize) {
        let (mut taken, mut bytes) = (BTreeMap::new(), 0);
        for (index, &(at, spot)) in due.iter().enumerate() {
            if let Some(message) = self.take(at, spot) {
                bytes += message.body.as_ref().map_or(0, bytes::Bytes::len);
                taken.insert(spot, message);
            }
            if bytes >= bytes_max {
                return (taken, index + 1);
            }
        }
        (taken, due.len())
    }

    /// Whether it has a message.
    #[must_use]
    pub fn has(&self, due: Timestamp, spot: Spot) -> bool {
        self.messages.contains_key(&(due, spot))
    }

    /// Whether nothing of it comes behind this message: those that were recalled stay behind.
    #[must_use]
    pub fn is_over(&self, due: Timestamp, spot: Spot) -> bool {
        let last = self.messages.last_key_value();
        last.is_none_or(|(last, _)| *last <= (due, spot))
    }
}

/// How many messages a lot is filled from: as many as it had room for the last time. What is read and finds no room is
/// read once more, and large messages find little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach(usize);

impl Default for Reach {
    fn default() -> Self {
        Self(REACH_FIRST)
    }
}

impl Reach {
    /// The number of messages.
    #[must_use]
    pub fn messages(self) -> usize {
        self.0
    }

    /// The reach after a lot was filled with this one.
    #[must_use]
    pub fn after(self, lot: &mut Lot) -> Self {
        let messages = lot.held.take().unwrap_or(self.0 * 4);
        Self(messages.min(LOT_MESSAGES))
    }
}

fn size(message: &[u8]) -> usize {
    message.len() + MESSAGE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(due: i64, bytes: usize) -> Envelope {
        Envelope {
            due_at_ms: Some(due),
            body: Some(vec![0; bytes].into()),
            ..Envelope::default()
        }
    }

    fn spot(number: u64) -> Spot {
        Spot { bucket: 7, number }
    }

    #[test]
    fn a_lot_keeps_those_that_are_due_first_and_is_over_with_the_last() {
        let mut lot = Room::default().take().unwrap();
        assert!(lot.is_over(Timestamp(0), spot(0)), "nothing is in it");
        lot.add(spot(1), message(40, 1));
        lot.add(spot(2), message(10, 200));
        lot.add(spot(3), message(30, LOT_BYTES - 470));
        assert_eq!(lot.take(Timestamp(40), spot(1)), None, "it made room");
        lot.add(spot(4), message(50, 1));
        assert_eq!(lot.take(Timestamp(50), spot(4)), None, "it found none");
        assert!(!lot.is_over(Timestamp(30), spot(2)));
        assert!(lot.is_over(Timestamp(30), spot(3)), "whatever was recalled");
        assert!(lot.take(Timestamp(10), spot(2)).is_some());
        assert!(lot.take(Timestamp(10), spot(2)).is_none(), "once");
        lot.add(spot(4), message(50, 1));
        assert!(
            lot.take(Timestamp(50), spot(4)).is_some(),
            "what left has made room"
        );
    }

    #[test]
    fn what_is_due_leaves_a_lot_up_to_its_bytes_and_the_rest_stays() {
        let mut lot = Room::default().take().unwrap();
        for number in [1, 3, 4] {
            lot.add(spot(number), message(10, 100));
        }
        let due: Vec<_> = (1..5).map(|number| (Timestamp(10), spot(number))).collect();
        let (taken, seen) = lot.take_due(&due, 150);
        assert_eq!(taken.into_keys().collect::<Vec<_>>(), [spot(1), spot(3)]);
        assert_eq!(seen, 3, "one lies elsewhere and is looked for there");
        assert!(lot.has(Timestamp(10), spot(4)));
        assert_eq!(lot.take_due(&due[3..], 150).1, 1);
    }

    #[test]
    fn a_lot_of_large_messages_is_filled_from_as_many_as_it_holds() {
        let mut lot = Room::default().take().unwrap();
        let first = Reach::default();
        lot.add(spot(1), message(10, 1));
        let next = first.after(&mut lot);
        assert!(
            next.messages() > first.messages(),
            "there was room for more"
        );
        for number in 2..8 {
            lot.add(spot(number), message(10, LOT_BYTES / 4));
        }
        assert_eq!(next.after(&mut lot), Reach(4));
        assert_eq!(Reach(LOT_MESSAGES).after(&mut lot), Reach(LOT_MESSAGES));
    }

    #[tokio::test]
    async fn what_is_due_at_once_is_placed_in_turns() {
        let room = Room::default();
        let mut turns = Vec::new();
        for _ in 0..TURNS {
            turns.push(room.turn().await);
        }
        let next = room.turn();
        tokio::pin!(next);
        assert!(futures::poll!(&mut next).is_pending());
        turns.pop();
        assert!(futures::poll!(&mut next).is_ready());
    }

    #[tokio::test]
    async fn files_are_looked_into_by_one_shard_after_the_other() {
        let room = Room::default();
        let look = room.look().await;
        let next = room.look();
        tokio::pin!(next);
        assert!(futures::poll!(&mut next).is_pending());
        drop(look);
        assert!(futures::poll!(&mut next).is_ready());
    }

    #[test]
    fn shards_share_the_room() {
        let room = Room::default();
        let lots: Vec<Lot> = std::iter::from_fn(|| room.take()).collect();
        assert_eq!(lots.len(), limits::FIRE_AHEAD_BYTES_MAX / LOT_BYTES);
        drop(lots);
        assert!(room.take().is_some());
    }
}
