//! The life of a connection as it is seen from outside, on both of its ends.

use std::{io, net::SocketAddr, sync::Arc, time::Instant};

use pea2pea::{
    Config, Connection, ConnectionSide, Node, Pea2Pea,
    protocols::{Handshake, OnConnect, Reading, Writing},
};
use tokio::net::TcpSocket;
use tokio_util::{bytes::BytesMut, codec::BytesCodec};

use crate::{
    common::{
        Events, in_time, local_config, local_node,
        nodes::{leave_orphan, listed},
        setups::{Gated, Lingering, assert_vacant, dial_from, end_of, listening, raw_peer, settled},
        wait_until,
    },
    ledger,
};

/// Writes down which sides its hooks are told.
#[derive(Clone)]
struct Observer {
    node: Node,
    sides: Events<(&'static str, ConnectionSide)>,
    received: Events<Vec<u8>>,
    met: Events<SocketAddr>,
}

/// A message that has an observer shut down.
const SHUT_DOWN: &[u8] = b"shut down";

impl Observer {
    async fn new() -> Self {
        Self::of(local_node()).await
    }

    async fn of(node: Node) -> Self {
        let (sides, received, met) = Default::default();
        let observer = Self { node, sides, received, met };
        observer.enable_handshake().await;
        observer.enable_reading().await;
        observer.enable_writing().await;
        observer.enable_on_connect().await;
        observer
    }
}

impl Pea2Pea for Observer {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Handshake for Observer {
    async fn perform_handshake(&self, conn: Connection) -> io::Result<Connection> {
        assert_eq!(conn.side(), conn.info().side());
        self.sides.push(("peer", conn.side()));
        Ok(conn)
    }
}

impl Reading for Observer {
    type Message = BytesMut;
    type Codec = BytesCodec;

    fn codec(&self, _: SocketAddr, side: ConnectionSide) -> BytesCodec {
        self.sides.push(("reader", side));
        BytesCodec::new()
    }

    async fn process_message(&self, _: SocketAddr, message: BytesMut) {
        if message == SHUT_DOWN {
            self.node.shut_down().await;
        }
        self.received.push(message.to_vec());
    }
}

impl Writing for Observer {
    type Message = BytesMut;
    type Codec = BytesCodec;

    fn codec(&self, _: SocketAddr, side: ConnectionSide) -> BytesCodec {
        self.sides.push(("writer", side));
        BytesCodec::new()
    }
}

impl OnConnect for Observer {
    const ABORTABLE: bool = false;

    async fn on_connect(&self, addr: SocketAddr) {
        self.met.push(addr);
    }
}

/// The address under which the only peer of a node is listed.
async fn only_peer(node: &Node) -> SocketAddr {
    wait_until("there is one peer", || node.num_connected() == 1).await;
    node.connected_addrs()[0]
}

#[tokio::test(crate = "ledger")]
async fn both_ends_list_the_connection_and_know_which_side_the_peer_is() {
    let (dialled, addr) = listening(local_config()).await;
    let dialler = local_node();
    dialler.connect(addr).await.unwrap();
    let addr_of_dialler = only_peer(&dialled).await;

    let ends = [(&dialler, addr, ConnectionSide::Responder), (&dialled, addr_of_dialler, ConnectionSide::Initiator)];
    for (node, peer, side_of_peer) in ends {
        assert_eq!((node.num_connected(), node.num_connecting()), (1, 0));
        assert_eq!(node.connected_addrs(), [peer]);
        assert!(node.is_connected(peer) && !node.is_connecting(peer));
        let infos = node.connection_infos();
        assert_eq!(infos.len(), 1);
        for info in [&infos[&peer], &node.connection_info(peer).unwrap()] {
            assert_eq!((info.addr(), info.side()), (peer, side_of_peer));
            assert!(Arc::ptr_eq(info.stats(), infos[&peer].stats()));
        }
    }
    assert_ne!(addr_of_dialler.port(), addr.port());
}

#[tokio::test(crate = "ledger")]
async fn the_facts_about_a_connection_outlive_it() {
    let (_peer, addr) = raw_peer().await;
    let node = local_node();
    let before = Instant::now();
    node.connect(addr).await.unwrap();
    let info = node.connection_info(addr).unwrap();
    assert!(node.disconnect(addr).await);
    assert!(node.connection_info(addr).is_none() && node.connection_infos().is_empty());
    assert_eq!((info.addr(), info.side()), (addr, ConnectionSide::Responder));
    assert!(info.stats().created() >= before);
}

#[tokio::test(crate = "ledger")]
async fn a_connection_is_connecting_during_its_handshake_and_connected_after_it() {
    let (peer, dialled) = raw_peer().await;
    let gated = Gated::new(local_config()).await;
    let node = &gated.node;
    let own = node.toggle_listener().await.unwrap().unwrap();
    let dial = gated.spawn_dial(dialled);
    let inbound = dial_from(own.ip(), own).await.unwrap();
    let accepted = inbound.local_addr().unwrap();
    gated.begun(2).await;

    assert_eq!((node.num_connecting(), node.num_connected()), (2, 0));
    assert!(node.connected_addrs().is_empty() && node.connection_infos().is_empty());
    for addr in [dialled, accepted] {
        assert!(node.is_connecting(addr) && !node.is_connected(addr));
        assert!(node.connection_info(addr).is_none());
        assert!(!node.disconnect(addr).await, "there is nothing to disconnect yet");
        assert!(node.is_connecting(addr));
    }
    gated.let_pass(2);
    in_time("the dial", dial).await.unwrap().unwrap();
    settled(node, 2).await;
    for addr in [dialled, accepted] {
        assert!(node.is_connected(addr) && !node.is_connecting(addr));
    }
    drop((peer, inbound));
}

#[tokio::test(crate = "ledger")]
async fn codecs_get_the_side_of_the_node_and_the_handshake_that_of_the_peer() {
    let (dialler, dialled) = (Observer::new().await, Observer::new().await);
    let addr = dialled.node.toggle_listener().await.unwrap().unwrap();
    dialler.node.connect(addr).await.unwrap();
    only_peer(&dialled.node).await;

    use ConnectionSide::{Initiator, Responder};
    assert_eq!(dialler.sides.all(), [("peer", Responder), ("reader", Initiator), ("writer", Initiator)]);
    assert_eq!(dialled.sides.all(), [("peer", Initiator), ("reader", Responder), ("writer", Responder)]);
}

#[tokio::test(crate = "ledger")]
async fn only_the_first_disconnect_returns_true_and_it_leaves_nothing() {
    let (peer, addr) = raw_peer().await;
    let node = local_node();
    assert!(!node.disconnect(addr).await, "it was never connected");
    node.connect(addr).await.unwrap();
    assert!(node.disconnect(addr).await);
    assert_vacant(&node);
    assert!(!node.is_connected(addr) && !node.is_connecting(addr));
    assert!(!node.disconnect(addr).await);
    let (mut stream, _) = peer.accept().await.unwrap();
    end_of(&mut stream).await;
}

#[tokio::test(crate = "ledger")]
async fn a_connection_that_is_being_ended_is_still_listed_and_counted() {
    let (_peer, addr) = raw_peer().await;
    let lingering = Lingering::new(local_config()).await;
    let node = &lingering.node;
    node.connect(addr).await.unwrap();
    let ending = lingering.begin_end(addr).await;
    assert!(node.is_connected(addr) && !node.is_connecting(addr));
    assert_eq!((node.num_connected(), node.connected_addrs()), (1, vec![addr]));
    assert!(node.connection_info(addr).is_some());
    assert!(!in_time("who does not end it does not wait", node.disconnect(addr)).await);
    lingering.let_end(1);
    assert!(in_time("the ending", ending).await.unwrap());
    assert_vacant(node);
}

#[tokio::test(crate = "ledger")]
async fn of_concurrent_disconnects_exactly_one_returns_true() {
    let (_peer, addr) = raw_peer().await;
    let node = local_node();
    for _ in 0..20 {
        node.connect(addr).await.unwrap();
        let disconnects: Vec<_> = (0..4)
            .map(|_| {
                let node = node.clone();
                tokio::spawn(async move { node.disconnect(addr).await })
            })
            .collect();
        let mut successes = 0;
        for disconnect in disconnects {
            successes += usize::from(disconnect.await.unwrap());
        }
        assert_eq!(successes, 1);
        assert_vacant(&node);
    }
}

#[tokio::test(crate = "ledger")]
async fn the_end_of_a_connection_is_seen_by_the_peer_that_reads() {
    let (dialler, dialled) = (Observer::new().await, Observer::new().await);
    let addr = dialled.node.toggle_listener().await.unwrap().unwrap();
    // From either end.
    dialler.node.connect(addr).await.unwrap();
    only_peer(&dialled.node).await;
    assert!(dialler.node.disconnect(addr).await);
    settled(&dialled.node, 0).await;

    dialler.node.connect(addr).await.unwrap();
    let addr_of_dialler = only_peer(&dialled.node).await;
    assert!(dialled.node.disconnect(addr_of_dialler).await);
    settled(&dialler.node, 0).await;
}

#[tokio::test(crate = "ledger")]
async fn an_address_can_be_dialled_again_at_once_after_a_disconnect() {
    // With limits that a connection which lingered on would exceed.
    let tight = Config { max_connections: 1, max_connections_per_ip: 1, max_connecting: 1, ..local_config() };
    let (dialled, addr) = listening(local_config()).await;
    let dialler = listed(tight);
    for round in 1..=50 {
        dialler.connect(addr).await.unwrap();
        assert_eq!(dialler.connected_addrs(), [addr], "round {round}");
        assert!(dialler.disconnect(addr).await);
    }
    assert_vacant(&dialler);
    settled(&dialled, 50).await;
}

#[tokio::test(crate = "ledger")]
async fn nodes_that_dial_each_other_at_once_get_two_connections() {
    let (alice, addr_of_alice) = listening(local_config()).await;
    let (bob, addr_of_bob) = listening(local_config()).await;
    let (by_alice, by_bob) = tokio::join!(alice.connect(addr_of_bob), bob.connect(addr_of_alice));
    by_alice.unwrap();
    by_bob.unwrap();
    settled(&alice, 2).await;
    settled(&bob, 2).await;
    for (node, dialled) in [(&alice, addr_of_bob), (&bob, addr_of_alice)] {
        let sides = node.connection_infos().into_iter().map(|(addr, info)| (addr == dialled, info.side()));
        let mut is_as_expected: Vec<_> =
            sides.map(|(was_dialled, side)| was_dialled == (side == ConnectionSide::Responder)).collect();
        is_as_expected.dedup();
        assert_eq!(is_as_expected, [true]);
    }
    // They are independent of each other.
    assert!(alice.disconnect(addr_of_bob).await);
    assert_eq!(alice.num_connected(), 1);
    assert!(bob.is_connected(addr_of_alice));
}

#[tokio::test(crate = "ledger")]
async fn a_node_lives_on_without_handles_while_it_listens() {
    let node = Node::new(Config { max_connections: 1, ..local_config() });
    let addr = node.toggle_listener().await.unwrap().unwrap();
    drop(node);
    leave_orphan();
    let _first = dial_from(addr.ip(), addr).await.unwrap();
    // Refused by the limit of the node: so the node is there, and has the first connection.
    let mut second = dial_from(addr.ip(), addr).await.unwrap();
    end_of(&mut second).await;
}

#[tokio::test(crate = "ledger")]
async fn a_node_lives_on_without_handles_while_it_has_a_protocol() {
    let sender = Observer::new().await;
    let addr = sender.node.toggle_listener().await.unwrap().unwrap();
    let receiver = Observer::of(Node::new(local_config())).await;
    let received = receiver.received.clone();
    receiver.node.connect(addr).await.unwrap();
    drop(receiver);
    let peer = only_peer(&sender.node).await;
    for byte in 0..3 {
        sender.unicast(peer, BytesMut::from(&[byte][..])).unwrap().await.unwrap().unwrap();
        received.wait_for(vec![byte]).await;
    }
    assert!(sender.node.is_connected(peer));
    // Only its hooks have handles of it.
    sender.unicast_fast(peer, BytesMut::from(SHUT_DOWN)).unwrap();
    settled(&sender.node, 0).await;
}

/// A peer that resets each connection the moment it is accepted.
fn resetting_peer(connections: usize) -> (SocketAddr, std::thread::JoinHandle<()>) {
    let socket = TcpSocket::new_v4().unwrap();
    // Accepted sockets inherit it: closing them sends a reset.
    socket.set_zero_linger().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(128).unwrap().into_std().unwrap();
    listener.set_nonblocking(false).unwrap();
    let addr = listener.local_addr().unwrap();
    let accepting = move || (0..connections).for_each(|_| drop(listener.accept().unwrap()));
    (addr, std::thread::spawn(accepting))
}

#[tokio::test(crate = "ledger")]
async fn connecting_succeeds_without_a_handshake_even_if_the_peer_resets_at_once() {
    const DIALS: usize = 1_000;
    let (addr, peer) = resetting_peer(DIALS);
    let node = local_node();
    for dial in 0..DIALS {
        let result = node.connect(addr).await;
        assert!(result.is_ok(), "dial {dial} of {DIALS}: {result:?}");
        assert!(node.disconnect(addr).await);
    }
    peer.join().unwrap();
}

#[tokio::test(crate = "ledger")]
async fn hooks_run_even_if_the_peer_has_reset_the_connection_already() {
    const DIALS: usize = 50;
    let (addr, peer) = resetting_peer(DIALS);
    let observer = Observer::new().await;
    for dial in 1..=DIALS {
        observer.node.connect(addr).await.unwrap();
        settled(&observer.node, 0).await;
        assert_eq!(observer.sides.count(&("peer", ConnectionSide::Responder)), dial);
        wait_until("on_connect has run", || observer.met.count(&addr) == dial).await;
    }
    peer.join().unwrap();
}

#[tokio::test(crate = "ledger")]
async fn everything_works_over_ipv6() {
    let config = Config { listener_addr: Some("[::1]:0".parse().unwrap()), ..local_config() };
    let (dialled, addr) = listening(config).await;
    assert!(addr.is_ipv6() && addr.ip().is_loopback());
    let dialler = local_node();
    dialler.connect(addr).await.unwrap();
    let addr_of_dialler = only_peer(&dialled).await;
    assert!(addr_of_dialler.is_ipv6());
    assert!(dialler.is_connected(addr) && dialled.is_connected(addr_of_dialler));
    assert!(dialled.disconnect(addr_of_dialler).await);
    assert!(dialler.disconnect(addr).await);
    assert_vacant(&dialler);
    assert_vacant(&dialled);
}
