//! Functions of ours, beside those of the query engine.
//!
//! A function sees its arguments and nothing else, so that a continuous query which replays computes the same. To add
//! one: describe it as a [`scalar::Scalar`] in a file here, and list it in [`all`].
//!
//! Reading order: [`scalar`] (the seam), [`json`] (`json_get_str` and its kin, `->`, `->>`), [`queue`].

pub mod all;
pub mod json;
pub mod queue;
pub mod scalar;
