//! Encoders that fail, panic, stay silent or send: nothing of it comes out of a send, and nothing is lost.

use std::{
    cell::Cell,
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use pea2pea::{
    ConnectionSide, DisconnectOrigin, Node, Pea2Pea,
    protocols::{OnDisconnect, Writing},
};
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    sync::oneshot::{self, error::RecvError},
};
use tokio_util::{
    bytes::{Bytes, BytesMut},
    codec::{Encoder, LengthDelimitedCodec},
};

use crate::{
    common::{
        Events, in_time, local_node, wait_until,
        wire::{Narrow, dialled_narrow, dialled_raw, frame, frames, send_until_refused},
    },
    ledger,
};

thread_local! {
    /// Whether this thread is inside a send of the test.
    static IS_SENDING: Cell<bool> = const { Cell::new(false) };
}

/// What the encoder is to do with a message.
#[derive(Debug, Clone)]
enum Task {
    Encode(Bytes),
    BeSilent,
    Fail,
    Panic,
    /// Sends two messages itself, one of them as a broadcast, and then encodes this one.
    SendMore,
}

const HELLO: Task = Task::Encode(Bytes::from_static(b"hello"));

#[derive(Clone)]
struct Fickle {
    node: Node,
    ends: Events<DisconnectOrigin>,
    /// What became of the sends from inside the encoder.
    inner_sends: Events<Result<(), ErrorKind>>,
    /// How often the encoder did anything but encode inside of a send.
    mischief_while_sending: Arc<AtomicUsize>,
}

impl Fickle {
    async fn new() -> Self {
        let fickle = Self {
            node: local_node(),
            ends: Events::default(),
            inner_sends: Events::default(),
            mischief_while_sending: Arc::default(),
        };
        fickle.enable_writing().await;
        fickle.enable_on_disconnect().await;
        fickle
    }

    #[expect(deprecated, reason = "it is lossy, and has to do what it promises all the same")]
    fn send(&self, way: Way, addr: SocketAddr, task: Task) -> io::Result<Option<Receipt>> {
        IS_SENDING.set(true);
        let result = match way {
            Way::Unicast => self.unicast(addr, task).map(Some),
            Way::UnicastFast => self.unicast_fast(addr, task).map(|()| None),
            Way::Broadcast => self.broadcast(task).map(|()| None),
        };
        IS_SENDING.set(false);
        result
    }

    fn mischief_while_sending(&self) -> usize {
        self.mischief_while_sending.load(Ordering::SeqCst)
    }
}

type Receipt = oneshot::Receiver<io::Result<()>>;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Unicast,
    UnicastFast,
    Broadcast,
}

impl Pea2Pea for Fickle {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Writing for Fickle {
    const TIMEOUT_MS: u64 = u64::MAX;

    type Message = Task;
    type Codec = FickleEncoder;

    fn codec(&self, addr: SocketAddr, _side: ConnectionSide) -> FickleEncoder {
        FickleEncoder { fickle: self.clone(), addr, frames: LengthDelimitedCodec::new() }
    }
}

impl OnDisconnect for Fickle {
    async fn on_disconnect(&self, _addr: SocketAddr, origin: DisconnectOrigin) {
        self.ends.push(origin);
    }
}

struct FickleEncoder {
    fickle: Fickle,
    addr: SocketAddr,
    frames: LengthDelimitedCodec,
}

impl Encoder<Task> for FickleEncoder {
    type Error = io::Error;

    #[expect(deprecated, reason = "it is lossy, and has to do what it promises all the same")]
    fn encode(&mut self, task: Task, dst: &mut BytesMut) -> io::Result<()> {
        if IS_SENDING.get() && !matches!(task, Task::Encode(_)) {
            self.fickle.mischief_while_sending.fetch_add(1, Ordering::SeqCst);
        }
        match task {
            Task::Encode(payload) => self.frames.encode(payload, dst),
            Task::BeSilent => Ok(()),
            Task::Fail => {
                dst.extend_from_slice(b"half a message");
                Err(io::Error::new(ErrorKind::InvalidInput, "no"))
            }
            Task::Panic => {
                dst.extend_from_slice(b"half a message");
                panic!("the encoder panics on purpose")
            }
            Task::SendMore => {
                let inner = Task::Encode(Bytes::from_static(b"inner"));
                let sent = self.fickle.unicast_fast(self.addr, inner.clone()).map_err(|error| error.kind());
                self.fickle.inner_sends.push(sent);
                self.fickle.broadcast(inner).unwrap();
                self.frames.encode(Bytes::from_static(b"outer"), dst)
            }
        }
    }
}

/// Everything that arrives until the connection ends, however it does.
async fn all_bytes(peer: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    _ = in_time("the end", peer.read_to_end(&mut bytes)).await;
    bytes
}

fn is_told(fate: Result<io::Result<()>, RecvError>, poison: &Task) -> bool {
    match (fate, poison) {
        (Ok(Err(error)), Task::Fail) => error.kind() == ErrorKind::InvalidInput,
        (Ok(Err(error)), Task::Panic) => error.kind() == ErrorKind::Other,
        _ => false,
    }
}

// --- errors and panics ---

#[tokio::test(crate = "ledger")]
async fn an_error_or_panic_of_the_encoder_ends_the_connection_and_never_the_send() {
    for poison in [Task::Fail, Task::Panic] {
        for way in [Way::Unicast, Way::UnicastFast, Way::Broadcast] {
            let fickle = Fickle::new().await;
            let (mut peer, addr) = dialled_raw(&fickle.node).await;
            let before = fickle.unicast(addr, HELLO).unwrap();
            in_time("the first batch", before).await.unwrap().unwrap();

            let in_front = fickle.unicast(addr, HELLO).unwrap();
            let poisoned = fickle.send(way, addr, poison.clone()).expect("the send itself succeeds");
            let behind = fickle.unicast(addr, HELLO).unwrap();
            for receipt in [in_front, behind].into_iter().chain(poisoned) {
                let fate = in_time("the receipt", receipt).await;
                assert!(is_told(fate, &poison), "{poison:?} {way:?}: they were queued as one batch");
            }
            assert_eq!(all_bytes(&mut peer).await, frame(b"hello"), "nothing of the failed batch is written");
            wait_until("the connection is gone", || !fickle.node.is_connected(addr)).await;
            assert_eq!(fickle.ends.all(), [DisconnectOrigin::Writing]);
            assert_eq!(fickle.node.stats().sent(), (1, 9));
            assert_eq!(fickle.node.heuristics().write_timeouts(), 0);
        }
    }
}

/// Sends so many messages that the connection streams to a peer that does not read: from here on a send that finds the
/// queue full encodes it on the spot.
async fn stream_to(fickle: &Fickle, addr: SocketAddr) {
    let payload = Bytes::from(vec![0; 10_000]);
    send_until_refused(|| fickle.unicast_fast(addr, Task::Encode(payload.clone()))).await;
}

#[tokio::test(crate = "ledger")]
async fn an_error_or_panic_inside_of_a_send_on_a_streaming_connection_does_not_come_out_of_it() {
    for poison in [Task::Fail, Task::Panic] {
        for way in [Way::Unicast, Way::UnicastFast, Way::Broadcast] {
            let fickle = Fickle::new().await;
            let Narrow { mut peer, addr, .. } = dialled_narrow(&fickle.node).await;
            stream_to(&fickle, addr).await;

            // Makes room bit by bit, until a send has found the poison in the queue and the batch with room for it.
            let mut poisoned = Vec::new();
            let mut bytes = Vec::new();
            while fickle.mischief_while_sending() == 0 {
                for _ in 0..200 {
                    match fickle.send(way, addr, poison.clone()) {
                        Ok(receipt) => poisoned.extend(receipt),
                        Err(error) => assert_eq!(error.kind(), ErrorKind::QuotaExceeded),
                    }
                    if let Err(error) = fickle.send(Way::UnicastFast, addr, HELLO) {
                        assert_eq!(error.kind(), ErrorKind::QuotaExceeded);
                    }
                }
                assert_eq!(fickle.ends.all(), [], "the writer was to find no poison in the queue itself");
                if fickle.mischief_while_sending() == 0 {
                    in_time("more bytes", peer.read_buf(&mut bytes)).await.unwrap();
                }
            }

            bytes.extend(all_bytes(&mut peer).await);
            fickle.ends.wait_for(DisconnectOrigin::Writing).await;
            assert!(frames(&bytes).iter().all(|payload| payload.len() == 10_000 || *payload == b"hello"));
            assert_eq!(poisoned.is_empty(), way != Way::Unicast);
            let mut told = 0;
            for receipt in poisoned {
                match in_time("the receipt", receipt).await {
                    // It was queued behind the batch that failed.
                    Err(_) => {}
                    fate => told += usize::from(is_told(fate, &poison)),
                }
            }
            assert!(way != Way::Unicast || told > 0);
        }
    }
}

// --- messages without bytes ---

#[tokio::test(crate = "ledger")]
async fn a_message_without_bytes_counts_as_one_message() {
    let fickle = Fickle::new().await;
    let (mut peer, addr) = dialled_raw(&fickle.node).await;
    in_time("the receipt", fickle.unicast(addr, Task::BeSilent).unwrap()).await.unwrap().unwrap();
    assert_eq!(fickle.node.stats().sent(), (1, 0));
    assert_eq!(fickle.node.connection_info(addr).unwrap().stats().sent(), (1, 0));
    in_time("the receipt", fickle.unicast(addr, HELLO).unwrap()).await.unwrap().unwrap();
    assert_eq!(fickle.node.stats().sent(), (2, 9));
    assert!(fickle.node.disconnect(addr).await);
    assert_eq!(all_bytes(&mut peer).await, frame(b"hello"));
}

#[tokio::test(crate = "ledger")]
async fn messages_without_bytes_too_are_refused_when_the_peer_stalls() {
    let fickle = Fickle::new().await;
    let Narrow { addr, peer: _stalled, .. } = dialled_narrow(&fickle.node).await;
    fickle.unicast_fast(addr, Task::Encode(vec![0; 1_000_000].into())).unwrap();
    let silent = send_until_refused(|| fickle.unicast_fast(addr, Task::BeSilent)).await;
    assert!(silent <= 300_000, "no more than if they had one byte each, but {silent} were accepted");
}

// --- sends from inside ---

#[tokio::test(crate = "ledger")]
async fn sends_from_inside_an_encoder_neither_deadlock_nor_vanish() {
    let fickle = Fickle::new().await;
    let (mut peer, addr) = dialled_raw(&fickle.node).await;
    let (mut listener, _) = dialled_raw(&fickle.node).await;
    for _ in 0..3 {
        fickle.unicast_fast(addr, Task::SendMore).unwrap();
    }
    fickle.unicast_fast(addr, HELLO).unwrap();
    let mut bytes = vec![0; 10 * 9];
    in_time("all of them", peer.read_exact(&mut bytes)).await.unwrap();
    let expected: [&[u8]; 10] =
        [b"outer", b"outer", b"outer", b"hello", b"inner", b"inner", b"inner", b"inner", b"inner", b"inner"];
    assert_eq!(frames(&bytes), expected);
    let mut bytes = vec![0; 3 * 9];
    in_time("the broadcasts", listener.read_exact(&mut bytes)).await.unwrap();
    assert_eq!(frames(&bytes), [b"inner"; 3]);
    assert_eq!(fickle.inner_sends.all(), [Ok(()); 3]);
}

#[tokio::test(crate = "ledger")]
async fn sends_from_inside_an_encoder_that_runs_inside_a_send_are_refused_or_arrive() {
    let fickle = Fickle::new().await;
    let Narrow { mut peer, addr, .. } = dialled_narrow(&fickle.node).await;
    stream_to(&fickle, addr).await;
    let (mut outer, mut bytes) = (0, Vec::new());
    while fickle.mischief_while_sending() < 10 {
        for _ in 0..200 {
            outer += usize::from(fickle.send(Way::UnicastFast, addr, Task::SendMore).is_ok());
        }
        in_time("more bytes", peer.read_buf(&mut bytes)).await.unwrap();
    }
    let of = |bytes: &[u8], sought: &[u8]| frames(bytes).iter().filter(|payload| **payload == sought).count();
    while of(&bytes, b"outer") < outer || fickle.inner_sends.count(&Ok(())) > of(&bytes, b"inner") {
        in_time("more bytes", peer.read_buf(&mut bytes)).await.unwrap();
    }
    let refused = fickle.inner_sends.count(&Err(ErrorKind::QuotaExceeded));
    assert_eq!(fickle.inner_sends.len(), outer, "each outer message was encoded once");
    assert_eq!(refused + fickle.inner_sends.count(&Ok(())), outer, "refused because of the full queue, if at all");
    assert_eq!(fickle.ends.all(), []);
}
