//! Formats of the outside world, one file each.
//!
//! Reading order: [`kind`] (which column type a value fits), [`csv`], [`ndjson`].

pub mod csv;
pub mod kind;
pub mod ndjson;
