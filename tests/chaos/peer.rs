//! A node of the pool with all five protocols: its making and its end. What it sends, and what its hooks do, is next door.

use std::{
    io,
    net::SocketAddr,
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use pea2pea::{
    Config, DisconnectOrigin, Node, Pea2Pea, ShuttingDown,
    protocols::{Handshake, OnConnect, OnDisconnect, Reading, Writing},
};
use tokio::{net::TcpSocket, time::sleep};

use crate::{
    common::wire::Random,
    ledger::Ledger,
    strangers,
    tally::Event,
    world::{EXTRA_WORKERS, WORKERS, World, loopback},
};

/// The most connections that any node may have.
pub const MAX_CONNECTIONS: u16 = 16;

#[derive(Clone)]
pub struct Peer(Arc<Inner>);

pub struct Inner {
    pub node: Node,
    pub world: Arc<World>,
    pub number: u32,
    /// Whether the node is to live until the end.
    pub is_veteran: bool,
    /// Where the node listens at the moment, as far as its workers know.
    listening_addr: Mutex<Option<SocketAddr>>,
    ledger: Mutex<Ledger>,
    /// The serial number of the last message of each worker.
    pub serials: [AtomicU32; WORKERS + EXTRA_WORKERS],
    pub hook_serial: Mutex<u32>,
    /// How many broadcasts have begun.
    pub broadcasts: AtomicU64,
    dice: AtomicU64,
    /// Whether a shutdown has begun.
    closing: AtomicBool,
    /// Whether a shutdown has been seen to its end.
    ended: AtomicBool,
    /// How many decoders there are, each being owned by a reader, or by a dial that is just going live.
    pub readers: AtomicUsize,
    /// How many dials are under way.
    dials: AtomicUsize,
    messages_received: AtomicU64,
    bytes_received: AtomicU64,
    /// How many connections `disconnect` has ended, according to `on_disconnect` and to its callers.
    ended_by_user: AtomicU64,
    disconnects: AtomicU64,
}

impl Deref for Peer {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Pea2Pea for Peer {
    fn node(&self) -> &Node {
        &self.0.node
    }
}

impl Peer {
    /// Makes a node that listens, with limits by the dice.
    pub async fn spawn(world: &Arc<World>, is_veteran: bool, dice: &mut Random) -> Self {
        let max_connections = 4 + dice.below(usize::from(MAX_CONNECTIONS) - 3) as u16;
        let config = Config {
            listener_addr: Some(SocketAddr::new(loopback(dice.below(4)), 0)),
            max_connections,
            max_connections_per_ip: 2 + dice.below(usize::from(max_connections) - 1) as u16,
            max_connecting: 2 + dice.below(8) as u16,
            connection_timeout_ms: 500,
            ..Default::default()
        };
        let node = Node::new(config);
        let inner = Inner {
            ledger: Mutex::new(Ledger::new(node.config())),
            node,
            world: Arc::clone(world),
            number: world.new_node_number(),
            is_veteran,
            listening_addr: Mutex::default(),
            serials: [const { AtomicU32::new(0) }; WORKERS + EXTRA_WORKERS],
            hook_serial: Mutex::new(0),
            broadcasts: AtomicU64::new(0),
            dice: AtomicU64::new(dice.next()),
            closing: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            readers: AtomicUsize::new(0),
            dials: AtomicUsize::new(0),
            messages_received: AtomicU64::new(0),
            bytes_received: AtomicU64::new(0),
            ended_by_user: AtomicU64::new(0),
            disconnects: AtomicU64::new(0),
        };
        world.peers.fetch_add(1, Relaxed);
        world.count(Event::Spawned);
        let peer = Self(Arc::new(inner));
        peer.enable_handshake().await;
        peer.enable_reading().await;
        peer.enable_writing().await;
        peer.enable_on_connect().await;
        peer.enable_on_disconnect().await;
        peer.toggle_listener().await;
        peer
    }

    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// A number below the limit, different each time; the greatest, which makes no hook misbehave, when the run is over.
    /// The order in which hooks ask is not reproducible.
    pub fn roll(&self, limit: usize) -> u64 {
        if self.world.is_stopping() {
            return limit as u64 - 1;
        }
        Random::new(self.dice.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed)).below(limit) as u64
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }

    pub fn is_closing(&self) -> bool {
        self.closing.load(Relaxed)
    }

    /// To be called before any call of `shut_down`.
    pub fn set_closing(&self) {
        self.closing.store(true, Relaxed);
    }

    pub fn listening_addr(&self) -> Option<SocketAddr> {
        *self.listening_addr.lock().unwrap()
    }

    /// Switches listening on or off.
    pub async fn toggle_listener(&self) {
        match self.node.toggle_listener().await {
            Ok(addr) => {
                *self.listening_addr.lock().unwrap() = addr;
                self.world.count(if addr.is_some() { Event::Listening } else { Event::NotListening });
            }
            Err(error) if ShuttingDown::caused(&error) && self.is_closing() => {}
            Err(error) => self.world.fault(format!("toggle_listener: {error:?}")),
        }
    }

    /// Asks the node where it listens, after a toggle of which nobody saw the end.
    pub async fn learn_listening_addr(&self) {
        let addr = self.node.listening_addr().await.ok();
        *self.listening_addr.lock().unwrap() = addr;
    }

    pub async fn dial(&self, addr: SocketAddr, socket: Option<TcpSocket>) -> io::Result<()> {
        self.dials.fetch_add(1, SeqCst);
        // Dropped after the dial is, however that ends.
        let _under_way = UnderWay(&self.dials);
        match socket {
            Some(socket) => self.node.connect_using_socket(addr, socket).await,
            None => self.node.connect(addr).await,
        }
    }

    pub fn note_received(&self, size: usize) {
        self.world.count(Event::Decoded);
        self.messages_received.fetch_add(1, Relaxed);
        self.bytes_received.fetch_add(size as u64, Relaxed);
    }

    pub fn note_end(&self, origin: DisconnectOrigin) {
        let event = match origin {
            DisconnectOrigin::OnConnectAbort => Event::EndedByOnConnect,
            DisconnectOrigin::Reading => Event::EndedByReading,
            DisconnectOrigin::Shutdown => Event::EndedByShutdown,
            DisconnectOrigin::User => Event::EndedByUser,
            DisconnectOrigin::Writing => Event::EndedByWriting,
        };
        self.world.count(event);
        if origin == DisconnectOrigin::User {
            self.ended_by_user.fetch_add(1, Relaxed);
        }
        if origin == DisconnectOrigin::Shutdown && !self.is_closing() {
            self.world.fault("a connection was ended by a shutdown, and there is none");
        }
    }

    pub fn note_disconnect(&self, is_done: bool) {
        self.world.count(if is_done { Event::Disconnected } else { Event::NotDisconnected });
        self.disconnects.fetch_add(u64::from(is_done), Relaxed);
    }

    /// Shows that nothing of the past counts any more: after all connections have ended, as many as ever fit in.
    pub async fn prove_capacity(&self) {
        // What is known of the listener may come from a toggle that was cut short.
        let addr = loop {
            self.toggle_listener().await;
            if let Some(addr) = self.listening_addr() {
                break addr;
            }
        };
        let capacity = self.node.config().max_connections_per_ip.min(self.node.config().max_connections);
        for ip in (0..4).map(loopback) {
            self.empty().await;
            let accepted = strangers::fill(addr, ip, capacity.into()).await;
            if accepted < capacity.into() {
                let config = self.node.config();
                self.world.fault(format!("an old node takes {accepted} connections from {ip}, with {config:?}"));
            }
        }
        self.toggle_listener().await;
        self.empty().await;
    }

    async fn empty(&self) {
        while self.node.num_connected() + self.node.num_connecting() > 0 {
            for addr in self.node.connected_addrs() {
                let is_done = self.node.disconnect(addr).await;
                self.note_disconnect(is_done);
            }
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// Shuts the node down; nothing may be left of it then.
    pub async fn end(self) {
        self.set_closing();
        self.node.shut_down().await;
        *self.listening_addr.lock().unwrap() = None;
        if !self.ended.swap(true, Relaxed) {
            self.world.count(Event::ShutDown);
        }
        let left = (self.node.num_connected(), self.node.num_connecting(), self.node.connected_addrs());
        if left != (0, 0, Vec::new()) {
            self.world.fault(format!("(connected, connecting, addresses) after a shutdown: {left:?}"));
        }
        // A shutdown waits for no dial: each may, on another thread, have made its decoder, and be about to be refused. Those
        // are counted first, for they end last.
        let dials = self.dials.load(SeqCst);
        let readers = self.readers.load(SeqCst);
        if readers > dials {
            self.world.fault(format!("{readers} readers and {dials} dials go on after a shutdown"));
        }
        if self.node.listening_addr().await.is_ok() {
            self.world.fault("a node listens after its shutdown");
        }
        match self.node.connect(SocketAddr::new(loopback(0), 1)).await {
            Err(error) if ShuttingDown::caused(&error) => {}
            other => self.world.fault(format!("connect after a shutdown: {other:?}")),
        }
    }
}

struct UnderWay<'a>(&'a AtomicUsize);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// The last owner is gone: no hook can begin any more.
impl Drop for Inner {
    fn drop(&mut self) {
        let world = Arc::clone(&self.world);
        world.peers.fetch_sub(1, Relaxed);
        if !self.ended.load(Relaxed) {
            world.fault("a node is gone that was not shut down");
        }
        let ledger = self.ledger.get_mut().unwrap();
        let audit = ledger.audit();
        world.tally.add(Event::OnConnectVanished, ledger.foreign_owed as u64);
        world.check(audit.map_err(|what| format!("node {}: {what}", self.number)));

        let decoded = (self.messages_received.load(Relaxed), self.bytes_received.load(Relaxed));
        let counted = self.node.stats().received();
        if decoded != counted {
            world.fault(format!("{decoded:?} messages and bytes were decoded, {counted:?} count as received"));
        }
        let (ended, told) = (self.ended_by_user.load(Relaxed), self.disconnects.load(Relaxed));
        if told > ended {
            world.fault(format!("{told} calls of disconnect say that they ended a connection, {ended} did"));
        }
        let heuristics = self.node.heuristics();
        world.tally.add(Event::InboundRejected, heuristics.inbound_connections_rejected());
        world.tally.add(Event::BudgetRejected, heuristics.connect_budget_rejections());
        world.tally.add(Event::HandshakeTimedOut, heuristics.handshake_timeouts());
        world.tally.add(Event::WriteTimedOut, heuristics.write_timeouts());
        world.tally.add(Event::IdleTimedOut, heuristics.idle_timeouts());
        if heuristics.accept_errors() > 0 {
            world.fault(format!("{} accepts failed", heuristics.accept_errors()));
        }
    }
}
