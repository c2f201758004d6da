//! How a run of the benches is set: by environment variables, which reach every one of them in the same way.

use std::env;

/// The settings of a run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `BENCH_ROUNDS`: how many measured rounds; the contenders take turns in each.
    pub rounds: usize,
    /// `BENCH_WORKERS`: the worker threads of each runtime.
    pub workers: usize,
    /// `BENCH_LOADED`: keep every core busy with something else meanwhile.
    pub loaded: bool,
    /// `BENCH_QUICK`: small counts and no round ahead of the measured ones.
    pub quick: bool,
    /// `BENCH_ONLY`: only the rows with one of these words, separated by commas, in their names.
    pub only: Vec<String>,
}

impl Settings {
    /// Reads the settings of a full run.
    pub fn full() -> Self {
        Self::read(false)
    }

    /// Reads the settings of a quick run.
    pub fn quick() -> Self {
        Self::read(true)
    }

    fn read(quick: bool) -> Self {
        let quick = quick || switch("BENCH_QUICK");
        Self {
            rounds: number("BENCH_ROUNDS").unwrap_or(5),
            workers: number("BENCH_WORKERS").unwrap_or(2),
            loaded: switch("BENCH_LOADED"),
            quick,
            only: words("BENCH_ONLY"),
        }
    }

    /// Returns whether a row of this name is wanted.
    pub fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|word| name.contains(word))
    }

    /// Describes the conditions in a few words.
    pub fn conditions(&self) -> String {
        format!(
            "{} worker{}, {}, {} round{}{}",
            self.workers,
            if self.workers == 1 { "" } else { "s" },
            if self.loaded { "every core also busy with something else" } else { "nothing else started" },
            self.rounds,
            if self.rounds == 1 { "" } else { "s" },
            if self.quick { ", quick" } else { "" },
        )
    }
}

/// Returns the words of a variable, separated by commas.
pub fn words(variable: &str) -> Vec<String> {
    let value = env::var(variable).unwrap_or_default();
    value.split(',').map(str::trim).filter(|word| !word.is_empty()).map(String::from).collect()
}

fn number(variable: &str) -> Option<usize> {
    let value = env::var(variable).ok()?;
    let number = value.parse().ok().filter(|number| *number > 0);
    Some(number.unwrap_or_else(|| panic!("{variable} must be a number above 0, not {value:?}")))
}

fn switch(variable: &str) -> bool {
    env::var(variable).is_ok_and(|value| !value.is_empty() && value != "0")
}
