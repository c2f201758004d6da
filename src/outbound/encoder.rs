//! What turns queued messages into bytes: the encoder with the batch that it fills.
//!
//! A [`BatchEncoder`] is in the hands of one encoding party at a time, which runs it under no lock.

use std::{collections::VecDeque, io, task::Poll};

use tokio::sync::oneshot;
use tokio_util::codec::Encoder;

use crate::{
    buffers::{self, Buffer},
    error,
    panics::{Panicked, catch, dispose, dispose_all},
    turn::{Pace, Turn},
};

/// The most bytes at which another message may still begin in a batch.
const MAX_BATCH: usize = 256 * 1024;

/// About the memory that a receipt takes until it is resolved.
const RECEIPT_WEIGHT: usize = 64;

/// Where the fate of a message is reported.
pub(crate) type ReceiptSender = oneshot::Sender<io::Result<()>>;

/// A queued message.
pub(crate) struct Item<M> {
    /// What is sent.
    pub(crate) message: M,
    /// Of `unicast` only.
    pub(crate) receipt: Option<ReceiptSender>,
}

/// Why a batch will not be written.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// A message could not be encoded.
    Encode(io::Error),
    /// The stream has failed.
    Io(io::Error),
    /// The peer took too long to take it.
    TimedOut,
    /// The encoder, or a wrapped stream, panicked.
    Panicked(Panicked),
}

impl WriteError {
    /// What the receipts are told.
    pub(crate) fn to_error(&self) -> io::Error {
        match self {
            Self::Encode(error) | Self::Io(error) => error::duplicate(error),
            Self::TimedOut => error::flush_timeout(),
            Self::Panicked(panicked) => error::writer_panicked(panicked),
        }
    }
}

/// Encoded messages on their way to the socket.
#[derive(Default)]
pub(crate) struct Batch {
    /// What goes to the stream.
    bytes: buffers::Lent,
    /// How many messages are in it.
    pub(crate) messages: u32,
    /// What it counts for against the limit: its bytes, and something for messages that have none and for receipts.
    weight: u32,
    /// The receipts of its messages that have one.
    #[expect(clippy::box_collection, reason = "an idle connection should not have room for what is rare")]
    receipts: Option<Box<Vec<ReceiptSender>>>,
    /// What went wrong: nothing more of it is written, and nothing at all if one of its messages could not be encoded.
    failure: Option<Box<WriteError>>,
}

impl Drop for Batch {
    fn drop(&mut self) {
        buffers::give_back(&mut self.bytes);
    }
}

impl Batch {
    /// Gives up the memory that an empty batch does not need.
    #[inline]
    pub(crate) fn release_surplus(&mut self) {
        self.receipts = None;
        buffers::give_back(&mut self.bytes);
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.as_deref().map_or(&[], |bytes| bytes)
    }

    #[inline]
    fn clear(&mut self) {
        self.messages = 0;
        self.weight = 0;
        if let Some(bytes) = &mut self.bytes {
            bytes.clear();
        }
    }

    /// Whether another message may begin under this limit.
    fn is_below(&self, limit: usize) -> bool {
        (self.weight as usize) < limit
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.messages == 0 && self.failure.is_none()
    }

    #[inline]
    pub(crate) fn take_failure(&mut self) -> Option<WriteError> {
        self.failure.take().map(|failure| *failure)
    }

    /// Whether its messages count as sent once so many of its bytes are taken. Where one message ends and the next begins
    /// is not known: the first byte may be all of a message, but not if there is only one.
    #[inline]
    fn counts_with(&self, taken: usize) -> bool {
        if self.messages == 1 { taken == self.bytes().len() } else { taken > 0 }
    }

    /// Offers bytes to the stream, `offered` of them behind the first `written` ones.
    ///
    /// The messages that the peer may then have whole are counted before: when the write returns, the peer may have read
    /// and counted them. If nothing has come of it, that is taken back.
    #[inline]
    pub(crate) fn offer(
        &self,
        written: usize,
        offered: usize,
        write: impl FnOnce() -> Poll<io::Result<usize>>,
        sent: impl FnOnce(usize, usize),
        unsent: impl FnOnce(usize, usize),
    ) -> Poll<io::Result<usize>> {
        let is_new = !self.counts_with(written) && self.counts_with(written + offered);
        if is_new {
            sent(self.messages as usize, self.bytes().len());
        }
        let result = write();
        let taken = if let Poll::Ready(Ok(taken)) = result { taken } else { 0 };
        if is_new && !self.counts_with(written + taken) {
            unsent(self.messages as usize, self.bytes().len());
        }
        result
    }

    /// Reports success for all messages in it, and empties it.
    #[inline]
    pub(crate) fn confirm(&mut self) {
        for receipt in self.receipts.iter_mut().flat_map(|receipts| receipts.drain(..)) {
            let _nobody_waits = receipt.send(Ok(()));
        }
        self.clear();
    }

    /// Reports the error for all messages in it.
    pub(crate) fn fail(&mut self, error: &io::Error) {
        for receipt in self.receipts.iter_mut().flat_map(|receipts| receipts.drain(..)) {
            let _nobody_waits = receipt.send(Err(error::duplicate(error)));
        }
    }
}

/// An encoder without its type: encodes a queue at a time, so that the inner loop is dispatched statically.
trait EncodeQueue<M>: Send {
    /// Encodes until the queue is empty, the batch weighs `limit`, or a turn is over, which is `true`; keeps the size of the
    /// last message.
    fn encode_queue(
        &mut self,
        queue: &mut VecDeque<Item<M>>,
        batch: &mut Batch,
        last_size: &mut usize,
        pace: &mut Pace,
        limit: usize,
    ) -> io::Result<bool>;
}

impl<M, E: Encoder<M, Error = io::Error> + Send> EncodeQueue<M> for E {
    fn encode_queue(
        &mut self,
        queue: &mut VecDeque<Item<M>>,
        batch: &mut Batch,
        last_size: &mut usize,
        pace: &mut Pace,
        limit: usize,
    ) -> io::Result<bool> {
        let mut turn = Turn::default();
        pace.begin(&mut turn);
        let Batch { bytes, messages, weight, receipts, .. } = batch;
        let bytes = &mut **bytes.get_or_insert_default();
        while (*weight as usize) < limit {
            let Some(Item { message, receipt }) = queue.pop_front() else { break };
            let mut own_weight = 1;
            if let Some(receipt) = receipt {
                receipts.get_or_insert_default().push(receipt);
                own_weight += RECEIPT_WEIGHT;
            }
            let before = bytes.len();
            self.encode(message, bytes)?;
            *messages += 1;
            // An encoder may do as it likes with the buffer.
            *last_size = bytes.len().saturating_sub(before);
            *weight = weight.saturating_add(u32::try_from(own_weight + *last_size).unwrap_or(u32::MAX));
            pace.count();
            if pace.is_look_due() && pace.look(&mut turn) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// What turns messages into bytes; in the hands of one encoding party at a time.
pub(crate) struct BatchEncoder<M> {
    /// The user's.
    encoder: Box<dyn EncodeQueue<M>>,
    /// What has been encoded and waits to be written.
    pub(crate) batch: Batch,
    /// Messages swapped out of the outbox to be encoded.
    pub(crate) queue: VecDeque<Item<M>>,
    /// The bytes at which no further message begins, before it grows with the size of messages.
    flush_at: usize,
    /// The size of the last message that was encoded.
    last_size: usize,
    /// How long messages take to be encoded.
    pace: Pace,
}

impl<M> BatchEncoder<M> {
    pub(crate) fn new<E>(encoder: E, flush_at: usize) -> Self
    where
        E: Encoder<M, Error = io::Error> + Send + 'static,
    {
        Self {
            encoder: Box::new(encoder),
            batch: Batch::default(),
            queue: VecDeque::new(),
            flush_at: flush_at.min(MAX_BATCH),
            last_size: 0,
            pace: Pace::new(),
        }
    }

    /// Whether the waiting batch has room for another message.
    pub(crate) fn has_room(&self) -> bool {
        self.batch.failure.is_none() && self.batch.is_below(self.limit())
    }

    /// Whether the batch would be less than a quarter full with so many messages more of the size of the last one.
    pub(crate) fn would_be_small_with(&self, messages: usize) -> bool {
        self.batch.weight as usize + messages.saturating_mul(self.last_size) < self.flush_at / 4
    }

    /// Encodes what was swapped out until the batch is full, as a sender does.
    pub(crate) fn run(&mut self) {
        self.encode_up_to(self.limit());
    }

    /// Encodes half a batch more than a sender would, so that what a sender left does not become a small batch of its own;
    /// `true` if that took the time of a turn.
    pub(crate) fn run_for_writer(&mut self) -> bool {
        let limit = self.limit();
        self.encode_up_to((limit + limit / 2).min(MAX_BATCH.saturating_sub(self.last_size)).max(limit))
    }

    /// Four messages a batch for large messages, but so that the last one still ends within [`MAX_BATCH`], if its size is
    /// that of the one before it; one message for larger ones.
    fn limit(&self) -> usize {
        let largest = MAX_BATCH.saturating_sub(self.last_size);
        self.flush_at.max(self.last_size.saturating_mul(4)).min(largest).max(1)
    }

    /// Takes out the memory that it does not need while it is empty, if there is any.
    pub(crate) fn take_surplus(&mut self) -> Option<(VecDeque<Item<M>>, Batch)> {
        let is_surplus =
            buffers::is_surplus(&self.queue) || self.batch.bytes.is_some() || self.batch.receipts.is_some();
        is_surplus.then(|| (std::mem::take(&mut self.queue), std::mem::take(&mut self.batch)))
    }

    /// Drops everything in it, one user's value at a time.
    pub(crate) fn discard(self) {
        dispose_all(self.queue);
        dispose(self.encoder);
    }

    /// `true` if it ended because the turn was over.
    fn encode_up_to(&mut self, limit: usize) -> bool {
        // A batch that fails is not written at all, so nothing is added to one of which that is no longer true.
        if self.batch.failure.is_some() {
            return false;
        }
        self.batch.bytes.get_or_insert_with(|| {
            if self.last_size * 2 < buffers::CAPACITY {
                buffers::take(self.flush_at.min(buffers::CAPACITY), buffers::CAPACITY / 2)
            } else {
                Buffer::with_capacity(limit + self.last_size.min(MAX_BATCH))
            }
        });
        let Self { encoder, batch, queue, last_size, pace, .. } = self;
        let failure = match catch(|| encoder.encode_queue(queue, batch, last_size, pace, limit)) {
            Ok(Ok(is_turn_over)) => return is_turn_over,
            Ok(Err(error)) => WriteError::Encode(error),
            Err(panicked) => WriteError::Panicked(panicked),
        };
        // What was swapped out together fails together, and nothing of it is written.
        batch.clear();
        batch.failure = Some(Box::new(failure));
        let receipts = queue.iter_mut().filter_map(|item| item.receipt.take());
        batch.receipts.get_or_insert_default().extend(receipts);
        dispose_all(queue.drain(..));
        false
    }
}
