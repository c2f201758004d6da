//! What the `main` of a bench does.

use std::env;

use super::{
    measure::measure,
    neighbour::{self, Neighbours},
    ours, raw,
    settings::Settings,
    table,
    workload::Workload,
};

/// Measures the rows of a question, ours against raw, and prints them.
///
/// `cargo bench` passes `--bench`; without it, as under `cargo test --benches`, one quick round shows that all of it works.
pub fn run(question: impl FnOnce(&Settings) -> Vec<Workload>) {
    neighbour::be_one_if_asked();
    let settings = match env::args().any(|argument| argument == "--bench") {
        true => Settings::full(),
        false => Settings { rounds: 1, ..Settings::quick() },
    };
    let contenders = [ours::CONTENDER, raw::CONTENDER];
    let rows = {
        let _neighbours = Neighbours::start(settings.loaded);
        measure(&settings, &question(&settings), &contenders)
    };
    println!("\n{}\n\n{}", settings.conditions(), table::text(&rows, &contenders));
}
