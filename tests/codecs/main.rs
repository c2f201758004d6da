//! Codecs and streams of the user's: decoders, encoders, wrapped streams.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/ledger.rs"]
mod ledger;

mod decoders;
mod encoders;
mod framed_read;
mod wrapped;
