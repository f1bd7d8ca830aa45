//! How much a query reads of each row of a topic: columns of the envelope, or the declared columns where files have them.
//!
//! **Invariant.** Which of the two a row comes as changes nothing that is computed of it ([`crate::decode`]), so a recorded cut may be
//! read again after its rows went to the cold tier.

use std::ops::Range;

use millpond_proto::message::{Offset, QueueId, TopicId};
use millpond_storage::tier::cold::typed::Typed;

use crate::topic::{Scan, Topics};

/// What is read of a topic's rows.
#[derive(Clone, Debug)]
pub struct Reads {
    /// Names of envelope columns.
    pub(crate) envelope: Vec<String>,
    /// What is read of files that have the declared columns; `None`: the same.
    pub(crate) typed: Option<Typed>,
}

impl Reads {
    /// Reads some rows of a queue.
    pub(crate) fn scan(
        &self,
        topics: &dyn Topics,
        topic: TopicId,
        queue: QueueId,
        range: Range<Offset>,
    ) -> Scan {
        let columns: Vec<&str> = self.envelope.iter().map(String::as_str).collect();
        match &self.typed {
            Some(typed) => topics.scan_typed(topic, queue, range, &columns, typed.clone()),
            None => topics.scan(topic, queue, range, &columns),
        }
    }
}
