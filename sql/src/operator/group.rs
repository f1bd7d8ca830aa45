//! What grouped aggregates share: the columns of a group, and the way from a group to an output row.
//!
//! Input: the rows that the query's filters and projections leave, among them the group columns.
//! Output: one row per group, group columns first, then one column per aggregate, put through the
//! query's HAVING and select list.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, FieldRef, SchemaRef};
use bytes::Bytes;
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;
use millpond_proto::time::Timestamp;

use crate::operator::assign::Windows;
use crate::operator::beat::Beat;
use crate::operator::kernel::{self, Kernel, State};
use crate::operator::key::{Encoded, Keys, message_keys_as, milliseconds, times};
use crate::operator::project::Transform;
use crate::operator::spread::Router;
use crate::operator::{LateReason, OperatorError};
use crate::topic::KeyFormat;

/// How long an updating query keeps the state of a window after its end, in event time, unless it says
/// otherwise: rows that come even later are late.
pub const STATE_TTL_MS: i64 = 365 * 24 * 60 * 60 * 1000;

/// What the maps take per group besides keys and values, about.
const GROUP_BYTES: usize = 160;

/// When rows of a group are emitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emit {
    /// Whenever the group changed.
    Changes {
        /// How long the state of a window is kept after its end, in event time.
        keep_ms: i64,
        /// When what changed leaves.
        fire: Fire,
    },
    /// Once, when its window is over.
    OnClose {
        /// How long a window stays open after its end, in event time.
        grace_ms: i64,
    },
}

/// When groups that changed are emitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fire {
    /// At the end of the epoch.
    Epoch,
    /// At the beats of so much store time, see [`crate::operator::beat`].
    Every {
        /// From beat to beat.
        every_ms: i64,
        /// Whether the row of a window also leaves when the watermark reaches its end.
        on_close: bool,
    },
    /// When the watermark reaches the end of its window, and from then on at the end of the epoch.
    Closed,
}

impl Emit {
    /// Whether rows of the window that ends at `end_ms` come too late at this watermark.
    pub(crate) fn lateness(self, end_ms: i64, watermark: Timestamp) -> Option<LateReason> {
        match self {
            Self::OnClose { grace_ms } => {
                let close_ms = end_ms.saturating_add(grace_ms);
                (close_ms <= watermark.as_ms()).then_some(LateReason::WindowClosed)
            }
            Self::Changes { keep_ms, .. } => {
                let expiry_ms = end_ms.saturating_add(keep_ms);
                (expiry_ms < watermark.as_ms()).then_some(LateReason::StateExpired)
            }
        }
    }

    /// Windows that end at or before this are over at a watermark: to emit, or to forget.
    pub(crate) fn over_to_ms(self, watermark: Timestamp) -> i64 {
        match self {
            Self::OnClose { grace_ms } => watermark.as_ms().saturating_sub(grace_ms),
            // Expired when end + keep < watermark, so the last end to go is one below.
            Self::Changes { keep_ms, .. } => {
                let expired_ms = watermark.as_ms().saturating_sub(keep_ms);
                expired_ms.saturating_sub(1)
            }
        }
    }

    /// The beats at which groups leave, if they leave by these.
    pub(crate) fn beat(self) -> Option<Beat> {
        match self {
            Self::Changes {
                fire: Fire::Every { every_ms, .. },
                ..
            } => Some(Beat::every(every_ms)),
            _ => None,
        }
    }

    /// Whether no row of a window leaves before the window is over.
    pub(crate) fn waits_for_close(self) -> bool {
        matches!(
            self,
            Self::Changes {
                fire: Fire::Closed,
                ..
            }
        )
    }

    /// Whether a window that changed leaves when it is over, besides when else it leaves.
    pub(crate) fn fires_on_close(self) -> bool {
        matches!(
            self,
            Self::Changes {
                fire: Fire::Every { on_close: true, .. },
                ..
            }
        )
    }

    /// Whether groups are emitted once.
    pub(crate) fn is_on_close(self) -> bool {
        matches!(self, Self::OnClose { .. })
    }
}

/// How long before its end the last moment of a window is.
const LAST_MS: i64 = 1;

/// What a group column tells of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Its start.
    Start,
    /// Its end.
    End,
    /// Its last moment: the millisecond before its end.
    Last,
}

/// The window of the groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowKey {
    /// Its function. The input holds slices, see [`crate::operator::project::Step::Windows`].
    pub kind: Windows,
    /// The group columns that tell it, at least one: index and bound.
    pub bounds: Vec<(usize, Bound)>,
}

/// What the operator computes.
#[derive(Clone, Debug)]
pub struct Grouping {
    /// From the topic's columns to the aggregate's input.
    pub input: Transform,
    /// The group columns' expressions over that input.
    pub groups: Vec<Arc<dyn PhysicalExpr>>,
    /// The aggregates over that input.
    pub aggregates: Vec<Kernel>,
    /// Columns of the aggregate: groups, then aggregates.
    pub schema: SchemaRef,
    /// From those to the output: HAVING and select list.
    pub output: Transform,
    /// The window, if the groups have one.
    pub window: Option<WindowKey>,
    /// When groups are emitted.
    pub emit: Emit,
    /// How their message keys are written.
    pub key_format: KeyFormat,
}

/// A group to be emitted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unit<'a> {
    /// The bytes of its columns but the window's.
    pub(crate) row: &'a [u8],
    /// Its window, if it has one.
    pub(crate) start_ms: i64,
    /// End of its window.
    pub(crate) end_ms: i64,
}

/// Rows of a tick on their way into groups.
pub(crate) struct Arrived {
    /// The aggregates' input.
    pub(crate) rows: RecordBatch,
    /// For each row the index of the row that the operator was given.
    pub(crate) origin: Vec<u32>,
    /// The group columns but the window's.
    pub(crate) keys: Encoded,
    /// Start of each row's slice; NULL for a row without time. `None` without windows.
    pub(crate) slices_ms: Option<Int64Array>,
}

/// Groups that became output rows.
pub(crate) struct Finished {
    /// The rows that HAVING left.
    pub(crate) rows: RecordBatch,
    /// Per group, whether HAVING left it.
    pub(crate) passes: Vec<bool>,
    /// Per group, its message key.
    pub(crate) messages: Vec<Bytes>,
}

/// A grouping, ready to be computed.
#[derive(Debug)]
pub struct Groups {
    pub(crate) grouping: Grouping,
    /// Group columns but the window's.
    plain: Vec<usize>,
    keys: Keys,
    state_fields: Vec<FieldRef>,
}

impl Groups {
    pub(crate) fn new(grouping: Grouping) -> Result<Self, OperatorError> {
        let bounds = grouping.window.iter().flat_map(|window| &window.bounds);
        let bounds: Vec<usize> = bounds.map(|(column, _)| *column).collect();
        let plain: Vec<usize> = (0..grouping.groups.len())
            .filter(|column| !bounds.contains(column))
            .collect();
        let fields = grouping.schema.fields();
        let keys = Keys::new(plain.iter().map(|column| fields[*column].data_type()))?;
        Ok(Self {
            state_fields: kernel::state_fields(&grouping.aggregates)?,
            grouping,
            plain,
            keys,
        })
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    pub(crate) fn state_fields(&self) -> &[FieldRef] {
        &self.state_fields
    }

    /// The group columns but the window's, as a saved state names them.
    pub(crate) fn key_fields(&self) -> Vec<FieldRef> {
        let fields = self.plain.iter().map(|column| {
            let kind = self.grouping.schema.field(*column).data_type().clone();
            Arc::new(Field::new(format!("group_{column}"), kind, true))
        });
        fields.collect()
    }

    /// How the rows of [`Grouping::input`] find the lane that has their group.
    pub(crate) fn router(&self) -> Result<Router, OperatorError> {
        let key = self.plain.iter();
        let key = key.map(|column| Arc::clone(&self.grouping.groups[*column]));
        let fields = self.key_fields();
        let types: Vec<_> = fields
            .iter()
            .map(|field| field.data_type().clone())
            .collect();
        Router::by(key.collect(), &types)
    }

    /// Puts the rows of a tick through the query's filters and projections.
    pub(crate) fn arrive(&self, batch: &RecordBatch) -> Result<Arrived, OperatorError> {
        let (rows, origin) = self.grouping.input.run(batch)?;
        let column = |column: usize| -> Result<ArrayRef, DataFusionError> {
            self.grouping.groups[column]
                .evaluate(&rows)?
                .into_array(rows.num_rows())
        };
        let columns = self.plain.iter().map(|index| column(*index));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let slices_ms = match &self.grouping.window {
            None => None,
            Some(window) => {
                let (index, bound) = window.bounds[0];
                let values = milliseconds(&column(index)?)?;
                let to_start = match bound {
                    Bound::Start => 0,
                    Bound::End => window.kind.slice_ms(),
                    Bound::Last => window.kind.slice_ms() - LAST_MS,
                };
                Some(values.iter().map(|at| Some(at? - to_start)).collect())
            }
        };
        Ok(Arrived {
            keys: self.keys.encode(&columns)?,
            origin,
            slices_ms,
            rows,
        })
    }

    /// One output row per group that HAVING leaves; `rested` are the states that each is the sum of.
    pub(crate) fn finish(
        &self,
        units: &[Unit<'_>],
        rested: &[(usize, &State)],
    ) -> Result<Finished, OperatorError> {
        let mut plain = self
            .keys
            .decode(units.iter().map(|unit| unit.row))?
            .into_iter();
        let mut columns = Vec::with_capacity(self.grouping.schema.fields().len());
        for index in 0..self.grouping.groups.len() {
            let window = self.grouping.window.as_ref();
            let bound = window.and_then(|window| {
                let mut bounds = window.bounds.iter();
                bounds.find(|(column, _)| *column == index)
            });
            columns.push(match bound {
                None => plain.next().expect("there is a key column for each"),
                Some((_, bound)) => {
                    let kind = self.grouping.schema.field(index).data_type();
                    let of = |unit: &Unit<'_>| match bound {
                        Bound::Start => Some(unit.start_ms),
                        Bound::End => Some(unit.end_ms),
                        Bound::Last => Some(unit.end_ms.saturating_sub(LAST_MS)),
                    };
                    times(units.iter().map(of), kind)?
                }
            });
        }
        let group_count = columns.len();
        let kernels = &self.grouping.aggregates;
        columns.extend(kernel::evaluate(kernels, rested, units.len())?);
        let schema = Arc::clone(&self.grouping.schema);
        let options = RecordBatchOptions::new().with_row_count(Some(units.len()));
        let groups = RecordBatch::try_new_with_options(schema, columns, &options)?;
        let (rows, kept) = self.grouping.output.run(&groups)?;
        let mut passes = vec![false; units.len()];
        for index in kept {
            passes[index as usize] = true;
        }
        let key_columns: Vec<usize> = (0..group_count).collect();
        Ok(Finished {
            rows,
            passes,
            messages: message_keys_as(self.grouping.key_format, &groups.project(&key_columns)?)?,
        })
    }
}

/// Memory that a group takes, about.
pub(crate) fn group_bytes(key: &[u8], state: &State) -> usize {
    GROUP_BYTES + 2 * key.len() + kernel::state_bytes(state)
}

/// The row numbers of a tick for which `at` is known.
pub(crate) fn known(at: &Int64Array) -> impl Iterator<Item = (usize, i64)> {
    (0..at.len())
        .filter(|&row| at.is_valid(row))
        .map(|row| (row, at.value(row)))
}
