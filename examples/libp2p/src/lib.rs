//! A node on the kernel that speaks libp2p, as far as a peer of it can notice: multistream-select, Noise, Yamux, ping and
//! identify, over TCP.
//!
//! # How libp2p becomes a protocol stack of the kernel
//!
//! ```text
//!   ping, identify          ping.rs, identify.rs     on substreams
//!   Yamux (crate `yamux`)   session.rs               one future, in on_connect
//!   Noise messages          noise.rs                 the codecs of Reading and Writing
//!   TCP                                              the kernel's read and write loop
//! ```
//!
//! The [`Handshake`](pea2pea::protocols::Handshake) agrees on Noise, runs it, checks the peer's id and agrees on Yamux; then
//! it leaves the bare TCP stream where it was. From there on, what the kernel reads and writes are *Noise messages*: its
//! loops, its queues, its backpressure, its timeouts and its counters are at work, and a forged message is a decoder's error
//! like any other. Yamux itself comes from its crate, which wants something to read and write: that is a pipe made of
//! `process_message` on one side and `unicast` on the other, and all that is above it lives in the connection's
//! `on_connect`, which the kernel drops when the connection ends.
//!
//! (A kernel whose messages are Yamux frames would have been possible too, with all of Yamux written by hand; and so would
//! an encrypted stream given back by `return_stream`, with the kernel reading bytes that mean nothing to it.)

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use libp2p_identity::{Keypair, PeerId};
use multiaddr::Multiaddr;
use multistream_select::{Negotiated, NegotiationError, Version, dialer_select_proto, listener_select_proto};
use pea2pea::{
    Config, DisconnectOrigin, Node, Pea2Pea,
    protocols::{Handshake, OnConnect, OnDisconnect, Reading, Writing},
};
use tokio::{
    sync::{broadcast, mpsc, oneshot},
    time::timeout,
};

pub mod address;
mod hooks;
mod identify;
mod noise;
mod ping;
mod session;
mod stream;
#[cfg(test)]
mod wire_tests;

pub use identify::{IDENTIFY, Info};
pub use ping::{PING, Pinger};

use hooks::Inbox;
use noise::{Identity, Sealer};
use session::{Command, Seed};

/// A substream that has settled on a protocol.
pub type Substream = Negotiated<yamux::Stream>;

/// What this software calls itself.
pub const AGENT: &str = concat!("pea2pea-libp2p/", env!("CARGO_PKG_VERSION"));

/// What happens to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Connected {
        addr: SocketAddr,
        peer: PeerId,
    },
    /// The peer was asked for, or asked us for, what the other one does not have, or is not who it should be.
    Refused {
        addr: SocketAddr,
        reason: String,
    },
    /// The peer pinged us.
    Pinged {
        peer: PeerId,
    },
    /// The peer asked us who we are.
    Identified {
        peer: PeerId,
    },
    /// The peer broke the rules of Yamux.
    Failed {
        addr: SocketAddr,
        peer: PeerId,
        reason: String,
    },
    Disconnected {
        addr: SocketAddr,
        peer: PeerId,
        origin: DisconnectOrigin,
    },
}

/// The node. Cheap to clone.
#[derive(Clone)]
pub struct Libp2p(Arc<Shared>);

struct Shared {
    node: Node,
    identity: Identity,
    /// What peers may ask for.
    protocols: &'static [&'static str],
    /// Each peer that is connected, or about to be.
    peers: Mutex<HashMap<SocketAddr, Peer>>,
    /// Who is to answer where we dial.
    expected: Mutex<HashMap<SocketAddr, Option<PeerId>>>,
    events: broadcast::Sender<Event>,
}

/// A peer, and the parts of its connection until the hook that they are meant for has fetched them.
struct Peer {
    id: PeerId,
    control: mpsc::Sender<Command>,
    decoder: Option<Inbox>,
    encoder: Option<Sealer>,
    seed: Option<Seed>,
}

impl Pea2Pea for Libp2p {
    fn node(&self) -> &Node {
        &self.0.node
    }
}

impl Libp2p {
    /// Makes a node that speaks ping and identify, with all five protocols of the kernel enabled.
    pub async fn start(config: Config, keypair: Keypair) -> io::Result<Self> {
        Self::start_speaking(&[PING, IDENTIFY], config, keypair).await
    }

    /// Makes a node that answers to some of the protocols only: libp2p demands none of them.
    pub async fn start_speaking(
        protocols: &'static [&'static str],
        config: Config,
        keypair: Keypair,
    ) -> io::Result<Self> {
        let node = Self(Arc::new(Shared {
            node: Node::new(config),
            identity: Identity::new(keypair)?,
            protocols,
            peers: Mutex::default(),
            expected: Mutex::default(),
            events: broadcast::channel(MAX_EVENTS).0,
        }));
        node.enable_handshake().await;
        node.enable_reading().await;
        node.enable_writing().await;
        node.enable_on_connect().await;
        node.enable_on_disconnect().await;
        Ok(node)
    }

    pub fn peer_id(&self) -> PeerId {
        self.0.identity.peer_id()
    }

    /// What happens from now on; who does not listen for long misses the oldest events.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.0.events.subscribe()
    }

    /// Begins to listen, and returns the address to dial.
    pub async fn listen(&self) -> io::Result<Multiaddr> {
        let addr = match self.node().listening_addr().await {
            Ok(addr) => addr,
            Err(_) => self.node().toggle_listener().await?.ok_or(io::ErrorKind::AddrNotAvailable)?,
        };
        Ok(address::format_with_peer(addr, self.peer_id()))
    }

    /// Connects to a peer; fails if another one than the address names answers there.
    pub async fn dial(&self, multiaddr: &Multiaddr) -> io::Result<SocketAddr> {
        let (addr, peer) = address::parse(multiaddr)?;
        let _expectation = Expectation::new(self, addr, peer)?;
        self.node().connect(addr).await?;
        Ok(addr)
    }

    /// Who is connected from, or at, this address.
    pub fn peer_at(&self, addr: SocketAddr) -> Option<PeerId> {
        self.peers().get(&addr).map(|peer| peer.id)
    }

    /// Where the peer is connected from, or at.
    pub fn addr_of(&self, peer: PeerId) -> Option<SocketAddr> {
        self.peers().iter().find(|(_, entry)| entry.id == peer).map(|(addr, _)| *addr)
    }

    /// Opens a substream for a protocol; `Unsupported` if the peer does not speak it.
    pub async fn open(&self, addr: SocketAddr, protocol: &str) -> io::Result<Substream> {
        let gone = || not_connected(addr);
        let control = self.peers().get(&addr).map(|peer| peer.control.clone()).ok_or_else(gone)?;
        let work = async {
            let (reply, stream) = oneshot::channel();
            control.send(Command::Open(reply)).await.map_err(|_| gone())?;
            let stream = stream.await.map_err(|_| gone())?.map_err(io::Error::other)?;
            match dialer_select_proto(stream, [protocol], Version::V1).await {
                Ok((_, stream)) => Ok(stream),
                Err(NegotiationError::Failed) => {
                    Err(io::Error::new(io::ErrorKind::Unsupported, format!("{addr} does not speak {protocol}")))
                }
                Err(NegotiationError::ProtocolError(error)) => Err(error.into()),
            }
        };
        in_time(&format!("a substream for {protocol}"), work).await
    }

    /// Opens a substream to ping the peer on.
    pub async fn pinger(&self, addr: SocketAddr) -> io::Result<Pinger> {
        Ok(Pinger(self.open(addr, PING).await?))
    }

    /// Asks the peer who it is; what it says has to fit the key that it proved to have. `Unsupported` if it does not speak
    /// identify, which is optional: that is no reason to give the peer up.
    pub async fn identify(&self, addr: SocketAddr) -> io::Result<Info> {
        let peer = self.peer_at(addr).ok_or_else(|| not_connected(addr))?;
        let stream = self.open(addr, IDENTIFY).await?;
        let info = in_time("what the peer says of itself", Info::receive(stream)).await?;
        let claimed = info.public_key.to_peer_id();
        if claimed == peer { Ok(info) } else { Err(invalid(format!("{peer} says that it is {claimed}"))) }
    }

    /// Says goodbye to one peer.
    pub async fn disconnect(&self, addr: SocketAddr) -> bool {
        self.node().disconnect(addr).await
    }

    /// Says goodbye to all peers, and stops.
    pub async fn shut_down(&self) {
        self.node().shut_down().await;
        self.peers().clear();
    }

    /// Answers on a substream that the peer has opened.
    async fn serve(&self, addr: SocketAddr, stream: yamux::Stream) {
        let Some(peer) = self.peer_at(addr) else { return };
        // What is not among these is answered with `na`, and the peer may ask for something else.
        let agreed = in_time("a protocol", async {
            listener_select_proto(stream, self.0.protocols.iter().copied()).await.map_err(io::Error::from)
        });
        let Ok((protocol, stream)) = agreed.await else { return };
        // An error on a substream concerns nobody but whoever uses it.
        let _ = match protocol {
            PING => ping::answer(stream, || self.report(Event::Pinged { peer })).await,
            _ => {
                self.report(Event::Identified { peer });
                in_time("an end", self.info(addr).await.send(stream)).await
            }
        };
    }

    async fn info(&self, addr: SocketAddr) -> Info {
        let listening = self.node().listening_addr().await;
        Info {
            public_key: self.0.identity.public_key(),
            agent: AGENT.to_owned(),
            protocol_version: "ipfs/0.1.0".to_owned(),
            protocols: self.0.protocols.iter().copied().map(str::to_owned).collect(),
            listen_addrs: listening.map(address::format).into_iter().collect(),
            observed_addr: Some(address::format(addr)),
        }
    }

    fn identity(&self) -> &Identity {
        &self.0.identity
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<SocketAddr, Peer>> {
        lock(&self.0.peers)
    }

    fn expected(&self, addr: SocketAddr) -> Option<PeerId> {
        lock(&self.0.expected).get(&addr).copied().flatten()
    }

    fn report(&self, event: Event) {
        // Fails if nobody listens.
        let _ = self.0.events.send(event);
    }
}

/// Tells the handshake of a dial who should answer; as long as the dial takes, however that ends.
struct Expectation<'a> {
    node: &'a Libp2p,
    addr: SocketAddr,
}

impl<'a> Expectation<'a> {
    fn new(node: &'a Libp2p, addr: SocketAddr, peer: Option<PeerId>) -> io::Result<Self> {
        let mut expected = lock(&node.0.expected);
        if expected.contains_key(&addr) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{addr} is being dialled already")));
        }
        expected.insert(addr, peer);
        Ok(Self { node, addr })
    }
}

impl Drop for Expectation<'_> {
    fn drop(&mut self) {
        lock(&self.node.0.expected).remove(&self.addr);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that could panic is done under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn not_connected(addr: SocketAddr) -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, format!("{addr} is not connected"))
}

fn invalid(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.into())
}

async fn in_time<T>(what: &str, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match timeout(PATIENCE, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("{what} did not come"))),
    }
}

/// How long a peer may take to agree on a protocol, or to say who it is.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many events a slow listener can be behind.
const MAX_EVENTS: usize = 256;
