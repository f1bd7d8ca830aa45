//! Rows of a tick added up apart: the first of two phases, for groups that are too few to be cut by their keys.
//!
//! Groups that have no key but their window are one lane's, and so are hot ones. Where it makes no difference to any bit of the
//! result, pieces of a tick are added up side by side, in states of their own, and the lane puts the states together in the order of
//! the pieces. That holds for counts and sums of whole numbers, and for the least, the greatest and the like of what is no float.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::DataType;
use millpond_proto::time::Timestamp;

use crate::operator::group::Groups;
use crate::operator::hash::Fixed;
use crate::operator::kernel::{Kernel, State, accumulate};
use crate::operator::key::{Key, write_key_at};
use crate::operator::{Late, LateTime, OperatorError};

/// Rows of a tick on their way into slices.
pub(crate) struct Sorted {
    /// Those that are in time.
    pub(crate) rows: RecordBatch,
    /// Their slices: key and start, 0 without windows.
    pub(crate) keys: Vec<Key>,
    /// The slice of each row.
    pub(crate) indices: Vec<usize>,
    /// The others.
    pub(crate) late: Vec<Late>,
}

/// What rows add to slices.
#[derive(Debug)]
pub struct Partial {
    pub(crate) keys: Vec<Key>,
    pub(crate) states: Vec<State>,
    pub(crate) late: Vec<Late>,
}

impl Groups {
    /// Finds the slice of each row; rows without time belong to none.
    pub(crate) fn sorted(
        &self,
        batch: &RecordBatch,
        watermark: Option<Timestamp>,
    ) -> Result<Sorted, OperatorError> {
        let arrived = self.arrive(batch)?;
        let count = arrived.rows.num_rows();
        let emit = self.grouping.emit;
        let windows = self.grouping.window.as_ref().map(|window| window.kind);
        let mut on_time = Vec::with_capacity(count);
        let (mut keys, mut late): (Vec<Key>, Vec<Late>) = (Vec::new(), Vec::new());
        let mut indices = Vec::with_capacity(count);
        let mut index_of: HashMap<Key, usize, Fixed> = HashMap::default();
        let mut bytes = Vec::new();
        for row in 0..count {
            let slice_ms = match (&arrived.slices_ms, windows) {
                (Some(slices), Some(kind)) => {
                    if slices.is_null(row) {
                        continue;
                    }
                    let slice_ms = slices.value(row);
                    let end_ms = kind.last_end_of(slice_ms);
                    let judged = watermark.and_then(|at| Some((emit.lateness(end_ms, at)?, at)));
                    if let Some((reason, watermark)) = judged {
                        late.push(Late {
                            row: arrived.origin[row],
                            reason,
                            time: LateTime::Window {
                                start: Timestamp(kind.window_to(end_ms).start),
                                end: Timestamp(end_ms),
                            },
                            watermark,
                        });
                        continue;
                    }
                    slice_ms
                }
                _ => 0,
            };
            write_key_at(&mut bytes, arrived.keys.row(row), slice_ms);
            let index = match index_of.get(bytes.as_slice()) {
                Some(index) => *index,
                None => {
                    let key: Key = Arc::from(bytes.as_slice());
                    keys.push(Arc::clone(&key));
                    index_of.insert(key, keys.len() - 1);
                    keys.len() - 1
                }
            };
            on_time.push(u32::try_from(row).expect("a tick has fewer rows than a u32"));
            indices.push(index);
        }
        let rows = match on_time.len() == count {
            true => arrived.rows,
            false => take_record_batch(&arrived.rows, &UInt32Array::from(on_time))?,
        };
        Ok(Sorted {
            rows,
            keys,
            indices,
            late,
        })
    }

    /// Adds rows up that are a piece of a tick.
    pub(crate) fn partial(
        &self,
        batch: &RecordBatch,
        watermark: Option<Timestamp>,
    ) -> Result<Partial, OperatorError> {
        let sorted = self.sorted(batch, watermark)?;
        let states = match sorted.keys.len() {
            0 => Vec::new(),
            count => {
                let (rows, indices) = (&sorted.rows, &sorted.indices);
                accumulate(&self.grouping.aggregates, &[], rows, indices, count)?
            }
        };
        Ok(Partial {
            keys: sorted.keys,
            states,
            late: sorted.late,
        })
    }

    /// Whether the result is the same to the last bit however a tick is cut into pieces.
    pub(crate) fn adds_up(&self) -> bool {
        self.grouping.aggregates.iter().all(adds_up)
    }
}

fn adds_up(kernel: &Kernel) -> bool {
    let function = &kernel.function;
    if function.is_distinct() || !function.order_bys().is_empty() {
        return false;
    }
    let kind = function.field().data_type().clone();
    match function.fun().name() {
        "count" | "bool_and" | "bool_or" | "bit_and" | "bit_or" | "bit_xor" => true,
        "sum" => kind.is_integer() || matches!(kind, DataType::Decimal128(..)),
        "min" | "max" => !kind.is_floating() && !kind.is_nested(),
        _ => false,
    }
}
