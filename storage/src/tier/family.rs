//! A Parquet file that the topics of a family share: making it, and reading it from one end to the other.
//!
//! It is a file as any other, with two columns more, [`TOPIC_ID`] and [`TOPIC`], so that other engines tell the topics
//! apart. Rows are sorted by topic, queue and offset, and row groups hold rows of many topics: a group for each would
//! make the footer larger than the rows. A reader of one topic takes its rows by their numbers, as ever.
//!
//! **Invariants.** A run in the manifest is of a *lane*, a queue of a topic ([`crate::format::family`]). What reads whole
//! files (merging, erasing, checking) reads each once in its order, since opening every run by itself would decode each page
//! as often as topics have rows in it.
//!
//! Bytes: `storage/FORMAT.md`, Families.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use arrow::array::{Array as _, Int64Array, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use futures::StreamExt as _;
use millpond_proto::message::{QueueId, TopicId};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::arrow::arrow_writer::ArrowWriter;
use parquet::arrow::async_reader::{ParquetRecordBatchStream, ParquetRecordBatchStreamBuilder};
use parquet::basic::Encoding;
use parquet::errors::ParquetError;
use parquet::file::properties::EnabledStatistics;
use parquet::schema::types::ColumnPath;

use crate::format::columns::{FIELD_ID, schema, to_batch};
use crate::format::envelope::Envelope;
use crate::format::family::{Lane, Lanes};
use crate::format::manifest::{File, Run};
use crate::tier::parquet::{
    self as file, BATCH_BYTES, BATCH_ROWS_MAX, Bounds, CheckedFile, GROUP_BYTES_MAX,
    GROUP_ROWS_MAX, Made, Merge, WRITE_BATCH_UNKNOWN,
};

/// The column that holds a topic's id.
pub(crate) const TOPIC_ID: &str = "topic_id";
/// The column that holds a topic's name.
pub(crate) const TOPIC: &str = "topic";
/// Field id of [`TOPIC_ID`]: the one that the envelope has for it.
const TOPIC_ID_ID: u32 = 1;
/// Field id of [`TOPIC`].
const TOPIC_NAME_ID: u32 = 999;
/// Rows of a file decoded at once, little because many files are read side by side.
const ROWS_AT_ONCE: usize = 1024;

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let mut fields = fields();
    fields.extend(schema().fields().iter().map(|field| field.as_ref().clone()));
    Arc::new(Schema::new(fields))
});

/// The columns that tell topics apart.
pub(crate) fn fields() -> Vec<Field> {
    let field = |name: &str, data_type, id: u32| {
        Field::new(name, data_type, false)
            .with_metadata(HashMap::from([(FIELD_ID.to_owned(), id.to_string())]))
    };
    vec![
        field(TOPIC_ID, DataType::Int64, TOPIC_ID_ID),
        field(TOPIC, DataType::Utf8, TOPIC_NAME_ID),
    ]
}

/// Every column of a file, in order.
pub(crate) fn column_names() -> Vec<String> {
    SCHEMA.fields().iter().map(|f| f.name().clone()).collect()
}

/// What the topics of messages are called.
pub(crate) type Names = BTreeMap<TopicId, String>;

/// A file on its way.
pub(crate) struct Writer {
    writer: ArrowWriter<Vec<u8>>,
    runs: Vec<Run>,
    rows: u64,
    group_rows: usize,
    group_bytes: usize,
    stored: Option<(i64, i64)>,
    bodiless: u64,
    /// Rows that are written together.
    waiting: Vec<RecordBatch>,
    waiting_rows: usize,
}

impl Writer {
    pub(crate) fn new(family: TopicId) -> Result<Self, ParquetError> {
        let path = |name: &str| ColumnPath::new(vec![name.to_owned()]);
        let properties = file::properties(family, None, WRITE_BATCH_UNKNOWN)?
            .into_builder()
            // By numbers that are ordered without their sign; no reader needs to know.
            .set_sorting_columns(None)
            .set_column_encoding(path(TOPIC_ID), Encoding::DELTA_BINARY_PACKED)
            .set_column_dictionary_enabled(path(TOPIC), true)
            .set_column_statistics_enabled(path(TOPIC_ID), EnabledStatistics::Page)
            .set_column_statistics_enabled(path(TOPIC), EnabledStatistics::Page)
            .build();
        Ok(Self {
            writer: ArrowWriter::try_new(Vec::new(), Arc::clone(&SCHEMA), Some(properties))?,
            runs: Vec::new(),
            rows: 0,
            group_rows: 0,
            group_bytes: 0,
            stored: None,
            bodiless: 0,
            waiting: Vec::new(),
            waiting_rows: 0,
        })
    }

    /// Adds messages, sorted by topic, queue and offset and behind those that were added before.
    ///
    /// # Panics
    /// When a message's queue has no lane: whoever writes gives lanes first.
    pub(crate) fn add_messages(
        &mut self,
        messages: &[Envelope],
        lanes: &Lanes,
        names: &Names,
    ) -> Result<(), ParquetError> {
        let columns = file::column_names();
        let mut rest = messages;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |message: &&Envelope| {
                bytes += file::size_of(message);
                bytes <= BATCH_BYTES
            };
            let count = rest.iter().take(BATCH_ROWS_MAX).take_while(fits).count();
            let (part, left) = rest.split_at(count.max(1));
            rest = left;
            for message in part {
                let (topic, queue) = (TopicId(message.topic), QueueId(message.queue));
                let lane = lanes.of(topic, queue).expect("its lane was given");
                self.cover(lane, message.offset..message.offset + 1);
                let at = message.stored_at_ms;
                let (first, last) = self.stored.unwrap_or((at, at));
                self.stored = Some((first.min(at), last.max(at)));
            }
            self.write(&with_topics(&to_batch(part, &columns), part, names)?)?;
        }
        Ok(())
    }

    /// Adds rows of a lane, with all columns, that are its `offsets`.
    pub(crate) fn add_rows(
        &mut self,
        lane: u32,
        offsets: Range<u64>,
        batch: RecordBatch,
    ) -> Result<(), ParquetError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.cover(lane, offsets);
        self.waiting_rows += batch.num_rows();
        self.waiting.push(batch);
        if self.waiting_rows >= ROWS_AT_ONCE {
            self.write_waiting()?;
        }
        Ok(())
    }

    fn write_waiting(&mut self) -> Result<(), ParquetError> {
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting_rows = 0;
        if waiting.is_empty() {
            return Ok(());
        }
        let batch = concat_batches(&SCHEMA, &waiting)?;
        self.write(&batch)
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<(), ParquetError> {
        let sizes = batch.columns().iter();
        let sizes = sizes.map(|column| column.to_data().get_slice_memory_size());
        let bytes: usize = sizes.sum::<Result<usize, _>>()?;
        let is_full = self.group_bytes + bytes > GROUP_BYTES_MAX
            || self.group_rows + batch.num_rows() > GROUP_ROWS_MAX;
        if self.group_rows > 0 && is_full {
            self.writer.flush()?;
            (self.group_bytes, self.group_rows) = (0, 0);
        }
        let bodies = batch.column_by_name("body");
        self.bodiless += bodies.map_or(0, |bodies| bodies.null_count()) as u64;
        self.group_bytes += bytes;
        self.group_rows += batch.num_rows();
        self.writer.write(batch)
    }

    fn cover(&mut self, lane: u32, offsets: Range<u64>) {
        let count = offsets.end - offsets.start;
        match self.runs.last_mut() {
            Some(run) if run.queue == lane && run.offsets().end == offsets.start => {
                run.count += count;
            }
            _ => self
                .runs
                .push(Run::covering(lane, offsets, self.rows, count)),
        }
        self.rows += count;
    }

    /// Whether nothing was added.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Says between which store times rows lie that were not added as messages.
    pub(crate) fn stored_within(&mut self, files: &[File]) {
        let first = files
            .iter()
            .map(|file| file.stored_first_ms)
            .min()
            .flatten();
        let last = files.iter().map(|file| file.stored_last_ms);
        let last = last.collect::<Option<Vec<i64>>>();
        let last = last.and_then(|all| all.into_iter().max());
        self.stored = first.zip(last);
    }

    pub(crate) fn finish(mut self, key: String) -> Result<Made, ParquetError> {
        self.write_waiting()?;
        self.writer.flush()?;
        let known = Bounds {
            stored_first_ms: self.stored.map(|(first, _)| first),
            stored_last_ms: self.stored.map(|(_, last)| last),
            columns: 0,
            bodiless: self.bodiless,
        };
        file::finish(self.writer, key, self.runs, known)
    }
}

fn with_topics(
    batch: &RecordBatch,
    messages: &[Envelope],
    names: &Names,
) -> Result<RecordBatch, ArrowError> {
    let ids = messages.iter().map(|message| message.topic.cast_signed());
    // A topic that was deleted meanwhile has no name; its rows go soon.
    let name = |message: &Envelope| {
        names
            .get(&TopicId(message.topic))
            .map_or("", String::as_str)
    };
    let mut arrays: Vec<arrow::array::ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(ids)),
        Arc::new(StringArray::from_iter_values(messages.iter().map(name))),
    ];
    arrays.extend(batch.columns().iter().map(Arc::clone));
    RecordBatch::try_new(Arc::clone(&SCHEMA), arrays)
}

/// The envelope's columns of one batch behind the topics of another.
pub(crate) fn with_topics_of(
    topics: &RecordBatch,
    envelope: &RecordBatch,
) -> Result<RecordBatch, ParquetError> {
    let known = topics.columns().iter().take(fields().len());
    let arrays = known.chain(envelope.columns()).map(Arc::clone).collect();
    Ok(RecordBatch::try_new(Arc::clone(&SCHEMA), arrays)?)
}

/// A file being read from its first row on.
pub(crate) struct Rows {
    batches: ParquetRecordBatchStream<CheckedFile>,
    names: Vec<String>,
    rest: VecDeque<RecordBatch>,
}

impl Rows {
    pub(crate) fn open(
        checked: CheckedFile,
        footer: ArrowReaderMetadata,
    ) -> Result<Self, ParquetError> {
        let names = column_names();
        let columns = names.iter().map(String::as_str);
        let mask = ProjectionMask::columns(footer.parquet_schema(), columns);
        let batches = ParquetRecordBatchStreamBuilder::new_with_metadata(checked, footer)
            .with_projection(mask)
            .with_batch_size(ROWS_AT_ONCE)
            .build()?;
        Ok(Self {
            batches,
            names,
            rest: VecDeque::new(),
        })
    }

    /// The rows of a run, which must be the next ones and of its lane, with the offsets that each batch stands for.
    pub(crate) async fn take(
        &mut self,
        run: Run,
        lane: Lane,
    ) -> Result<Vec<(Range<u64>, RecordBatch)>, ParquetError> {
        let mut taken = Vec::new();
        let mut at = run.base;
        let mut left = usize::try_from(run.count).map_err(|_| file::damage("too many rows"))?;
        while left > 0 {
            let batch = match self.rest.pop_front() {
                Some(batch) => batch,
                None => match self.batches.next().await {
                    Some(batch) => {
                        file::arrange(&batch?, &self.names)?.with_schema(Arc::clone(&SCHEMA))?
                    }
                    None => return Err(file::damage("its rows end early")),
                },
            };
            let count = batch.num_rows().min(left);
            if count < batch.num_rows() {
                let behind = batch.num_rows() - count;
                self.rest.push_front(batch.slice(count, behind));
            }
            let batch = batch.slice(0, count);
            left -= count;
            let offsets = at..at + count as u64;
            at = offsets.end;
            Merge::check(lane.queue, &offsets, &batch)?;
            let ids = file::numbers(&batch, TOPIC_ID).unwrap_or_default();
            if ids.len() != count || ids.iter().any(|id| id.cast_unsigned() != lane.topic) {
                return Err(file::damage(
                    "its rows are of another topic than the manifest says",
                ));
            }
            taken.push((offsets, batch));
        }
        Ok(taken)
    }
}
