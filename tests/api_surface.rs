//! Names every public item with its exact signature, default and auto traits: drift does not compile.

#![deny(deprecated)]
#![allow(clippy::type_complexity, clippy::extra_unused_type_parameters, reason = "types are what is tested")]

mod common;
#[path = "common/ledger.rs"]
mod ledger;

use std::{
    collections::HashMap,
    error::Error,
    fmt::{Debug, Display},
    future::Future,
    hash::Hash,
    io,
    net::SocketAddr,
    ops::Not,
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use pea2pea::{
    Config, Connection, ConnectionInfo, ConnectionSide, DisconnectOrigin, Heuristics, Node, Pea2Pea, ShuttingDown,
    Stats, Topology, connect_nodes, protocols::*,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpSocket, TcpStream},
    sync::oneshot,
};
use tokio_util::{
    bytes::BytesMut,
    codec::{Decoder, Encoder},
};

fn send_future<T>(_unpolled: impl Future<Output = T> + Send) {}

fn named_node() -> Node {
    Node::new(Config { name: Some("named".into()), ..Default::default() })
}

#[test]
fn the_fields_of_the_configuration_have_their_types_and_defaults() {
    ledger::check(|| {
        // Exhaustive on purpose: one more public field would break whoever writes all of them.
        let Config {
            name,
            listener_addr,
            listener_backlog,
            reuse_listener_port,
            max_connections,
            max_connections_per_ip,
            max_connecting,
            connection_timeout_ms,
        } = Config::default();
        let (ip, per_ip) = if cfg!(feature = "test") { ("127.0.0.1:0", 100) } else { ("0.0.0.0:0", 1) };
        assert_eq!(name, None::<String>);
        assert_eq!(listener_addr, Some(ip.parse::<SocketAddr>().unwrap()));
        assert_eq!(listener_backlog, 128_u32);
        assert!(!reuse_listener_port);
        assert_eq!(max_connections, 100_u16);
        assert_eq!(max_connections_per_ip, per_ip as u16);
        assert_eq!(max_connecting, 100_u16);
        assert_eq!(connection_timeout_ms, 1_000_u16);

        fn is<T: Debug + Clone + Default + Send + Sync + 'static>() {}
        is::<Config>();
    });
}

#[cfg(feature = "test")]
#[test]
fn the_feature_test_changes_two_defaults() {
    ledger::check(|| {
        let config = Config::default();
        assert_eq!(config.listener_addr, Some("127.0.0.1:0".parse().unwrap()));
        assert_eq!(config.max_connections_per_ip, 100);
    });
}

/// The only test in this file that makes nodes without a name: the numbers are counted in the whole process.
#[test]
fn unnamed_nodes_are_numbered_from_0_in_their_config_too_and_named_ones_take_no_number() {
    ledger::check(|| {
        let names: Vec<_> = [None, None, Some("alice".into()), None, Some(String::new()), None]
            .into_iter()
            .map(|name| {
                let node = Node::new(Config { name, ..Default::default() });
                assert_eq!(node.config().name.as_deref(), Some(node.name()));
                node.name().to_owned()
            })
            .collect();
        assert_eq!(names, ["0", "1", "alice", "2", "", "3"]);
    });
}

#[test]
fn the_methods_of_a_node_have_their_signatures() {
    ledger::check(|| {
        let _: fn(Config) -> Node = Node::new;
        let _: fn(&Node) -> &str = Node::name;
        let _: fn(&Node) -> &Config = Node::config;
        let _: fn(&Node) -> &Stats = Node::stats;
        let _: fn(&Node) -> &Heuristics = Node::heuristics;
        let _: fn(&Node) -> &tracing::Span = Node::span;
        let _: fn(&Node) -> Vec<SocketAddr> = Node::connected_addrs;
        let _: fn(&Node, SocketAddr) -> bool = Node::is_connected;
        let _: fn(&Node, SocketAddr) -> bool = Node::is_connecting;
        let _: fn(&Node) -> usize = Node::num_connected;
        let _: fn(&Node) -> usize = Node::num_connecting;
        let _: fn(&Node, SocketAddr) -> Option<ConnectionInfo> = Node::connection_info;
        let _: fn(&Node) -> HashMap<SocketAddr, ConnectionInfo> = Node::connection_infos;

        fn is<T: Clone + Send + Sync + 'static>() {}
        is::<Node>();
    });
}

#[test]
fn the_futures_of_a_node_are_send() {
    ledger::check(|| {
        let node = named_node();
        let addr: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _entered = runtime.enter();
        send_future::<io::Result<Option<SocketAddr>>>(node.toggle_listener());
        send_future::<io::Result<SocketAddr>>(node.listening_addr());
        send_future::<io::Result<()>>(node.connect(addr));
        send_future::<io::Result<()>>(node.connect_using_socket(addr, TcpSocket::new_v4().unwrap()));
        send_future::<bool>(node.disconnect(addr));
        send_future::<()>(node.shut_down());
    });
}

#[test]
fn the_facts_about_connections_have_their_signatures() {
    ledger::check(|| {
        let _: fn(&ConnectionInfo) -> SocketAddr = ConnectionInfo::addr;
        let _: fn(&ConnectionInfo) -> ConnectionSide = ConnectionInfo::side;
        let _: fn(&ConnectionInfo) -> &Arc<Stats> = ConnectionInfo::stats;
        let _: fn(&ConnectionInfo) -> &tracing::Span = ConnectionInfo::span;
        let _: fn(&Connection) -> &ConnectionInfo = Connection::info;
        let _: fn(&Connection) -> SocketAddr = Connection::addr;
        let _: fn(&Connection) -> ConnectionSide = Connection::side;
        let _: fn(&Connection) -> &Arc<Stats> = Connection::stats;
        let _: fn(&Connection) -> &tracing::Span = Connection::span;

        fn is<T: Send + Sync + 'static>() {}
        is::<Connection>();
        fn is_clone<T: Clone + Send + Sync + 'static>() {}
        is_clone::<ConnectionInfo>();
    });
}

#[test]
fn the_enums_have_exactly_their_variants_and_traits() {
    ledger::check(|| {
        fn is_side<T: Copy + Eq + Debug + Not<Output = T> + Send + Sync + 'static>() {}
        is_side::<ConnectionSide>();
        let opposite = |side: ConnectionSide| match side {
            ConnectionSide::Initiator => ConnectionSide::Responder,
            ConnectionSide::Responder => ConnectionSide::Initiator,
        };
        for side in [ConnectionSide::Initiator, ConnectionSide::Responder] {
            assert_eq!(!side, opposite(side));
        }

        fn is_origin<T: Copy + Eq + Hash + Debug + Send + Sync + 'static>() {}
        is_origin::<DisconnectOrigin>();
        let _exhaustive = |origin: DisconnectOrigin| match origin {
            DisconnectOrigin::OnConnectAbort
            | DisconnectOrigin::Reading
            | DisconnectOrigin::Shutdown
            | DisconnectOrigin::User
            | DisconnectOrigin::Writing => (),
        };

        fn is_topology<T: Copy + Eq + Debug + Send + Sync + 'static>() {}
        is_topology::<Topology>();
        let _exhaustive = |topology: Topology| match topology {
            Topology::Line | Topology::Ring | Topology::Mesh | Topology::Star | Topology::Tree => (),
            Topology::Grid { width, height } => _ = [width, height] as [usize; 2],
            Topology::Random { degree, seed } => _ = (degree, seed) as (usize, u64),
        };
    });
}

#[test]
fn shutting_down_is_an_error_that_can_be_recognised() {
    ledger::check(|| {
        fn is<T: Copy + Eq + Debug + Display + Error + Send + Sync + 'static>() {}
        is::<ShuttingDown>();
        let caused: fn(&io::Error) -> bool = ShuttingDown::caused;
        assert!(caused(&io::Error::other(ShuttingDown)));
        assert!(!caused(&io::Error::other("another error")));
        assert!(!caused(&io::ErrorKind::Other.into()));
        assert!(!ShuttingDown.to_string().is_empty());
    });
}

#[test]
fn the_counters_have_their_signatures_and_begin_at_zero() {
    ledger::check(|| {
        let _: fn(&Stats, usize, usize) = Stats::register_sent_messages;
        let _: fn(&Stats, usize) = Stats::register_received_message;
        let _: fn(&Stats) -> Instant = Stats::created;
        let getters: [fn(&Stats) -> (u64, u64); 2] = [Stats::sent, Stats::received];
        assert!(getters.iter().all(|getter| getter(&Stats::default()) == (0, 0)));

        let getters: [fn(&Heuristics) -> u64; 6] = [
            Heuristics::connect_budget_rejections,
            Heuristics::inbound_connections_rejected,
            Heuristics::accept_errors,
            Heuristics::handshake_timeouts,
            Heuristics::idle_timeouts,
            Heuristics::write_timeouts,
        ];
        assert!(getters.iter().all(|getter| getter(&Heuristics::default()) == 0));

        fn is<T: Default + Send + Sync + 'static>() {}
        is::<Stats>();
        is::<Heuristics>();
    });
}

#[test]
fn the_module_connections_has_the_types_of_the_root() {
    ledger::check(|| {
        use pea2pea::connections::{Connection as C, ConnectionInfo as I, ConnectionSide as S, DisconnectOrigin as O};
        let _: (fn(Connection) -> C, fn(ConnectionInfo) -> I) = (|same| same, |same| same);
        let _: (fn(ConnectionSide) -> S, fn(DisconnectOrigin) -> O) = (|same| same, |same| same);
    });
}

/// Items of a program that also imports `protocols::*`: if that exported one of these names, using it would be ambiguous.
mod items_of_a_program {
    pub(super) struct Message;
    pub(super) struct Codec;
    pub(super) struct Protocol;
    pub(super) struct Adapter;
    pub(super) const MIN_BUFFER_SIZE: usize = 0;
}

mod a_program {
    use pea2pea::protocols::*;

    use super::items_of_a_program::*;

    pub(super) fn uses_what_it_imports<T: Handshake + Reading + Writing + OnConnect + OnDisconnect>() {
        _ = (Message, Codec, Protocol, Adapter, MIN_BUFFER_SIZE);
    }
}

#[test]
fn protocols_exports_exactly_the_five_traits() {
    ledger::check(|| {
        a_program::uses_what_it_imports::<Minimal>();
        let mut exported: Vec<_> = include_str!("../src/protocols/mod.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("pub "))
            .map(|item| item.rsplit("::").next().unwrap_or(item))
            .collect();
        exported.sort_unstable();
        assert_eq!(exported, ["Handshake;", "OnConnect;", "OnDisconnect;", "Reading;", "Writing;"]);
    });
}

/// Implements every protocol with nothing but what each requires, for messages and codecs that are only just good enough.
#[derive(Clone)]
struct Minimal(Node);

/// `Send`, but neither `Sync` nor `Clone`.
struct SendOnly(#[expect(dead_code)] std::cell::Cell<u8>);

impl Decoder for SendOnly {
    type Item = Self;
    type Error = io::Error;

    fn decode(&mut self, _: &mut BytesMut) -> io::Result<Option<Self>> {
        Ok(None)
    }
}

impl Encoder<Self> for SendOnly {
    type Error = io::Error;

    fn encode(&mut self, _: Self, _: &mut BytesMut) -> io::Result<()> {
        Ok(())
    }
}

impl Pea2Pea for Minimal {
    fn node(&self) -> &Node {
        &self.0
    }
}

impl Handshake for Minimal {
    async fn perform_handshake(&self, conn: Connection) -> io::Result<Connection> {
        Ok(conn)
    }
}

impl Reading for Minimal {
    type Message = SendOnly;
    type Codec = SendOnly;

    fn codec(&self, _: SocketAddr, _: ConnectionSide) -> SendOnly {
        SendOnly(Default::default())
    }

    async fn process_message(&self, _: SocketAddr, _: SendOnly) {}
}

impl Writing for Minimal {
    type Message = SendOnly;
    type Codec = SendOnly;

    fn codec(&self, _: SocketAddr, _: ConnectionSide) -> SendOnly {
        SendOnly(Default::default())
    }
}

impl OnConnect for Minimal {
    async fn on_connect(&self, _: SocketAddr) {}
}

impl OnDisconnect for Minimal {
    async fn on_disconnect(&self, _: SocketAddr, _: DisconnectOrigin) {}
}

const THE_PROTOCOLS_HAVE_THEIR_DEFAULTS: () = {
    let handshake: u64 = <Minimal as Handshake>::TIMEOUT_MS;
    let on_disconnect: u64 = <Minimal as OnDisconnect>::TIMEOUT_MS;
    assert!(handshake == 3_000 && on_disconnect == 3_000 && <Minimal as OnConnect>::ABORTABLE);
    let (depth, buffer): (usize, usize) =
        (<Minimal as Reading>::MESSAGE_QUEUE_DEPTH, <Minimal as Reading>::INITIAL_BUFFER_SIZE);
    let idle: u64 = Minimal::IDLE_TIMEOUT_MS;
    assert!(depth == 64 && buffer == 64 * 1024 && idle == 60_000 && Minimal::BACKPRESSURE);
    let (depth, buffer): (usize, usize) =
        (<Minimal as Writing>::MESSAGE_QUEUE_DEPTH, <Minimal as Writing>::INITIAL_BUFFER_SIZE);
    let flush: u64 = <Minimal as Writing>::TIMEOUT_MS;
    assert!(depth == 64 && buffer == 64 * 1024 && flush == 10_000);
};

/// Whatever implements a protocol is known to be all of this.
fn is_protocol<T: Pea2Pea + Clone + Send + Sync + 'static>() {}

fn handshake<T: Handshake>(user: &T, conn: Connection) {
    is_protocol::<T>();
    send_future::<io::Result<Connection>>(user.perform_handshake(conn));
    send_future::<()>(user.enable_handshake());
    let _: fn(&T, &mut Connection) -> TcpStream = T::take_stream;
    let _: for<'a> fn(&T, &'a mut Connection) -> &'a mut TcpStream = T::borrow_stream;
}

/// A wrapped stream need not be `Unpin`.
fn returning<T: Handshake, S: AsyncRead + AsyncWrite + Send + Sync + 'static>() {
    let _: fn(&T, &mut Connection, S) = T::return_stream::<S>;
}

fn reading<T: Reading>(user: &T, addr: SocketAddr, message: T::Message) {
    fn is_codec<M: Send, C: Decoder<Item = M, Error = io::Error> + Send>() {}
    is_protocol::<T>();
    is_codec::<T::Message, T::Codec>();
    send_future::<()>(user.process_message(addr, message));
    send_future::<()>(user.enable_reading());
    let _: fn(&T, SocketAddr, ConnectionSide) -> T::Codec = T::codec;
}

type Receipt = oneshot::Receiver<io::Result<()>>;

fn writing<T: Writing>(user: &T) {
    fn is_codec<M: Send, C: Encoder<M, Error = io::Error> + Send>() {}
    is_protocol::<T>();
    is_codec::<T::Message, T::Codec>();
    send_future::<()>(user.enable_writing());
    let _: fn(&T, SocketAddr, ConnectionSide) -> T::Codec = T::codec;
    let _: fn(&T, SocketAddr, T::Message) -> io::Result<Receipt> = T::unicast;
    let _: fn(&T, SocketAddr, T::Message) -> io::Result<()> = T::unicast_fast;
}

/// `broadcast` is for messages that can be cloned, and deprecated.
#[expect(dead_code, reason = "a generic function is checked where it stands")]
#[expect(deprecated, reason = "as it is in 0.57: this is unfulfilled when it is not")]
fn broadcasting<T: Writing<Message: Clone>>() {
    let _: fn(&T, T::Message) -> io::Result<()> = T::broadcast;
}

fn hooks<T: OnConnect + OnDisconnect>(user: &T, addr: SocketAddr) {
    is_protocol::<T>();
    send_future::<()>(user.on_connect(addr));
    send_future::<()>(user.enable_on_connect());
    send_future::<()>(user.on_disconnect(addr, DisconnectOrigin::User));
    send_future::<()>(user.enable_on_disconnect());
}

/// `Send`, `Sync` and `Clone` are asked of protocols, not of `Pea2Pea`.
struct Unshared(Node, #[expect(dead_code)] Rc<()>);

impl Pea2Pea for Unshared {
    fn node(&self) -> &Node {
        &self.0
    }
}

#[test]
fn topologies_have_their_signatures() {
    ledger::check(|| {
        let _: fn(&Topology, usize) -> usize = Topology::num_expected_connections;
        let shared = [Minimal(named_node())];
        send_future::<io::Result<()>>(connect_nodes(&shared, Topology::Line));
        let _: &dyn Pea2Pea = &shared[0];
        let unshared = [Unshared(named_node(), Rc::default())];
        _ = connect_nodes::<Unshared>(&unshared, Topology::Line);
    });
}

#[test]
fn the_protocols_have_their_signatures_bounds_and_defaults() {
    ledger::check(|| {
        let () = THE_PROTOCOLS_HAVE_THEIR_DEFAULTS;
        let minimal = Minimal(named_node());
        let _: fn(&Minimal, Connection) = handshake;
        returning::<Minimal, TcpStream>();
        reading(&minimal, "127.0.0.1:1".parse().unwrap(), SendOnly(Default::default()));
        writing(&minimal);
        hooks(&minimal, "127.0.0.1:1".parse().unwrap());
    });
}
