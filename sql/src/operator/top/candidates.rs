//! The rows of a step that may be among the first of their partitions, by partition.
//!
//! All of them lie in one line in which those of a partition follow each other by number: most partitions have one, which would be
//! little to allocate for.

/// A partition that rows came for.
pub(super) struct Touched<'a> {
    pub(super) key: &'a [u8],
    /// When the last of them happened.
    pub(super) at_ms: Option<i64>,
    /// The first and last of its [`Candidates`].
    first: usize,
    last: usize,
}

impl<'a> Touched<'a> {
    pub(super) fn new(key: &'a [u8], at_ms: Option<i64>) -> Self {
        Self {
            key,
            at_ms,
            first: NONE,
            last: NONE,
        }
    }

    /// Whether none of its rows may count.
    pub(super) fn has_none(&self) -> bool {
        self.first == NONE
    }
}

/// Rows that may be among those that count: of the others no more than the order is looked at.
#[derive(Default)]
pub(super) struct Candidates {
    /// Where each is in the batch.
    pub(super) rows: Vec<u32>,
    /// The next one of the same partition.
    next: Vec<usize>,
}

/// Behind the last of the candidates.
const NONE: usize = usize::MAX;

impl Candidates {
    pub(super) fn push(&mut self, row: u32, of: &mut Touched<'_>) {
        let at = self.rows.len();
        match self.next.get_mut(of.last) {
            Some(next) => *next = at,
            None => of.first = at,
        }
        of.last = at;
        self.rows.push(row);
        self.next.push(NONE);
    }

    /// Those of a partition as they came: which they are, and where in the batch.
    pub(super) fn of(&self, touched: &Touched<'_>) -> impl Iterator<Item = (usize, usize)> {
        let mut next = touched.first;
        std::iter::from_fn(move || {
            let at = next;
            let row = *self.rows.get(at)?;
            next = self.next[at];
            Some((at, row as usize))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_of_a_partition_are_given_as_they_came() {
        let mut candidates = Candidates::default();
        let mut partitions = [b"a", b"b", b"c"].map(|key| Touched::new(key, None));
        for (row, of) in [(0, 1), (2, 0), (5, 1), (6, 1), (9, 0)] {
            candidates.push(row, &mut partitions[of]);
        }
        let of = |at: usize| candidates.of(&partitions[at]).collect::<Vec<_>>();
        assert_eq!(of(0), [(1, 2), (4, 9)]);
        assert_eq!(of(1), [(0, 0), (2, 5), (3, 6)]);
        assert!(partitions[2].has_none() && of(2).is_empty());
    }
}
