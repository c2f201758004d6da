//! The properties of the read loop, the write loop and the registry, each as one check that decides by a string of bytes
//! what happens: the fuzz targets and the unit tests share them.
//!
//! Compiled for these two only. Depends on no clock that can be paused, so that it builds wherever the crate does; whoever
//! runs a check that is async has to pause the clock of its runtime.
#![allow(missing_debug_implementations, reason = "nothing here is shown")]

mod bell;
mod input;
mod read_loop;
mod registry;
mod scripted_decoder;
mod scripted_encoder;
mod write_loop;

pub use read_loop::check_read_loop;
pub use registry::check_registry;
pub use write_loop::check_write_loop;
