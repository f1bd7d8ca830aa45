//! Aggregates over a table that changes: rows come and go.
//!
//! Input: any rows with weights. Output: one row per group that has rows, group columns first, then one
//! column per aggregate. At a tick, the old row of each group that changed goes and the new one comes.
//!
//! What a group keeps for each aggregate is [`crate::operator::kept`]'s business. Without GROUP BY there is one
//! group, which is there from the first step on and for ever, with rows or without. A tick finds the groups that it touches once
//! ([`groups`]) and adds its rows to them; a group whose row stays as it was gives nothing.
//!
//! A group may end ([`Ending`]), by a time that is one of its columns or after resting too long. What it
//! gave stays; rows that come for it later make a new one, or are late.

mod groups;
mod shared;

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array, make_comparator};
use arrow::compute::{SortOptions, interleave_record_batch, take, take_record_batch};
use arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;

use crate::operator::OperatorError;
use crate::operator::aggregate::groups::Groups;
use crate::operator::aggregate::shared::Sharing;
use crate::operator::delta::{Delta, Entries, Entry, Node, other_state};
use crate::operator::hash::{Hashed, Ready};
use crate::operator::kept::{Expressions, Keeper, Saved};
use crate::operator::kernel::Kernel;
use crate::operator::key::{Encoded, Keys, milliseconds};
use crate::operator::moment::{Ending, LateRow, Moment};

/// What is computed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AggregateSpec {
    pub(crate) groups: Vec<Arc<dyn PhysicalExpr>>,
    pub(crate) kernels: Vec<Kernel>,
    pub(crate) input: SchemaRef,
    pub(crate) schema: SchemaRef,
    /// Whether rows only come.
    pub(crate) is_append: bool,
    /// When a group is forgotten; the time is one of its columns.
    pub(crate) ending: Option<Ending>,
}

#[derive(Debug)]
pub(crate) struct Aggregate {
    spec: AggregateSpec,
    keepers: Vec<Keeper>,
    sharing: Sharing,
    expressions: Expressions,
    keys: Keys,
    groups: Groups,
}

/// The groups of a tick's rows, in the order in which they came, and where in it each row's is.
struct Touched<'a> {
    /// Each with its slot, if it is there.
    groups: Vec<(Hashed<'a>, Option<u32>)>,
    /// The first row of each.
    first: Vec<u32>,
    places: Vec<usize>,
}

/// A row of a tick that its group takes.
struct Taken {
    row: usize,
    slot: u32,
    weight: i64,
}

impl Aggregate {
    pub(crate) fn new(spec: AggregateSpec) -> Result<Self, OperatorError> {
        let mut expressions = Expressions::default();
        let keepers = spec.kernels.iter();
        let keepers = keepers
            .map(|kernel| Keeper::new(kernel, &spec.input, spec.is_append, &mut expressions));
        let keepers = keepers.collect::<Result<Vec<_>, _>>()?;
        let groups = spec.schema.fields().iter().take(spec.groups.len());
        let keys = Keys::new(groups.map(|field| field.data_type()))?;
        Ok(Self {
            keys,
            sharing: Sharing::of(&keepers, spec.is_append),
            keepers,
            expressions,
            spec,
            groups: Groups::default(),
        })
    }

    fn group_columns(&self, rows: &RecordBatch) -> Result<Vec<ArrayRef>, OperatorError> {
        let groups = self.spec.groups.iter();
        let columns = groups.map(|group| group.evaluate(rows)?.into_array(rows.num_rows()));
        Ok(columns.collect::<Result<Vec<_>, DataFusionError>>()?)
    }

    /// Finds the groups of some rows.
    fn find<'a>(&self, encoded: &'a Encoded, count: usize) -> Touched<'a> {
        let mut seen: HashMap<Hashed<'_>, usize, BuildHasherDefault<Ready>> =
            HashMap::with_capacity_and_hasher(count / 4, BuildHasherDefault::default());
        let mut touched = Touched {
            groups: Vec::new(),
            first: Vec::new(),
            places: Vec::with_capacity(count),
        };
        for (row, index) in (0..count).zip(0_u32..) {
            let key = Hashed::of(encoded.row(row));
            touched.places.push(*seen.entry(key).or_insert_with(|| {
                touched.groups.push((key, self.groups.find(key)));
                touched.first.push(index);
                touched.first.len() - 1
            }));
        }
        touched
    }

    /// The rows of the groups that are there, and the place of each in `touched`; `keys` are the columns of all.
    fn rows_of(
        &self,
        touched: &Touched<'_>,
        keys: &[ArrayRef],
    ) -> Result<(RecordBatch, Vec<usize>), OperatorError> {
        let (mut found, mut places, mut indices) = (Vec::new(), Vec::new(), Vec::new());
        for ((place, (_, slot)), index) in touched.groups.iter().enumerate().zip(0_u32..) {
            if let Some(slot) = slot {
                found.push(self.groups.kept(*slot));
                places.push(place);
                indices.push(index);
            }
        }
        if found.is_empty() {
            // Some accumulators have no answer for no group at all.
            let schema = Arc::clone(&self.spec.schema);
            return Ok((RecordBatch::new_empty(schema), places));
        }
        let mut columns = if found.len() == touched.groups.len() {
            keys.to_vec()
        } else {
            let indices = UInt32Array::from(indices);
            let taken = keys.iter().map(|column| take(column, &indices, None));
            taken.collect::<Result<_, _>>()?
        };
        for (index, keeper) in self.keepers.iter().enumerate() {
            let kept = found.iter().map(|kept| &kept[index]);
            columns.push(keeper.column(kept)?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(found.len()));
        let schema = Arc::clone(&self.spec.schema);
        let rows = RecordBatch::try_new_with_options(schema, columns, &options)?;
        Ok((rows, places))
    }

    /// Adds rows to groups; `at_ms` is what the group of each ends by.
    fn apply(
        &mut self,
        delta: &Delta,
        touched: &mut Touched<'_>,
        at_ms: &[Option<i64>],
    ) -> Result<(), OperatorError> {
        let values = self.expressions.evaluate(&delta.rows)?;
        let arguments = self.keepers.iter();
        let arguments = arguments.map(|keeper| keeper.arguments(&values));
        let arguments = arguments.collect::<Result<Vec<_>, _>>()?;
        // What was forgotten can not be taken back.
        let forgets = self.spec.ending.is_some();
        let was_there: Vec<bool> = touched.groups.iter().map(|(_, at)| at.is_some()).collect();
        let mut taken = Vec::with_capacity(touched.places.len());
        for (row, (&place, &weight)) in touched.places.iter().zip(&delta.weights).enumerate() {
            if forgets && weight < 0 && !was_there[place] {
                continue;
            }
            let (key, slot) = &mut touched.groups[place];
            let slot =
                *slot.get_or_insert_with(|| self.groups.insert(*key, &self.keepers, &self.sharing));
            *self.groups.rows_mut(slot) += weight;
            self.groups.end(slot, at_ms[row]);
            taken.push(Taken { row, slot, weight });
        }
        let keepers = self.keepers.iter().zip(&arguments).enumerate();
        for (index, (keeper, arguments)) in keepers.filter(|(at, _)| !self.sharing.shares(*at)) {
            for Taken { row, slot, weight } in &taken {
                let (kept, bytes) = self.groups.kept_mut(*slot, index);
                keeper.add(kept, arguments, *row, *weight, bytes);
            }
        }
        self.sharing.add(&mut self.groups, &taken, &arguments);
        let stays = self.is_one_group();
        for (_, slot) in &mut touched.groups {
            if let Some(gone) = slot.take_if(|slot| self.groups.rows(*slot) <= 0 && !stays) {
                self.groups.remove(gone, &self.keepers, &self.sharing);
            }
        }
        Ok(())
    }

    /// Whether all rows are one group, which has a row of its own even without any.
    fn is_one_group(&self) -> bool {
        self.spec.groups.is_empty()
    }

    /// The row of the one group, which has no rows yet.
    fn begin(&mut self) -> Result<Delta, OperatorError> {
        let key = Hashed::of(&[]);
        let slot = self.groups.insert(key, &self.keepers, &self.sharing);
        let touched = Touched {
            groups: vec![(key, Some(slot))],
            first: Vec::new(),
            places: Vec::new(),
        };
        let (rows, _) = self.rows_of(&touched, &[])?;
        Ok(Delta::inserted(rows))
    }

    /// Forgets the groups that end before a time.
    fn forget(&mut self, before_ms: Option<i64>) {
        self.groups.forget(before_ms, &self.keepers, &self.sharing);
    }

    /// What the rows of a tick change.
    fn changes(&mut self, delta: &Delta, moment: &Moment<'_>) -> Result<Delta, OperatorError> {
        let columns = self.group_columns(&delta.rows)?;
        let (taken, at_ms) = self.taken(&columns, delta, moment)?;
        let (delta, columns) = match &taken {
            Some(taken) => (taken, self.group_columns(&taken.rows)?),
            None => (delta, columns),
        };
        let encoded = self.keys.encode(&columns)?;
        let mut touched = self.find(&encoded, delta.rows.num_rows());
        let first = UInt32Array::from(std::mem::take(&mut touched.first));
        let keys = columns.iter().map(|column| take(column, &first, None));
        let keys = keys.collect::<Result<Vec<ArrayRef>, _>>()?;
        let (before, was_at) = self.rows_of(&touched, &keys)?;
        self.apply(delta, &mut touched, &at_ms)?;
        let (after, is_at) = self.rows_of(&touched, &keys)?;

        // Rows that stay as they were are left out.
        let width = self.spec.groups.len();
        let compared = before.columns()[width..]
            .iter()
            .zip(&after.columns()[width..]);
        let compared = compared.map(|(was, is)| make_comparator(was, is, SortOptions::default()));
        let compared = compared.collect::<Result<Vec<_>, _>>()?;
        let is_same = |was: usize, is: usize| compared.iter().all(|cmp| cmp(was, is).is_eq());
        let mut stays = vec![false; before.num_rows()];
        let mut came: Vec<(usize, usize)> = Vec::new();
        let mut old = was_at.iter().enumerate().peekable();
        for (row, place) in is_at.iter().enumerate() {
            while old.next_if(|(_, was)| *was < place).is_some() {}
            match old.next_if(|(_, was)| *was == place) {
                Some((before, _)) if is_same(before, row) => stays[before] = true,
                _ => came.push((1, row)),
            }
        }
        let went = stays.iter().enumerate().filter(|(_, stays)| !**stays);
        let mut rows: Vec<(usize, usize)> = went.map(|(row, _)| (0, row)).collect();
        let mut weights = vec![-1; rows.len()];
        weights.resize(rows.len() + came.len(), 1);
        rows.append(&mut came);
        Ok(Delta {
            rows: interleave_record_batch(&[&before, &after], &rows)?,
            weights,
        })
    }

    /// The rows that a group takes, and what each of their groups ends by; `None` when it takes all.
    fn taken(
        &self,
        columns: &[ArrayRef],
        delta: &Delta,
        moment: &Moment<'_>,
    ) -> Result<(Option<Delta>, Vec<Option<i64>>), OperatorError> {
        let count = delta.rows.num_rows();
        let Some(ending) = &self.spec.ending else {
            return Ok((None, vec![None; count]));
        };
        let Some(column) = ending.column() else {
            return Ok((None, vec![Some(moment.before.stored_ms); count]));
        };
        let times = milliseconds(&columns[column])?;
        let late_before = ending.late_before(moment);
        let is_late = |at: Option<i64>| at.zip(late_before).is_some_and(|(at, late)| at < late);
        if !times.iter().any(is_late) {
            return Ok((None, times.iter().collect()));
        }
        let (mut kept, mut weights, mut at_ms) = (Vec::new(), Vec::new(), Vec::new());
        for (row, at) in (0_u32..).zip(times.iter()) {
            let weight = delta.weights[row as usize];
            if let Some((at_ms, late_before_ms)) = at.zip(late_before).filter(|_| is_late(at)) {
                moment.leave_out(LateRow {
                    side: 0,
                    row: row as usize,
                    count: weight.unsigned_abs(),
                    at_ms,
                    late_before_ms,
                });
            } else {
                kept.push(row);
                weights.push(weight);
                at_ms.push(at);
            }
        }
        let rows = take_record_batch(&delta.rows, &UInt32Array::from(kept))?;
        Ok((Some(Delta { rows, weights }), at_ms))
    }
}

const ROWS: i64 = -1;
/// Entries that say when a group ends.
const END: i64 = -2;

impl Node for Aggregate {
    fn step(&mut self, inputs: &[&Delta], moment: &Moment<'_>) -> Result<Delta, OperatorError> {
        let ending = self.spec.ending.clone();
        let first = ending.as_ref();
        self.forget(first.and_then(|ending| ending.forgets_first(moment)));
        let changes = match inputs[0].rows.num_rows() {
            0 if self.waits() => self.begin()?,
            0 => Delta::empty(&self.spec.schema),
            _ => self.changes(inputs[0], moment)?,
        };
        self.forget(ending.and_then(|ending| ending.forgets_last(moment)));
        Ok(changes)
    }

    fn save(&self, entries: &mut Entries) {
        for group in self.groups.sorted() {
            let key = self.groups.key(group);
            let mut number = |part: i64, count: i64| {
                entries.push(Entry {
                    part,
                    key,
                    value: &[],
                    count,
                    other: 0,
                });
            };
            number(ROWS, self.groups.rows(group));
            if let Some(at_ms) = self.groups.at_ms(group) {
                number(END, at_ms);
            }
            for ((part, kept), index) in (0..).zip(self.groups.kept(group)).zip(0..) {
                let put = |saved: Saved<'_>| {
                    entries.push(Entry {
                        part,
                        key,
                        value: saved.value,
                        count: saved.count,
                        other: i64::from(saved.is_total),
                    });
                };
                match self.sharing.shares(index) {
                    true => self.sharing.save(index, self.groups.shared(group), put),
                    false => kept.save(put),
                }
            }
        }
    }

    fn restore(&mut self, entry: &Entry<'_>) -> Result<(), OperatorError> {
        let key = Hashed::of(entry.key);
        let known = self.groups.find(key);
        if entry.part == ROWS {
            if known.is_some() {
                return Err(other_state());
            }
            let slot = self.groups.insert(key, &self.keepers, &self.sharing);
            *self.groups.rows_mut(slot) = entry.count;
            return Ok(());
        }
        let slot = known.ok_or_else(other_state)?;
        if entry.part == END {
            self.groups.end(slot, Some(entry.count));
            return Ok(());
        }
        let part = usize::try_from(entry.part).map_err(|_| other_state())?;
        let saved = Saved {
            value: entry.value,
            count: entry.count,
            is_total: entry.other == 1,
        };
        let (kept, shared, bytes) = self.groups.all_mut(slot);
        if self.sharing.shares(part) {
            let is_one = self.sharing.restore(part, kept, shared, saved, bytes);
            return is_one.then_some(()).ok_or_else(other_state);
        }
        let place = kept.get_mut(part).zip(self.keepers.get(part));
        let (kept, keeper) = place.ok_or_else(other_state)?;
        keeper.restore(kept, saved, bytes)
    }

    fn is_timed(&self) -> bool {
        self.spec.ending.is_some()
    }

    fn waits(&self) -> bool {
        self.is_one_group() && self.groups.is_empty()
    }

    fn state_bytes(&self) -> usize {
        self.groups.bytes()
    }

    fn rests(&self) -> bool {
        // The row of the one group would be given anew by whoever finds none.
        !self.is_one_group()
    }

    fn clear(&mut self) {
        self.groups = Groups::default();
    }
}
