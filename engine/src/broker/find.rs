//! Finding messages: by id, by key, by time, by a filter, over all that a topic keeps.
//!
//! Queue by queue and offset by offset, so that the place where a step ended says exactly what was looked
//! at before: a search is a loop of steps, each bounded ([`limits::FIND_MESSAGES_MAX`],
//! [`limits::FIND_BYTES_MAX`]), and a later one goes on there. An id or a key is looked up through the
//! indexes of the cold tier; a filter reads the messages. Each step says what it looked at, and a search
//! that came to its end says so: a message that it did not find is not there, save those that are damaged,
//! which are counted.
//!
//! Nothing is leased and no group is asked.

use millpond_proto::limits;
use millpond_proto::message::{Offset, QueueId, TopicId};
use millpond_proto::name::TopicName;
use millpond_proto::time::Timestamp;
use millpond_storage::error::ReadError;
use millpond_storage::format::envelope::Envelope;
use millpond_storage::log::{ReadLimit, Storage};
use millpond_storage::tier::cold::lookup::{LookedUp, Lookup};
use prost::Message as _;

use crate::broker::filter::Filter;
use crate::broker::incarnation::Incarnation;
use crate::broker::{Broker, BrokerError};

/// Messages that are read at once where all of them are looked at.
const READ_AT_ONCE: usize = 1024;

/// What is looked for.
#[derive(Clone, Debug)]
pub struct Search {
    /// By id or key; none: every message is looked at.
    pub lookup: Option<Lookup>,
    /// Which of them are wanted.
    pub filter: Filter,
    /// In one queue; none: in all.
    pub queue: Option<QueueId>,
    /// Stored at or after.
    pub since: Option<Timestamp>,
    /// Stored before.
    pub until: Option<Timestamp>,
    /// Where to go on: what lies before is passed over.
    pub from: Place,
    /// Most messages in the answer.
    pub limit: usize,
}

/// A place in a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Queue.
    pub queue: QueueId,
    /// Offset.
    pub offset: Offset,
}

/// What one step of a search found, and where it looked.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// In the order of queue and offset.
    pub messages: Vec<Envelope>,
    /// Where the next step goes on; none: the search is complete.
    pub next: Option<Place>,
    /// What was looked at.
    pub scanned: Scanned,
}

/// What a step looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    /// Messages that were compared.
    pub compared: u64,
    /// Messages that an index ruled out.
    pub ruled_out: u64,
    /// Messages that can not be read any more.
    pub damaged: u64,
    /// Bytes that were read for it, about.
    pub bytes: u64,
    /// Least and greatest store time of where it looked, ms.
    pub stored_ms: Option<(i64, i64)>,
}

impl Broker {
    /// Takes a step of a search.
    ///
    /// # Errors
    /// [`BrokerError`] when the topic is unknown or the log can not be read.
    pub async fn find(&self, topic: &TopicName, search: &Search) -> Result<Found, BrokerError> {
        let record = self.topic_record(topic)?;
        if let Some(queue) = search.queue.filter(|queue| queue.0 >= record.queues) {
            return Err(BrokerError::OutOfBounds {
                what: "the queue",
                found: queue.to_string(),
                allowed: format!("0 to {}", record.queues - 1),
            });
        }
        let incarnation = self.incarnation()?;
        let mut step = Step {
            incarnation: &incarnation,
            topic: TopicId(record.id),
            search,
            found: Found::default(),
            answered_bytes: 0,
        };
        let first = search.from.queue.max(search.queue.unwrap_or_default());
        let behind = search.queue.map_or(record.queues, |queue| queue.0 + 1);
        for queue in (first.0..behind).map(QueueId) {
            let from = if queue == search.from.queue {
                search.from.offset
            } else {
                Offset(0)
            };
            if let Some(offset) = step.search_queue(queue, from).await? {
                step.found.next = Some(Place { queue, offset });
                break;
            }
        }
        Ok(step.found)
    }
}

struct Step<'a> {
    incarnation: &'a Incarnation,
    topic: TopicId,
    search: &'a Search,
    found: Found,
    answered_bytes: usize,
}

impl Step<'_> {
    /// Searches a queue from an offset on; where it stopped before the end.
    async fn search_queue(
        &mut self,
        queue: QueueId,
        from: Offset,
    ) -> Result<Option<Offset>, BrokerError> {
        let storage = self.incarnation.storage();
        let extent = storage.extent(self.topic, queue).unwrap_or_default();
        let time = |at| self.incarnation.first_at(self.topic.0, queue.0, at);
        let mut at = from.max(extent.first);
        if let Some(since) = self.search.since.filter(|_| at < extent.next) {
            at = at.max(time(since).await?);
        }
        let mut end = extent.next;
        if let Some(until) = self.search.until.filter(|_| at < extent.next) {
            end = end.min(time(until).await?);
        }
        while at < end {
            if self.is_full() {
                return Ok(Some(at));
            }
            let looked = match &self.search.lookup {
                Some(lookup) => self.look_up(storage, queue, at, end, lookup).await,
                None => self.look_at(storage, queue, at, end).await,
            };
            match looked {
                // Nothing more is there: it was let go of meanwhile.
                Ok(to) if to <= at => break,
                Ok(to) => at = to,
                Err(ReadError::Trimmed { first, .. }) => at = first.max(at.next()),
                Err(ReadError::Damaged { offset, .. }) => {
                    self.found.scanned.damaged += 1;
                    at = offset.max(at).next();
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    fn is_full(&self) -> bool {
        let scanned = &self.found.scanned;
        self.found.messages.len() >= self.search.limit
            || self.answered_bytes >= limits::RECEIVE_BYTES_MAX
            || scanned.compared + scanned.damaged >= limits::FIND_MESSAGES_MAX
            || scanned.bytes >= limits::FIND_BYTES_MAX
    }

    /// Looks up an id or a key; answers up to where.
    async fn look_up(
        &mut self,
        storage: &Storage,
        queue: QueueId,
        at: Offset,
        end: Offset,
        lookup: &Lookup,
    ) -> Result<Offset, ReadError> {
        let looked = storage.look_up(self.topic, queue, at..end, lookup).await?;
        let to = looked.to;
        let matches = looked.matches.clone();
        self.found.scanned.add(&looked);
        let one = ReadLimit {
            messages: 1,
            bytes: limits::RECEIVE_BYTES_MAX,
        };
        for offset in matches {
            if self.is_full_of_answers() {
                return Ok(offset);
            }
            match storage.read(self.topic, queue, offset, one).await {
                Ok(messages) => {
                    let mut found = messages.into_iter().filter(|one| one.at() == offset);
                    found.by_ref().for_each(|message| self.take(message));
                }
                Err(ReadError::Trimmed { .. }) => {}
                Err(ReadError::Damaged { .. }) => self.found.scanned.damaged += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(to)
    }

    /// Looks at every message; answers up to where.
    async fn look_at(
        &mut self,
        storage: &Storage,
        queue: QueueId,
        at: Offset,
        end: Offset,
    ) -> Result<Offset, ReadError> {
        let left = usize::try_from(end.0 - at.0).unwrap_or(usize::MAX);
        let limit = ReadLimit {
            messages: left.min(READ_AT_ONCE),
            bytes: limits::RECEIVE_BYTES_MAX,
        };
        let messages = storage.read(self.topic, queue, at, limit).await?;
        let mut to = at;
        for message in messages {
            if self.is_full_of_answers() {
                return Ok(to);
            }
            to = message.at().next();
            let stored = message.stored_at_ms;
            self.found.scanned.add(&LookedUp {
                compared: 1,
                bytes: message.encoded_len() as u64,
                stored_ms: Some((stored, stored)),
                ..LookedUp::default()
            });
            self.take(message);
        }
        Ok(to)
    }

    fn is_full_of_answers(&self) -> bool {
        self.found.messages.len() >= self.search.limit
            || self.answered_bytes >= limits::RECEIVE_BYTES_MAX
    }

    fn take(&mut self, message: Envelope) {
        if self.search.filter.matches(&message) {
            self.answered_bytes += message.encoded_len();
            self.found.messages.push(message);
        }
    }
}

impl Scanned {
    fn add(&mut self, looked: &LookedUp) {
        self.compared += looked.compared;
        self.ruled_out += looked.ruled_out;
        self.bytes += looked.bytes;
        let ranges = [self.stored_ms, looked.stored_ms].into_iter().flatten();
        self.stored_ms = ranges.reduce(|one, other| (one.0.min(other.0), one.1.max(other.1)));
    }
}
