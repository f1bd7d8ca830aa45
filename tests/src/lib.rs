//! What the tests above the crates share: the simulation and its history, and the harness around a server.
//!
//! Nothing uses this crate. The tests themselves are modules of one binary, `tests/suite.rs`.
//!
//! Reading order: [`history`] (what happened, and what may never happen), [`order`] (the same for
//! message groups and dead letters), [`later`] (and for delayed and half messages), [`sim`] (one seed, one run of a
//! broker), [`logs`] (one seed, one run of the log alone), [`power`] (what makes them crash), [`panics`] (what else must not
//! happen in them), [`seeds`] (which of them a test looks at), [`harness`] (a real server as a process).

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a test fails by a panic"
)]

pub mod harness;
pub mod history;
pub mod later;
pub mod logs;
pub mod order;
pub mod panics;
pub mod power;
pub mod seeds;
pub mod sim;
