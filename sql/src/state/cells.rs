//! What of a state changed: its rows by cell, compared by hashes.
//!
//! A cell is all rows that have the same values in some columns: of a graph the rows of one key of one node, of a chain each row.
//! A cell is written and replaced as a whole, its rows in their order. Sixteen bytes are remembered of each: the hash of its
//! key, under which it is known in files, and the hash of its rows, which is never written.
//!
//! **Invariant.** Two keys of one hash are one cell, so a collision costs a few bytes and never a row.
//! Downside: of a key with very many rows all are written when one changes.

use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hasher};

use arrow::array::RecordBatch;
use millpond_proto::message::stable_hash;

use crate::operator::OperatorError;
use crate::operator::key::Keys;

/// Rows that are put into bytes at a time.
const STRETCH_ROWS: usize = 8192;

/// Which rows of a state are a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    /// Each by itself.
    EachRow,
    /// Those that have the same values in these columns.
    ByColumns(&'static [usize]),
}

impl Cell {
    fn columns(self, rows: &RecordBatch) -> Vec<usize> {
        match self {
            Self::EachRow => (0..rows.num_columns()).collect(),
            Self::ByColumns(columns) => columns.to_vec(),
        }
    }
}

/// The cells of a state, by id.
#[derive(Debug, Default)]
pub(crate) struct Cells {
    /// Id and hash of the rows, sorted.
    hashes: Vec<(u64, u64)>,
}

/// What differs between two states.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changed {
    /// Cells that are new or have other rows.
    pub(crate) set: HashSet<u64>,
    /// Cells that are no more.
    pub(crate) gone: BTreeSet<u64>,
}

impl Changed {
    /// Whether nothing does.
    pub(crate) fn is_empty(&self) -> bool {
        self.set.is_empty() && self.gone.is_empty()
    }
}

/// The cell of each row.
///
/// # Errors
/// When a column can not be put into bytes.
pub(crate) fn ids_of(rows: &RecordBatch, cell: Cell) -> Result<Vec<u64>, OperatorError> {
    let mut ids = Vec::with_capacity(rows.num_rows());
    each_stretch(rows, &cell.columns(rows), |key| ids.push(stable_hash(key)))?;
    Ok(ids)
}

fn each_stretch(
    rows: &RecordBatch,
    columns: &[usize],
    mut take: impl FnMut(&[u8]),
) -> Result<(), OperatorError> {
    let rows = rows.project(columns)?;
    let schema = rows.schema();
    let keys = Keys::new(schema.fields().iter().map(|field| field.data_type()))?;
    for from in (0..rows.num_rows()).step_by(STRETCH_ROWS) {
        let stretch = rows.slice(from, STRETCH_ROWS.min(rows.num_rows() - from));
        let encoded = keys.encode(stretch.columns())?;
        (0..stretch.num_rows()).for_each(|row| take(encoded.row(row)));
    }
    Ok(())
}

impl Cells {
    /// Whether rows of these columns can be told from each other.
    pub(crate) fn tell(rows: &RecordBatch) -> bool {
        let schema = rows.schema();
        Keys::take(schema.fields().iter().map(|field| field.data_type()))
    }

    /// The cells of rows whose cells are `ids`.
    ///
    /// # Errors
    /// When a column can not be put into bytes.
    ///
    /// # Panics
    /// Never: a batch has fewer than 2^32 rows.
    pub(crate) fn of(rows: &RecordBatch, ids: &[u64]) -> Result<Self, OperatorError> {
        let all: Vec<usize> = (0..rows.num_columns()).collect();
        let mut hashes = Vec::with_capacity(rows.num_rows());
        each_stretch(rows, &all, |row| {
            let mut hasher = DefaultHasher::new();
            hasher.write(row);
            hashes.push(hasher.finish());
        })?;
        let mut placed: Vec<(u64, u32)> = ids.iter().copied().zip(0..).collect();
        placed.sort_unstable();
        let mut cells = Vec::new();
        for cell in placed.chunk_by(|(before, _), (id, _)| before == id) {
            let mut hasher = DefaultHasher::new();
            for (_, row) in cell {
                let row = usize::try_from(*row).expect("a u32 fits a usize");
                hasher.write_u64(hashes[row]);
            }
            cells.push((cell[0].0, hasher.finish()));
        }
        Ok(Self { hashes: cells })
    }

    /// What makes `now` of these.
    pub(crate) fn changed(&self, now: &Self) -> Changed {
        let mut changed = Changed::default();
        let mut before = self.hashes.iter().peekable();
        for (id, hash) in &now.hashes {
            while let Some((gone, _)) = before.next_if(|(known, _)| known < id) {
                changed.gone.insert(*gone);
            }
            match before.next_if(|(known, _)| known == id) {
                Some((_, known)) if known == hash => {}
                _ => {
                    changed.set.insert(*id);
                }
            }
        }
        changed.gone.extend(before.map(|(gone, _)| *gone));
        changed
    }
}
