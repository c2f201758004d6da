//! Counts messages, and tells when the last of the expected ones has come.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::sync::Notify;

/// A counter with a goal.
#[derive(Debug, Default)]
pub struct Tally {
    /// How many have come.
    count: AtomicU64,
    /// How many are expected in all.
    goal: AtomicU64,
    /// Told when the goal is reached.
    reached: Notify,
}

impl Tally {
    /// Expects so many more; to be called before the first of them is sent.
    pub fn expect(&self, more: u64) {
        self.goal.fetch_add(more, Relaxed);
    }

    pub fn add(&self) {
        if self.count.fetch_add(1, Relaxed) + 1 == self.goal.load(Relaxed) {
            self.reached.notify_one();
        }
    }

    /// Waits until all that were expected have come; for one waiter, once per expectation.
    pub async fn reached(&self) {
        self.reached.notified().await;
    }
}
