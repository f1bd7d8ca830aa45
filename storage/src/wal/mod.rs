//! The write-ahead log: segment files that only grow, one writer each, and what a restart makes of them.
//!
//! Reading order: [`segment`], [`writer`], `reader`, `recovery`.

pub(crate) mod reader;
pub(crate) mod recovery;
pub mod segment;
pub mod writer;
