//! Counters of what went wrong on a node. Owns nothing but numbers.

use std::sync::atomic::{AtomicU64, Ordering};

/// One event counter.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn increment(&self) {
        self.add(1);
    }

    pub(crate) fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts events of a [`Node`](crate::Node) that hint at pressure or at hostile peers.
///
/// All counters begin at 0 and only grow. But for errors of accepting (`WARN`) none of these events is logged above `DEBUG`: a
/// monitor reads them here.
#[derive(Debug, Default)]
pub struct Heuristics {
    /// See [`Self::connect_budget_rejections()`].
    pub(crate) connect_budget_rejections: Counter,
    /// See [`Self::inbound_connections_rejected()`].
    pub(crate) inbound_connections_rejected: Counter,
    /// See [`Self::accept_errors()`].
    pub(crate) accept_errors: Counter,
    /// See [`Self::handshake_timeouts()`].
    pub(crate) handshake_timeouts: Counter,
    /// See [`Self::idle_timeouts()`].
    pub(crate) idle_timeouts: Counter,
    /// See [`Self::write_timeouts()`].
    pub(crate) write_timeouts: Counter,
    /// See [`Self::unprocessed_messages()`].
    pub(crate) unprocessed_messages: Counter,
}

impl Heuristics {
    /// Returns how many dials failed because `Config::max_connecting` setups were already in flight.
    pub fn connect_budget_rejections(&self) -> u64 {
        self.connect_budget_rejections.value()
    }

    /// Returns how many accepted connections were refused by a limit or as duplicates (not those refused by a shutdown), also
    /// after they had waited for the end of a former connection.
    pub fn inbound_connections_rejected(&self) -> u64 {
        self.inbound_connections_rejected.value()
    }

    /// Returns how many errors made the accept loop pause for a moment, or end.
    ///
    /// Want of resources of our own, such as file descriptors, counts each time. A connection that the peer aborted before it
    /// was accepted does not count, but each sixteenth in a row does. Of a listening socket that the system has revoked,
    /// the errors count by which that was noticed, three at most; the node is not listening from then on.
    pub fn accept_errors(&self) -> u64 {
        self.accept_errors.value()
    }

    /// Returns how many handshakes, of either side, ran out of time.
    pub fn handshake_timeouts(&self) -> u64 {
        self.handshake_timeouts.value()
    }

    /// Returns how many connections ended because no complete message arrived within `Reading::IDLE_TIMEOUT_MS`.
    pub fn idle_timeouts(&self) -> u64 {
        self.idle_timeouts.value()
    }

    /// Returns how many connections ended because a flush took longer than `Writing::TIMEOUT_MS`.
    pub fn write_timeouts(&self) -> u64 {
        self.write_timeouts.value()
    }

    /// Returns how many messages were received and never given to `process_message`: their connection was over before, or,
    /// without `Reading::BACKPRESSURE`, the queue was full. A message whose processing had begun does not count.
    pub fn unprocessed_messages(&self) -> u64 {
        self.unprocessed_messages.value()
    }
}
