//! The write-ahead log: segment files, the writer with its writes in flight, and what a restart makes of them.
//!
//! Reading order: [`segment`], [`spare`], `intake`, `buffers`, [`writer`], `fuse`, `probe`, `reader`, `recovery`.

mod buffers;
#[cfg(test)]
mod contract;
#[cfg(test)]
mod fixtures;
mod fuse;
pub(crate) mod intake;
pub(crate) mod probe;
pub(crate) mod reader;
pub(crate) mod recovery;
pub mod segment;
pub mod spare;
pub mod writer;
