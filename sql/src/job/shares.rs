//! Which share of a query's time each of its steps takes, and for which it is held back.
//!
//! A query's steps take turns with the rows of an epoch: while one computes, those before it could have new rows and can not
//! go on, and those behind it have nothing to do yet. So of the whole, a step is busy, held back by what comes behind it, or waits.

use std::collections::BTreeSet;

use crate::continuous::OperatorStatus;
use crate::operator::StepFigures;

/// Makes shares of the milliseconds that steps took, so that they add up to the share that computing has of all time.
pub(crate) fn split(figures: &mut [OperatorStatus], all: u32) {
    let sum: u64 = figures.iter().map(|step| step.busy).sum();
    for step in figures {
        step.busy = step.busy * u64::from(all) / sum.max(1);
    }
}

/// The places of what a step takes rows from, among the reading steps and those behind them.
pub(crate) fn taken(step: &StepFigures, reads: usize) -> Vec<usize> {
    match (step.reads, step.takes.as_slice()) {
        (Some(read), _) => vec![read],
        // The one step of a query that is no graph.
        (None, []) => (0..reads).collect(),
        (None, takes) => takes.iter().map(|node| reads + node).collect(),
    }
}

/// Tells each step the share of those behind it, each counted once, whichever way rows come to it; of each step it is told what it
/// takes rows from, all of it before it.
pub(crate) fn hold_back(figures: &mut [OperatorStatus], takes: &[Vec<usize>]) {
    let mut behind: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); figures.len()];
    for (step, takes) in takes.iter().enumerate().rev() {
        let mut after = behind[step].clone();
        figures[step].back_pressured = after.iter().map(|later| figures[*later].busy).sum();
        after.insert(step);
        for before in takes {
            behind[*before].extend(&after);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn still() -> OperatorStatus {
        OperatorStatus {
            operator: String::new(),
            rows_in: 0,
            rows_out: 0,
            bytes_in: None,
            state_bytes: 0,
            rest_bytes: 0,
            watermark: None,
            busy: 0,
            back_pressured: 0,
        }
    }

    #[test]
    fn a_step_is_held_back_by_those_behind_it_and_none_takes_more_than_all_time() {
        let step = |busy| OperatorStatus { busy, ..still() };
        let mut steps = [step(10), step(0), step(30)].to_vec();
        split(&mut steps, 800);
        steps.push(step(150));
        hold_back(&mut steps, &[vec![], vec![0], vec![1], vec![2]]);
        let shares: Vec<_> = steps
            .iter()
            .map(|step| (step.busy, step.back_pressured))
            .collect();
        assert_eq!(shares, [(200, 750), (0, 750), (600, 150), (150, 0)]);
        let mut resting = [step(0), step(0)];
        split(&mut resting, 0);
        hold_back(&mut resting, &[vec![], vec![0]]);
        assert!(
            resting
                .iter()
                .all(|step| step.busy + step.back_pressured == 0)
        );
    }

    #[test]
    fn a_step_is_not_held_back_by_one_that_takes_nothing_of_it() {
        let step = |busy| OperatorStatus { busy, ..still() };
        // Two that read, a step of the first with two behind it, and what puts those together.
        let mut steps = [
            step(10),
            step(20),
            step(100),
            step(200),
            step(400),
            step(50),
        ]
        .to_vec();
        let takes = [vec![], vec![], vec![0], vec![2], vec![2, 1], vec![3, 4]];
        hold_back(&mut steps, &takes);
        let shares: Vec<_> = steps.iter().map(|step| step.back_pressured).collect();
        assert_eq!(shares, [750, 450, 650, 50, 50, 0]);
    }
}
