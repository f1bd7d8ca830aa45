//! Messages by the day of their store time: a file holds one day where that can be, because the table is partitioned by it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use millpond_proto::message::TopicId;

use crate::format::envelope::Envelope;
use crate::format::manifest::{Index, day_of};

/// What one look at messages tells: looking again costs as much as writing a column of them.
pub(super) struct Glance {
    /// Whether some are cold already.
    pub(super) is_cold: bool,
    pub(super) is_one_day: bool,
}

impl Glance {
    /// # Panics
    /// When a message is of another topic.
    pub(super) fn of(messages: &[Envelope], topic: TopicId, current: &Index) -> Self {
        let (mut is_cold, mut queue) = (false, None);
        let (mut first, mut last) = (i64::MAX, i64::MIN);
        for message in messages {
            assert!(message.topic == topic.0, "a file belongs to one topic");
            // They are sorted, so the first of a queue tells.
            if queue != Some(message.queue) {
                queue = Some(message.queue);
                let extent = current.extent(message.queue);
                is_cold |= extent.is_some_and(|extent| message.offset < extent.end);
            }
            first = first.min(message.stored_at_ms);
            last = last.max(message.stored_at_ms);
        }
        Self {
            is_cold,
            is_one_day: first > last || day_of(first) == day_of(last),
        }
    }
}

/// Messages, sorted by topic, queue and offset, as one part for each day of store time, the earliest first; nothing
/// is copied when all are of one day. Where store times of a queue fall, a part holds more than its day, because
/// offsets must not fall from file to file.
pub(super) fn by_day(messages: &[Envelope], is_one_day: bool) -> Vec<Cow<'_, [Envelope]>> {
    if messages.is_empty() {
        return Vec::new();
    }
    if is_one_day {
        return vec![Cow::Borrowed(messages)];
    }
    let mut parts: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    let mut last: Option<((u64, u32), i64)> = None;
    for (at, message) in messages.iter().enumerate() {
        let mut day = day_of(message.stored_at_ms);
        let place = (message.topic, message.queue);
        if let Some((_, before)) = last.filter(|(last, _)| *last == place) {
            day = day.max(before);
        }
        last = Some((place, day));
        parts.entry(day).or_default().push(at);
    }
    if parts.len() == 1 {
        return vec![Cow::Borrowed(messages)];
    }
    let taken = |part: Vec<usize>| part.into_iter().filter_map(|at| messages.get(at)).cloned();
    let parts = parts.into_values();
    parts
        .map(|part| Cow::Owned(taken(part).collect()))
        .collect()
}
