//! LAN discovery: nodes on one network find each other without any address being given.
//!
//! Shows UDP beacons beside the kernel: each node says every so often, to everybody on the network,
//! which port it listens on; whoever hears that dials it. A beacon is a hint from a stranger, so it
//! is treated as one: garbage and beacons of other networks are dropped, a node never dials
//! itself, the handshake makes sure that the node behind the address is the one that the beacon
//! named, and neither memory nor the number of dials depends on how many beacons somebody forges.
//!
//! ```text
//! cargo run --example lan_discovery                                # on each machine, or in several terminals
//! cargo run --example lan_discovery -- --broadcast 192.168.1.255   # on a machine with several networks
//! ```
//!
//! You will see one line for each node that comes or goes, until Ctrl-C:
//!
//! ```text
//! node ab65 listens on 0.0.0.0:45737; Ctrl-C ends
//! ab65 found e392 at 127.0.0.1:35417
//! ab65 found 1dbb at 127.0.0.1:34354
//! ab65 lost 1dbb
//! ab65 lost e392
//! node ab65 is gone
//! ```
//!
//! Anybody on the network can join: put real authentication (see `tls`, `noise`) into the handshake.

mod common;

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::{Buf, BufMut, BytesMut};
use common::Colour;
use parking_lot::Mutex;
use pea2pea::{
    Config, Connection, ConnectionSide, DisconnectOrigin, Node, Pea2Pea,
    protocols::{Handshake, OnConnect, OnDisconnect, Reading},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
    sync::Semaphore,
    time::{interval, sleep, timeout},
};
use tokio_util::codec::BytesCodec;

#[tokio::main]
async fn main() -> std::process::ExitCode {
    common::exit(if common::is_short() { rehearse().await } else { discover().await })
}

async fn discover() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let broadcast = match &args[..] {
        [] => Ipv4Addr::BROADCAST,
        [option, addr] if option == "--broadcast" => addr.parse().map_err(|_| io::Error::other(USAGE))?,
        _ => return Err(io::Error::other(USAGE)),
    };
    // The first port that is free: each node of one machine has its own, and beacons go to all of them.
    let mut socket = Err(io::Error::other("no port for beacons"));
    for port in PORTS {
        socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).await;
        if socket.is_ok() {
            break;
        }
    }
    let targets = PORTS.map(|port| (broadcast, port).into());
    let member = Member::start(NETWORK, Ipv4Addr::UNSPECIFIED, socket?).await?;
    println!("node {} listens on {}; Ctrl-C ends", member.name(), member.node.listening_addr().await?);
    let outcome = tokio::select! {
        outcome = member.run(&targets) => outcome,
        () = common::ctrl_c() => Ok(()),
    };
    member.node.shut_down().await;
    println!("node {} is gone", member.name());
    outcome
}

#[derive(Clone)]
struct Member {
    node: Node,
    /// Which network this is; the nodes of others are none of its business.
    network: u64,
    id: u64,
    beacons: Arc<UdpSocket>,
    /// Whom the handshakes found at the other ends.
    peers: Arc<Mutex<HashMap<SocketAddr, u64>>>,
    /// The dials that a beacon caused lately, bounded in number; a failed one is not repeated while it is in here.
    attempts: Arc<Mutex<Vec<Attempt>>>,
    num_dials: Arc<AtomicUsize>,
}

struct Attempt {
    addr: SocketAddr,
    id: u64,
    begun: Instant,
}

/// What a node says to everybody: `MAGIC`, the network, its id, and the port it listens on.
struct Beacon {
    network: u64,
    id: u64,
    port: u16,
}

impl Beacon {
    fn to_bytes(&self) -> BytesMut {
        let mut bytes = BytesMut::with_capacity(BEACON_LEN);
        bytes.put_slice(MAGIC);
        bytes.put_u64(self.network);
        bytes.put_u64(self.id);
        bytes.put_u16(self.port);
        bytes
    }

    fn parse(mut datagram: &[u8]) -> Option<Self> {
        if datagram.len() != BEACON_LEN || !datagram.starts_with(MAGIC) {
            return None;
        }
        datagram.advance(MAGIC.len());
        let beacon = Self { network: datagram.get_u64(), id: datagram.get_u64(), port: datagram.get_u16() };
        (beacon.port != 0).then_some(beacon)
    }
}

impl Member {
    async fn start(network: u64, addr: Ipv4Addr, beacons: UdpSocket) -> io::Result<Self> {
        beacons.set_broadcast(true)?;
        let node = Node::new(Config {
            listener_addr: Some((addr, 0).into()),
            max_connections: 64,
            // Several nodes of one machine; one of them is enough elsewhere.
            max_connections_per_ip: PORTS.len() as u16,
            ..Default::default()
        });
        let member = Self {
            node,
            network,
            id: RandomState::new().hash_one(0),
            beacons: Arc::new(beacons),
            peers: Arc::default(),
            attempts: Arc::default(),
            num_dials: Arc::default(),
        };
        member.enable_handshake().await;
        member.enable_reading().await;
        member.enable_on_connect().await;
        member.enable_on_disconnect().await;
        member.node.toggle_listener().await?;
        Ok(member)
    }

    /// Finds and is found, for as long as it is polled.
    async fn run(&self, targets: &[SocketAddr]) -> io::Result<()> {
        tokio::try_join!(self.send_beacons(targets), self.hear_beacons()).map(drop)
    }

    /// Tells everybody where this node listens.
    async fn send_beacons(&self, targets: &[SocketAddr]) -> io::Result<()> {
        let port = self.node.listening_addr().await?.port();
        let beacon = Beacon { network: self.network, id: self.id, port }.to_bytes();
        let mut pace = interval(pace());
        loop {
            pace.tick().await;
            for target in targets {
                // A network that is down now may be up again later; only what cannot change is an error.
                if let Err(error) = self.beacons.send_to(&beacon, *target).await
                    && error.kind() == io::ErrorKind::PermissionDenied
                {
                    return Err(error);
                }
            }
        }
    }

    /// Listens to the beacons of all others, and dials where that makes sense.
    async fn hear_beacons(&self) -> io::Result<()> {
        // One byte more than a beacon has, so that a longer datagram is recognised.
        let mut datagram = [0; BEACON_LEN + 1];
        let budget = Arc::new(Semaphore::new(MAX_DIALS_AT_ONCE));
        loop {
            let Ok((len, source)) = self.beacons.recv_from(&mut datagram).await else {
                sleep(pace()).await; // Such as a beacon of our own that nobody wanted.
                continue;
            };
            let Some(beacon) = Beacon::parse(&datagram[..len]) else { continue };
            if !self.is_worth_a_dial(&beacon) {
                continue;
            }
            let Ok(permit) = budget.clone().try_acquire_owned() else { continue };
            let addr = SocketAddr::new(source.ip(), beacon.port);
            if self.begin_attempt(addr, beacon.id) {
                self.num_dials.fetch_add(1, Relaxed);
                let member = self.clone();
                tokio::spawn(async move {
                    // Whoever is not there, or not who the beacon said, is left alone until the attempt is forgotten.
                    let _ = member.node.connect(addr).await;
                    drop(permit);
                });
            }
        }
    }

    /// Of two nodes, the one with the smaller id dials, so that they do not dial each other; and nobody dials itself.
    fn is_worth_a_dial(&self, beacon: &Beacon) -> bool {
        beacon.network == self.network && self.id < beacon.id && !self.knows(beacon.id)
    }

    fn begin_attempt(&self, addr: SocketAddr, id: u64) -> bool {
        let mut attempts = self.attempts.lock();
        attempts.retain(|attempt| attempt.begun.elapsed() < PENALTY);
        if attempts.len() >= MAX_ATTEMPTS || attempts.iter().any(|attempt| attempt.addr == addr) {
            return false;
        }
        attempts.push(Attempt { addr, id, begun: Instant::now() });
        true
    }

    fn knows(&self, id: u64) -> bool {
        self.peers.lock().values().any(|known| *known == id)
    }

    fn name(&self) -> String {
        name_of(self.id)
    }
}

impl Pea2Pea for Member {
    fn node(&self) -> &Node {
        &self.node
    }
}

/// Both sides say which network they are of and who they are; the one that dialled knows whom it expects.
impl Handshake for Member {
    async fn perform_handshake(&self, mut conn: Connection) -> io::Result<Connection> {
        let (addr, dialled) = (conn.addr(), conn.side() == ConnectionSide::Responder);
        let stream = self.borrow_stream(&mut conn);
        stream.set_nodelay(true)?;
        stream.write_u64(self.network).await?;
        stream.write_u64(self.id).await?;
        let (network, id) = (stream.read_u64().await?, stream.read_u64().await?);

        let is_expected = !dialled || self.attempts.lock().iter().any(|it| it.addr == addr && it.id == id);
        let mut peers = self.peers.lock();
        // A handshake that was cut short has left an entry without a connection.
        // Asked in this order: one that goes live in between is found by the second question.
        peers.retain(|addr, _| self.node.is_connecting(*addr) || self.node.is_connected(*addr));
        let is_known = id == self.id || peers.values().any(|known| *known == id);
        if network != self.network || !is_expected || is_known {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a new member of this network"));
        }
        peers.insert(addr, id);
        Ok(conn)
    }
}

/// There is nothing to read, but whoever reads notices when the other side ends the connection.
impl Reading for Member {
    const IDLE_TIMEOUT_MS: u64 = 0;
    type Message = BytesMut;
    type Codec = BytesCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        BytesCodec::new()
    }

    async fn process_message(&self, _source: SocketAddr, _message: BytesMut) {}
}

impl OnConnect for Member {
    async fn on_connect(&self, addr: SocketAddr) {
        let peer = self.peers.lock().get(&addr).copied();
        if let Some(id) = peer {
            let line = format!("found {} at {addr}", name_of(id));
            println!("{} {}", self.name(), Colour::Green.paint(line));
        }
    }
}

impl OnDisconnect for Member {
    async fn on_disconnect(&self, addr: SocketAddr, _origin: DisconnectOrigin) {
        let peer = self.peers.lock().remove(&addr);
        if let Some(id) = peer {
            self.attempts.lock().retain(|attempt| attempt.id != id);
            let line = format!("lost {}", name_of(id));
            println!("{} {}", self.name(), Colour::Red.paint(line));
        }
    }
}

/// The time between two beacons.
fn pace() -> Duration {
    Duration::from_millis(if common::is_short() { 50 } else { 1_000 })
}

fn name_of(id: u64) -> String {
    format!("{:04x}", id >> 48)
}

/// The short mode: three nodes on the loopback network find each other, and a forger does not get far.
async fn rehearse() -> io::Result<()> {
    // A network of its own, on ports that are free, so that any number of these can run beside each other.
    let network = RandomState::new().hash_one(0);
    let (mut members, mut targets) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
        targets.push((LOOPBACK_BROADCAST, socket.local_addr()?.port()).into());
        members.push(Member::start(network, Ipv4Addr::LOCALHOST, socket).await?);
    }
    let outcome = tokio::select! {
        outcome = rehearse_with(&members, &targets) => outcome,
        outcome = members[0].run(&targets) => outcome,
        outcome = members[1].run(&targets) => outcome,
        outcome = members[2].run(&targets) => outcome,
    };
    for member in &members {
        member.node.shut_down().await;
    }
    outcome
}

async fn rehearse_with(members: &[Member], targets: &[SocketAddr]) -> io::Result<()> {
    let is_complete =
        || members.iter().all(|member| member.node.num_connected() == 2 && member.node.num_connecting() == 0);
    until("everybody finds both others", is_complete).await?;
    let knows_others = |a: &Member| members.iter().all(|b| a.knows(b.id) == (a.id != b.id));
    require(members.iter().all(knows_others), "each node knows both others, and not itself")?;
    let num_dials: usize = members.iter().map(|member| member.num_dials.load(Relaxed)).sum();
    require(num_dials == 3, "each pair dialled once")?;
    println!("3 nodes, 3 dials: everybody found both others, and nobody itself");

    // A stranger, who may send whatever it likes from wherever it likes.
    let decoy = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let decoy_port = decoy.local_addr()?.port();
    let untouched = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let untouched_port = untouched.local_addr()?.port();
    let forger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    forger.set_broadcast(true)?;
    let network = members[0].network;
    let mut forged = vec![vec![], vec![0; 1], vec![0xff; 1400], MAGIC.to_vec()];
    let beacon = |network, id, port| Beacon { network, id, port }.to_bytes().to_vec();
    forged.push([beacon(network, u64::MAX, untouched_port), vec![0]].concat());
    forged.push(beacon(network ^ 1, u64::MAX, untouched_port));
    forged.push(beacon(network, u64::MAX, 0));
    forged.extend(members.iter().map(|member| beacon(network, member.id, untouched_port)));
    let num_harmless = forged.len();
    for datagram in &forged {
        for target in targets {
            forger.send_to(datagram, target).await?;
        }
    }
    // Beacons that look right, of nodes that do not exist, all at one address, which never says a word.
    for id in 0..1_000 {
        for target in targets {
            forger.send_to(&beacon(network, u64::MAX - id, decoy_port), target).await?;
        }
        if id % 100 == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }
    let dials = || members.iter().map(|member| member.num_dials.load(Relaxed)).collect::<Vec<_>>();
    let before: usize = num_dials;
    until("each node falls for the forger once", || dials().iter().sum::<usize>() == before + 3).await?;
    for _ in 0..3 {
        drop(timeout(PATIENCE, decoy.accept()).await??);
    }
    require(timeout(4 * pace(), untouched.accept()).await.is_err(), "garbage is no reason to dial")?;
    require(timeout(4 * pace(), decoy.accept()).await.is_err(), "forged beacons for one address are one dial")?;
    require(is_complete() && members.iter().all(knows_others), "the connections are as they were")?;
    println!(
        "{num_harmless} kinds of garbage: no dial; 1000 forged nodes at one address: 1 dial of each node, no connection"
    );

    // Beacons that name many addresses, where nobody is.
    let mut holders = Vec::new();
    for _ in 0..2 * MAX_ATTEMPTS {
        holders.push(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?);
    }
    let ports = holders.iter().map(|holder| Ok(holder.local_addr()?.port())).collect::<io::Result<Vec<_>>>()?;
    drop(holders);
    let is_exhausted = || members.iter().all(|member| member.attempts.lock().len() == MAX_ATTEMPTS);
    for round in 0.. {
        for port in &ports {
            for target in targets {
                forger.send_to(&beacon(network, u64::MAX, *port), target).await?;
            }
        }
        sleep(Duration::from_millis(10)).await;
        // One more round after the budgets are gone: it has to change nothing.
        if is_exhausted() && dials().iter().all(|dials| *dials <= MAX_ATTEMPTS) && round > 0 {
            break;
        }
        require(round < 500, "the forger gets as far as the budget goes")?;
    }
    let exhausted = dials();
    sleep(4 * pace()).await;
    require(is_exhausted() && dials() == exhausted, "no dial goes beyond the budget")?;
    require(is_complete() && members.iter().all(knows_others), "the connections are as they were")?;
    println!("{} forged addresses: no more than {MAX_ATTEMPTS} dials of each node in {PENALTY:?}", ports.len());

    members[2].node.shut_down().await;
    until("the end", || members[..2].iter().all(|member| member.node.num_connected() == 1)).await?;
    println!("the node that went away was noticed by both others");
    Ok(())
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

const USAGE: &str = "usage: lan_discovery [--broadcast ADDR]";
const MAGIC: &[u8; 8] = b"p2p-lan1";
const BEACON_LEN: usize = MAGIC.len() + 8 + 8 + 2;
/// Where beacons are heard; as many nodes can live on one machine.
const PORTS: [u16; 8] = [48_700, 48_701, 48_702, 48_703, 48_704, 48_705, 48_706, 48_707];
/// A program has a number of its own here.
const NETWORK: u64 = 0x6c61_6e5f_6578_616d;
/// Everybody on the loopback network.
const LOOPBACK_BROADCAST: Ipv4Addr = Ipv4Addr::new(127, 255, 255, 255);
/// How long an address that was dialled is not dialled again.
const PENALTY: Duration = Duration::from_secs(30);
/// The addresses dialled within that time.
const MAX_ATTEMPTS: usize = 32;
const MAX_DIALS_AT_ONCE: usize = 4;
const PATIENCE: Duration = Duration::from_secs(10);
