//! A lane as [`crate::job::parts`] sees it: state that can be taken apart, a step each.

use std::ops::Range;

use arrow::array::RecordBatch;
use millpond_proto::time::Timestamp;

use crate::job::error::JobError;
use crate::job::lanes::Lanes;
use crate::job::parts::{Parts, Shelf};
use crate::operator::delta::{Entries, other_state};
use crate::operator::graph::Graph;
use crate::operator::{Operator, OperatorError};
use crate::state::checkpoint::PartAt;

/// A lane whose state can be taken apart, a step each.
pub(crate) trait Stepped {
    /// How many steps there may be state of.
    fn steps(&self) -> usize;

    /// Whether the state of a step may rest.
    fn rests(&self, step: usize) -> bool;

    /// Whether a step has state at all.
    fn is_kept(&self, step: usize) -> bool;

    /// Memory that it takes, about.
    fn bytes(&self, step: usize) -> usize;

    /// It as rows.
    fn rows(&self, step: usize) -> Result<RecordBatch, OperatorError>;

    /// Takes such rows back, those of lane `lane.start` of `lane.end`.
    fn put(
        &mut self,
        rows: &RecordBatch,
        lane: Range<usize>,
        watermark: Option<Timestamp>,
    ) -> Result<(), OperatorError>;

    /// Lets go of it.
    fn clear(&mut self, step: usize);
}

impl Stepped for Graph {
    fn steps(&self) -> usize {
        self.parts()
    }

    fn rests(&self, step: usize) -> bool {
        self.part_rests(step)
    }

    fn is_kept(&self, step: usize) -> bool {
        self.part_is_kept(step)
    }

    fn bytes(&self, step: usize) -> usize {
        self.part_bytes(step)
    }

    fn rows(&self, step: usize) -> Result<RecordBatch, OperatorError> {
        let mut entries = Entries::default();
        self.save_part(step, &mut entries);
        entries.batch()
    }

    fn put(
        &mut self,
        rows: &RecordBatch,
        lane: Range<usize>,
        _watermark: Option<Timestamp>,
    ) -> Result<(), OperatorError> {
        self.restore(rows, lane.start, lane.end)
    }

    fn clear(&mut self, step: usize) {
        self.clear_part(step);
    }
}

impl Stepped for Box<dyn Operator> {
    fn steps(&self) -> usize {
        1
    }

    fn rests(&self, _step: usize) -> bool {
        (**self).rests()
    }

    fn is_kept(&self, _step: usize) -> bool {
        true
    }

    fn bytes(&self, _step: usize) -> usize {
        self.state_bytes()
    }

    fn rows(&self, _step: usize) -> Result<RecordBatch, OperatorError> {
        self.save()?.ok_or_else(other_state)
    }

    fn put(
        &mut self,
        rows: &RecordBatch,
        _lane: Range<usize>,
        watermark: Option<Timestamp>,
    ) -> Result<(), OperatorError> {
        self.restore(rows, watermark)
    }

    fn clear(&mut self, _step: usize) {
        (**self).clear();
    }
}

impl Lanes {
    /// Their parts, for lanes that have no state yet.
    pub(crate) fn parts(&self, shelf: Shelf) -> Option<Parts> {
        match self {
            Self::None => None,
            Self::Groups(lanes) => Some(Parts::of(shelf, self.cell(), lanes)),
            Self::Graph(lanes) => Some(Parts::of(shelf, self.cell(), lanes)),
        }
    }

    /// See [`Parts::resume`].
    pub(crate) async fn resume(
        &mut self,
        parts: &mut Parts,
        at: Vec<PartAt>,
        watermark: Option<Timestamp>,
    ) -> Result<(), JobError> {
        match self {
            Self::None => Ok(()),
            Self::Groups(lanes) => parts.resume(lanes, at, watermark).await,
            Self::Graph(lanes) => parts.resume(lanes, at, watermark).await,
        }
    }

    /// See [`Parts::take_over`].
    pub(crate) async fn take_over(&mut self, parts: &mut Parts) -> Result<(), JobError> {
        match self {
            Self::None => Ok(()),
            Self::Groups(lanes) => parts.take_over(lanes).await,
            Self::Graph(lanes) => parts.take_over(lanes).await,
        }
    }

    /// See [`Parts::save`].
    pub(crate) async fn save_parts(&mut self, parts: &mut Parts) -> Result<Vec<PartAt>, JobError> {
        match self {
            Self::None => Ok(Vec::new()),
            Self::Groups(lanes) => parts.save(lanes).await,
            Self::Graph(lanes) => parts.save(lanes).await,
        }
    }

    /// See [`Parts::whole`].
    pub(crate) async fn whole(
        &mut self,
        parts: &mut Parts,
    ) -> Result<Option<RecordBatch>, JobError> {
        match self {
            Self::None => Ok(None),
            Self::Groups(lanes) => parts.whole(lanes).await,
            Self::Graph(lanes) => parts.whole(lanes).await,
        }
    }
}
