//! What computes in a continuous query, one operator a file.
//!
//! An operator does no I/O and knows no clock: the rows of a tick and the watermark come in as
//! arguments, what it emits leaves through [`Output`]. It is called tick by tick, never with parts of
//! a tick, so what it computes is a function of the log alone: the same whatever the epochs were.
//! DataFusion's expressions and accumulators are kernels inside.
//!
//! Reading order: [`assign`] (windows and slices), [`project`] (filter, projection, windows of rows), [`unnest`] (lists into rows),
//! [`beat`] (what leaves every so often), [`kernel`] (accumulators at rest) and [`quick`] (those that need none), [`key`] (groups as bytes), [`hash`] (how they are found), [`arena`] (where their bytes lie), [`numbered`] (both in one), [`group`] (what grouped aggregates
//! share), [`window`] (windows told beforehand), [`partial`] (rows added up apart), [`session`] (windows that rows make); then tables that
//! change: [`delta`], [`moment`] (time within them) and [`ends`] (what it forgets), [`origin`] (which message a row is), [`latest`], [`aggregate`] with [`kept`] and [`ordered`], [`join`], [`as_of`], [`over`], [`top`], [`close`], [`session_rows`] (sessions of such tables), [`constant`] (rows of the query itself), [`folded`] (queries over a row's lists),
//! the [`graph`] of these, [`slices`] (rows added up before windows repeat them), [`spread`] (which lane a row belongs to), [`place`] (where it stands when it leaves), and [`changes`] (how a change leaves for Debezium's readers).

pub(crate) mod aggregate;
pub(crate) mod arena;
pub(crate) mod as_of;
pub mod assign;
pub(crate) mod beat;
pub(crate) mod changes;
pub(crate) mod close;
pub(crate) mod constant;
pub(crate) mod delta;
pub(crate) mod ends;
pub(crate) mod folded;
pub(crate) mod graph;
pub mod group;
pub(crate) mod hash;
pub(crate) mod join;
pub(crate) mod kept;
pub mod kernel;
pub(crate) mod key;
pub(crate) mod latest;
pub(crate) mod moment;
pub(crate) mod numbered;
pub(crate) mod ordered;
pub(crate) mod origin;
pub(crate) mod over;
pub mod partial;
pub(crate) mod place;
pub mod project;
pub(crate) mod quick;
pub mod session;
pub(crate) mod session_rows;
pub(crate) mod slices;
pub(crate) mod spread;
pub(crate) mod top;
pub mod unnest;
pub mod window;

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use datafusion::error::DataFusionError;
use millpond_proto::remedy::Remedy;
use millpond_proto::time::Timestamp;

use crate::operator::group::Groups;
use crate::operator::partial::Partial;
use crate::operator::place::Place;

/// A step of a continuous query that turns rows into other rows.
pub trait Operator: Send + fmt::Debug {
    /// Takes rows of one tick, in (queue, offset) order, judged by the watermark of that tick: all of the keys
    /// that are this operator's. Not called without rows.
    ///
    /// # Errors
    /// [`OperatorError`] when an expression fails on a row or the state outgrows its bound.
    fn on_batch(
        &mut self,
        batch: &RecordBatch,
        watermark: Option<Timestamp>,
        out: &mut Output,
    ) -> Result<(), OperatorError>;

    /// What adds rows of a tick up apart from the state, if that changes nothing; see [`partial`].
    fn adder(&self) -> Option<Arc<Groups>> {
        None
    }

    /// Takes the rows of a tick as [`Operator::on_batch`], added up in pieces by its adder; those too late are told already.
    ///
    /// # Errors
    /// As [`Operator::on_batch`].
    fn on_partials(
        &mut self,
        _partials: &[Partial],
        _watermark: Option<Timestamp>,
    ) -> Result<(), OperatorError> {
        Ok(())
    }

    /// Learns that no event before `watermark` is expected any more, at the end of a tick.
    ///
    /// # Errors
    /// [`OperatorError`] when what is emitted can not be computed.
    fn on_watermark(&mut self, watermark: Timestamp, out: &mut Output)
    -> Result<(), OperatorError>;

    /// Learns that all rows stored before `now` were given, and none from after it: what waits for a time leaves.
    ///
    /// # Errors
    /// [`OperatorError`] when what is emitted can not be computed.
    fn on_time(&mut self, _now: Timestamp, _out: &mut Output) -> Result<(), OperatorError> {
        Ok(())
    }

    /// The time for which something waits that leaves even if no row comes.
    fn due(&self) -> Option<Timestamp> {
        None
    }

    /// Ends an epoch: what changed in it and was not emitted yet leaves now, unless it waits for a time.
    ///
    /// # Errors
    /// [`OperatorError`] when what is emitted can not be computed.
    fn on_barrier(&mut self, out: &mut Output) -> Result<(), OperatorError>;

    /// Columns of the rows that it emits.
    fn schema(&self) -> SchemaRef;

    /// The state as rows, between two epochs; `None` for an operator without state.
    ///
    /// # Errors
    /// [`OperatorError`] when the state can not be put into columns.
    fn save(&self) -> Result<Option<RecordBatch>, OperatorError>;

    /// Takes the state back that [`Operator::save`] gave, with the watermark that stood then; called
    /// once, before any row.
    ///
    /// # Errors
    /// [`OperatorError::OtherState`] when it was saved by another query or version.
    fn restore(
        &mut self,
        state: &RecordBatch,
        watermark: Option<Timestamp>,
    ) -> Result<(), OperatorError>;

    /// Memory that the state takes, about.
    fn state_bytes(&self) -> usize;

    /// How many columns of a saved state tell the key that it belongs to; they come first.
    fn state_key_columns(&self) -> usize;

    /// Whether its state may lie elsewhere between epochs while no row comes for it: time alone makes it emit nothing.
    fn rests(&self) -> bool {
        false
    }

    /// Lets go of its state, which lies elsewhere; [`Operator::restore`] brings it back.
    fn clear(&mut self) {}
}

/// What a step of an operator did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepFigures {
    /// What it does.
    pub name: &'static str,
    /// The input of the query that it takes rows of, if it takes any by itself.
    pub reads: Option<usize>,
    /// The steps that it takes rows from.
    pub takes: Vec<usize>,
    /// Rows, or changes of rows, that it took.
    pub rows_in: u64,
    /// Rows, or changes of rows, that it gave.
    pub rows_out: u64,
    /// Memory that its state takes, about.
    pub state_bytes: u64,
    /// Memory that more of its state would take, which lies at rest.
    pub rest_bytes: u64,
    /// Milliseconds that it computed, in all lanes together.
    pub busy_ms: u64,
}

/// What an operator emits.
#[derive(Debug, Default)]
pub struct Output {
    /// Rows, in the order in which they were emitted.
    pub emissions: Vec<Emission>,
    /// Rows of the input that came too late.
    pub late: Vec<Late>,
    /// How many more came too late, that no single input row stands for.
    pub late_more: u64,
}

/// Rows that leave together.
#[derive(Debug)]
pub struct Emission {
    /// The rows.
    pub rows: RecordBatch,
    /// The message key of each row.
    pub keys: Keys,
    /// Where each row stands among those that other lanes emit at the same step; none: as they come.
    pub(crate) places: Vec<Place>,
    /// Message keys whose rows are no more.
    pub deleted: Vec<Bytes>,
}

/// Where the message keys of emitted rows come from.
#[derive(Debug)]
pub enum Keys {
    /// The rows have none.
    None,
    /// One key per row: the group's.
    Group(Vec<Bytes>),
}

/// An input row that came too late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late {
    /// Index in the batch given to [`Operator::on_batch`].
    pub row: u32,
    /// Why it is not counted.
    pub reason: LateReason,
    /// What is told of its time.
    pub time: LateTime,
    /// The watermark that it was judged by.
    pub watermark: Timestamp,
}

/// The time of a late row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LateTime {
    /// The window that it belongs to.
    Window {
        /// Its start.
        start: Timestamp,
        /// Its end.
        end: Timestamp,
    },
    /// The time by which a step of the query judged it.
    At(Timestamp),
}

/// Why a late row is not counted any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LateReason {
    /// Its window was emitted already.
    WindowClosed,
    /// Its window still took updates, but the state was forgotten.
    StateExpired,
    /// A join or another step was done with its time.
    TimePassed,
}

impl LateReason {
    /// As it is written in the property `late_reason`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WindowClosed => "window_closed",
            Self::StateExpired => "state_expired",
            Self::TimePassed => "time_passed",
        }
    }
}

/// Why a query could not go on.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// An expression failed.
    #[error(
        "an expression of the query failed ({source}); drop the query and create it with one that takes such rows, for example with try_cast or nullif"
    )]
    Compute {
        /// What DataFusion said.
        #[from]
        source: DataFusionError,
    },
    /// The state grew over its bound.
    #[error(
        "the state of the query takes {size_bytes} bytes, limit {limit_bytes}; use shorter windows or fewer groups, or raise it: ALTER JOB name SET (state_limit = '1 GiB')"
    )]
    StateTooLarge {
        /// Bytes it takes.
        size_bytes: usize,
        /// Most bytes allowed.
        limit_bytes: usize,
    },
    /// A saved state does not fit.
    #[error(
        "the saved state does not fit the query ({detail}); drop the query and create it again, it is rebuilt from the log"
    )]
    OtherState {
        /// What differs.
        detail: String,
    },
}

impl OperatorError {
    /// What to do next.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Compute { .. } | Self::StateTooLarge { .. } => Remedy::FixRequest,
            Self::OtherState { .. } => Remedy::Operator,
        }
    }
}

impl From<arrow::error::ArrowError> for OperatorError {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self::Compute {
            source: error.into(),
        }
    }
}
