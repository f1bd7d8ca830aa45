//! The bytes on disk: one file per format, described together in `FORMAT.md`.
//!
//! Reading order: [`envelope`].

pub mod envelope;
