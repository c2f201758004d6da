//! Telling the panics that the test causes on purpose from those that nobody wanted.

use std::{
    panic,
    sync::{Mutex, Once},
};

/// The payload of the panics that are wanted.
struct Intended;

/// The beginning of the text of those that have one; also the text of the errors that hooks return on purpose.
pub const INTENDED: &str = "intended by the chaos test";

static UNWANTED: Mutex<Vec<String>> = Mutex::new(Vec::new());

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
            if !is_intended {
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
