//! Which share of a query's time each of its steps takes, and for which it is held back.
//!
//! A query's steps take turns with the rows of an epoch: while one computes, those before it could have new rows and can not
//! go on, and those behind it have nothing to do yet. So of the whole, a step is busy, held back by what comes behind it, or waits.

use crate::continuous::OperatorStatus;

/// Makes shares of the milliseconds that steps took, so that they add up to the share that computing has of all time.
pub(crate) fn split(figures: &mut [OperatorStatus], all: u32) {
    let sum: u64 = figures.iter().map(|step| step.busy).sum();
    for step in figures {
        step.busy = step.busy * u64::from(all) / sum.max(1);
    }
}

/// Tells each step the share of those behind it.
pub(crate) fn hold_back(figures: &mut [OperatorStatus]) {
    let mut behind = 0;
    for step in figures.iter_mut().rev() {
        step.back_pressured = behind;
        behind += step.busy;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_held_back_by_those_behind_it_and_none_takes_more_than_all_time() {
        let step = |busy| OperatorStatus {
            operator: String::new(),
            rows_in: 0,
            rows_out: 0,
            bytes_in: None,
            state_bytes: 0,
            rest_bytes: 0,
            watermark: None,
            busy,
            back_pressured: 0,
        };
        let mut steps = [step(10), step(0), step(30)].to_vec();
        split(&mut steps, 800);
        steps.push(step(150));
        hold_back(&mut steps);
        let shares: Vec<_> = steps
            .iter()
            .map(|step| (step.busy, step.back_pressured))
            .collect();
        assert_eq!(shares, [(200, 750), (0, 750), (600, 150), (150, 0)]);
        let mut still = [step(0), step(0)];
        split(&mut still, 0);
        hold_back(&mut still);
        assert!(
            still
                .iter()
                .all(|step| step.busy + step.back_pressured == 0)
        );
    }
}
