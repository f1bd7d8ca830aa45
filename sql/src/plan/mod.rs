//! Rewrites between the parsed statement and the query engine's plan, one a file.
//!
//! Reading order: [`window`].

pub mod window;
