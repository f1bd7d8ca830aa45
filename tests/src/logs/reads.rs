//! Reading somewhere, by message and by column, and comparing what comes with what was given.

use arrow::array::AsArray as _;
use arrow::datatypes::Int64Type;
use futures::StreamExt as _;
use millpond_proto::message::Offset;
use millpond_storage::error::ReadError;
use millpond_storage::format::envelope::Envelope;
use millpond_storage::log::ReadLimit;
use millpond_storage::tier::cold::typed::Reads;

use crate::logs::model::{Queue, key};
use crate::logs::{End, Life, World};

impl World {
    /// An offset to read at: mostly near the end, where most readers are.
    pub(super) fn somewhere(&self) -> (usize, u64) {
        let queue = usize::try_from(self.chance.below(self.queues.len() as u64)).unwrap();
        let next = self.queues[queue].nonces.len() as u64;
        let back = if self.chance.percent(85) {
            next.min(60)
        } else {
            next
        };
        (queue, next - self.chance.below(back + 1))
    }

    pub(super) async fn read(&mut self, life: &Life) -> Option<End> {
        let (queue, from) = self.somewhere();
        let limit = ReadLimit {
            messages: usize::try_from(self.chance.below(40)).unwrap() + 1,
            bytes: usize::try_from(self.chance.below(8000)).unwrap() + 1,
        };
        self.read_at(life, queue, from, limit).await;
        life.disk.power.is_gone().then_some(End::Crashed)
    }

    /// Reads and compares; answers how far it came.
    pub(super) async fn read_at(
        &mut self,
        life: &Life,
        queue: usize,
        from: u64,
        limit: ReadLimit,
    ) -> u64 {
        let Queue { topic, id, .. } = self.queues[queue];
        for attempt in 0..2 {
            self.tally.operations += 1;
            self.tally.reads += 1;
            let read = life.storage.read(topic, id, Offset(from), limit).await;
            if attempt > 0 {
                // The store was calm for this attempt alone.
                self.misbehave(true);
            }
            let known = &self.queues[queue];
            let next = known.nonces.len() as u64;
            match read {
                Ok(found) => {
                    assert!(
                        from >= known.first,
                        "nothing below the first offset is read"
                    );
                    assert_eq!(found.is_empty(), from >= next, "there is a message or none");
                    assert!(found.len() <= limit.messages);
                    let mut expected = from;
                    for message in &found {
                        while expected < message.offset {
                            self.check_superseded(queue, expected);
                            expected += 1;
                        }
                        self.check_message(queue, expected, message);
                        expected += 1;
                    }
                    return expected;
                }
                Err(ReadError::Trimmed { first, .. }) => {
                    assert_eq!(first.0, known.first, "the first offset kept is told");
                    assert!(from < known.first);
                    return from;
                }
                Err(error) => {
                    let is_excused = self.is_store_faulty() && attempt == 0;
                    assert!(is_excused, "offset {from} of queue {queue}: {error:?}");
                    self.misbehave(false);
                }
            }
        }
        unreachable!("the second attempt answers");
    }

    /// A message may be missing where a later one has its key.
    pub(super) fn check_superseded(&self, queue: usize, offset: u64) {
        let known = &self.queues[queue];
        let mut from = known.nonces.iter().skip(usize::try_from(offset).unwrap());
        let missing = key(*from.next().unwrap());
        let is_superseded = from.any(|nonce| key(*nonce) == missing);
        assert!(
            known.is_compacted() && is_superseded,
            "offset {offset} of queue {queue} is missing"
        );
    }

    pub(super) fn check_message(&self, queue: usize, offset: u64, found: &Envelope) {
        let known = &self.queues[queue];
        let nonce = known.nonces.get(usize::try_from(offset).unwrap()).copied();
        let nonce = nonce.unwrap_or_else(|| panic!("offset {offset} was never given"));
        assert_eq!(*found, known.message(offset, nonce), "the very bytes");
    }

    /// Columns of a range, in order and without a gap.
    pub(super) async fn scan(&mut self, life: &Life) -> Option<End> {
        let (queue, from) = self.somewhere();
        self.scan_from(life, queue, from).await;
        None
    }

    /// Scans to the end and compares, from where the table begins if that is later.
    async fn scan_from(&mut self, life: &Life, queue: usize, from: u64) {
        self.tally.operations += 1;
        let known = &self.queues[queue];
        let next = known.nonces.len() as u64;
        let range = Offset(from)..Offset(next);
        let mut rows = life.storage.scan(
            known.topic,
            known.id,
            range,
            &Reads::of(&["offset", "body"]),
        );
        let mut expected = from.max(known.kept);
        while let Some(batch) = rows.next().await {
            let batch = match batch {
                Ok(batch) => batch,
                Err(error) => {
                    assert!(self.is_store_faulty(), "a scan fails: {error:?}");
                    return;
                }
            };
            let offsets = batch.column(0).as_primitive::<Int64Type>().values();
            let bodies = batch.column(1).as_binary::<i32>();
            for (offset, body) in offsets.iter().zip(bodies) {
                let offset = offset.cast_unsigned();
                assert!(
                    expected <= offset,
                    "offset {offset} of queue {queue} comes late"
                );
                while expected < offset {
                    self.check_superseded(queue, expected);
                    expected += 1;
                }
                let known = &self.queues[queue];
                let nonce = known.nonces[usize::try_from(offset).unwrap()];
                let given = known.message(offset, nonce).body;
                assert_eq!(body, given.as_deref(), "the very bytes");
                expected += 1;
            }
        }
        assert!(
            expected >= next,
            "a scan of queue {queue} ends at {expected}"
        );
    }

    pub(super) async fn read_everything(&mut self, life: &Life) {
        let limit = ReadLimit {
            messages: 1000,
            bytes: usize::MAX,
        };
        for queue in 0..self.queues.len() {
            let mut next = self.queues[queue].first;
            while next < self.queues[queue].nonces.len() as u64 {
                next = self.read_at(life, queue, next, limit).await;
            }
            self.scan_from(life, queue, 0).await;
        }
    }
}
