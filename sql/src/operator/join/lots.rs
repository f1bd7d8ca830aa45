//! The rows of one side of an inner join that only come: they lie as columns, in the lots in which they came.
//!
//! Nothing asks for such a row by its bytes, so none are made of it before it is saved: a row that comes costs its place in the list of its
//! key, and its columns are kept as they are. Pairs take theirs from there. Lots of a few rows are put together with the one before, as long
//! as that is not much larger, so that there are few of them and a row is copied a few times at most; a lot most of whose rows went is made
//! anew of the others.
//!
//! **Invariant.** A row in a lot has a slot and that tells its place, until it goes; a slot whose count is 0 is free, and no list leads to it.
//! Equal rows have each a slot of their own and end at one time, which is a column of theirs; they are saved as one.

use arrow::array::{Array as _, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::interleave;

use crate::operator::OperatorError;
use crate::operator::delta::{RowCodec, other_state, rows_at};
use crate::operator::ends::Ends;
use crate::operator::hash::Hashed;
use crate::operator::join::stock::Stocked;
use crate::operator::key::{Encoded, milliseconds};
use crate::operator::numbered::{NONE, Numbered};

/// Most rows of a lot that others are put to.
const LOT_ROWS: usize = 8 * 1024;
/// What a row takes besides its columns, about.
const SLOT_BYTES: usize = 64;
/// What a key takes besides its bytes, about.
const KEY_BYTES: usize = 56;
/// So few rows that went are no reason to make a lot anew, nor so few lots that the others are numbered anew.
const GONE_FEW: usize = 32;

/// Rows are copied out of what they came in if that is more than so many times as large.
const REST_MOST: usize = 4;

/// A row.
#[derive(Debug)]
struct Slot {
    lot: u32,
    row: u32,
    /// Its key, and the rows of that key beside it.
    key: u32,
    before: u32,
    next: u32,
    count: i64,
    at_ms: i64,
}

/// Rows that lie together.
#[derive(Debug)]
struct Lot {
    rows: RecordBatch,
    /// The slot of each row; [`NONE`] of one that went.
    slots: Vec<u32>,
    live: usize,
    bytes: usize,
}

/// A saved row that has no place yet.
#[derive(Debug)]
struct Waiting {
    key: Box<[u8]>,
    row: Box<[u8]>,
    count: i64,
}

/// Rows of a side.
#[derive(Debug)]
pub(super) struct Lots {
    /// The column that tells when a row ends, if one does.
    ends_by: Option<usize>,
    forgets: bool,
    lots: Vec<Lot>,
    slots: Vec<Slot>,
    free_slots: Vec<u32>,
    /// The first slot of each key that has rows.
    keys: Numbered<u32>,
    ends: Ends<u32>,
    waiting: Vec<Waiting>,
    lot_bytes: usize,
    other_bytes: usize,
}

/// A row that comes to be kept: its key, how often it is there, and when it ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Coming<'a> {
    pub(super) key: Hashed<'a>,
    pub(super) count: i64,
    pub(super) at_ms: i64,
}

impl Lots {
    /// Rows that end by a column, if one is told, and are forgotten then if it `forgets`.
    pub(super) fn new(ends_by: Option<usize>, forgets: bool) -> Self {
        Self {
            ends_by,
            forgets,
            lots: Vec::new(),
            slots: Vec::new(),
            free_slots: Vec::new(),
            keys: Numbered::default(),
            ends: Ends::default(),
            waiting: Vec::new(),
            lot_bytes: 0,
            other_bytes: 0,
        }
    }

    /// Lets go of all rows.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.ends_by, self.forgets);
    }

    /// Memory that it takes, about.
    pub(super) fn bytes(&self) -> usize {
        self.lot_bytes + self.other_bytes
    }

    /// The rows of a key, by slot, and how often each is there.
    pub(super) fn of_key(&self, key: Hashed<'_>) -> impl Iterator<Item = (u32, i64)> {
        let key = self.keys.find(key);
        let mut next = key.map_or(NONE, |key| self.keys[key]);
        std::iter::from_fn(move || {
            let slot = self.slots.get(next as usize)?;
            Some((std::mem::replace(&mut next, slot.next), slot.count))
        })
    }

    /// The columns of rows, by slot.
    pub(super) fn columns(&self, slots: &[u32]) -> Result<Vec<ArrayRef>, OperatorError> {
        let mut lots: Vec<&RecordBatch> = Vec::new();
        let mut of_lot: Vec<Option<usize>> = vec![None; self.lots.len()];
        let places = slots.iter().map(|slot| {
            let slot = &self.slots[*slot as usize];
            let lot = slot.lot as usize;
            let place = of_lot[lot].get_or_insert_with(|| {
                lots.push(&self.lots[lot].rows);
                lots.len() - 1
            });
            (*place, slot.row as usize)
        });
        let places: Vec<(usize, usize)> = places.collect();
        columns_at(&lots, &places)
    }

    /// Adds rows that came, one for each of `coming`.
    pub(super) fn push<'a>(
        &mut self,
        rows: RecordBatch,
        coming: impl Iterator<Item = Coming<'a>>,
    ) -> Result<(), OperatorError> {
        let lot = u32::try_from(self.lots.len()).expect("a bounded state has few lots");
        let slots = (0..).zip(coming);
        let slots = slots.map(|(row, coming)| self.push_slot(lot, row, coming));
        let slots: Vec<u32> = slots.collect();
        assert_eq!(slots.len(), rows.num_rows(), "each row is told");
        if !slots.is_empty() {
            let lot = Lot::new(by_themselves(rows)?, slots);
            self.lot_bytes += lot.bytes;
            self.lots.push(lot);
            self.put_together()?;
        }
        Ok(())
    }

    /// Adds the slot of a row.
    fn push_slot(&mut self, lot: u32, row: u32, coming: Coming<'_>) -> u32 {
        let number = match self.free_slots.last() {
            Some(free) => *free,
            None => u32::try_from(self.slots.len()).expect("a bounded state has few rows"),
        };
        assert!(number < NONE, "a bounded state has few rows");
        assert!(coming.count > 0, "these rows only come");
        let key = self.keys.find(coming.key);
        let key = key.unwrap_or_else(|| {
            self.other_bytes += KEY_BYTES + coming.key.bytes.len();
            self.keys.insert(coming.key, NONE)
        });
        let next = std::mem::replace(&mut self.keys[key], number);
        if let Some(next) = self.slots.get_mut(next as usize) {
            next.before = number;
        }
        let slot = Slot {
            lot,
            row,
            key,
            before: NONE,
            next,
            count: coming.count,
            at_ms: coming.at_ms,
        };
        match self.free_slots.pop() {
            Some(free) => self.slots[free as usize] = slot,
            None => self.slots.push(slot),
        }
        if self.forgets {
            self.ends.note(coming.at_ms, number);
        }
        self.other_bytes += SLOT_BYTES;
        number
    }

    /// Puts the last lots together while they are small and about as large as each other.
    fn put_together(&mut self) -> Result<(), OperatorError> {
        while let [.., before, last] = self.lots.as_slice() {
            let live = before.live + last.live;
            if before.live > 2 * last.live || live > LOT_ROWS {
                return Ok(());
            }
            let (mut places, mut slots) = (Vec::with_capacity(live), Vec::with_capacity(live));
            for (lot, of_lot) in [before, last].into_iter().enumerate() {
                for (row, slot) in of_lot.there() {
                    places.push((lot, row as usize));
                    slots.push(slot);
                }
            }
            let schema = last.rows.schema();
            let columns = columns_at(&[&before.rows, &last.rows], &places)?;
            let options = RecordBatchOptions::new().with_row_count(Some(live));
            let rows = RecordBatch::try_new_with_options(schema, columns, &options)?;
            self.lot_bytes -= last.bytes;
            self.lots.truncate(self.lots.len() - 1);
            self.replace(self.lots.len() - 1, Lot::new(rows, slots));
        }
        Ok(())
    }

    /// Puts a lot in the place of another, whose rows it has.
    fn replace(&mut self, at: usize, lot: Lot) {
        self.number(at, &lot.slots);
        self.lot_bytes += lot.bytes;
        let before = std::mem::replace(&mut self.lots[at], lot);
        self.lot_bytes -= before.bytes;
    }

    /// Tells the slots of a lot where its rows are.
    fn number(&mut self, at: usize, slots: &[u32]) {
        let lot = u32::try_from(at).expect("a bounded state has few lots");
        for (row, slot) in (0..).zip(slots).filter(|(_, slot)| **slot != NONE) {
            let slot = &mut self.slots[*slot as usize];
            (slot.lot, slot.row) = (lot, row);
        }
    }

    /// Forgets the rows that end before a time.
    pub(super) fn forget(&mut self, before_ms: Option<i64>) -> Result<(), OperatorError> {
        let ended = self.ends.take_before(before_ms);
        if ended.is_empty() {
            return Ok(());
        }
        for (_, slot) in ended {
            self.remove(slot);
        }
        for at in 0..self.lots.len() {
            let lot = &self.lots[at];
            if lot.live > 0 && lot.is_sparse() {
                let (rows, slots) = lot.there().unzip();
                let rows = rows_at(&lot.rows, rows)?;
                self.replace(at, Lot::new(rows, slots));
            }
        }
        let empty = self.lots.iter().filter(|lot| lot.live == 0).count();
        if empty > GONE_FEW && empty > self.lots.len() / 2 || empty == self.lots.len() {
            let mut lots = std::mem::take(&mut self.lots);
            lots.retain(|lot| lot.live > 0);
            for (at, lot) in lots.iter().enumerate() {
                self.number(at, &lot.slots);
            }
            self.lots = lots;
        }
        self.keys.tidy();
        Ok(())
    }

    /// Takes a row out.
    fn remove(&mut self, number: u32) {
        let slot = &mut self.slots[number as usize];
        slot.count = 0;
        let (key, before, next) = (slot.key, slot.before, slot.next);
        let lot = &mut self.lots[slot.lot as usize];
        lot.slots[slot.row as usize] = NONE;
        lot.live -= 1;
        if lot.live == 0 {
            self.lot_bytes -= lot.bytes;
            *lot = Lot::new(RecordBatch::new_empty(lot.rows.schema()), Vec::new());
        }
        match self.slots.get_mut(before as usize) {
            Some(before) => before.next = next,
            None => self.keys[key] = next,
        }
        if let Some(next) = self.slots.get_mut(next as usize) {
            next.before = before;
        }
        self.free_slots.push(number);
        self.other_bytes -= SLOT_BYTES;
        if self.keys[key] == NONE {
            self.other_bytes -= KEY_BYTES + self.keys.key(key).len();
            self.keys.remove(key);
        }
    }

    /// Gives all rows to `take`, in the order of their keys and bytes, equal ones as one.
    ///
    /// # Panics
    /// Never: the codec is that of the rows.
    pub(super) fn with_all<T>(
        &self,
        codec: &RowCodec,
        take: impl FnOnce(Vec<Stocked<'_>>) -> T,
    ) -> T {
        let there: Vec<&Lot> = self.lots.iter().filter(|lot| lot.live > 0).collect();
        let encoded = there.iter().map(|lot| codec.encode_all(&lot.rows));
        let encoded: Vec<Encoded> = encoded
            .collect::<Result<_, _>>()
            .expect("rows were decoded or came with these columns");
        let waiting = self.decoded(codec, &self.waiting);
        let (_, ends) = waiting.expect("rows were saved with these columns");
        let mut all: Vec<Stocked<'_>> = Vec::with_capacity(self.slots.len());
        for (lot, encoded) in there.into_iter().zip(&encoded) {
            all.extend(lot.there().map(|(row, slot)| {
                let slot = &self.slots[slot as usize];
                Stocked {
                    key: self.keys.key(slot.key),
                    row: encoded.row(row as usize),
                    count: slot.count,
                    at_ms: slot.at_ms,
                }
            }));
        }
        all.extend(self.waiting.iter().zip(ends).map(|(one, at_ms)| Stocked {
            key: &one.key,
            row: &one.row,
            count: one.count,
            at_ms,
        }));
        all.sort_unstable();
        all.dedup_by(|later, first| {
            let is_same = (later.key, later.row) == (first.key, first.row);
            if is_same {
                first.count += later.count;
            }
            is_same
        });
        take(all)
    }

    /// Takes a saved row back, which gets its place with the others that are.
    pub(super) fn restore(
        &mut self,
        codec: &RowCodec,
        key: &[u8],
        row: &[u8],
        count: i64,
    ) -> Result<(), OperatorError> {
        if count <= 0 {
            return Err(other_state());
        }
        self.other_bytes += SLOT_BYTES + key.len() + row.len();
        self.waiting.push(Waiting {
            key: key.into(),
            row: row.into(),
            count,
        });
        match self.waiting.len() < LOT_ROWS {
            true => Ok(()),
            false => self.settle(codec),
        }
    }

    /// Gives the rows that were taken back their places.
    pub(super) fn settle(&mut self, codec: &RowCodec) -> Result<(), OperatorError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let waiting = std::mem::take(&mut self.waiting);
        let (rows, ends) = self.decoded(codec, &waiting)?;
        for Waiting { key, row, .. } in &waiting {
            self.other_bytes -= SLOT_BYTES + key.len() + row.len();
        }
        let coming = waiting.iter().zip(ends).map(|(one, at_ms)| Coming {
            key: Hashed::of(&one.key),
            count: one.count,
            at_ms,
        });
        self.push(rows, coming)
    }

    /// Saved rows as columns, and when each ends.
    fn decoded(
        &self,
        codec: &RowCodec,
        saved: &[Waiting],
    ) -> Result<(RecordBatch, Vec<i64>), OperatorError> {
        let rows = codec.decode(saved.iter().map(|one| one.row.as_ref()))?;
        let ends = match self.ends_by {
            None => vec![0; saved.len()],
            Some(column) => {
                let times = milliseconds(rows.column(column))?;
                if times.null_count() > 0 {
                    return Err(other_state());
                }
                times.values().to_vec()
            }
        };
        Ok((rows, ends))
    }
}

impl Lot {
    fn new(rows: RecordBatch, slots: Vec<u32>) -> Self {
        // Of no rows some columns take a few bytes.
        let bytes = match slots.is_empty() {
            true => 0,
            false => rows.get_array_memory_size(),
        };
        Self {
            bytes,
            live: slots.len(),
            rows,
            slots,
        }
    }

    /// The rows that are there, and their slots.
    fn there(&self) -> impl Iterator<Item = (u32, u32)> {
        let slots = (0..).zip(&self.slots);
        let there = slots.filter(|(_, slot)| **slot != NONE);
        there.map(|(row, slot)| (row, *slot))
    }

    /// Whether most of its rows went.
    fn is_sparse(&self) -> bool {
        let gone = self.slots.len() - self.live;
        gone > GONE_FEW && gone > self.live
    }
}

/// Rows that are a small part of what they came in, without the rest, which would lie there as long as they do.
fn by_themselves(rows: RecordBatch) -> Result<RecordBatch, OperatorError> {
    let (mut own, mut all) = (0, 0);
    for column in rows.columns() {
        own += column.to_data().get_slice_memory_size()?;
        all += column.get_buffer_memory_size();
    }
    if all <= REST_MOST * own {
        return Ok(rows);
    }
    let all = (0_u32..).take(rows.num_rows());
    rows_at(&rows, all.collect())
}

/// The columns of rows of some lots, each told by its lot and its place there.
fn columns_at(
    lots: &[&RecordBatch],
    places: &[(usize, usize)],
) -> Result<Vec<ArrayRef>, OperatorError> {
    let width = lots.first().map_or(0, |lot| lot.num_columns());
    let columns = (0..width).map(|column| {
        let lots: Vec<_> = lots.iter().map(|lot| lot.column(column).as_ref()).collect();
        interleave(&lots, places)
    });
    Ok(columns.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use arrow::array::{AsArray as _, Int64Array, StringArray, TimestampMillisecondArray};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit};
    use proptest::prelude::*;

    use super::*;

    fn schema() -> SchemaRef {
        let time = DataType::Timestamp(TimeUnit::Millisecond, None);
        Arc::new(Schema::new(vec![
            Field::new("n", DataType::Int64, true),
            Field::new("at", time, true),
            Field::new("text", DataType::Utf8, true),
        ]))
    }

    /// Rows by number and time.
    fn batch(rows: &[(i64, i64)]) -> RecordBatch {
        let text = |(n, _): &(i64, i64)| (n % 3 > 0).then(|| format!("text {n}"));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|(n, _)| *n).collect::<Int64Array>()),
            Arc::new(TimestampMillisecondArray::from_iter_values(
                rows.iter().map(|(_, at)| *at),
            )),
            Arc::new(rows.iter().map(text).collect::<StringArray>()),
        ];
        RecordBatch::try_new(schema(), columns).unwrap()
    }

    fn hashed(bytes: &[u8], hashes: u64) -> Hashed<'_> {
        let Hashed { bytes, hash } = Hashed::of(bytes);
        Hashed {
            bytes,
            hash: hash % hashes,
        }
    }

    fn key_of(n: i64) -> [u8; 1] {
        [u8::try_from(n % 5).unwrap()]
    }

    fn push(lots: &mut Lots, rows: &[(i64, i64)], hashes: u64) {
        let keys: Vec<[u8; 1]> = rows.iter().map(|(n, _)| key_of(*n)).collect();
        let coming = rows.iter().zip(&keys).map(|((_, at_ms), key)| Coming {
            key: hashed(key, hashes),
            count: 1,
            at_ms: *at_ms,
        });
        lots.push(batch(rows), coming).unwrap();
    }

    /// What is there, as it is saved: the key, the columns, how often and until when.
    type All = Vec<(Vec<u8>, Vec<u8>, i64, i64)>;

    fn all(lots: &Lots, codec: &RowCodec) -> All {
        lots.with_all(codec, |all| {
            let one =
                |one: &Stocked<'_>| (one.key.to_vec(), one.row.to_vec(), one.count, one.at_ms);
            all.iter().map(one).collect()
        })
    }

    proptest! {
        #[test]
        fn rows_are_found_by_key_with_their_columns_until_they_end_and_after_a_restart(
            hashes in prop::sample::select(vec![1, 2, u64::MAX]),
            forgets in any::<bool>(),
            steps in prop::collection::vec(
                (0..4, prop::collection::vec((0_i64..40, 0_i64..2000), 0..90), 0_i64..2000), 0..24,
            ),
        ) {
            let codec = RowCodec::new(&schema()).unwrap();
            let mut lots = Lots::new(Some(1), forgets);
            let mut model: BTreeMap<(i64, i64), i64> = BTreeMap::new();
            for (how, rows, at_ms) in steps {
                match how {
                    0 if forgets => {
                        lots.forget(Some(at_ms)).unwrap();
                        model.retain(|(_, end), _| *end >= at_ms);
                    }
                    1 => {
                        let saved = all(&lots, &codec);
                        // Where keys are found by another hash, all of them must be.
                        if hashes == u64::MAX {
                            lots.clear();
                            for (key, row, count, _) in &saved {
                                lots.restore(&codec, key, row, *count).unwrap();
                            }
                            prop_assert_eq!(&all(&lots, &codec), &saved);
                            lots.settle(&codec).unwrap();
                        }
                        prop_assert_eq!(all(&lots, &codec), saved);
                    }
                    _ => {
                        push(&mut lots, &rows, hashes);
                        rows.iter().for_each(|row| *model.entry(*row).or_default() += 1);
                    }
                }
                let there: Vec<(i64, i64)> = model.keys().copied().collect();
                let encoded = codec.encode_all(&batch(&there)).unwrap();
                let mut expected: All = model.iter().enumerate().map(|(row, ((n, at_ms), count))| {
                    (key_of(*n).to_vec(), encoded.row(row).to_vec(), *count, *at_ms)
                }).collect();
                expected.sort_unstable();
                prop_assert_eq!(all(&lots, &codec), expected);
                for key in 0..5 {
                    let (slots, counts): (Vec<u32>, Vec<i64>) = lots.of_key(hashed(&[key], hashes)).unzip();
                    let mut found: BTreeMap<(i64, i64), i64> = BTreeMap::new();
                    if !slots.is_empty() {
                        let columns = lots.columns(&slots).unwrap();
                        let rows = RecordBatch::try_new(schema(), columns).unwrap();
                        let numbers = rows.column(0).as_primitive::<Int64Type>();
                        let times = milliseconds(rows.column(1)).unwrap();
                        let told: Vec<(i64, i64)> =
                            numbers.values().iter().copied().zip(times.values().iter().copied()).collect();
                        prop_assert_eq!(&rows, &batch(&told));
                        for (row, count) in told.into_iter().zip(counts) {
                            *found.entry(row).or_default() += count;
                        }
                    }
                    let mut expected = model.clone();
                    expected.retain(|(n, _), _| key_of(*n) == [key]);
                    prop_assert_eq!(found, expected);
                }
                prop_assert_eq!(lots.bytes() == 0, model.is_empty());
            }
        }
    }

    #[test]
    fn a_few_rows_of_many_do_not_keep_the_others() {
        let many = batch(&(0..10_000).map(|n| (n, n)).collect::<Vec<_>>());
        let mut lots = Lots::new(Some(1), true);
        let coming = Coming {
            key: hashed(b"key", u64::MAX),
            count: 1,
            at_ms: 5000,
        };
        lots.push(many.slice(5000, 1), [coming].into_iter())
            .unwrap();
        let of_columns: usize = lots
            .lots
            .iter()
            .map(|lot| lot.rows.get_array_memory_size())
            .sum();
        assert!(of_columns < 2000, "{of_columns}");
        assert!(
            (of_columns..of_columns + 500).contains(&lots.bytes()),
            "{}",
            lots.bytes()
        );
    }

    #[test]
    fn lots_are_few_however_few_rows_come_at_a_time_and_however_many_went() {
        let mut lots = Lots::new(Some(1), true);
        for n in 0..20_000_i64 {
            push(&mut lots, &[(n, n)], u64::MAX);
            // Every hundredth stays to the end, so that few lots become empty by themselves.
            if n % 100 == 0 {
                push(&mut lots, &[(n, 1 << 40)], u64::MAX);
            }
            lots.forget(Some(n - 500)).unwrap();
        }
        assert!(lots.lots.len() < 100, "{}", lots.lots.len());
        let rows: usize = lots.lots.iter().map(|lot| lot.slots.len()).sum();
        assert!(rows < 4000, "{rows}");
        assert!(lots.slots.len() < 1500, "{}", lots.slots.len());
        lots.forget(Some(i64::MAX)).unwrap();
        assert_eq!((lots.bytes(), lots.lots.len()), (0, 0));
    }
}
