//! Telling the panics that the test causes on purpose from those that nobody wanted.

use std::{
    panic,
    sync::{Mutex, Once},
};

use crate::outside;

/// The payload of the panics that are wanted.
struct Intended;

/// The beginning of the text of those that have one; also the text of the errors that hooks return on purpose.
pub const INTENDED: &str = "intended by the chaos test";

static UNWANTED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// What a timer says whose runtime is shutting down. A hook that a call from outside of every runtime polls may sleep while the
/// runtime that it borrows goes away; the library catches it, as it does any panic of a hook.
const TIMER_WITHOUT_RUNTIME: &str = "A Tokio 1.x context was found, but it is being shutdown.";

/// Panics on purpose; with a text or without, as the caller's number says.
pub fn on_purpose(number: u64) -> ! {
    match number % 3 {
        0 => panic::panic_any(Intended),
        1 => panic!("{INTENDED}"),
        _ => panic!("{INTENDED}: number {number}"),
    }
}

/// Keeps the wanted panics out of the output, and remembers all others, whoever may catch them.
pub fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let payload = info.payload();
            let text = payload.downcast_ref::<&str>().copied();
            let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
            let is_intended = payload.is::<Intended>() || text.is_some_and(|text| text.starts_with(INTENDED));
            let is_timer = text.is_some_and(|text| text == TIMER_WITHOUT_RUNTIME);
            if !(is_intended || is_timer && outside::is_without_runtime()) {
                UNWANTED.lock().unwrap().push(info.to_string());
                usual(info);
            }
        }));
    });
}

/// Takes out the panics that nobody wanted.
pub fn take_unwanted() -> Vec<String> {
    std::mem::take(&mut UNWANTED.lock().unwrap())
}
