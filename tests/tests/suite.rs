//! The one test binary above the crates: the house rules, the simulation, the whole product over the wire.
//!
//! One binary, because each further one would link the whole product again. Reading order: [`tidy`]
//! (rules a program can check), [`promises`] (whether the tests that the documents name are there), [`simulation`] (one seed, one run), [`storage_simulation`] (the log alone), [`wire_simulation`] (clients over a bad network), [`flights`] (the
//! main job on real data), [`formats`] (bodies that are not JSON, and changes as they happen), [`kills`] and [`kills_of_waiting`] (killed with -9, again and again), [`savepoints`] (jobs that go on from a state under a name), [`state_at_rest`] (a state larger than its memory), [`slt`] (SQL, statement by statement), [`errors`]
//! (bad input), [`streams`] (reading by offset), [`storage`] (an operator's tools), [`cold`] (the cold tier in a bucket) over
//! [`s3`] (a server of S3) and [`clouds`] over [`rest`] (servers of Google's and Azure's), [`nexmark`] (q0 to q22), [`readme`] (what the README promises), [`lessons`] (each of `examples/`), [`written`] (what earlier versions wrote).

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by a panic, and tells its seed on the way"
)]

mod bench;
mod clouds;
mod cold;
mod errors;
mod flights;
mod formats;
mod kills;
mod kills_of_waiting;
mod lessons;
mod messages;
mod nexmark;
mod promises;
mod readme;
mod rest;
mod s3;
mod savepoints;
mod simulation;
mod slt;
mod state_at_rest;
mod storage;
mod storage_simulation;
mod streams;
mod tidy;
mod wire_simulation;
mod written;
