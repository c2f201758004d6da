//! Messages, the encoder that makes of them what each says, and the ledger of all that happens to them.

use std::{
    io,
    panic::resume_unwind,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread::panicking,
};

use bytes::{BufMut, BytesMut};
use parking_lot::Mutex;
use tokio::{
    sync::oneshot::{self, error::TryRecvError},
    time::Instant,
};
use tokio_util::codec::Encoder;

use super::input::Input;
use crate::outbound::{AnyOutbox, Outbox, PushError, Queued};

/// The bytes that one script may encode in all, beyond small messages.
const BUDGET: usize = 3 << 20;

/// The most bytes of messages of a size in a batch, as the outbox documents it.
const MAX_BATCH: usize = 256 * 1024;

/// What the encoding of a message comes to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Manner {
    /// So many bytes.
    Bytes(usize),
    /// So many bytes in a buffer that takes the place of the batch's own.
    Replaced(usize),
    /// So many bytes after room for many more was made.
    Reserved(usize),
    /// An error after some bytes.
    Error,
    /// A panic after some bytes.
    Panic,
    /// A small message after another one was sent from inside of the encoder.
    Sends { wants_receipt: bool },
    /// A small message after the outbox was closed from inside of the encoder.
    Closes { abandons: bool },
}

impl Manner {
    pub(crate) fn choose(input: &mut Input<'_>) -> Self {
        match input.below(32) {
            0..12 => Self::Bytes(input.below(64)),
            12 | 13 => Self::Bytes(0),
            14..18 => Self::Bytes(16 * input.below(256)),
            18..21 => Self::Bytes(256 * input.below(256)),
            21 => Self::Bytes(1_200 * input.below(256)),
            22 | 23 => Self::Replaced(input.below(256)),
            24 | 25 => Self::Reserved(16 * input.below(256)),
            26 => Self::Error,
            27 => Self::Panic,
            28..31 => Self::Sends { wants_receipt: input.below(2) == 1 },
            _ => match input.below(8) {
                0 => Self::Closes { abandons: true },
                1 => Self::Closes { abandons: false },
                size => Self::Bytes(size),
            },
        }
    }

    fn size(self) -> usize {
        match self {
            Self::Bytes(size) | Self::Replaced(size) | Self::Reserved(size) => size,
            Self::Error | Self::Panic => 0,
            Self::Sends { .. } | Self::Closes { .. } => 3,
        }
    }
}

pub(crate) struct Message {
    /// Its place among the messages that were accepted.
    number: usize,
    manner: Manner,
    /// Whether dropping it panics; not where it is refused, for then it is its sender who drops it.
    is_explosive: Option<Arc<AtomicBool>>,
    _alive: Arc<()>,
}

impl Drop for Message {
    fn drop(&mut self) {
        if self.is_explosive.take().is_some_and(|armed| armed.load(Ordering::Relaxed)) && !panicking() {
            resume_unwind(Box::new("a scripted message panics when it is dropped"));
        }
    }
}

/// What is known about a receipt.
#[derive(Debug)]
pub(crate) enum Receipt {
    /// There is none, or nobody looks at it any more.
    None,
    Waiting(oneshot::Receiver<io::Result<()>>),
    Confirmed,
    Failed(io::ErrorKind),
    Gone,
}

impl Receipt {
    pub(crate) fn look(&mut self) {
        let Self::Waiting(receiver) = self else { return };
        *self = match receiver.try_recv() {
            Err(TryRecvError::Empty) => return,
            Err(TryRecvError::Closed) => Self::Gone,
            Ok(Ok(())) => Self::Confirmed,
            Ok(Err(error)) => Self::Failed(error.kind()),
        };
    }

    fn is_confirmed(&self) -> bool {
        matches!(self, Self::Confirmed)
    }
}

/// Why the encoder must not be called any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EncoderFailure {
    Error,
    Panic,
}

/// All that happens to the messages of one outbox.
pub(crate) struct Ledger {
    /// The receipts of the messages that were accepted, in the order in which they were queued.
    pub(crate) receipts: Vec<Receipt>,
    /// How many messages the encoder was given.
    pub(crate) begun: usize,
    /// What was encoded, one message behind the other.
    pub(crate) encoded: Vec<u8>,
    /// Where in it each message ends.
    pub(crate) ends: Vec<usize>,
    /// The size of the largest message.
    largest: usize,
    pub(crate) failure: Option<EncoderFailure>,
    /// How many bytes the stream has taken.
    pub(crate) taken: usize,
    /// How many of them had been taken when it was last flushed.
    pub(crate) flushed: usize,
    /// How many messages were counted as sent.
    pub(crate) counted: usize,
    /// How many of them last, and behind how many bytes.
    last_counted: (usize, usize),
    /// What the stream failed with.
    pub(crate) stream_failure: Option<io::ErrorKind>,
    /// Since when the batch has been kept waiting, for whatever reason.
    pub(crate) waiting_since: Option<Instant>,
    /// Whether it was the stream that kept the batch waiting.
    pub(crate) is_blocked: bool,
    /// How often the stream did something that it was asked for.
    pub(crate) asked: usize,
    /// Whether no more messages are taken.
    pub(crate) is_closed: bool,
    /// Whether what was queued has been given up.
    pub(crate) is_abandoned: bool,
    /// Whether a message, be it one that the encoder sent, has found the queue full.
    pub(crate) was_full: bool,
    /// How many messages were offered, accepted or not.
    pub(crate) offers: usize,
    pub(crate) alive: Arc<()>,
}

pub(crate) type Shared = Arc<Mutex<Ledger>>;

impl Ledger {
    pub(crate) fn new() -> Self {
        Self {
            receipts: Vec::new(),
            begun: 0,
            encoded: Vec::new(),
            ends: Vec::new(),
            largest: 0,
            failure: None,
            taken: 0,
            flushed: 0,
            counted: 0,
            last_counted: (0, 0),
            stream_failure: None,
            waiting_since: None,
            is_blocked: false,
            asked: 0,
            is_closed: false,
            is_abandoned: false,
            was_full: false,
            offers: 0,
            alive: Arc::new(()),
        }
    }

    /// How many messages wait in the queue, while nobody encodes.
    pub(crate) fn queued(&self) -> usize {
        self.receipts.len() - self.begun
    }

    /// Checks what has become of the receipts so far.
    pub(crate) fn look(&mut self) {
        let (messages, start) = self.last_counted;
        let bytes = self.counted_bytes() - start;
        let is_begun = bytes == 0 || self.taken > start && (messages > 1 || self.taken >= start + bytes);
        assert!(messages == 0 || is_begun, "{messages} messages are counted, and not taken");
        let mut is_unconfirmed = false;
        for (number, receipt) in self.receipts.iter_mut().enumerate() {
            receipt.look();
            match receipt {
                Receipt::None => {}
                Receipt::Confirmed => {
                    assert!(!is_unconfirmed, "message {number} is confirmed, and one before it is not");
                    assert!(number < self.counted, "message {number} is confirmed, and not counted");
                    assert!(self.ends[number] <= self.flushed, "message {number} is confirmed, and not flushed");
                }
                Receipt::Waiting(_) | Receipt::Failed(_) | Receipt::Gone => is_unconfirmed = true,
            }
        }
    }

    /// A batch is about to be written, and none of its receipts may have been told yet.
    pub(crate) fn count(&mut self, messages: usize, bytes: usize) {
        let batch = self.counted..self.counted + messages;
        assert!(batch.end <= self.ends.len(), "counted, and not encoded");
        assert!(messages > 0 || bytes == 0, "bytes of no message");
        let sent_before = self.counted_bytes();
        self.counted = batch.end;
        assert_eq!(self.counted_bytes() - sent_before, bytes, "counted is what was encoded");
        self.last_counted = (messages, sent_before);
        for receipt in &mut self.receipts[batch] {
            receipt.look();
            assert!(!receipt.is_confirmed(), "confirmed before it is counted");
        }
    }

    /// The stream has not taken what was counted last.
    pub(crate) fn uncount(&mut self, messages: usize, bytes: usize) {
        let sent = self.counted_bytes();
        self.counted -= messages;
        assert_eq!(
            (self.last_counted.0, sent - self.counted_bytes()),
            (messages, bytes),
            "taken back is what was counted"
        );
        self.last_counted = (0, 0);
    }

    /// The stream takes bytes: messages that it has whole have been counted.
    pub(crate) fn take(&mut self, count: usize) {
        let before = self.taken;
        self.taken += count;
        let complete = self.ends.partition_point(|end| *end <= self.taken);
        // A message without bytes may be the first of the next batch.
        let is_counted = complete <= self.counted || self.ends[complete - 1] == self.counted_bytes();
        assert!(count == 0 || is_counted, "taken from {before} to {}, and not counted", self.taken);
    }

    /// The first message of the batch that is being written, or is next.
    pub(crate) fn first_unflushed(&self) -> usize {
        if self.counted_bytes() > self.flushed { self.counted - self.last_counted.0 } else { self.counted }
    }

    /// The bytes of all messages that are counted.
    fn counted_bytes(&self) -> usize {
        self.counted.checked_sub(1).map_or(0, |last| self.ends[last])
    }
}

/// Encodes each message as it says.
pub(crate) struct ScriptedEncoder {
    pub(crate) ledger: Shared,
    /// Where messages are sent to from inside of the encoder.
    pub(crate) outbox: Weak<Outbox<Message>>,
    /// Whether dropping it panics.
    pub(crate) is_explosive: bool,
}

impl Drop for ScriptedEncoder {
    fn drop(&mut self) {
        if self.is_explosive && !panicking() {
            resume_unwind(Box::new("a scripted encoder panics when it is dropped"));
        }
    }
}

impl Encoder<Message> for ScriptedEncoder {
    type Error = io::Error;

    fn encode(&mut self, mut message: Message, dst: &mut BytesMut) -> io::Result<()> {
        message.is_explosive = None;
        let mut ledger = self.ledger.lock();
        assert_eq!(ledger.failure, None, "nothing is encoded after a failure");
        assert_eq!(message.number, ledger.begun, "messages are encoded in the order in which they were queued");
        let unwritten = ledger.encoded.len() - ledger.taken;
        let bound = 2 * (MAX_BATCH + ledger.largest + ledger.largest.min(MAX_BATCH / 4));
        assert!(unwritten <= bound, "{unwritten} bytes are encoded and not written");
        assert!(ledger.encoded.ends_with(&dst[dst.len().saturating_sub(32)..]), "the batch ends with the last message");
        ledger.begun += 1;
        match message.manner {
            Manner::Error => {
                ledger.failure = Some(EncoderFailure::Error);
                dst.put_slice(b"half a message");
                return Err(io::ErrorKind::InvalidInput.into());
            }
            Manner::Panic => {
                ledger.failure = Some(EncoderFailure::Panic);
                drop(ledger);
                dst.put_slice(b"half a message");
                resume_unwind(Box::new("a scripted encoder panics"));
            }
            Manner::Replaced(_) => *dst = BytesMut::from(&dst[..]),
            Manner::Reserved(_) => dst.reserve(200_000),
            Manner::Bytes(_) | Manner::Sends { .. } | Manner::Closes { .. } => {}
        }
        let size = match message.manner.size() {
            size if ledger.encoded.len() > BUDGET => size.min(64),
            size => size,
        };
        ledger.largest = ledger.largest.max(size);
        let (start, number) = (dst.len(), message.number);
        dst.put_bytes(number as u8, size);
        // Something that is not the same everywhere in a large message.
        for (place, byte) in dst[start..].iter_mut().step_by(61).enumerate() {
            *byte = (number / 251 + place) as u8;
        }
        ledger.encoded.extend_from_slice(&dst[start..]);
        let end = ledger.encoded.len();
        ledger.ends.push(end);
        drop(ledger);
        let Some(outbox) = self.outbox.upgrade() else { unreachable!("an encoder runs for an outbox") };
        match message.manner {
            Manner::Sends { wants_receipt } => {
                let _whether_there_is_room = offer(&self.ledger, &outbox, Manner::Bytes(5), wants_receipt, false);
            }
            Manner::Closes { abandons } => close(&self.ledger, &outbox, abandons),
            _ => {}
        }
        Ok(())
    }
}

/// Offers a message to the outbox.
pub(crate) fn offer(
    ledger: &Shared,
    outbox: &Outbox<Message>,
    manner: Manner,
    wants_receipt: bool,
    is_explosive: bool,
) -> Result<Queued, PushError> {
    let (sender, receiver) = oneshot::channel();
    let mut entry = ledger.lock();
    entry.offers += 1;
    let number = entry.receipts.len();
    // Entered before the outcome is known: a message that its encoder sends in the meantime comes behind it.
    entry.receipts.push(if wants_receipt { Receipt::Waiting(receiver) } else { Receipt::None });
    let explosive = is_explosive.then(Arc::<AtomicBool>::default);
    let message = Message { number, manner, is_explosive: explosive.clone(), _alive: Arc::clone(&entry.alive) };
    let was_closed = entry.is_closed;
    drop(entry);
    let result = outbox.push(message, wants_receipt.then_some(sender));
    match result {
        Ok(_) => {
            assert!(!was_closed, "a closed outbox takes no message");
            if let Some(armed) = explosive {
                armed.store(true, Ordering::Relaxed);
            }
        }
        Err(error) => {
            assert_eq!(error == PushError::Closed, was_closed, "refused with {error:?}");
            let mut entry = ledger.lock();
            assert_eq!(entry.receipts.len(), number + 1, "a message that is refused lets nothing happen");
            entry.receipts.pop();
            entry.was_full |= error == PushError::Full;
        }
    }
    result
}

/// Closes the outbox.
pub(crate) fn close(ledger: &Shared, outbox: &Outbox<Message>, abandons: bool) {
    let mut entry = ledger.lock();
    entry.is_closed = true;
    entry.asked += 1;
    entry.is_abandoned |= abandons;
    drop(entry);
    let is_flushed = if abandons { outbox.abandon() } else { outbox.finish() };
    let entry = ledger.lock();
    if is_flushed && !entry.is_abandoned && entry.failure.is_none() && entry.stream_failure.is_none() {
        assert_eq!(entry.counted, entry.receipts.len(), "flushed, and not counted");
    }
}
