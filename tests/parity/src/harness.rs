//! Runs the two sides of a row and compares what they saw.

use std::{any::Any, future::Future, thread, time::Duration};

use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};

use crate::shared::observation::Observation;

/// The bound of one side of one scenario.
const SCENARIO_BOUND: Duration = Duration::from_secs(30);

/// The runtime a scenario needs.
#[derive(Clone, Copy)]
pub(crate) enum Flavour {
    /// Nothing else runs between two awaits of the scenario.
    OneThread,
    /// The node's tasks run beside the scenario.
    TwoWorkers,
}

/// What each side shows where they are meant to differ.
pub(crate) struct Difference {
    pub(crate) reason: &'static str,
    pub(crate) ours: &'static [&'static str],
    pub(crate) published: &'static [&'static str],
}

/// Runs a scenario on both sides at once; panics unless both saw what the row says.
pub(crate) fn compare<O, P>(
    flavour: Flavour,
    ours: impl FnOnce() -> O + Send,
    published: impl FnOnce() -> P + Send,
    difference: Option<Difference>,
) where
    O: Future<Output = Observation>,
    P: Future<Output = Observation>,
{
    let (ours, published) = thread::scope(|scope| {
        let ours = scope.spawn(|| observe(flavour, ours));
        let published = scope.spawn(|| observe(flavour, published));
        (ours.join().map_err(panic_text), published.join().map_err(panic_text))
    });
    let (ours, published) = (lines(ours), lines(published));
    // shown with `cargo test -- --show-output`
    print!("{}", report(&ours, &published));
    judge(&ours, &published, difference);
}

fn observe<F: Future<Output = Observation>>(flavour: Flavour, scenario: impl FnOnce() -> F) -> Observation {
    let runtime = runtime(flavour);
    runtime.block_on(async { timeout(SCENARIO_BOUND, scenario()).await.expect("the scenario ends in time") })
}

fn runtime(flavour: Flavour) -> Runtime {
    let mut builder = match flavour {
        Flavour::OneThread => Builder::new_current_thread(),
        Flavour::TwoWorkers => Builder::new_multi_thread(),
    };
    builder.worker_threads(2).enable_all().build().expect("a runtime can be built")
}

fn lines(outcome: Result<Observation, String>) -> Vec<String> {
    match outcome {
        Ok(observation) => observation.lines().to_vec(),
        Err(text) => vec![format!("THE SCENARIO PANICKED: {text}")],
    }
}

fn judge(ours: &[String], published: &[String], difference: Option<Difference>) {
    for (side, lines) in [("ours", ours), ("published", published)] {
        assert!(!lines.is_empty(), "{side}: a scenario that observes nothing proves nothing");
        assert!(!lines[0].starts_with("THE SCENARIO PANICKED"), "{}", report(ours, published));
    }
    match difference {
        None => assert!(ours == published, "the sides differ\n{}", report(ours, published)),
        Some(Difference { reason, ours: expected_ours, published: expected_published }) => {
            assert!(!reason.is_empty(), "an intended difference has a reason");
            assert!(expected_ours != expected_published, "the row of an intended difference shows none");
            assert!(ours == expected_ours, "not what ours is meant to show\n{}", report(ours, published));
            assert!(published == expected_published, "not what published shows\n{}", report(ours, published));
        }
    }
}

fn report(ours: &[String], published: &[String]) -> String {
    let mut report = String::new();
    for row in 0..ours.len().max(published.len()) {
        let (left, right) = (ours.get(row), published.get(row));
        let mark = if left == right { "  " } else { "!!" };
        let text = |line: Option<&String>| line.map_or("(nothing)", String::as_str).to_owned();
        report += &format!("{mark} ours:      {}\n{mark} published: {}\n", text(left), text(right));
    }
    report
}

fn panic_text(payload: Box<dyn Any + Send>) -> String {
    let text = payload.downcast_ref::<String>().cloned();
    text.or_else(|| payload.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or_default()
}

mod canaries {
    //! A harness can be green because it is inert: these show that it is not.

    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    async fn sees(facts: &[&str]) -> Observation {
        let mut seen = Observation::new();
        for fact in facts {
            seen.note("fact", fact);
        }
        seen
    }

    fn is_caught(run: impl FnOnce()) -> bool {
        catch_unwind(AssertUnwindSafe(run)).is_err()
    }

    #[test]
    fn a_difference_fails_the_row() {
        assert!(is_caught(|| compare(Flavour::OneThread, || sees(&["a"]), || sees(&["b"]), None)));
    }

    #[test]
    fn a_missing_fact_fails_the_row() {
        assert!(is_caught(|| compare(Flavour::TwoWorkers, || sees(&["a", "b"]), || sees(&["a"]), None)));
    }

    #[test]
    fn an_observation_of_nothing_fails_the_row() {
        assert!(is_caught(|| compare(Flavour::OneThread, || sees(&[]), || sees(&[]), None)));
    }

    #[test]
    fn a_panic_on_both_sides_fails_the_row() {
        async fn panics() -> Observation {
            panic!("on purpose")
        }
        assert!(is_caught(|| compare(Flavour::OneThread, panics, panics, None)));
    }

    #[test]
    fn an_intended_difference_that_is_gone_fails_the_row() {
        let difference = || Difference { reason: "on purpose", ours: &["fact: \"a\""], published: &["fact: \"b\""] };
        assert!(is_caught(|| compare(Flavour::OneThread, || sees(&["b"]), || sees(&["b"]), Some(difference()))));
        compare(Flavour::OneThread, || sees(&["a"]), || sees(&["b"]), Some(difference()));
    }
}
