//! The outside world and its formats.
//!
//! A format turns message bodies into Arrow columns and rows of a result into bodies; an import reads
//! files of CSV and NDJSON. Nothing here knows topics, queues or SQL.
//!
//! Reading order: [`format`](mod@format) (one file a format), [`import`] (what an import reads).

pub mod format;
pub mod import;
