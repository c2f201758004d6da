//! Config, construction, and the plain values of the API.

use std::{collections::HashSet, io, net::SocketAddr};

use bytes::Bytes;

use super::{
    super::p2p::{
        Config, Connection, ConnectionSide, DisconnectOrigin, Heuristics, Node, Pea2Pea, ShuttingDown, Stats,
        protocols::*,
    },
    actor::{config, plain},
    faults::panic_text,
};
use crate::shared::{observation::Observation, wire::Frames};

pub(crate) async fn the_defaults_are_the_documented_ones() -> Observation {
    let mut seen = Observation::new();
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
    seen.note("name", name);
    seen.note("listener_addr", listener_addr);
    seen.note("listener_backlog", listener_backlog);
    seen.note("reuse_listener_port", reuse_listener_port);
    seen.note("max_connections", max_connections);
    seen.note("max_connections_per_ip", max_connections_per_ip);
    seen.note("max_connecting", max_connecting);
    seen.note("connection_timeout_ms", connection_timeout_ms);
    seen
}

/// The only scenario with unnamed nodes: the counter is one per process.
pub(crate) async fn unnamed_nodes_are_numbered_from_zero() -> Observation {
    let mut seen = Observation::new();
    for _ in 0..3 {
        let node = Node::new(Config { name: None, ..config() });
        seen.note("name", node.name());
        seen.note("name in the config", &node.config().name);
        seen.note("name in the config of a clone", &node.clone().config().name);
    }
    Node::new(Config { name: Some("named".into()), ..config() });
    seen.note("a named node takes no number", Node::new(Config { name: None, ..config() }).name());
    seen
}

pub(crate) async fn a_given_name_is_kept() -> Observation {
    let mut seen = Observation::new();
    for name in ["alice", "", "7"] {
        let node = Node::new(Config { name: Some(name.into()), ..config() });
        seen.note("name", node.name());
        seen.note("name in the config", &node.config().name);
        seen.note("name of a clone", node.clone().name());
    }
    seen
}

pub(crate) async fn the_setup_budget_is_clamped_to_the_connection_limit() -> Observation {
    let mut seen = Observation::new();
    for (max_connections, max_connecting) in [(10, 100), (10, 10), (10, 3), (1, u16::MAX), (u16::MAX, u16::MAX)] {
        let node = Node::new(Config { max_connections, max_connecting, ..config() });
        seen.note("max_connections", node.config().max_connections);
        seen.note("max_connecting", node.config().max_connecting);
    }
    seen
}

async fn construction_panics(field: &str, config: Config) -> Observation {
    let mut seen = Observation::new();
    let text = panic_text(async { Node::new(config) }).await;
    seen.note("panicked", text.is_some());
    seen.note("the text names the field", text.unwrap_or_default().contains(field));
    seen
}

pub(crate) async fn a_limit_of_zero_connections_panics() -> Observation {
    construction_panics("max_connections", Config { max_connections: 0, ..config() }).await
}

pub(crate) async fn a_limit_of_zero_connections_per_ip_panics() -> Observation {
    construction_panics("max_connections_per_ip", Config { max_connections_per_ip: 0, ..config() }).await
}

pub(crate) async fn a_setup_budget_of_zero_panics() -> Observation {
    construction_panics("max_connecting", Config { max_connecting: 0, ..config() }).await
}

pub(crate) async fn a_new_node_has_done_nothing() -> Observation {
    let mut seen = Observation::new();
    let actor = plain();
    let node = actor.node();
    let nobody: SocketAddr = ([127, 0, 0, 1], 9).into();
    seen.note("connected", node.num_connected());
    seen.note("connecting", node.num_connecting());
    seen.note("addrs", node.connected_addrs());
    seen.note("infos", node.connection_infos().len());
    seen.note("is connected", node.is_connected(nobody));
    seen.note("is connecting", node.is_connecting(nobody));
    seen.note("info", node.connection_info(nobody).is_some());
    seen.note("listening", node.listening_addr().await.map_err(|error| error.kind()));
    seen.note("disconnect", node.disconnect(nobody).await);
    seen.note("sent", node.stats().sent());
    seen.note("received", node.stats().received());
    seen
}

#[derive(Clone)]
struct AllDefaults(Node);

impl Pea2Pea for AllDefaults {
    fn node(&self) -> &Node {
        &self.0
    }
}

impl Handshake for AllDefaults {
    async fn perform_handshake(&self, conn: Connection) -> io::Result<Connection> {
        Ok(conn)
    }
}

impl Reading for AllDefaults {
    type Message = Bytes;
    type Codec = Frames;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Frames {
        Frames
    }

    async fn process_message(&self, _source: SocketAddr, _message: Bytes) {}
}

impl Writing for AllDefaults {
    type Message = Bytes;
    type Codec = Frames;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Frames {
        Frames
    }
}

impl OnConnect for AllDefaults {
    async fn on_connect(&self, _addr: SocketAddr) {}
}

impl OnDisconnect for AllDefaults {
    async fn on_disconnect(&self, _addr: SocketAddr, _origin: DisconnectOrigin) {}
}

pub(crate) async fn the_protocols_have_the_documented_defaults() -> Observation {
    let mut seen = Observation::new();
    seen.note("handshake timeout", <AllDefaults as Handshake>::TIMEOUT_MS);
    seen.note("read depth", <AllDefaults as Reading>::MESSAGE_QUEUE_DEPTH);
    seen.note("backpressure", <AllDefaults as Reading>::BACKPRESSURE);
    seen.note("read buffer", <AllDefaults as Reading>::INITIAL_BUFFER_SIZE);
    seen.note("idle timeout", <AllDefaults as Reading>::IDLE_TIMEOUT_MS);
    seen.note("write depth", <AllDefaults as Writing>::MESSAGE_QUEUE_DEPTH);
    seen.note("write buffer", <AllDefaults as Writing>::INITIAL_BUFFER_SIZE);
    seen.note("write timeout", <AllDefaults as Writing>::TIMEOUT_MS);
    seen.note("abortable", <AllDefaults as OnConnect>::ABORTABLE);
    seen.note("on_disconnect timeout", <AllDefaults as OnDisconnect>::TIMEOUT_MS);
    let user = AllDefaults(Node::new(config()));
    user.enable_handshake().await;
    user.enable_reading().await;
    user.enable_writing().await;
    user.enable_on_connect().await;
    user.enable_on_disconnect().await;
    seen.note("all five can be enabled without a listener", user.node().num_connected());
    seen
}

pub(crate) async fn sides_and_origins_are_plain_values() -> Observation {
    let mut seen = Observation::new();
    for side in [ConnectionSide::Initiator, ConnectionSide::Responder] {
        let copy = side;
        seen.note("side", side);
        seen.note("not", !copy);
        seen.note("not not", !!side == side);
    }
    let origins = [
        DisconnectOrigin::OnConnectAbort,
        DisconnectOrigin::Reading,
        DisconnectOrigin::Shutdown,
        DisconnectOrigin::User,
        DisconnectOrigin::Writing,
    ];
    seen.note("origins", origins);
    seen.note("distinct", HashSet::from(origins).len());
    let payload = ShuttingDown;
    seen.note("payload", payload);
    seen.note("payload has a text", !payload.to_string().is_empty());
    seen.note("caused by the payload", ShuttingDown::caused(&io::Error::other(payload)));
    seen.note("caused by the kind alone", ShuttingDown::caused(&io::Error::from(io::ErrorKind::Other)));
    seen.note("caused by a text", ShuttingDown::caused(&io::Error::other(payload.to_string())));
    let wrapped = io::Error::other(io::Error::other(payload));
    seen.note("caused when wrapped further", ShuttingDown::caused(&wrapped));
    seen
}

pub(crate) async fn stats_add_up() -> Observation {
    let mut seen = Observation::new();
    let stats = Stats::default();
    seen.note("at first", (stats.sent(), stats.received()));
    stats.register_sent_messages(3, 100);
    stats.register_sent_messages(0, 0);
    stats.register_sent_messages(1, 0);
    stats.register_received_message(7);
    stats.register_received_message(0);
    seen.note("sent", stats.sent());
    seen.note("received", stats.received());
    seen.note("created before now", stats.created() <= std::time::Instant::now());
    let node = plain();
    node.node().stats().register_sent_messages(2, 20);
    seen.note("node", node.node().stats().sent());
    seen
}

pub(crate) async fn heuristics_start_at_zero() -> Observation {
    let mut seen = Observation::new();
    let actor = plain();
    for heuristics in [&Heuristics::default(), actor.node().heuristics()] {
        seen.note("connect_budget_rejections", heuristics.connect_budget_rejections());
        seen.note("inbound_connections_rejected", heuristics.inbound_connections_rejected());
        seen.note("accept_errors", heuristics.accept_errors());
        seen.note("handshake_timeouts", heuristics.handshake_timeouts());
        seen.note("idle_timeouts", heuristics.idle_timeouts());
        seen.note("write_timeouts", heuristics.write_timeouts());
    }
    seen
}
