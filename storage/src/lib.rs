//! The log that everything rests on: the WAL, the queue index, the cold tier and the metadata store.
//!
//! Storage sees records as (shard, kind, bytes). It knows the envelope of a message and where each
//! message lies; it knows nothing of groups, schemas or SQL. What the broker makes of the records is a
//! [`Projection`](log::Projection) that the engine implements: its state is the engine's, its log and its checkpoints
//! are ours.
//!
//! **Invariants.** An append is answered only after its block is on durable storage. A failed write or
//! sync ends the incarnation: nothing is answered OK any more. Reading an offset gives the same bytes
//! whether it lies in memory, in the WAL or in Parquet. Only [`disk`] touches local files.
//!
//! Reading order: [`log`] (the way in), [`disk`], [`format`](mod@format), [`wal`], [`queue`], [`tier`], [`meta`], [`metrics`].
//! Every byte on disk is described in `FORMAT.md`.

pub mod disk;
pub mod error;
pub mod format;
pub mod log;
pub mod meta;
pub mod metrics;
pub mod queue;
pub mod tier;
pub mod wal;
