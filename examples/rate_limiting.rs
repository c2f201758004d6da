//! Rate limiting: a node that decides how many messages per second it takes from each peer.
//!
//! Shows backpressure as a tool: `process_message` that awaits stops the reading from that peer, its
//! data piles up in TCP's windows and finally in the peer itself, while the other peers are served
//! as before. A token bucket per connection says how long to wait; whoever keeps sending at full
//! speed against the brakes is disconnected.
//!
//! Run it with
//!
//! ```text
//! cargo run --example rate_limiting
//! ```
//!
//! You will see a polite peer, an eager one and a flood, with other figures:
//!
//! ```text
//! the gate takes 200 messages/s from each peer, and 100 at once after a pause
//! polite 500 questions one after another, never delayed: answers after 389.0µs (median), 9.4ms (worst)
//! eager  200 messages at once: all answered after 507.4ms, 98 of them delayed
//! flood  without a pause: 4261 sent, 261 of them read, disconnected after 771.9ms
//! the other two are still served
//! ```
//!
//! A bucket lives as long as its connection. On the internet, keep the buckets by IP address instead,
//! and remember whom you disconnected: otherwise a new connection is a new allowance.

mod common;

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use common::Colour;
use parking_lot::Mutex;
use pea2pea::{
    Config, ConnectionInfo, ConnectionSide, DisconnectOrigin, Node, Pea2Pea,
    protocols::{OnDisconnect, Reading, Writing},
};
use tokio::{
    sync::{Mutex as AsyncMutex, mpsc},
    time::{interval, sleep, timeout},
};
use tokio_util::codec::LengthDelimitedCodec;

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let gate = Gate::start().await;
    let [polite, eager, flood] = [Peer::start("polite").await, Peer::start("eager").await, Peer::start("flood").await];
    let outcome = tokio::select! {
        outcome = story(&gate, &polite, &eager, &flood) => outcome,
        () = common::ctrl_c() => Err(io::Error::other("interrupted")),
    };
    for node in [&polite.node, &eager.node, &flood.node, &gate.node] {
        node.shut_down().await;
    }
    common::exit(outcome)
}

async fn story(gate: &Gate, polite: &Peer, eager: &Peer, flood: &Peer) -> io::Result<()> {
    let addr = gate.node.toggle_listener().await?.ok_or_else(|| io::Error::other("the listener went off"))?;
    let polite_at_gate = meet(polite, gate, addr).await?;
    let eager_at_gate = meet(eager, gate, addr).await?;
    let flood_at_gate = meet(flood, gate, addr).await?;
    println!("the gate takes {RATE} messages/s from each peer, and {BURST} at once after a pause");

    // All three at the same time: the flood goes on until the gate hangs up on it.
    let questions = if common::is_short() { 100 } else { 500 };
    let (mut round_trips, eager_took, (flooded, flood_took)) =
        tokio::try_join!(polite.ask_politely(addr, questions), eager.send_at_once(addr, 2 * BURST), flood.flood(addr))?;

    let (polite_bucket, eager_bucket) = (gate.bucket(&polite_at_gate)?, gate.bucket(&eager_at_gate)?);
    round_trips.sort();
    let (median, worst) = (round_trips[round_trips.len() / 2], round_trips[round_trips.len() - 1]);
    require(polite_bucket.delayed == 0, "the polite peer is never slowed down")?;
    require(median < Duration::from_millis(100), "the polite peer does not feel the others")?;
    polite.say(&format!(
        "{questions} questions one after another, never delayed: answers after {median:.1?} (median), {worst:.1?} (worst)"
    ));

    let least = Duration::from_secs_f64(f64::from(BURST) / RATE);
    require(eager_took >= least.mul_f64(0.9), "what goes beyond the allowance is slowed down")?;
    require(eager_bucket.taken == 2 * BURST, "nothing of it is lost")?;
    eager.say(&format!(
        "{} messages at once: all answered after {eager_took:.1?}, {} of them delayed",
        2 * BURST,
        eager_bucket.delayed
    ));

    let (read, _) = flood_at_gate.stats().received();
    let allowed =
        f64::from(BURST) + RATE * flood_took.as_secs_f64() + <Gate as Reading>::MESSAGE_QUEUE_DEPTH as f64 + 2.0;
    require(read as f64 <= allowed, "of the flood, no more is read than its allowance and one full queue")?;
    require(gate.node.num_connected() == 2 && flood.node.num_connected() == 0, "only the flood is disconnected")?;
    flood.say(&format!("without a pause: {flooded} sent, {read} of them read, disconnected after {flood_took:.1?}",));

    polite.ask_politely(addr, 1).await?;
    eager.send_at_once(addr, 1).await?;
    println!("the other two are still served");
    Ok(())
}

/// The node that limits what it takes.
#[derive(Clone)]
struct Gate {
    node: Node,
    buckets: Arc<Mutex<HashMap<SocketAddr, Bucket>>>,
}

/// The allowance of one peer: it fills with time, and each message takes one token out of it.
#[derive(Clone, Copy)]
struct Bucket {
    tokens: f64,
    filled: Instant,
    /// How many messages had to wait for a token since the bucket was full.
    strikes: u32,
    taken: u32,
    delayed: u32,
}

impl Bucket {
    fn new() -> Self {
        Self { tokens: BURST.into(), filled: Instant::now(), strikes: 0, taken: 0, delayed: 0 }
    }

    /// Takes one token and says how long to wait for it; `None` if this peer is beyond all patience.
    fn take(&mut self) -> Option<Duration> {
        let now = Instant::now();
        self.tokens += now.duration_since(self.filled).as_secs_f64() * RATE;
        self.filled = now;
        if self.tokens >= BURST.into() {
            // A pause as long as this makes good for everything.
            self.tokens = BURST.into();
            self.strikes = 0;
        }
        self.tokens -= 1.0;
        if self.tokens >= 0.0 {
            self.taken += 1;
            return Some(Duration::ZERO);
        }
        self.strikes += 1;
        if self.strikes > PATIENCE_IN_STRIKES {
            return None;
        }
        self.taken += 1;
        self.delayed += 1;
        Some(Duration::from_secs_f64(-self.tokens / RATE))
    }
}

impl Gate {
    async fn start() -> Self {
        let gate = Self { node: local_node("gate"), buckets: Arc::default() };
        gate.enable_reading().await;
        gate.enable_writing().await;
        gate.enable_on_disconnect().await;
        gate
    }

    fn bucket(&self, peer: &ConnectionInfo) -> io::Result<Bucket> {
        self.buckets.lock().get(&peer.addr()).copied().ok_or_else(|| io::Error::other("the peer is gone"))
    }
}

impl Pea2Pea for Gate {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Reading for Gate {
    /// What was read ahead of the limit; a larger queue would only hold more that has to wait.
    const MESSAGE_QUEUE_DEPTH: usize = 8;
    type Message = BytesMut;
    type Codec = LengthDelimitedCodec;

    /// Called once for each connection, before the first message.
    fn codec(&self, addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        self.buckets.lock().insert(addr, Bucket::new());
        frames()
    }

    async fn process_message(&self, source: SocketAddr, mut message: BytesMut) {
        let wait = self.buckets.lock().get_mut(&source).and_then(Bucket::take);
        let Some(wait) = wait else {
            self.node.disconnect(source).await;
            return;
        };
        // While this waits, nothing else of this peer is processed, and soon nothing is read: TCP makes it wait as well.
        if !wait.is_zero() {
            sleep(wait).await;
        }
        // Whoever does not read its answers does not get all of them.
        if message.len() >= 4 {
            let _ = self.unicast_fast(source, message.split_to(4).freeze());
        }
    }
}

impl OnDisconnect for Gate {
    async fn on_disconnect(&self, addr: SocketAddr, _origin: DisconnectOrigin) {
        self.buckets.lock().remove(&addr);
    }
}

impl Writing for Gate {
    /// Room for the answers to a whole burst.
    const MESSAGE_QUEUE_DEPTH: usize = 2 * BURST as usize;
    type Message = Bytes;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        frames()
    }
}

/// A node that sends numbered messages to the gate, which answers each with its number.
#[derive(Clone)]
struct Peer {
    node: Node,
    answers: mpsc::UnboundedSender<u32>,
    answered: Arc<AsyncMutex<mpsc::UnboundedReceiver<u32>>>,
}

impl Peer {
    async fn start(name: &str) -> Self {
        let (answers, answered) = mpsc::unbounded_channel();
        let peer = Self { node: local_node(name), answers, answered: Arc::new(AsyncMutex::new(answered)) };
        peer.enable_reading().await;
        peer.enable_writing().await;
        peer
    }

    /// Sends 50 questions per second, and measures how long each answer takes.
    async fn ask_politely(&self, gate: SocketAddr, questions: u32) -> io::Result<Vec<Duration>> {
        let mut pace = interval(Duration::from_millis(20));
        let mut round_trips = Vec::new();
        for number in 0..questions {
            pace.tick().await;
            let begun = Instant::now();
            self.unicast_fast(gate, message(number))?;
            self.expect_answer(number).await?;
            round_trips.push(begun.elapsed());
        }
        Ok(round_trips)
    }

    /// Sends many messages at once, and measures how long it takes until all are answered.
    async fn send_at_once(&self, gate: SocketAddr, count: u32) -> io::Result<Duration> {
        let begun = Instant::now();
        for number in 0..count {
            self.unicast_fast(gate, message(number))?;
        }
        for number in 0..count {
            self.expect_answer(number).await?;
        }
        Ok(begun.elapsed())
    }

    /// Sends whenever there is room in the queue, until the connection ends; tells how much that was and how long it took.
    async fn flood(&self, gate: SocketAddr) -> io::Result<(u32, Duration)> {
        let begun = Instant::now();
        let mut sent = 0;
        while begun.elapsed() < PATIENCE {
            match self.unicast_fast(gate, message(sent)) {
                Ok(()) => sent += 1,
                Err(error) if error.kind() == io::ErrorKind::QuotaExceeded => sleep(Duration::from_millis(1)).await,
                Err(_) => return Ok((sent, begun.elapsed())),
            }
        }
        Err(io::Error::other("nobody stopped the flood"))
    }

    async fn expect_answer(&self, number: u32) -> io::Result<()> {
        let mut answered = self.answered.lock().await;
        let answer = timeout(PATIENCE, answered.recv()).await?;
        require(answer == Some(number), "each message is answered in its turn")
    }

    fn say(&self, line: &str) {
        let colour = if self.node.name() == "flood" { Colour::Red } else { Colour::Green };
        println!("{} {line}", colour.paint(format_args!("{:6}", self.node.name())));
    }
}

impl Pea2Pea for Peer {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Reading for Peer {
    type Message = BytesMut;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        frames()
    }

    async fn process_message(&self, _source: SocketAddr, mut message: BytesMut) {
        if let Ok(number) = message.try_get_u32() {
            let _ = self.answers.send(number);
        }
    }
}

impl Writing for Peer {
    const MESSAGE_QUEUE_DEPTH: usize = 2 * BURST as usize;
    type Message = Bytes;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        frames()
    }
}

/// Connects a peer with the gate, and tells what the gate knows of the connection.
async fn meet(peer: &Peer, gate: &Gate, gate_addr: SocketAddr) -> io::Result<ConnectionInfo> {
    let before = gate.node.connection_infos();
    peer.node.connect(gate_addr).await?;
    let wait = async {
        loop {
            if let Some((_, info)) =
                gate.node.connection_infos().into_iter().find(|(addr, _)| !before.contains_key(addr))
            {
                return info;
            }
            sleep(Duration::from_millis(1)).await;
        }
    };
    Ok(timeout(PATIENCE, wait).await?)
}

fn local_node(name: &str) -> Node {
    Node::new(Config {
        name: Some(name.to_owned()),
        listener_addr: Some(([127, 0, 0, 1], 0).into()),
        max_connections_per_ip: 3,
        ..Default::default()
    })
}

/// A number, and 1 KiB besides.
fn message(number: u32) -> Bytes {
    let mut message = BytesMut::zeroed(1024);
    message[..4].copy_from_slice(&number.to_be_bytes());
    message.freeze()
}

fn frames() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().max_frame_length(1024).new_codec()
}

fn require(holds: bool, claim: &str) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::Error::other(format!("this does not hold: {claim}"))) }
}

/// Tokens per second.
const RATE: f64 = 200.0;
/// What a full bucket holds.
const BURST: u32 = 100;
/// How many messages in a row may be delayed; at the rate above, a peer is told by them for 0.75 s to slow down.
const PATIENCE_IN_STRIKES: u32 = 150;
const PATIENCE: Duration = Duration::from_secs(10);
