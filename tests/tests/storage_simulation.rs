//! The log's promises over many seeded runs, at the level of its own calls.
//!
//! Which seeds it looks at, `millpond_tests::seeds` says. A failure names its seed.

use millpond_tests::logs::{LogPlan, Tally};
use millpond_tests::seeds::seeds;

const SEEDS_DEFAULT: u64 = 200;
/// Calls of the log in each run: a million in all of them.
const OPERATIONS: u64 = 5000;

fn check(seed: u64) -> Tally {
    let operations = OPERATIONS;
    let plan = LogPlan { seed, operations };
    std::panic::catch_unwind(|| plan.run()).unwrap_or_else(|_| {
        panic!("seed {seed} broke a promise, see above; again: MILLPOND_SEED={seed} cargo sim")
    })
}

#[test]
fn a_million_calls_keep_every_promise_through_crashes_and_faults() {
    let seeds = seeds(SEEDS_DEFAULT);
    let count = seeds.end - seeds.start;
    let mut sum = Tally::default();
    for seed in seeds {
        sum.add(&check(seed));
    }
    println!("{sum:?}");
    if count >= SEEDS_DEFAULT {
        // Runs in which nothing happens would prove nothing.
        assert!(sum.records > sum.operations / 2, "{sum:?}");
        assert!(sum.failures.min(sum.crashes_at_opening) > 100, "{sum:?}");
        assert!(sum.failed_turns > 30 && sum.deleted > 100, "{sum:?}");
        assert!(sum.crashes > 500 && sum.store_calls > 10_000, "{sum:?}");
    }
}

#[test]
fn a_seed_of_the_log_runs_the_same_twice() {
    for seed in [1, 2, 3] {
        assert_eq!(check(seed), check(seed), "seed {seed}");
    }
}
