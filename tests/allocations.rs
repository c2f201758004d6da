//! Allocations of the hot path: none per message; what is left belongs to batches, and is far below one per message.

#![allow(unsafe_code, reason = "an allocator that counts")]

mod common;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    io,
    net::SocketAddr,
};

use common::{
    in_time, local_node,
    wire::{dialled_raw, frame},
};
use pea2pea::{
    ConnectionSide, Node, Pea2Pea,
    protocols::{Reading, Writing},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::yield_now,
};
use tokio_util::{
    bytes::{Bytes, BytesMut},
    codec::LengthDelimitedCodec,
};

thread_local! {
    /// What this thread has allocated so far: each test runs on one thread, with its runtime.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn count() {
    // Out of reach while the thread ends.
    _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: hands everything over to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        unsafe { System.realloc(memory, layout, size) }
    }
}

fn allocations() -> u64 {
    ALLOCATIONS.get()
}

#[derive(Clone)]
struct Peer(Node);

impl Peer {
    async fn new() -> Self {
        let peer = Self(local_node());
        peer.enable_reading().await;
        peer.enable_writing().await;
        peer
    }
}

impl Pea2Pea for Peer {
    fn node(&self) -> &Node {
        &self.0
    }
}

impl Reading for Peer {
    type Message = BytesMut;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> LengthDelimitedCodec {
        LengthDelimitedCodec::new()
    }

    async fn process_message(&self, _source: SocketAddr, _message: BytesMut) {}
}

impl Writing for Peer {
    type Message = Bytes;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> LengthDelimitedCodec {
        LengthDelimitedCodec::new()
    }
}

static PAYLOAD: [u8; 4_096] = [7; 4_096];
const SIZES: [usize; 4] = [16, 256, 1_024, 4_096];

/// Sends so many messages while the peer reads; returns the allocations, those of refused sends excluded: an error that
/// says what is full costs what it costs.
async fn send(
    peer: &Peer,
    addr: SocketAddr,
    raw: &mut tokio::net::TcpStream,
    messages: usize,
    mut one: impl FnMut(&Peer, SocketAddr) -> io::Result<()>,
) -> u64 {
    let before = allocations();
    let mut refused = 0;
    let mut buffer = [0; 65_536];
    let total = peer.node().stats().sent().0 + messages as u64;
    let mut sent = 0;
    while sent < messages {
        let before_this = allocations();
        if one(peer, addr).is_ok() {
            sent += 1;
        } else {
            refused += allocations() - before_this;
            yield_now().await;
            _ = raw.try_read(&mut buffer);
        }
    }
    while peer.node().stats().sent().0 < total {
        _ = raw.try_read(&mut buffer);
        yield_now().await;
    }
    allocations() - before - refused
}

#[tokio::test]
async fn explore() {
    for size in SIZES {
        for bursts in [0, 8, 64] {
            let peer = Peer::new().await;
            let (mut raw, addr) = dialled_raw(peer.node()).await;
            let drain = tokio::spawn(async move {
                let mut buffer = vec![0; 65536];
                while raw.read(&mut buffer).await.unwrap() > 0 {}
            });
            for round in 0..3 {
                let peer = peer.clone();
                let count = tokio::spawn(async move {
                    let before = allocations();
                    let mut refused = 0;
                    let mut refusals = 0;
                    for n in 0..20_000 {
                        loop {
                            let b = allocations();
                            if peer.unicast_fast(addr, Bytes::from_static(&PAYLOAD[..size])).is_ok() {
                                break;
                            }
                            refusals += 1;
                            refused += allocations() - b;
                            yield_now().await;
                        }
                        if bursts > 0 && n % bursts == bursts - 1 {
                            while peer.node().stats().sent().0 < n as u64 + 20_000 * round + 1 {
                                yield_now().await;
                            }
                        }
                    }
                    (allocations() - before - refused, refusals)
                })
                .await
                .unwrap();
                println!("send {size} bursts {bursts}: {count:?}");
            }
            drop(peer);
            drop(drain);
        }
    }
}
