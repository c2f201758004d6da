//! Tie break: two nodes that dial each other at the same moment end with exactly one connection.
//!
//! The kernel knows connections by the address of the peer, and a dial comes from a port of its own:
//! two nodes that dial each other get two connections. This example shows how to have one instead.
//! The ids are exchanged in the handshake, and from them both sides compute alone who decides: the
//! node with the smaller id. It keeps the first connection that gets that far, refuses every other,
//! and tells its verdict in one byte. One decider cannot contradict itself, so it never happens that
//! both connections live, or that each side refuses the one that the other side keeps; and because all of
//! this is over before a connection is live, no hook ever sees the one that was refused.
//!
//! Run it with
//!
//! ```text
//! cargo run --example tie_break
//! ```
//!
//! You will see, with other counts:
//!
//! ```text
//! without the rule: both dials succeed, and each node has 2 connections, both with the other one
//! with the rule: 200 times both dialled at once, and 200 times there was exactly 1 connection
//! the one that was kept: 137 times the dial of ada, 63 times that of bob
//! on_connect and on_disconnect ran 200 times at each of the two: no hook saw what was refused
//! ```

mod common;

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::BytesMut;
use parking_lot::Mutex;
use pea2pea::{
    Config, Connection, ConnectionSide, DisconnectOrigin, Node, Pea2Pea,
    protocols::{Handshake, OnConnect, OnDisconnect, Reading},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{sleep, timeout},
};
use tokio_util::codec::BytesCodec;

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let rounds = if common::is_short() { 200 } else { 2_000 };
    let outcome = tokio::select! {
        outcome = story(rounds) => outcome,
        () = common::ctrl_c() => Err(io::Error::other("interrupted")),
    };
    common::exit(outcome)
}

async fn story(rounds: usize) -> io::Result<()> {
    let (ada, bob) = (Member::start(1).await?, Member::start(2).await?);
    let outcome = collide(&ada, &bob).await;
    ada.node.shut_down().await;
    bob.node.shut_down().await;
    outcome?;

    let (ada, bob) = (Member::start(1).await?, Member::start(2).await?);
    for member in [&ada, &bob] {
        member.enable_handshake().await;
        member.enable_reading().await;
        member.enable_on_connect().await;
        member.enable_on_disconnect().await;
    }
    let outcome = collide_again_and_again(&ada, &bob, rounds).await;
    ada.node.shut_down().await;
    bob.node.shut_down().await;
    outcome
}

async fn collide(ada: &Member, bob: &Member) -> io::Result<()> {
    let addrs = (ada.node.listening_addr().await?, bob.node.listening_addr().await?);
    let dials = tokio::join!(ada.node.connect(addrs.1), bob.node.connect(addrs.0));
    require(dials.0.is_ok() && dials.1.is_ok(), "without a rule, both dials succeed")?;
    until("two connections", || ada.node.num_connected() == 2 && bob.node.num_connected() == 2).await?;
    println!("without the rule: both dials succeed, and each node has 2 connections, both with the other one");
    Ok(())
}

async fn collide_again_and_again(ada: &Member, bob: &Member, rounds: usize) -> io::Result<()> {
    let addrs = (ada.node.listening_addr().await?, bob.node.listening_addr().await?);
    let (mut by_ada, mut by_bob) = (0, 0);
    for round in 1..=rounds {
        // `biased` polls in this order, so every other round the other one is ahead.
        let dials = if round % 2 == 0 {
            tokio::join!(biased; ada.node.connect(addrs.1), bob.node.connect(addrs.0))
        } else {
            let (bobs, adas) = tokio::join!(biased; bob.node.connect(addrs.0), ada.node.connect(addrs.1));
            (adas, bobs)
        };
        match dials {
            (Ok(()), Err(refusal)) if is_refusal(&refusal) => by_ada += 1,
            (Err(refusal), Ok(())) if is_refusal(&refusal) => by_bob += 1,
            other => return Err(io::Error::other(format!("one dial was to succeed, but: {other:?}"))),
        }
        // The other end of the dial that succeeded may be a moment behind.
        for (member, peer) in [(ada, bob), (bob, ada)] {
            until("one connection", || member.is_settled_with(peer, round)).await?;
        }

        let Some(addr) = ada.node.connected_addrs().pop() else {
            return Err(io::Error::other("the connection went away"));
        };
        require(ada.node.disconnect(addr).await, "there is a connection to end")?;
        for member in [ada, bob] {
            until("the end", || member.node.num_connected() == 0 && member.ended.load(Relaxed) == round).await?;
        }
    }
    println!("with the rule: {rounds} times both dialled at once, and {rounds} times there was exactly 1 connection");
    println!("the one that was kept: {by_ada} times the dial of ada, {by_bob} times that of bob");

    let (connected, ended) = (ada.connected.load(Relaxed), ada.ended.load(Relaxed));
    require((connected, ended) == (rounds, rounds), "the hooks of ada run once for each round")?;
    let (connected, ended) = (bob.connected.load(Relaxed), bob.ended.load(Relaxed));
    require((connected, ended) == (rounds, rounds), "the hooks of bob run once for each round")?;
    println!("on_connect and on_disconnect ran {rounds} times at each of the two: no hook saw what was refused");
    Ok(())
}

#[derive(Clone)]
struct Member {
    node: Node,
    id: u64,
    /// Who is at the other end of each connection, live or about to be.
    peers: Arc<Mutex<HashMap<SocketAddr, u64>>>,
    connected: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
}

impl Member {
    async fn start(id: u64) -> io::Result<Self> {
        let node = Node::new(Config {
            listener_addr: Some(([127, 0, 0, 1], 0).into()),
            // Room for both connections: it is the rule that is to refuse one of them.
            max_connections_per_ip: 4,
            ..Default::default()
        });
        node.toggle_listener().await?;
        Ok(Self { node, id, peers: Arc::default(), connected: Arc::default(), ended: Arc::default() })
    }

    /// Notes the peer, unless this node is the one that decides, and has a connection with that peer.
    fn admit(&self, addr: SocketAddr, id: u64) -> bool {
        let mut peers = self.peers.lock();
        // A handshake that failed, or was cancelled, after this point has left an entry without a connection.
        // Asked in this order: one that goes live in between is found by the second question.
        peers.retain(|addr, _| self.node.is_connecting(*addr) || self.node.is_connected(*addr));
        if self.id < id && peers.values().any(|known| *known == id) {
            return false;
        }
        peers.insert(addr, id);
        true
    }

    /// Whether this node has one connection, with this peer, nothing else under way, and `on_connect` ran for each round.
    fn is_settled_with(&self, peer: &Self, round: usize) -> bool {
        let connected = self.node.connected_addrs();
        connected.len() == 1
            && self.node.num_connecting() == 0
            && self.peers.lock().get(&connected[0]) == Some(&peer.id)
            && self.connected.load(Relaxed) == round
    }
}

impl Pea2Pea for Member {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Handshake for Member {
    async fn perform_handshake(&self, mut conn: Connection) -> io::Result<Connection> {
        let addr = conn.addr();
        let stream = self.borrow_stream(&mut conn);
        stream.set_nodelay(true)?;
        stream.write_u64(self.id).await?;
        let peer = stream.read_u64().await?;

        let is_kept = if self.id < peer {
            let is_kept = self.admit(addr, peer);
            stream.write_u8(is_kept.into()).await?;
            is_kept
        } else if self.id > peer {
            stream.read_u8().await? == 1 && self.admit(addr, peer)
        } else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the peer has our own id"));
        };
        if is_kept { Ok(conn) } else { Err(io::Error::new(io::ErrorKind::AlreadyExists, REFUSAL)) }
    }
}

/// There is nothing to read, but whoever reads notices when the other side ends the connection.
impl Reading for Member {
    type Message = BytesMut;
    type Codec = BytesCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        BytesCodec::new()
    }

    async fn process_message(&self, _source: SocketAddr, _message: BytesMut) {}
}

impl OnConnect for Member {
    async fn on_connect(&self, _addr: SocketAddr) {
        self.connected.fetch_add(1, Relaxed);
    }
}

impl OnDisconnect for Member {
    async fn on_disconnect(&self, addr: SocketAddr, _origin: DisconnectOrigin) {
        self.peers.lock().remove(&addr);
        self.ended.fetch_add(1, Relaxed);
    }
}

fn is_refusal(error: &io::Error) -> bool {
    error.to_string() == REFUSAL
}

async fn until(what: &str, holds: impl Fn() -> bool) -> io::Result<()> {
    let wait = async {
        while !holds() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, wait).await.map_err(|_| io::Error::other(format!("this did not happen: {what}")))
}

fn require(holds: bool, claim: &str) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::Error::other(format!("this does not hold: {claim}"))) }
}

const REFUSAL: &str = "the other connection with this peer is kept";
const PATIENCE: Duration = Duration::from_secs(10);
