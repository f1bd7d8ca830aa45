//! SQL over topics: the dialect, the planner, the batch tables and the streaming operators.
//!
//! This crate opens no socket, reads no clock and knows no broker. What it needs from above is the
//! trait [`topic::Topics`], which the engine implements, so SQL writes through the same shard owners
//! as any send without knowing it. What it needs of state files is an `ObjectStore` passed in.
//!
//! Reading order: [`topic`] (what is asked from above), [`statement`] and [`dialect`] (text in),
//! [`catalog`] (a topic as a table), [`decode`] (envelopes to rows), `computed` (columns that are computed of them), [`typed`] (rows that files have already), [`encoding`]
//! (formats and schemas of topics), [`row_key`] (keys of rows), [`plan`] (rewrites), [`runtime`]
//! (what queries run in), [`function`] (functions of ours), [`batch`] (bounded queries), [`continuous`] (what is asked of the job runtime),
//! [`sql`] (the way in), [`answer`], [`error`].

pub mod answer;
pub mod batch;
pub mod catalog;
pub(crate) mod computed;
pub mod continuous;
pub mod decode;
pub mod dialect;
pub mod encoding;
pub mod error;
pub mod function;
pub mod job;
pub mod operator;
pub mod plan;
pub mod progress;
pub mod row_key;
pub mod runtime;
pub mod savepoint;
#[cfg(any(test, feature = "test-util"))]
pub mod slt;
pub mod sort;
pub mod sql;
pub mod state;
pub mod statement;
#[cfg(any(test, feature = "test-util"))]
pub mod testing;
pub mod topic;
pub mod typed;
