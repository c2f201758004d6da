//! For tests about setting connections up: raw peers, nodes that listen, handshakes that wait for the test.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use pea2pea::{
    Config, Connection, ConnectionSide, DisconnectOrigin, Node, Pea2Pea,
    protocols::{Handshake, OnDisconnect, Reading},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
};
use tokio_util::{bytes::BytesMut, codec::BytesCodec};

use super::{in_time, nodes::listed, poll_times, wait_until};

/// A node that listens, and where.
pub async fn listening(config: Config) -> (Node, SocketAddr) {
    let node = listed(config);
    let addr = node.toggle_listener().await.unwrap().unwrap();
    (node, addr)
}

/// A peer that is no node; the OS completes the dials to it even if nobody accepts them.
pub async fn raw_peer() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// An address that refuses dials for as long as its socket, which does not listen, is kept.
pub fn refusing_peer() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = socket.local_addr().unwrap();
    (socket, addr)
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
        let gated = Self { node: listed(config), gate: Arc::new(Semaphore::new(0)), begun: Arc::default() };
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

/// A node whose connections take until the test says so to end.
#[derive(Clone)]
pub struct Lingering {
    pub node: Node,
    gate: Arc<Semaphore>,
}

impl Lingering {
    pub async fn new(config: Config) -> Self {
        let lingering = Self { node: listed(config), gate: Arc::new(Semaphore::new(0)) };
        lingering.enable_on_disconnect().await;
        lingering
    }

    /// Lets so many endings go on.
    pub fn let_end(&self, connections: usize) {
        self.gate.add_permits(connections);
    }

    /// Begins to end a connection in a task of its own; it has begun when this returns.
    pub async fn begin_end(&self, addr: SocketAddr) -> tokio::task::JoinHandle<bool> {
        let node = self.node.clone();
        let mut ending = Box::pin(async move { node.disconnect(addr).await });
        assert_eq!(poll_times(ending.as_mut(), 1).await, None, "the ending waits");
        tokio::spawn(ending)
    }
}

impl Pea2Pea for Lingering {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl OnDisconnect for Lingering {
    const TIMEOUT_MS: u64 = u64::MAX;

    async fn on_disconnect(&self, _: SocketAddr, _: DisconnectOrigin) {
        self.gate.acquire().await.unwrap().forget();
    }
}

/// A node whose handshakes do what the first byte of the peer says.
#[derive(Clone)]
pub struct Commanded {
    pub node: Node,
}

impl Commanded {
    pub const SERVE: &[u8] = b"s";
    pub const FAIL: &[u8] = b"f";
    pub const PANIC: &[u8] = b"p";
    /// Waits for more than the handshake has time for.
    pub const HANG: &[u8] = b"h";
    /// Not a command: the peer closes its side.
    pub const HANG_UP: &[u8] = b"";

    pub async fn new(config: Config) -> Self {
        let commanded = Self { node: listed(config) };
        commanded.enable_handshake().await;
        commanded.enable_reading().await;
        commanded
    }

    /// Sends a command, as the peer; tells whether the handshake succeeds.
    pub async fn is_served(stream: &mut TcpStream, command: &[u8]) -> bool {
        // The node may have hung up already.
        _ = stream.write_all(command).await;
        if command.is_empty() {
            _ = stream.shutdown().await;
        }
        in_time("an answer or a hang-up", stream.read_u8()).await.is_ok()
    }
}

impl Pea2Pea for Commanded {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Handshake for Commanded {
    const TIMEOUT_MS: u64 = 500;

    async fn perform_handshake(&self, mut conn: Connection) -> io::Result<Connection> {
        let stream = self.borrow_stream(&mut conn);
        match [stream.read_u8().await?].as_slice() {
            Self::SERVE => stream.write_u8(1).await?,
            Self::FAIL => return Err(io::Error::other("as commanded")),
            Self::PANIC => panic!("as commanded"),
            _ => std::future::pending().await,
        }
        Ok(conn)
    }
}

/// Notices when the peer closes the connection.
impl Reading for Commanded {
    type Message = BytesMut;
    type Codec = BytesCodec;

    fn codec(&self, _: SocketAddr, _: ConnectionSide) -> BytesCodec {
        BytesCodec::new()
    }

    async fn process_message(&self, _: SocketAddr, _: BytesMut) {}
}
