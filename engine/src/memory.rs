//! Where the binary's memory comes from, and when freed memory goes back to the system.
//!
//! A message is a dozen small pieces that one thread takes and another one gives back, by the batch. The system's allocator has
//! them go through locks, looks for neighbours to join them with, and keeps megabytes of freed ones around each that lives on.
//!
//! Mimalloc gives freed memory back after ten milliseconds. A busy server takes it again at once, as pages that the kernel has to
//! clear first. So here it is kept for two seconds, which is nothing to a server that has become idle.

use std::ffi::{c_int, c_long};

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// `mi_option_purge_delay` of mimalloc 2, which its bindings do not name.
const PURGE_DELAY: c_int = 15;
const KEPT_MS: c_long = 2000;

#[expect(
    unsafe_code,
    reason = "the allocator's options are reached by calls of C alone"
)]
// SAFETY: as `mimalloc.h` of the library that is linked declares them. Both only look into a table of numbers.
unsafe extern "C" {
    /// Sets an option unless the environment does.
    safe fn mi_option_set_default(option: c_int, value: c_long);
    #[cfg(test)]
    safe fn mi_option_get(option: c_int) -> c_long;
}

/// Keeps freed memory at hand; where `MIMALLOC_PURGE_DELAY` is set, for as long as that says.
pub(crate) fn keep_freed() {
    mi_option_set_default(PURGE_DELAY, KEPT_MS);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_that_is_set_is_the_one_that_was_ten_milliseconds() {
        if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
            assert_eq!(mi_option_get(PURGE_DELAY), 10);
            keep_freed();
            assert_eq!(mi_option_get(PURGE_DELAY), KEPT_MS);
        }
    }
}
