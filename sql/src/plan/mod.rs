//! Rewrites between the parsed statement and the query engine's plan, one a file.
//!
//! Reading order: [`window`], [`continuous`] (a whole query that never ends).

pub mod continuous;
pub mod window;
