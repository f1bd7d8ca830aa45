//! From what operators emit to messages, and from what lanes emit to one order.
//!
//! **Invariant.** What leaves at a step, and in which order, depends on the log alone: rows stand by their
//! places, which no lane decides, and deletions after them by their keys.

use std::collections::BTreeMap;

use bytes::Bytes;
use millpond_connectors::format::body::BodyEncoder;

use crate::error::SqlError;
use crate::job::error::JobError;
use crate::operator::{Keys, Late, Output, Place};
use crate::topic::OutputRow;

/// What a lane emitted at a step, as messages.
#[derive(Debug, Default)]
pub(crate) struct Left {
    pub(crate) step: usize,
    /// Each with its place among those of other lanes; without one as they come.
    pub(crate) rows: Vec<(Option<Place>, OutputRow)>,
    pub(crate) deleted: Vec<Bytes>,
    pub(crate) late: Vec<LateRow>,
    /// How many more came too late, that no row stands for.
    pub(crate) late_more: u64,
}

/// A row that came too late, and where it was taken in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LateRow {
    /// Index of what was taken in together.
    pub(crate) taken: usize,
    /// Its row in the table that the query's first steps left.
    pub(crate) row: usize,
    pub(crate) late: Late,
}

/// Writes what an operator emitted; its late rows are told by `rows`, the places of the rows that it was given.
pub(crate) fn written(
    encoder: &BodyEncoder,
    step: usize,
    out: Output,
    rows: &[(usize, usize)],
) -> Result<Left, JobError> {
    let mut left = Left {
        step,
        late_more: out.late_more,
        ..Left::default()
    };
    for late in out.late {
        let index = usize::try_from(late.row).expect("a u32 fits a usize");
        let (taken, row) = rows[index];
        left.late.push(LateRow { taken, row, late });
    }
    for emission in out.emissions {
        let bodies = encoder.encode(&emission.rows).map_err(SqlError::from)?;
        left.rows.reserve(bodies.len());
        let mut places = emission.places.into_iter();
        let mut keys = match emission.keys {
            Keys::None => Vec::new(),
            Keys::Group(keys) => keys,
        }
        .into_iter();
        for body in bodies {
            let row = OutputRow {
                key: keys.next(),
                body: Some(body),
                properties: Vec::new(),
            };
            left.rows.push((places.next(), row));
        }
        left.deleted.extend(emission.deleted);
    }
    Ok(left)
}

/// Puts what all lanes emitted into one order, step by step.
pub(crate) fn in_order(lanes: Vec<Vec<Left>>) -> Vec<Left> {
    let mut steps: BTreeMap<usize, Left> = BTreeMap::new();
    for left in lanes.into_iter().flatten() {
        let step = steps.entry(left.step).or_default();
        step.rows.extend(left.rows);
        step.deleted.extend(left.deleted);
        step.late.extend(left.late);
        step.late_more += left.late_more;
    }
    let mut steps: Vec<Left> = steps.into_values().collect();
    for step in &mut steps {
        // Each lane's are in order already, so that little is moved; equal ones are of one lane.
        step.rows.sort_by(|(one, _), (other, _)| one.cmp(other));
        step.deleted.sort();
        step.late.sort_by_key(|late| (late.taken, late.row));
        // A message that came too late for nodes of several lanes is one late row.
        step.late.dedup_by_key(|late| (late.taken, late.row));
    }
    steps
}

/// A deletion as a message.
pub(crate) fn deletion(key: Bytes) -> OutputRow {
    OutputRow {
        key: Some(key),
        body: None,
        properties: Vec::new(),
    }
}
