//! The node under attack. It echoes what it gets; everything else is up to its temper.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use pea2pea::{
    Config, Connection, ConnectionSide, DisconnectOrigin, Node, Pea2Pea,
    protocols::{Handshake, OnConnect, OnDisconnect, Reading, Writing},
};
use tokio::{io::AsyncReadExt, net::TcpStream};
use tokio_util::{
    bytes::{Bytes, BytesMut},
    codec::{Decoder, LengthDelimitedCodec},
};

use crate::common::PATIENCE;

/// Longer than any row takes.
pub const LONG_MS: u64 = PATIENCE.as_millis() as u64 * 10;

/// What a victim's protocols are like.
pub trait Temper: Clone + Send + Sync + 'static {
    /// What a peer has to say in the handshake; `None`: there is no handshake.
    const GREETING: Option<&'static [u8]> = None;
    const READS: bool = true;
    const HANDSHAKE_MS: u64 = LONG_MS;
    const IDLE_MS: u64 = 0;
    const FLUSH_MS: u64 = LONG_MS;
    const ON_DISCONNECT_MS: u64 = LONG_MS;
    /// Of both queues.
    const DEPTH: usize = 64;

    type Decoder: Decoder<Item = BytesMut, Error = io::Error> + Send;

    fn decoder() -> Self::Decoder;

    /// Waits until the peer has said as much as it has to.
    fn shake_hands(
        _victim: &Victim<Self>,
        _addr: SocketAddr,
        stream: &mut TcpStream,
    ) -> impl Future<Output = io::Result<()>> + Send {
        async {
            let mut greeting = vec![0; Self::GREETING.map_or(0, <[u8]>::len)];
            stream.read_exact(&mut greeting).await.map(drop)
        }
    }

    fn process(victim: &Victim<Self>, source: SocketAddr, message: BytesMut) -> impl Future<Output = ()> + Send {
        // A peer that does not read its echoes misses some.
        _ = victim.unicast_fast(source, message.freeze());
        std::future::ready(())
    }

    fn started(_victim: &Victim<Self>, _addr: SocketAddr) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    fn ending(_victim: &Victim<Self>, _addr: SocketAddr, _: DisconnectOrigin) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// Gives a temper length-delimited frames.
#[macro_export]
macro_rules! frames {
    () => {
        type Decoder = tokio_util::codec::LengthDelimitedCodec;

        fn decoder() -> Self::Decoder {
            Self::Decoder::new()
        }
    };
}

/// A temper without any particulars.
#[derive(Clone)]
pub struct Calm;

impl Temper for Calm {
    frames!();
}

/// A temper that wants a handshake.
#[derive(Clone)]
pub struct Polite;

impl Temper for Polite {
    const GREETING: Option<&'static [u8]> = Some(b"g");

    frames!();
}

/// What a victim's hooks have counted.
#[derive(Debug, Default)]
pub struct Seen {
    pub handshakes: AtomicUsize,
    pub on_connects: AtomicUsize,
    pub on_disconnects: AtomicUsize,
    pub processed: AtomicUsize,
    /// The most live connections, and the most setups, that a hook found when it began.
    pub peak_connected: AtomicUsize,
    pub peak_connecting: AtomicUsize,
}

impl Seen {
    /// Looks at the numbers of a node; called by every hook, and as often as a row likes.
    pub fn look(&self, node: &Node) {
        self.peak_connected.fetch_max(node.num_connected(), SeqCst);
        self.peak_connecting.fetch_max(node.num_connecting(), SeqCst);
    }
}

pub struct Victim<T> {
    node: Node,
    pub seen: Arc<Seen>,
    _temper: std::marker::PhantomData<T>,
}

impl<T> Clone for Victim<T> {
    fn clone(&self) -> Self {
        Self { node: self.node.clone(), seen: Arc::clone(&self.seen), _temper: self._temper }
    }
}

impl<T: Temper> Victim<T> {
    pub async fn new(config: Config) -> Self {
        let victim = Self { node: Node::new(config), seen: Arc::default(), _temper: std::marker::PhantomData };
        if T::GREETING.is_some() {
            victim.enable_handshake().await;
        }
        if T::READS {
            victim.enable_reading().await;
        }
        victim.enable_writing().await;
        victim.enable_on_connect().await;
        victim.enable_on_disconnect().await;
        victim
    }

    fn count(&self, counter: impl FnOnce(&Seen) -> &AtomicUsize) {
        counter(&self.seen).fetch_add(1, SeqCst);
        self.seen.look(&self.node);
    }

    /// Whether so many connections, and no setups, are there.
    pub fn is_settled(&self, connections: usize) -> bool {
        (self.node.num_connected(), self.node.num_connecting()) == (connections, 0)
    }

    pub fn on_connects(&self) -> usize {
        self.seen.on_connects.load(SeqCst)
    }

    pub fn on_disconnects(&self) -> usize {
        self.seen.on_disconnects.load(SeqCst)
    }
}

impl<T: Temper> Pea2Pea for Victim<T> {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl<T: Temper> Handshake for Victim<T> {
    const TIMEOUT_MS: u64 = T::HANDSHAKE_MS;

    async fn perform_handshake(&self, mut conn: Connection) -> io::Result<Connection> {
        self.count(|seen| &seen.handshakes);
        let addr = conn.addr();
        T::shake_hands(self, addr, self.borrow_stream(&mut conn)).await?;
        Ok(conn)
    }
}

impl<T: Temper> Reading for Victim<T> {
    const MESSAGE_QUEUE_DEPTH: usize = T::DEPTH;
    const IDLE_TIMEOUT_MS: u64 = T::IDLE_MS;

    type Message = BytesMut;
    type Codec = T::Decoder;

    fn codec(&self, _: SocketAddr, _: ConnectionSide) -> T::Decoder {
        T::decoder()
    }

    async fn process_message(&self, source: SocketAddr, message: BytesMut) {
        self.seen.processed.fetch_add(1, SeqCst);
        T::process(self, source, message).await;
    }
}

impl<T: Temper> Writing for Victim<T> {
    const MESSAGE_QUEUE_DEPTH: usize = T::DEPTH;
    const TIMEOUT_MS: u64 = T::FLUSH_MS;

    type Message = Bytes;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _: SocketAddr, _: ConnectionSide) -> LengthDelimitedCodec {
        LengthDelimitedCodec::new()
    }
}

impl<T: Temper> OnConnect for Victim<T> {
    const ABORTABLE: bool = false;

    async fn on_connect(&self, addr: SocketAddr) {
        self.count(|seen| &seen.on_connects);
        T::started(self, addr).await;
    }
}

impl<T: Temper> OnDisconnect for Victim<T> {
    const TIMEOUT_MS: u64 = T::ON_DISCONNECT_MS;

    async fn on_disconnect(&self, addr: SocketAddr, origin: DisconnectOrigin) {
        self.count(|seen| &seen.on_disconnects);
        T::ending(self, addr, origin).await;
    }
}
