//! The command line: what was typed, then what it means.
//!
//! [`args`] holds the words; each verb has a file that turns them into calls over gRPC, so that nothing
//! here knows more than any other client. All printing goes through [`output`] into writers that are
//! passed in: results to the first, everything else to the second.
//!
//! Reading order: [`args`], [`run`], [`output`], [`error`], then a file per verb: [`topic`] and [`schema`] over [`body_args`],
//! [`group`] and [`dlq`] over [`group_args`], [`msg`] over [`msg_args`], [`shelf`],
//! [`job`], [`sql`], [`import`], [`export`], [`storage`], [`bench`], and [`serve`], which is the server itself.

pub mod args;
pub mod bench;
pub mod body_args;
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
pub mod run;
pub mod schema;
pub mod serve;
pub mod shelf;
pub mod sql;
pub mod storage;
pub mod topic;
