//! The outside world and its formats.
//!
//! A format turns message bodies into Arrow columns and rows of a result into bodies; an import turns a
//! file into rows. Neither knows topics, queues or SQL.
//!
//! Reading order: [`format`](mod@format), [`import`].

pub mod format;
pub mod import;
