//! Messages by the day of their store time: a file holds one day where that can be, because the table is partitioned by it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::format::envelope::Envelope;
use crate::format::manifest::{Index, day_of};

/// What the first and the last message of each queue tell of all: looking at each of them costs as much as writing a
/// column, because none is in the processor's cache yet.
pub(super) struct Glance {
    /// Whether some are cold already.
    pub(super) is_cold: bool,
    /// Whether all are of one day, if store times of a queue never fall; where they do, a file holds more than a day.
    pub(super) is_one_day: bool,
}

impl Glance {
    /// Of messages that are sorted by queue and offset.
    pub(super) fn of(messages: &[Envelope], current: &Index) -> Self {
        let (mut is_cold, mut days) = (false, BTreeSet::new());
        let mut rest = messages;
        while let Some(first) = rest.first() {
            let count = rest.partition_point(|message| message.queue <= first.queue);
            let (queue, others) = rest.split_at(count.max(1));
            let extent = current.extent(first.queue);
            is_cold |= extent.is_some_and(|extent| first.offset < extent.end);
            days.extend(queue.first().map(|message| day_of(message.stored_at_ms)));
            days.extend(queue.last().map(|message| day_of(message.stored_at_ms)));
            rest = others;
        }
        Self {
            is_cold,
            is_one_day: days.len() <= 1,
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
