//! Counts what passes through the loops of a connection, for the connection and for its node.

use std::{
    cell::Cell,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tracing::warn;

use crate::{connection::ConnectionInfo, framing::Observer, stats::Stats};

/// The counters of a node, and what its connections share to keep its log short.
#[derive(Debug, Default)]
pub(crate) struct NodeTraffic {
    /// Of all connections together.
    pub(crate) stats: Stats,
    /// When a warning about dropped messages was last logged.
    warned: Mutex<Option<Instant>>,
}

/// The time between two warnings about dropped messages on one node.
const WARNING_INTERVAL: Duration = Duration::from_secs(1);

/// Counts the traffic of one direction of a connection, for the connection and for its node.
pub(crate) struct Meter {
    /// The node's counters.
    node: Arc<NodeTraffic>,
    /// The connection, with its own counters.
    info: ConnectionInfo,
    /// Messages dropped on this connection since it last warned.
    dropped: Cell<usize>,
}

impl Meter {
    pub(crate) fn new(node: Arc<NodeTraffic>, info: ConnectionInfo) -> Self {
        Self { node, info, dropped: Cell::new(0) }
    }

    pub(crate) fn info(&self) -> &ConnectionInfo {
        &self.info
    }
}

impl Observer for Meter {
    fn has_ended(&self) -> bool {
        self.info.has_ended()
    }

    fn received(&self, messages: usize, bytes: usize) {
        self.info.stats().register_received_messages(messages, bytes);
        self.node.stats.register_received_messages(messages, bytes);
    }

    fn dropped(&self, messages: usize) {
        self.dropped.set(self.dropped.get() + messages);
        let now = Instant::now();
        let mut warned = self.node.warned.lock();
        if warned.is_some_and(|warned| now.duration_since(warned) < WARNING_INTERVAL) {
            return;
        }
        *warned = Some(now);
        drop(warned);
        let dropped = self.dropped.take();
        warn!(parent: self.info.span(), dropped, "the queue is full and Reading::BACKPRESSURE is off");
    }

    fn sent(&self, messages: usize, bytes: usize) {
        self.info.stats().register_sent_messages(messages, bytes);
        self.node.stats.register_sent_messages(messages, bytes);
    }
}
