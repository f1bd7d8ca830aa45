//! The cold tier: what has left the log lies in Parquet files that anybody can read.
//!
//! A file is written and durable before a manifest names it, and the manifest is durable before the
//! metadata store points to it, so a crash leaves the old state or the new one, and at worst an object
//! that nobody names. Nothing read from an object is believed before its checksum holds.
//!
//! It does not decide what to move or when ([`crate::log`] does), and it does not know what a body means.
//!
//! Reading order: [`cold`], [`columns`], [`parquet`], `family`, [`iceberg`], [`objects`], [`mirror`] (manifests of a store elsewhere),
//! [`owner`] (whose store it is), [`probe`] (whether a store can do what we need), `simulated` (feature `test-util`: a store
//! that misbehaves by seed).

pub mod cold;
pub mod columns;
pub(crate) mod family;
pub(crate) mod iceberg;
pub mod mirror;
pub mod objects;
pub mod owner;
pub mod parquet;
pub mod probe;
#[cfg(any(test, feature = "test-util"))]
pub mod simulated;
