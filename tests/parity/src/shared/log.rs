//! A list of events that hooks write and scenarios wait for.

use std::sync::{Arc, Mutex};

use super::timing::eventually;

#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(crate) fn add(&self, event: impl Into<String>) {
        self.0.lock().unwrap().push(event.into());
    }

    pub(crate) fn events(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// The number of events that begin with `prefix`.
    pub(crate) fn count(&self, prefix: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|event| event.starts_with(prefix)).count()
    }

    /// The events that begin with `prefix`, without it.
    pub(crate) fn after(&self, prefix: &str) -> Vec<String> {
        self.events().iter().filter_map(|event| event.strip_prefix(prefix).map(str::to_owned)).collect()
    }

    /// Waits until at least `times` events that begin with `prefix` are there.
    pub(crate) async fn wait_for(&self, prefix: &str, times: usize) {
        eventually(&format!("{times} x {prefix:?}"), || self.count(prefix) >= times).await;
    }

    /// A value that adds `event` when it is dropped: shows where a future was cut short.
    pub(crate) fn on_drop(&self, event: &'static str) -> OnDrop {
        OnDrop { log: self.clone(), event }
    }
}

pub(crate) struct OnDrop {
    log: Log,
    event: &'static str,
}

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.log.add(self.event);
    }
}
