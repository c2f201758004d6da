//! What travels: greetings, and messages that say whence they come and prove that they are whole.
//!
//! ```text
//! greeting: magic 4 | node 4 | connection 8 | checksum 8
//! message:  length 4 | node 4 | connection 8 | number 4 | lane 1 | serial 4 | previous 4 | wish 2 | payload | checksum 8
//! ```
//!
//! `number` counts the messages of the connection, given by the encoder: the receiver sees each exactly once, in order.
//! `serial` is given by the sender before it queues the message, and grows along each lane; `previous` is the one before it
//! that the connection accepted from that lane: what is lost or changes places in the queue shows. `wish` is what the receiver
//! is asked to do.

use std::{
    io,
    sync::{Arc, LazyLock, atomic::Ordering::SeqCst},
};

use tokio_util::{
    bytes::{Buf, BufMut, BytesMut},
    codec::{Decoder, Encoder},
};

use crate::{
    common::wire::Random,
    last_words::Word,
    line::Line,
    panics::{self, INTENDED},
    peer::Peer,
    tally::Event,
};

pub const GREETING_SIZE: usize = 24;
const MAGIC: u32 = 0x0C4A_0500;

/// The node numbers of raw sockets, the second one being of those that want to be flooded.
const STRANGER: u32 = u32::MAX;
const FLOODED: u32 = u32::MAX - 1;

/// The most bytes of a payload.
pub const MAX_PAYLOAD: usize = 64 * 1024;
const BEFORE_PAYLOAD: usize = 4 + 4 + 8 + 4 + 1 + 4 + 4 + 2;
const AROUND_PAYLOAD: usize = BEFORE_PAYLOAD + 8;

/// One end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Speaker {
    pub node: u32,
    pub connection: u64,
}

impl Speaker {
    pub fn stranger(wants_flood: bool) -> Self {
        Self { node: if wants_flood { FLOODED } else { STRANGER }, connection: 0 }
    }

    pub fn is_stranger(self) -> bool {
        self.node >= FLOODED
    }

    pub fn wants_flood(self) -> bool {
        self.node == FLOODED
    }

    pub fn greeting(self) -> [u8; GREETING_SIZE] {
        let mut greeting = [0; GREETING_SIZE];
        greeting[..4].copy_from_slice(&MAGIC.to_be_bytes());
        greeting[4..8].copy_from_slice(&self.node.to_be_bytes());
        greeting[8..16].copy_from_slice(&self.connection.to_be_bytes());
        let sum = checksum(&greeting[..16]);
        greeting[16..].copy_from_slice(&sum.to_be_bytes());
        greeting
    }

    pub fn from_greeting(greeting: &[u8; GREETING_SIZE]) -> Option<Self> {
        let mut rest = greeting.as_slice();
        let magic = rest.get_u32();
        let speaker = Self { node: rest.get_u32(), connection: rest.get_u64() };
        (magic == MAGIC && rest.get_u64() == checksum(&greeting[..16])).then_some(speaker)
    }
}

/// Depends on every bit and its place.
fn checksum(bytes: &[u8]) -> u64 {
    let mix = |sum: u64, word: u64| (sum.rotate_left(5) ^ word).wrapping_mul(0x517C_C1B7_2722_0A95);
    let (words, rest) = bytes.as_chunks::<8>();
    let sum = words.iter().fold(bytes.len() as u64, |sum, word| mix(sum, u64::from_le_bytes(*word)));
    rest.iter().fold(sum, |sum, byte| mix(sum, u64::from(*byte)))
}

static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut random = Random::new(1);
    (0..MAX_PAYLOAD + 4_096).map(|_| random.next() as u8).collect()
});

/// What the encoder is to do instead of encoding.
#[derive(Debug, Clone, Copy)]
pub enum Trap {
    Panic,
    Fail,
}

/// What a message asks of whoever processes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    Nothing,
    /// So many messages back.
    Reply(u8),
    /// A message to somebody else.
    Relay,
    /// A message to everybody.
    Broadcast,
    /// To compute for so many times 10 microseconds.
    Compute(u8),
    /// To be processed, although its sender says farewell.
    LastWord,
}

impl Wish {
    fn to_bytes(self) -> [u8; 2] {
        match self {
            Self::Nothing => [0, 0],
            Self::Reply(count) => [1, count],
            Self::Relay => [2, 0],
            Self::Broadcast => [3, 0],
            Self::Compute(tens) => [4, tens],
            Self::LastWord => [5, 0],
        }
    }

    fn from_bytes(bytes: [u8; 2]) -> Self {
        match bytes {
            [1, count] => Self::Reply(count),
            [2, _] => Self::Relay,
            [3, _] => Self::Broadcast,
            [4, tens] => Self::Compute(tens),
            [5, _] => Self::LastWord,
            _ => Self::Nothing,
        }
    }
}

/// A message as its sender sees it.
#[derive(Debug, Clone)]
pub struct Outgoing {
    pub lane: u8,
    pub serial: u32,
    /// 0: not known.
    pub previous: u32,
    pub size: usize,
    pub wish: Wish,
    pub trap: Option<Trap>,
    /// What is known of it, if it is a last word.
    pub word: Option<Arc<Word>>,
}

impl Outgoing {
    pub fn new(lane: u8, serial: u32, previous: u32, size: usize) -> Self {
        Self { lane, serial, previous, size, wish: Wish::Nothing, trap: None, word: None }
    }

    pub fn write(&self, from: Speaker, number: u32, dst: &mut BytesMut) {
        let noise = self.serial as usize * 7 % 4_096;
        let payload = &NOISE[noise..noise + self.size.min(MAX_PAYLOAD)];
        dst.reserve(AROUND_PAYLOAD + payload.len());
        let begin = dst.len();
        dst.put_u32((AROUND_PAYLOAD - 4 + payload.len()) as u32);
        dst.put_u32(from.node);
        dst.put_u64(from.connection);
        dst.put_u32(number);
        dst.put_u8(self.lane);
        dst.put_u32(self.serial);
        dst.put_u32(self.previous);
        dst.put_slice(&self.wish.to_bytes());
        dst.put_slice(payload);
        let sum = checksum(&dst[begin..]);
        dst.put_u64(sum);
    }
}

pub struct Stamp {
    peer: Peer,
    line: Arc<Line>,
    own: Speaker,
    number: u32,
}

impl Stamp {
    pub fn new(peer: &Peer, line: Arc<Line>) -> Self {
        let own = Speaker { node: peer.number, connection: line.number };
        Self { peer: peer.clone(), line, own, number: 0 }
    }
}

impl Encoder<Outgoing> for Stamp {
    type Error = io::Error;

    fn encode(&mut self, message: Outgoing, dst: &mut BytesMut) -> io::Result<()> {
        let world = &self.peer.world;
        if let Some(trap) = message.trap {
            // What it leaves must not reach the peer.
            dst.put_slice(b"half a message");
            self.line.spoil();
            match trap {
                Trap::Panic => {
                    world.count(Event::PanickedInEncode);
                    panics::on_purpose(message.serial.into());
                }
                Trap::Fail => {
                    world.count(Event::EncodeFailed);
                    return Err(io::Error::other(INTENDED));
                }
            }
        }
        if let Some(word) = &message.word {
            world.words.register(word, &self.line);
        }
        message.write(self.own, self.number, dst);
        self.number += 1;
        self.line.encoded.fetch_add(1, SeqCst);
        world.count(Event::Encoded);
        Ok(())
    }
}

/// A message as it was sent.
#[derive(Debug, Clone, Copy)]
pub struct Header {
    from: Speaker,
    number: u32,
    pub lane: u8,
    pub serial: u32,
    previous: u32,
    pub wish: Wish,
}

impl Header {
    /// The size of the message that begins here, if that is known; the error says why there is none.
    pub fn size(src: &[u8]) -> Result<Option<usize>, String> {
        let Some(mut length) = src.get(..4) else { return Ok(None) };
        let size = 4 + length.get_u32() as usize;
        if !(AROUND_PAYLOAD..=AROUND_PAYLOAD + MAX_PAYLOAD).contains(&size) {
            return Err(format!("a message of {size} bytes"));
        }
        Ok((src.len() >= size).then_some(size))
    }

    pub fn is_reply(&self) -> bool {
        self.lane == REPLY_LANE
    }

    fn read(frame: &[u8]) -> Result<Self, String> {
        let (content, sum) = frame.split_at(frame.len() - 8);
        if checksum(content) != u64::from_be_bytes(sum.try_into().unwrap_or_default()) {
            return Err("a torn message".into());
        }
        let mut header = &content[4..];
        Ok(Self {
            from: Speaker { node: header.get_u32(), connection: header.get_u64() },
            number: header.get_u32(),
            lane: header.get_u8(),
            serial: header.get_u32(),
            previous: header.get_u32(),
            wish: Wish::from_bytes([header.get_u8(), header.get_u8()]),
        })
    }
}

/// The lane of replies.
pub const REPLY_LANE: u8 = u8::MAX - 1;

/// What has come from one speaker so far.
#[derive(Debug)]
pub struct Sequence {
    from: Speaker,
    next_number: u32,
    /// The last serial number of each lane.
    lanes: Vec<(u8, u32)>,
}

impl Sequence {
    pub fn new(from: Speaker) -> Self {
        Self { from, next_number: 0, lanes: Vec::new() }
    }

    /// Looks at a whole message; the error tells what is wrong with it.
    pub fn check(&mut self, frame: &[u8]) -> Result<Header, String> {
        let header = Header::read(frame)?;
        let Header { from, number, lane, serial, previous, .. } = header;
        if from != self.from {
            return Err(format!("a message of {from:?}"));
        }
        if number != self.next_number {
            return Err(format!("message {number} when {} was due", self.next_number));
        }
        self.next_number += 1;
        match self.lanes.iter_mut().find(|(other, _)| *other == lane) {
            None => self.lanes.push((lane, serial)),
            Some((_, last)) => {
                let last = std::mem::replace(last, serial);
                if serial <= last || (previous != 0 && previous != last) {
                    return Err(format!(
                        "serial number {serial} of lane {lane} after {last}, and not after {previous}"
                    ));
                }
            }
        }
        Ok(header)
    }
}

/// A message as it is processed.
pub struct Incoming {
    pub line: Arc<Line>,
    pub header: Header,
    /// A part of the read buffer, kept while the message is being processed.
    _kept: Option<BytesMut>,
}

impl Incoming {
    pub fn number(&self) -> u32 {
        self.header.number
    }
}

/// Counts among the node's readers while it lives.
pub struct Check {
    peer: Peer,
    line: Arc<Line>,
    sequence: Sequence,
}

impl Check {
    pub fn new(peer: &Peer, line: Arc<Line>) -> Self {
        peer.readers.fetch_add(1, SeqCst);
        Self { peer: peer.clone(), sequence: Sequence::new(line.peer), line }
    }

    /// What is wrong with the stream is the fault of a stranger, or else of the kernel.
    fn accept<T>(&self, result: Result<T, String>) -> io::Result<T> {
        result.map_err(|what| {
            if !self.line.peer.is_stranger() {
                self.peer.world.fault(format!("node {} got from {:?} {what}", self.peer.number, self.line.peer));
            }
            io::ErrorKind::InvalidData.into()
        })
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        self.peer.readers.fetch_sub(1, SeqCst);
    }
}

impl Decoder for Check {
    type Item = Incoming;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<Incoming>> {
        let Some(size) = self.accept(Header::size(src))? else { return Ok(None) };
        let peer = self.peer.clone();
        match peer.roll(2_000) {
            0 => {
                peer.world.count(Event::PanickedInDecode);
                self.line.spoil();
                panics::on_purpose(peer.roll(3));
            }
            1 => {
                peer.world.count(Event::DecodeFailed);
                self.line.spoil();
                return Err(io::Error::other(INTENDED));
            }
            _ => {}
        }
        let frame = src.split_to(size);
        let checked = self.sequence.check(&frame);
        let header = self.accept(checked)?;
        self.line.decoded.fetch_add(1, SeqCst);
        peer.note_received(size);
        let _kept = peer.roll(2).eq(&0).then_some(frame);
        Ok(Some(Incoming { line: Arc::clone(&self.line), header, _kept }))
    }
}
