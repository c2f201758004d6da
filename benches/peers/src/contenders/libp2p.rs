//! libp2p, by its tutorial: `SwarmBuilder` with TCP (NODELAY is its default), Noise and Yamux at their defaults. One stream per
//! connection by libp2p-stream, and on it the same framing as over a bare socket. Everything is encrypted.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol, Swarm, SwarmBuilder, noise,
    swarm::{SwarmEvent, dial_opts::DialOpts},
    tcp, yamux,
};
use libp2p_stream::{Behaviour, Control, IncomingStreams};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, split},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

use crate::workloads::{
    cpu, heap,
    raw::{many, pair},
    workload::{Contender, IDLE_TRAFFIC, IDLE_TRAFFIC_SIZE, Sample, Workload, on_workers, seated},
};

pub const CONTENDER: Contender = Contender { name: "libp2p", run };

fn run(workload: &Workload, workers: usize) -> Option<Sample> {
    Some(match *workload {
        Workload::OneWay { size, messages } => on_workers(workers, async move {
            let (near, far) = one_stream().await;
            pair::one_way_over(near, far, size, messages).await
        }),
        Workload::PingPong { size, round_trips, answered } => on_workers(workers, async move {
            let (near, far) = one_stream().await;
            pair::ping_pong_over(split(near), split(far), size, round_trips, answered).await
        }),
        Workload::Churn { connections } => on_workers(workers, churn(connections)),
        Workload::IdlePairs { pairs } => on_workers(workers, idle(pairs)),
        Workload::FanIn { senders, size, messages_each } => on_workers(workers, async move {
            let mut hub = Node::new().await;
            let mut streams = Vec::with_capacity(senders);
            for _ in 0..senders {
                streams.push(Node::new().await.connect(&mut hub).await);
            }
            many::fan_in_over(streams, size, messages_each).await
        }),
        Workload::FanOut { receivers, size, messages_each, sender } => seated(workers, sender, async move {
            let mut hub = Node::new().await;
            let mut streams = Vec::with_capacity(receivers);
            for _ in 0..receivers {
                streams.push(hub.connect(&mut Node::new().await).await);
            }
            many::fan_out_over(streams, size, messages_each).await
        }),
        _ => return None,
    })
}

/// A swarm that listens, driven by a task that goes on until the runtime ends.
struct Node {
    peer: PeerId,
    addr: Multiaddr,
    control: Control,
    incoming: IncomingStreams,
    orders: UnboundedSender<Order>,
    /// Connections made and ended.
    events: UnboundedReceiver<Event>,
}

enum Order {
    Dial(PeerId, Multiaddr),
    Disconnect(PeerId),
}

#[derive(Debug, PartialEq)]
enum Event {
    Established,
    Closed,
}

impl Node {
    async fn new() -> Self {
        let mut swarm = SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
            .expect("a transport")
            .with_behaviour(|_| Behaviour::new())
            .expect("a behaviour")
            // An idle connection is to stay.
            .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(3_600)))
            .build();
        swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().expect("an address")).expect("a listener");
        let addr = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break address;
            }
        };
        let mut control = swarm.behaviour().new_control();
        let incoming = control.accept(PROTOCOL).expect("nobody else accepts it");
        let (orders, received) = unbounded_channel();
        let (happen, events) = unbounded_channel();
        let peer = *swarm.local_peer_id();
        tokio::spawn(drive(swarm, received, happen));
        Self { peer, addr, control, incoming, orders, events }
    }

    async fn dial(&mut self, to: &mut Self) {
        self.order(Order::Dial(to.peer, to.addr.clone()));
        assert_eq!(self.events.recv().await, Some(Event::Established));
        assert_eq!(to.events.recv().await, Some(Event::Established));
    }

    fn order(&self, order: Order) {
        self.orders.send(order).expect("a running node");
    }

    /// Opens a stream over a connection; the other end learns of it by the first bytes.
    async fn open(&mut self, to: &mut Self) -> (Compat<Stream>, Compat<Stream>) {
        let mut near = self.control.open_stream(to.peer, PROTOCOL).await.expect("a stream").compat();
        near.write_all(b"!").await.expect("a stream");
        near.flush().await.expect("a stream");
        let (_, far) = to.incoming.next().await.expect("a stream");
        let mut far = far.compat();
        assert_eq!(far.read_u8().await.expect("a stream"), b'!');
        (near, far)
    }

    async fn connect(&mut self, to: &mut Self) -> (Compat<Stream>, Compat<Stream>) {
        self.dial(to).await;
        self.open(to).await
    }
}

/// Goes on for as long as the runtime does, also when nobody gives orders any more.
async fn drive(mut swarm: Swarm<Behaviour>, mut orders: UnboundedReceiver<Order>, events: UnboundedSender<Event>) {
    loop {
        tokio::select! {
            event = swarm.select_next_some() => match event {
                // Nobody may be interested.
                SwarmEvent::ConnectionEstablished { .. } => _ = events.send(Event::Established),
                SwarmEvent::ConnectionClosed { .. } => _ = events.send(Event::Closed),
                SwarmEvent::OutgoingConnectionError { error, .. } => panic!("no connection: {error}"),
                _ => {}
            },
            Some(order) = orders.recv() => match order {
                Order::Dial(peer, addr) => {
                    // From the port that it listens at, it would soon meet an address that is in use.
                    let to = DialOpts::peer_id(peer).addresses(vec![addr]).allocate_new_port().build();
                    swarm.dial(to).expect("a listener");
                }
                Order::Disconnect(peer) => swarm.disconnect_peer_id(peer).expect("a connection"),
            },
        }
    }
}

async fn one_stream() -> (Compat<Stream>, Compat<Stream>) {
    let (mut near, mut far) = (Node::new().await, Node::new().await);
    near.connect(&mut far).await
}

async fn churn(connections: usize) -> Sample {
    let (mut near, mut far) = (Node::new().await, Node::new().await);
    let mut connect_and_end = async |count: usize| {
        for _ in 0..count {
            near.order(Order::Dial(far.peer, far.addr.clone()));
            assert_eq!(near.events.recv().await, Some(Event::Established));
            near.order(Order::Disconnect(far.peer));
            assert_eq!(near.events.recv().await, Some(Event::Closed));
            while far.events.try_recv().is_ok() {}
        }
    };
    connect_and_end(connections.div_ceil(10)).await;
    let (start, cpu) = (Instant::now(), cpu::Stopwatch::start());
    connect_and_end(connections).await;
    vec![connections as f64 / start.elapsed().as_secs_f64(), cpu.micros_per(connections as u64)]
}

/// Before traffic there is a connection, after it also the stream that the traffic went over.
async fn idle(pairs: usize) -> Sample {
    heap::start_counting();
    let mut hub = Node::new().await;
    let mut nodes = Vec::with_capacity(pairs);
    for _ in 0..pairs {
        nodes.push(Node::new().await);
    }
    let mut streams = Vec::with_capacity(pairs);
    talk(&mut nodes, &mut hub, &mut streams, true).await;
    streams.clear();
    for node in &mut nodes {
        node.order(Order::Disconnect(hub.peer));
        assert_eq!(node.events.recv().await, Some(Event::Closed));
        assert_eq!(hub.events.recv().await, Some(Event::Closed));
    }
    let base = heap::settled().await;
    for node in &mut nodes {
        node.dial(&mut hub).await;
    }
    let before = heap::settled().await;
    talk(&mut nodes, &mut hub, &mut streams, false).await;
    let after = heap::settled().await;
    [before, after].map(|bytes| (bytes - base) as f64 / pairs as f64).to_vec()
}

async fn talk(nodes: &mut [Node], hub: &mut Node, streams: &mut Vec<(Compat<Stream>, Compat<Stream>)>, dial: bool) {
    for node in nodes {
        if dial {
            node.dial(hub).await;
        }
        let (mut near, mut far) = node.open(hub).await;
        for _ in 0..IDLE_TRAFFIC {
            exchange(&mut near, &mut far).await;
            exchange(&mut far, &mut near).await;
        }
        streams.push((near, far));
    }
}

async fn exchange(from: &mut Compat<Stream>, to: &mut Compat<Stream>) {
    from.write_all(&[7; IDLE_TRAFFIC_SIZE]).await.expect("a stream");
    from.flush().await.expect("a stream");
    to.read_exact(&mut [0; IDLE_TRAFFIC_SIZE]).await.expect("a stream");
}

const PROTOCOL: StreamProtocol = StreamProtocol::new("/benches");
