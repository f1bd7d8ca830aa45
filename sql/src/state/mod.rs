//! The saved state of continuous queries: what a query goes on from after a restart.
//!
//! One small object per saved epoch below `jobs/<id>/` says how far the query was and in which layers its state lies; layers are
//! shared from one saved epoch to the next, so that saving costs by what changed. The newest recorded one counts, and what it does
//! not name is deleted. The state lies in memory while the query runs; this room only knows its bytes at rest.
//!
//! Reading order: [`checkpoint`] (how far), `layers` (which objects, and when they are merged), `layer` (the bytes of one), `cells` (what
//! changed), `frame` (how every object begins).

pub(crate) mod cells;
pub mod checkpoint;
mod frame;
pub(crate) mod layer;
pub mod layers;
