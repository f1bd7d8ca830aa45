//! The outside world and its formats: today files of CSV and NDJSON that are imported into a topic.
//!
//! Reading order: [`import`] (what an import reads), [`format`](mod@format) (one file a format).

pub mod format;
pub mod import;
