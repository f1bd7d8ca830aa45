//! Which windows a moment belongs to, and which slices windows are made of.
//!
//! Windows that overlap share their rows in *slices*, the stretches between two neighbouring bounds: a
//! row is added to one slice, and a window is the sum of its slices. A slice is known by its start, a
//! window by its end. All are half open and aligned to 1970-01-01 00:00. Sessions depend on the rows
//! and have neither.

use std::fmt;
use std::ops::Range;

/// The windows of a query, by the function that makes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// One after the other.
    Tumble {
        /// Length.
        size_ms: i64,
    },
    /// Overlapping.
    Hop {
        /// From the start of one to that of the next; divides the length.
        slide_ms: i64,
        /// Length.
        size_ms: i64,
    },
    /// Beginning together, each a step longer than the one before.
    Cumulate {
        /// By how much; divides the length.
        step_ms: i64,
        /// Length of the longest.
        size_ms: i64,
    },
    /// As long as rows of a key follow each other.
    Session {
        /// Longest pause within a session.
        gap_ms: i64,
    },
}

impl fmt::Display for Windows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tumble { size_ms } => write!(f, "TUMBLE of {size_ms} ms"),
            Self::Hop { slide_ms, size_ms } => write!(f, "HOP of {size_ms} ms every {slide_ms} ms"),
            Self::Cumulate { step_ms, size_ms } => {
                write!(f, "CUMULATE up to {size_ms} ms by {step_ms} ms")
            }
            Self::Session { gap_ms } => write!(f, "SESSION with pauses up to {gap_ms} ms"),
        }
    }
}

impl Windows {
    /// Length of a slice; zero for sessions.
    #[must_use]
    pub fn slice_ms(self) -> i64 {
        match self {
            Self::Tumble { size_ms } => size_ms,
            Self::Hop { slide_ms, .. } => slide_ms,
            Self::Cumulate { step_ms, .. } => step_ms,
            Self::Session { .. } => 0,
        }
    }

    /// The start of the slice that a moment lies in.
    #[must_use]
    pub fn slice_of(self, at_ms: i64) -> i64 {
        match self {
            Self::Session { .. } => at_ms,
            _ => floor(at_ms, self.slice_ms()),
        }
    }

    /// Ends of the windows that a slice is part of, in order.
    pub fn ends_of(self, slice_start_ms: i64) -> impl Iterator<Item = i64> {
        let first = slice_start_ms.saturating_add(self.slice_ms());
        let last = self.last_end_of(slice_start_ms);
        let step = usize::try_from(self.slice_ms().max(1)).unwrap_or(usize::MAX);
        (first..=last).step_by(step)
    }

    /// End of the last window that a slice is part of.
    #[must_use]
    pub fn last_end_of(self, slice_start_ms: i64) -> i64 {
        match self {
            Self::Tumble { size_ms } | Self::Hop { size_ms, .. } => {
                slice_start_ms.saturating_add(size_ms)
            }
            Self::Cumulate { size_ms, .. } => {
                floor(slice_start_ms, size_ms).saturating_add(size_ms)
            }
            Self::Session { gap_ms } => slice_start_ms.saturating_add(gap_ms),
        }
    }

    /// Starts of the slices of the window that ends at `end_ms` lie in this range; it begins with the
    /// window. For a session of one row.
    #[must_use]
    pub fn window_to(self, end_ms: i64) -> Range<i64> {
        let start_ms = match self {
            Self::Tumble { size_ms } | Self::Hop { size_ms, .. } => end_ms.saturating_sub(size_ms),
            Self::Cumulate { size_ms, .. } => floor(end_ms.saturating_sub(1), size_ms),
            Self::Session { gap_ms } => end_ms.saturating_sub(gap_ms),
        };
        start_ms..end_ms
    }
}

fn floor(at_ms: i64, step_ms: i64) -> i64 {
    at_ms.saturating_sub(at_ms.rem_euclid(step_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_lies_in_every_window_of_its_slice_and_in_no_other() {
        let kinds = [
            Windows::Tumble { size_ms: 6 },
            Windows::Hop {
                slide_ms: 2,
                size_ms: 6,
            },
            Windows::Cumulate {
                step_ms: 2,
                size_ms: 6,
            },
        ];
        for kind in kinds {
            for at in -20..20 {
                let slice = kind.slice_of(at);
                let ends: Vec<i64> = kind.ends_of(slice).collect();
                assert!(!ends.is_empty());
                assert_eq!(ends.last(), Some(&kind.last_end_of(slice)), "{kind:?}");
                for end in -40..40 {
                    let window = kind.window_to(end);
                    let is_window = match kind {
                        Windows::Tumble { .. } => end.rem_euclid(6) == 0,
                        _ => end.rem_euclid(2) == 0,
                    };
                    let lies_in = is_window && window.contains(&at);
                    assert_eq!(lies_in, ends.contains(&end), "{kind:?} {at} {end}");
                }
            }
        }
    }
}
