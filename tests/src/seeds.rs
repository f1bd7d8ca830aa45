//! Which seeds a simulation looks at.
//!
//! `MILLPOND_SEED=4711` is one, `MILLPOND_SEEDS=2000` are so many, counted from `MILLPOND_SEEDS_FROM`, or from 0. What is run
//! for every commit counts from a number that follows from the commit, so that each of them is looked at under
//! seeds that nobody saw before, and a failure can be had again.

use std::ops::Range;

/// The seeds to look at, `usual` of them if nobody says how many.
#[must_use]
pub fn seeds(usual: u64) -> Range<u64> {
    if let Some(seed) = number("MILLPOND_SEED") {
        return seed..seed + 1;
    }
    let from = number("MILLPOND_SEEDS_FROM").unwrap_or(0);
    from..from + number("MILLPOND_SEEDS").unwrap_or(usual)
}

/// Whether one seed is looked at by somebody who wants to know all of it.
#[must_use]
pub fn is_one() -> bool {
    number("MILLPOND_SEED").is_some()
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}")))
}
