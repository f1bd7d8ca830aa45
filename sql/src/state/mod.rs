//! The saved state of continuous queries: what a query goes on from after a restart.
//!
//! One small object per saved epoch below `jobs/<id>/` says how far the query was and in which layers its state lies; layers are
//! shared from one saved epoch to the next, so that saving costs by what changed. The newest recorded one counts, and what it does
//! not name is deleted. A state that memory has no room for lies in parts with layers of their own, which are read when they are
//! needed ([`crate::job::parts`]); this room only knows the bytes at rest.
//!
//! Reading order: [`checkpoint`] (how far), `layers` (which objects, and when they are merged), `layer` (the bytes of one), `cells` (what
//! changed), `frame` (how every object begins).

pub(crate) mod cells;
pub mod checkpoint;
mod frame;
pub(crate) mod layer;
pub mod layers;
