//! Allocations of the hot path: none per message. What is left belongs to batches: buffers, and rings that grow.

use std::{io, net::SocketAddr, sync::Arc};

use crate::{
    common::{
        in_time, local_node, wait_until,
        wire::{dialled_raw, frame},
    },
    ledger::{self, heap::allocations_of_thread as allocations},
};
// Each test runs on one thread, with its runtime.
use pea2pea::{
    ConnectionSide, Node, Pea2Pea,
    protocols::{Reading, Writing},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
    task::yield_now,
};
use tokio_util::{
    bytes::{Bytes, BytesMut},
    codec::LengthDelimitedCodec,
};

/// What a batch may cost: a buffer, the header of a shared one, and a ring or two.
const PER_BATCH: u64 = 4;

/// A batch, or one read.
const BATCH: usize = 64 * 1024;

/// One in a hundred messages, and a few for each batch.
fn tolerance(messages: usize, size: usize) -> u64 {
    (messages / 100) as u64 + PER_BATCH * (messages * (size + 4) / BATCH + 1) as u64
}

static PAYLOAD: [u8; 4_096] = [7; 4_096];
const SIZES: [usize; 4] = [16, 256, 1_024, 4_096];
const MESSAGES: usize = 20_000;

fn message(size: usize) -> Bytes {
    Bytes::from_static(&PAYLOAD[..size])
}

/// Receives and sends; answers on request.
#[derive(Clone)]
struct Peer {
    node: Node,
    answers: bool,
    received: Arc<Notify>,
}

impl Peer {
    async fn new(answers: bool) -> Self {
        let peer = Self { node: local_node(), answers, received: Arc::default() };
        peer.enable_reading().await;
        peer.enable_writing().await;
        peer
    }
}

impl Pea2Pea for Peer {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Reading for Peer {
    type Message = BytesMut;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> LengthDelimitedCodec {
        LengthDelimitedCodec::new()
    }

    async fn process_message(&self, source: SocketAddr, received: BytesMut) {
        if self.answers {
            self.unicast_fast(source, message(received.len())).unwrap();
        }
        self.received.notify_one();
    }
}

impl Writing for Peer {
    type Message = Bytes;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> LengthDelimitedCodec {
        LengthDelimitedCodec::new()
    }
}

async fn drain(mut raw: TcpStream) {
    let mut buffer = vec![0; BATCH];
    while raw.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
}

/// Sends messages as fast as the connection takes them; returns the allocations until the last one is written, but those
/// of refused sends: an error that says what is full costs what it costs.
async fn allocations_of_sending(
    peer: Peer,
    messages: usize,
    send: impl Fn(&Peer) -> io::Result<()> + Send + 'static,
) -> u64 {
    // In a task of its own, as a sender is on any runtime.
    let sending = tokio::spawn(async move {
        let total = peer.node.stats().sent().0 + messages as u64;
        let before = allocations();
        let mut of_refusals = 0;
        for _ in 0..messages {
            loop {
                let before = allocations();
                if send(&peer).is_ok() {
                    break;
                }
                of_refusals += allocations() - before;
                yield_now().await;
            }
        }
        while peer.node.stats().sent().0 < total {
            yield_now().await;
        }
        allocations() - before - of_refusals
    });
    in_time("all are sent", sending).await.unwrap()
}

#[tokio::test(crate = "ledger")]
async fn sending_allocates_nothing_per_message() {
    for size in SIZES {
        let peer = Peer::new(false).await;
        let (raw, addr) = dialled_raw(&peer.node).await;
        tokio::spawn(drain(raw));
        let send = move |peer: &Peer| peer.unicast_fast(addr, message(size));
        allocations_of_sending(peer.clone(), MESSAGES / 4, send).await;
        let count = allocations_of_sending(peer, MESSAGES, send).await;
        println!("{size} B: {count} allocations for {MESSAGES} messages");
        assert!(count <= tolerance(MESSAGES, size), "{size} B: {count} allocations for {MESSAGES} messages");
    }
}

#[tokio::test(crate = "ledger")]
async fn a_receipt_costs_one_allocation() {
    for size in SIZES {
        let peer = Peer::new(false).await;
        let (raw, addr) = dialled_raw(&peer.node).await;
        tokio::spawn(drain(raw));
        let send = move |peer: &Peer| peer.unicast(addr, message(size)).map(drop);
        allocations_of_sending(peer.clone(), MESSAGES / 4, send).await;
        let count = allocations_of_sending(peer, MESSAGES, send).await;
        println!("{size} B: {count} allocations for {MESSAGES} messages with receipts");
        let allowed = MESSAGES as u64 + tolerance(MESSAGES, size);
        assert!(count <= allowed, "{size} B: {count} allocations for {MESSAGES} messages with receipts");
    }
}

#[tokio::test(crate = "ledger")]
async fn a_burst_on_an_idle_connection_costs_a_few_allocations() {
    const BURSTS: u64 = 100;
    const BURST: u64 = 64;
    // Two rings grow in five steps, and two buffers may grow.
    const PER_BURST: u64 = 16;

    for size in SIZES {
        let peer = Peer::new(false).await;
        let (raw, addr) = dialled_raw(&peer.node).await;
        tokio::spawn(drain(raw));
        let mut before = 0;
        for burst in 0..=BURSTS {
            if burst == 1 {
                before = allocations();
            }
            for _ in 0..BURST {
                peer.unicast_fast(addr, message(size)).unwrap();
            }
            let total = (burst + 1) * BURST;
            while peer.node.stats().sent().0 < total {
                yield_now().await;
            }
        }
        let count = allocations() - before;
        println!("{size} B: {count} allocations for {BURSTS} bursts");
        assert!(count <= BURSTS * PER_BURST, "{size} B: {count} allocations for {BURSTS} bursts");
    }
}

#[tokio::test(crate = "ledger")]
async fn receiving_allocates_nothing_per_message() {
    for size in SIZES {
        let peer = Peer::new(false).await;
        let (mut raw, _) = dialled_raw(&peer.node).await;
        let frames = frame(&PAYLOAD[..size]).repeat(MESSAGES / 20);
        let mut count = 0;
        // The first round is to warm up.
        for round in 1..=2 {
            let before = allocations();
            for _ in 0..20 {
                in_time("the frames are taken", raw.write_all(&frames)).await.unwrap();
            }
            let total = round * MESSAGES as u64;
            wait_until("all are received", || peer.node.stats().received().0 == total).await;
            count = allocations() - before;
        }
        println!("{size} B: {count} allocations for {MESSAGES} messages received");
        assert!(count <= tolerance(MESSAGES, size), "{size} B: {count} allocations for {MESSAGES} messages");
    }
}

#[tokio::test(crate = "ledger")]
async fn a_round_trip_of_single_messages_allocates_next_to_nothing() {
    const TRIPS: u64 = 2_000;

    for size in SIZES {
        let (caller, echo) = (Peer::new(false).await, Peer::new(true).await);
        let addr = echo.node.toggle_listener().await.unwrap().unwrap();
        caller.node.connect(addr).await.unwrap();
        let mut count = 0;
        // The first round is to warm up.
        for _ in 0..2 {
            let before = allocations();
            for _ in 0..TRIPS {
                caller.unicast_fast(addr, message(size)).unwrap();
                in_time("the answer", caller.received.notified()).await;
            }
            count = allocations() - before;
        }
        println!("{size} B: {count} allocations for {TRIPS} round trips");
        assert!(count <= TRIPS / 100, "{size} B: {count} allocations for {TRIPS} round trips");
    }
}
