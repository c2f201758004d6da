//! The operations that are counted.

use std::{
    future::Future,
    io::{ErrorKind, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    pin::Pin,
};

use pea2pea::{Pea2Pea, protocols::Writing};
use tokio::task::yield_now;
use tokio_util::bytes::Bytes;

use crate::peer::{Far, Peer};

/// Something that is done so many times.
pub struct Operation {
    pub name: &'static str,
    /// What is counted.
    pub units: &'static str,
    /// Two numbers of repetitions; both are past the point from where on each costs the same.
    pub repetitions: (u64, u64),
    pub work: fn(u64) -> Pin<Box<dyn Future<Output = ()>>>,
}

pub const OPERATIONS: &[Operation] = &[
    Operation { name: "send", units: "burst of 32", repetitions: (100, 600), work: |count| Box::pin(send(count)) },
    Operation {
        name: "send-stream",
        units: "message",
        repetitions: (20_000, 60_000),
        work: |count| Box::pin(stream(count)),
    },
    Operation {
        name: "send-receipt",
        units: "message",
        repetitions: (200, 1_200),
        work: |count| Box::pin(receipt(count)),
    },
    Operation {
        name: "receive",
        units: "burst of 32",
        repetitions: (100, 600),
        work: |count| Box::pin(receive(count, 32)),
    },
    Operation {
        name: "receive-stream",
        units: "burst of 1000",
        repetitions: (20, 60),
        work: |count| Box::pin(receive(count, 1_000)),
    },
    Operation { name: "reply", units: "message", repetitions: (200, 1_200), work: |count| Box::pin(reply(count)) },
    Operation { name: "relay", units: "message", repetitions: (200, 1_200), work: |count| Box::pin(relay(count)) },
    Operation { name: "dial", units: "connection", repetitions: (100, 400), work: |count| Box::pin(dial(count)) },
    Operation { name: "accept", units: "connection", repetitions: (100, 400), work: |count| Box::pin(accept(count)) },
    Operation { name: "node", units: "node", repetitions: (50, 250), work: |count| Box::pin(node(count)) },
];

/// Queues a burst that the queue has room for, and has it written.
async fn send(bursts: u64) {
    let (peer, addr, mut far) = dialled().await;
    for burst in 1..=bursts {
        for _ in 0..BURST {
            peer.unicast_fast(addr, PAYLOAD).expect("room in the queue");
        }
        far.until_read(burst as usize * BURST * FRAME).await;
    }
}

/// Queues as much as the connection takes.
async fn stream(messages: u64) {
    let (peer, addr, mut far) = dialled().await;
    for _ in 0..messages {
        while let Err(error) = peer.unicast_fast(addr, PAYLOAD) {
            assert_eq!(error.kind(), ErrorKind::QuotaExceeded, "{error}");
            far.drain();
            yield_now().await;
        }
    }
    far.until_read(messages as usize * FRAME).await;
}

/// Sends one message after another, each when the one before has its receipt.
async fn receipt(messages: u64) {
    let (peer, addr, mut far) = dialled().await;
    for message in 1..=messages {
        let receipt = peer.unicast(addr, PAYLOAD).expect("room in the queue");
        receipt.await.expect("a receipt").expect("a written message");
        far.until_read(message as usize * FRAME).await;
    }
}

/// Takes bursts that came in at once.
async fn receive(bursts: u64, size: usize) {
    let (peer, _, mut far) = dialled().await;
    let frames = frame().repeat(size);
    for burst in 1..=bursts {
        far.stream.write_all(&frames).expect("room in the socket");
        peer.until_received(burst * size as u64).await;
    }
}

/// Answers one message after another, each when the one before has been answered.
async fn reply(messages: u64) {
    let (peer, addr, far) = dialled().await;
    peer.pass_on_to(addr);
    let mut near = far.stream.try_clone().expect("a second handle");
    pass(messages, &mut near, far).await;
}

/// Passes one message after another on to somebody else.
async fn relay(messages: u64) {
    let (peer, _, mut far) = dialled().await;
    let (addr, other) = peer.dial(&local_listener()).await;
    peer.pass_on_to(addr);
    pass(messages, &mut far.stream, Far::new(other)).await;
}

async fn pass(messages: u64, into: &mut TcpStream, mut out: Far) {
    let frame = frame();
    for message in 1..=messages {
        into.write_all(&frame).expect("room in the socket");
        out.until_read(message as usize * FRAME).await;
    }
}

async fn dial(connections: u64) {
    let listener = local_listener();
    let peer = Peer::new().await;
    for _ in 0..connections {
        let (addr, _far) = peer.dial(&listener).await;
        assert!(peer.node().disconnect(addr).await, "it was connected");
    }
}

async fn accept(connections: u64) {
    let peer = Peer::new().await;
    let addr = peer.listen().await;
    for _ in 0..connections {
        let far = TcpStream::connect(addr).expect("a listener");
        peer.until_connected(1).await;
        drop(far);
        peer.until_connected(0).await;
    }
}

async fn node(nodes: u64) {
    for _ in 0..nodes {
        let peer = Peer::new().await;
        peer.listen().await;
        peer.node().shut_down().await;
    }
}

async fn dialled() -> (Peer, SocketAddr, Far) {
    let peer = Peer::new().await;
    let (addr, far) = peer.dial(&local_listener()).await;
    (peer, addr, Far::new(far))
}

fn local_listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a port of the loopback interface")
}

fn frame() -> Vec<u8> {
    [&(PAYLOAD.len() as u32).to_be_bytes()[..], &PAYLOAD].concat()
}

const PAYLOAD: Bytes = Bytes::from_static(&[7; 64]);

/// A payload behind its length.
const FRAME: usize = 4 + 64;

/// Half of what the queue takes.
const BURST: usize = 32;
