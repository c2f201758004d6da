//! Counts what passes through the loops of a connection, for the connection and for its node.

use std::{
    cell::Cell,
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::warn;

use crate::{connection::ConnectionInfo, framing::Observer, stats::Stats};

/// The time between two warnings about dropped messages on one connection.
const WARNING_INTERVAL: Duration = Duration::from_secs(1);

/// Counts the traffic of one direction of a connection, for the connection and for its node.
pub(crate) struct Meter {
    /// The counters of the node.
    node: Arc<Stats>,
    info: ConnectionInfo,
    /// When the last warning about dropped messages was logged.
    warned: Cell<Option<Instant>>,
    /// Messages dropped since then.
    dropped: Cell<usize>,
}

impl Meter {
    pub(crate) fn new(node: Arc<Stats>, info: ConnectionInfo) -> Self {
        Self { node, info, warned: Cell::new(None), dropped: Cell::new(0) }
    }
}

impl Observer for Meter {
    fn has_ended(&self) -> bool {
        self.info.has_ended()
    }

    fn received(&self, messages: usize, bytes: usize) {
        self.info.stats().register_received_messages(messages, bytes);
        self.node.register_received_messages(messages, bytes);
    }

    fn dropped(&self, messages: usize) {
        self.dropped.set(self.dropped.get() + messages);
        let now = Instant::now();
        if self.warned.get().is_none_or(|warned| now.duration_since(warned) >= WARNING_INTERVAL) {
            self.warned.set(Some(now));
            let dropped = self.dropped.take();
            warn!(parent: self.info.span(), dropped, "the queue is full and Reading::BACKPRESSURE is off");
        }
    }

    fn sent(&self, messages: usize, bytes: usize) {
        self.info.stats().register_sent_messages(messages, bytes);
        self.node.register_sent_messages(messages, bytes);
    }
}
