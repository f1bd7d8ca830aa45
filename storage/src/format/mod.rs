//! The bytes on disk: one file per format, described together in `FORMAT.md`.
//!
//! Reading order: [`envelope`], [`columns`], [`manifest`].

pub mod columns;
pub mod envelope;
pub mod manifest;
