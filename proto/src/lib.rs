//! What every other crate of Millpond shares: names, numbers, limits, time, chance and the wire.
//!
//! This is the bottom layer: it uses none of our crates, keeps no state and does no I/O of its own, but for
//! one question to the system ([`files`]).
//! The feature `client` adds the Rust SDK; the feature `test-util` adds simulated time and chance.
//!
//! Reading order: [`message`] (ids and numbers), [`name`], [`limits`], [`time`], [`chance`],
//! [`task`], [`files`], [`property`], [`remedy`], [`wire`]
//! and [`codec`].

pub mod chance;
#[cfg(feature = "client")]
pub mod client;
pub mod codec;
pub mod files;
pub mod limits;
pub mod message;
pub mod name;
pub mod property;
pub mod remedy;
pub mod task;
pub mod time;
pub mod wire;
