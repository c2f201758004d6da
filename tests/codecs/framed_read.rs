//! The decoder of a connection is called exactly as tokio-util's `FramedRead` would call it.

use std::{io, net::SocketAddr};

use futures_util::{StreamExt, stream};
use pea2pea::{ConnectionSide, Node, Pea2Pea, protocols::Reading};
use tokio::io::AsyncWriteExt;
use tokio_util::{
    bytes::{Buf, BytesMut},
    codec::{Decoder, FramedRead},
    io::StreamReader,
};

use crate::{
    common::{
        Events, local_node, wait_until,
        wire::{Random, dialled_raw, new_seed},
    },
    ledger,
};

/// One call of a decoder: which method, what lay in the buffer, and the result.
#[derive(Debug, Clone, PartialEq)]
struct Call {
    method: &'static str,
    buffer: Vec<u8>,
    result: Result<Option<u8>, String>,
}

/// Reads with the decoder of this test.
#[derive(Clone)]
struct Subject {
    node: Node,
    calls: Events<Call>,
}

impl Subject {
    async fn new() -> Self {
        let subject = Self { node: local_node(), calls: Events::default() };
        subject.enable_reading().await;
        subject
    }
}

impl Pea2Pea for Subject {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Reading for Subject {
    /// So small that decoding is often interrupted.
    const MESSAGE_QUEUE_DEPTH: usize = 2;

    type Message = u8;
    type Codec = Chatty;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Chatty {
        Chatty::new(self.calls.clone())
    }

    async fn process_message(&self, _source: SocketAddr, message: u8) {
        if message.is_multiple_of(4) {
            tokio::task::yield_now().await;
        }
    }
}

/// Frames of one length byte below `STALL` and so many bytes; an `ERROR` byte is an error, a `STALL` byte yields one message
/// without being consumed and one with, and what is left at the end comes out byte by byte.
struct Chatty {
    calls: Events<Call>,
    has_stalled: bool,
}

const STALL: u8 = 200;
const ERROR: u8 = 201;

impl Chatty {
    fn step(&mut self, src: &mut BytesMut) -> io::Result<Option<u8>> {
        match src.first().copied() {
            None => Ok(None),
            Some(STALL) => {
                self.has_stalled = !self.has_stalled;
                if !self.has_stalled {
                    src.advance(1);
                }
                Ok(Some(STALL))
            }
            Some(ERROR) => Err(io::Error::other("an error byte")),
            Some(length) if src.len() > usize::from(length) => {
                src.advance(1 + usize::from(length));
                Ok(Some(length))
            }
            Some(length) => {
                src.reserve(usize::from(length));
                Ok(None)
            }
        }
    }

    fn new(calls: Events<Call>) -> Self {
        Self { calls, has_stalled: false }
    }

    fn note(&self, method: &'static str, buffer: Vec<u8>, result: &io::Result<Option<u8>>) {
        let result = result.as_ref().copied().map_err(|error| error.to_string());
        self.calls.push(Call { method, buffer, result });
    }
}

impl Decoder for Chatty {
    type Item = u8;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<u8>> {
        let before = src.to_vec();
        let result = self.step(src);
        self.note("decode", before, &result);
        result
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> io::Result<Option<u8>> {
        let before = src.to_vec();
        let result = if src.is_empty() { Ok(None) } else { Ok(Some(src.get_u8())) };
        self.note("decode_eof", before, &result);
        result
    }
}

async fn calls_under_framed_read(chunks: &[Vec<u8>]) -> Vec<Call> {
    let calls = Events::default();
    let stream = StreamReader::new(stream::iter(chunks.iter().map(|chunk| io::Result::Ok(&chunk[..]))));
    // So large that no chunk is cut in two.
    let mut framed = FramedRead::with_capacity(stream, Chatty::new(calls.clone()), 1_000_000);
    while let Some(Ok(_)) = framed.next().await {}
    calls.all()
}

async fn calls_under_reading(chunks: &[Vec<u8>], expected: &[Call]) -> Vec<Call> {
    let subject = Subject::new().await;
    let (mut peer, _) = dialled_raw(&subject.node).await;
    peer.set_nodelay(true).unwrap();
    for (index, chunk) in chunks.iter().enumerate() {
        peer.write_all(chunk).await.unwrap();
        // Nothing is written before the chunk has been read by itself: each ends with one `None`, or with the error.
        let is_done = |call: &Call| call.result.as_ref().map_or(true, Option::is_none);
        wait_until("the chunk is decoded", || {
            let calls = subject.calls.all();
            calls.iter().filter(|call| is_done(call)).count() > index
                || calls.last().is_some_and(|call| call.result.is_err())
        })
        .await;
        if expected.len() == subject.calls.len() {
            break;
        }
    }
    drop(peer);
    wait_until("the connection is gone", || subject.node.num_connected() == 0).await;
    subject.calls.all()
}

#[tokio::test(crate = "ledger")]
async fn a_decoder_sees_the_same_calls_as_under_framed_read() {
    let mut random = Random::new(new_seed());
    for round in 0..30 {
        let mut stream = Vec::new();
        for _ in 0..random.below(40) {
            match random.below(10) {
                0 => stream.push(STALL),
                1 if round % 3 == 0 && random.below(5) == 0 => stream.push(ERROR),
                _ => {
                    let length = random.below(100) as u8;
                    stream.push(length);
                    stream.extend((0..length).map(|_| random.next() as u8));
                }
            }
        }
        if round % 2 == 0 {
            // A frame that never becomes complete.
            stream.extend([90, 1, 2, 3]);
        }
        let mut chunks = Vec::new();
        while !stream.is_empty() {
            let limit = [1, 3, 200, 2_000][random.below(4)];
            let size = (1 + random.below(limit)).min(stream.len());
            chunks.push(stream.drain(..size).collect::<Vec<_>>());
        }
        let expected = calls_under_framed_read(&chunks).await;
        let calls = calls_under_reading(&chunks, &expected).await;
        assert_eq!(calls, expected, "chunks: {chunks:?}");
    }
}
