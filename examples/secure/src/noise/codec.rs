//! Messages as Noise frames: an encoder that encrypts in the batch that the kernel will write, a decoder that decrypts in
//! the buffer that the kernel has read into.
//!
//! ```text
//! message    [ 4 bytes: its length ][ the message ............................................... ]
//! cut into   [ up to 65,519 bytes                      ][ up to 65,519 bytes ][ ... ]
//! frame      [ 2 bytes: length of the rest ][ encrypted ][ 16 bytes: tag ]
//! ```
//!
//! Each message begins a frame of its own, and all of its frames but the last are full: nobody can make the other side
//! hold more than the message it announced. A frame cannot wait for another message, since an encoder is not told when the
//! last one of a batch has come.

use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use super::cipher::{Cipher, TAG};
use crate::invalid;

/// What can be sent.
#[derive(Debug, Clone)]
pub enum Outgoing {
    Message(Bytes),
    /// The last word. Without it, whoever is in the middle could end the stream between two messages, and nobody would know
    /// that something is missing.
    Goodbye,
}

/// Encrypts what leaves.
pub struct Sealer {
    cipher: Cipher,
    wire: Arc<Wire>,
}

/// Decrypts what arrives, and finds out why nothing more will.
pub struct Opener {
    cipher: Cipher,
    wire: Arc<Wire>,
    /// How many decrypted bytes of an incomplete message the buffer begins with.
    opened: usize,
    /// How many bytes behind them mean nothing any more: tags and lengths of frames.
    gap: usize,
}

/// What a codec lets others know.
#[derive(Debug, Default)]
pub struct Wire {
    /// How often the key has been replaced.
    renewals: AtomicU64,
    ending: OnceLock<Ending>,
}

impl Wire {
    pub fn renewals(&self) -> u64 {
        self.renewals.load(Relaxed)
    }

    /// How the stream ended, if the decoder saw its end.
    pub fn ending(&self) -> Option<Ending> {
        self.ending.get().copied()
    }
}

/// How a stream of messages ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The peer has said that there is no more.
    Goodbye,
    /// It ended without that: something may be missing.
    CutOff,
    /// Something came that the peer did not send, or not so.
    Tampered,
}

impl Sealer {
    pub(super) fn new(cipher: Cipher) -> Self {
        Self { cipher, wire: Arc::default() }
    }

    pub fn wire(&self) -> &Arc<Wire> {
        &self.wire
    }

    /// Writes the plaintext where the ciphertext is to be: this is the only copy.
    fn put_frame(&mut self, header: &[u8], body: &[u8], output: &mut BytesMut) -> io::Result<()> {
        let length = u16::try_from(header.len() + body.len() + TAG).map_err(io::Error::other)?;
        output.put_u16(length);
        let begin = output.len();
        output.extend_from_slice(header);
        output.extend_from_slice(body);
        let tag = self.cipher.seal(&mut output[begin..])?;
        output.extend_from_slice(&tag);
        Ok(())
    }

    fn count_renewals(&self) {
        self.wire.renewals.store(self.cipher.renewals(), Relaxed);
    }
}

impl Encoder<Bytes> for Sealer {
    type Error = io::Error;

    fn encode(&mut self, message: Bytes, output: &mut BytesMut) -> io::Result<()> {
        if message.len() > MAX_MESSAGE {
            let reason = format!("a message of {} bytes; {MAX_MESSAGE} are allowed", message.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        output.reserve(wire_size(message.len()));
        let header = u32::try_from(message.len()).map_err(io::Error::other)?.to_be_bytes();
        let (first, rest) = message.split_at(message.len().min(MAX_PLAINTEXT - HEADER));
        self.put_frame(&header, first, output)?;
        for body in rest.chunks(MAX_PLAINTEXT) {
            self.put_frame(&[], body, output)?;
        }
        self.count_renewals();
        Ok(())
    }
}

impl Encoder<Outgoing> for Sealer {
    type Error = io::Error;

    fn encode(&mut self, outgoing: Outgoing, output: &mut BytesMut) -> io::Result<()> {
        match outgoing {
            Outgoing::Message(message) => self.encode(message, output),
            Outgoing::Goodbye => self.put_frame(&GOODBYE.to_be_bytes(), &[], output),
        }
    }
}

impl Opener {
    pub(super) fn new(cipher: Cipher) -> Self {
        Self { cipher, wire: Arc::default(), opened: 0, gap: 0 }
    }

    pub fn wire(&self) -> &Arc<Wire> {
        &self.wire
    }

    fn next_message(&mut self, input: &mut BytesMut) -> io::Result<Option<BytesMut>> {
        loop {
            let begin = self.opened + self.gap;
            let Some(length) = input.get(begin..begin + LENGTH) else { return Ok(None) };
            if self.wire.ending().is_some() {
                return Err(invalid("something comes after the goodbye"));
            }
            let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
            if length < TAG {
                return Err(invalid("a frame without a tag"));
            }
            let missing = (begin + LENGTH + length).saturating_sub(input.len());
            if missing > 0 {
                input.reserve(missing);
                return Ok(None);
            }
            self.open_frame(input, length)?;
            if let Some(message) = self.complete_message(input)? {
                self.wire.renewals.store(self.cipher.renewals(), Relaxed);
                return Ok(Some(message));
            }
        }
    }

    /// Decrypts the frame where it is, and puts it behind what the message has so far.
    fn open_frame(&mut self, input: &mut BytesMut, length: usize) -> io::Result<()> {
        if self.opened == 0 {
            // The first frame need not move.
            input.advance(LENGTH);
            self.opened = self.cipher.open(&mut input[..length])?;
            self.gap = TAG;
            return if self.opened < HEADER { Err(invalid("a frame without a length")) } else { Ok(()) };
        }
        let begin = self.opened + self.gap + LENGTH;
        let size = self.cipher.open(&mut input[begin..begin + length])?;
        if size == 0 {
            return Err(invalid("a frame with nothing in it"));
        }
        input.copy_within(begin..begin + size, self.opened);
        self.opened += size;
        self.gap += LENGTH + TAG;
        Ok(())
    }

    /// Takes out the message that the buffer begins with, if all of it is there.
    fn complete_message(&mut self, input: &mut BytesMut) -> io::Result<Option<BytesMut>> {
        let header = u32::from_be_bytes([input[0], input[1], input[2], input[3]]);
        let size = if header == GOODBYE { 0 } else { usize::try_from(header).map_err(io::Error::other)? };
        if size > MAX_MESSAGE {
            return Err(invalid(format!("a message of {size} bytes; {MAX_MESSAGE} are allowed")));
        }
        let missing = match (HEADER + size).checked_sub(self.opened) {
            None => return Err(invalid("a frame that is longer than its message")),
            Some(missing) => missing,
        };
        if missing > 0 {
            if !self.opened.is_multiple_of(MAX_PLAINTEXT) {
                return Err(invalid("a frame that is shorter than it could be"));
            }
            // Now that the length is known to come from the peer, room for all of it is made at once.
            let wanted = self.opened + self.gap + missing + missing.div_ceil(MAX_PLAINTEXT) * (LENGTH + TAG);
            input.reserve(wanted.saturating_sub(input.len()));
            return Ok(None);
        }
        input.advance(HEADER);
        let message = input.split_to(size);
        input.advance(self.gap);
        (self.opened, self.gap) = (0, 0);
        if header == GOODBYE {
            let _first_ending = self.wire.ending.set(Ending::Goodbye);
            return Ok(None);
        }
        Ok(Some(message))
    }

    /// Remembers why the stream ends here.
    fn ends(&self, ending: Ending) {
        let _first_ending = self.wire.ending.set(ending);
    }
}

impl Decoder for Opener {
    type Item = BytesMut;
    type Error = io::Error;

    fn decode(&mut self, input: &mut BytesMut) -> io::Result<Option<BytesMut>> {
        self.next_message(input).inspect_err(|_| self.ends(Ending::Tampered))
    }

    fn decode_eof(&mut self, input: &mut BytesMut) -> io::Result<Option<BytesMut>> {
        if let Some(message) = self.decode(input)? {
            return Ok(Some(message));
        }
        if self.wire.ending() == Some(Ending::Goodbye) && input.is_empty() {
            return Ok(None);
        }
        self.ends(Ending::CutOff);
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the stream ends without a goodbye"))
    }
}

/// How many bytes a message takes on the wire.
pub(super) fn wire_size(message: usize) -> usize {
    let plaintext = HEADER + message;
    plaintext + plaintext.div_ceil(MAX_PLAINTEXT) * (LENGTH + TAG)
}

/// The most that is sent and accepted as one message.
pub const MAX_MESSAGE: usize = 16 << 20;

/// In front of each frame.
pub(super) const LENGTH: usize = 2;

/// In front of each message, encrypted with it.
pub(super) const HEADER: usize = 4;

/// The most that a frame can carry: its length, with the tag, has two bytes.
pub(super) const MAX_PLAINTEXT: usize = u16::MAX as usize - TAG;

/// Stands where the length of a message would, and is longer than any.
const GOODBYE: u32 = u32::MAX;
