//! From the rounds to the figures: medians, and ratios within a round.

use super::workload::{Figure, Sample, Workload, percentile};

/// One figure of all contenders.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was done.
    pub workload: Workload,
    /// What was measured of it.
    pub figure: Figure,
    /// For each contender what it gave in each round; nothing for one that does not do this.
    pub series: Vec<Vec<f64>>,
}

/// A median, and the least and the greatest of the rounds.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub least: f64,
    pub median: f64,
    pub greatest: f64,
}

impl Row {
    /// Makes the rows of a workload; `rounds` has the samples of every contender in every round.
    pub fn of(workload: &Workload, contenders: usize, rounds: &[Vec<Option<Sample>>]) -> Vec<Self> {
        let figures = workload.figures().into_iter().enumerate();
        let row = |(which, figure): (usize, Figure)| {
            let series = |contender: usize| {
                let samples = rounds.iter().filter_map(|round| round[contender].as_ref());
                samples.map(|sample| sample[which]).collect()
            };
            Self { workload: *workload, figure, series: (0..contenders).map(series).collect() }
        };
        figures.map(row).collect()
    }

    /// Returns what a contender gave; `None` if it was not measured.
    pub fn value(&self, contender: usize) -> Option<Spread> {
        Spread::of(self.series[contender].clone())
    }

    /// Returns what a contender gave as a multiple of what another one gave in the same round.
    pub fn ratio(&self, contender: usize, base: usize) -> Option<Spread> {
        let (ours, theirs) = (&self.series[contender], &self.series[base]);
        if ours.len() != theirs.len() {
            return None;
        }
        Spread::of(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect())
    }
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        if values.is_empty() || values.iter().any(|value| !value.is_finite()) {
            return None;
        }
        let median = percentile(&mut values, 0.5);
        Some(Self { least: values[0], median, greatest: values[values.len() - 1] })
    }
}

/// Writes a value with two or three significant digits, and separators from a thousand up.
pub fn readable(value: f64) -> String {
    let digits = match value.abs() {
        1_000.0.. => return grouped(value),
        100.0.. => 0,
        10.0.. => 1,
        0.1.. => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

fn grouped(value: f64) -> String {
    let whole = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
