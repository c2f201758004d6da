//! For tests about messages: numbered messages that prove themselves, raw peers, sockets that hold little.

use std::{
    hash::{BuildHasher, RandomState},
    io,
    net::SocketAddr,
    sync::{
        LazyLock, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use pea2pea::{
    ConnectionSide, DisconnectOrigin, Node, Pea2Pea,
    protocols::{OnDisconnect, Writing},
};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpSocket, TcpStream},
};
use tokio_util::{
    bytes::{Buf, BufMut, Bytes, BytesMut},
    codec::{Decoder, Encoder, LengthDelimitedCodec},
};

use super::{Events, in_time, local_node};

// --- randomness ---

/// A small reproducible generator.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// A seed that differs from run to run, and is shown when the test fails; `TEST_SEED` in the environment overrides it.
pub fn new_seed() -> u64 {
    let given = std::env::var("TEST_SEED").ok().map(|seed| seed.parse().expect("TEST_SEED is a number"));
    let seed = given.unwrap_or_else(|| RandomState::new().hash_one(0));
    println!("TEST_SEED={seed}");
    seed
}

// --- messages that prove themselves ---

const HEADER: usize = 12;
const LARGE: usize = 70_000;

static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut random = Random::new(1);
    (0..LARGE + 4_096).map(|_| random.next() as u8).collect()
});

/// Makes what the contents of all messages are cut from; the first content would.
pub fn make_noise() {
    LazyLock::force(&NOISE);
}

/// A message whose size and content follow from who sends it and its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbered {
    pub sender: u32,
    pub number: u32,
}

impl Numbered {
    /// Mostly 0 to 2 KiB, one in a thousand 70 KB.
    pub fn content(self, seed: u64) -> &'static [u8] {
        let mut random = Random::new(seed ^ (u64::from(self.sender) << 32) ^ u64::from(self.number));
        let (dice, start) = (random.below(1_000), random.below(4_096));
        // Small sizes are likelier.
        let size = if dice == 0 { LARGE } else { random.below(2_049) * random.below(2_049) / 2_048 };
        &NOISE[start..start + size]
    }
}

/// Encodes and decodes numbered messages; a decoded content that is not the expected one is an error.
#[derive(Debug, Clone)]
pub struct NumberedCodec {
    pub seed: u64,
}

impl Encoder<Numbered> for NumberedCodec {
    type Error = io::Error;

    fn encode(&mut self, message: Numbered, dst: &mut BytesMut) -> io::Result<()> {
        let content = message.content(self.seed);
        dst.reserve(HEADER + content.len());
        dst.put_u32(content.len() as u32);
        dst.put_u32(message.sender);
        dst.put_u32(message.number);
        dst.put_slice(content);
        Ok(())
    }
}

impl Decoder for NumberedCodec {
    type Item = Numbered;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<Numbered>> {
        let Some(mut header) = src.get(..HEADER) else { return Ok(None) };
        let size = header.get_u32() as usize;
        let message = Numbered { sender: header.get_u32(), number: header.get_u32() };
        if size > LARGE {
            return Err(io::Error::other(format!("torn: {size} bytes are announced for {message:?}")));
        }
        let Some(content) = src.get(HEADER..HEADER + size) else {
            src.reserve(HEADER + size - src.len());
            return Ok(None);
        };
        if content != message.content(self.seed) {
            return Err(io::Error::other(format!("torn: the content of {message:?} is another one")));
        }
        src.advance(HEADER + size);
        Ok(Some(message))
    }
}

/// Checks that the messages of each sender come without gaps, doubles or changes of order.
#[derive(Debug, Default)]
pub struct Inbox {
    next: [AtomicU32; 4],
    fault: Mutex<Option<String>>,
}

impl Inbox {
    pub fn take_in(&self, message: Numbered) {
        let expected = self.next[message.sender as usize].fetch_add(1, Ordering::SeqCst);
        if message.number != expected {
            let fault = format!("{message:?} came when number {expected} was due");
            self.fault.lock().unwrap().get_or_insert(fault);
        }
    }

    /// How many messages came from the sender; panics if any came that was not its turn.
    pub fn count(&self, sender: u32) -> u32 {
        assert_eq!(*self.fault.lock().unwrap(), None);
        self.next[sender as usize].load(Ordering::SeqCst)
    }
}

// --- a node that sends ---

/// A node that sends length-delimited frames, and may note how its connections end.
#[derive(Debug, Clone)]
pub struct Sender<const DEPTH: usize = 64, const TIMEOUT_MS: u64 = { u64::MAX }> {
    pub node: Node,
    pub ends: Events<DisconnectOrigin>,
}

impl<const DEPTH: usize, const TIMEOUT_MS: u64> Sender<DEPTH, TIMEOUT_MS> {
    /// Nothing is enabled.
    pub fn mute() -> Self {
        Self { node: local_node(), ends: Events::default() }
    }

    /// Only `Writing` is enabled: an ending has no hook to wait for.
    pub async fn plain() -> Self {
        let sender = Self::mute();
        sender.enable_writing().await;
        sender
    }

    /// `OnDisconnect` is enabled too, and notes the origins.
    pub async fn noting_ends() -> Self {
        let sender = Self::plain().await;
        sender.enable_on_disconnect().await;
        sender
    }
}

impl<const DEPTH: usize, const TIMEOUT_MS: u64> Pea2Pea for Sender<DEPTH, TIMEOUT_MS> {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl<const DEPTH: usize, const TIMEOUT_MS: u64> Writing for Sender<DEPTH, TIMEOUT_MS> {
    const MESSAGE_QUEUE_DEPTH: usize = DEPTH;
    const TIMEOUT_MS: u64 = TIMEOUT_MS;

    type Message = Bytes;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> LengthDelimitedCodec {
        LengthDelimitedCodec::new()
    }
}

impl<const DEPTH: usize, const TIMEOUT_MS: u64> OnDisconnect for Sender<DEPTH, TIMEOUT_MS> {
    async fn on_disconnect(&self, _addr: SocketAddr, origin: DisconnectOrigin) {
        self.ends.push(origin);
    }
}

/// Sends until the queue has been found full a hundred times in a row; returns how many messages were accepted.
pub async fn send_until_refused(mut send: impl FnMut() -> io::Result<()>) -> usize {
    let (mut accepted, mut refused) = (0, 0);
    while refused < 100 {
        match send() {
            Ok(()) => (accepted, refused) = (accepted + 1, 0),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
                refused += 1;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        assert!(accepted < 1_000_000, "there is no end to it");
    }
    accepted
}

// --- raw peers ---

/// One length-delimited frame, as on the wire.
pub fn frame(payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32).to_be_bytes(), payload].concat()
}

/// Lets the node dial a raw peer; returns the peer's stream, and the address under which the node knows it.
pub async fn dialled_raw(node: &Node) -> (TcpStream, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (dialled, accepted) = tokio::join!(node.connect(addr), listener.accept());
    dialled.unwrap();
    (accepted.unwrap().0, addr)
}

/// A connection whose ends stall soon when the other one does not read.
pub struct Narrow {
    pub peer: TcpStream,
    pub addr: SocketAddr,
    /// The most bytes that one end's send buffer and the other's receive buffer hold.
    pub capacity: usize,
}

/// [`dialled_raw`] with small socket buffers.
pub async fn dialled_narrow(node: &Node) -> Narrow {
    const SMALL: u32 = 16 * 1024;
    // A send buffer with any room at all takes one segment more.
    const SEGMENT: u32 = 64 * 1024;

    let small_socket = || {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(SMALL).unwrap();
        socket.set_send_buffer_size(SMALL).unwrap();
        socket
    };
    let (listener, socket) = (small_socket(), small_socket());
    listener.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let capacity = listener.recv_buffer_size().unwrap() + socket.send_buffer_size().unwrap() + SEGMENT;
    let listener = listener.listen(1).unwrap();
    let addr = listener.local_addr().unwrap();
    let (dialled, accepted) = tokio::join!(node.connect_using_socket(addr, socket), listener.accept());
    dialled.unwrap();
    Narrow { peer: accepted.unwrap().0, addr, capacity: capacity as usize }
}

/// Repeats the bytes until the stream has taken none a hundred times in a row; returns how many it took.
pub async fn write_until_blocked(peer: &TcpStream, bytes: &[u8]) -> usize {
    let (mut written, mut refused) = (0, 0);
    while refused < 100 {
        match peer.try_write(&bytes[written % bytes.len()..]) {
            Ok(count) => (written, refused) = (written + count, 0),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                refused += 1;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        assert!(written < 100_000_000, "there is no end to it");
    }
    written
}

/// Reads a stream to its end, which has to be a clean one.
pub async fn read_to_eof(peer: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    in_time("the stream ends", peer.read_to_end(&mut bytes)).await.expect("a clean end, no reset");
    bytes
}

/// The payloads of length-delimited frames; what is left over is an incomplete frame.
pub fn frames(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut payloads = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let Some((payload, rest)) = rest.split_at_checked(u32::from_be_bytes(*length) as usize) else { break };
        payloads.push(payload);
        bytes = rest;
    }
    payloads
}
