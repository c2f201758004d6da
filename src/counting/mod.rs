//! What is counted of a node and its connections, and what keeps its log short.

pub(crate) mod heuristics;
pub(crate) mod log_budget;
pub(crate) mod stats;

/// Told what passes through the loops, once for many messages, and asked whether to go on.
pub(crate) trait Observer: Send {
    /// Whether the connection is at its end: from then on the input may have gaps, and nothing of it is used.
    fn has_ended(&self) -> bool;

    /// Complete messages were decoded, none of which has been processed yet.
    fn received(&self, messages: usize, bytes: usize);

    /// Whether a write to the peer has failed: what it has sent before is still of use, but not for ever.
    fn has_write_failed(&self) -> bool {
        false
    }

    /// The peer has closed its side; what it has sent may not be decoded yet.
    fn end_of_stream(&self) {}

    /// Complete messages were discarded because the queue was full.
    fn dropped(&self, messages: usize);

    /// Messages that were received will not be processed: the connection is over.
    fn unprocessed(&self, messages: usize);

    /// Messages are about to be handed to the OS; none of their receipts has been resolved yet.
    fn sent(&self, messages: usize, bytes: usize);

    /// The OS has not taken them.
    fn unsent(&self, messages: usize, bytes: usize);
}
