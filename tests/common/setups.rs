//! For tests about setting connections up: raw peers, nodes that listen, handshakes that wait for the test.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use pea2pea::{Config, Connection, Node, Pea2Pea, protocols::Handshake};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
};

use super::{in_time, wait_until};

/// A node that listens, and where.
pub async fn listening(config: Config) -> (Node, SocketAddr) {
    let node = Node::new(config);
    let addr = node.toggle_listener().await.unwrap().unwrap();
    (node, addr)
}

/// A peer that is no node; the OS completes the dials to it even if nobody accepts them.
pub async fn raw_peer() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// An address of the loopback interface that nobody listens at.
pub async fn vacant_addr() -> SocketAddr {
    let (_peer, addr) = raw_peer().await;
    addr
}

/// Dials from the given address of this host.
pub async fn dial_from(source: IpAddr, target: SocketAddr) -> io::Result<TcpStream> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.bind(SocketAddr::new(source, 0))?;
    socket.connect(target).await
}

/// Waits until the other end closes or resets the stream.
pub async fn end_of(stream: &mut TcpStream) {
    let mut buffer = [0; 1024];
    let reading = async { while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {} };
    in_time("the other end closes the connection", reading).await;
}

/// Checks that nothing is connected or connecting.
pub fn assert_vacant(node: &Node) {
    assert_eq!((node.num_connecting(), node.num_connected()), (0, 0));
    assert_eq!(node.connected_addrs(), []);
    assert!(node.connection_infos().is_empty());
}

/// Waits until the node has so many live connections, and none that are being set up.
pub async fn settled(node: &Node, num_connected: usize) {
    let what = format!("{num_connected} connected, 0 connecting");
    wait_until(&what, || node.num_connected() == num_connected && node.num_connecting() == 0).await;
}

/// A node whose handshakes wait, for ever if need be, until the test lets them go on one by one.
#[derive(Clone)]
pub struct Gated {
    pub node: Node,
    gate: Arc<Semaphore>,
    begun: Arc<AtomicUsize>,
}

impl Gated {
    pub async fn new(config: Config) -> Self {
        let gated = Self { node: Node::new(config), gate: Arc::new(Semaphore::new(0)), begun: Arc::default() };
        gated.enable_handshake().await;
        gated
    }

    /// Lets so many handshakes go on, in the order in which they began.
    pub fn let_pass(&self, handshakes: usize) {
        self.gate.add_permits(handshakes);
    }

    /// How many handshakes have begun so far.
    pub fn num_begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    pub async fn begun(&self, handshakes: usize) {
        wait_until(&format!("{handshakes} handshakes have begun"), || self.num_begun() == handshakes).await;
    }

    /// Begins a dial in a task of its own.
    pub fn spawn_dial(&self, addr: SocketAddr) -> tokio::task::JoinHandle<io::Result<()>> {
        let node = self.node.clone();
        tokio::spawn(async move { node.connect(addr).await })
    }
}

impl Pea2Pea for Gated {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Handshake for Gated {
    const TIMEOUT_MS: u64 = u64::MAX;

    async fn perform_handshake(&self, conn: Connection) -> io::Result<Connection> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        self.gate.acquire().await.unwrap().forget();
        Ok(conn)
    }
}
