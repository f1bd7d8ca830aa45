//! One Parquet file of the cold tier: making it, and reading rows of it with every byte checked.
//!
//! **Invariants.** Rows keep the order of the messages. A row group holds at most
//! [`GROUP_BYTES_MAX`] of messages (or one larger message) and [`GROUP_ROWS_MAX`] rows. A reader gets
//! bytes only in whole blocks whose CRC32C is the manifest's, so a damaged file is an error and never
//! other data.
//!
//! Bytes: `storage/FORMAT.md`, Parquet file.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::datatypes::{DataType, Schema};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use millpond_proto::message::TopicId;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, RowSelection, RowSelector,
};
use parquet::arrow::arrow_writer::ArrowWriter;
use parquet::arrow::async_reader::{
    AsyncFileReader, ParquetRecordBatchStream, ParquetRecordBatchStreamBuilder,
};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{
    KeyValue, PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader, SortingColumn,
};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use crate::format::checksum::crc32c;
use crate::format::columns::{schema, to_batch};
use crate::format::envelope::{Envelope, Property, PropertyValue};
use crate::format::manifest::{BLOCK_BYTES, File, Run, block_checksums};
use crate::tier::columns::{Columns, file_schema, with_typed};

/// Most bytes of messages in a row group: what a reader holds in memory at once.
const GROUP_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most rows in a row group.
const GROUP_ROWS_MAX: usize = 65_536;
/// Size at which a page is closed: a reader of one message decompresses this much.
const PAGE_BYTES: usize = 128 * 1024;
/// Messages that become columns at once: little enough to stay in the processor's cache until they are written,
/// and what a page may be longer than meant.
const BATCH_BYTES: usize = 512 * 1024;
/// The same in rows.
const BATCH_ROWS_MAX: usize = 1024;
/// What a row counts for beside its texts and bytes.
const ROW_BYTES: usize = 32;
/// Most values between two looks at a page's size, when they are small.
const WRITE_BATCH_MAX: usize = 1024;
/// The same where their sizes are not known.
const WRITE_BATCH_UNKNOWN: usize = 64;
/// Bytes read at the end of a file in the hope that they hold its footer.
const FOOTER_HINT_BYTES: usize = 64 * 1024;
/// Parts of a file asked for at once.
const REQUESTS_MAX: usize = 16;
/// Rows decoded at once.
const BATCH_ROWS: usize = 8192;

/// Columns with a Bloom filter per row group: messages are looked up by them.
pub(crate) const INDEXED: [&str; 2] = ["message_id", "keys.list.element"];
/// Share of values that a filter does not rule out although they are not there. Filters are made for a full
/// row group and folded to what the values need.
const FILTER_FALSE_SHARE: f64 = 0.02;

/// A file that was made and not put anywhere yet.
#[derive(Debug)]
pub(crate) struct Made {
    /// Its bytes.
    pub(crate) bytes: Bytes,
    /// What a manifest says of it.
    pub(crate) file: File,
}

/// Makes the file that holds `messages` of one topic, sorted by queue and offset, with typed columns when
/// there are some.
pub(crate) fn make(
    key: String,
    topic: TopicId,
    messages: &[Envelope],
    typed: Option<&dyn Columns>,
) -> Result<Made, ParquetError> {
    let columns = column_names();
    let mut writer = writer(topic, typed, write_batch(messages))?;
    let mut seen = Seen::default();
    let mut rest = messages;
    while !rest.is_empty() {
        let part = seen.take(&mut rest);
        if seen.begins_group {
            writer.flush()?;
        }
        let batch = to_batch(part, &columns);
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
        bodiless: messages.iter().filter(|m| m.body.is_none()).count() as u64,
    };
    finish(writer, key, seen.runs, made)
}

/// What is known of the messages that went into a file. They are looked at once, part by part, right before they
/// become columns: walking over all of them costs as much as a column does.
#[derive(Default)]
struct Seen {
    runs: Vec<Run>,
    rows: u64,
    /// Least and greatest store time.
    stored: Option<(i64, i64)>,
    group_rows: usize,
    group_bytes: usize,
    /// Whether the last part is the first of a row group, but for the file's first.
    begins_group: bool,
}

impl Seen {
    /// Takes off the messages that become columns next: at least one, and all of one row group.
    ///
    /// # Panics
    /// When they are not sorted by queue and offset: the manifest would then point to other rows.
    fn take<'a>(&mut self, rest: &mut &'a [Envelope]) -> &'a [Envelope] {
        let (mut count, mut bytes) = (0, 0);
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
        }
        self.group_rows += count;
        self.group_bytes += bytes;
        let (part, left) = rest.split_at(count);
        *rest = left;
        part
    }

    fn add(&mut self, message: &Envelope) {
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
        self.rows += 1;
    }
}

fn writer(
    topic: TopicId,
    typed: Option<&dyn Columns>,
    write_batch: usize,
) -> Result<ArrowWriter<Vec<u8>>, ParquetError> {
    let properties = properties(topic, typed, write_batch)?;
    ArrowWriter::try_new(Vec::new(), file_schema(typed), Some(properties))
}

/// What a manifest says of a file beside its rows.
struct Bounds {
    stored_first_ms: Option<i64>,
    stored_last_ms: Option<i64>,
    columns: u64,
    bodiless: u64,
}

fn finish(
    writer: ArrowWriter<Vec<u8>>,
    key: String,
    runs: Vec<Run>,
    known: Bounds,
) -> Result<Made, ParquetError> {
    let bytes = writer.into_inner()?;
    let file = File {
        key,
        bytes: bytes.len() as u64,
        rows: runs.iter().map(|run| run.count).sum(),
        runs,
        blocks: block_checksums(&bytes),
        block_bytes: BLOCK_BYTES,
        stored_first_ms: known.stored_first_ms,
        stored_last_ms: known.stored_last_ms,
        added: 0,
        columns: known.columns,
        listed: 0,
        compacted: false,
        bodiless: Some(known.bodiless),
        hidden: false,
    };
    Ok(Made {
        bytes: bytes.into(),
        file,
    })
}

/// Every column of a file, in order.
pub(crate) fn column_names() -> Vec<&'static str> {
    static SCHEMA: std::sync::LazyLock<arrow::datatypes::SchemaRef> =
        std::sync::LazyLock::new(schema);
    SCHEMA.fields().iter().map(|f| f.name().as_str()).collect()
}

/// A file that is made of rows of others, without making messages of them.
pub(crate) struct Merge {
    writer: ArrowWriter<Vec<u8>>,
    runs: Vec<Run>,
    rows: u64,
    group_bytes: usize,
    group_rows: usize,
    columns: u64,
    bodiless: u64,
}

impl Merge {
    pub(crate) fn new(topic: TopicId, typed: Option<&dyn Columns>) -> Result<Self, ParquetError> {
        Ok(Self {
            writer: writer(topic, typed, WRITE_BATCH_UNKNOWN)?,
            runs: Vec::new(),
            rows: 0,
            group_bytes: 0,
            group_rows: 0,
            columns: typed.map_or(0, Columns::id),
            bodiless: 0,
        })
    }

    /// Adds rows, with all columns of the file, that must be of `queue` and are all that is left of `offsets`. Queues
    /// come in ascending order, and so do the offsets of each.
    pub(crate) fn add(
        &mut self,
        queue: u32,
        offsets: Range<u64>,
        batch: &RecordBatch,
    ) -> Result<(), ParquetError> {
        Self::check(queue, &offsets, batch)?;
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let bytes: usize = batch
            .columns()
            .iter()
            .map(|column| column.to_data().get_slice_memory_size())
            .sum::<Result<usize, _>>()?;
        let is_full = self.group_bytes + bytes > GROUP_BYTES_MAX
            || self.group_rows + batch.num_rows() > GROUP_ROWS_MAX;
        if self.group_rows > 0 && is_full {
            self.writer.flush()?;
            (self.group_bytes, self.group_rows) = (0, 0);
        }
        self.writer.write(batch)?;
        self.group_bytes += bytes;
        self.group_rows += batch.num_rows();
        let count = batch.num_rows() as u64;
        let bodies = batch.column_by_name("body");
        self.bodiless += bodies.map_or(0, |bodies| bodies.null_count()) as u64;
        match self.runs.last_mut() {
            Some(run) if run.queue == queue && run.offsets().end == offsets.start => {
                let all = run.base..offsets.end;
                *run = Run::covering(queue, all, run.first_row, run.count + count);
            }
            _ => {
                let run = Run::covering(queue, offsets, self.rows, count);
                self.runs.push(run);
            }
        }
        self.rows += count;
        Ok(())
    }

    /// Lets the last run cover `offsets` too, of which nothing is left; false when it does not end there.
    pub(crate) fn cover(&mut self, queue: u32, offsets: &Range<u64>) -> bool {
        match self.runs.last_mut() {
            Some(run) if run.queue == queue && run.offsets().end == offsets.start => {
                let all = run.base..offsets.end;
                *run = Run::covering(queue, all, run.first_row, run.count);
                true
            }
            _ => false,
        }
    }

    /// Where the last run of a queue ends.
    pub(crate) fn end_of(&self, queue: u32) -> Option<u64> {
        let last = self.runs.last().filter(|run| run.queue == queue)?;
        Some(last.offsets().end)
    }

    /// Whether nothing was added.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Whether all rows of a batch are of `queue`, and their offsets rise within `offsets`.
    pub(crate) fn check(
        queue: u32,
        offsets: &Range<u64>,
        batch: &RecordBatch,
    ) -> Result<(), ParquetError> {
        let wrong = || damage("its rows are not those that the manifest names");
        let queues = numbers(batch, "queue").ok_or_else(wrong)?;
        // Unsigned numbers are stored as the signed ones of the same bits.
        let is_of_queue = |&value: &i64| value == i64::from(queue.cast_signed());
        let mut next = offsets.start;
        let mut rises = |offset: u64| {
            let is_behind = offset >= next && offset < offsets.end;
            next = offset.saturating_add(1);
            is_behind
        };
        let found = offsets_of(batch).ok_or_else(wrong)?;
        if queues.iter().all(is_of_queue) && found.into_iter().all(&mut rises) {
            return Ok(());
        }
        Err(wrong())
    }

    /// The file, with the least and greatest store time of what it was made of.
    pub(crate) fn finish(
        self,
        key: String,
        stored_first_ms: Option<i64>,
        stored_last_ms: Option<i64>,
    ) -> Result<Made, ParquetError> {
        let known = Bounds {
            stored_first_ms,
            stored_last_ms,
            columns: self.columns,
            bodiless: self.bodiless,
        };
        finish(self.writer, key, self.runs, known)
    }
}

/// Bytes of a message, without what each row has.
fn size_of(message: &Envelope) -> usize {
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

/// How many values a sixteenth of a page holds, judged by the first messages.
fn write_batch(messages: &[Envelope]) -> usize {
    let first = messages.get(..BATCH_ROWS_MAX).unwrap_or(messages);
    let bytes: usize = first.iter().map(size_of).sum();
    (PAGE_BYTES / 16 * first.len() / bytes.max(1)).clamp(1, WRITE_BATCH_MAX)
}

fn numbers(batch: &RecordBatch, column: &str) -> Option<Vec<i64>> {
    let values = batch.column_by_name(column)?;
    let values = arrow::compute::cast(values, &DataType::Int64).ok()?;
    let values = values.as_primitive_opt::<arrow::datatypes::Int64Type>()?;
    Some(values.values().to_vec())
}

/// The offsets of a batch's rows; none when it has no such column.
pub(crate) fn offsets_of(batch: &RecordBatch) -> Option<Vec<u64>> {
    let offsets = numbers(batch, "offset")?.into_iter();
    Some(offsets.map(i64::cast_unsigned).collect())
}

fn properties(
    topic: TopicId,
    typed: Option<&dyn Columns>,
    write_batch: usize,
) -> Result<WriterProperties, ParquetError> {
    let path = |name: &str| ColumnPath::new(name.split('.').map(str::to_owned).collect());
    let sorted = |column_idx| SortingColumn {
        column_idx,
        descending: false,
        nulls_first: false,
    };
    let mut builder = WriterProperties::builder()
        .set_created_by(concat!("millpond ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_max_row_group_row_count(Some(GROUP_ROWS_MAX))
        .set_data_page_size_limit(PAGE_BYTES)
        .set_write_batch_size(write_batch)
        .set_dictionary_enabled(false)
        .set_column_dictionary_enabled(path("tag"), true)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_sorting_columns(Some(vec![sorted(0), sorted(1)]))
        .set_key_value_metadata(Some(vec![
            KeyValue::new("millpond.format".to_owned(), "1".to_owned()),
            KeyValue::new("millpond.topic".to_owned(), topic.to_string()),
        ]));
    for name in ["queue", "offset", "stored_at", "born_at"] {
        builder = builder
            .set_column_encoding(path(name), Encoding::DELTA_BINARY_PACKED)
            .set_column_statistics_enabled(path(name), EnabledStatistics::Page);
    }
    for name in INDEXED {
        builder = builder
            .set_column_bloom_filter_enabled(path(name), true)
            .set_column_bloom_filter_fpp(path(name), FILTER_FALSE_SHARE);
    }
    for name in ["flags", "schema_id"] {
        builder = builder.set_column_encoding(path(name), Encoding::DELTA_BINARY_PACKED);
    }
    // Of what differs from row to row, or is the same in all, least and greatest rule out nothing.
    for name in [
        "message_id",
        "tag",
        "born_host",
        "body",
        "keys.list.element",
        "properties.list.element.key",
        "properties.list.element.text",
        "properties.list.element.binary",
    ] {
        builder = builder.set_column_statistics_enabled(path(name), EnabledStatistics::None);
    }
    // Typed columns: few different texts are common, and a name may hold a dot.
    let texts = typed.into_iter().flat_map(Columns::columns);
    for column in texts.filter(|column| column.data_type == DataType::Utf8) {
        let path = ColumnPath::new(vec![column.stored_name()]);
        builder = builder.set_column_dictionary_enabled(path, true);
    }
    Ok(builder.build())
}

/// Bytes that are not those that were written.
#[derive(Debug, thiserror::Error)]
#[error("{what}; restore the file from a copy")]
struct Damage {
    what: &'static str,
}

fn damage(what: &'static str) -> ParquetError {
    ParquetError::External(Box::new(Damage { what }))
}

fn is_damage(error: &ParquetError) -> bool {
    matches!(error, ParquetError::External(source) if source.is::<Damage>())
}

/// What the object store said, when that is why a file could not be read; otherwise the file is damaged.
pub(crate) fn store_error(error: ParquetError) -> Result<object_store::Error, ParquetError> {
    match error {
        ParquetError::External(source) => match source.downcast() {
            Ok(source) => Ok(*source),
            Err(source) => Err(ParquetError::External(source)),
        },
        error => Err(error),
    }
}

/// Reads a file in blocks whose checksums hold.
#[derive(Clone, Debug)]
pub(crate) struct CheckedFile {
    store: Arc<dyn ObjectStore>,
    path: Path,
    bytes: u64,
    blocks: Arc<[u32]>,
    block_bytes: u64,
}

impl CheckedFile {
    pub(crate) fn new(store: &Arc<dyn ObjectStore>, file: &File) -> Self {
        Self {
            store: Arc::clone(store),
            path: Path::from(file.key.as_str()),
            bytes: file.bytes,
            blocks: file.blocks.as_slice().into(),
            block_bytes: file.bytes_of_a_block(),
        }
    }

    /// The whole file.
    pub(crate) async fn all(&self) -> Result<Bytes, ParquetError> {
        let whole = 0..self.bytes;
        let mut bytes = self.fetch(Vec::from([whole])).await?;
        bytes.pop().ok_or_else(|| damage("nothing was read"))
    }

    async fn fetch(&self, ranges: Vec<Range<u64>>) -> Result<Vec<Bytes>, ParquetError> {
        let spans = self.spans(&ranges)?;
        let fetched = match self.fetch_spans(&spans).await {
            // It may have happened on the way: what the store answers twice is what it holds.
            Err(error) if is_damage(&error) => self.fetch_spans(&spans).await?,
            fetched => fetched?,
        };
        let cut = |range: Range<u64>| {
            let (span, bytes) = spans
                .iter()
                .zip(&fetched)
                .find(|(span, _)| span.start <= range.start && range.end <= span.end)
                .ok_or_else(|| damage("a range lies outside the file"))?;
            let index = |at: u64| usize::try_from(at - span.start).map_err(|_| damage("too long"));
            Ok(bytes.slice(index(range.start)?..index(range.end)?))
        };
        ranges.into_iter().map(cut).collect()
    }

    /// Whole blocks, all asked for at once, each with its checksum checked.
    async fn fetch_spans(&self, spans: &[Range<u64>]) -> Result<Vec<Bytes>, ParquetError> {
        let request = |span: &Range<u64>| {
            let span = span.clone();
            async move {
                let bytes = self.store.get_range(&self.path, span.clone()).await;
                let bytes = bytes.map_err(|error| ParquetError::External(Box::new(error)))?;
                self.check(&span, &bytes)?;
                Ok(bytes)
            }
            .boxed()
        };
        let requests: Vec<BoxFuture<'_, _>> = spans.iter().map(request).collect();
        stream::iter(requests)
            .buffered(REQUESTS_MAX)
            .try_collect()
            .await
    }

    /// The whole blocks that cover the ranges, neighbours joined.
    fn spans(&self, ranges: &[Range<u64>]) -> Result<Vec<Range<u64>>, ParquetError> {
        let mut blocks = BTreeSet::new();
        for range in ranges {
            if range.start > range.end || range.end > self.bytes {
                return Err(damage("a range lies outside the file"));
            }
            blocks.extend(range.start / self.block_bytes..range.end.div_ceil(self.block_bytes));
        }
        let mut spans: Vec<Range<u64>> = Vec::new();
        for block in blocks {
            let start = block * self.block_bytes;
            let end = (start + self.block_bytes).min(self.bytes);
            match spans.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => spans.push(start..end),
            }
        }
        Ok(spans)
    }

    fn check(&self, span: &Range<u64>, bytes: &Bytes) -> Result<(), ParquetError> {
        if bytes.len() as u64 != span.end - span.start {
            return Err(damage("the file is shorter than it was written"));
        }
        let block = usize::try_from(self.block_bytes).map_err(|_| damage("too long"))?;
        let first =
            usize::try_from(span.start / self.block_bytes).map_err(|_| damage("too long"))?;
        let expected = self.blocks.iter().skip(first);
        let mut chunks = bytes.chunks(block);
        let checked = chunks.by_ref().zip(expected);
        for (chunk, expected) in checked {
            if crc32c(&[chunk]) != *expected {
                return Err(damage("a checksum differs"));
            }
        }
        match chunks.next() {
            None => Ok(()),
            Some(_) => Err(damage("a checksum is missing")),
        }
    }
}

impl AsyncFileReader for CheckedFile {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async move {
            let mut bytes = self.fetch(vec![range]).await?;
            bytes.pop().ok_or_else(|| damage("nothing was read"))
        }
        .boxed()
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        self.fetch(ranges).boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move {
            let bytes = self.bytes;
            let reader = ParquetMetaDataReader::new()
                .with_offset_index_policy(PageIndexPolicy::Required)
                .with_column_index_policy(PageIndexPolicy::Skip)
                .with_prefetch_hint(Some(FOOTER_HINT_BYTES));
            Ok(Arc::new(reader.load_and_finish(self, bytes).await?))
        }
        .boxed()
    }
}

/// Reads and checks the footer of a file.
pub(crate) async fn footer(
    mut checked: CheckedFile,
    file: &File,
) -> Result<ArrowReaderMetadata, ParquetError> {
    let footer = ArrowReaderMetadata::load_async(&mut checked, ArrowReaderOptions::new()).await?;
    if u64::try_from(footer.metadata().file_metadata().num_rows()) != Ok(file.rows) {
        return Err(damage("the footer counts other rows than the manifest"));
    }
    Ok(footer)
}

/// Batches of `rows` of a file, each with the columns named, in that order.
pub(crate) fn batches(
    checked: CheckedFile,
    footer: ArrowReaderMetadata,
    rows: Range<u64>,
    columns: &[&str],
) -> Result<ParquetRecordBatchStream<CheckedFile>, ParquetError> {
    let some = batches_of(checked, footer, rows, columns, |_| true)?;
    some.map(|(batches, _)| batches)
        .ok_or_else(|| damage("its rows end early"))
}

/// As [`batches`], of the row groups only that `is_kept` says; also how many rows they are. None when no
/// row group is left.
pub(crate) fn batches_of(
    checked: CheckedFile,
    footer: ArrowReaderMetadata,
    rows: Range<u64>,
    columns: &[&str],
    is_kept: impl Fn(usize) -> bool,
) -> Result<Option<(ParquetRecordBatchStream<CheckedFile>, u64)>, ParquetError> {
    let count = |rows: u64| usize::try_from(rows).map_err(|_| damage("too many rows"));
    let mask = ProjectionMask::columns(footer.parquet_schema(), columns.iter().copied());
    // Only the row groups that hold rows asked for: the others need no selectors then.
    let (mut groups, mut selectors, mut selected) = (Vec::new(), Vec::new(), 0);
    let mut start = 0;
    for (index, group) in footer.metadata().row_groups().iter().enumerate() {
        let end = start + u64::try_from(group.num_rows()).map_err(|_| damage("negative rows"))?;
        let wanted = start.max(rows.start)..end.min(rows.end);
        if wanted.start < wanted.end && is_kept(index) {
            groups.push(index);
            selectors.push(RowSelector::skip(count(wanted.start - start)?));
            selectors.push(RowSelector::select(count(wanted.end - wanted.start)?));
            selectors.push(RowSelector::skip(count(end - wanted.end)?));
            selected += wanted.end - wanted.start;
        }
        start = end;
    }
    if start < rows.end {
        return Err(damage("its rows end early"));
    }
    if groups.is_empty() {
        return Ok(None);
    }
    let batches = ParquetRecordBatchStreamBuilder::new_with_metadata(checked, footer)
        .with_row_groups(groups)
        .with_row_selection(RowSelection::from(selectors))
        .with_projection(mask)
        .with_batch_size(BATCH_ROWS)
        .build()?;
    Ok(Some((batches, selected)))
}

/// Brings the columns of a batch as read into the order asked for.
pub(crate) fn arrange(
    batch: &RecordBatch,
    columns: &[String],
) -> Result<RecordBatch, ParquetError> {
    let mut fields = Vec::with_capacity(columns.len());
    let mut arrays = Vec::with_capacity(columns.len());
    for name in columns {
        let column = batch.schema_ref().column_with_name(name);
        let (at, field) = column.ok_or_else(|| damage("a column is missing"))?;
        // The envelope's columns are as they are in the log, whatever a reader of files makes of their fields.
        let field = schema().field_with_name(name).unwrap_or(field).clone();
        fields.push(field);
        arrays.push(Arc::clone(batch.column(at)));
    }
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let schema = Arc::new(Schema::new(fields));
    Ok(RecordBatch::try_new_with_options(schema, arrays, &options)?)
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
        let (mut seen, mut rest, mut groups) = (Seen::default(), messages, vec![0]);
        while !rest.is_empty() {
            let part = seen.take(&mut rest).len();
            if seen.begins_group {
                groups.push(0);
            }
            *groups.last_mut().unwrap() += part;
        }
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

    #[test]
    fn only_the_tag_has_a_dictionary_and_bodies_have_no_statistics() {
        let messages: Vec<_> = (0..1000).map(|offset| message(0, offset, 1000)).collect();
        let made = make("a".to_owned(), TopicId(7), &messages, None).unwrap();
        let read = ParquetMetaDataReader::new()
            .with_page_index_policy(PageIndexPolicy::Required)
            .parse_and_finish(&made.bytes)
            .unwrap();
        let group = read.row_group(0);
        for column in group.columns() {
            let name = column.column_path().string();
            let dictionary = column.dictionary_page_offset().is_some();
            assert!(!dictionary || name == "tag", "{name}");
            if ["message_id", "tag", "born_host", "body"].contains(&name.as_str())
                || name.starts_with("properties")
                || name.starts_with("keys.")
            {
                assert!(column.statistics().is_none(), "{name}");
            }
        }
        let body = schema().index_of("body").unwrap();
        let leaf = group
            .columns()
            .iter()
            .position(|c| c.column_path().string() == "body");
        let pages = read.offset_index().unwrap()[0][leaf.unwrap()].page_locations();
        assert!(pages.len() >= 6, "{} pages of column {body}", pages.len());
    }
}
