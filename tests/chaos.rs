//! The chaos test: workers without any coordination do at random all that can be done to a pool of nodes, and every
//! promise is checked while they do and after they have ended.
//!
//! - `CHAOS_RUNTIME_SECS` (20): how long it runs; 0: until Ctrl-C.
//! - `CHAOS_SEED` (random): gives each worker the same sequence of actions again.

#![allow(unsafe_code, reason = "an allocator that counts")]
#![allow(unreachable_pub, reason = "all of it is private to this test")]

mod common;

#[path = "chaos/actions.rs"]
mod actions;
#[path = "chaos/crew.rs"]
mod crew;
#[path = "chaos/frames.rs"]
mod frames;
#[path = "common/heap.rs"]
mod heap;
#[path = "chaos/hooks.rs"]
mod hooks;
#[path = "chaos/last_words.rs"]
mod last_words;
#[path = "chaos/ledger.rs"]
mod ledger;
#[path = "chaos/line.rs"]
mod line;
#[path = "chaos/outside.rs"]
mod outside;
#[path = "chaos/panics.rs"]
mod panics;
#[path = "chaos/peer.rs"]
mod peer;
#[path = "chaos/plan.rs"]
mod plan;
#[path = "chaos/run.rs"]
mod run;
#[path = "chaos/sends.rs"]
mod sends;
#[path = "chaos/strangers.rs"]
mod strangers;
#[path = "chaos/tally.rs"]
mod tally;
#[path = "chaos/watch.rs"]
mod watch;
#[path = "chaos/world.rs"]
mod world;
#[path = "chaos/wrapper.rs"]
mod wrapper;

use std::{env, time::Duration};

/// As long as every `cargo test` can wait.
const USUAL_RUNTIME_SECS: u64 = 20;

/// Brings all that is made once per process into being, so that what is left after the run is the run's.
const REHEARSAL: Duration = Duration::from_millis(1_500);

fn setting(name: &str) -> Option<u64> {
    let value = env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number, not {value:?}")))
}

#[test]
fn every_promise_holds_whatever_the_workers_do() {
    let secs = setting("CHAOS_RUNTIME_SECS").unwrap_or(USUAL_RUNTIME_SECS);
    let seed = setting("CHAOS_SEED").unwrap_or_else(run::random_seed);
    watch::eprintln_live(&format!("\nCHAOS_SEED={seed} CHAOS_RUNTIME_SECS={secs}\n"));
    panics::watch();
    run::run(seed, Some(REHEARSAL), false);
    run::run(seed, (secs > 0).then(|| Duration::from_secs(secs)), true);
}
