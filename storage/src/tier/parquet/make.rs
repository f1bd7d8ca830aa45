//! A file that is made of messages that leave the log.
//!
//! **Invariants.** Each message is looked at once, right before it becomes columns, while it is in the processor's
//! cache. A part, which is written at once, belongs to one row group.

use bytes::Bytes;
use millpond_proto::message::TopicId;
use parquet::errors::ParquetError;

use crate::format::columns::gather::{AT_ONCE, Gather};
use crate::format::envelope::{Envelope, Property, PropertyValue};
use crate::format::manifest::Run;
use crate::tier::columns::{Columns, with_typed};
use crate::tier::parquet::{
    Bounds, GROUP_BYTES_MAX, GROUP_ROWS_MAX, Made, PAGE_BYTES, column_names, finish, writer,
};

/// Messages that become columns at once: little enough to stay in the processor's cache until they are written,
/// and what a page may be longer than meant.
pub(crate) const BATCH_BYTES: usize = 512 * 1024;
/// The same in rows.
pub(crate) const BATCH_ROWS_MAX: usize = 1024;
/// What a row counts for beside its texts and bytes.
const ROW_BYTES: usize = 32;
/// How often the writer looks at a page's size until it is full: a page may be longer than meant by one part of so many,
/// and each look costs as much as some values, in every column.
const LOOKS_A_PAGE: usize = 4;
/// Most values between two looks at a page's size, when they are small.
const WRITE_BATCH_MAX: usize = 1024;

/// Makes the file that holds `messages` of one topic, sorted by queue and offset, with typed columns when
/// there are some.
pub(crate) fn make(
    key: String,
    topic: TopicId,
    messages: &[Envelope],
    typed: Option<&dyn Columns>,
) -> Result<Made, ParquetError> {
    let mut columns = Gather::new(&column_names());
    let mut writer = writer(topic, typed, write_batch(messages))?;
    let mut seen = Seen::of(topic);
    let mut rest = messages;
    while !rest.is_empty() {
        seen.take(&mut rest, |some| columns.add(some));
        if seen.begins_group {
            writer.flush()?;
        }
        let batch = columns.finish();
        match typed {
            Some(typed) => writer.write(&with_typed(&batch, typed)?)?,
            None => writer.write(&batch)?,
        }
    }
    writer.flush()?;
    let made = Bounds {
        stored_first_ms: seen.stored.map(|(first, _)| first),
        stored_last_ms: seen.stored.map(|(_, last)| last),
        columns: typed.map_or(0, Columns::id),
        bodiless: seen.bodiless,
    };
    finish(writer, key, seen.runs, made)
}

/// What is known of the messages that went into a file. They are looked at once, part by part, right before they
/// become columns: walking over all of them costs as much as a column does.
struct Seen {
    topic: TopicId,
    runs: Vec<Run>,
    rows: u64,
    /// Least and greatest store time.
    stored: Option<(i64, i64)>,
    /// Messages without a body.
    bodiless: u64,
    group_rows: usize,
    group_bytes: usize,
    /// Whether the last part is the first of a row group, but for the file's first.
    begins_group: bool,
}

impl Seen {
    fn of(topic: TopicId) -> Self {
        Self {
            topic,
            runs: Vec::new(),
            rows: 0,
            stored: None,
            bodiless: 0,
            group_rows: 0,
            group_bytes: 0,
            begins_group: false,
        }
    }

    /// Takes off the messages that are written next, at least one and all of one row group, and hands them on, some at a
    /// time; answers how many they are.
    ///
    /// # Panics
    /// When they are not sorted by queue and offset, since the manifest would then point to other rows, or are of
    /// another topic.
    fn take(&mut self, rest: &mut &[Envelope], mut take: impl FnMut(&[Envelope])) -> usize {
        let (mut count, mut bytes, mut taken) = (0, 0, 0);
        for message in rest.iter().take(BATCH_ROWS_MAX) {
            let size = size_of(message);
            let is_full = self.group_bytes + bytes + size > GROUP_BYTES_MAX
                || self.group_rows + count >= GROUP_ROWS_MAX;
            if count == 0 {
                self.begins_group = is_full && self.group_rows > 0;
                if self.begins_group {
                    (self.group_bytes, self.group_rows) = (0, 0);
                }
            } else if is_full || bytes + size > BATCH_BYTES {
                break;
            }
            count += 1;
            bytes += size;
            self.add(message);
            if count - taken == AT_ONCE {
                take(rest.get(taken..count).unwrap_or_default());
                taken = count;
            }
        }
        take(rest.get(taken..count).unwrap_or_default());
        self.group_rows += count;
        self.group_bytes += bytes;
        *rest = rest.get(count..).unwrap_or_default();
        count
    }

    fn add(&mut self, message: &Envelope) {
        assert!(message.topic == self.topic.0, "a file belongs to one topic");
        let at = message.stored_at_ms;
        let (first, last) = self.stored.unwrap_or((at, at));
        self.stored = Some((first.min(at), last.max(at)));
        match self.runs.last_mut() {
            Some(run) if run.queue == message.queue && run.offsets().end == message.offset => {
                run.count += 1;
            }
            last => {
                assert!(
                    last.is_none_or(
                        |run| (run.queue, run.offsets().end) < (message.queue, message.offset)
                    ),
                    "messages are moved in the order of queue and offset"
                );
                self.runs.push(Run {
                    queue: message.queue,
                    base: message.offset,
                    first_row: self.rows,
                    count: 1,
                    span: 0,
                });
            }
        }
        self.bodiless += u64::from(message.body.is_none());
        self.rows += 1;
    }
}

/// Bytes of a message, without what each row has.
pub(crate) fn size_of(message: &Envelope) -> usize {
    let optional = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let bytes = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    let of_property = |property: &Property| {
        property.key.len()
            + match &property.value {
                Some(PropertyValue::Text(text)) => text.len(),
                Some(PropertyValue::Binary(bytes)) => bytes.len(),
                None => 0,
            }
    };
    ROW_BYTES
        + bytes(&message.body)
        + message.message_id.len()
        + message.born_host.len()
        + bytes(&message.key)
        + message.keys.iter().map(String::len).sum::<usize>()
        + message.properties.iter().map(of_property).sum::<usize>()
        + optional(&message.tag)
        + optional(&message.message_group)
        + optional(&message.trace_context)
        + optional(&message.lite_topic)
        + optional(&message.producer_id)
}

/// How many values there are between two looks, judged by the first messages.
fn write_batch(messages: &[Envelope]) -> usize {
    let first = messages.get(..BATCH_ROWS_MAX).unwrap_or(messages);
    let bytes: usize = first.iter().map(size_of).sum();
    (PAGE_BYTES / LOOKS_A_PAGE * first.len() / bytes.max(1)).clamp(1, WRITE_BATCH_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(queue: u32, offset: u64, body: usize) -> Envelope {
        Envelope {
            queue,
            offset,
            body: Some(vec![7; body].into()),
            ..Envelope::default()
        }
    }

    /// Rows of each row group, and what is known after the last.
    fn groups(messages: &[Envelope]) -> (Vec<usize>, Seen) {
        let (mut seen, mut rest, mut groups) = (Seen::of(TopicId(0)), messages, vec![0]);
        let mut all = 0;
        while !rest.is_empty() {
            let part = seen.take(&mut rest, |some| all += some.len());
            if seen.begins_group {
                groups.push(0);
            }
            *groups.last_mut().unwrap() += part;
        }
        assert_eq!(all, messages.len(), "each is handed on");
        (groups, seen)
    }

    #[test]
    fn a_lost_message_begins_another_run() {
        let messages = [
            message(0, 5, 0),
            message(0, 6, 0),
            message(0, 8, 0),
            message(1, 0, 0),
        ];
        let (_, seen) = groups(&messages);
        let runs = seen.runs.iter();
        let found: Vec<_> = runs.map(|r| (r.queue, r.offsets(), r.first_row)).collect();
        assert_eq!(found, [(0, 5..7, 0), (0, 8..9, 2), (1, 0..1, 3)]);
    }

    #[test]
    fn a_row_group_ends_before_it_is_too_large() {
        let of = |bodies: &[usize]| {
            let messages = (0..).zip(bodies).map(|(at, &body)| message(0, at, body));
            groups(&messages.collect::<Vec<_>>()).0
        };
        assert_eq!(of(&[GROUP_BYTES_MAX / 3; 5]), [2, 2, 1]);
        assert_eq!(
            of(&[GROUP_BYTES_MAX + 1, 0, GROUP_BYTES_MAX + 1]),
            [1, 1, 1]
        );
        assert_eq!(of(&vec![0; GROUP_ROWS_MAX + 1]), [GROUP_ROWS_MAX, 1]);
    }
}
