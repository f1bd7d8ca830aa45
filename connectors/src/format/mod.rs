//! Formats of the outside world, one file each.
//!
//! Message bodies as columns: [`json`]. Files that are imported: [`kind`] (which column type a value
//! fits), [`csv`], [`ndjson`].

pub mod csv;
pub mod json;
pub mod kind;
pub mod ndjson;
