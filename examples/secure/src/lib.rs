//! What the examples `noise` and `tls` are made of: encryption inside the codecs, and encryption as a wrapped stream.
//!
//! The programs are in `src/bin`; the benches use these modules too.

pub mod noise;
pub mod relay;
pub mod tls;

use std::io;

fn invalid(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.into())
}
