//! Traffic counters of a node or a connection. Owns nothing but numbers.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

/// Counts the messages and bytes sent and received by a [`Node`](crate::Node) or over a connection.
///
/// Bytes are bytes on the wire, framing included. Messages that are encoded together are written and counted together, as a
/// batch. The counters of a node outlive its connections.
///
/// A received message is counted when it has been decoded, before its `process_message` is first polled. A sent message is
/// counted before the OS gets the last of its bytes, and thus before its receipt resolves. So at every instant what one end
/// has received is no more than what the other end has sent. Ask the receiver first, and then the sender.
///
/// Not every message that counts as sent has arrived, or will:
/// - A batch that could not be encoded does not count, nor does one of which the OS has taken nothing. If the OS refuses a
///   batch that was counted for the attempt, that is taken back within the same call: for that instant the numbers are too
///   large, and then they go down again.
/// - A batch of several messages counts as a whole as soon as the OS has taken a part of it, because any of them may have
///   arrived. It still counts when its connection ends before the rest is written, although its receipts say that it failed.
/// - A message that is a batch of its own counts when all of it is taken.
///
/// For a wrapped stream (TLS) the stream stands in the place of the OS: what it has taken, it may not have flushed yet.
#[derive(Debug)]
pub struct Stats {
    /// When counting began.
    created: Instant,
    /// By the kernel.
    counted: Counts,
    /// By the methods that anybody may call, apart from the others so that those of a connection have one writer each.
    registered: OnceLock<Box<Counts>>,
}

/// Messages and bytes, of both directions.
#[derive(Debug, Default)]
struct Counts {
    sent: Traffic,
    received: Traffic,
}

#[derive(Debug, Default)]
struct Traffic {
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl Traffic {
    // The race of all orderings here: a sender counts and writes; the peer reads and counts; a third thread sees what the peer
    // has counted, and must then see what the sender had counted before. Between sender and peer the socket orders; between
    // the peer and the third thread it takes a release here and an acquire in `get`.

    fn add(&self, messages: usize, bytes: usize) {
        self.messages.fetch_add(messages as u64, Ordering::Release);
        self.bytes.fetch_add(bytes as u64, Ordering::Release);
    }

    fn take_back(&self, messages: usize, bytes: usize) {
        self.messages.fetch_sub(messages as u64, Ordering::Release);
        self.bytes.fetch_sub(bytes as u64, Ordering::Release);
    }

    /// [`add`](Self::add) for the one who alone adds: at half the cost.
    fn add_alone(&self, messages: usize, bytes: usize) {
        self.messages.store(self.messages.load(Ordering::Relaxed) + messages as u64, Ordering::Release);
        self.bytes.store(self.bytes.load(Ordering::Relaxed) + bytes as u64, Ordering::Release);
    }

    fn get(&self) -> (u64, u64) {
        (self.messages.load(Ordering::Acquire), self.bytes.load(Ordering::Acquire))
    }
}

impl Stats {
    /// Adds `msgs` sent messages that took `bytes` bytes in all.
    pub fn register_sent_messages(&self, msgs: usize, bytes: usize) {
        self.registered.get_or_init(Box::default).sent.add(msgs, bytes);
    }

    /// Adds one received message of `size` bytes.
    pub fn register_received_message(&self, size: usize) {
        self.registered.get_or_init(Box::default).received.add(1, size);
    }

    /// Counts for a node, all of whose connections count.
    #[inline]
    pub(crate) fn count_sent(&self, messages: usize, bytes: usize) {
        self.counted.sent.add(messages, bytes);
    }

    /// Counts for a node, all of whose connections count.
    #[inline]
    pub(crate) fn count_received(&self, messages: usize, bytes: usize) {
        self.counted.received.add(messages, bytes);
    }

    /// Counts for a connection, as only whoever writes to it may: one party at a time.
    #[inline]
    pub(crate) fn count_sent_alone(&self, messages: usize, bytes: usize) {
        self.counted.sent.add_alone(messages, bytes);
    }

    /// Takes back what was counted, for a node or for a connection.
    pub(crate) fn uncount_sent(&self, messages: usize, bytes: usize) {
        self.counted.sent.take_back(messages, bytes);
    }

    /// Counts for a connection, as only its read loop may.
    #[inline]
    pub(crate) fn count_received_alone(&self, messages: usize, bytes: usize) {
        self.counted.received.add_alone(messages, bytes);
    }

    /// Whether the kernel has sent anything.
    pub(crate) fn has_sent(&self) -> bool {
        self.counted.sent.get().0 > 0
    }

    /// Returns the instant at which counting began.
    pub fn created(&self) -> Instant {
        self.created
    }

    /// Returns what was sent so far: `(messages, bytes)`.
    pub fn sent(&self) -> (u64, u64) {
        self.sum(|counts| &counts.sent)
    }

    /// Returns what was received so far: `(messages, bytes)`.
    pub fn received(&self) -> (u64, u64) {
        self.sum(|counts| &counts.received)
    }

    fn sum(&self, direction: impl Fn(&Counts) -> &Traffic) -> (u64, u64) {
        let counted = direction(&self.counted).get();
        let registered = self.registered.get().map_or((0, 0), |registered| direction(registered).get());
        (counted.0 + registered.0, counted.1 + registered.1)
    }
}

impl Default for Stats {
    fn default() -> Self {
        Self { created: Instant::now(), counted: Counts::default(), registered: OnceLock::new() }
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
        stats.count_sent(1, 100);
        stats.count_sent_alone(2, 200);
        stats.count_sent(5, 50);
        stats.uncount_sent(5, 50);
        stats.count_received(3, 1_000);
        stats.count_received_alone(4, 2_000);
        assert_eq!(stats.sent(), (6, 330));
        assert_eq!(stats.received(), (8, 3_007));
        assert!(stats.created() <= Instant::now());
    }
}
