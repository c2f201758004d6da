//! Lets the contenders run in turn, round after round.

use std::{
    io::{IsTerminal, Write, stderr},
    time::Instant,
};

use super::{
    figures::Row,
    settings::Settings,
    workload::{Contender, Sample, Workload},
};

/// Measures workloads with a contender's own `run`.
pub fn measure(settings: &Settings, workloads: &[Workload], contenders: &[Contender]) -> Vec<Row> {
    measure_by(settings, workloads, contenders, |contender, workload| (contender.run)(workload, settings.workers))
}

/// Measures workloads with another way to run a contender.
///
/// In every round all contenders run, each round beginning with another one. A full run has one round ahead that does not
/// count, except for memory, which is the same every time.
pub fn measure_by(
    settings: &Settings,
    workloads: &[Workload],
    contenders: &[Contender],
    mut run: impl FnMut(&Contender, &Workload) -> Option<Sample>,
) -> Vec<Row> {
    let wanted: Vec<&Workload> = workloads.iter().filter(|workload| is_wanted(settings, workload)).collect();
    let rounds_of = |workload: &Workload| match workload.is_memory() {
        true => (0, settings.rounds.min(3)),
        false => (usize::from(!settings.quick), settings.rounds),
    };
    let all = wanted.iter().map(|workload| rounds_of(workload)).map(|(ahead, counted)| ahead + counted).sum::<usize>();
    let mut progress = Progress::new(all * contenders.len());

    let mut rows = Vec::new();
    for workload in wanted {
        let (ahead, counted) = rounds_of(workload);
        let mut rounds = Vec::new();
        for round in 0..ahead + counted {
            let mut samples = vec![None; contenders.len()];
            for turn in 0..contenders.len() {
                let which = (turn + round) % contenders.len();
                progress.tell(workload, contenders[which].name);
                samples[which] = run(&contenders[which], workload);
                progress.step();
            }
            if round >= ahead {
                rounds.push(samples);
            }
        }
        rows.extend(Row::of(workload, contenders.len(), &rounds));
    }
    progress.end();
    rows
}

fn is_wanted(settings: &Settings, workload: &Workload) -> bool {
    workload.figures().iter().any(|figure| settings.wants(&figure.name))
}

/// One line that says how far a run is: rewritten in place on a terminal, a line per workload elsewhere.
struct Progress {
    done: usize,
    all: usize,
    start: Instant,
    /// The last text, which the next one has to cover, or need not repeat.
    shown: String,
}

impl Progress {
    fn new(all: usize) -> Self {
        Self { done: 0, all, start: Instant::now(), shown: String::new() }
    }

    fn tell(&mut self, workload: &Workload, contender: &str) {
        if stderr().is_terminal() {
            let filled = self.done * BAR / self.all;
            let bar = format!("{}{}", "#".repeat(filled), ".".repeat(BAR - filled));
            self.rewrite(format!("[{bar}] {} {workload}: {contender}", self.counts()));
        } else if self.shown != workload.to_string() {
            self.shown = workload.to_string();
            eprintln!("{} {workload}", self.counts());
        }
    }

    fn counts(&self) -> String {
        format!("{:>3}/{} {:>4} s ", self.done, self.all, self.start.elapsed().as_secs())
    }

    fn step(&mut self) {
        self.done += 1;
    }

    fn end(&mut self) {
        if stderr().is_terminal() {
            self.rewrite(String::new());
        } else {
            eprintln!("{} done", self.counts());
        }
    }

    fn rewrite(&mut self, text: String) {
        eprint!("\r{text:<width$}\r{text}", width = self.shown.chars().count());
        _ = stderr().flush();
        self.shown = text;
    }
}

/// The width of the progress bar.
const BAR: usize = 24;
