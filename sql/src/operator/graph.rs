//! A query that is no single chain: nodes that give deltas to each other, tick by tick.
//!
//! The rows of a tick go in together, one delta per input, and each node steps once, in the order in
//! which they are listed; what the last one gives is the query's. What leaves depends on what can happen
//! to a row ([`Mode`]): rows that stay leave at once; rows with a key leave at the end of the epoch, the
//! last per key, with a deletion for a key that is no more; rows that go and have no key are written under
//! a key made of the whole row and, for the second equal row on, its number.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{AsArray as _, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use millpond_proto::limits::JOB_STATE_BYTES_MAX;
use millpond_proto::time::Timestamp;

use crate::operator::aggregate::{Aggregate, AggregateSpec};
use crate::operator::as_of::{AsOf, AsOfSpec};
use crate::operator::changes;
use crate::operator::close::{Close, CloseSpec};
use crate::operator::delta::{Delta, Entries, Entry, Node, Row, RowCodec, add, other_state};
use crate::operator::join::{Join, JoinSpec};
use crate::operator::key::message_keys;
use crate::operator::latest::{Latest, LatestSpec};
use crate::operator::moment::{Marks, Moment};
use crate::operator::over::{Over, OverSpec};
use crate::operator::project::Transform;
use crate::operator::top::{Top, TopSpec};
use crate::operator::{Emission, Keys, Operator, OperatorError, Output, StepFigures};
use crate::topic::TICK_MS;

/// What can happen to the rows of an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// They stay.
    Append,
    /// They come and go.
    Retract,
}

/// What a node does.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// Rows of an input of the query, some of its columns.
    Scan {
        input: usize,
        columns: Vec<usize>,
    },
    Latest(LatestSpec),
    Transform(Transform),
    Aggregate(AggregateSpec),
    Join(JoinSpec),
    Top(TopSpec),
    AsOf(Box<AsOfSpec>),
    Close(CloseSpec),
    Over(Box<OverSpec>),
    Union,
}

impl Kind {
    fn name(&self) -> &'static str {
        match self {
            Self::Scan { .. } => "scan",
            Self::Latest(_) => "last row of each key",
            Self::Transform(_) => "filter and project",
            Self::Aggregate(_) => "aggregate",
            Self::Join(_) => "join",
            Self::Top(_) => "top",
            Self::AsOf(_) => "as-of join",
            Self::Over(_) => "over",
            Self::Close(_) => "close",
            Self::Union => "union",
        }
    }
}

/// A node, as it is planned.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) kind: Kind,
    /// Nodes that it takes from, all before it.
    pub(crate) inputs: Vec<usize>,
    pub(crate) schema: SchemaRef,
}

/// How rows leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// As they come.
    Append,
    /// As they come, under a key made of these columns: the last row of a key counts.
    Keyed(Vec<usize>),
    /// The last per key, made of these columns.
    Upsert(Vec<usize>),
    /// Under a key made of all columns.
    Rows,
}

/// A graph, as it is planned.
#[derive(Clone, Debug)]
pub(crate) struct GraphPlan {
    pub(crate) nodes: Vec<Planned>,
    pub(crate) leaving: Leaving,
    /// Whether rows with a key leave as changes of Debezium.
    pub(crate) debezium: bool,
    /// Whether a key of one text is that text, as `INSERT` writes it, and no list of one.
    pub(crate) text_keys: bool,
}

/// The operator.
#[derive(Debug)]
pub(crate) struct Graph {
    plan: GraphPlan,
    nodes: Vec<Option<Box<dyn Node>>>,
    arrived: BTreeMap<usize, RecordBatch>,
    /// Where the clocks stood when the tick began.
    marks: Marks,
    schema: SchemaRef,
    output: RowCodec,
    /// What this epoch changes.
    pending: BTreeMap<Row, i64>,
    /// How often each row is there; kept for [`Leaving::Rows`].
    there: BTreeMap<Row, i64>,
    there_bytes: usize,
    /// Changes that each node gave.
    given: Vec<u64>,
    state_bytes_max: usize,
}

const ROW_BYTES: usize = 64;

impl Graph {
    pub(crate) fn new(plan: GraphPlan) -> Result<Self, OperatorError> {
        let mut nodes: Vec<Option<Box<dyn Node>>> = Vec::new();
        for node in &plan.nodes {
            nodes.push(match &node.kind {
                Kind::Scan { .. } | Kind::Transform(_) | Kind::Union => None,
                Kind::Latest(spec) => Some(Box::new(Latest::new(spec.clone())?)),
                Kind::Aggregate(spec) => Some(Box::new(Aggregate::new(spec.clone())?)),
                Kind::Join(spec) => Some(Box::new(Join::new(spec.clone())?)),
                Kind::Top(spec) => Some(Box::new(Top::new(spec.clone())?)),
                Kind::Over(spec) => Some(Box::new(Over::new(spec.as_ref().clone())?)),
                Kind::Close(spec) => Some(Box::new(Close::new(spec.clone())?)),
                Kind::AsOf(spec) => Some(Box::new(AsOf::new(spec.as_ref().clone())?)),
            });
        }
        let last = plan.nodes.last().expect("a query has a node");
        let schema = Arc::clone(&last.schema);
        let plan_nodes = plan.nodes.len();
        Ok(Self {
            output: RowCodec::new(&schema)?,
            schema,
            nodes,
            plan,
            arrived: BTreeMap::new(),
            marks: Marks::default(),
            pending: BTreeMap::new(),
            there: BTreeMap::new(),
            there_bytes: 0,
            given: vec![0; plan_nodes],
            state_bytes_max: JOB_STATE_BYTES_MAX,
        })
    }

    /// Bounds the state by `bytes` instead of the usual limit.
    #[cfg(test)]
    pub(crate) fn with_state_bytes_max(mut self, bytes: usize) -> Self {
        self.state_bytes_max = bytes;
        self
    }

    fn step(&mut self, moment: &Moment<'_>) -> Result<Delta, OperatorError> {
        let mut deltas: Vec<Delta> = Vec::with_capacity(self.plan.nodes.len());
        for (index, planned) in self.plan.nodes.iter().enumerate() {
            let inputs: Vec<&Delta> = planned.inputs.iter().map(|input| &deltas[*input]).collect();
            let delta = match (&planned.kind, &mut self.nodes[index]) {
                (Kind::Scan { input, columns }, _) => match self.arrived.get(input) {
                    Some(rows) => Delta::inserted(rows.project(columns)?),
                    None => Delta::empty(&planned.schema),
                },
                (Kind::Transform(_), _) if inputs[0].weights.is_empty() => {
                    Delta::empty(&planned.schema)
                }
                (Kind::Transform(transform), _) => {
                    let (rows, kept) = transform.run(&inputs[0].rows)?;
                    let weight = |row: &u32| inputs[0].weights[*row as usize];
                    Delta {
                        weights: kept.iter().map(weight).collect(),
                        rows,
                    }
                }
                (Kind::Union, _) => {
                    let mut batches = Vec::new();
                    for input in &inputs {
                        let columns = input.rows.columns().to_vec();
                        let options =
                            RecordBatchOptions::new().with_row_count(Some(input.rows.num_rows()));
                        let schema = Arc::clone(&planned.schema);
                        batches.push(RecordBatch::try_new_with_options(
                            schema, columns, &options,
                        )?);
                    }
                    Delta {
                        rows: concat_batches(&planned.schema, &batches)?,
                        weights: inputs
                            .iter()
                            .flat_map(|input| input.weights.clone())
                            .collect(),
                    }
                }
                (_, Some(node)) => {
                    let is_still = inputs.iter().all(|input| input.weights.is_empty());
                    if is_still && !node.is_timed() {
                        Delta::empty(&planned.schema)
                    } else {
                        node.step(&inputs, moment)?
                    }
                }
                (_, None) => return Err(other_state()),
            };
            self.given[index] += delta.rows.num_rows() as u64;
            deltas.push(delta);
        }
        self.arrived.clear();
        Ok(deltas.pop().expect("a query has a node"))
    }

    /// Steps once, and gives what comes of it to the output.
    fn go(&mut self, before: &Marks, after: &Marks, out: &mut Output) -> Result<(), OperatorError> {
        let moment = Moment::new(before, after);
        let delta = self.step(&moment)?;
        out.late_more += moment.late();
        let key = match &self.plan.leaving {
            Leaving::Append => Some(None),
            Leaving::Keyed(key) => Some(Some(key.as_slice())),
            Leaving::Upsert(_) | Leaving::Rows => None,
        };
        if let Some(key) = key {
            self.append(&delta, key, out)?;
        } else {
            for (row, weight) in self
                .output
                .encode(&delta.rows)?
                .into_iter()
                .zip(delta.weights)
            {
                add(&mut self.pending, row, weight);
            }
        }
        let size_bytes = self.state_bytes();
        if size_bytes > self.state_bytes_max {
            return Err(OperatorError::StateTooLarge {
                size_bytes,
                limit_bytes: self.state_bytes_max,
            });
        }
        Ok(())
    }

    fn append(
        &self,
        delta: &Delta,
        key: Option<&[usize]>,
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        let mut indices = Vec::new();
        for (row, weight) in (0_u32..).zip(&delta.weights) {
            assert!(*weight > 0, "rows of an append query stay");
            indices.extend((0..*weight).map(|_| row));
        }
        if indices.is_empty() {
            return Ok(());
        }
        let rows = take_record_batch(&delta.rows, &UInt32Array::from(indices))?;
        let Some(key) = key else {
            out.emissions.push(Emission {
                rows,
                keys: Keys::None,
                deleted: Vec::new(),
            });
            return Ok(());
        };
        let keys = Keys::Group(self.message_keys(&rows, Some(key))?);
        out.emissions.push(Emission {
            rows: match self.plan.debezium {
                true => changes::created(rows)?,
                false => rows,
            },
            keys,
            deleted: Vec::new(),
        });
        Ok(())
    }

    /// Message keys of rows: all their columns, or those at `columns`.
    fn message_keys(
        &self,
        rows: &RecordBatch,
        columns: Option<&[usize]>,
    ) -> Result<Vec<Bytes>, OperatorError> {
        match columns {
            // A JSON array of nothing.
            Some([]) => Ok(vec![Bytes::from_static(b"[]"); rows.num_rows()]),
            Some([only]) if self.plan.text_keys => {
                match rows.column(*only).as_string_opt::<i32>() {
                    Some(texts) => Ok(texts.iter().map(text_key).collect()),
                    None => message_keys(&rows.project(&[*only])?),
                }
            }
            Some(columns) => message_keys(&rows.project(columns)?),
            None => message_keys(rows),
        }
    }

    fn emit(
        &self,
        rows: Vec<Row>,
        keys: Vec<Bytes>,
        deleted: Vec<Bytes>,
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        if rows.is_empty() && deleted.is_empty() {
            return Ok(());
        }
        out.emissions.push(Emission {
            rows: self.output.decode(rows.iter().map(AsRef::as_ref))?,
            keys: Keys::Group(keys),
            deleted,
        });
        Ok(())
    }

    fn upsert(&mut self, columns: &[usize], out: &mut Output) -> Result<(), OperatorError> {
        let pending = std::mem::take(&mut self.pending);
        let delta = self.output.delta(&pending)?;
        let keys = self.message_keys(&delta.rows, Some(columns))?;
        let changes: Vec<(Row, i64)> = pending
            .into_iter()
            .filter(|(_, weight)| *weight != 0)
            .collect();
        let mut came: BTreeMap<Bytes, Row> = BTreeMap::new();
        let mut went: BTreeMap<Bytes, Row> = BTreeMap::new();
        for ((row, weight), key) in changes.into_iter().zip(keys) {
            if weight > 0 {
                let other = came.insert(key, row);
                assert!(other.is_none(), "a key tells its row");
            } else {
                went.insert(key, row);
            }
        }
        if self.plan.debezium {
            return self.changes(went, came, out);
        }
        went.retain(|key, _| !came.contains_key(key));
        let went = went.into_keys().collect();
        let (keys, rows): (Vec<Bytes>, Vec<Row>) = came.into_iter().unzip();
        self.emit(rows, keys, went, out)
    }

    /// What went and came, by key, as changes of Debezium.
    fn changes(
        &self,
        went: BTreeMap<Bytes, Row>,
        came: BTreeMap<Bytes, Row>,
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        let keys: BTreeSet<Bytes> = went.keys().chain(came.keys()).cloned().collect();
        if keys.is_empty() {
            return Ok(());
        }
        let of = |rows: &BTreeMap<Bytes, Row>| {
            let there: Vec<Option<usize>> = keys
                .iter()
                .scan(0, |next, key| {
                    let at = *next;
                    let is_there = rows.contains_key(key);
                    *next += usize::from(is_there);
                    Some(is_there.then_some(at))
                })
                .collect();
            let rows = self.output.decode(rows.values().map(AsRef::as_ref))?;
            Ok::<_, OperatorError>((rows, there))
        };
        let (before, after) = (of(&went)?, of(&came)?);
        out.emissions.push(Emission {
            rows: changes::changed(&before.0, &before.1, &after.0, &after.1)?,
            keys: Keys::Group(keys.into_iter().collect()),
            deleted: Vec::new(),
        });
        Ok(())
    }

    fn rows(&mut self, out: &mut Output) -> Result<(), OperatorError> {
        let pending = std::mem::take(&mut self.pending);
        let delta = self.output.delta(&pending)?;
        let keys = self.message_keys(&delta.rows, None)?;
        let (mut rows, mut row_keys, mut deleted) = (Vec::new(), Vec::new(), Vec::new());
        let changes = pending.into_iter().filter(|(_, weight)| *weight != 0);
        for ((row, weight), key) in changes.zip(keys) {
            let was = self.there.get(&row).copied().unwrap_or(0);
            let now = was + weight;
            for number in was..now {
                rows.push(Arc::clone(&row));
                row_keys.push(numbered(&key, number));
            }
            deleted.extend((now..was).map(|number| numbered(&key, number)));
            self.put_there(row, now);
        }
        self.emit(rows, row_keys, deleted, out)
    }

    fn put_there(&mut self, row: Row, count: i64) {
        let bytes = ROW_BYTES + row.len();
        if count == 0 {
            if self.there.remove(&row).is_some() {
                self.there_bytes -= bytes;
            }
        } else if self.there.insert(row, count).is_none() {
            self.there_bytes += bytes;
        }
    }
}

/// A row whose key is NULL has a key all the same: it is one row.
fn text_key(text: Option<&str>) -> Bytes {
    match text {
        Some(text) => Bytes::copy_from_slice(text.as_bytes()),
        None => Bytes::from_static(b"[null]"),
    }
}

/// The key of the row that is there for the `number`th time again.
fn numbered(key: &Bytes, number: i64) -> Bytes {
    match number {
        0 => key.clone(),
        _ => {
            let mut text = key.to_vec();
            text.extend_from_slice(format!("#{number}").as_bytes());
            Bytes::from(text)
        }
    }
}

impl Operator for Graph {
    fn on_batch(
        &mut self,
        input: usize,
        batch: &RecordBatch,
        _watermark: Option<Timestamp>,
        _out: &mut Output,
    ) -> Result<(), OperatorError> {
        self.arrived.insert(input, batch.clone());
        Ok(())
    }

    fn on_tick_end(
        &mut self,
        tick: Timestamp,
        watermarks: &[Option<Timestamp>],
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        self.marks = Marks {
            stored_ms: tick.as_ms(),
            watermarks: watermarks.to_vec(),
        };
        if self.arrived.is_empty() {
            return Ok(());
        }
        let before = self.marks.clone();
        self.go(&before, &before, out)
    }

    fn on_watermarks(
        &mut self,
        each: &[Option<Timestamp>],
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        if !self.nodes.iter().flatten().any(|node| node.is_timed()) {
            return Ok(());
        }
        let after = Marks {
            stored_ms: self.marks.stored_ms.saturating_add(TICK_MS),
            watermarks: each.to_vec(),
        };
        let before = std::mem::replace(&mut self.marks, after.clone());
        self.go(&before, &after, out)
    }

    fn on_watermark(
        &mut self,
        _watermark: Timestamp,
        _out: &mut Output,
    ) -> Result<(), OperatorError> {
        Ok(())
    }

    fn on_barrier(&mut self, out: &mut Output) -> Result<(), OperatorError> {
        match self.plan.leaving.clone() {
            Leaving::Append | Leaving::Keyed(_) => Ok(()),
            Leaving::Upsert(columns) => self.upsert(&columns, out),
            Leaving::Rows => self.rows(out),
        }
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn save(&self) -> Result<Option<RecordBatch>, OperatorError> {
        assert!(self.pending.is_empty(), "state is saved between epochs");
        let mut entries = Entries::default();
        for (index, node) in self.nodes.iter().enumerate() {
            entries.begin(index);
            if let Some(node) = node {
                node.save(&mut entries);
            }
        }
        entries.begin(self.nodes.len());
        for (row, count) in &self.there {
            entries.push(Entry {
                part: 0,
                key: row,
                value: &[],
                count: *count,
                other: 0,
            });
        }
        Ok(Some(entries.batch()?))
    }

    fn restore(
        &mut self,
        state: &RecordBatch,
        _watermark: Option<Timestamp>,
    ) -> Result<(), OperatorError> {
        let last = self.nodes.len();
        Entries::each(state, |node, entry| {
            if node == last {
                self.put_there(Row::from(entry.key), entry.count);
                return Ok(());
            }
            match self.nodes.get_mut(node) {
                Some(Some(node)) => node.restore(entry),
                _ => Err(other_state()),
            }
        })
    }

    fn state_bytes(&self) -> usize {
        let nodes = self.nodes.iter().flatten();
        nodes.map(|node| node.state_bytes()).sum::<usize>() + self.there_bytes
    }

    fn steps(&self) -> Vec<StepFigures> {
        let nodes = self.plan.nodes.iter().zip(&self.nodes).enumerate();
        nodes
            .map(|(index, (planned, node))| {
                let given = self.given[index];
                let taken = planned.inputs.iter().map(|input| self.given[*input]);
                StepFigures {
                    name: planned.kind.name(),
                    rows_in: match planned.kind {
                        Kind::Scan { .. } => given,
                        _ => taken.sum(),
                    },
                    rows_out: given,
                    state_bytes: node.as_ref().map_or(0, |node| node.state_bytes() as u64),
                }
            })
            .collect()
    }
}
