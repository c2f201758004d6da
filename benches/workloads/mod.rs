//! The workloads of the benches, and what measures them.
//!
//! - `workload` says what is done and which figures that gives; `plan` lists the rows of each question, quick and full.
//! - `raw` is the yardstick, written by hand on tokio; `node` is a node of the crate under test. `node` is compiled once per
//!   contender: it finds the crate as `super::p2p` and what its connections speak as `super::wire` (`plain`, for those that do
//!   not encrypt), so a module that has both and includes the file is a contender.
//! - `clients` has the peers that are the same for every contender, where only the receiving end is under test.
//! - `measure` lets the contenders run in turn; `figures` and `table` make the medians, the ratios and the print;
//!   `harness` is the whole of a bench but its rows.
//! - `cpu`, `heap` and `neighbour` are the instruments; `machine` says what they were used on.

#![allow(dead_code, unreachable_pub, reason = "each bench uses the part it needs")]

pub mod clients;
pub mod cpu;
pub mod figures;
pub mod harness;
pub mod heap;
pub mod machine;
pub mod measure;
pub mod neighbour;
pub mod ours;
pub mod plan;
pub mod rally;
pub mod raw;
pub mod served;
pub mod settings;
pub mod table;
pub mod tally;
pub mod workload;
