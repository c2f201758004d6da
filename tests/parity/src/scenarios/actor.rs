//! The one node type of the scenarios: all five protocols, with the behaviour of each hook as a closure.

use std::{future::Future, io, marker::PhantomData, net::SocketAddr, pin::Pin, sync::Arc};

use bytes::Bytes;

use super::super::p2p::{Config, Connection, ConnectionSide, DisconnectOrigin, Node, Pea2Pea, protocols::*};
use crate::shared::{
    log::Log,
    tuning::{Standard, Tuning},
    wire::Frames,
};

type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type HandshakeFn<T> = Box<dyn Fn(Actor<T>, Connection) -> Later<io::Result<Connection>> + Send + Sync>;
type AddrFn<T> = Box<dyn Fn(Actor<T>, SocketAddr) -> Later<()> + Send + Sync>;
type OriginFn<T> = Box<dyn Fn(Actor<T>, SocketAddr, DisconnectOrigin) -> Later<()> + Send + Sync>;
type MessageFn<T> = Box<dyn Fn(Actor<T>, SocketAddr, Bytes) -> Later<()> + Send + Sync>;
type CodecFn = Box<dyn Fn(ConnectionSide) + Send + Sync>;

/// A protocol to enable.
#[derive(Clone, Copy)]
pub(crate) enum Protocol {
    Handshake,
    Reading,
    Writing,
    OnConnect,
    OnDisconnect,
}

pub(crate) const ALL: [Protocol; 5] =
    [Protocol::Handshake, Protocol::Reading, Protocol::Writing, Protocol::OnConnect, Protocol::OnDisconnect];

struct Script<T: Tuning> {
    handshake: Option<HandshakeFn<T>>,
    read_codec: Option<CodecFn>,
    process: Option<MessageFn<T>>,
    write_codec: Option<CodecFn>,
    on_connect: Option<AddrFn<T>>,
    on_disconnect: Option<OriginFn<T>>,
}

pub(crate) struct ActorBuilder<T: Tuning> {
    config: Config,
    script: Script<T>,
}

/// A node with a log; hooks without a closure log that they ran.
pub(crate) struct Actor<T: Tuning = Standard> {
    node: Node,
    pub(crate) log: Log,
    script: Arc<Script<T>>,
    tuning: PhantomData<T>,
}

/// The configuration of most scenarios: loopback only, and many peers on one IP.
pub(crate) fn config() -> Config {
    Config {
        name: Some("actor".into()),
        listener_addr: Some(([127, 0, 0, 1], 0).into()),
        max_connections_per_ip: 100,
        ..Default::default()
    }
}

/// A node without any behaviour of its own.
pub(crate) fn plain() -> Actor {
    Actor::build(config()).done()
}

impl<T: Tuning> Actor<T> {
    pub(crate) fn build(config: Config) -> ActorBuilder<T> {
        let script = Script {
            handshake: None,
            read_codec: None,
            process: None,
            write_codec: None,
            on_connect: None,
            on_disconnect: None,
        };
        ActorBuilder { config, script }
    }

    pub(crate) async fn enable(&self, protocols: impl IntoIterator<Item = Protocol>) {
        for protocol in protocols {
            match protocol {
                Protocol::Handshake => self.enable_handshake().await,
                Protocol::Reading => self.enable_reading().await,
                Protocol::Writing => self.enable_writing().await,
                Protocol::OnConnect => self.enable_on_connect().await,
                Protocol::OnDisconnect => self.enable_on_disconnect().await,
            }
        }
    }

    /// Switches the listener on.
    pub(crate) async fn listen(&self) -> SocketAddr {
        self.node.toggle_listener().await.expect("the listener can be bound").expect("it was off")
    }

    /// The address of the only connection.
    pub(crate) fn only_peer(&self) -> SocketAddr {
        let addrs = self.node.connected_addrs();
        assert_eq!(addrs.len(), 1, "there is exactly one peer");
        addrs[0]
    }
}

impl<T: Tuning> ActorBuilder<T> {
    pub(crate) fn handshake<F, R>(mut self, hook: F) -> Self
    where
        F: Fn(Actor<T>, Connection) -> R + Send + Sync + 'static,
        R: Future<Output = io::Result<Connection>> + Send + 'static,
    {
        self.script.handshake = Some(Box::new(move |actor, conn| Box::pin(hook(actor, conn))));
        self
    }

    pub(crate) fn read_codec(mut self, hook: impl Fn(ConnectionSide) + Send + Sync + 'static) -> Self {
        self.script.read_codec = Some(Box::new(hook));
        self
    }

    pub(crate) fn write_codec(mut self, hook: impl Fn(ConnectionSide) + Send + Sync + 'static) -> Self {
        self.script.write_codec = Some(Box::new(hook));
        self
    }

    pub(crate) fn process<F, R>(mut self, hook: F) -> Self
    where
        F: Fn(Actor<T>, SocketAddr, Bytes) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        self.script.process = Some(Box::new(move |actor, addr, message| Box::pin(hook(actor, addr, message))));
        self
    }

    pub(crate) fn on_connect<F, R>(mut self, hook: F) -> Self
    where
        F: Fn(Actor<T>, SocketAddr) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        self.script.on_connect = Some(Box::new(move |actor, addr| Box::pin(hook(actor, addr))));
        self
    }

    pub(crate) fn on_disconnect<F, R>(mut self, hook: F) -> Self
    where
        F: Fn(Actor<T>, SocketAddr, DisconnectOrigin) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        self.script.on_disconnect = Some(Box::new(move |actor, addr, origin| Box::pin(hook(actor, addr, origin))));
        self
    }

    pub(crate) fn done(self) -> Actor<T> {
        Actor { node: Node::new(self.config), log: Log::default(), script: Arc::new(self.script), tuning: PhantomData }
    }

    /// Builds the actor and enables the given protocols.
    pub(crate) async fn enabling(self, protocols: impl IntoIterator<Item = Protocol>) -> Actor<T> {
        let actor = self.done();
        actor.enable(protocols).await;
        actor
    }
}

impl<T: Tuning> Clone for Actor<T> {
    fn clone(&self) -> Self {
        Self { node: self.node.clone(), log: self.log.clone(), script: self.script.clone(), tuning: PhantomData }
    }
}

impl<T: Tuning> Pea2Pea for Actor<T> {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl<T: Tuning> Handshake for Actor<T> {
    const TIMEOUT_MS: u64 = T::HANDSHAKE_TIMEOUT_MS;

    async fn perform_handshake(&self, conn: Connection) -> io::Result<Connection> {
        match &self.script.handshake {
            Some(hook) => hook(self.clone(), conn).await,
            None => {
                self.log.add("handshake");
                Ok(conn)
            }
        }
    }
}

impl<T: Tuning> Reading for Actor<T> {
    const MESSAGE_QUEUE_DEPTH: usize = T::READ_DEPTH;
    const BACKPRESSURE: bool = T::BACKPRESSURE;
    const INITIAL_BUFFER_SIZE: usize = T::READ_BUFFER;
    const IDLE_TIMEOUT_MS: u64 = T::IDLE_TIMEOUT_MS;

    type Message = Bytes;
    type Codec = Frames;

    fn codec(&self, _addr: SocketAddr, side: ConnectionSide) -> Frames {
        match &self.script.read_codec {
            Some(hook) => hook(side),
            None => self.log.add("read codec"),
        }
        Frames
    }

    async fn process_message(&self, source: SocketAddr, message: Bytes) {
        match &self.script.process {
            Some(hook) => hook(self.clone(), source, message).await,
            None => self.log.add(format!("got {}", String::from_utf8_lossy(&message))),
        }
    }
}

impl<T: Tuning> Writing for Actor<T> {
    const MESSAGE_QUEUE_DEPTH: usize = T::WRITE_DEPTH;
    const INITIAL_BUFFER_SIZE: usize = T::WRITE_BUFFER;
    const TIMEOUT_MS: u64 = T::WRITE_TIMEOUT_MS;

    type Message = Bytes;
    type Codec = Frames;

    fn codec(&self, _addr: SocketAddr, side: ConnectionSide) -> Frames {
        match &self.script.write_codec {
            Some(hook) => hook(side),
            None => self.log.add("write codec"),
        }
        Frames
    }
}

impl<T: Tuning> OnConnect for Actor<T> {
    const ABORTABLE: bool = T::ABORTABLE;

    async fn on_connect(&self, addr: SocketAddr) {
        match &self.script.on_connect {
            Some(hook) => hook(self.clone(), addr).await,
            None => self.log.add("on_connect"),
        }
    }
}

impl<T: Tuning> OnDisconnect for Actor<T> {
    const TIMEOUT_MS: u64 = T::ON_DISCONNECT_TIMEOUT_MS;

    async fn on_disconnect(&self, addr: SocketAddr, origin: DisconnectOrigin) {
        match &self.script.on_disconnect {
            Some(hook) => hook(self.clone(), addr, origin).await,
            None => self.log.add(format!("on_disconnect {origin:?}")),
        }
    }
}
