//! When a poll may find something in a queue, as far as its cursor tells.
//!
//! It errs on one side only: a poll that is told to look may find nothing (what is there waits for an earlier message
//! of its message group, or too much is in flight), but there is never anything for a poll that is told not to.

use millpond_proto::message::Offset;
use millpond_proto::time::Timestamp;

use crate::broker::group::Cursor;

/// When it is worth looking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stir {
    /// Now, and at any time from now on.
    Now,
    /// From then on: a lease ends.
    At(Timestamp),
    /// Not before something happens.
    Never,
}

impl Stir {
    /// Whether it is worth looking at `now`.
    #[must_use]
    pub fn is_due(self, now: Timestamp) -> bool {
        match self {
            Self::Now => true,
            Self::At(at) => at <= now,
            Self::Never => false,
        }
    }
}

impl Cursor {
    /// When a poll may find something here, of a queue that ends at `end`.
    #[must_use]
    pub fn stir(&self, end: Offset) -> Stir {
        if self.next < end.0 || !self.kept.free.is_empty() {
            return Stir::Now;
        }
        self.kept.leases.first_end().map_or(Stir::Never, Stir::At)
    }
}
