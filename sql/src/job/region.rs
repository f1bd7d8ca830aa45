//! One epoch of a continuous query, without I/O: envelopes in, prepared output rows out.
//!
//! Rows are taken tick by tick, within a tick by (queue, offset): an order that is the log's alone. The
//! rows of a tick are judged by the watermark before it, then the watermark moves and windows close. So
//! the output does not depend on where epochs were cut, except that an updating query emits at their ends. To a
//! query without state ticks mean nothing: it is given the rows of an epoch at once, by (queue, offset).

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::{
    Array, BinaryArray, BooleanArray, ListArray, RecordBatch, StringArray, StructArray,
};
use arrow::compute::{cast, concat, concat_batches, filter_record_batch, is_null, max};
use arrow::datatypes::DataType;
use bytes::Bytes;
use millpond_connectors::format::body::{BodyEncoder, Encoding};
use millpond_proto::message::QueueId;
use millpond_proto::time::Timestamp;

use crate::catalog::DECODE_ERROR;
use crate::continuous::OperatorStatus;
use crate::decode::TopicDecoder;
use crate::error::SqlError;
use crate::job::error::JobError;
use crate::job::reader::{missing, offsets};
use crate::operator::key::milliseconds;
use crate::operator::{Emission, Keys, Late, Operator, OperatorError, Output, StepFigures};
use crate::plan::continuous::ContinuousPlan;
use crate::progress::{Watermark, tick_of};
use crate::state::checkpoint::Counts;
use crate::topic::OutputRow;

/// Envelope columns that a region needs whatever the query reads.
const ALWAYS: [&str; 5] = ["offset", "stored_at", "key", "body", "properties"];

/// Those of them that it needs when no row can be late: rows pass through with the keys they came with.
const PASSED_ON: [&str; 3] = ["offset", "stored_at", "key"];

/// What an epoch leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Rows for the output topic.
    pub rows: Vec<OutputRow>,
    /// Rows for the side topic.
    pub late: Vec<OutputRow>,
}

/// A query's computation with its state.
#[derive(Debug)]
pub struct Region {
    plan: ContinuousPlan,
    operator: Box<dyn Operator>,
    inputs: Vec<Source>,
    counts: Counts,
    /// Rows that were written before this run.
    written_before: u64,
    encoder: BodyEncoder,
}

/// One topic that is read.
#[derive(Debug)]
struct Source {
    decoder: TopicDecoder,
    watermark: Watermark,
    rows: u64,
    rows_undecodable: u64,
    bytes: u64,
}

/// Batches of a queue, and which input of the query it belongs to.
#[derive(Debug)]
pub struct Arrived {
    /// Index of the input.
    pub input: usize,
    /// The queue.
    pub queue: QueueId,
    /// Envelopes in order.
    pub batches: Vec<RecordBatch>,
}

/// Rows of one tick and queue.
struct Piece {
    input: usize,
    queue: QueueId,
    table: RecordBatch,
    envelope: RecordBatch,
}

impl Region {
    /// A region that has seen nothing, and writes bodies as `output` says.
    ///
    /// # Errors
    /// [`SqlError`] when a topic's declaration can not be read.
    pub fn new(plan: ContinuousPlan, output: &Encoding) -> Result<Self, SqlError> {
        let mut inputs = Vec::new();
        for input in &plan.inputs {
            let spec = input.source.watermark.as_ref();
            inputs.push(Source {
                decoder: TopicDecoder::new(&input.source, &input.decoded)?,
                watermark: Watermark::new(spec.map_or(0, |spec| spec.delay_ms)),
                rows: 0,
                rows_undecodable: 0,
                bytes: 0,
            });
        }
        Ok(Self {
            operator: plan.operator()?,
            inputs,
            counts: Counts::default(),
            written_before: 0,
            encoder: BodyEncoder::new(output)?,
            plan,
        })
    }

    /// Goes on from a checkpoint; the greatest event times are in the order of the inputs.
    ///
    /// # Errors
    /// [`OperatorError::OtherState`] when it was saved by another query.
    pub fn restore(
        &mut self,
        greatest_ms: &[Option<i64>],
        counts: Counts,
        state: Option<&RecordBatch>,
    ) -> Result<(), OperatorError> {
        for (index, source) in self.inputs.iter_mut().enumerate() {
            let greatest_ms = greatest_ms.get(index).copied().flatten();
            source.watermark = source.watermark.resumed(greatest_ms);
        }
        self.written_before = counts.rows_out;
        self.counts = counts;
        match state {
            Some(state) => self.operator.restore(state, self.watermark()),
            None => Ok(()),
        }
    }

    /// Names of the envelope columns that [`Region::epoch`] must be given.
    #[must_use]
    pub fn envelope_columns(&self, input: usize) -> Vec<String> {
        let always = match self.plan.is_stateless() {
            true => &PASSED_ON[..],
            false => &ALWAYS,
        };
        let mut columns: Vec<String> = always.iter().map(|name| (*name).to_owned()).collect();
        for name in self.inputs[input].decoder.envelope_columns() {
            if !columns.iter().any(|column| column == name) {
                columns.push(name.to_owned());
            }
        }
        columns
    }

    /// Where the watermark stands: no input expects an earlier event. `None` before each has one.
    #[must_use]
    pub fn watermark(&self) -> Option<Timestamp> {
        let each = self.inputs.iter().map(|source| source.watermark.at());
        each.min().flatten()
    }

    fn watermarks(&self) -> Vec<Option<Timestamp>> {
        let each = self.inputs.iter();
        each.map(|source| source.watermark.at()).collect()
    }

    /// The greatest event time of each input, in milliseconds.
    #[must_use]
    pub fn greatest_ms(&self) -> Vec<Option<i64>> {
        let each = self.inputs.iter();
        each.map(|source| source.watermark.greatest_ms()).collect()
    }

    /// What was counted.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Its steps, from what it reads to what it writes.
    #[must_use]
    pub fn figures(&self, output: &str) -> Vec<OperatorStatus> {
        let mut figures = Vec::new();
        for (source, input) in self.inputs.iter().zip(&self.plan.inputs) {
            figures.push(OperatorStatus {
                operator: format!("read {}", input.source.name),
                rows_in: source.rows,
                rows_out: source.rows - source.rows_undecodable,
                bytes_in: Some(source.bytes),
                state_bytes: 0,
                watermark: source.watermark.at(),
            });
        }
        let read: u64 = figures.iter().map(|read| read.rows_out).sum();
        let mut steps = self.operator.steps();
        if steps.is_empty() {
            steps.push(StepFigures {
                name: "",
                rows_in: read,
                rows_out: self.counts.rows_out - self.written_before,
                state_bytes: self.operator.state_bytes() as u64,
            });
        }
        let all = self
            .plan
            .explained
            .first()
            .map_or("compute", String::as_str);
        figures.extend(steps.into_iter().map(|step| OperatorStatus {
            operator: if step.name.is_empty() { all } else { step.name }.to_owned(),
            rows_in: step.rows_in,
            rows_out: step.rows_out,
            bytes_in: None,
            state_bytes: step.state_bytes,
            watermark: None,
        }));
        let written = self.counts.rows_out - self.written_before;
        figures.push(OperatorStatus {
            operator: format!("write {output}"),
            rows_in: written,
            rows_out: written,
            bytes_in: None,
            state_bytes: 0,
            watermark: None,
        });
        figures
    }

    /// The operator, to save its state.
    #[must_use]
    pub fn operator(&self) -> &dyn Operator {
        self.operator.as_ref()
    }

    /// Computes the rows of one epoch, given by input and queue: of each queue, all rows before the epoch's tick and after those
    /// of the epoch before.
    ///
    /// # Errors
    /// [`JobError`] when a row can not be computed, with its place where that is known.
    pub fn epoch(&mut self, arrived: Vec<Arrived>) -> Result<Effects, JobError> {
        let mut effects = self.ticks(arrived)?;
        self.barrier(&mut effects)?;
        Ok(effects)
    }

    /// Computes rows and lets what changed wait for [`Region::barrier`]; rows that stay leave at once.
    ///
    /// # Errors
    /// As [`Region::epoch`].
    pub fn ticks(&mut self, arrived: Vec<Arrived>) -> Result<Effects, JobError> {
        let mut ticks: BTreeMap<i64, Vec<Piece>> = BTreeMap::new();
        for Arrived {
            input,
            queue,
            batches,
        } in arrived
        {
            for batch in batches {
                self.cut_into_ticks(input, queue, &batch, &mut ticks)?;
            }
        }
        let mut effects = Effects::default();
        for (tick_ms, pieces) in ticks {
            self.tick(Timestamp(tick_ms), &pieces, &mut effects)?;
        }
        Ok(effects)
    }

    /// Ends an epoch: what changed in it leaves.
    ///
    /// # Errors
    /// [`JobError`] when what leaves can not be computed.
    pub fn barrier(&mut self, effects: &mut Effects) -> Result<(), JobError> {
        let mut out = Output::default();
        self.operator.on_barrier(&mut out)?;
        self.emit(out, &[], effects)
    }

    fn cut_into_ticks(
        &mut self,
        input: usize,
        queue: QueueId,
        batch: &RecordBatch,
        ticks: &mut BTreeMap<i64, Vec<Piece>>,
    ) -> Result<(), JobError> {
        let stored_at = batch
            .column_by_name("stored_at")
            .ok_or_else(|| missing("stored_at"))?;
        let stored_at = milliseconds(stored_at)?;
        let table = self.inputs[input].decoder.decode(batch)?.batch;
        let rows = batch.num_rows();
        self.inputs[input].rows += rows as u64;
        self.inputs[input].bytes += body_bytes(batch);
        if self.plan.is_stateless() {
            // Time means nothing to it, and few rows at a time would cost much.
            ticks.entry(0).or_default().push(Piece {
                input,
                queue,
                table,
                envelope: batch.clone(),
            });
            return Ok(());
        }
        let mut start = 0;
        while start < rows {
            let tick_ms = tick_of(stored_at.value(start));
            let rest = &stored_at.values()[start..];
            let count = rest.partition_point(|stored_at| tick_of(*stored_at) <= tick_ms);
            // A store time that went back would belong to an earlier tick, and the order were lost.
            assert!(count > 0, "store times of a queue never go back");
            ticks.entry(tick_ms).or_default().push(Piece {
                input,
                queue,
                table: table.slice(start, count),
                envelope: batch.slice(start, count),
            });
            start += count;
        }
        Ok(())
    }

    /// One tick; its pieces are in the order (input, queue, offset).
    fn tick(
        &mut self,
        tick: Timestamp,
        pieces: &[Piece],
        effects: &mut Effects,
    ) -> Result<(), JobError> {
        let watermark = self.watermark();
        let mut decoded: Vec<Vec<Piece>> = self.inputs.iter().map(|_| Vec::new()).collect();
        for piece in pieces {
            decoded[piece.input].push(self.without_undecodable(piece)?);
        }
        let mut greatest_ms = vec![None; decoded.len()];
        let mut given: Vec<(usize, RecordBatch)> = Vec::new();
        for (input, pieces) in decoded.iter().enumerate() {
            let planned = &self.plan.inputs[input];
            let tables: Vec<&RecordBatch> = pieces.iter().map(|piece| &piece.table).collect();
            let table = match tables.as_slice() {
                [] => continue,
                [one] => (*one).clone(),
                many => concat_batches(self.inputs[input].decoder.schema(), many.iter().copied())?,
            };
            if let Some(column) = planned.time_column {
                let times = milliseconds(table.column(column))?;
                greatest_ms[input] = max(&times);
                if self.plan.windowed {
                    self.counts.rows_without_time += times.null_count() as u64;
                }
            }
            let table = table.project(&(0..planned.query_columns).collect::<Vec<_>>())?;
            if table.num_rows() > 0 {
                given.push((input, table));
            }
        }
        for (input, table) in &given {
            let mut out = Output::default();
            if let Err(error) = self.operator.on_batch(*input, table, watermark, &mut out) {
                let place = self.place_of_failure(&given, &decoded);
                return Err(JobError::Operator { error, place });
            }
            self.emit(out, &decoded[*input], effects)?;
        }
        let mut out = Output::default();
        let before = self.watermarks();
        if let Err(error) = self.operator.on_tick_end(tick, &before, &mut out) {
            let place = self.place_of_failure(&given, &decoded);
            return Err(JobError::Operator { error, place });
        }
        self.emit(out, &[], effects)?;

        for (source, greatest_ms) in self.inputs.iter_mut().zip(greatest_ms) {
            source.watermark.end_tick(greatest_ms);
        }
        let mut out = Output::default();
        self.operator.on_watermarks(&self.watermarks(), &mut out)?;
        self.emit(out, &[], effects)
    }

    /// Counts the rows, and leaves out those whose body does not parse, unless the query asks for them.
    fn without_undecodable(&mut self, piece: &Piece) -> Result<Piece, JobError> {
        self.counts.rows_in += piece.table.num_rows() as u64;
        let mut kept = Piece {
            input: piece.input,
            queue: piece.queue,
            table: piece.table.clone(),
            envelope: piece.envelope.clone(),
        };
        let Some(errors) = piece.table.column_by_name(DECODE_ERROR) else {
            return Ok(kept);
        };
        let bad = errors.len() - errors.null_count();
        if bad == 0 {
            return Ok(kept);
        }
        self.counts.rows_undecodable += bad as u64;
        self.inputs[piece.input].rows_undecodable += bad as u64;
        let good: BooleanArray = is_null(errors)?;
        if self.counts.first_undecodable.is_none()
            && let Some(row) = (0..good.len()).find(|row| !good.value(*row))
        {
            let errors: &StringArray = errors.as_string();
            let offset = offsets(&piece.envelope)?.value(row);
            let place = self.place(piece, offset);
            self.counts.first_undecodable = Some(format!("{}{place}", errors.value(row)));
        }
        if !self.plan.inputs[piece.input].reads_undecodable {
            kept.table = filter_record_batch(&piece.table, &good)?;
            kept.envelope = filter_record_batch(&piece.envelope, &good)?;
        }
        Ok(kept)
    }

    fn place(&self, piece: &Piece, offset: u64) -> String {
        let topic = &self.plan.inputs[piece.input].source.name;
        let queue = piece.queue;
        format!(" at offset {offset} in queue {queue} of topic {topic}")
    }

    /// Finds the row that an expression fails on by trying each alone in a fresh operator.
    fn place_of_failure(&self, given: &[(usize, RecordBatch)], decoded: &[Vec<Piece>]) -> String {
        let fails = |input: usize, row: RecordBatch| {
            self.plan.operator().is_ok_and(|mut operator| {
                let mut out = Output::default();
                operator.on_batch(input, &row, None, &mut out).is_err()
                    || operator.on_tick_end(Timestamp(0), &[], &mut out).is_err()
            })
        };
        let failing = given.iter().find_map(|(input, table)| {
            let mut rows = 0..table.num_rows();
            let row = rows.find(|row| fails(*input, table.slice(*row, 1)))?;
            let (piece, row) = locate(&decoded[*input], row)?;
            let offset = offsets(&piece.envelope).ok()?.value(row);
            Some(self.place(piece, offset))
        });
        failing.unwrap_or_default()
    }

    /// Turns what the operator emitted into messages; `pieces` are the rows that it was given.
    fn emit(
        &mut self,
        out: Output,
        pieces: &[Piece],
        effects: &mut Effects,
    ) -> Result<(), JobError> {
        for emission in out.emissions {
            self.counts.rows_out += (emission.rows.num_rows() + emission.deleted.len()) as u64;
            messages(&self.encoder, emission, pieces, &mut effects.rows)?;
        }
        self.counts.rows_late += out.late_more;
        for late in out.late {
            self.counts.rows_late += 1;
            if self.plan.drops_late {
                continue;
            }
            effects.late.push(self.late_message(&late, pieces)?);
        }
        Ok(())
    }

    fn late_message(&self, late: &Late, pieces: &[Piece]) -> Result<OutputRow, JobError> {
        let index = usize::try_from(late.row).expect("a u32 fits a usize");
        let (piece, row) = locate(pieces, index).expect("a late row is one of those given");
        let offset = offsets(&piece.envelope)?.value(row);
        let mut properties = text_properties(&piece.envelope, row)?;
        for (key, value) in [
            ("late_reason", late.reason.as_str().to_owned()),
            ("window_start", iso(late.window_start)),
            ("window_end", iso(late.window_end)),
            ("watermark", iso(late.watermark)),
            (
                "source_topic",
                self.plan.inputs[piece.input].source.name.clone(),
            ),
            ("source_queue", piece.queue.to_string()),
            ("source_offset", offset.to_string()),
        ] {
            properties.push((key.to_owned(), value));
        }
        Ok(OutputRow {
            key: bytes_at(&piece.envelope, "key", row)?,
            body: bytes_at(&piece.envelope, "body", row)?,
            properties,
        })
    }
}

fn messages(
    encoder: &BodyEncoder,
    emission: Emission,
    pieces: &[Piece],
    rows: &mut Vec<OutputRow>,
) -> Result<(), JobError> {
    let bodies = encoder.encode(&emission.rows).map_err(SqlError::from)?;
    let sent = match &emission.keys {
        Keys::Source(_) => keys_of(pieces)?,
        _ => None,
    };
    rows.reserve(bodies.len());
    for (index, body) in bodies.into_iter().enumerate() {
        let key = match (&emission.keys, &sent) {
            (Keys::Group(keys), _) => Some(keys[index].clone()),
            (Keys::Source(sources), Some(sent)) => {
                let source = usize::try_from(sources[index]).expect("a u32 fits a usize");
                sent.is_valid(source)
                    .then(|| Bytes::copy_from_slice(sent.value(source)))
            }
            _ => None,
        };
        rows.push(OutputRow {
            key,
            body: Some(body),
            properties: Vec::new(),
        });
    }
    for key in emission.deleted {
        rows.push(OutputRow {
            key: Some(key),
            body: None,
            properties: Vec::new(),
        });
    }
    Ok(())
}

/// The keys that the rows of all pieces in a line were sent with; `None` when none was.
fn keys_of(pieces: &[Piece]) -> Result<Option<BinaryArray>, JobError> {
    let mut columns = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let keys = piece.envelope.column_by_name("key");
        columns.push(cast(
            keys.ok_or_else(|| missing("key"))?,
            &DataType::Binary,
        )?);
    }
    if columns.iter().all(|keys| keys.null_count() == keys.len()) {
        return Ok(None);
    }
    let columns: Vec<&dyn Array> = columns.iter().map(AsRef::as_ref).collect();
    Ok(Some(concat(&columns)?.as_binary().clone()))
}

/// Bytes of the bodies of a batch.
fn body_bytes(batch: &RecordBatch) -> u64 {
    let body = batch.column_by_name("body");
    let offsets = body.and_then(|body| body.as_binary_opt::<i32>());
    offsets.map_or(0, |bodies| {
        let offsets = bodies.value_offsets();
        let (first, last) = (offsets.first(), offsets.last());
        u64::try_from(last.unwrap_or(&0) - first.unwrap_or(&0)).unwrap_or(0)
    })
}

/// The piece and its row that a row of all pieces in a line is.
fn locate(pieces: &[Piece], mut row: usize) -> Option<(&Piece, usize)> {
    for piece in pieces {
        let rows = piece.table.num_rows();
        if row < rows {
            return Some((piece, row));
        }
        row -= rows;
    }
    None
}

fn bytes_at(envelope: &RecordBatch, column: &str, row: usize) -> Result<Option<Bytes>, JobError> {
    let column = envelope
        .column_by_name(column)
        .ok_or_else(|| missing(column))?;
    let value = cast(&column.slice(row, 1), &DataType::Binary)?;
    let value: &BinaryArray = value.as_binary();
    Ok(value
        .is_valid(0)
        .then(|| Bytes::copy_from_slice(value.value(0))))
}

/// The properties of a message that are text.
fn text_properties(envelope: &RecordBatch, row: usize) -> Result<Vec<(String, String)>, JobError> {
    let wrong = || missing("properties");
    let column = envelope.column_by_name("properties").ok_or_else(wrong)?;
    let list: &ListArray = column.as_list_opt().ok_or_else(wrong)?;
    if list.is_null(row) {
        return Ok(Vec::new());
    }
    let entries = list.value(row);
    let entries: &StructArray = entries.as_struct_opt().ok_or_else(wrong)?;
    let text = |name: &str| {
        let column = entries.column_by_name(name).map(Arc::clone);
        column.ok_or_else(wrong)
    };
    let (keys, values) = (text("key")?, text("text")?);
    let keys: &StringArray = keys.as_string_opt().ok_or_else(wrong)?;
    let values: &StringArray = values.as_string_opt().ok_or_else(wrong)?;
    Ok((0..entries.len())
        .filter(|entry| values.is_valid(*entry))
        .map(|entry| (keys.value(entry).to_owned(), values.value(entry).to_owned()))
        .collect())
}

/// A time as the bodies write it.
fn iso(time: Timestamp) -> String {
    arrow::temporal_conversions::timestamp_ms_to_datetime(time.as_ms()).map_or_else(
        || time.to_string(),
        |time| time.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
    )
}
