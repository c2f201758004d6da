//! A thousand peers dial one small node at once, all from this process: it needs some 1,100 file descriptors.

mod common;
#[path = "common/ledger.rs"]
mod ledger;

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use common::{
    in_time, local_config,
    nodes::listed,
    setups::{assert_vacant, dial_from, settled},
};
use pea2pea::{
    Config, Connection, ConnectionSide, DisconnectOrigin, Node, Pea2Pea,
    protocols::{Handshake, OnDisconnect, Reading},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
    task::{JoinSet, yield_now},
};
use tokio_util::{bytes::BytesMut, codec::BytesCodec};

const NUM_DIALLERS: usize = 1_000;
const NUM_IPS: usize = 8;
const MAX_CONNECTIONS: u16 = 20;
const MAX_CONNECTIONS_PER_IP: u16 = 5;
const MAX_CONNECTING: u16 = 3;

/// How many there are of something, and how many there have been at most.
#[derive(Debug, Default, Clone, Copy)]
struct Gauge {
    now: u16,
    peak: u16,
}

impl Gauge {
    fn enter(&mut self) {
        self.now += 1;
        self.peak = self.peak.max(self.now);
    }

    fn leave(&mut self) {
        self.now -= 1;
    }
}

/// What the hooks see. A slot is counted later than it is taken and no longer than until it is given back: a peak above a
/// limit is a limit that was exceeded.
#[derive(Debug, Default)]
struct Gauges {
    handshakes: Gauge,
    connections: Gauge,
    of_ip: HashMap<IpAddr, Gauge>,
}

#[derive(Clone)]
struct Popular {
    node: Node,
    gauges: Arc<Mutex<Gauges>>,
}

impl Pea2Pea for Popular {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Handshake for Popular {
    const TIMEOUT_MS: u64 = u64::MAX;

    async fn perform_handshake(&self, mut conn: Connection) -> io::Result<Connection> {
        {
            let mut gauges = self.gauges.lock().unwrap();
            gauges.handshakes.enter();
            gauges.connections.enter();
            gauges.of_ip.entry(conn.addr().ip()).or_default().enter();
        }
        for _ in 0..5 {
            yield_now().await;
        }
        let served = self.borrow_stream(&mut conn).write_u8(1).await;
        self.gauges.lock().unwrap().handshakes.leave();
        served.map(|()| conn)
    }
}

/// Notices when the peer closes the connection.
impl Reading for Popular {
    type Message = BytesMut;
    type Codec = BytesCodec;

    fn codec(&self, _: SocketAddr, _: ConnectionSide) -> BytesCodec {
        BytesCodec::new()
    }

    async fn process_message(&self, _: SocketAddr, _: BytesMut) {}
}

impl OnDisconnect for Popular {
    async fn on_disconnect(&self, addr: SocketAddr, _: DisconnectOrigin) {
        let mut gauges = self.gauges.lock().unwrap();
        gauges.connections.leave();
        gauges.of_ip.get_mut(&addr.ip()).unwrap().leave();
    }
}

/// Dials, some times over if need be; once served, stays until many others have been served or have given up. Returns
/// whether it was served, and how often it was rejected.
async fn dial(node: Node, source: IpAddr, target: SocketAddr, decided: watch::Sender<usize>) -> (bool, usize) {
    const ATTEMPTS: usize = 3;
    const STAY: usize = 3 * MAX_CONNECTIONS as usize;

    let mut decisions = decided.subscribe();
    for rejections in 0..ATTEMPTS {
        let mut stream = dial_from(source, target).await.unwrap();
        let is_served = stream.read_u8().await.is_ok();
        // There is a thread that looks all the time, but a busy machine may leave it too little of it.
        look(&node);
        if is_served {
            decided.send_modify(|decided| *decided += 1);
            let enough = NUM_DIALLERS.min(*decisions.borrow() + STAY);
            decisions.wait_for(|decided| *decided >= enough).await.unwrap();
            return (true, rejections);
        }
    }
    decided.send_modify(|decided| *decided += 1);
    (false, ATTEMPTS)
}

/// Checks what the node says of itself.
fn look(node: &Node) {
    assert!(node.num_connecting() <= MAX_CONNECTING.into());
    assert!(node.num_connected() <= MAX_CONNECTIONS.into());
    let mut of_ip = HashMap::new();
    for addr in node.connected_addrs() {
        *of_ip.entry(addr.ip()).or_insert(0) += 1;
    }
    assert!(of_ip.values().sum::<u16>() <= MAX_CONNECTIONS);
    assert!(of_ip.values().all(|&count| count <= MAX_CONNECTIONS_PER_IP));
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 2)]
async fn no_limit_is_exceeded_while_a_thousand_peers_dial_at_once() {
    let node = listed(Config {
        // An address of its own: nobody else on this host dials it by mistake.
        listener_addr: Some("127.0.79.1:0".parse().unwrap()),
        listener_backlog: 2_000,
        max_connections: MAX_CONNECTIONS,
        max_connections_per_ip: MAX_CONNECTIONS_PER_IP,
        max_connecting: MAX_CONNECTING,
        ..local_config()
    });
    let popular = Popular { node: node.clone(), gauges: Arc::default() };
    popular.enable_handshake().await;
    popular.enable_reading().await;
    popular.enable_on_disconnect().await;
    let target = node.toggle_listener().await.unwrap().unwrap();
    // Every other dialler comes from the same address.
    let source = |dialler: usize| {
        let last_byte = if dialler.is_multiple_of(2) { 1 } else { 1 + dialler % NUM_IPS };
        IpAddr::from([127, 0, 0, last_byte as u8])
    };

    let done = Arc::new(AtomicBool::new(false));
    let watcher = std::thread::spawn({
        let (node, done) = (node.clone(), Arc::clone(&done));
        move || {
            while !done.load(Ordering::Relaxed) {
                look(&node);
                std::thread::yield_now();
            }
        }
    });
    let (decided, _) = watch::channel(0);
    let mut diallers = JoinSet::new();
    for dialler in 0..NUM_DIALLERS {
        diallers.spawn(dial(node.clone(), source(dialler), target, decided.clone()));
    }
    let outcomes = in_time("all have been served or rejected", diallers.join_all()).await;
    let num_served = outcomes.iter().filter(|(is_served, _)| *is_served).count();
    let num_rejected: usize = outcomes.iter().map(|(_, rejections)| rejections).sum();
    settled(&node, 0).await;
    assert_vacant(&node);

    // It has room for everybody again, as much as before.
    let mut streams = Vec::new();
    for _ in 0..MAX_CONNECTIONS_PER_IP {
        for last_byte in 1..=MAX_CONNECTIONS / MAX_CONNECTIONS_PER_IP {
            let source = IpAddr::from([127, 0, 0, last_byte as u8]);
            let mut stream = dial_from(source, target).await.unwrap();
            in_time("the service", stream.read_u8()).await.unwrap();
            streams.push(stream);
        }
    }
    settled(&node, MAX_CONNECTIONS.into()).await;
    done.store(true, Ordering::Relaxed);
    watcher.join().unwrap();

    let heuristics = node.heuristics();
    assert_eq!(heuristics.inbound_connections_rejected(), num_rejected as u64);
    assert_eq!(heuristics.accept_errors(), 0, "are there 1,100 file descriptors (ulimit -n)?");
    assert!(num_served >= MAX_CONNECTIONS.into() && num_rejected > 0, "{num_served} served");
    let gauges = popular.gauges.lock().unwrap();
    assert_eq!(gauges.handshakes.peak, MAX_CONNECTING);
    assert_eq!(gauges.connections.peak, MAX_CONNECTIONS);
    assert_eq!(gauges.of_ip.values().map(|gauge| gauge.peak).max(), Some(MAX_CONNECTIONS_PER_IP));
    drop(streams);
}
