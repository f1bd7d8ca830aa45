//! The bytes on disk: one file per format, described together in `FORMAT.md`.
//!
//! Reading order: [`block`], [`envelope`], `checkpoint`, [`columns`], [`manifest`], [`hole`], [`family`], `checksum`.

pub mod block;
pub(crate) mod checkpoint;
pub(crate) mod checksum;
pub mod columns;
pub mod envelope;
pub mod family;
pub mod hole;
pub mod manifest;
