//! Sending: which error is for what, and how much is accepted.

use std::{
    io::{self, ErrorKind},
    marker::PhantomData,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
};

use pea2pea::{
    ConnectionSide, DisconnectOrigin, Node, Pea2Pea,
    protocols::{OnDisconnect, Writing},
};
use tokio::{io::AsyncReadExt, sync::Semaphore};
use tokio_util::{
    bytes::{Bytes, BytesMut},
    codec::{Encoder, LengthDelimitedCodec, LinesCodec},
};

use crate::{
    common::{
        Events, in_time, poll_times, wait_until,
        wire::{Narrow, Sender, dialled_narrow, dialled_raw, frame, frames, read_to_eof, send_until_refused},
    },
    ledger,
};

const HELLO: Bytes = Bytes::from_static(b"hello");

fn kind<T: std::fmt::Debug>(result: io::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

// --- errors ---

#[tokio::test(crate = "ledger")]
#[expect(deprecated, reason = "it is lossy, and has to do what it promises all the same")]
async fn without_writing_every_send_is_unsupported() {
    let mute = Sender::<64>::mute();
    let (_peer, addr) = dialled_raw(&mute.node).await;
    for addr in [addr, "127.0.0.1:1".parse().unwrap()] {
        assert_eq!(kind(mute.unicast(addr, HELLO)), ErrorKind::Unsupported);
        assert_eq!(kind(mute.unicast_fast(addr, HELLO)), ErrorKind::Unsupported);
    }
    assert_eq!(kind(mute.broadcast(HELLO)), ErrorKind::Unsupported);
}

/// Sends over the node of another type.
#[derive(Clone)]
struct Other<M>(Node, PhantomData<M>);

impl<M> Pea2Pea for Other<M> {
    fn node(&self) -> &Node {
        &self.0
    }
}

impl Writing for Other<String> {
    type Message = String;
    type Codec = LinesCodecWithIoErrors;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> LinesCodecWithIoErrors {
        LinesCodecWithIoErrors(LinesCodec::new())
    }
}

impl Writing for Other<Bytes> {
    type Message = Bytes;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> LengthDelimitedCodec {
        unreachable!("this type's Writing is not the enabled one")
    }
}

struct LinesCodecWithIoErrors(LinesCodec);

impl Encoder<String> for LinesCodecWithIoErrors {
    type Error = io::Error;

    fn encode(&mut self, line: String, dst: &mut BytesMut) -> io::Result<()> {
        self.0.encode(line, dst).map_err(io::Error::other)
    }
}

#[tokio::test(crate = "ledger")]
#[expect(deprecated, reason = "it is lossy, and has to do what it promises all the same")]
async fn only_the_message_type_has_to_match_the_enabled_writing() {
    let sender = Sender::<64>::plain().await;
    let (mut peer, addr) = dialled_raw(&sender.node).await;

    let lines = Other(sender.node.clone(), PhantomData::<String>);
    assert_eq!(kind(lines.unicast(addr, "hello".into())), ErrorKind::Unsupported);
    assert_eq!(kind(lines.unicast_fast(addr, "hello".into())), ErrorKind::Unsupported);
    assert_eq!(kind(lines.broadcast("hello".into())), ErrorKind::Unsupported);
    assert_eq!(kind(lines.unicast_fast("127.0.0.1:1".parse().unwrap(), "hello".into())), ErrorKind::NotConnected);

    let same = Other(sender.node.clone(), PhantomData::<Bytes>);
    same.unicast(addr, HELLO).unwrap().await.unwrap().unwrap();
    sender.node.disconnect(addr).await;
    assert_eq!(read_to_eof(&mut peer).await, frame(b"hello"));
}

#[tokio::test(crate = "ledger")]
#[expect(deprecated, reason = "it is lossy, and has to do what it promises all the same")]
async fn a_stranger_and_a_former_peer_are_not_connected() {
    let sender = Sender::<64>::plain().await;
    let (_peer, addr) = dialled_raw(&sender.node).await;
    assert_eq!(kind(sender.unicast("127.0.0.1:1".parse().unwrap(), HELLO)), ErrorKind::NotConnected);
    assert!(sender.node.disconnect(addr).await);
    assert_eq!(kind(sender.unicast(addr, HELLO)), ErrorKind::NotConnected);
    assert_eq!(kind(sender.unicast_fast(addr, HELLO)), ErrorKind::NotConnected);
    sender.broadcast(HELLO).expect("nobody is a fine audience");
}

#[tokio::test(crate = "ledger")]
async fn a_connection_older_than_writing_says_that_it_is() {
    let sender = Sender::<64>::mute();
    let (mut older, addr) = dialled_raw(&sender.node).await;
    sender.enable_writing().await;
    let errors = [sender.unicast(addr, HELLO).map(drop).unwrap_err(), sender.unicast_fast(addr, HELLO).unwrap_err()];
    for error in errors {
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::NotConnected, "{text}");
        assert!(
            text.contains("Writing was enabled after this connection") && text.contains(&addr.to_string()),
            "{text}"
        );
    }
    // The next connection, and nobody at all, are something else.
    assert!(sender.node.disconnect(addr).await);
    assert_eq!(read_to_eof(&mut older).await, b"");
    let error = sender.unicast_fast(addr, HELLO).unwrap_err();
    assert!(!error.to_string().contains("Writing was enabled"), "{error}");
    let (_younger, addr) = dialled_raw(&sender.node).await;
    sender.unicast(addr, HELLO).unwrap().await.unwrap().unwrap();
}

#[tokio::test(crate = "ledger")]
#[expect(deprecated, reason = "it is lossy, and has to do what it promises all the same")]
async fn after_shut_down_every_send_is_not_connected() {
    for sender in [Sender::<64>::plain().await, Sender::mute()] {
        let (_peer, addr) = dialled_raw(&sender.node).await;
        sender.node.shut_down().await;
        assert_eq!(kind(sender.unicast(addr, HELLO)), ErrorKind::NotConnected);
        assert_eq!(kind(sender.unicast_fast(addr, HELLO)), ErrorKind::NotConnected);
        assert_eq!(kind(sender.broadcast(HELLO)), ErrorKind::NotConnected);
    }
}

/// Sends from its `on_disconnect`, at its beginning and after the test has let it go on.
#[derive(Clone)]
struct LastWords {
    sender: Sender,
    results: Events<Result<(), ErrorKind>>,
    go_on: Arc<Semaphore>,
}

impl LastWords {
    async fn new() -> Self {
        let last_words =
            Self { sender: Sender::plain().await, results: Events::default(), go_on: Arc::new(Semaphore::new(0)) };
        last_words.enable_on_disconnect().await;
        last_words
    }

    fn speak(&self, addr: SocketAddr) {
        self.results.push(self.sender.unicast(addr, HELLO).map(drop).map_err(|error| error.kind()));
    }
}

impl Pea2Pea for LastWords {
    fn node(&self) -> &Node {
        &self.sender.node
    }
}

impl OnDisconnect for LastWords {
    const TIMEOUT_MS: u64 = u64::MAX;

    async fn on_disconnect(&self, addr: SocketAddr, _origin: DisconnectOrigin) {
        self.speak(addr);
        self.go_on.acquire().await.unwrap().forget();
        self.speak(addr);
    }
}

#[tokio::test(crate = "ledger")]
async fn what_on_disconnect_sends_arrives() {
    let last_words = LastWords::new().await;
    let (mut peer, addr) = dialled_raw(last_words.node()).await;
    last_words.go_on.add_permits(1);
    assert!(last_words.node().disconnect(addr).await);
    assert_eq!(last_words.results.all(), [Ok(()), Ok(())]);
    assert_eq!(frames(&read_to_eof(&mut peer).await), [b"hello", b"hello"]);
}

#[tokio::test(crate = "ledger")]
async fn when_the_writer_has_failed_on_disconnect_gets_broken_pipe() {
    let last_words = LastWords::new().await;
    let (peer, addr) = dialled_raw(last_words.node()).await;
    peer.set_zero_linger().unwrap();
    drop(peer);
    wait_until("the writer notices", || {
        _ = last_words.sender.unicast_fast(addr, HELLO);
        last_words.results.len() == 1
    })
    .await;
    last_words.go_on.add_permits(1);
    wait_until("the connection is gone", || !last_words.node().is_connected(addr)).await;
    assert_eq!(last_words.results.all(), [Err(ErrorKind::BrokenPipe), Err(ErrorKind::BrokenPipe)]);
}

#[tokio::test(crate = "ledger")]
async fn a_writer_that_fails_during_on_disconnect_leaves_broken_pipe() {
    let last_words = LastWords::new().await;
    let (peer, addr) = dialled_raw(last_words.node()).await;
    let mut disconnecting = pin!(last_words.node().disconnect(addr));
    assert!(poll_times(disconnecting.as_mut(), 3).await.is_none());
    assert_eq!(last_words.results.all(), [Ok(())]);
    let stuck = last_words.sender.unicast(addr, vec![0; 8_000_000].into()).unwrap();
    in_time("the first bytes", peer.readable()).await.unwrap();
    peer.set_zero_linger().unwrap();
    drop(peer);
    let error = in_time("the receipt", stuck).await.expect("its batch failed").unwrap_err();
    assert!([ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&error.kind()), "{error}");
    wait_until("a send fails", || {
        last_words.sender.unicast_fast(addr, HELLO).is_err_and(|error| error.kind() == ErrorKind::BrokenPipe)
    })
    .await;
    last_words.go_on.add_permits(1);
    assert!(in_time("the end", disconnecting).await);
    assert_eq!(last_words.results.all(), [Ok(()), Err(ErrorKind::BrokenPipe)]);
}

// --- how much is accepted ---

async fn assert_bursts_are_accepted_up_to_the_depth<const DEPTH: usize>() {
    let sender = Sender::<DEPTH>::plain().await;
    let (mut peer, addr) = dialled_raw(&sender.node).await;
    for burst in 1..=3 {
        for accepted in 0..DEPTH {
            assert!(sender.unicast_fast(addr, HELLO).is_ok(), "burst {burst}: after {accepted} messages");
        }
        for _ in 0..3 {
            assert_eq!(kind(sender.unicast_fast(addr, HELLO)), ErrorKind::QuotaExceeded);
            assert_eq!(kind(sender.unicast(addr, HELLO)), ErrorKind::QuotaExceeded);
        }
        assert_eq!(sender.node.stats().sent().0, ((burst - 1) * DEPTH) as u64, "nothing leaves within the burst");
        let mut bytes = vec![0; DEPTH * frame(&HELLO).len()];
        in_time("the burst arrives", peer.read_exact(&mut bytes)).await.unwrap();
        // The writer comes to rest within a few turns of its own: the connection is idle again.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(crate = "ledger")]
async fn a_burst_on_an_idle_connection_is_accepted_up_to_exactly_the_depth() {
    assert_bursts_are_accepted_up_to_the_depth::<1>().await;
    assert_bursts_are_accepted_up_to_the_depth::<5>().await;
    assert_bursts_are_accepted_up_to_the_depth::<64>().await;
}

/// What is accepted for a peer that does not read: the queue, a batch that waits, one that is being written, and what
/// the sockets hold.
async fn assert_stalled_acceptance_is_bounded<const DEPTH: usize>(size: usize) {
    const BATCH: usize = 256 * 1024;

    let sender = Sender::<DEPTH>::plain().await;
    let Narrow { addr, capacity, peer: _stalled } = dialled_narrow(&sender.node).await;
    let message = Bytes::from(vec![7; size]);
    let accepted = send_until_refused(|| sender.unicast_fast(addr, message.clone())).await;
    let wire = size + 4;
    let bound = DEPTH * wire + 2 * BATCH.max(wire) + capacity;
    assert!(accepted >= DEPTH && accepted * wire <= bound, "{accepted} of {wire} bytes, depth {DEPTH}, bound {bound}");
    println!("{accepted} of {wire} bytes: {} of {bound}", accepted * wire);
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_does_not_read_always_ends_in_quota_exceeded() {
    tokio::join!(
        assert_stalled_acceptance_is_bounded::<1>(16),
        assert_stalled_acceptance_is_bounded::<64>(0),
        assert_stalled_acceptance_is_bounded::<64>(16),
        assert_stalled_acceptance_is_bounded::<64>(1_000),
        assert_stalled_acceptance_is_bounded::<5>(70_000),
        assert_stalled_acceptance_is_bounded::<5>(200_000),
        assert_stalled_acceptance_is_bounded::<64>(300_000),
    );
}
