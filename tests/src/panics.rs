//! Panics that nobody hears of: a task's panic stays in its handle, and who awaits that may be gone or wait for another.
//!
//! A simulated run has one thread, so what panicked on it panicked in that run. [`watch`] begins to count for the
//! thread that calls it, [`taken`] tells what was counted since; what the panic does otherwise stays as it is.

use std::cell::RefCell;
use std::panic::{set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static SEEN: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

static HOOK: Once = Once::new();

/// Counts the panics of this thread from now on.
pub fn watch() {
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            SEEN.with_borrow_mut(|seen| {
                if let Some(seen) = seen {
                    seen.push(panic.to_string());
                }
            });
            before(panic);
        }));
    });
    SEEN.set(Some(Vec::new()));
}

/// The panics of this thread since [`watch`] or the last call, each with its place.
#[must_use]
pub fn taken() -> Vec<String> {
    SEEN.with_borrow_mut(|seen| seen.as_mut().map(std::mem::take).unwrap_or_default())
}
