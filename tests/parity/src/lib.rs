//! The drop-in claim, tested: every scenario runs against this crate and against the published one,
//! and what can be observed from outside must be equal.
//!
//! - `table` has one row per scenario, and with it one `#[test]`; a row of an intended difference states its reason and
//!   what each side shows.
//! - `scenarios/` has the scenarios, one file per topic. They are written once and compiled twice, as modules of
//!   `ours_side` and of `published_side`, because the traits of the two crates are different types.
//! - `shared/` has what knows neither crate: logs, raw peers, waiting, the wire format.
//! - `harness` runs both sides of a row and compares; `rows` makes a test of each row.
#![cfg(test)]
#![forbid(unsafe_code)]

mod harness;
mod rows;
mod shared;
mod table;

#[allow(clippy::duplicate_mod, reason = "one source, two crates under observation")]
mod ours_side;
#[allow(clippy::duplicate_mod, reason = "one source, two crates under observation")]
mod published_side;
