//! The one test binary above the crates: the house rules, the simulation, the whole product over the wire.
//!
//! One binary, because each further one would link the whole product again. Reading order: [`tidy`]
//! (rules a program can check), [`simulation`] (one seed, one run), [`flights`] (the main job on real
//! data), [`slt`] (SQL, statement by statement), [`errors`] (bad input), [`streams`] (reading by offset),
//! [`storage`] (an operator's tools), [`readme`] (what the README promises).

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by a panic, and tells its seed on the way"
)]

mod errors;
mod flights;
mod messages;
mod readme;
mod simulation;
mod slt;
mod storage;
mod streams;
mod tidy;
