//! The timeouts of the protocols, and their extreme values: zero fails what would have to wait, the largest never fails.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use pea2pea::{
    Connection, DisconnectOrigin, Node, Pea2Pea,
    protocols::{Handshake, OnDisconnect, Writing},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Semaphore,
};
use tokio_util::bytes::Bytes;

use crate::{
    common::{
        Events, in_time, local_node,
        reader::{Noted, Reader},
        setups::raw_peer,
        wait_until,
        wire::{Narrow, Sender, dialled_narrow, dialled_raw, frame},
    },
    ledger,
};

const IDLE_MS: u64 = 200;
const IDLE: Duration = Duration::from_millis(IDLE_MS);

/// What a timeout may be late by on a busy machine.
const LATE: Duration = Duration::from_secs(10);

type Impatient<const DEPTH: usize> = Reader<DEPTH, true, IDLE_MS>;

const ENDED: Noted = Noted::Ended(DisconnectOrigin::Reading);

/// Waits for the end of the connection by its idle timeout, which began between the two instants.
async fn assert_times_out<const DEPTH: usize>(reader: &Impatient<DEPTH>, since: Instant) {
    reader.ended(DisconnectOrigin::Reading).await;
    assert!((IDLE..LATE).contains(&since.elapsed()), "{:?}", since.elapsed());
    assert_eq!(reader.node.heuristics().idle_timeouts(), 1);
}

// --- idle ---

#[tokio::test(crate = "ledger")]
async fn a_silent_peer_is_idle_unless_the_timeout_is_zero_or_the_largest() {
    let (impatient, none, never) = (
        Impatient::<64>::quick().await,
        Reader::<64, true, 0>::quick().await,
        Reader::<64, true, { u64::MAX }>::quick().await,
    );
    let since = Instant::now();
    let peers = [dialled_raw(&none.node).await, dialled_raw(&never.node).await, dialled_raw(&impatient.node).await];
    assert_times_out(&impatient, since).await;
    for (node, (_, addr)) in [&none.node, &never.node].into_iter().zip(&peers) {
        assert!(node.is_connected(*addr));
        assert_eq!(node.heuristics().idle_timeouts(), 0);
    }
}

#[tokio::test(crate = "ledger")]
async fn complete_messages_keep_a_connection_alive_and_partial_ones_do_not() {
    let (alive, dying) = (Impatient::<64>::quick().await, Impatient::<64>::quick().await);
    let (mut alive_peer, alive_addr) = dialled_raw(&alive.node).await;
    let (mut dying_peer, _) = dialled_raw(&dying.node).await;
    let endless = frame(&[1; 100_000]);
    let began = Instant::now();
    dying_peer.write_all(&endless[..1_000]).await.unwrap();
    let mut rest = endless[1_000..].iter();
    while !dying.noted.contains(&ENDED) || began.elapsed() < 4 * IDLE {
        assert!(began.elapsed() < LATE, "bytes keep the connection alive");
        alive_peer.write_all(&frame(b"!")).await.unwrap();
        // The connection may have ended.
        _ = dying_peer.write_all(&[*rest.next().unwrap()]).await;
        tokio::time::sleep(IDLE / 40).await;
    }
    assert_eq!(dying.node.heuristics().idle_timeouts(), 1);
    assert!(alive.node.is_connected(alive_addr));
    assert_eq!(alive.node.heuristics().idle_timeouts(), 0);
}

#[tokio::test(crate = "ledger")]
async fn the_idle_clock_stands_still_while_the_queue_is_full_and_starts_anew_afterwards() {
    let reader = Impatient::<2>::gated().await;
    let (mut peer, addr) = dialled_raw(&reader.node).await;
    // One is processed, two fill the queue.
    peer.write_all(&[frame(b"1"), frame(b"2"), frame(b"3")].concat()).await.unwrap();
    reader.received(3).await;
    let full = Instant::now();
    wait_until("several timeouts have passed", || full.elapsed() > 4 * IDLE).await;
    assert!(reader.node.is_connected(addr));
    assert_eq!(reader.node.heuristics().idle_timeouts(), 0);

    let resumed = Instant::now();
    reader.let_pass(1);
    assert_times_out(&reader, resumed).await;
    assert_eq!(reader.begun(), b"12");
}

#[tokio::test(crate = "ledger")]
async fn a_message_that_is_stuck_keeps_no_idle_connection_alive_while_the_queue_has_room() {
    let reader = Impatient::<64>::gated().await;
    let (mut peer, _) = dialled_raw(&reader.node).await;
    let since = Instant::now();
    peer.write_all(&frame(b"1")).await.unwrap();
    assert_times_out(&reader, since).await;
    assert_eq!(reader.noted.all(), [Noted::Begun(b'1'), ENDED]);
}

#[tokio::test(crate = "ledger")]
async fn an_idle_timeout_ends_a_connection_that_only_sends() {
    let reader = Impatient::<64>::quick().await;
    let (mut peer, addr) = dialled_raw(&reader.node).await;
    let since = Instant::now();
    let mut sent = 0;
    while reader.unicast_fast(addr, Bytes::from_static(b"!")).is_ok() {
        sent += 1;
        tokio::time::sleep(IDLE / 40).await;
        assert!(since.elapsed() < LATE, "sending keeps the connection alive");
    }
    assert_eq!(reader.node.heuristics().idle_timeouts(), 1);
    let mut bytes = Vec::new();
    in_time("the end", peer.read_to_end(&mut bytes)).await.unwrap();
    assert_eq!(bytes.len(), sent * 5, "all that was accepted was flushed");
}

// --- writing ---

#[tokio::test(crate = "ledger")]
async fn a_write_timeout_of_zero_fails_only_a_write_that_has_to_wait() {
    let sender = Sender::<64, 0>::noting_ends().await;
    let Narrow { mut peer, addr, .. } = dialled_narrow(&sender.node).await;
    for _ in 0..100 {
        let receipt = sender.unicast(addr, Bytes::from_static(b"hello")).unwrap();
        in_time("the receipt", receipt).await.unwrap().unwrap();
        in_time("the message", peer.read_exact(&mut [0; 9])).await.unwrap();
    }
    assert_stuck_write_times_out(&sender, addr).await;
}

async fn assert_stuck_write_times_out<const TIMEOUT_MS: u64>(sender: &Sender<64, TIMEOUT_MS>, addr: SocketAddr) {
    let receipt = sender.unicast(addr, vec![0; 1_000_000].into()).unwrap();
    let error = in_time("the receipt", receipt).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_eq!(sender.node.heuristics().write_timeouts(), 1);
    sender.ends.wait_for(DisconnectOrigin::Writing).await;
}

#[tokio::test(crate = "ledger")]
async fn write_timeouts_of_one_and_of_almost_the_largest_value_do_not_overflow() {
    let sender = Sender::<64, 1>::noting_ends().await;
    let Narrow { addr, peer: _stalled, .. } = dialled_narrow(&sender.node).await;
    assert_stuck_write_times_out(&sender, addr).await;

    assert_a_write_waits::<{ u64::MAX }>().await;
    assert_a_write_waits::<{ u64::MAX - 1 }>().await;
}

async fn assert_a_write_waits<const TIMEOUT_MS: u64>() {
    let sender = Sender::<64, TIMEOUT_MS>::noting_ends().await;
    let Narrow { mut peer, addr, .. } = dialled_narrow(&sender.node).await;
    let mut receipt = pin!(sender.unicast(addr, vec![0; 1_000_000].into()).unwrap());
    assert!(tokio::time::timeout(IDLE, receipt.as_mut()).await.is_err(), "it was to wait");
    let mut bytes = vec![0; 1_000_004];
    in_time("the message", peer.read_exact(&mut bytes)).await.unwrap();
    in_time("the receipt", receipt).await.unwrap().unwrap();
    assert!(sender.node.disconnect(addr).await);
    assert_eq!(sender.ends.all(), [DisconnectOrigin::User]);
    assert_eq!(sender.node.heuristics().write_timeouts(), 0);
}

// --- handshakes ---

/// Waits in its handshake for a permit.
#[derive(Clone)]
struct Shaker<const TIMEOUT_MS: u64> {
    node: Node,
    gate: Arc<Semaphore>,
}

impl<const TIMEOUT_MS: u64> Shaker<TIMEOUT_MS> {
    async fn new(permits: usize) -> Self {
        let shaker = Self { node: local_node(), gate: Arc::new(Semaphore::new(permits)) };
        shaker.enable_handshake().await;
        shaker
    }
}

impl<const TIMEOUT_MS: u64> Pea2Pea for Shaker<TIMEOUT_MS> {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl<const TIMEOUT_MS: u64> Handshake for Shaker<TIMEOUT_MS> {
    const TIMEOUT_MS: u64 = TIMEOUT_MS;

    async fn perform_handshake(&self, connection: Connection) -> io::Result<Connection> {
        self.gate.acquire().await.unwrap().forget();
        Ok(connection)
    }
}

async fn assert_handshake_times_out<const TIMEOUT_MS: u64>() {
    let shaker = Shaker::<TIMEOUT_MS>::new(1).await;
    let (_patient, addr) = raw_peer().await;
    in_time("a handshake that need not wait", shaker.node.connect(addr)).await.unwrap();
    let (_patient, addr) = raw_peer().await;
    let error = in_time("a handshake that waits", shaker.node.connect(addr)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_eq!(shaker.node.heuristics().handshake_timeouts(), 1);
    assert_eq!(shaker.node.num_connected(), 1);
}

async fn assert_handshake_waits<const TIMEOUT_MS: u64>() {
    let shaker = Shaker::<TIMEOUT_MS>::new(0).await;
    let (_patient, addr) = raw_peer().await;
    let mut connecting = pin!(shaker.node.connect(addr));
    assert!(tokio::time::timeout(IDLE, connecting.as_mut()).await.is_err(), "it was to wait");
    shaker.gate.add_permits(1);
    in_time("the handshake", connecting).await.unwrap();
    assert_eq!(shaker.node.heuristics().handshake_timeouts(), 0);
}

#[tokio::test(crate = "ledger")]
async fn a_handshake_has_no_time_at_zero_little_at_one_and_all_at_the_largest() {
    tokio::join!(
        assert_handshake_times_out::<0>(),
        assert_handshake_times_out::<1>(),
        assert_handshake_waits::<{ u64::MAX }>(),
        assert_handshake_waits::<{ u64::MAX - 1 }>(),
    );
}

// --- on_disconnect ---

/// Waits in its `on_disconnect` for a permit.
#[derive(Clone)]
struct Leaver<const TIMEOUT_MS: u64> {
    node: Node,
    gate: Arc<Semaphore>,
    noted: Events<&'static str>,
}

impl<const TIMEOUT_MS: u64> Leaver<TIMEOUT_MS> {
    /// A leaver with one connection.
    async fn connected() -> (Self, tokio::net::TcpStream, SocketAddr) {
        let leaver = Self { node: local_node(), gate: Arc::new(Semaphore::new(0)), noted: Events::default() };
        leaver.enable_on_disconnect().await;
        let (peer, addr) = dialled_raw(&leaver.node).await;
        (leaver, peer, addr)
    }
}

impl<const TIMEOUT_MS: u64> Pea2Pea for Leaver<TIMEOUT_MS> {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl<const TIMEOUT_MS: u64> OnDisconnect for Leaver<TIMEOUT_MS> {
    const TIMEOUT_MS: u64 = TIMEOUT_MS;

    async fn on_disconnect(&self, _addr: SocketAddr, _origin: DisconnectOrigin) {
        self.noted.push("begun");
        self.gate.acquire().await.unwrap().forget();
        self.noted.push("done");
    }
}

async fn assert_on_disconnect_is_cut_short<const TIMEOUT_MS: u64>() {
    let (leaver, _peer, addr) = Leaver::<TIMEOUT_MS>::connected().await;
    assert!(in_time("disconnect", leaver.node.disconnect(addr)).await);
    assert_eq!(leaver.noted.all(), ["begun"]);
    assert!(!leaver.node.is_connected(addr));

    // One that need not wait runs to its end.
    leaver.gate.add_permits(1);
    let (_peer, addr) = dialled_raw(&leaver.node).await;
    assert!(in_time("disconnect", leaver.node.disconnect(addr)).await);
    assert_eq!(leaver.noted.all(), ["begun", "begun", "done"]);
}

async fn assert_on_disconnect_is_waited_for<const TIMEOUT_MS: u64>() {
    let (leaver, _peer, addr) = Leaver::<TIMEOUT_MS>::connected().await;
    let mut disconnecting = pin!(leaver.node.disconnect(addr));
    assert!(tokio::time::timeout(IDLE, disconnecting.as_mut()).await.is_err(), "it was to wait");
    assert!(leaver.node.is_connected(addr));
    leaver.gate.add_permits(1);
    assert!(in_time("disconnect", disconnecting).await);
    assert_eq!(leaver.noted.all(), ["begun", "done"]);
}

#[tokio::test(crate = "ledger")]
async fn on_disconnect_has_one_poll_at_zero_little_at_one_and_all_time_at_the_largest() {
    tokio::join!(
        assert_on_disconnect_is_cut_short::<0>(),
        assert_on_disconnect_is_cut_short::<1>(),
        assert_on_disconnect_is_waited_for::<{ u64::MAX }>(),
        assert_on_disconnect_is_waited_for::<{ u64::MAX - 1 }>(),
    );
}

#[tokio::test(crate = "ledger")]
async fn shut_down_waits_for_an_on_disconnect_without_limit() {
    let (leaver, _peer, _addr) = Leaver::<{ u64::MAX }>::connected().await;
    let mut shutting_down = pin!(leaver.node.shut_down());
    assert!(tokio::time::timeout(IDLE, shutting_down.as_mut()).await.is_err(), "it was to wait");
    leaver.gate.add_permits(1);
    in_time("shut_down", shutting_down).await;
    assert_eq!(leaver.noted.all(), ["begun", "done"]);
}
