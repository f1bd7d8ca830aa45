//! The last row per key: what the topic of an updating view means as a table.
//!
//! Equal keys share a queue, so each queue is decided by itself: a first pass over keys and offsets
//! remembers the last offset of each key, a second keeps those rows. A row without body deletes its key;
//! a row without key always counts.

use std::collections::HashMap;

use arrow::array::{Array, AsArray, BinaryArray, BooleanArray, RecordBatch};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Int64Type};
use datafusion::error::Result as EngineResult;
use datafusion::execution::memory_pool::MemoryReservation;
use futures::TryStreamExt;

use crate::error::SqlError;
use crate::topic::Scan;

/// Envelope columns that both passes read.
pub(crate) const COLUMNS: [&str; 3] = ["key", "offset", "body"];

/// Last offset of every key of one queue.
#[derive(Debug)]
pub(crate) struct Latest {
    offsets: HashMap<Box<[u8]>, i64>,
    /// Holds the memory of `offsets` for as long as they live.
    _memory: MemoryReservation,
}

/// Memory of one entry of the map beside the key's bytes.
const ENTRY_BYTES: usize = 48;

impl Latest {
    /// Reads a queue's keys; `scan` answers `key` and `offset`.
    pub(crate) async fn read(mut scan: Scan, memory: MemoryReservation) -> EngineResult<Self> {
        let mut offsets: HashMap<Box<[u8]>, i64> = HashMap::new();
        while let Some(batch) = scan.try_next().await.map_err(external)? {
            let (keys, at) = columns(&batch).map_err(external)?;
            for (row, key) in keys.iter().enumerate() {
                let Some(key) = key else { continue };
                let offset = at.value(row);
                match offsets.get_mut(key) {
                    Some(last) => *last = offset,
                    None => {
                        memory.try_grow(key.len() + ENTRY_BYTES)?;
                        offsets.insert(key.into(), offset);
                    }
                }
            }
        }
        Ok(Self {
            offsets,
            _memory: memory,
        })
    }

    /// The rows of a batch that count; it has the columns of [`COLUMNS`].
    pub(crate) fn keep(&self, batch: &RecordBatch) -> Result<RecordBatch, SqlError> {
        let (keys, at) = columns(batch)?;
        let bodies = batch.column_by_name("body").ok_or_else(missing)?;
        let kept: BooleanArray = keys
            .iter()
            .enumerate()
            .map(|(row, key)| {
                let last = key.is_none_or(|key| self.offsets.get(key) == Some(&at.value(row)));
                Some(last && bodies.is_valid(row))
            })
            .collect();
        Ok(filter_record_batch(batch, &kept)?)
    }
}

pub(crate) fn missing() -> SqlError {
    SqlError::Bug {
        cause: "key, offset or body was not read".to_owned(),
    }
}

/// The message keys and offsets of a batch.
pub(crate) fn columns(
    batch: &RecordBatch,
) -> Result<(BinaryArray, arrow::array::PrimitiveArray<Int64Type>), SqlError> {
    let keys = batch.column_by_name("key").ok_or_else(missing)?;
    let keys = cast(keys, &DataType::Binary)?;
    Ok((keys.as_binary::<i32>().clone(), offsets(batch)?))
}

/// The offsets of a batch.
pub(crate) fn offsets(
    batch: &RecordBatch,
) -> Result<arrow::array::PrimitiveArray<Int64Type>, SqlError> {
    let at = batch.column_by_name("offset").ok_or_else(missing)?;
    Ok(cast(at, &DataType::Int64)?.as_primitive().clone())
}

pub(crate) fn external(
    error: impl std::error::Error + Send + Sync + 'static,
) -> datafusion::error::DataFusionError {
    datafusion::error::DataFusionError::External(Box::new(error))
}
