//! The command line: what was typed, then what it means.
//!
//! [`args`] and the files beside it that end alike hold the words, [`advice`] what to say when they are in the wrong
//! order; each verb has a file that turns them into calls over gRPC, so that nothing
//! here knows more than any other client. All printing goes through [`output`] into writers that are
//! passed in: results to the first, everything else to the second.
//!
//! Reading order: [`args`], [`run`], [`output`], [`error`], then a file per verb: [`topic`] and [`consume`] over [`topic_args`] and [`body_args`], [`schema`],
//! [`group`] and [`dlq`] over [`group_args`], [`msg`] over [`msg_args`], [`shelf`],
//! [`job`], [`sql`] with `console` (its prompt), [`import`] and [`row_key`] (keys as `INSERT` writes them),
//! [`export`], [`storage`], [`bench`](mod@bench) over [`bench_args`],
//! and [`serve`] over [`serve_args`], which is the server itself.

pub mod advice;
pub mod args;
pub mod bench;
pub mod bench_args;
pub mod body_args;
mod console;
pub mod consume;
pub mod dlq;
pub mod error;
pub mod export;
pub mod group;
pub mod group_args;
pub mod import;
pub mod job;
pub mod keep;
pub mod lite;
pub mod msg;
pub mod msg_args;
pub mod output;
pub mod row_key;
pub mod run;
pub mod savepoint;
pub mod schema;
pub mod serve;
pub mod serve_args;
pub mod shelf;
pub mod sql;
pub mod storage;
pub mod topic;
pub mod topic_args;
