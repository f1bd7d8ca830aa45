//! The broker's promises over many seeded runs: crashes, torn writes and failed syncs, clients that leave, hang and
//! lose answers, clocks that are set, operators at work.
//!
//! Which seeds it looks at, `millpond_tests::seeds` says. A failure names its seed.

use millpond_tests::history::Tally;
use millpond_tests::seeds::{is_one, seeds};
use millpond_tests::sim::{Plan, readers};

/// Seeds that once found a bug, with the number of WALs of that run.
const REGRESSIONS: [(u64, u16); 12] = [
    // A crash while the metadata store was laid out, or repaired in place, left one that did not open.
    (0, 1),
    (7, 1),
    (4, 2),
    (7, 2),
    // A torn commit of it, and a failed log that wrote on beside its successor.
    (5, 1),
    (6, 1),
    (33, 1),
    (40, 1),
    (48, 1),
    // An attempt on lite topics that was asked again while the log ended got a part of what it had.
    (41, 2),
    // One that was asked again got a part of it beside something new of another shard.
    (3_333_687_372, 2),
    // Three deliveries of a message were lost on their way, so it is dead and never came: that breaks no promise.
    (3_905_337_431, 2),
];

const SEEDS_DEFAULT: u64 = 46;
/// Crashes of one seed; one that moves messages to the cold tier has a third of them.
const CRASHES: u32 = 26;
/// The same where a seed runs twice.
const CRASHES_TWICE: u32 = 6;

/// Runs one seed and checks it; a panic of the run itself is named with its seed as well.
fn check(seed: u64, wals: u16) -> Tally {
    let plan = Plan {
        seed,
        wals,
        crashes: CRASHES,
    };
    let history = std::panic::catch_unwind(|| plan.run()).unwrap_or_else(|_| {
        panic!("seed {seed} with {wals} WALs panicked; again: MILLPOND_SEED={seed} cargo sim")
    });
    let broken = history.broken_promises(&readers());
    if !broken.is_empty() {
        if is_one() {
            eprintln!("{history}");
        }
        let some = broken
            .iter()
            .take(10)
            .cloned()
            .collect::<Vec<_>>()
            .join("\n  ");
        panic!(
            "seed {seed} with {wals} WALs broke {} promises; again: MILLPOND_SEED={seed} cargo sim\n  {some}",
            broken.len()
        );
    }
    history.tally()
}

fn check_all(wals: u16) {
    let mut sum = Tally::default();
    let seeds = seeds(SEEDS_DEFAULT);
    let count = seeds.end - seeds.start;
    for seed in seeds {
        sum.add(&check(seed, wals));
    }
    println!("{wals} WALs: {sum:?}");
    // Runs in which nothing happens would prove nothing. Half of each is what one number of WALs is to give.
    if count >= SEEDS_DEFAULT {
        assert!(sum.requests >= 500_000, "{sum:?}");
        assert!(sum.restarts >= 1000, "{sum:?}");
    }
}

#[test]
fn what_is_acknowledged_survives_crashes_and_what_is_acked_never_returns() {
    check_all(1);
}

#[test]
fn nothing_leans_on_one_log_for_atomicity_across_shards() {
    check_all(2);
}

#[test]
fn seeds_that_found_a_bug_stay_found() {
    // Those that are looked at anyway are not looked at again.
    let looked_at = seeds(SEEDS_DEFAULT);
    for (seed, wals) in REGRESSIONS {
        if !looked_at.contains(&seed) {
            check(seed, wals);
        }
    }
}

#[test]
fn a_seed_gives_the_same_trace_twice() {
    for seed in [0, 1, 2] {
        for wals in [1, 2] {
            let plan = Plan {
                seed,
                wals,
                crashes: CRASHES_TWICE,
            };
            let (first, second) = (plan.run().to_string(), plan.run().to_string());
            let differs = first.lines().zip(second.lines()).find(|(a, b)| a != b);
            assert!(
                first == second,
                "seed {seed} with {wals} WALs ran differently the second time: {differs:?}"
            );
        }
    }
}
