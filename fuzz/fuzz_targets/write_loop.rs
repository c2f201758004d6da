//! The write loop under any partial writes, any encoder and any order of what senders do.
#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use pea2pea::fuzzing::check_write_loop;
use tokio::runtime::{Builder, Runtime};

thread_local! {
    /// A paused clock: whatever a script waits for happens at once.
    static RUNTIME: RefCell<Runtime> =
        RefCell::new(Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime"));
}

fuzz_target!(|bytes: &[u8]| RUNTIME.with_borrow(|runtime| runtime.block_on(check_write_loop(bytes))));
