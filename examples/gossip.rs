//! Gossip: a message from one node reaches all nodes, though each knows only a few others.
//!
//! Shows epidemic broadcast over a random graph: whoever hears a rumour for the first time passes it
//! on to its neighbours, and whoever has heard it already drops it; without that, the rumours would
//! circle for ever. Two ways are compared:
//!
//! - **flood**: the whole rumour to every neighbour. Simple, quick, and wasteful: nearly every node gets
//!   it from nearly every neighbour.
//! - **push and announce**: the whole rumour to 2 neighbours, and only its number to the others; who has not
//!   heard of it asks for it. The body travels far less often, for some more small messages.
//!
//! Run it with
//!
//! ```text
//! cargo run --example gossip
//! ```
//!
//! You will see, with other figures:
//!
//! ```text
//! 100 nodes, each dials 4 random others; 10 rumours of 1000 bytes
//!                   | coverage | bodies/node | all messages/node | hops: mean, most | time
//!             flood |    100 % |        7.01 |              7.01 |        2.6,    5 | 64.6ms
//! push and announce |    100 % |        2.75 |              8.50 |        3.3,    6 | 62.9ms
//! every node heard every rumour exactly once, and announcing saved 61 % of the bodies
//! ```
//!
//! A node that asks does not ask a second one when the first stays silent; on a network that loses nodes
//! all the time, let it ask the next one after a while.

mod common;

use std::{
    collections::{HashMap, HashSet},
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use common::Colour;
use parking_lot::Mutex;
use pea2pea::{
    Config, ConnectionSide, Node, Pea2Pea, Topology, connect_nodes,
    protocols::{Reading, Writing},
};
use tokio::time::{sleep, timeout};
use tokio_util::codec::{Decoder, Encoder, LengthDelimitedCodec};

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let nodes = if common::is_short() { 50 } else { 100 };
    let outcome = tokio::select! {
        outcome = compare(nodes) => outcome,
        () = common::ctrl_c() => Err(io::Error::other("interrupted")),
    };
    common::exit(outcome)
}

async fn compare(nodes: usize) -> io::Result<()> {
    println!("{nodes} nodes, each dials {DEGREE} random others; {RUMOURS} rumours of {BODY} bytes");
    println!("{:>17} | coverage | bodies/node | all messages/node | hops: mean, most | time", "");
    let flood = run("flood", nodes, usize::MAX).await?;
    let announce = run("push and announce", nodes, 2).await?;

    require(announce < flood, "announcing saves bodies")?;
    println!(
        "every node heard every rumour exactly once, and announcing saved {:.0} % of the bodies",
        100.0 * (1.0 - announce / flood)
    );
    Ok(())
}

/// Lets rumours spread from different nodes, one after another; returns how many bodies were sent for each node.
async fn run(name: &str, count: usize, fanout: usize) -> io::Result<f64> {
    let mut nodes = Vec::new();
    for number in 0..count {
        nodes.push(Gossiper::start(number, fanout).await?);
    }
    let outcome = spread(name, &nodes).await;
    for gossiper in &nodes {
        gossiper.node.shut_down().await;
    }
    outcome
}

async fn spread(name: &str, nodes: &[Gossiper]) -> io::Result<f64> {
    let graph = Topology::Random { degree: DEGREE, seed: SEED };
    connect_nodes(nodes, graph).await?;
    let num_connections = || nodes.iter().map(|node| node.node.num_connected()).sum::<usize>();
    until("the graph", || num_connections() == graph.num_expected_connections(nodes.len())).await?;
    let begun = Instant::now();
    for rumour in 0..RUMOURS {
        // The author is somebody else each time.
        nodes[rumour * 7 % nodes.len()].hear(None, rumour as u64, 0, Bytes::from(vec![0; BODY]));
        // The next rumour starts when the network is quiet: everybody heard this one, and all that was sent arrived.
        until(name, || nodes.iter().all(|node| node.heard() > rumour) && num_received(nodes) == num_sent(nodes))
            .await?;
    }
    let took = begun.elapsed() / RUMOURS as u32;

    let each_once = nodes.iter().all(|node| node.delivered.load(Relaxed) == RUMOURS && node.heard() == RUMOURS);
    require(each_once, "each node delivers each rumour exactly once")?;
    let per_node = |total: usize| total as f64 / (nodes.len() * RUMOURS) as f64;
    let bodies = per_node(nodes.iter().map(|node| node.bodies.load(Relaxed)).sum());
    let hops: Vec<_> = nodes
        .iter()
        .flat_map(|node| node.rumours.lock().values().map(|rumour| rumour.hops).collect::<Vec<_>>())
        .collect();
    let mean_hops = hops.iter().map(|hops| f64::from(*hops)).sum::<f64>() / hops.len() as f64;
    println!(
        "{} | {:>6} % | {bodies:>11.2} | {:>17.2} | {mean_hops:>10.1}, {:>4} | {took:.1?}",
        Colour::Cyan.paint(format_args!("{name:>17}")),
        100 * nodes.iter().map(Gossiper::heard).sum::<usize>() / (nodes.len() * RUMOURS),
        per_node(num_sent(nodes)),
        hops.iter().max().copied().unwrap_or_default(),
    );
    Ok(bodies)
}

#[derive(Clone)]
struct Gossiper {
    node: Node,
    number: usize,
    /// To how many neighbours a rumour is sent as a whole; to the others it is announced.
    fanout: usize,
    rumours: Arc<Mutex<HashMap<u64, Rumour>>>,
    /// Which rumours were asked for and have not come yet.
    asked: Arc<Mutex<HashSet<u64>>>,
    delivered: Arc<AtomicUsize>,
    bodies: Arc<AtomicUsize>,
}

struct Rumour {
    hops: u8,
    body: Bytes,
}

#[derive(Clone)]
enum Wire {
    Body { id: u64, hops: u8, body: Bytes },
    Announce { id: u64 },
    Ask { id: u64 },
}

impl Gossiper {
    async fn start(number: usize, fanout: usize) -> io::Result<Self> {
        let node = Node::new(Config {
            listener_addr: Some(([127, 0, 0, 1], 0).into()),
            // All the nodes share one IP address here.
            max_connections_per_ip: 100,
            ..Default::default()
        });
        let gossiper = Self {
            node,
            number,
            fanout,
            rumours: Arc::default(),
            asked: Arc::default(),
            delivered: Arc::default(),
            bodies: Arc::default(),
        };
        gossiper.enable_reading().await;
        gossiper.enable_writing().await;
        gossiper.node.toggle_listener().await?;
        Ok(gossiper)
    }

    /// Takes in a rumour, unless it is known: that is where the epidemic ends. Otherwise passes it on.
    fn hear(&self, from: Option<SocketAddr>, id: u64, hops: u8, body: Bytes) {
        let mut rumours = self.rumours.lock();
        if rumours.contains_key(&id) {
            return;
        }
        // A network that lives longer than an example forgets the rumours of yesterday here.
        rumours.insert(id, Rumour { hops, body: body.clone() });
        drop(rumours);
        self.asked.lock().remove(&id);
        self.delivered.fetch_add(1, Relaxed);

        let mut neighbours = self.node.connected_addrs();
        neighbours.retain(|addr| Some(*addr) != from);
        shuffle(&mut neighbours, SEED ^ (id << 32) ^ self.number as u64);
        for (place, neighbour) in neighbours.into_iter().enumerate() {
            if place < self.fanout {
                self.send_body(neighbour, id, hops, body.clone());
            } else {
                self.send(neighbour, Wire::Announce { id });
            }
        }
    }

    fn send_body(&self, addr: SocketAddr, id: u64, hops: u8, body: Bytes) {
        self.bodies.fetch_add(1, Relaxed);
        self.send(addr, Wire::Body { id, hops: hops.saturating_add(1), body });
    }

    fn send(&self, addr: SocketAddr, message: Wire) {
        // A neighbour that is too slow, or has just left, hears it from another one.
        if let Err(error) = self.unicast_fast(addr, message) {
            eprintln!("node {}: nothing sent to {addr}: {error}", self.number);
        }
    }

    fn heard(&self) -> usize {
        self.rumours.lock().len()
    }
}

impl Pea2Pea for Gossiper {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Reading for Gossiper {
    type Message = Wire;
    type Codec = WireCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        WireCodec::default()
    }

    async fn process_message(&self, source: SocketAddr, message: Wire) {
        match message {
            Wire::Body { id, hops, body } => self.hear(Some(source), id, hops, body),
            Wire::Announce { id } => {
                if !self.rumours.lock().contains_key(&id) && self.asked.lock().insert(id) {
                    self.send(source, Wire::Ask { id });
                }
            }
            Wire::Ask { id } => {
                let rumour = self.rumours.lock().get(&id).map(|rumour| (rumour.hops, rumour.body.clone()));
                if let Some((hops, body)) = rumour {
                    self.send_body(source, id, hops, body);
                }
            }
        }
    }
}

impl Writing for Gossiper {
    type Message = Wire;
    type Codec = WireCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        WireCodec::default()
    }
}

/// On the wire: the length, the kind, the id; for a body also the hops and the body itself.
struct WireCodec(LengthDelimitedCodec);

impl Default for WireCodec {
    fn default() -> Self {
        Self(LengthDelimitedCodec::builder().max_frame_length(64 * 1024).new_codec())
    }
}

impl Decoder for WireCodec {
    type Item = Wire;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<Wire>> {
        let invalid = |_| io::Error::new(io::ErrorKind::InvalidData, "not a message of this protocol");
        let Some(mut frame) = self.0.decode(src)? else { return Ok(None) };
        let kind = frame.try_get_u8().map_err(invalid)?;
        let id = frame.try_get_u64().map_err(invalid)?;
        match kind {
            BODY_KIND => {
                let hops = frame.try_get_u8().map_err(invalid)?;
                Ok(Some(Wire::Body { id, hops, body: frame.freeze() }))
            }
            ANNOUNCE_KIND => Ok(Some(Wire::Announce { id })),
            ASK_KIND => Ok(Some(Wire::Ask { id })),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a message of an unknown kind")),
        }
    }
}

impl Encoder<Wire> for WireCodec {
    type Error = io::Error;

    fn encode(&mut self, message: Wire, dst: &mut BytesMut) -> io::Result<()> {
        let mut frame = BytesMut::new();
        let mut begin = |kind, id| {
            frame.put_u8(kind);
            frame.put_u64(id);
        };
        match message {
            Wire::Announce { id } => begin(ANNOUNCE_KIND, id),
            Wire::Ask { id } => begin(ASK_KIND, id),
            Wire::Body { id, hops, body } => {
                begin(BODY_KIND, id);
                frame.put_u8(hops);
                frame.put_slice(&body);
            }
        }
        self.0.encode(frame.freeze(), dst)
    }
}

fn num_sent(nodes: &[Gossiper]) -> usize {
    nodes.iter().map(|node| node.node.stats().sent().0 as usize).sum()
}

fn num_received(nodes: &[Gossiper]) -> usize {
    nodes.iter().map(|node| node.node.stats().received().0 as usize).sum()
}

/// Brings the items in a random order that depends on the seed only: a Fisher-Yates shuffle.
fn shuffle<T>(items: &mut [T], seed: u64) {
    // An odd factor keeps different seeds different, and the state of the generator must not be 0.
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for end in (1..items.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        items.swap(end, (state % (end as u64 + 1)) as usize);
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) -> io::Result<()> {
    let wait = async {
        while !holds() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, wait).await.map_err(|_| io::Error::other(format!("this did not become complete: {what}")))
}

fn require(holds: bool, claim: &str) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::Error::other(format!("this does not hold: {claim}"))) }
}

const BODY_KIND: u8 = 0;
const ANNOUNCE_KIND: u8 = 1;
const ASK_KIND: u8 = 2;
const BODY: usize = 1000;
const RUMOURS: usize = 10;
/// How many others each node dials; about as many dial it.
const DEGREE: usize = 4;
const SEED: u64 = 2024;
const PATIENCE: Duration = Duration::from_secs(10);
