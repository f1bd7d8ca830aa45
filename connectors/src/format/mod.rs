//! Message bodies as columns, one file per format.
//!
//! Reading order: [`json`].

pub mod json;
