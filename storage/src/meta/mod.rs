//! The metadata store: small facts only (terms, manifest pointers, what the folder was made with).
//!
//! Compare-and-swap is the only way to change one, so a stale writer can not win.

use std::fmt;

use bytes::Bytes;

/// Why the metadata store did not answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the metadata store failed: {detail}; check the disk and its permissions")]
pub struct MetaError {
    /// What it said.
    pub detail: String,
}

/// A value and the version that a compare-and-swap must name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The bytes.
    pub value: Bytes,
    /// Grows with each change of this key.
    pub version: u64,
}

/// Facts by key.
pub trait MetaStore: Send + Sync + fmt::Debug {
    /// The value of a key.
    ///
    /// # Errors
    /// [`MetaError`] when the store can not be read.
    fn get(&self, key: &str) -> Result<Option<Versioned>, MetaError>;

    /// Sets a key if its version is still `expected` (`None`: if it is absent); durable when it returns.
    ///
    /// Returns whether it was set. `None` as `value` removes the key.
    ///
    /// # Errors
    /// [`MetaError`] when the store can not be written; the outcome is then unknown: read it back.
    fn compare_and_swap(
        &self,
        key: &str,
        expected: Option<u64>,
        value: Option<&[u8]>,
    ) -> Result<bool, MetaError>;

    /// Keys that start with `prefix`, sorted.
    ///
    /// # Errors
    /// [`MetaError`] when the store can not be read.
    fn keys(&self, prefix: &str) -> Result<Vec<String>, MetaError>;
}
