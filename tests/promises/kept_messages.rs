//! `bounded`: messages that are kept keep little more memory than their own bytes, whatever the size of a read is and
//! however they arrive.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use crate::{
    common::{
        in_time, local_node,
        wire::{dialled_raw, frame},
    },
    ledger::{self, heap::in_use_by_thread},
};
// Each test runs on one thread, with its runtime.
use pea2pea::{
    ConnectionSide, Node, Pea2Pea,
    protocols::{Reading, Writing},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::yield_now,
};
use tokio_util::{
    bytes::{Bytes, BytesMut},
    codec::LengthDelimitedCodec,
};

const KIB: usize = 1024;
const SPARE: usize = 64 * KIB;

/// Keeps every message that it receives.
#[derive(Clone)]
struct Keeper<const SIZE: usize> {
    node: Node,
    kept: Arc<Mutex<Vec<BytesMut>>>,
}

impl<const SIZE: usize> Keeper<SIZE> {
    async fn new() -> Self {
        let keeper = Self { node: local_node(), kept: Arc::default() };
        keeper.enable_reading().await;
        keeper.enable_writing().await;
        // What holds the messages is none of what is measured.
        keeper.kept.lock().unwrap().reserve(10_000);
        keeper
    }

    async fn peers<const COUNT: usize>(&self) -> [TcpStream; COUNT] {
        let mut peers = Vec::new();
        for _ in 0..COUNT {
            let (peer, _) = dialled_raw(&self.node).await;
            peer.set_nodelay(true).unwrap();
            peers.push(peer);
        }
        peers.try_into().unwrap()
    }

    async fn keeps(&self, messages: usize) {
        let waiting = async {
            while self.kept.lock().unwrap().len() < messages {
                yield_now().await;
            }
        };
        in_time(&format!("{messages} are kept"), waiting).await;
    }

    /// Runs the scene; the messages that it has had kept may take four times their bytes and this much more.
    async fn bounded(&self, what: &str, more: usize, scene: impl AsyncFnOnce()) {
        let before = in_use_by_thread();
        in_time(what, scene()).await;
        let grown = (in_use_by_thread() - before).max(0).cast_unsigned();
        let kept = self.kept.lock().unwrap();
        let bytes: usize = kept.iter().map(|message| message.len() + 4).sum();
        println!("{what}, reads of {SIZE} B: {grown} B for {} messages of {bytes} B", kept.len());
        assert!(grown <= 4 * bytes + more, "{what}, reads of {SIZE} B: {grown} B for {bytes} B");
    }
}

impl<const SIZE: usize> Pea2Pea for Keeper<SIZE> {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl<const SIZE: usize> Reading for Keeper<SIZE> {
    const INITIAL_BUFFER_SIZE: usize = SIZE;
    const IDLE_TIMEOUT_MS: u64 = 0;

    type Message = BytesMut;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> LengthDelimitedCodec {
        LengthDelimitedCodec::new()
    }

    async fn process_message(&self, _source: SocketAddr, message: BytesMut) {
        self.kept.lock().unwrap().push(message);
    }
}

impl<const SIZE: usize> Writing for Keeper<SIZE> {
    type Message = Bytes;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> LengthDelimitedCodec {
        LengthDelimitedCodec::new()
    }
}

/// Calls a function with each size of a read.
macro_rules! with_each_size {
    ($scene:ident) => {{
        $scene::<1>().await;
        $scene::<KIB>().await;
        $scene::<{ 16 * KIB }>().await;
        $scene::<{ 64 * KIB }>().await;
        $scene::<{ KIB * KIB }>().await;
        $scene::<{ 16 * KIB * KIB }>().await;
        $scene::<{ 64 * KIB * KIB }>().await;
    }};
}

async fn single<const SIZE: usize>() {
    let keeper = Keeper::<SIZE>::new().await;
    let mut peers = keeper.peers::<8>().await;
    let scene = async || {
        for number in 1..=200 {
            peers[number % 8].write_all(&frame(&[7; 10])).await.unwrap();
            keeper.keeps(number).await;
        }
    };
    keeper.bounded("one by one, on eight connections", 2 * SPARE, scene).await;
}

#[tokio::test(crate = "ledger")]
async fn messages_that_arrive_one_by_one_share_a_buffer() {
    with_each_size!(single);
}

async fn bursts<const SIZE: usize>() {
    let keeper = Keeper::<SIZE>::new().await;
    let mut peers = keeper.peers::<2>().await;
    let scene = async || {
        let mut sent = 0;
        // Of every size, and what fills a buffer once in a while.
        for round in 0..60 {
            let burst = if round % 20 == 7 { 1_000 } else { 1 + round % 13 };
            peers[round % 2].write_all(&frame(&[7; 80]).repeat(burst)).await.unwrap();
            sent += burst;
            keeper.keeps(sent).await;
        }
    };
    keeper.bounded("in bursts", 2 * SPARE, scene).await;
}

#[tokio::test(crate = "ledger")]
async fn messages_that_arrive_in_bursts_share_a_buffer() {
    with_each_size!(bursts);
}

/// Messages of this size, of each of which a part comes with the message before it.
async fn cut<const SIZE: usize, const MESSAGE: usize, const CONNECTIONS: usize>() {
    let keeper = Keeper::<SIZE>::new().await;
    let mut peers = keeper.peers::<CONNECTIONS>().await;
    let frame = frame(&[7; MESSAGE]);
    let half = frame.len() / 2;
    let shifted = [&frame[half..], &frame[..half]].concat();
    let scene = async || {
        for peer in &mut peers {
            peer.write_all(&frame[..half]).await.unwrap();
        }
        for round in 1..=(500_000 / MESSAGE).clamp(10, 50) {
            for peer in &mut peers {
                peer.write_all(&shifted).await.unwrap();
            }
            keeper.keeps(round * CONNECTIONS).await;
        }
    };
    let what = format!("messages of {MESSAGE} B in halves, on {CONNECTIONS} connections");
    // What is incomplete may have a buffer of its own.
    keeper.bounded(&what, (1 + CONNECTIONS) * SPARE, scene).await;
}

#[tokio::test(crate = "ledger")]
async fn messages_of_which_a_part_comes_early_keep_no_buffer_each() {
    async fn scene<const SIZE: usize>() {
        cut::<SIZE, 10, 1>().await;
        cut::<SIZE, 10, 8>().await;
        cut::<SIZE, 1_500, 8>().await;
        cut::<SIZE, 3_000, 1>().await;
        cut::<SIZE, 3_000, 8>().await;
        cut::<SIZE, 10_000, 1>().await;
        cut::<SIZE, 10_000, 8>().await;
        cut::<SIZE, 100_000, 2>().await;
    }
    with_each_size!(scene);
}

/// Messages of this size, each of which comes in two parts, between those of the other connections.
async fn in_parts<const SIZE: usize, const MESSAGE: usize>() {
    let keeper = Keeper::<SIZE>::new().await;
    let mut peers = keeper.peers::<8>().await;
    let frame = frame(&[7; MESSAGE]);
    let (first, second) = frame.split_at(frame.len() / 2);
    let scene = async || {
        for round in 1..=20 {
            for part in [first, second] {
                for peer in &mut peers {
                    peer.write_all(part).await.unwrap();
                }
                // Until the reader has seen it, and waits for the other part.
                for _ in 0..30 {
                    yield_now().await;
                }
            }
            keeper.keeps(round * 8).await;
        }
    };
    keeper.bounded(&format!("messages of {MESSAGE} B in two parts"), 9 * SPARE, scene).await;
}

#[tokio::test(crate = "ledger")]
async fn messages_that_come_in_parts_keep_no_buffer_each() {
    async fn scene<const SIZE: usize>() {
        in_parts::<SIZE, 10>().await;
        in_parts::<SIZE, 2_500>().await;
        in_parts::<SIZE, 10_000>().await;
        in_parts::<SIZE, 20_000>().await;
    }
    with_each_size!(scene);
}

async fn trickle<const SIZE: usize>() {
    let keeper = Keeper::<SIZE>::new().await;
    let mut peers = keeper.peers::<4>().await;
    let scene = async || {
        for round in 0..20 {
            for byte in frame(&[7; 30]) {
                for peer in &mut peers {
                    peer.write_all(&[byte]).await.unwrap();
                }
                yield_now().await;
            }
            keeper.keeps((round + 1) * 4).await;
        }
    };
    keeper.bounded("byte by byte, on four connections", 2 * SPARE, scene).await;
}

#[tokio::test(crate = "ledger")]
async fn messages_that_trickle_share_a_buffer() {
    with_each_size!(trickle);
}

async fn streaming_out<const SIZE: usize>() {
    const CHUNK: usize = 16 * KIB;

    let keeper = Keeper::<SIZE>::new().await;
    let mut peers = keeper.peers::<1>().await;
    let (mut sink, addr) = dialled_raw(&keeper.node).await;
    let chunk = Bytes::from_static(&[7; CHUNK]);
    let mut taken = vec![0; CHUNK];
    let scene = async || {
        for number in 1..=100 {
            // The writer has a batch that its peer does not take.
            while keeper.unicast_fast(addr, chunk.clone()).is_ok() {
                yield_now().await;
            }
            peers[0].write_all(&frame(&[7; 10])).await.unwrap();
            keeper.keeps(number).await;
            for _ in 0..40 {
                in_time("the sink takes a chunk", sink.read_exact(&mut taken)).await.unwrap();
            }
        }
    };
    // The queue, and two batches.
    keeper.bounded("while another peer is streamed to", 2 * SPARE + 64 * KIB * 2 + 2 * 256 * KIB, scene).await;
}

#[tokio::test(crate = "ledger")]
async fn messages_that_arrive_while_a_batch_waits_share_a_buffer() {
    with_each_size!(streaming_out);
}
