//! The workloads of the benches, done by this crate, by the published pea2pea 0.57.4, by hand on tokio and by other crates.
//!
//! Each run of a contender is a process of its own, so that none has to live with what another one left behind; the contenders
//! take turns. The results are written as a markdown table, a table of all rounds, and bar charts.

mod contenders;
mod report;
mod sample;

#[allow(clippy::duplicate_mod, reason = "one source, two crates that are compared")]
mod published;
#[allow(clippy::duplicate_mod, reason = "one source, two crates that are compared")]
#[path = "../../workloads/mod.rs"]
mod workloads;

use workloads::{
    heap::Counting,
    measure::measure_by,
    neighbour::{self, Neighbours},
    plan,
    settings::Settings,
};

#[global_allocator]
static COUNTING: Counting = Counting;

fn main() {
    neighbour::be_one_if_asked();
    let settings = Settings::full();
    let workloads = plan::everything(&settings);
    sample::take_one_if_asked(&workloads, settings.workers);

    let contenders = contenders::wanted();
    let mut failures = Vec::new();
    let rows = {
        let _neighbours = Neighbours::start(settings.loaded);
        measure_by(&settings, &workloads, &contenders, |contender, workload| {
            let which = workloads.iter().position(|one| one == workload).expect("it is one of them");
            let run = format!("{workload}: {}: ", contender.name);
            // What has failed once would only take its time again.
            if failures.iter().any(|failure: &String| failure.starts_with(&run)) {
                return None;
            }
            sample::in_a_process_of_its_own(contender, which).unwrap_or_else(|failure| {
                failures.push(run + &failure);
                None
            })
        })
    };
    report::write(&settings, &contenders, &rows, &failures);
}
