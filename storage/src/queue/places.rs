//! The places of one queue's messages, oldest first.
//!
//! **Invariant.** There is one at least: a queue without any has no row in the [index](super::index).

use std::collections::VecDeque;

use crate::queue::index::Place;

/// Places; a single one lies in the row itself.
#[derive(Debug)]
pub(crate) enum Places {
    One(Place),
    /// Two or more, most often.
    #[expect(
        clippy::box_collection,
        reason = "a deque in the row would make rows of one place three times as large"
    )]
    Many(Box<VecDeque<Place>>),
}

impl Places {
    pub(crate) fn len(&self) -> usize {
        let (first, rest) = self.slices();
        first.len() + rest.len()
    }

    /// The oldest.
    pub(crate) fn front(&self) -> Place {
        let (first, rest) = self.slices();
        let front = first.first().or(rest.first());
        *front.expect("there is one at least")
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Place> {
        let (first, rest) = self.slices();
        first.iter().chain(rest)
    }

    /// How many come before the first that does not fit; those that fit lie before the others.
    pub(crate) fn partition_point(&self, fits: impl Fn(&Place) -> bool) -> usize {
        let (first, rest) = self.slices();
        if first.last().is_none_or(&fits) {
            first.len() + rest.partition_point(&fits)
        } else {
            first.partition_point(&fits)
        }
    }

    pub(crate) fn push_back(&mut self, place: Place) {
        self.many().push_back(place);
    }

    pub(crate) fn push_front(&mut self, place: Place) {
        self.many().push_front(place);
    }

    /// Drops so many of the oldest; the last one stays.
    pub(crate) fn drop_first(&mut self, count: usize) {
        let Self::Many(places) = self else {
            return;
        };
        places.drain(..count.min(places.len() - 1));
        if places.len() == 1 {
            *self = Self::One(self.front());
        } else {
            places.shrink_to_fit();
        }
    }

    fn slices(&self) -> (&[Place], &[Place]) {
        match self {
            Self::One(place) => (std::slice::from_ref(place), &[]),
            Self::Many(places) => places.as_slices(),
        }
    }

    fn many(&mut self) -> &mut VecDeque<Place> {
        if let Self::One(place) = *self {
            *self = Self::Many(Box::new(VecDeque::from([place])));
        }
        match self {
            Self::Many(places) => places,
            Self::One(_) => unreachable!("made so above"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_and_many_are_the_same_to_those_who_read_them() {
        let place = |position| Place {
            position,
            length: 10,
            checksum: 0,
        };
        let mut places = Places::One(place(5));
        let mut plain = VecDeque::from([5]);
        let read = |places: &Places| places.iter().map(|p| p.position).collect::<Vec<_>>();
        for step in 0..100 {
            match step % 7 {
                0 => {
                    places.push_front(place(plain[0] - 1));
                    plain.push_front(plain[0] - 1);
                }
                3 | 6 => {
                    let count = (step / 7 % 3).min(plain.len() - 1);
                    places.drop_first(count);
                    plain.drain(..count);
                }
                _ => {
                    let next = plain[plain.len() - 1] + 1;
                    places.push_back(place(next));
                    plain.push_back(next);
                }
            }
            assert_eq!(read(&places), Vec::from(plain.clone()));
            assert_eq!(places.len(), plain.len());
            assert_eq!(places.front().position, plain[0]);
            let middle = plain[plain.len() / 2];
            let before = places.partition_point(|p| p.position < middle);
            assert_eq!(before, plain.len() / 2);
            assert_eq!(
                matches!(places, Places::One(_)),
                plain.len() == 1 && step > 0
            );
        }
    }
}
