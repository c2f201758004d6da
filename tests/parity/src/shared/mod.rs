//! What both sides share: nothing in here knows either of the two crates.

pub(crate) mod log;
pub(crate) mod observation;
pub(crate) mod raw;
pub(crate) mod timing;
pub(crate) mod tuning;
pub(crate) mod waiting;
pub(crate) mod wire;
