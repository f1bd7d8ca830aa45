//! The first ranks of a partition, where rows that the order does not tell apart have one number: `RANK()`, `DENSE_RANK()`.

use crate::operator::delta::Row;
use crate::operator::top::Change;
use crate::operator::top::partition::Partition;

/// How rows are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Numbers {
    /// Each row has a number of its own: `ROW_NUMBER()`.
    Rows,
    /// Equal rows have the number of the first of them: `RANK()`.
    Rank,
    /// Equal rows have one number and the next ones the next: `DENSE_RANK()`.
    DenseRank,
}

/// Equal rows among the first ranks.
pub(super) struct Ranking {
    place: Row,
    order: usize,
    number: u64,
    count: i64,
}

/// The rows whose number is at most `most`, in order.
pub(super) fn first(partition: &Partition, numbers: Numbers, most: u64) -> Vec<Ranking> {
    let mut first = Vec::new();
    let (mut number, mut passed) = (0_u64, 0_u64);
    let mut peers: Option<&[u8]> = None;
    for (place, ranked) in partition.rows() {
        let order = place.get(..ranked.order);
        if order != peers || number == 0 {
            number = match numbers {
                Numbers::DenseRank => number + 1,
                Numbers::Rows | Numbers::Rank => passed + 1,
            };
            peers = order;
        }
        if number > most {
            break;
        }
        passed += u64::try_from(ranked.count).unwrap_or(0);
        first.push(Ranking {
            place: Row::clone(place),
            order: ranked.order,
            number,
            count: ranked.count.max(0),
        });
    }
    first
}

/// What differs between the first ranks before and after.
pub(super) fn differences(before: &[Ranking], after: &[Ranking], changes: &mut Vec<Change>) {
    let mut change = |ranking: &Ranking, weight: i64| {
        if weight != 0 {
            let Ranking {
                place,
                order,
                number,
                ..
            } = ranking;
            changes.push(Change::new(place, *order, *number, weight));
        }
    };
    let (mut was, mut is) = (before.iter().peekable(), after.iter().peekable());
    loop {
        // Both are in the order of their places.
        let next = match (was.peek(), is.peek()) {
            (None, None) => return,
            (Some(was), Some(is)) => was.place.cmp(&is.place),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
        };
        let went = if next.is_le() { was.next() } else { None };
        let came = if next.is_ge() { is.next() } else { None };
        match (went, came) {
            (Some(went), Some(came)) if went.number == came.number => {
                change(came, came.count - went.count);
            }
            (went, came) => {
                if let Some(went) = went {
                    change(went, -went.count);
                }
                if let Some(came) = came {
                    change(came, came.count);
                }
            }
        }
    }
}
