//! Which message a row of a graph is, as long as no node made another one of it.
//!
//! Scans, filters, projections, windows, unions and the way between lanes pass messages on; what a join or an aggregate
//! gives is no message any more. A node above these judges times that others have judged before, so rows that come too
//! late are messages as a rule; those that are none are counted alone. A message that comes too late for several
//! nodes, or for several windows, is one late row.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use millpond_proto::time::Timestamp;

use crate::operator::moment::LateRow;
use crate::operator::{Late, LateReason, LateTime, Output};

/// What was taken in together, and a row of it.
pub(crate) type Message = (usize, usize);

/// Stands for the message of a row that is several; it is not late.
pub(crate) const UNKNOWN: Message = (usize::MAX, usize::MAX);

/// Rows of an input that came at a step.
#[derive(Clone, Debug)]
pub(crate) struct Came {
    pub(crate) rows: RecordBatch,
    /// The message of each row.
    pub(crate) messages: Vec<Message>,
}

impl Came {
    /// Rows of which nobody asks whence they came.
    #[cfg(test)]
    pub(crate) fn unknown(rows: RecordBatch) -> Self {
        Self {
            rows,
            messages: Vec::new(),
        }
    }
}

/// What came too late in an epoch.
#[derive(Debug, Default)]
pub(crate) struct LateRows {
    messages: BTreeMap<usize, BTreeMap<Message, LateRow>>,
    others: BTreeMap<usize, u64>,
}

/// What came too late at a step; the rows that it tells of are `messages`.
pub(crate) struct LateStep {
    pub(crate) step: usize,
    pub(crate) out: Output,
    pub(crate) messages: Vec<Message>,
}

impl LateRows {
    /// Notes what came too late at a step for a node; `origins` are the messages of each of its inputs, or none.
    pub(crate) fn leave_out(&mut self, step: usize, origins: &[&[Message]], late: Vec<LateRow>) {
        for late in late {
            let messages = origins.get(late.side);
            let message = messages.and_then(|messages| messages.get(late.row));
            match message.filter(|message| **message != UNKNOWN) {
                Some(message) => {
                    let of_step = self.messages.entry(step).or_default();
                    of_step.entry(*message).or_insert(late);
                }
                None => *self.others.entry(step).or_default() += late.count,
            }
        }
    }

    /// Tells what was noted, and forgets it.
    pub(crate) fn take(&mut self) -> Vec<LateStep> {
        let mut told: Vec<LateStep> = Vec::new();
        for (step, late_more) in std::mem::take(&mut self.others) {
            told.push(LateStep {
                step,
                out: Output {
                    late_more,
                    ..Output::default()
                },
                messages: Vec::new(),
            });
        }
        for (step, late) in std::mem::take(&mut self.messages) {
            let messages = late.keys().copied().collect();
            let late = (0_u32..).zip(late.into_values());
            let late = late.map(|(row, late)| Late {
                row,
                reason: LateReason::TimePassed,
                time: LateTime::At(Timestamp(late.at_ms)),
                watermark: Timestamp(late.late_before_ms),
            });
            told.push(LateStep {
                step,
                out: Output {
                    late: late.collect(),
                    ..Output::default()
                },
                messages,
            });
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn late(side: usize, row: usize) -> LateRow {
        LateRow {
            side,
            row,
            count: 2,
            at_ms: 5,
            late_before_ms: 10,
        }
    }

    #[test]
    fn a_message_is_late_once_and_what_is_none_is_counted() {
        let mut rows = LateRows::default();
        let origins: [&[Message]; 2] = [&[(0, 2), (0, 2), (0, 0)], &[]];
        rows.leave_out(
            3,
            &origins,
            vec![late(0, 0), late(0, 1), late(0, 2), late(1, 0)],
        );
        rows.leave_out(4, &origins, vec![late(1, 5)]);
        let told = rows.take();
        let more: u64 = told.iter().map(|step| step.out.late_more).sum();
        assert_eq!(more, 4);
        let late = told.iter().find(|step| !step.messages.is_empty()).unwrap();
        assert_eq!(
            (late.step, late.messages.as_slice()),
            (3, &[(0, 0), (0, 2)][..])
        );
        assert_eq!(late.out.late[1].row, 1);
        assert_eq!(late.out.late[0].watermark, Timestamp(10));
        assert!(rows.take().is_empty());
    }
}
