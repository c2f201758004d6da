//! A peer whose hooks are closures, so that a test says only what its own hooks do.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::future::BoxFuture;
use pea2pea::{
    Config, Connection, ConnectionSide, DisconnectOrigin, Node, Pea2Pea,
    protocols::{Handshake, OnConnect, OnDisconnect, Reading, Writing},
};
use tokio_util::{
    bytes::{Bytes, BytesMut},
    codec::{Decoder, Encoder, LengthDelimitedCodec},
};

use super::{Events, PATIENCE, local_config, nodes::listed, wait_until};

/// The constants of an actor's protocols.
pub trait Tuning: Clone + Send + Sync + 'static {
    const ABORTABLE: bool = false;
    const HANDSHAKE_MS: u64 = PATIENCE.as_millis() as u64;
    const ON_DISCONNECT_MS: u64 = PATIENCE.as_millis() as u64;
    const IDLE_MS: u64 = 0;
    const FLUSH_MS: u64 = PATIENCE.as_millis() as u64;
}

/// Timeouts that no test on a busy machine meets.
#[derive(Clone)]
pub struct Unhurried;

impl Tuning for Unhurried {}

pub type Hook<A, O> = Option<Box<dyn Fn(A) -> O + Send + Sync>>;
pub type AsyncHook<A, O> = Hook<A, BoxFuture<'static, O>>;

/// What an actor does in its hooks; a protocol whose hook is `None` is not enabled.
pub struct Script<T: Tuning> {
    pub handshake: AsyncHook<(Actor<T>, Connection), io::Result<Connection>>,
    pub process: AsyncHook<(Actor<T>, SocketAddr, BytesMut), ()>,
    pub on_connect: AsyncHook<(Actor<T>, SocketAddr), ()>,
    pub on_disconnect: AsyncHook<(Actor<T>, SocketAddr, DisconnectOrigin), ()>,
    pub writes: bool,
    /// Called by the hooks that are not async, before they do their work.
    pub reading_codec: Hook<(Actor<T>, SocketAddr), ()>,
    pub writing_codec: Hook<(Actor<T>, SocketAddr), ()>,
    pub decode: Hook<(Actor<T>, SocketAddr), io::Result<()>>,
    pub encode: Hook<(Actor<T>, SocketAddr), io::Result<()>>,
}

impl<T: Tuning> Default for Script<T> {
    fn default() -> Self {
        Self {
            handshake: None,
            process: None,
            on_connect: None,
            on_disconnect: None,
            writes: false,
            reading_codec: None,
            writing_codec: None,
            decode: None,
            encode: None,
        }
    }
}

/// How often each hook of an actor has begun.
#[derive(Debug, Default)]
pub struct Begun {
    pub on_connect: AtomicUsize,
    pub on_disconnect: AtomicUsize,
    pub received: AtomicUsize,
}

/// A peer that follows a script.
pub struct Actor<T: Tuning = Unhurried> {
    node: Node,
    script: Arc<Script<T>>,
    pub begun: Arc<Begun>,
}

impl<T: Tuning> Clone for Actor<T> {
    fn clone(&self) -> Self {
        Self { node: self.node.clone(), script: Arc::clone(&self.script), begun: Arc::clone(&self.begun) }
    }
}

impl<T: Tuning> fmt::Debug for Actor<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Actor").field(&self.node.name()).finish()
    }
}

impl<T: Tuning> Actor<T> {
    /// Makes an actor, with the protocols of its script enabled.
    pub async fn new(config: Config, script: Script<T>) -> Self {
        let actor = Self { node: listed(config), script: Arc::new(script), begun: Arc::default() };
        if actor.script.handshake.is_some() {
            actor.enable_handshake().await;
        }
        if actor.script.process.is_some() {
            actor.enable_reading().await;
        }
        if actor.script.writes {
            actor.enable_writing().await;
        }
        if actor.script.on_connect.is_some() {
            actor.enable_on_connect().await;
        }
        if actor.script.on_disconnect.is_some() {
            actor.enable_on_disconnect().await;
        }
        actor
    }

    /// Makes an actor that listens, and returns its address too.
    pub async fn listening(script: Script<T>) -> (Self, SocketAddr) {
        let actor = Self::new(local_config(), script).await;
        let addr = actor.node.toggle_listener().await.unwrap().unwrap();
        (actor, addr)
    }

    pub async fn dialling(script: Script<T>) -> Self {
        Self::new(local_config(), script).await
    }

    pub fn begun_on_connect(&self) -> usize {
        self.begun.on_connect.load(Ordering::SeqCst)
    }

    pub fn begun_on_disconnect(&self) -> usize {
        self.begun.on_disconnect.load(Ordering::SeqCst)
    }

    pub fn received(&self) -> usize {
        self.begun.received.load(Ordering::SeqCst)
    }

    /// Waits for the only connection, and returns the peer's address.
    pub async fn only_peer(&self) -> SocketAddr {
        wait_until("one connection", || self.node.num_connected() == 1).await;
        self.node.connected_addrs()[0]
    }
}

impl<T: Tuning> Pea2Pea for Actor<T> {
    fn node(&self) -> &Node {
        &self.node
    }
}

fn scripted<A, O>(hook: &Hook<A, O>, argument: A) -> Option<O> {
    hook.as_ref().map(|hook| hook(argument))
}

// The hooks are not `async fn`: a script can thus panic before there is a future.

impl<T: Tuning> Handshake for Actor<T> {
    const TIMEOUT_MS: u64 = T::HANDSHAKE_MS;

    fn perform_handshake(&self, conn: Connection) -> impl Future<Output = io::Result<Connection>> + Send {
        scripted(&self.script.handshake, (self.clone(), conn)).expect("enabled only with a script")
    }
}

impl<T: Tuning> OnConnect for Actor<T> {
    const ABORTABLE: bool = T::ABORTABLE;

    fn on_connect(&self, addr: SocketAddr) -> impl Future<Output = ()> + Send {
        self.begun.on_connect.fetch_add(1, Ordering::SeqCst);
        scripted(&self.script.on_connect, (self.clone(), addr)).expect("enabled only with a script")
    }
}

impl<T: Tuning> OnDisconnect for Actor<T> {
    const TIMEOUT_MS: u64 = T::ON_DISCONNECT_MS;

    fn on_disconnect(&self, addr: SocketAddr, origin: DisconnectOrigin) -> impl Future<Output = ()> + Send {
        self.begun.on_disconnect.fetch_add(1, Ordering::SeqCst);
        scripted(&self.script.on_disconnect, (self.clone(), addr, origin)).expect("enabled only with a script")
    }
}

impl<T: Tuning> Reading for Actor<T> {
    const IDLE_TIMEOUT_MS: u64 = T::IDLE_MS;

    type Message = BytesMut;
    type Codec = Frames<T>;

    fn codec(&self, addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        scripted(&self.script.reading_codec, (self.clone(), addr));
        Frames::new(self, addr)
    }

    fn process_message(&self, source: SocketAddr, message: BytesMut) -> impl Future<Output = ()> + Send {
        self.begun.received.fetch_add(1, Ordering::SeqCst);
        scripted(&self.script.process, (self.clone(), source, message)).expect("enabled only with a script")
    }
}

impl<T: Tuning> Writing for Actor<T> {
    const TIMEOUT_MS: u64 = T::FLUSH_MS;

    type Message = Bytes;
    type Codec = Frames<T>;

    fn codec(&self, addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        scripted(&self.script.writing_codec, (self.clone(), addr));
        Frames::new(self, addr)
    }
}

/// Length-delimited frames, with the script's say before each call.
pub struct Frames<T: Tuning> {
    actor: Actor<T>,
    addr: SocketAddr,
    frames: LengthDelimitedCodec,
}

impl<T: Tuning> Frames<T> {
    fn new(actor: &Actor<T>, addr: SocketAddr) -> Self {
        Self { actor: actor.clone(), addr, frames: LengthDelimitedCodec::new() }
    }
}

impl<T: Tuning> Decoder for Frames<T> {
    type Item = BytesMut;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<BytesMut>> {
        scripted(&self.actor.script.decode, (self.actor.clone(), self.addr)).transpose()?;
        self.frames.decode(src)
    }
}

impl<T: Tuning> Encoder<Bytes> for Frames<T> {
    type Error = io::Error;

    fn encode(&mut self, message: Bytes, dst: &mut BytesMut) -> io::Result<()> {
        scripted(&self.actor.script.encode, (self.actor.clone(), self.addr)).transpose()?;
        self.frames.encode(message, dst)
    }
}

/// A hook that notes that it has begun.
pub fn noting<A: 'static>(events: &Events<&'static str>, what: &'static str) -> AsyncHook<A, ()> {
    let events = events.clone();
    Some(Box::new(move |_| {
        events.push(what);
        Box::pin(std::future::ready(()))
    }))
}

/// A hook that does nothing: its protocol is enabled, and its beginning is counted.
pub fn silent<A: 'static>() -> AsyncHook<A, ()> {
    Some(Box::new(|_| Box::pin(std::future::ready(()))))
}

/// A hook that never ends by itself.
pub fn hanging<A: 'static>() -> AsyncHook<A, ()> {
    Some(Box::new(|_| Box::pin(std::future::pending())))
}

/// Makes a hook of a closure whose body is a future.
#[macro_export]
macro_rules! hook {
    (|$($argument:pat_param),*| $body:expr) => {
        Some(Box::new(move |($($argument,)*)| -> futures_util::future::BoxFuture<'static, _> { Box::pin($body) }))
    };
}
