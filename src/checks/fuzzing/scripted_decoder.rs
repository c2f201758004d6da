//! A decoder that does what the bytes of the stream tell it to, and the ledger of all that happens to its messages.

use std::{io, panic::resume_unwind, sync::Arc, thread::panicking};

use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::codec::Decoder;

use super::input::Input;
use crate::{counting::Observer, inbound::reader::ReadSettings};

/// How many messages in a row may consume nothing, as the read loop documents it.
const MAX_STALLS: usize = 10_000;

/// What the read loop may have of capacity, whatever the settings are.
const BUFFER_BOUND: usize = 256 * 1024;

/// What a decoder asks for that believes a hostile header.
const HUGE: usize = 1 << 20;

pub(crate) struct Message {
    pub(crate) number: usize,
    pub(crate) body: BytesMut,
    /// Whether it came to be processed.
    pub(crate) is_processed: bool,
    /// Whether it panics when it is dropped without having been processed.
    is_explosive: bool,
    ledger: Shared,
}

impl Drop for Message {
    fn drop(&mut self) {
        if !self.is_processed {
            self.ledger.lock().lost += 1;
            if self.is_explosive && !panicking() {
                resume_unwind(Box::new("a scripted message panics when it is dropped"));
            }
        }
    }
}

/// All that happens to the messages of one reader.
pub(crate) struct Ledger {
    pub(crate) settings: &'static ReadSettings,
    /// What the decoder left of the buffer.
    left: Vec<u8>,
    /// What has arrived since.
    pub(crate) fresh: Vec<u8>,
    /// Whether the decoder has not said since the last read that it needs more.
    pub(crate) is_decodable: bool,
    /// Whether neither the stream nor the decoder may be asked for anything more.
    pub(crate) is_over: bool,
    /// When the stream ended.
    pub(crate) eof_at: Option<Instant>,
    /// Whether the decoder has said that nothing is left.
    pub(crate) is_exhausted: bool,
    /// What the stream or the decoder failed with.
    pub(crate) failure: Option<io::ErrorKind>,
    /// When the stream failed.
    pub(crate) failed_at: Option<Instant>,
    /// Messages that the reader has given up, as it says.
    pub(crate) unprocessed: usize,
    pub(crate) has_decoder_panicked: bool,
    pub(crate) has_process_panicked: bool,
    /// Whether somebody else has ended the connection.
    pub(crate) has_ended: bool,
    /// What each message looked like when it was decoded.
    pub(crate) bodies: Vec<Vec<u8>>,
    /// The bytes of complete messages, and of what is not one yet.
    bytes: usize,
    consumed: usize,
    pub(crate) stalls: usize,
    /// Those that found the queue full.
    surplus: usize,
    /// When the last message was complete.
    pub(crate) complete_at: Instant,
    /// How many messages came to be processed.
    pub(crate) started: usize,
    /// Whether one is being processed.
    pub(crate) is_processing: bool,
    /// How many messages were dropped without having been processed.
    pub(crate) lost: usize,
    /// What the observer was told: messages, bytes, messages dropped.
    pub(crate) counted: (usize, usize, usize),
    /// What may give the loop a reason for another turn.
    pub(crate) events: usize,
    /// The largest buffer that there was a reason for.
    largest: usize,
}

pub(crate) type Shared = Arc<Mutex<Ledger>>;

impl Ledger {
    pub(crate) fn new(settings: &'static ReadSettings) -> Self {
        Self {
            settings,
            left: Vec::new(),
            fresh: Vec::new(),
            is_decodable: false,
            is_over: false,
            eof_at: None,
            is_exhausted: false,
            failure: None,
            failed_at: None,
            unprocessed: 0,
            has_decoder_panicked: false,
            has_process_panicked: false,
            has_ended: false,
            bodies: Vec::new(),
            bytes: 0,
            consumed: 0,
            stalls: 0,
            surplus: 0,
            complete_at: Instant::now(),
            started: 0,
            is_processing: false,
            lost: 0,
            counted: (0, 0, 0),
            events: 0,
            largest: settings.buffer_size,
        }
    }

    /// How many messages wait to be processed.
    pub(crate) fn queued(&self) -> usize {
        self.bodies.len() - self.started - self.lost
    }

    pub(crate) fn is_full(&self) -> bool {
        self.queued() >= self.settings.depth
    }

    /// Checks that the loop has no more memory for bytes than it needs.
    pub(crate) fn check_capacity(&self, capacity: usize) {
        assert!(capacity <= BUFFER_BOUND + 4 * self.largest, "a buffer of {capacity} for {}", self.largest);
    }

    /// Checks that the loop may call the decoder, with this buffer.
    fn begin(&mut self, src: &BytesMut, at_eof: bool) {
        assert!(!self.is_over, "the decoder is called after its end");
        assert!(self.is_decodable, "the decoder is called without new bytes");
        assert_eq!(at_eof, self.eof_at.is_some(), "decode_eof at the end, and only there");
        assert!(!self.settings.backpressure || !self.is_full(), "decoded beyond the depth");
        self.left.append(&mut self.fresh);
        assert!(src[..] == self.left[..], "the decoder sees what it left and what has arrived, and nothing else");
        self.largest = self.largest.max(src.len());
        self.check_capacity(src.capacity());
    }

    fn finish(&mut self, src: &BytesMut, result: &io::Result<Option<Message>>) {
        let consumed = self.left.len().saturating_sub(src.len());
        self.left.clear();
        self.left.extend_from_slice(src);
        self.largest = self.largest.max(src.len());
        self.consumed += consumed;
        match result {
            Ok(Some(message)) => {
                self.surplus += usize::from(self.is_full());
                self.bodies.push(message.body.to_vec());
                self.bytes += std::mem::take(&mut self.consumed);
                self.complete_at = Instant::now();
                self.events += 1;
                self.stalls = if consumed == 0 { self.stalls + 1 } else { 0 };
                if self.stalls > MAX_STALLS {
                    self.failure = Some(io::ErrorKind::InvalidData);
                    self.is_over = true;
                }
            }
            Ok(None) => {
                self.is_decodable = false;
                self.is_exhausted = self.eof_at.is_some();
                self.is_over |= self.is_exhausted;
            }
            Err(error) => {
                self.failure = Some(error.kind());
                self.is_over = true;
            }
        }
    }

    /// Checks what the observer was told, when the loop has ended.
    pub(crate) fn check_counts(&self) {
        assert_eq!(self.counted, (self.bodies.len(), self.bytes, self.surplus), "messages, bytes, dropped");
        assert_eq!(self.lost, self.surplus, "dropped are those that found the queue full");
    }
}

pub(crate) struct Counts(pub(crate) Shared);

impl Observer for Counts {
    fn has_ended(&self) -> bool {
        self.0.lock().has_ended
    }

    fn received(&self, messages: usize, bytes: usize) {
        let mut ledger = self.0.lock();
        ledger.counted.0 += messages;
        ledger.counted.1 += bytes;
    }

    fn dropped(&self, messages: usize) {
        self.0.lock().counted.2 += messages;
    }

    fn unprocessed(&self, messages: usize) {
        self.0.lock().unprocessed += messages;
    }

    fn sent(&self, _: usize, _: usize) {
        unreachable!("a reader sends nothing");
    }

    fn unsent(&self, _: usize, _: usize) {
        unreachable!("a reader sends nothing");
    }
}

/// What the decoder does at the end of the stream, when nothing complete is left.
#[derive(Debug, Clone, Copy)]
enum Eof {
    /// What the trait does by itself: bytes left over are an error.
    Strict,
    /// The rest is a message.
    Rest,
    /// So many messages come from nowhere.
    Extra(usize),
    /// The rest stays where it is.
    Lax,
    Error,
    Panic,
}

/// What the decoder does whatever the bytes are.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    Frames,
    /// Needs more bytes for ever.
    Deaf,
    /// Takes all bytes away, and makes nothing of them.
    Hole,
    /// Makes messages of nothing, so many.
    Stalling(usize),
    /// Has consumed the header of a message of this length.
    Eager(usize),
}

pub(crate) struct ScriptedDecoder {
    ledger: Shared,
    eof: Eof,
    mode: Mode,
    /// One message in so many panics when it is dropped unprocessed; 0: none.
    explosive_every: usize,
    /// Whether dropping it panics.
    is_explosive: bool,
}

impl Drop for ScriptedDecoder {
    fn drop(&mut self) {
        if self.is_explosive && !panicking() {
            resume_unwind(Box::new("a scripted decoder panics when it is dropped"));
        }
    }
}

impl Decoder for ScriptedDecoder {
    type Item = Message;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<Message>> {
        self.step(src, false)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> io::Result<Option<Message>> {
        self.step(src, true)
    }
}

impl ScriptedDecoder {
    pub(crate) fn new(ledger: Shared, input: &mut Input<'_>) -> Self {
        let eof = match input.below(16) {
            0..8 => Eof::Strict,
            8 | 9 => Eof::Rest,
            10 => Eof::Extra(input.below(100)),
            11 => Eof::Extra(if input.once_in(8) { usize::MAX } else { 1 }),
            12 | 13 => Eof::Lax,
            14 => Eof::Error,
            _ => Eof::Panic,
        };
        let explosive_every = input.pick(&[0, 0, 3, 1]);
        Self { ledger, eof, mode: Mode::Frames, explosive_every, is_explosive: input.once_in(8) }
    }

    fn step(&mut self, src: &mut BytesMut, at_eof: bool) -> io::Result<Option<Message>> {
        self.ledger.lock().begin(src, at_eof);
        let decoded = match self.take_body(src) {
            Ok(None) if at_eof => self.take_last(src),
            other => other,
        };
        let result = decoded.map(|body| {
            body.map(|body| {
                let number = self.ledger.lock().bodies.len();
                let is_explosive = number.checked_rem(self.explosive_every) == Some(0);
                Message { number, body, is_processed: false, is_explosive, ledger: Arc::clone(&self.ledger) }
            })
        });
        self.ledger.lock().finish(src, &result);
        result
    }

    fn panic(&self) -> ! {
        let mut ledger = self.ledger.lock();
        ledger.has_decoder_panicked = true;
        ledger.is_over = true;
        drop(ledger);
        resume_unwind(Box::new("a scripted decoder panics"));
    }

    fn take_last(&mut self, src: &mut BytesMut) -> io::Result<Option<BytesMut>> {
        match self.eof {
            Eof::Strict if src.is_empty() => Ok(None),
            Eof::Strict => Err(io::ErrorKind::UnexpectedEof.into()),
            Eof::Rest => Ok((!src.is_empty()).then(|| src.split())),
            Eof::Extra(0) | Eof::Lax => Ok(None),
            Eof::Extra(count) => {
                self.eof = Eof::Extra(count - 1);
                Ok(Some(BytesMut::new()))
            }
            Eof::Error => Err(io::ErrorKind::PermissionDenied.into()),
            Eof::Panic => self.panic(),
        }
    }

    /// Frames begin with a byte that says what they are, and one that says how long.
    fn take_body(&mut self, src: &mut BytesMut) -> io::Result<Option<BytesMut>> {
        loop {
            match self.mode {
                Mode::Frames => {}
                Mode::Deaf => return Ok(None),
                Mode::Hole => {
                    src.clear();
                    return Ok(None);
                }
                Mode::Stalling(0) => self.mode = Mode::Frames,
                Mode::Stalling(count) => {
                    self.mode = Mode::Stalling(count - 1);
                    return Ok(Some(BytesMut::from(&b"from nowhere"[..])));
                }
                Mode::Eager(length) => {
                    if src.len() < length {
                        return Ok(None);
                    }
                    self.mode = Mode::Frames;
                    return Ok(Some(src.split_to(length)));
                }
            }
            let &[kind, size, ..] = &src[..] else { return Ok(None) };
            let size = usize::from(size);
            let mut length = 2 + size % 40;
            match kind % 32 {
                16 | 17 => length = 2 + 64 * size,
                18 => {
                    src.advance(2);
                    self.mode = Mode::Eager(size % 40);
                    continue;
                }
                20 => {
                    src.advance(2);
                    self.mode = Mode::Stalling(1 + size % 8);
                    continue;
                }
                21 => *src = BytesMut::from(&src[..]),
                22 => {
                    let mut inflated = BytesMut::new();
                    for _ in 0..size % 8 {
                        inflated.extend_from_slice(&[0, 1, 2]);
                    }
                    src.advance(2);
                    inflated.extend_from_slice(src);
                    *src = inflated;
                    continue;
                }
                23 => {
                    let body = BytesMut::from(&src[..]);
                    src.clear();
                    return Ok(Some(body));
                }
                24 => return Ok(Some(src.split())),
                25 => return Ok(Some(std::mem::take(src))),
                26 if size % 4 == 0 => self.mode = Mode::Deaf,
                27 if size % 4 == 0 => self.mode = Mode::Hole,
                28 => {
                    self.ledger.lock().largest = HUGE;
                    src.reserve(HUGE);
                }
                29 if size % 4 == 0 => return Err(io::ErrorKind::InvalidInput.into()),
                30 if size % 4 == 0 => self.panic(),
                31 if size == 7 => self.mode = Mode::Stalling(usize::MAX),
                31 if size == 8 => {
                    src.advance(2);
                    self.mode = Mode::Stalling(MAX_STALLS);
                }
                _ => {}
            }
            if self.mode != Mode::Frames {
                continue;
            }
            if src.len() < length {
                src.reserve(length - src.len());
                return Ok(None);
            }
            let body = src.split_to(length);
            // A message may keep its part of the buffer, or a copy.
            return Ok(Some(if kind % 32 == 19 { BytesMut::from(&body[..]) } else { body }));
        }
    }
}
