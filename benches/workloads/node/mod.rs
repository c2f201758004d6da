//! A node as a contender. Compiled once per crate and wire, which the parent module names `p2p` and `wire`.

mod idle;
mod many;
mod pair;
mod serve;

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, task::yield_now};
use tokio_util::bytes::{Bytes, BytesMut};

use super::{
    p2p::{
        Config, Connection, ConnectionSide, DisconnectOrigin, Node, Pea2Pea,
        protocols::{Handshake, OnConnect, OnDisconnect, Reading, Writing},
    },
    wire::{Decoding, Encoding, Wire},
};
use crate::workloads::{
    clients,
    rally::Rally,
    served::wants_answer,
    tally::Tally,
    workload::{BACKLOG, Sample, Workload, on_workers, seated},
};

/// Runs a workload; every one of them.
pub fn run(workload: &Workload, workers: usize) -> Option<Sample> {
    Some(match *workload {
        Workload::OneWay { size, messages } => on_workers(workers, pair::one_way(size, messages)),
        Workload::PingPong { size, round_trips, answered } => {
            on_workers(workers, pair::ping_pong(size, round_trips, answered))
        }
        Workload::Churn { connections } => on_workers(workers, pair::churn(connections)),
        Workload::UpDown { nodes } => on_workers(workers, pair::up_down(nodes)),
        Workload::IdlePairs { pairs } => on_workers(workers, idle::pairs(pairs)),
        Workload::IdleNodes { nodes } => on_workers(workers, idle::nodes(nodes)),
        Workload::FanIn { senders, size, messages_each } => {
            on_workers(workers, many::fan_in(senders, size, messages_each))
        }
        Workload::FanOut { receivers, size, messages_each, sender } => {
            seated(workers, sender, many::fan_out(receivers, size, messages_each))
        }
        Workload::Relay { nodes, size, journeys } => on_workers(workers, many::relay(nodes, size, journeys)),
        Workload::Crowd { few, many, busy, messages } => {
            clients::crowd(|| serve::serve(workers), few, many, busy, messages)
        }
        Workload::Fairness { honest, requests_each } => {
            clients::fairness(|| serve::serve(workers), honest, requests_each)
        }
    })
}

/// A node with all five protocols, at their defaults; the limits of the node are out of the way.
#[derive(Clone)]
pub struct Peer {
    node: Node,
    wire: Wire,
    duty: Arc<Duty>,
}

/// What a node does with a message.
pub enum Duty {
    /// Counts it.
    Count(Tally),
    /// Sends it back.
    Echo,
    /// Sends it back if it asks for that.
    Answer,
    /// Tells a task.
    Tell(mpsc::UnboundedSender<()>),
    /// Sends the next one.
    Rally(Rally),
    /// Hands it to this neighbour.
    Forward(OnceLock<SocketAddr>),
}

impl Peer {
    pub async fn new(duty: Duty) -> Self {
        let config = Config {
            listener_addr: Some(([127, 0, 0, 1], 0).into()),
            listener_backlog: BACKLOG,
            max_connections: 10_000,
            max_connections_per_ip: 10_000,
            // A busy machine must not end a bench.
            connection_timeout_ms: 30_000,
            ..Default::default()
        };
        let peer = Self { node: Node::new(config), wire: Default::default(), duty: Arc::new(duty) };
        peer.enable_handshake().await;
        peer.enable_reading().await;
        peer.enable_writing().await;
        peer.enable_on_connect().await;
        peer.enable_on_disconnect().await;
        peer
    }

    pub async fn counting() -> Self {
        Self::new(Duty::Count(Tally::default())).await
    }

    pub fn tally(&self) -> &Tally {
        match &*self.duty {
            Duty::Count(tally) => tally,
            _ => panic!("this peer does not count"),
        }
    }

    pub async fn listen(&self) -> SocketAddr {
        self.node.toggle_listener().await.expect("a port").expect("switched on")
    }

    /// Connects, and waits until the other end knows of it too.
    pub async fn connect(&self, to: &Self, addr: SocketAddr) {
        let before = to.node.num_connected();
        self.node.connect(addr).await.expect("a listener");
        to.wait_for(before + 1).await;
    }

    /// Waits until so many connections are live.
    pub async fn wait_for(&self, live: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.node.num_connected() != live {
            assert!(Instant::now() < deadline, "{} of {live} connections are live", self.node.num_connected());
            yield_now().await;
        }
    }

    /// Queues a message, and again after a yield as long as the queue is full.
    pub async fn send(&self, to: SocketAddr, payload: &Bytes) {
        while let Err(error) = self.unicast_fast(to, payload.clone()) {
            assert_eq!(error.kind(), ErrorKind::QuotaExceeded, "{error}");
            yield_now().await;
        }
    }

    pub async fn send_all(&self, to: SocketAddr, payload: &Bytes, messages: u64) {
        for _ in 0..messages {
            self.send(to, payload).await;
        }
    }
}

impl Pea2Pea for Peer {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Handshake for Peer {
    async fn perform_handshake(&self, connection: Connection) -> io::Result<Connection> {
        self.wire.secure(self, connection).await
    }
}

impl Reading for Peer {
    type Message = BytesMut;
    type Codec = Decoding;

    fn codec(&self, addr: SocketAddr, _: ConnectionSide) -> Self::Codec {
        self.wire.decoding(addr)
    }

    async fn process_message(&self, source: SocketAddr, message: BytesMut) {
        let receiver = match &*self.duty {
            Duty::Count(tally) => {
                tally.add();
                None
            }
            Duty::Echo => Some(source),
            Duty::Answer => wants_answer(&message).then_some(source),
            Duty::Tell(arrived) => {
                // Nobody waits any more when the workload is over.
                _ = arrived.send(());
                None
            }
            Duty::Rally(rally) => rally.score().then_some(source),
            Duty::Forward(next) => Some(*next.get().expect("a neighbour")),
        };
        // One place in which it may wait: every connection has room for it.
        if let Some(receiver) = receiver {
            self.send(receiver, &message.freeze()).await;
        }
    }
}

impl Writing for Peer {
    type Message = Bytes;
    type Codec = Encoding;

    fn codec(&self, addr: SocketAddr, _: ConnectionSide) -> Self::Codec {
        self.wire.encoding(addr)
    }
}

impl OnConnect for Peer {
    async fn on_connect(&self, _: SocketAddr) {}
}

impl OnDisconnect for Peer {
    async fn on_disconnect(&self, addr: SocketAddr, _: DisconnectOrigin) {
        self.wire.end(addr);
    }
}

/// The bound of every wait for connections.
const PATIENCE: Duration = Duration::from_secs(60);
