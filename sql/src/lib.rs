//! SQL over topics: the dialect, the planner, the batch tables and the streaming operators.
//!
//! This crate opens no socket, reads no clock and knows no broker. What it needs from above is the
//! trait [`topic::Topics`], which the engine implements, so SQL writes through the same shard owners
//! as any send without knowing it. What it needs of state files is an `ObjectStore` passed in.
//!
//! Reading order: [`topic`] (what is asked from above), `statement` (the dialect), `catalog`,
//! `batch` (bounded queries), `plan`, `operator`, `state`, `job` (continuous queries).

pub mod sort;
pub mod topic;
