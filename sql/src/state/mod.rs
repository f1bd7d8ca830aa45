//! The saved state of continuous queries: what a query goes on from after a restart.
//!
//! One object per saved epoch below `jobs/<id>/`; the newest recorded one counts, older ones are
//! deleted. The state lies in memory while the query runs; this room only knows its bytes at rest.
//!
//! Reading order: [`checkpoint`].

pub mod checkpoint;
