//! The metadata store: small facts only (terms, manifest pointers, what the folder was made with).
//!
//! Compare-and-swap is the only way to change one, so a stale writer can not win.
//!
//! Reading order: [`MetaStore`], [`embedded`]. `contract` is the test that every store passes.

use std::fmt;

use bytes::Bytes;

pub mod embedded;

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

    /// Lets go of what lies below; nothing is written any more, and every later call fails.
    ///
    /// A failed incarnation may still be held by calls that it is answering. Its successor opens the same
    /// store, so the store is closed before, whoever holds it.
    fn close(&self);
}

/// Checks that a store keeps the contract of [`MetaStore`]; `open` opens the same store again and again,
/// each time after the one before was dropped. The store is empty at first.
///
/// # Panics
/// When it does not.
#[cfg(test)]
pub(crate) fn contract(open: impl Fn() -> std::sync::Arc<dyn MetaStore>) {
    let version = |store: &dyn MetaStore, key: &str| store.get(key).unwrap().map(|v| v.version);

    let store = open();
    assert_eq!(store.get("a").unwrap(), None);
    assert!(store.keys("").unwrap().is_empty());
    // Absent keys are set only by naming no version.
    assert!(!store.compare_and_swap("a", Some(1), Some(b"x")).unwrap());
    assert!(store.compare_and_swap("a", None, Some(b"1")).unwrap());
    assert!(!store.compare_and_swap("a", None, Some(b"2")).unwrap());
    let first = version(&*store, "a");
    assert_eq!(store.get("a").unwrap().unwrap().value, "1");
    // A stale version loses, and changes nothing.
    assert!(store.compare_and_swap("a", first, Some(b"2")).unwrap());
    assert!(!store.compare_and_swap("a", first, Some(b"3")).unwrap());
    assert!(!store.compare_and_swap("a", first, None).unwrap());
    assert_eq!(store.get("a").unwrap().unwrap().value, "2");
    let second = version(&*store, "a");
    assert!(second > first);
    // Other keys do not matter to it.
    for key in ["a/b", "a/c", "b", "A", ""] {
        assert!(store.compare_and_swap(key, None, Some(b"")).unwrap());
    }
    assert_eq!(version(&*store, "a"), second);
    assert_eq!(store.keys("a").unwrap(), ["a", "a/b", "a/c"]);
    assert_eq!(store.keys("a/").unwrap(), ["a/b", "a/c"]);
    assert_eq!(store.keys("").unwrap().len(), 6);
    assert_eq!(store.get("b").unwrap().unwrap().value, "");
    drop(store);

    // Everything is there after opening it again.
    let store = open();
    assert_eq!(version(&*store, "a"), second);
    assert_eq!(store.keys("a/").unwrap(), ["a/b", "a/c"]);
    // A key that is made anew does not take back an old version.
    assert!(store.compare_and_swap("a", second, None).unwrap());
    assert_eq!(store.get("a").unwrap(), None);
    assert!(!store.compare_and_swap("a", second, Some(b"4")).unwrap());
    assert!(store.compare_and_swap("a", None, Some(b"4")).unwrap());
    assert!(version(&*store, "a") > second);
    // Whoever still holds a closed store reads and changes nothing, not even when it lets go.
    store.close();
    let successor = open();
    assert!(store.get("a").is_err() && store.keys("").is_err());
    assert!(store.compare_and_swap("z", None, Some(b"")).is_err());
    drop(store);
    assert_eq!(successor.get("a").unwrap().unwrap().value, "4");
    assert_eq!(successor.get("z").unwrap(), None);
}
