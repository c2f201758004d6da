//! What the rows of the fault matrix share: a process for each row, a victim, injectors that count, the side conditions.

#![allow(dead_code, unreachable_pub, reason = "each of the two targets uses the part it needs")]

pub mod attack;
pub mod bystander;
pub mod descriptors;
#[path = "../../common/heap.rs"]
pub mod heap;
pub mod isolation;
pub mod ledger;
pub mod logs;
pub mod stage;
pub mod victim;

/// What a check found: its figures, or what does not hold.
pub type Verdict = Result<String, String>;

/// Makes a statement about figures that may not hold.
pub fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// The size of a row: the matrix's own with `FAULTS_FULL=1`, else one that every `cargo test` can wait for.
pub fn sized(usual: usize, full: usize) -> usize {
    if is_full_size() { full } else { usual }
}

pub fn is_full_size() -> bool {
    std::env::var("FAULTS_FULL").is_ok_and(|value| value == "1")
}
