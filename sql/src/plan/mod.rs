//! Rewrites between the parsed statement and the query engine's plan, one a file.
//!
//! Reading order: [`window`], [`continuous`] (a whole query that never ends), [`source`] (what it reads),
//! [`chain`] (from there up), [`graph`] (joins and tables that change), [`output`] (what it writes), [`store_time`], [`refuse`].

pub(crate) mod chain;
pub mod continuous;
pub(crate) mod graph;
pub(crate) mod output;
pub(crate) mod refuse;
pub mod source;
pub(crate) mod store_time;
pub mod window;
