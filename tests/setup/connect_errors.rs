//! Each way in which `connect` fails: the kind of error, what it names, what it counts, and that nothing is left of it.

use std::{
    error::Error,
    fmt,
    future::Future,
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use pea2pea::{
    Config, Connection, ConnectionSide, Node, Pea2Pea, ShuttingDown,
    protocols::{Handshake, Reading, Writing},
};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::{bytes::BytesMut, codec::BytesCodec};

use crate::{
    common::{
        self, in_time, local_config, local_node,
        nodes::listed,
        setups::{Gated, Lingering, assert_vacant, raw_peer, refusing_peer},
    },
    ledger,
};

/// Room for exactly one of everything: whatever a failure left behind would be in the way of the next dial.
fn tight_config() -> Config {
    Config { max_connections: 1, max_connections_per_ip: 1, max_connecting: 1, ..local_config() }
}

/// Any port of an address that nothing else uses, so that nobody takes a port that was just given up.
fn private(last_byte: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 78, last_byte], 0))
}

/// The counters that dialling may raise: budget, handshake timeouts; and the sum of the others.
fn counters(node: &Node) -> (u64, u64, u64) {
    let counters = node.heuristics();
    let others = counters.inbound_connections_rejected()
        + counters.accept_errors()
        + counters.idle_timeouts()
        + counters.write_timeouts();
    (counters.connect_budget_rejections(), counters.handshake_timeouts(), others)
}

/// Checks the kind of an error, and that its text names the address and, beside it, some other things.
#[track_caller]
fn assert_names(error: &io::Error, kind: ErrorKind, addr: SocketAddr, others: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    assert!(text.contains(&addr.to_string()), "{addr} is not named: {text}");
    let rest = text.replace(&addr.to_string(), "").replace(&addr.ip().to_string(), "");
    assert!(others.iter().all(|other| rest.contains(other)), "{others:?} are not all named: {text}");
    assert!(!ShuttingDown::caused(error));
}

/// The error of a dial that fails.
async fn refusal(node: &Node, addr: SocketAddr) -> io::Error {
    in_time("the dial", node.connect(addr)).await.unwrap_err()
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    Error,
    Hang,
    Panic,
    PanicBeforeTheFuture,
    PanicInReadingCodec,
    PanicInWritingCodec,
}

#[derive(Debug, PartialEq)]
struct Refusal(u32);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refusal number {}", self.0)
    }
}

impl Error for Refusal {}

/// A node whose hooks have the fault that is set.
#[derive(Clone)]
struct Faulty {
    node: Node,
    fault: Arc<Mutex<Fault>>,
}

impl Faulty {
    async fn new(fault: Fault) -> Self {
        let faulty = Self { node: listed(tight_config()), fault: Arc::new(Mutex::new(fault)) };
        faulty.enable_handshake().await;
        faulty.enable_reading().await;
        faulty.enable_writing().await;
        faulty
    }

    fn has(&self, fault: Fault) -> bool {
        *self.fault.lock().unwrap() == fault
    }

    /// Dials a peer while the hooks are at fault, and again, in the same slot, when they are not.
    async fn dial_fails_with(fault: Fault, expected: impl FnOnce(&io::Error, SocketAddr), expected_timeouts: u64) {
        let (_peer, addr) = raw_peer().await;
        let faulty = Self::new(fault).await;
        expected(&refusal(&faulty.node, addr).await, addr);
        assert_eq!(counters(&faulty.node), (0, expected_timeouts, 0));
        assert_vacant(&faulty.node);
        *faulty.fault.lock().unwrap() = Fault::None;
        faulty.node.connect(addr).await.unwrap();
        assert!(faulty.node.is_connected(addr));
    }
}

impl Pea2Pea for Faulty {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Handshake for Faulty {
    const TIMEOUT_MS: u64 = 99;

    fn perform_handshake(&self, conn: Connection) -> impl Future<Output = io::Result<Connection>> + Send {
        assert!(!self.has(Fault::PanicBeforeTheFuture), "an intended panic");
        async move {
            assert!(!self.has(Fault::Panic), "an intended panic");
            if self.has(Fault::Error) {
                return Err(io::Error::new(ErrorKind::InvalidData, Refusal(7)));
            }
            if self.has(Fault::Hang) {
                std::future::pending::<()>().await;
            }
            Ok(conn)
        }
    }
}

impl Reading for Faulty {
    type Message = BytesMut;
    type Codec = BytesCodec;

    fn codec(&self, _: SocketAddr, _: ConnectionSide) -> BytesCodec {
        assert!(!self.has(Fault::PanicInReadingCodec), "an intended panic");
        BytesCodec::new()
    }

    async fn process_message(&self, _: SocketAddr, _: BytesMut) {}
}

impl Writing for Faulty {
    type Message = BytesMut;
    type Codec = BytesCodec;

    fn codec(&self, _: SocketAddr, _: ConnectionSide) -> BytesCodec {
        assert!(!self.has(Fault::PanicInWritingCodec), "an intended panic");
        BytesCodec::new()
    }
}

#[tokio::test(crate = "ledger")]
async fn the_error_of_a_handshake_comes_back_as_it_is() {
    let expected = |error: &io::Error, _| {
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert_eq!(error.get_ref().unwrap().downcast_ref(), Some(&Refusal(7)));
    };
    Faulty::dial_fails_with(Fault::Error, expected, 0).await;
}

#[tokio::test(crate = "ledger")]
async fn a_handshake_out_of_time_is_timed_out_and_counted() {
    let expected = |error: &io::Error, addr| assert_names(error, ErrorKind::TimedOut, addr, &["99"]);
    Faulty::dial_fails_with(Fault::Hang, expected, 1).await;
}

#[tokio::test(crate = "ledger")]
async fn a_panic_in_user_code_is_an_error_that_names_the_hook() {
    for (fault, hook) in [
        (Fault::Panic, "perform_handshake"),
        (Fault::PanicBeforeTheFuture, "perform_handshake"),
        (Fault::PanicInReadingCodec, "Reading::codec"),
        (Fault::PanicInWritingCodec, "Writing::codec"),
    ] {
        let expected = |error: &io::Error, addr| assert_names(error, ErrorKind::Other, addr, &[hook]);
        Faulty::dial_fails_with(fault, expected, 0).await;
    }
}

/// Listens at an address and dials others, which must be its own.
async fn assert_own(listener_addr: &str, own_ips: &[&str]) {
    let config = Config { listener_addr: Some(listener_addr.parse().unwrap()), ..tight_config() };
    let node = listed(config);
    let own = node.toggle_listener().await.unwrap().unwrap();
    let forms = own_ips.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), own.port()));
    for addr in forms.chain([own]) {
        let error = refusal(&node, addr).await;
        assert_names(&error, ErrorKind::AddrInUse, addr, &[]);
        let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let error = node.connect_using_socket(addr, socket.unwrap()).await.unwrap_err();
        assert_names(&error, ErrorKind::AddrInUse, addr, &[]);
        assert_vacant(&node);
    }
    assert_eq!(counters(&node), (0, 0, 0));
    let (_peer, addr) = raw_peer().await;
    node.connect(addr).await.unwrap();
}

#[tokio::test(crate = "ledger")]
async fn the_own_address_in_any_form_is_in_use() {
    assert_own("127.0.0.1:0", &["127.0.0.1", "::ffff:127.0.0.1"]).await;
    assert_own("127.0.0.2:0", &["127.0.0.2", "::ffff:127.0.0.2"]).await;
    assert_own("[::1]:0", &["::1"]).await;
    assert_own("0.0.0.0:0", &["127.0.0.1", "127.0.0.2", "127.255.255.254", "0.0.0.0", "::ffff:127.0.0.1"]).await;
    assert_own("[::]:0", &["::1", "::", "127.0.0.1", "127.0.0.2", "::ffff:127.0.0.1"]).await;
}

#[tokio::test(crate = "ledger")]
async fn the_own_port_of_another_address_is_not_the_own_address() {
    let node = local_node();
    let own = node.toggle_listener().await.unwrap().unwrap();
    let neighbour = SocketAddr::new("127.0.0.7".parse().unwrap(), own.port());
    let _peer = TcpListener::bind(neighbour).await.unwrap();
    node.connect(neighbour).await.unwrap();
    assert_eq!(node.connected_addrs(), [neighbour]);
}

#[tokio::test(crate = "ledger")]
async fn somebody_else_at_the_same_port_of_ipv6_is_not_the_own_address() {
    for listener_addr in ["0.0.0.0:0", "127.0.0.1:0"] {
        let node = listed(Config { listener_addr: Some(listener_addr.parse().unwrap()), ..local_config() });
        let own = node.toggle_listener().await.unwrap().unwrap();
        let _peer = TcpListener::bind(("::1", own.port())).await.unwrap();
        for ip in ["::1", "::"] {
            let other = SocketAddr::new(ip.parse().unwrap(), own.port());
            node.connect(other).await.unwrap();
            assert!(node.is_connected(other));
        }
    }
}

#[tokio::test(crate = "ledger")]
async fn the_former_own_address_is_not_the_own_address() {
    let node = listed(Config { listener_addr: Some(private(1)), ..tight_config() });
    let former = node.toggle_listener().await.unwrap().unwrap();
    node.toggle_listener().await.unwrap();
    let _peer = TcpListener::bind(former).await.unwrap();
    node.connect(former).await.unwrap();
}

#[tokio::test(crate = "ledger")]
async fn a_socket_that_connects_to_itself_is_in_use() {
    let node = listed(tight_config());
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(private(2)).unwrap();
    let addr = socket.local_addr().unwrap();
    let error = node.connect_using_socket(addr, socket).await.unwrap_err();
    assert_names(&error, ErrorKind::AddrInUse, addr, &[]);
    assert_vacant(&node);
    // The port is free again, and so is the slot.
    let _peer = TcpListener::bind(addr).await.unwrap();
    node.connect(addr).await.unwrap();
}

#[tokio::test(crate = "ledger")]
async fn an_address_in_use_already_exists_in_each_state_of_its_connection() {
    let (_peer, addr) = raw_peer().await;
    let gated = Gated::new(local_config()).await;
    let dial = gated.spawn_dial(addr);
    gated.begun(1).await;
    let error = refusal(&gated.node, addr).await;
    assert_names(&error, ErrorKind::AlreadyExists, addr, &[]);
    assert!(gated.node.is_connecting(addr), "the dial that was first goes on");
    gated.let_pass(1);
    in_time("the first dial", dial).await.unwrap().unwrap();
    let error = refusal(&gated.node, addr).await;
    assert_names(&error, ErrorKind::AlreadyExists, addr, &[]);
    assert_eq!(gated.num_begun(), 1);
    assert_eq!(counters(&gated.node), (0, 0, 0));

    let lingering = Lingering::new(tight_config()).await;
    lingering.node.connect(addr).await.unwrap();
    let ending = lingering.begin_end(addr).await;
    // Being torn down.
    let error = refusal(&lingering.node, addr).await;
    assert_names(&error, ErrorKind::AlreadyExists, addr, &[]);
    lingering.let_end(1);
    assert!(in_time("the ending", ending).await.unwrap());
    assert_vacant(&lingering.node);
    lingering.node.connect(addr).await.unwrap();
    assert_eq!(counters(&lingering.node), (0, 0, 0));
    lingering.let_end(1);
}

#[tokio::test(crate = "ledger")]
async fn a_used_up_limit_is_a_quota_exceeded_that_names_it() {
    const LIMIT: u16 = 3;
    let limits = [
        (["max_connections_per_ip", "3"], Config { max_connections_per_ip: LIMIT, ..local_config() }),
        (["max_connections", "3"], Config { max_connections: LIMIT, ..local_config() }),
    ];
    for (limit, config) in limits {
        let node = listed(config);
        let mut peers = Vec::new();
        for _ in 0..LIMIT {
            let (peer, addr) = raw_peer().await;
            node.connect(addr).await.unwrap();
            peers.push((peer, addr));
        }
        let (_peer, addr) = raw_peer().await;
        let error = refusal(&node, addr).await;
        assert_names(&error, ErrorKind::QuotaExceeded, addr, &limit);
        assert!(!node.is_connecting(addr) && node.num_connected() == usize::from(LIMIT));
        let (_, live) = peers[0];
        // What is connected already needs no more room.
        let error = refusal(&node, live).await;
        assert_names(&error, ErrorKind::AlreadyExists, live, &[]);
        assert!(node.disconnect(live).await);
        node.connect(addr).await.unwrap();
        assert_eq!(counters(&node), (0, 0, 0), "these are not the setup budget");
    }
}

#[tokio::test(crate = "ledger")]
async fn a_used_up_setup_budget_is_a_quota_exceeded_and_counted() {
    let gated = Gated::new(Config { max_connecting: 1, ..local_config() }).await;
    let (_live_peer, live) = raw_peer().await;
    let (_pending_peer, pending) = raw_peer().await;
    let (_other_peer, other) = raw_peer().await;
    gated.let_pass(1);
    gated.node.connect(live).await.unwrap();
    let dial = gated.spawn_dial(pending);
    gated.begun(2).await;
    for (rejections, addr) in [(1, other), (2, pending)] {
        let error = refusal(&gated.node, addr).await;
        assert_names(&error, ErrorKind::QuotaExceeded, addr, &["max_connecting", "1"]);
        assert_eq!(counters(&gated.node), (rejections, 0, 0));
    }
    // Connected: that needs no budget to be found out.
    let error = refusal(&gated.node, live).await;
    assert_names(&error, ErrorKind::AlreadyExists, live, &[]);
    assert_eq!(counters(&gated.node), (2, 0, 0));
    gated.let_pass(2);
    in_time("the pending dial", dial).await.unwrap().unwrap();
    gated.node.connect(other).await.unwrap();
}

/// A peer that never answers: its backlog is full, so it drops what asks to connect.
async fn silent_peer() -> (TcpListener, TcpStream, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(private(3)).unwrap();
    let listener = socket.listen(0).unwrap();
    let addr = listener.local_addr().unwrap();
    let filler = TcpStream::connect(addr).await.unwrap();
    (listener, filler, addr)
}

#[tokio::test(crate = "ledger")]
async fn a_dial_out_of_time_is_timed_out() {
    let (peer, filler, addr) = silent_peer().await;
    let node = listed(Config { connection_timeout_ms: 88, ..tight_config() });
    let error = refusal(&node, addr).await;
    assert_names(&error, ErrorKind::TimedOut, addr, &["88"]);
    let error = in_time("the dial", node.connect_using_socket(addr, TcpSocket::new_v4().unwrap())).await.unwrap_err();
    assert_names(&error, ErrorKind::TimedOut, addr, &["88"]);
    assert_vacant(&node);
    assert_eq!(counters(&node), (0, 0, 0), "it was not a handshake");
    drop((peer, filler));
    let _peer = TcpListener::bind(addr).await.unwrap();
    node.connect(addr).await.unwrap();
}

#[tokio::test(crate = "ledger")]
async fn what_the_os_says_comes_back_as_it_is() {
    let node = listed(tight_config());
    let (_refusing, vacant) = refusing_peer();
    let refused = refusal(&node, vacant).await;
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert!(refused.raw_os_error().is_some());
    assert_vacant(&node);
    let (_peer, addr) = raw_peer().await;
    let mismatch = node.connect_using_socket(addr, TcpSocket::new_v6().unwrap()).await.unwrap_err();
    assert!(mismatch.raw_os_error().is_some(), "an IPv6 socket for an IPv4 address: {mismatch}");
    assert_vacant(&node);
    node.connect(addr).await.unwrap();
    assert_eq!(counters(&node), (0, 0, 0));
}

#[tokio::test(crate = "ledger")]
async fn a_node_that_shuts_down_says_so_whatever_the_dial_waits_for() {
    let (_peer, addr) = raw_peer().await;
    let (silent, filler, silent_addr) = silent_peer().await;
    let gated = Gated::new(Config { connection_timeout_ms: u16::MAX, ..local_config() }).await;
    let in_handshake = gated.spawn_dial(addr);
    let in_tcp = gated.spawn_dial(silent_addr);
    gated.begun(1).await;
    common::wait_until("both are connecting", || gated.node.num_connecting() == 2).await;
    in_time("the shutdown", gated.node.shut_down()).await;
    for dial in [in_handshake, in_tcp] {
        let error = in_time("the dial", dial).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Other);
        assert!(ShuttingDown::caused(&error), "{error}");
    }
    let (_refusing, vacant) = refusing_peer();
    for addr in [addr, vacant] {
        assert!(ShuttingDown::caused(&refusal(&gated.node, addr).await));
        let socket = TcpSocket::new_v4().unwrap();
        assert!(ShuttingDown::caused(&gated.node.connect_using_socket(addr, socket).await.unwrap_err()));
    }
    assert_vacant(&gated.node);
    assert_eq!(counters(&gated.node), (0, 0, 0));
    drop((silent, filler));
}
