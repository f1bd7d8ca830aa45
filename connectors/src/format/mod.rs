//! Formats of the outside world, one file each: message bodies and imported files as columns.
//!
//! Reading order: [`json`] (bodies), [`kind`] (which column type a value fits), [`csv`], [`ndjson`].

pub mod csv;
pub mod json;
pub mod kind;
pub mod ndjson;
