//! The outside world and its formats.
//!
//! A format turns message bodies into Arrow columns and rows of a result into bodies. It knows
//! nothing of topics, queues or SQL: it is given a schema and answers batches.
//!
//! Reading order: [`format`].

pub mod format;
