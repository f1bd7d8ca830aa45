//! The tail: where each message lies, and the blocks written last.
//!
//! Reading order: `index`, `places`, `cache`, `view`.

pub(crate) mod cache;
pub(crate) mod index;
pub(crate) mod places;
pub(crate) mod view;
