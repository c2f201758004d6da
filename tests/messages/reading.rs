//! Receiving: one message at a time, how much is read ahead, and what the end of a stream means.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use pea2pea::{ConnectionSide, DisconnectOrigin, Node, Pea2Pea, protocols::Reading};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_util::{bytes::BytesMut, codec::LengthDelimitedCodec};
use tracing::{Event, Level, Metadata, span};

use crate::{
    common::{
        Events, in_time, local_node,
        reader::{Noted, Reader},
        wait_until,
        wire::{Narrow, dialled_narrow, dialled_raw, frame, frames, read_to_eof, write_until_blocked},
    },
    ledger,
};

/// Frames of the given size each, whose payloads begin with these bytes.
fn frames_from(first_bytes: impl IntoIterator<Item = u8>, size: usize) -> Vec<u8> {
    first_bytes.into_iter().flat_map(|byte| frame(&[&[byte], &vec![0; size - 1][..]].concat())).collect()
}

// --- one at a time ---

#[tokio::test(crate = "ledger")]
async fn messages_are_processed_one_at_a_time_and_in_order() {
    let reader = Reader::<64>::gated().await;
    let (mut peer, _) = dialled_raw(&reader.node).await;
    peer.write_all(&frames_from(0..5, 10)).await.unwrap();
    reader.received(5).await;
    let mut expected = Vec::new();
    for number in 0..5 {
        expected.push(Noted::Begun(number));
        reader.noted.wait_for(Noted::Begun(number)).await;
        assert_eq!(reader.noted.all(), expected, "the next one waits");
        reader.let_pass(1);
        reader.noted.wait_for(Noted::Done(number)).await;
        expected.push(Noted::Done(number));
    }
}

/// Yields in each message, and counts how many are being processed.
#[derive(Clone)]
struct Yielding {
    node: Node,
    running: Arc<AtomicUsize>,
    order: Events<u32>,
}

impl Pea2Pea for Yielding {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Reading for Yielding {
    const MESSAGE_QUEUE_DEPTH: usize = 7;

    type Message = BytesMut;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> LengthDelimitedCodec {
        LengthDelimitedCodec::new()
    }

    async fn process_message(&self, _source: SocketAddr, message: BytesMut) {
        assert_eq!(self.running.fetch_add(1, Ordering::SeqCst), 0, "they overlap");
        let number = u32::from_be_bytes(message[..4].try_into().unwrap());
        for _ in 0..number % 3 {
            tokio::task::yield_now().await;
        }
        self.order.push(number);
        self.running.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_wait_are_not_overtaken() {
    const MESSAGES: u32 = 5_000;

    let yielding = Yielding { node: local_node(), running: Arc::default(), order: Events::default() };
    yielding.enable_reading().await;
    let (mut peer, _) = dialled_raw(&yielding.node).await;
    let stream: Vec<_> = (0..MESSAGES).flat_map(|number| frame(&number.to_be_bytes())).collect();
    peer.write_all(&stream).await.unwrap();
    wait_until("all are processed", || yielding.order.len() == MESSAGES as usize).await;
    assert_eq!(yielding.order.all(), Vec::from_iter(0..MESSAGES));
}

// --- reading ahead ---

async fn assert_exactly_the_depth_is_read_ahead<const DEPTH: usize>() {
    const SIZE: usize = 20_000;

    let reader = Reader::<DEPTH>::gated().await;
    let Narrow { peer, capacity, .. } = dialled_narrow(&reader.node).await;
    let stream = frames_from([7], SIZE);
    peer.writable().await.unwrap();
    let written = write_until_blocked(&peer, &stream).await;
    let ahead = DEPTH as u64 + 1;
    assert_eq!(reader.node.stats().received(), (ahead, ahead * stream.len() as u64));
    // What was read and not decoded is less than the read buffer and a frame.
    let bound = (DEPTH + 2) * stream.len() + 65_536 + capacity;
    assert!(written <= bound, "the peer wrote {written} bytes, more than {bound}");

    reader.let_pass(1);
    reader.received(ahead + 1).await;
    assert_eq!(reader.begun().len(), 2);
    write_until_blocked(&peer, &stream[written % stream.len()..]).await;
    assert_eq!(reader.node.stats().received().0, ahead + 1);
}

#[tokio::test(crate = "ledger")]
async fn while_one_message_is_processed_exactly_the_depth_more_are_read() {
    tokio::join!(
        assert_exactly_the_depth_is_read_ahead::<1>(),
        assert_exactly_the_depth_is_read_ahead::<3>(),
        assert_exactly_the_depth_is_read_ahead::<64>(),
    );
}

#[tokio::test(crate = "ledger")]
async fn without_backpressure_what_does_not_fit_is_dropped_and_counted() {
    let reader = Reader::<3, false>::gated().await;
    let (mut peer, _) = dialled_raw(&reader.node).await;
    peer.write_all(&frames_from(0..20, 10)).await.unwrap();
    reader.received(20).await;
    assert_eq!(reader.node.stats().received(), (20, 20 * 14));
    wait_until("the first one is being processed", || reader.begun() == [0]).await;

    // One place is free while the first message is being processed.
    peer.write_all(&frames_from(20..25, 10)).await.unwrap();
    reader.received(25).await;
    reader.let_pass(100);
    wait_until("the rest is processed", || reader.noted.len() == 8).await;
    assert_eq!(reader.begun(), [0, 1, 2, 20]);

    peer.write_all(&frames_from([99], 10)).await.unwrap();
    reader.noted.wait_for(Noted::Done(99)).await;
    assert_eq!(reader.begun(), [0, 1, 2, 20, 99]);
}

/// Counts warnings.
struct Warnings(Arc<AtomicUsize>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _span: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _span: &span::Id, _values: &span::Record<'_>) {}

    fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        self.0.fetch_add(usize::from(*event.metadata().level() == Level::WARN), Ordering::SeqCst);
    }

    fn enter(&self, _span: &span::Id) {}

    fn exit(&self, _span: &span::Id) {}
}

#[tokio::test(crate = "ledger")]
async fn without_backpressure_a_flood_is_warned_of_at_most_once_a_second() {
    let warnings = Arc::new(AtomicUsize::new(0));
    // For this thread, and thus for this test only.
    let _guard = tracing::subscriber::set_default(Warnings(Arc::clone(&warnings)));
    let reader = Reader::<1, false>::gated().await;
    let (mut peer, _) = dialled_raw(&reader.node).await;
    let began = Instant::now();
    for round in 1..=50 {
        peer.write_all(&frames_from(0..20, 10)).await.unwrap();
        reader.received(round * 20).await;
    }
    let warned = warnings.load(Ordering::SeqCst);
    let seconds = began.elapsed().as_secs() as usize;
    assert!((1..=1 + seconds).contains(&warned), "{warned} warnings in {seconds} s");
}

/// Notes, for each message, how much had been received when its processing began.
#[derive(Clone)]
struct Accountant {
    node: Node,
    counts: Events<((u64, u64), (u64, u64))>,
}

impl Pea2Pea for Accountant {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Reading for Accountant {
    const MESSAGE_QUEUE_DEPTH: usize = 1;

    type Message = BytesMut;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> LengthDelimitedCodec {
        LengthDelimitedCodec::new()
    }

    async fn process_message(&self, source: SocketAddr, _message: BytesMut) {
        let of_connection = self.node.connection_info(source).unwrap().stats().received();
        self.counts.push((of_connection, self.node.stats().received()));
    }
}

#[tokio::test(crate = "ledger")]
async fn a_message_is_counted_in_wire_bytes_before_it_is_processed() {
    let accountant = Accountant { node: local_node(), counts: Events::default() };
    accountant.enable_reading().await;
    let (mut peer, _) = dialled_raw(&accountant.node).await;
    let sizes = [1, 1_000, 7, 70_000, 3];
    let stream: Vec<_> = sizes.iter().flat_map(|size| frames_from([0], *size)).collect();
    peer.write_all(&stream).await.unwrap();
    wait_until("all are processed", || accountant.counts.len() == sizes.len()).await;
    for (index, (of_connection, of_node)) in accountant.counts.all().into_iter().enumerate() {
        let bytes_of = |count: u64| sizes[..count as usize].iter().map(|size| *size as u64 + 4).sum::<u64>();
        assert!(of_connection.0 > index as u64, "message {index} is not counted: {of_connection:?}");
        assert_eq!(of_connection.1, bytes_of(of_connection.0));
        assert_eq!(of_connection, of_node);
    }
    assert_eq!(accountant.node.stats().received(), (5, stream.len() as u64));
}

// --- the end of the stream ---

#[tokio::test(crate = "ledger")]
async fn a_peer_that_closes_its_side_still_gets_the_answers_to_all_its_messages() {
    let reader = Reader::<64>::gated().await;
    let (mut peer, addr) = dialled_raw(&reader.node).await;
    peer.write_all(&frames_from(0..10, 10)).await.unwrap();
    peer.shutdown().await.unwrap();
    reader.received(10).await;
    for number in 0..10 {
        reader.noted.wait_for(Noted::Begun(number)).await;
        assert!(reader.node.is_connected(addr));
        assert!(!reader.noted.contains(&Noted::Ended(DisconnectOrigin::Reading)));
        reader.let_pass(1);
    }
    let answers = read_to_eof(&mut peer).await;
    assert_eq!(frames(&answers), Vec::from_iter((0..10).map(|number| [number])));
    reader.ended(DisconnectOrigin::Reading).await;
}

/// Sends two messages of which the first is stuck, and closes; tells how long the connection lives on.
async fn time_of_stuck_drain<const DEPTH: usize, const IDLE_MS: u64>() -> Duration {
    let reader = Reader::<DEPTH, true, IDLE_MS>::gated().await;
    let (mut peer, _) = dialled_raw(&reader.node).await;
    peer.write_all(&frames_from(0..2, 10)).await.unwrap();
    reader.received(2).await;
    let closed = Instant::now();
    drop(peer);
    reader.ended(DisconnectOrigin::Reading).await;
    assert_eq!(reader.noted.all(), [Noted::Begun(0), Noted::Ended(DisconnectOrigin::Reading)]);
    assert_eq!(reader.node.heuristics().idle_timeouts(), 0, "nothing is waited for any more");
    closed.elapsed()
}

#[tokio::test(crate = "ledger")]
async fn after_three_seconds_messages_of_a_closed_peer_are_given_up() {
    let (with_a_queue, with_little, with_idle_timeout) =
        tokio::join!(time_of_stuck_drain::<64, 0>(), time_of_stuck_drain::<2, 0>(), time_of_stuck_drain::<64, 1_000>());
    for time in [with_a_queue, with_little, with_idle_timeout] {
        assert!((Duration::from_secs(3)..Duration::from_secs(20)).contains(&time), "{time:?}");
    }
}

#[tokio::test(crate = "ledger")]
async fn disconnect_and_shut_down_end_the_drain() {
    for shuts_down in [false, true] {
        let reader = Reader::<64>::gated().await;
        let (mut peer, addr) = dialled_raw(&reader.node).await;
        peer.write_all(&frames_from(0..2, 10)).await.unwrap();
        peer.shutdown().await.unwrap();
        reader.received(2).await;
        let began = Instant::now();
        let origin = if shuts_down {
            in_time("shut_down", reader.node.shut_down()).await;
            DisconnectOrigin::Shutdown
        } else {
            assert!(in_time("disconnect", reader.node.disconnect(addr)).await);
            DisconnectOrigin::User
        };
        assert!(began.elapsed() < Duration::from_millis(2_500), "{:?}", began.elapsed());
        assert_eq!(reader.noted.all(), [Noted::Begun(0), Noted::Ended(origin)]);
        assert_eq!(read_to_eof(&mut peer).await, []);
    }
}

#[tokio::test(crate = "ledger")]
async fn a_reset_ends_the_connection_even_while_a_message_is_processed() {
    let reader = Reader::<64>::gated().await;
    let (mut peer, _) = dialled_raw(&reader.node).await;
    peer.write_all(&frames_from(0..1, 10)).await.unwrap();
    reader.noted.wait_for(Noted::Begun(0)).await;
    reset(peer);
    reader.ended(DisconnectOrigin::Reading).await;
    assert_eq!(reader.noted.all(), [Noted::Begun(0), Noted::Ended(DisconnectOrigin::Reading)]);
}

fn reset(peer: TcpStream) {
    peer.set_zero_linger().unwrap();
    drop(peer);
}

#[tokio::test(crate = "ledger")]
async fn peers_that_come_and_go_in_any_way_leave_nothing_behind() {
    let reader = Reader::<64>::quick().await;
    for round in 0..30 {
        let (mut peer, addr) = dialled_raw(&reader.node).await;
        match round % 3 {
            0 => reset(peer),
            1 => drop(peer),
            _ => {
                peer.shutdown().await.unwrap();
                assert_eq!(read_to_eof(&mut peer).await, []);
            }
        }
        wait_until("the end is noticed", || !reader.node.is_connected(addr)).await;
    }
    assert_eq!(reader.noted.all(), [Noted::Ended(DisconnectOrigin::Reading); 30]);
    assert_eq!(reader.node.heuristics().idle_timeouts(), 0);
}

// --- panics ---

/// Panics when it is told to, before or after it has waited.
#[derive(Clone)]
struct Panicking {
    node: Node,
    processed: Events<u8>,
}

impl Pea2Pea for Panicking {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Reading for Panicking {
    type Message = BytesMut;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> LengthDelimitedCodec {
        LengthDelimitedCodec::new()
    }

    async fn process_message(&self, _source: SocketAddr, message: BytesMut) {
        assert_ne!(message[0], 1, "panics on purpose, at once");
        tokio::task::yield_now().await;
        assert_ne!(message[0], 2, "panics on purpose, later");
        self.processed.push(message[0]);
    }
}

#[tokio::test(crate = "ledger")]
async fn a_panic_in_process_message_ends_that_connection_only() {
    let panicking = Panicking { node: local_node(), processed: Events::default() };
    panicking.enable_reading().await;
    let (mut bystander, bystander_addr) = dialled_raw(&panicking.node).await;
    for deadly in [1, 2] {
        let (mut peer, addr) = dialled_raw(&panicking.node).await;
        peer.write_all(&frames_from([3, deadly, 4], 10)).await.unwrap();
        wait_until("the connection is gone", || !panicking.node.is_connected(addr)).await;
        assert!(panicking.node.is_connected(bystander_addr));
    }
    bystander.write_all(&frames_from([5], 10)).await.unwrap();
    panicking.processed.wait_for(5).await;
    assert_eq!(panicking.processed.all(), [3, 3, 5], "nothing behind the deadly message is processed");
}
