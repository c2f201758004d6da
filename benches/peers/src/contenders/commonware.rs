//! commonware-p2p, by its documentation: `authenticated::lookup` (the addresses are known) on the crate's own tokio runtime with its
//! defaults (NODELAY is one of them), `Config::local`, the handshake and the cipher of the example. Everything is encrypted.
//!
//! A sender is never held back: what the queue of the router, that of the connection or that of the receiving channel cannot hold
//! is dropped, and only the first of them says so. Nothing may be lost here, so a sender keeps a window of messages under way, for
//! which there is room everywhere, and the receiver acknowledges each quarter of it by a message.

use std::{
    env, fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    num::{NonZeroU32, NonZeroUsize},
    process,
    time::{Duration, Instant},
};

use commonware_cryptography::{
    ChaCha20Poly1305, Signer,
    ed25519::{PrivateKey, PublicKey},
};
use commonware_p2p::{
    Address, AddressableManager, AddressableTrackedPeers, CheckedSender, LimitedSender, Receiver as _, Recipients,
    authenticated::lookup::{Config, Network, Oracle, Receiver, Sender},
};
use commonware_runtime::{
    IoBuf, Quota, Runner, Spawner, Supervisor,
    tokio::{self as runtime, Context},
};
use commonware_stream::{
    cups::{self, Cups},
    sake::{self, Sake},
};
use commonware_utils::ordered::Map;
use tokio::{sync::mpsc, task::yield_now, time::sleep};

use crate::workloads::{
    cpu, heap,
    workload::{Answered, Contender, IDLE_TRAFFIC, IDLE_TRAFFIC_SIZE, Sample, Workload, micros, percentile},
};

pub const CONTENDER: Contender = Contender { name: "commonware-p2p", run };

fn run(workload: &Workload, workers: usize) -> Option<Sample> {
    Some(match *workload {
        Workload::OneWay { size, messages } => on_workers(workers, move |context| one_way(context, size, messages)),
        Workload::PingPong { size, round_trips, answered } => {
            on_workers(workers, move |context| ping_pong(context, size, round_trips, answered))
        }
        Workload::IdlePairs { pairs } => on_workers(workers, move |context| idle(context, pairs)),
        _ => return None,
    })
}

/// Runs a future as a task of the crate's runtime.
fn on_workers<F>(workers: usize, work: impl FnOnce(Context) -> F + Send + 'static) -> Sample
where
    F: Future<Output = Sample> + Send + 'static,
{
    let storage = env::temp_dir().join(format!("peers-of-pea2pea-{}", process::id()));
    let config = runtime::Config::new().with_worker_threads(workers).with_storage_directory(&storage);
    let sample = runtime::Runner::new(config)
        .start(|context| async move { context.child("bench").spawn(work).await.expect("the workload does not panic") });
    // Nothing is stored, so it may never have been made.
    _ = fs::remove_dir_all(storage);
    sample
}

/// A network and its only channel.
struct Node {
    key: PublicKey,
    addr: SocketAddr,
    oracle: Oracle<PublicKey>,
    sender: Sender<PublicKey, Context>,
    receiver: Receiver<PublicKey>,
}

/// What a network is to have room for.
#[derive(Clone, Copy)]
struct Room {
    /// The size of a message.
    size: usize,
    /// How many messages wait for a connection, and how many from each peer wait to be received.
    messages: usize,
    /// How many peers it has.
    peers: usize,
}

impl Node {
    fn new(context: &Context, seed: usize, addr: SocketAddr, room: Room) -> Self {
        let signer = PrivateKey::from_seed(seed as u64);
        let key = signer.public_key();
        let (mut network, oracle) =
            Network::new(context.child("network").with_attribute("seed", seed), config(signer, addr, room));
        // A billion messages per second, so that none waits. The burst says how many may wait to be received.
        let burst = NonZeroU32::try_from(count(room.messages)).expect("a number that it allows");
        let quota = Quota::with_period(Duration::from_nanos(1)).expect("a time").allow_burst(burst);
        let (sender, receiver) = network.register(0, quota);
        network.start();
        Self { key, addr, oracle, sender, receiver }
    }

    /// Sets whom it dials, and from whom it awaits a connection; whoever is not among them any more is disconnected.
    fn set_peers(&mut self, set: u64, dialled: &[Peer], awaited: &[Peer]) {
        let [dialled, awaited] = [dialled, awaited].map(|peers| Map::from_iter_dedup(peers.iter().cloned()));
        let peers = AddressableTrackedPeers::new(dialled, awaited);
        assert!(self.oracle.track(set, peers).accepted(), "the network runs");
    }

    fn as_peer(&self) -> Peer {
        (self.key.clone(), Address::from(self.addr))
    }

    /// Waits until so many are connected, which nobody announces.
    async fn connected_to(&mut self, peers: usize) {
        while !self.sender.check(Recipients::All).is_ok_and(|checked| checked.recipients().len() == peers) {
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn receive(&mut self) -> IoBuf {
        self.receiver.recv().await.expect("the network runs").1
    }

    /// Sends a run of messages; returns when all are acknowledged.
    async fn send_all(&mut self, to: &PublicKey, payload: &IoBuf, messages: usize) {
        let step = window(payload.len()) / ACKNOWLEDGEMENTS;
        let mut acknowledged = 0;
        for sent in 0..messages {
            if sent == acknowledged + ACKNOWLEDGEMENTS * step {
                self.receive().await;
                acknowledged += step;
            }
            send(&mut self.sender, to, payload).await;
        }
        while acknowledged < messages {
            self.receive().await;
            acknowledged += step;
        }
    }

    /// Receives a run of messages, and acknowledges them.
    async fn receive_all(&mut self, from: &PublicKey, size: usize, messages: usize) {
        let step = window(size) / ACKNOWLEDGEMENTS;
        for received in 1..=messages {
            self.receive().await;
            if received % step == 0 || received == messages {
                send(&mut self.sender, from, &IoBuf::from(b"received")).await;
            }
        }
    }
}

type Peer = (PublicKey, Address);

async fn send(sender: &mut Sender<PublicKey, Context>, to: &PublicKey, message: &IoBuf) {
    loop {
        if let Ok(checked) = sender.check(Recipients::One(to.clone()))
            && checked.send(message.clone(), false).accepted()
        {
            return;
        }
        yield_now().await;
    }
}

fn config(signer: PrivateKey, listen: SocketAddr, room: Room) -> Config<Cups<Sake<PrivateKey>, ChaCha20Poly1305>> {
    let handshake = Sake {
        signer,
        synchrony_bound: Duration::from_secs(5),
        max_handshake_age: Duration::from_secs(10),
        version: sake::Version::V1,
    };
    let limit = u32::try_from(room.size.max(LEAST_LIMIT)).expect("a size that it allows");
    let local = Config::local(
        Cups::new(handshake, cups::Version::V1),
        b"benches",
        listen,
        count(room.peers + 1),
        limit,
        count(room.messages),
    );
    // All peers have the same address here, and those of the last set only are to stay connected.
    let at_once = Quota::per_second(NonZeroU32::new(10_000).expect("not zero"));
    Config {
        allowed_handshake_rate_per_ip: at_once,
        allowed_handshake_rate_per_subnet: at_once,
        tracked_peer_sets: count(1),
        ..local
    }
}

fn count(number: usize) -> NonZeroUsize {
    NonZeroUsize::new(number).expect("at least one")
}

/// How many messages are under way at most: more than that of large ones only leaves the caches.
fn window(size: usize) -> usize {
    (MOST_UNDER_WAY / size).clamp(16, 4_096)
}

/// Returns a port that nobody listens at: a network does not tell which one it took, if it is to choose.
fn free_addr() -> SocketAddr {
    TcpListener::bind(ANY_PORT).and_then(|listener| listener.local_addr()).expect("a port")
}

/// Two nodes that are connected.
async fn pair(context: &Context, size: usize) -> (Node, Node) {
    let room = Room { size, messages: window(size) + ACKNOWLEDGEMENTS, peers: 1 };
    let mut far = Node::new(context, 1, free_addr(), room);
    let mut near = Node::new(context, 2, ANY_PORT, room);
    far.set_peers(0, &[], &[near.as_peer()]);
    near.set_peers(0, &[far.as_peer()], &[]);
    near.connected_to(1).await;
    far.connected_to(1).await;
    (near, far)
}

async fn one_way(context: Context, size: usize, messages: u64) -> Sample {
    let payload = IoBuf::from(vec![7; size]);
    let messages = usize::try_from(messages).expect("a count");
    let warm_up = messages.div_ceil(10);
    let (mut near, mut far) = pair(&context, size).await;
    let (near_key, far_key) = (near.key.clone(), far.key.clone());
    let receiving = tokio::spawn(async move {
        far.receive_all(&near_key, size, warm_up).await;
        far.receive_all(&near_key, size, messages).await;
        far
    });
    near.send_all(&far_key, &payload, warm_up).await;
    let (start, cpu) = (Instant::now(), cpu::Stopwatch::start());
    near.send_all(&far_key, &payload, messages).await;
    let sample = vec![messages as f64 / start.elapsed().as_secs_f64(), cpu.micros_per(messages as u64)];
    receiving.await.expect("a receiver");
    sample
}

async fn ping_pong(context: Context, size: usize, round_trips: usize, answered: Answered) -> Sample {
    let payload = IoBuf::from(vec![7; size]);
    let warm_up = round_trips.div_ceil(10);
    let (mut near, mut far) = pair(&context, size).await;
    let (near_key, far_key) = (near.key.clone(), far.key.clone());
    tokio::spawn(async move {
        while let Ok((_, message)) = far.receiver.recv().await {
            send(&mut far.sender, &near_key, &message).await;
        }
    });
    let mut times = Vec::with_capacity(warm_up + round_trips);
    match answered {
        Answered::InPlace => {
            for _ in 0..warm_up + round_trips {
                let start = Instant::now();
                send(&mut near.sender, &far_key, &payload).await;
                near.receive().await;
                times.push(micros(start.elapsed()));
            }
        }
        Answered::ByTask => {
            let Node { mut sender, mut receiver, .. } = near;
            let (arrived, mut arrivals) = mpsc::unbounded_channel();
            tokio::spawn(async move { while receiver.recv().await.is_ok() && arrived.send(()).is_ok() {} });
            for _ in 0..warm_up + round_trips {
                let start = Instant::now();
                send(&mut sender, &far_key, &payload).await;
                arrivals.recv().await.expect("an echo");
                times.push(micros(start.elapsed()));
            }
        }
    }
    let mut times = times.split_off(warm_up);
    vec![percentile(&mut times, 0.5), percentile(&mut times, 0.99)]
}

/// Before traffic and after it there is a connection, whose queues have the room of the documentation's example.
async fn idle(context: Context, pairs: usize) -> Sample {
    heap::start_counting();
    let room = Room { size: IDLE_TRAFFIC_SIZE, messages: 1_000, peers: pairs };
    let mut hub = Node::new(&context, 0, free_addr(), room);
    let mut nodes: Vec<Node> =
        (1..=pairs).map(|seed| Node::new(&context, seed, ANY_PORT, Room { peers: 1, ..room })).collect();
    connect_all(0, &mut nodes, &mut hub).await;
    talk(&mut nodes, &mut hub).await;
    hub.set_peers(1, &[], &[]);
    for node in &mut nodes {
        node.set_peers(1, &[], &[]);
        node.connected_to(0).await;
    }
    hub.connected_to(0).await;
    let base = heap::settled().await;
    connect_all(2, &mut nodes, &mut hub).await;
    let before = heap::settled().await;
    talk(&mut nodes, &mut hub).await;
    let after = heap::settled().await;
    [before, after].map(|bytes| (bytes - base) as f64 / pairs as f64).to_vec()
}

async fn connect_all(set: u64, nodes: &mut [Node], hub: &mut Node) {
    hub.set_peers(set, &[], &nodes.iter().map(Node::as_peer).collect::<Vec<_>>());
    for node in &mut *nodes {
        node.set_peers(set, &[hub.as_peer()], &[]);
    }
    hub.connected_to(nodes.len()).await;
    for node in nodes {
        node.connected_to(1).await;
    }
}

async fn talk(nodes: &mut [Node], hub: &mut Node) {
    let payload = IoBuf::from(vec![7; IDLE_TRAFFIC_SIZE]);
    for node in nodes {
        exchange(node, hub, &payload).await;
        exchange(hub, node, &payload).await;
    }
}

async fn exchange(from: &mut Node, to: &mut Node, payload: &IoBuf) {
    for _ in 0..IDLE_TRAFFIC {
        send(&mut from.sender, &to.key, payload).await;
    }
    for _ in 0..IDLE_TRAFFIC {
        to.receive().await;
    }
}

/// So many bytes are under way, if they are neither few nor many messages.
const MOST_UNDER_WAY: usize = 1 << 20;

/// How many acknowledgements there are in a window.
const ACKNOWLEDGEMENTS: usize = 4;

/// The limit of a message's size at least, so that an acknowledgement fits as well.
const LEAST_LIMIT: usize = 64;

const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
