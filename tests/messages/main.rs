//! Messages between two ends: what is sent, received, counted, confirmed and answered.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/ledger.rs"]
mod ledger;

mod counting;
mod messaging;
mod owners;
mod reading;
mod receipts;
mod replies;
mod unprocessed;
mod writing;
