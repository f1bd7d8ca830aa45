//! Where the messages of one lite topic lie in the queue of its parent: growing offsets, a byte or two each.
//!
//! Differences as variable-length numbers, with a mark every [`BLOCK`] offsets to begin a walk at. What is
//! kept is a function of the offsets alone, so that two lists of the same offsets are equal.

/// Offsets between two marks.
const BLOCK: usize = 128;

/// Growing offsets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    first: u64,
    last: u64,
    count: u32,
    /// What each offset but the first adds to the one before.
    steps: Vec<u8>,
    /// Every [`BLOCK`]th offset, and where the steps go on behind it.
    marks: Vec<(u64, u32)>,
}

/// A walk over offsets.
#[derive(Clone, Debug)]
pub struct Walk<'a> {
    next: Option<u64>,
    steps: &'a [u8],
}

impl Offsets {
    /// Adds an offset behind the last one; one that is not behind it is passed over.
    pub fn push(&mut self, offset: u64) {
        if self.count == 0 {
            self.first = offset;
        } else if offset <= self.last || self.count == u32::MAX {
            return;
        } else {
            put(&mut self.steps, offset - self.last);
            if (self.count as usize).is_multiple_of(BLOCK) {
                let at = u32::try_from(self.steps.len()).unwrap_or(u32::MAX);
                self.marks.push((offset, at));
            }
        }
        self.last = offset;
        self.count += 1;
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// The last one.
    #[must_use]
    pub fn last(&self) -> Option<u64> {
        (self.count > 0).then_some(self.last)
    }

    /// Those at or behind `from`.
    pub fn from(&self, from: u64) -> impl Iterator<Item = u64> + '_ {
        let (_, walk) = self.near(from);
        walk.skip_while(move |offset| *offset < from)
    }

    /// How many are at or behind `from`.
    #[must_use]
    pub fn count_from(&self, from: u64) -> usize {
        let (before, walk) = self.near(from);
        let skipped = walk.take_while(|offset| *offset < from).count();
        self.count() - before - skipped
    }

    /// The one that has so many behind it, itself included; the first when there are not so many.
    #[must_use]
    pub fn tail(&self, count: usize) -> Option<u64> {
        let index = self.count().saturating_sub(count.max(1));
        let (before, mut walk) = match (index / BLOCK).checked_sub(1) {
            Some(mark) => ((mark + 1) * BLOCK, self.behind(mark)),
            None => (0, self.walk()),
        };
        walk.nth(index - before).filter(|_| self.count > 0)
    }

    /// Lets go of those before `first`.
    pub fn let_go(&mut self, first: u64) {
        if self.count == 0 || first <= self.first {
            return;
        }
        let mut kept = Self::default();
        for offset in self.from(first) {
            kept.push(offset);
        }
        *self = kept;
    }

    /// All of them.
    #[must_use]
    pub fn walk(&self) -> Walk<'_> {
        Walk {
            next: (self.count > 0).then_some(self.first),
            steps: &self.steps,
        }
    }

    /// A walk that begins at the last mark not behind `from`, and how many lie before it.
    fn near(&self, from: u64) -> (usize, Walk<'_>) {
        let marks = self.marks.partition_point(|(offset, _)| *offset <= from);
        match marks.checked_sub(1) {
            Some(mark) => (marks * BLOCK, self.behind(mark)),
            None => (0, self.walk()),
        }
    }

    fn behind(&self, mark: usize) -> Walk<'_> {
        match self.marks.get(mark) {
            Some(&(offset, at)) => Walk {
                next: Some(offset),
                steps: self.steps.get(at as usize..).unwrap_or_default(),
            },
            None => self.walk(),
        }
    }
}

impl Iterator for Walk<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let offset = self.next?;
        self.next = take(&mut self.steps).map(|step| offset.saturating_add(step));
        Some(offset)
    }
}

impl FromIterator<u64> for Offsets {
    fn from_iter<I: IntoIterator<Item = u64>>(offsets: I) -> Self {
        let mut all = Self::default();
        offsets.into_iter().for_each(|offset| all.push(offset));
        all
    }
}

fn put(steps: &mut Vec<u8>, mut step: u64) {
    loop {
        let low = (step & 0x7f) as u8;
        step >>= 7;
        if step == 0 {
            steps.push(low);
            return;
        }
        steps.push(low | 0x80);
    }
}

fn take(steps: &mut &[u8]) -> Option<u64> {
    let mut step = 0_u64;
    for shift in (0..u64::BITS).step_by(7) {
        let (&byte, rest) = steps.split_first()?;
        *steps = rest;
        step |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(step);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn offsets_are_what_a_list_of_them_is(
            steps in prop::collection::vec(prop_oneof![1_u64..4, 1_u64..70_000, Just(u64::from(u32::MAX))], 0..700),
            first in 0_u64..1000,
            at in any::<prop::sample::Index>(),
            nudge in 0_u64..3,
        ) {
            let mut list = Vec::new();
            let mut offset = first;
            for step in steps {
                offset += step;
                list.push(offset);
            }
            let mut offsets: Offsets = list.iter().copied().collect();
            prop_assert_eq!(offsets.walk().collect::<Vec<_>>(), list.clone());
            prop_assert_eq!(offsets.last(), list.last().copied());
            let from = if list.is_empty() { first } else { *at.get(&list) + nudge };
            let behind: Vec<u64> = list.iter().copied().filter(|o| *o >= from).collect();
            prop_assert_eq!(offsets.from(from).collect::<Vec<_>>(), behind.clone());
            prop_assert_eq!(offsets.count_from(from), behind.len());
            for count in [0, 1, 2, 127, 128, 129, 1000] {
                let index = list.len().saturating_sub(count.max(1));
                prop_assert_eq!(offsets.tail(count), list.get(index).copied(), "tail {}", count);
            }
            offsets.let_go(from);
            prop_assert_eq!(&offsets, &behind.iter().copied().collect::<Offsets>());
            prop_assert_eq!(offsets.count(), behind.len());
        }
    }

    #[test]
    fn neighbours_cost_a_byte_each() {
        let offsets: Offsets = (0..10_000).collect();
        assert!(offsets.steps.len() < 10_000 && offsets.marks.len() <= 10_000 / BLOCK);
        let mut again = offsets.clone();
        again.push(9_999);
        assert_eq!(
            again, offsets,
            "what is not behind the last one is passed over"
        );
    }
}
