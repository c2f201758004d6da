//! Traffic counters of a node or a connection. Owns nothing but numbers.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

/// Counts the messages and bytes sent and received by a [`Node`](crate::Node) or over a connection.
///
/// Bytes are bytes on the wire of complete messages, framing included. A sent message is counted before its delivery
/// receipt resolves, a received one before its `process_message` is first polled. The counters of a node outlive its
/// connections.
#[derive(Debug)]
pub struct Stats {
    /// When counting began.
    created: Instant,
    /// Sent: messages.
    msgs_sent: AtomicU64,
    /// Sent: bytes.
    bytes_sent: AtomicU64,
    /// Received: messages.
    msgs_received: AtomicU64,
    /// Received: bytes.
    bytes_received: AtomicU64,
}

impl Stats {
    /// Adds `msgs` sent messages that took `bytes` bytes in all.
    #[inline]
    pub fn register_sent_messages(&self, msgs: usize, bytes: usize) {
        self.msgs_sent.fetch_add(msgs as u64, Ordering::Relaxed);
        self.bytes_sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Adds one received message of `size` bytes.
    pub fn register_received_message(&self, size: usize) {
        self.register_received_messages(1, size);
    }

    /// Adds `msgs` received messages that took `bytes` bytes in all.
    #[inline]
    pub(crate) fn register_received_messages(&self, msgs: usize, bytes: usize) {
        self.msgs_received.fetch_add(msgs as u64, Ordering::Relaxed);
        self.bytes_received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Returns the instant at which counting began.
    pub fn created(&self) -> Instant {
        self.created
    }

    /// Returns what was sent so far: `(messages, bytes)`.
    pub fn sent(&self) -> (u64, u64) {
        (self.msgs_sent.load(Ordering::Relaxed), self.bytes_sent.load(Ordering::Relaxed))
    }

    /// Returns what was received so far: `(messages, bytes)`.
    pub fn received(&self) -> (u64, u64) {
        (self.msgs_received.load(Ordering::Relaxed), self.bytes_received.load(Ordering::Relaxed))
    }
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            created: Instant::now(),
            msgs_sent: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
            msgs_received: AtomicU64::new(0),
            bytes_received: AtomicU64::new(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_bytes_add_up_per_direction() {
        let stats = Stats::default();
        stats.register_sent_messages(2, 30);
        stats.register_sent_messages(1, 0);
        stats.register_received_message(7);
        assert_eq!(stats.sent(), (3, 30));
        assert_eq!(stats.received(), (1, 7));
        assert!(stats.created() <= Instant::now());
    }
}
