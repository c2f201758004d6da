//! Any sequence of operations on the registry against its reference model.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pea2pea::fuzzing::check_registry;

fuzz_target!(|bytes: &[u8]| check_registry(bytes));
