//! Rewrites between the parsed statement and the query engine's plan, one a file.
//!
//! Reading order: [`window`], [`continuous`] (a whole query that never ends), [`source`] (what it reads),
//! [`chain`] (from there up), [`output`] (what it writes), [`refuse`].

pub(crate) mod chain;
pub mod continuous;
pub(crate) mod output;
pub(crate) mod refuse;
pub(crate) mod source;
pub mod window;
