//! Panics of the service, which a client would only see as INTERNAL, or not at all.

use std::panic;
use std::sync::{Mutex, Once};

static SEEN: Mutex<Vec<String>> = Mutex::new(Vec::new());
static WATCHED: Once = Once::new();

/// Notes from now on where anything panics that is not a test.
pub(crate) fn watch() {
    WATCHED.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if let Some(place) = info.location().filter(|place| !place.file().contains("/tests/")) {
                // `at_once` hands the panics of tests on from the standard library.
                if !place.file().starts_with("/rustc/") {
                    SEEN.lock().unwrap().push(info.to_string());
                }
            }
            before(info);
        }));
    });
}

/// Asserts that there was none so far, in whatever test.
pub(crate) fn assert_none() {
    assert_eq!(*SEEN.lock().unwrap(), Vec::<String>::new());
}
