//! How far time has come in a step of a graph, and what a column of times owes to it.
//!
//! Two kinds of clock drive a graph, both functions of the log: the store time of its ticks, and the
//! watermark of each input. A [`Horizon`] says of a column that no row to come has an earlier time in it:
//! the least of some clocks, each less its lag. A step takes rows that are judged by where the clocks
//! stood *before* it, and may then finish or forget what lies before where they stand *after* it.

use std::cell::RefCell;

use millpond_proto::time::Timestamp;

/// What moves a column of times on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Clock {
    /// The ticks of the store: a row's store time.
    Store,
    /// The watermark of an input.
    Input(usize),
}

/// Where the clocks stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// No row to come was stored earlier.
    pub(crate) stored_ms: i64,
    /// The watermark of each input; `None` before its first event.
    pub(crate) watermarks: Vec<Option<Timestamp>>,
}

/// Time in one step.
#[derive(Debug)]
pub(crate) struct Moment<'a> {
    /// What the rows of the step are judged by.
    pub(crate) before: &'a Marks,
    /// What holds once they are taken.
    pub(crate) after: &'a Marks,
    late: RefCell<Vec<LateRow>>,
}

/// A row that came too late for the step of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LateRow {
    /// Which of the node's inputs gave it, and where in what it gave.
    pub(crate) side: usize,
    pub(crate) row: usize,
    /// How often it came, or went.
    pub(crate) count: u64,
    pub(crate) at_ms: i64,
    /// Rows from before this are late.
    pub(crate) late_before_ms: i64,
}

impl<'a> Moment<'a> {
    pub(crate) fn new(before: &'a Marks, after: &'a Marks) -> Self {
        Self {
            before,
            after,
            late: RefCell::default(),
        }
    }

    /// Notes a row that came too late to be taken.
    pub(crate) fn leave_out(&self, late: LateRow) {
        self.late.borrow_mut().push(late);
    }

    /// The rows that were noted since it was asked last.
    pub(crate) fn take_late(&self) -> Vec<LateRow> {
        self.late.take()
    }
}

/// A bound of the times still to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Horizon {
    clocks: Vec<(Clock, i64)>,
}

impl Horizon {
    pub(crate) fn of(clock: Clock) -> Self {
        Self {
            clocks: vec![(clock, 0)],
        }
    }

    /// The same, so much earlier.
    #[must_use]
    pub(crate) fn lagging(&self, by_ms: i64) -> Self {
        let clocks = self.clocks.iter();
        Self {
            clocks: clocks
                .map(|(clock, lag)| (*clock, lag.saturating_add(by_ms)))
                .collect(),
        }
    }

    /// The earlier of two.
    #[must_use]
    pub(crate) fn and(&self, other: &Self) -> Self {
        let mut clocks = self.clocks.clone();
        for (clock, lag) in &other.clocks {
            match clocks.iter_mut().find(|(known, _)| known == clock) {
                Some((_, known)) => *known = (*known).max(*lag),
                None => clocks.push((*clock, *lag)),
            }
        }
        clocks.sort_unstable();
        Self { clocks }
    }

    /// Times before this do not come any more; `None` while nothing is known.
    pub(crate) fn at(&self, marks: &Marks) -> Option<i64> {
        let each = self.clocks.iter().map(|(clock, lag)| {
            let at_ms = match clock {
                Clock::Store => marks.stored_ms,
                Clock::Input(input) => marks.watermarks.get(*input).copied()??.as_ms(),
            };
            Some(at_ms.saturating_sub(*lag))
        });
        each.min().flatten()
    }
}

/// State that ends: what of a node's rows it is known by, and when it is forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// By a time within the row: once it lies before `horizon`, if it ever does. Rows that come before `late`
    /// are not taken.
    Time {
        /// Which of the node's columns or keys holds the time.
        column: usize,
        horizon: Option<Horizon>,
        late: Horizon,
    },
    /// By store time: so long after it was last touched.
    Idle { ttl_ms: i64 },
}

impl Ending {
    /// What happened, or was touched, before this is forgotten before the step takes its rows. So what rows meet does not depend
    /// on whether time was told to the state while none came.
    pub(crate) fn forgets_first(&self, moment: &Moment<'_>) -> Option<i64> {
        match self {
            Self::Time { horizon, .. } => horizon.as_ref()?.at(moment.before),
            Self::Idle { ttl_ms } => Some(moment.before.stored_ms.saturating_sub(*ttl_ms)),
        }
    }

    /// What happened before this is forgotten when the step has taken its rows.
    pub(crate) fn forgets_last(&self, moment: &Moment<'_>) -> Option<i64> {
        match self {
            Self::Time { horizon, .. } => horizon.as_ref()?.at(moment.after),
            Self::Idle { .. } => None,
        }
    }

    /// Rows of a time before this are late.
    pub(crate) fn late_before(&self, moment: &Moment<'_>) -> Option<i64> {
        match self {
            Self::Time { late, .. } => late.at(moment.before),
            Self::Idle { .. } => None,
        }
    }

    /// Whether rows may come too late.
    pub(crate) fn judges(&self) -> bool {
        matches!(self, Self::Time { .. })
    }

    /// Whether anything is ever forgotten.
    pub(crate) fn forgets(&self) -> bool {
        !matches!(self, Self::Time { horizon: None, .. })
    }

    /// The column that holds the time, if one does.
    pub(crate) fn column(&self) -> Option<usize> {
        match self {
            Self::Time { column, .. } => Some(*column),
            Self::Idle { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_horizon_is_the_least_of_its_clocks_and_unknown_while_one_is() {
        let both = Horizon::of(Clock::Input(0))
            .lagging(5)
            .and(&Horizon::of(Clock::Input(1)))
            .and(&Horizon::of(Clock::Input(0)).lagging(2));
        let marks = |first: Option<i64>, second: Option<i64>| Marks {
            stored_ms: 0,
            watermarks: vec![first.map(Timestamp), second.map(Timestamp)],
        };
        assert_eq!(both.at(&marks(Some(100), None)), None);
        assert_eq!(both.at(&marks(Some(100), Some(99))), Some(95));
        assert_eq!(both.at(&marks(Some(100), Some(60))), Some(60));
        assert_eq!(Horizon::of(Clock::Store).at(&marks(None, None)), Some(0));
    }
}
