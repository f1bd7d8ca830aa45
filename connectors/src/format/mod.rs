//! Formats of the outside world, one file each: message bodies and imported files as columns.
//!
//! Reading order: [`body`] (a topic's format, and the way in for bodies of every format), [`json`], [`avro`],
//! [`protobuf`], [`line`](mod@line) (CSV bodies), [`raw`], `fit` (which value a column takes), [`debezium`] (changes of rows), [`base64`]; then imported files:
//! [`kind`] (which column type a value fits), [`csv`], [`ndjson`].

pub mod avro;
pub mod base64;
pub mod body;
pub mod csv;
pub mod debezium;
pub(crate) mod fit;
pub mod json;
pub mod kind;
pub mod line;
pub mod ndjson;
pub mod protobuf;
pub mod raw;
