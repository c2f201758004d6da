//! Counts what passes through the loops of a connection, for the connection and for its node.

use std::sync::Arc;

use tracing::warn;

use super::ConnectionInfo;
use crate::counting::{Observer, heuristics::Heuristics, log_budget::LogBudget, stats::Stats};

/// The counters of a node, and what its connections share to keep its log short, and to tell it of their ends.
pub(crate) struct NodeTraffic {
    /// Of all connections together.
    pub(crate) stats: Stats,
    /// What went wrong.
    pub(crate) heuristics: Heuristics,
    /// For messages that were dropped because a queue was full.
    drop_log: LogBudget,
    /// Told of each connection whose peer has closed its side.
    end_of_stream: Box<dyn Fn(&ConnectionInfo) + Send + Sync>,
}

impl NodeTraffic {
    pub(crate) fn new(end_of_stream: impl Fn(&ConnectionInfo) + Send + Sync + 'static) -> Self {
        Self {
            stats: Stats::default(),
            heuristics: Heuristics::default(),
            drop_log: LogBudget::new(1),
            end_of_stream: Box::new(end_of_stream),
        }
    }
}

/// Counts the traffic of one direction of a connection, for the connection and for its node.
pub(crate) struct Meter {
    /// The node's counters.
    node: Arc<NodeTraffic>,
    /// The connection, with its own counters.
    info: ConnectionInfo,
}

impl Meter {
    pub(crate) fn new(node: Arc<NodeTraffic>, info: ConnectionInfo) -> Self {
        Self { node, info }
    }

    pub(crate) fn info(&self) -> &ConnectionInfo {
        &self.info
    }
}

impl Observer for Meter {
    #[inline]
    fn has_ended(&self) -> bool {
        self.info.has_ended()
    }

    #[inline]
    fn has_write_failed(&self) -> bool {
        self.info.has_write_failed()
    }

    #[inline]
    fn received(&self, messages: usize, bytes: usize) {
        self.info.stats().count_received_alone(messages, bytes);
        self.node.stats.count_received(messages, bytes);
    }

    fn unprocessed(&self, messages: usize) {
        self.node.heuristics.unprocessed_messages.add(messages);
    }

    fn end_of_stream(&self) {
        (self.node.end_of_stream)(&self.info);
    }

    fn dropped(&self, messages: usize) {
        self.unprocessed(messages);
        if let Some(withheld) = self.node.drop_log.take(messages) {
            let dropped = withheld + messages;
            // The latest connection's span; the number is the node's, so that the end of a connection loses none.
            warn!(parent: self.info.span(), dropped, "a queue is full and Reading::BACKPRESSURE is off");
        }
    }

    #[inline]
    fn sent(&self, messages: usize, bytes: usize) {
        self.info.stats().count_sent_alone(messages, bytes);
        self.node.stats.count_sent(messages, bytes);
    }

    fn unsent(&self, messages: usize, bytes: usize) {
        self.info.stats().uncount_sent(messages, bytes);
        self.node.stats.uncount_sent(messages, bytes);
    }
}
