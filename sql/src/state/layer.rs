//! One layer of a saved state: rows that it sets, cells that it takes away.
//!
//! ```text
//! magic "MPSL" | version u32 | crc32c u32 | gone u32 | rows u32
//!     | ids of gone cells (u64 each) | the cell of each row (u64 each) | rows (Arrow IPC stream)
//! ```
//!
//! A layer is written once and never changed. Over the layers below it, it replaces every cell of which it has a row.
//! Ids are kept and never computed again, so layers fit each other whatever a later version makes ids of.

#![deny(clippy::indexing_slicing)]

use std::collections::{BTreeSet, HashSet};

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use bytes::{Buf, Bytes};

use crate::state::checkpoint::CheckpointError;
use crate::state::frame::{covered, damaged, framed, read_rows};

const MAGIC: [u8; 4] = *b"MPSL";
const VERSION: u32 = 1;

/// A layer in memory.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layer {
    /// Cells of the layers below that are no more.
    pub(crate) gone: BTreeSet<u64>,
    /// The cell of each row.
    pub(crate) ids: Vec<u64>,
    /// Rows of cells that are new or replace those below.
    pub(crate) rows: RecordBatch,
}

impl Layer {
    /// A layer with nothing below it.
    pub(crate) fn base(rows: RecordBatch, ids: Vec<u64>) -> Self {
        Self {
            gone: BTreeSet::new(),
            ids,
            rows,
        }
    }

    /// The bytes of the object.
    ///
    /// # Errors
    /// What Arrow says when the rows can not be written.
    ///
    /// # Panics
    /// With more than 2^32 rows, or cells gone.
    pub(crate) fn encode(&self) -> Result<Bytes, ArrowError> {
        let count = |count: usize| u32::try_from(count).expect("a state has fewer rows");
        let mut body = Vec::with_capacity(8 * (self.gone.len() + self.ids.len()));
        body.extend_from_slice(&count(self.gone.len()).to_le_bytes());
        body.extend_from_slice(&count(self.ids.len()).to_le_bytes());
        for id in self.gone.iter().chain(&self.ids) {
            body.extend_from_slice(&id.to_le_bytes());
        }
        let mut writer = StreamWriter::try_new(&mut body, &self.rows.schema())?;
        writer.write(&self.rows)?;
        writer.finish()?;
        drop(writer);
        Ok(framed(MAGIC, VERSION, &body))
    }

    /// Reads an object back; `key` is for the error.
    ///
    /// # Errors
    /// [`CheckpointError::Damaged`] and [`CheckpointError::Newer`].
    pub(crate) fn decode(key: &str, object: &[u8]) -> Result<Self, CheckpointError> {
        let mut body = covered(key, object, MAGIC, VERSION)?;
        let cut_off = || damaged(key, "its list of cells is cut off");
        if body.len() < 2 * size_of::<u32>() {
            return Err(cut_off());
        }
        let (gone, rows) = (u64::from(body.get_u32_le()), u64::from(body.get_u32_le()));
        let mut read = |count: u64| {
            let mut ids = Vec::new();
            for _ in 0..count {
                if body.len() < size_of::<u64>() {
                    return Err(cut_off());
                }
                ids.push(body.get_u64_le());
            }
            Ok(ids)
        };
        let gone: BTreeSet<u64> = read(gone)?.into_iter().collect();
        let ids = read(rows)?;
        let rows = read_rows(body).map_err(|error| damaged(key, &error.to_string()))?;
        if rows.num_rows() != ids.len() {
            return Err(damaged(key, "it has another number of rows than of cells"));
        }
        Ok(Self { gone, ids, rows })
    }

    /// One layer that does what layers do that lie one over the other, the lowest first; `None`: there are none.
    ///
    /// # Errors
    /// When their rows are of different columns.
    pub(crate) fn merged(layers: &[Self]) -> Result<Option<Self>, ArrowError> {
        let Some(lowest) = layers.first() else {
            return Ok(None);
        };
        let mut set: HashSet<u64> = HashSet::new();
        let mut gone = BTreeSet::new();
        let mut kept = Vec::with_capacity(layers.len());
        let mut kept_ids = Vec::with_capacity(layers.len());
        for layer in layers.iter().rev() {
            let (mut rows, mut ids) = (Vec::new(), Vec::new());
            for (id, row) in layer.ids.iter().zip(0_u32..) {
                if !set.contains(id) && !gone.contains(id) {
                    rows.push(row);
                    ids.push(*id);
                }
            }
            kept.push(take_record_batch(&layer.rows, &UInt32Array::from(rows))?);
            // No layer both sets a cell and takes it away.
            set.extend(&ids);
            let more = layer.gone.iter().copied();
            gone.extend(more.filter(|id| !set.contains(id)));
            kept_ids.push(ids);
        }
        kept.reverse();
        kept_ids.reverse();
        Ok(Some(Self {
            rows: concat_batches(lowest.rows.schema_ref(), &kept)?,
            ids: kept_ids.concat(),
            gone,
        }))
    }
}
