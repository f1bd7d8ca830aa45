//! Batches of envelopes on their way in: decoded, freed of what does not parse, cut into ticks.
//!
//! What is done here to a batch depends on nothing but that batch, so all batches of an epoch are done side by
//! side: the body is read, the query's first filters and projections are run, and each row learns its
//! lane. A query without state ends here, as messages.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::{Array, BinaryArray, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::{cast, filter_record_batch, is_null, max, min, not, nullif};
use arrow::datatypes::DataType;
use millpond_connectors::format::body::BodyEncoder;
use millpond_proto::message::QueueId;

use crate::catalog::{BODY, DECODE_ERROR};
use crate::decode::TopicDecoder;
use crate::error::SqlError;
use crate::job::error::JobError;
use crate::job::reader::{missing, offsets};
use crate::operator::key::milliseconds;
use crate::operator::project::Transform;
use crate::operator::spread::Router;
use crate::plan::source::{Input, Undecodable};
use crate::progress::tick_of;
use crate::topic::OutputRow;
use millpond_storage::tier::cold::typed::Reads;

/// Envelope columns that a region needs whatever the query reads.
const ALWAYS: &[&str] = &["offset", "stored_at"];

/// What else it needs where rows pass through with the keys that they came with,
const PASSED_ON: &[&str] = &["key"];

/// and where a late row goes to the side topic as it came.
const SET_ASIDE: &[&str] = &["key", "tag", "body", "properties"];

/// How the rows of one topic come in.
#[derive(Debug)]
pub(crate) struct Intake {
    decoder: TopicDecoder,
    input: Input,
    /// Whether a row without time is counted.
    windowed: bool,
    /// Envelope columns that are read besides.
    besides: &'static [&'static str],
    /// Writes the rows at once, for a query without state.
    encoder: Option<BodyEncoder>,
    /// The query's first filters and projections.
    first: Option<Transform>,
    /// Which lane a row is for, among so many.
    router: Option<(Router, usize)>,
}

/// Rows of one batch, taken in.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) input: usize,
    pub(crate) queue: QueueId,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    pub(crate) rows_undecodable: u64,
    /// The first of those: its tick, and what to tell.
    pub(crate) first_undecodable: Option<(i64, String)>,
    pub(crate) ticks: Vec<TickPart>,
    /// What is left for the query to compute, in the order of the log.
    pub(crate) table: RecordBatch,
    /// For each row of it the envelope's; `None`: the same.
    kept: Option<Vec<u32>>,
    /// Milliseconds that it took.
    pub(crate) busy_ms: u64,
    /// The envelopes that parse.
    pub(crate) envelope: RecordBatch,
    /// For each lane its rows of the table; empty: all are one lane's.
    pub(crate) by_lane: Vec<Vec<u32>>,
    /// Of a query without state, what leaves.
    pub(crate) left: Vec<OutputRow>,
}

/// Rows of one tick.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TickPart {
    pub(crate) tick_ms: i64,
    /// Which rows of [`Taken::table`].
    pub(crate) rows: Range<usize>,
    pub(crate) least_ms: Option<i64>,
    pub(crate) greatest_ms: Option<i64>,
    pub(crate) rows_without_time: u64,
}

impl Taken {
    /// Row `row` of the table as it came.
    pub(crate) fn envelope_row(&self, row: usize) -> usize {
        match &self.kept {
            Some(kept) => kept[row] as usize,
            None => row,
        }
    }

    /// A table of one input by itself, in one tick and lane.
    pub(crate) fn alone(input: usize, table: RecordBatch) -> Self {
        let part = TickPart {
            tick_ms: 0,
            rows: 0..table.num_rows(),
            least_ms: None,
            greatest_ms: None,
            rows_without_time: 0,
        };
        Self {
            input,
            queue: QueueId(0),
            rows: 0,
            bytes: 0,
            rows_undecodable: 0,
            first_undecodable: None,
            ticks: vec![part],
            busy_ms: 0,
            envelope: table.clone(),
            table,
            kept: None,
            by_lane: Vec::new(),
            left: Vec::new(),
        }
    }
}

impl Intake {
    /// How the rows of `input` come in.
    ///
    /// # Errors
    /// [`SqlError`] when the topic's declaration can not be read.
    pub(crate) fn new(input: &Input, windowed: bool) -> Result<Self, SqlError> {
        Ok(Self {
            decoder: TopicDecoder::new(&input.source, &input.decoded)?,
            input: input.clone(),
            windowed,
            besides: &[],
            encoder: None,
            first: None,
            router: None,
        })
    }

    /// Runs these filters and projections.
    pub(crate) fn through(self, first: Transform) -> Self {
        Self {
            first: Some(first),
            ..self
        }
    }

    /// Writes what is left at once.
    pub(crate) fn writing(self, encoder: BodyEncoder) -> Self {
        Self {
            encoder: Some(encoder),
            besides: PASSED_ON,
            ..self
        }
    }

    /// Keeps what a late row is written of.
    pub(crate) fn setting_aside(self) -> Self {
        Self {
            besides: SET_ASIDE,
            ..self
        }
    }

    /// Tells each row its lane, among so many.
    pub(crate) fn routed(self, router: Router, lanes: usize) -> Self {
        Self {
            router: Some((router, lanes)),
            ..self
        }
    }

    /// What it must be given of a row.
    pub(crate) fn reads(&self) -> Reads {
        let with = |names: &mut Vec<String>| {
            for name in ALWAYS.iter().chain(self.besides) {
                if !names.iter().any(|known| known == name) {
                    names.push((*name).to_owned());
                }
            }
        };
        let envelope = self.decoder.envelope_columns().into_iter();
        let mut envelope: Vec<String> = envelope.map(str::to_owned).collect();
        with(&mut envelope);
        let mut typed = self.decoder.typed();
        if let Some(typed) = &mut typed {
            with(&mut typed.envelope);
        }
        Reads { envelope, typed }
    }

    /// Takes a batch in.
    ///
    /// # Errors
    /// [`JobError`] when a row can not be computed, with its place.
    pub(crate) fn take(
        &self,
        input: usize,
        queue: QueueId,
        envelope: &RecordBatch,
    ) -> Result<Taken, JobError> {
        let stored_at = envelope.column_by_name("stored_at");
        let stored_at = milliseconds(stored_at.ok_or_else(|| missing("stored_at"))?)?;
        let decoded = self.decoder.decode(envelope)?.batch;
        let rows = decoded.num_rows();
        let mut taken = Taken {
            rows: rows as u64,
            bytes: body_bytes(envelope),
            queue,
            ..Taken::alone(input, decoded)
        };
        taken.envelope = envelope.clone();
        let stored_at = self.leave_out(&mut taken, stored_at)?;
        taken.ticks = self.ticks(&taken.table, &stored_at)?;
        let columns: Vec<usize> = (0..self.input.query_columns).collect();
        taken.table = taken.table.project(&columns)?;
        self.compute(&mut taken)?;
        Ok(taken)
    }

    /// Counts rows whose body does not parse, and leaves them out unless the query asks for them or they end the row of their key; answers
    /// when the others were stored.
    fn leave_out(&self, taken: &mut Taken, stored_at: Int64Array) -> Result<Int64Array, JobError> {
        let Some(errors) = taken.table.column_by_name(DECODE_ERROR) else {
            return Ok(stored_at);
        };
        let bad = errors.len() - errors.null_count();
        if bad == 0 {
            return Ok(stored_at);
        }
        taken.rows_undecodable = bad as u64;
        let good: BooleanArray = is_null(errors)?;
        if let Some(row) = (0..good.len()).find(|row| !good.value(*row)) {
            let errors: &StringArray = errors.as_string();
            let offset = offsets(&taken.envelope)?.value(row);
            let told = format!("{}{}", errors.value(row), self.place(taken.queue, offset));
            taken.first_undecodable = Some((tick_of(stored_at.value(row)), told));
        }
        match self.input.undecodable {
            Undecodable::Shown => return Ok(stored_at),
            Undecodable::Deletes => {
                taken.table = without_bodies(&taken.table, &not(&good)?)?;
                return Ok(stored_at);
            }
            Undecodable::LeftOut => {}
        }
        taken.table = filter_record_batch(&taken.table, &good)?;
        taken.envelope = filter_record_batch(&taken.envelope, &good)?;
        let times = arrow::compute::filter(&stored_at, &good)?;
        Ok(times.as_primitive().clone())
    }

    fn ticks(
        &self,
        table: &RecordBatch,
        stored_at: &Int64Array,
    ) -> Result<Vec<TickPart>, JobError> {
        let times = match self.input.time_column {
            Some(column) => Some(milliseconds(table.column(column))?),
            None => None,
        };
        let rows = table.num_rows();
        let part = |tick_ms: i64, rows: Range<usize>| {
            let times = times.as_ref();
            let times = times.map(|times| times.slice(rows.start, rows.len()));
            let without = times.as_ref().filter(|_| self.windowed);
            TickPart {
                tick_ms,
                rows,
                least_ms: times.as_ref().and_then(min),
                greatest_ms: times.as_ref().and_then(max),
                rows_without_time: without.map_or(0, |times| times.null_count() as u64),
            }
        };
        if self.encoder.is_some() {
            // Time means nothing to it, and few rows at a time would cost much.
            return Ok(vec![part(0, 0..rows)]);
        }
        let mut ticks = Vec::new();
        let mut start = 0;
        while start < rows {
            let tick_ms = tick_of(stored_at.value(start));
            let rest = &stored_at.values()[start..];
            let count = rest.partition_point(|stored_at| tick_of(*stored_at) <= tick_ms);
            // A store time that went back would belong to an earlier tick, and the order were lost.
            assert!(count > 0, "store times of a queue never go back");
            ticks.push(part(tick_ms, start..start + count));
            start += count;
        }
        Ok(ticks)
    }

    /// Runs the query's first steps, and tells each row its lane or writes it.
    fn compute(&self, taken: &mut Taken) -> Result<(), JobError> {
        if let Some(first) = &self.first {
            let run = first.run(&taken.table);
            let (table, kept) = run.map_err(|error| {
                let fails = |row| first.run(&taken.table.slice(row, 1)).is_err();
                self.failed(taken, error.into(), fails)
            })?;
            for tick in &mut taken.ticks {
                let at = |row: usize| kept.partition_point(|kept| (*kept as usize) < row);
                tick.rows = at(tick.rows.start)..at(tick.rows.end);
            }
            (taken.table, taken.kept) = (table, Some(kept));
        }
        if let Some((router, lanes)) = &self.router {
            let split = router.split(&taken.table, *lanes);
            taken.by_lane = split.map_err(|error| {
                let fails = |row| router.split(&taken.table.slice(row, 1), *lanes).is_err();
                self.failed(taken, error, fails)
            })?;
        }
        if let Some(encoder) = &self.encoder {
            taken.left = passed_on(encoder, taken)?;
        }
        Ok(())
    }

    /// An error with the place of the first row that fails by itself.
    fn failed(
        &self,
        taken: &Taken,
        error: crate::operator::OperatorError,
        fails: impl Fn(usize) -> bool,
    ) -> JobError {
        let row = (0..taken.table.num_rows()).find(|row| fails(*row));
        let place = row.and_then(|row| self.place_of(taken, row));
        JobError::Operator {
            error,
            place: place.unwrap_or_default(),
        }
    }

    /// Where a row of the table was read.
    pub(crate) fn place_of(&self, taken: &Taken, row: usize) -> Option<String> {
        let offsets = offsets(&taken.envelope).ok()?;
        Some(self.place(taken.queue, offsets.value(taken.envelope_row(row))))
    }

    fn place(&self, queue: QueueId, offset: u64) -> String {
        let topic = &self.input.source.name;
        format!(" at offset {offset} in queue {queue} of topic {topic}")
    }
}

/// Rows of which some are deletions from now on.
fn without_bodies(table: &RecordBatch, bad: &BooleanArray) -> Result<RecordBatch, SqlError> {
    let schema = table.schema();
    let columns = schema.fields().iter().zip(table.columns());
    let columns = columns.map(|(field, column)| match field.name() == BODY {
        true => nullif(column, bad),
        false => Ok(Arc::clone(column)),
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    Ok(RecordBatch::try_new(schema, columns)?)
}

/// Rows as messages, with the keys that they came with.
fn passed_on(encoder: &BodyEncoder, taken: &Taken) -> Result<Vec<OutputRow>, JobError> {
    let bodies = encoder.encode(&taken.table).map_err(SqlError::from)?;
    let keys = taken.envelope.column_by_name("key");
    let keys = cast(keys.ok_or_else(|| missing("key"))?, &DataType::Binary)?;
    let keys: &BinaryArray = keys.as_binary();
    let rows = bodies.into_iter().enumerate().map(|(index, body)| {
        let row = taken.envelope_row(index);
        let key = keys.is_valid(row).then(|| keys.value(row));
        OutputRow {
            key: key.map(bytes::Bytes::copy_from_slice),
            body: Some(body),
            properties: Vec::new(),
        }
    });
    Ok(rows.collect())
}

/// Bytes of the bodies of a batch, or of the columns that were read in their place.
fn body_bytes(batch: &RecordBatch) -> u64 {
    let Some(body) = batch.column_by_name("body") else {
        let columns = batch.columns().iter();
        let bytes = columns.map(|column| column.to_data().get_slice_memory_size().unwrap_or(0));
        return bytes.sum::<usize>() as u64;
    };
    body.as_binary_opt::<i32>().map_or(0, |bodies| {
        let offsets = bodies.value_offsets();
        let (first, last) = (offsets.first(), offsets.last());
        u64::try_from(last.unwrap_or(&0) - first.unwrap_or(&0)).unwrap_or(0)
    })
}

/// Intakes of all inputs.
pub(crate) type Intakes = Arc<[Intake]>;
