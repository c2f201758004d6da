//! What a scenario saw, in a form that can be compared across the two crates.

use std::fmt::Debug;

/// An ordered list of labelled facts; two sides are alike when their lists are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Observation(Vec<String>);

impl Observation {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds one fact; whatever differs from run to run (ports, times) must not get in here.
    pub(crate) fn note(&mut self, what: &str, value: impl Debug) {
        self.0.push(format!("{what}: {value:?}"));
    }

    pub(crate) fn lines(&self) -> &[String] {
        &self.0
    }
}
