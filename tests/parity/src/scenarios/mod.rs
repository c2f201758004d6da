//! The scenarios; compiled twice, with `p2p` of the parent module as the crate under observation.

pub(crate) mod actor;
pub(crate) mod faults;

pub(crate) mod cancelling;
pub(crate) mod closing;
pub(crate) mod codecs;
pub(crate) mod config;
pub(crate) mod dialling;
pub(crate) mod disconnecting;
pub(crate) mod handshake;
pub(crate) mod hooks;
pub(crate) mod isolation;
pub(crate) mod last_words;
pub(crate) mod limits;
pub(crate) mod listener;
pub(crate) mod misuse;
pub(crate) mod on_disconnect;
pub(crate) mod queueing;
pub(crate) mod reading;
pub(crate) mod receipts;
pub(crate) mod runtimes;
pub(crate) mod shutdown;
pub(crate) mod streams;
pub(crate) mod topologies;
pub(crate) mod undriven;
pub(crate) mod writing;
