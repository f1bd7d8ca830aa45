//! A lane of a chain whose rows are added up by all hands first: each takes a piece of every tick, the lane puts them together.
//!
//! It is the one lane of groups that have no key but their window, or one that has so many of an epoch's rows that the others would wait
//! for it: a key that most rows have. Which way a lane goes changes nothing that leaves.
//!
//! **Invariant.** Pieces are stretches of a tick in the order of the log and are put together in that order, so only what an
//! aggregate makes of where they were cut could differ, and those that are added up make nothing of it
//! ([`crate::operator::partial`]).

use std::ops::Range;
use std::sync::Arc;

use millpond_connectors::format::body::BodyEncoder;

use crate::job::crew::{Crew, ROWS_APART_MIN};
use crate::job::error::JobError;
use crate::job::intake::Taken;
use crate::job::lanes::{Tick, least, own_rows, rows_at};
use crate::job::written::{Left, written};
use crate::operator::group::Groups;
use crate::operator::partial::Partial;
use crate::operator::{Operator, Output};

/// A tick of fewer rows is added up in one piece.
const PIECE_ROWS_MIN: usize = 64;

/// The lane that has so many more rows than its share that the others would wait for it.
pub(super) fn hot_lane(taken: &[Taken], lanes: usize) -> Option<usize> {
    let mut rows = vec![0; lanes];
    for taken in taken {
        for (lane, own) in taken.by_lane.iter().enumerate() {
            rows[lane] += own.len();
        }
    }
    let all: usize = rows.iter().sum();
    let (lane, most) = rows.into_iter().enumerate().max_by_key(|(_, rows)| *rows)?;
    (lanes > 1 && most >= ROWS_APART_MIN && 2 * most * lanes > 3 * all).then_some(lane)
}

/// The lane, the `index`th, goes through the ticks; answers what left, and the milliseconds that it took all hands.
pub(super) async fn added_up(
    crew: &Crew,
    encoder: &BodyEncoder,
    adder: &Arc<Groups>,
    taken: &Arc<[Taken]>,
    ticks: &Arc<[Tick]>,
    index: usize,
    lane: &mut dyn Operator,
) -> Result<(Vec<Left>, u64), JobError> {
    let hands = crew.lanes();
    let work = (0..hands).map(|hand| {
        let (adder, taken, ticks) = (Arc::clone(adder), Arc::clone(taken), Arc::clone(ticks));
        let mut laps = crew.laps();
        move || -> Result<(Vec<Option<Partial>>, u64), JobError> {
            laps.lap();
            let partials = ticks.iter().map(|tick| {
                let rows = own_rows(index, &taken, tick);
                let piece = piece_of(rows.len(), hand, hands);
                if piece.is_empty() {
                    return Ok(None);
                }
                let from = u32::try_from(piece.start).expect("a tick has fewer rows than a u32");
                let batch = rows_at(&taken, &rows[piece])?;
                let mut partial = adder.partial(&batch, least(&tick.before))?;
                partial.late.iter_mut().for_each(|late| late.row += from);
                Ok(Some(partial))
            });
            Ok((partials.collect::<Result<_, JobError>>()?, laps.lap()))
        }
    });
    let rows = taken.iter().map(|taken| taken.table.num_rows()).sum();
    let mut pieces = Vec::with_capacity(hands);
    let mut busy_ms = 0;
    for done in crew.all(rows, work.collect()).await? {
        let (partials, spent_ms) = done?;
        pieces.push(partials.into_iter());
        busy_ms += spent_ms;
    }
    let mut laps = crew.laps();
    laps.lap();
    let mut left = Vec::with_capacity(2 * ticks.len());
    for (step, tick) in ticks.iter().enumerate() {
        // What waited for the tick leaves before what its rows make leave.
        let mut waited = Output::default();
        lane.on_time(tick.at, &mut waited)?;
        left.push(written(encoder, 2 * step, waited, &[])?);
        let mut out = Output::default();
        let next = pieces
            .iter_mut()
            .filter_map(|pieces| pieces.next().flatten());
        let mut partials: Vec<Partial> = next.collect();
        for partial in &mut partials {
            out.late.append(&mut partial.late);
        }
        lane.on_partials(&partials, least(&tick.before))?;
        if let Some(watermark) = least(&tick.after) {
            lane.on_watermark(watermark, &mut out)?;
        }
        let rows = match out.late.is_empty() {
            true => Vec::new(),
            false => own_rows(index, taken, tick),
        };
        left.push(written(encoder, 2 * step + 1, out, &rows)?);
    }
    Ok((left, busy_ms + laps.lap()))
}

/// The piece of so many rows that is a hand's.
fn piece_of(rows: usize, hand: usize, hands: usize) -> Range<usize> {
    let hands = hands.min(rows.div_ceil(PIECE_ROWS_MIN).max(1));
    match hand < hands {
        true => rows * hand / hands..rows * (hand + 1) / hands,
        false => rows..rows,
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::RecordBatch;
    use arrow::datatypes::Schema;

    use super::*;

    #[test]
    fn a_lane_is_hot_when_the_others_would_wait_for_it() {
        let hot = |rows: &[usize]| {
            let table = RecordBatch::new_empty(Arc::new(Schema::empty()));
            let mut taken = Taken::alone(0, table);
            taken.by_lane = rows.iter().map(|rows| vec![0; *rows]).collect();
            hot_lane(&[taken], rows.len())
        };
        assert_eq!(hot(&[5000, 5000]), None);
        assert_eq!(hot(&[5000, 2000]), None);
        assert_eq!(hot(&[1000, 5000]), Some(1));
        assert_eq!(hot(&[1000, 1000, 5000, 1000]), Some(2));
        assert_eq!(hot(&[0, 100]), None, "few rows are not worth the way");
        assert_eq!(hot(&[5000]), None);
    }

    #[test]
    fn pieces_are_all_rows_in_their_order_and_few_rows_are_one() {
        for rows in [0, 1, 63, 64, 65, 129, 1000] {
            for hands in [1, 2, 3, 8] {
                let pieces = (0..hands).map(|hand| piece_of(rows, hand, hands));
                let all: Vec<usize> = pieces.clone().flatten().collect();
                assert_eq!(all, (0..rows).collect::<Vec<_>>());
                let some = pieces.filter(|piece| !piece.is_empty()).count();
                assert!(
                    some <= rows.div_ceil(PIECE_ROWS_MIN),
                    "{rows} rows, {hands} hands"
                );
            }
        }
    }
}
