//! What is attacked: a node that speaks a small protocol, and does what its peers tell it even when that is no good.
//!
//! Greeting: whoever dials sends [`HELLO`], the other one answers with [`WELCOME`]. After that: frames, each a payload
//! behind its length in four bytes (big endian), of at most `Setting::max_frame` bytes. The first byte of a payload is a
//! command (see [`say`]); an empty payload is sent back.

use std::{
    collections::HashMap,
    future::pending,
    io,
    marker::PhantomData,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use pea2pea::{
    Config, Connection, ConnectionSide, DisconnectOrigin, Node, Pea2Pea,
    protocols::{Handshake, OnConnect, OnDisconnect, Reading, Writing},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::bytes::{Bytes, BytesMut};

use crate::{
    codec::Obedient,
    common::{DELIBERATE, PATIENCE, wire::frame},
    row::{SHORT_MS, Setting},
};

pub const HELLO: [u8; 16] = *b"hello, your peer";
pub const WELCOME: [u8; 16] = *b"welcome, my peer";
/// Greetings with consequences for the victim.
pub const PANIC_IN_HANDSHAKE: [u8; 16] = *b"panic, my victim";
pub const HANG_IN_HANDSHAKE: [u8; 16] = *b"hang on, victim!";

/// The commands, as frames on the wire.
pub mod say {
    use super::frame;

    /// Send this frame back.
    pub fn echo(text: &str) -> Vec<u8> {
        frame(format!("e{text}").as_bytes())
    }

    /// A large one to be sent back.
    pub fn large_echo(size: usize) -> Vec<u8> {
        frame(&vec![b'e'; size])
    }

    /// Do nothing.
    pub fn nothing() -> Vec<u8> {
        frame(b"i")
    }

    /// Send [`super::A_LOT`] frames of [`super::PIECE`] bytes.
    pub fn send_a_lot() -> Vec<u8> {
        frame(b"l")
    }

    /// Send frames for ever.
    pub fn send_for_ever() -> Vec<u8> {
        frame(b"f")
    }

    /// Send this frame back, but not before the [ghost](super::Ghost) is gone that haunts your address, if there is one.
    pub fn echo_behind_the_ghost() -> Vec<u8> {
        frame(b"g")
    }

    /// Never be done with this message.
    pub fn hang() -> Vec<u8> {
        frame(b"h")
    }

    /// Queue your [`last_words`] and disconnect us at once.
    pub fn goodbye() -> Vec<u8> {
        frame(b"b")
    }

    /// What a victim says that is told goodbye.
    pub fn last_words() -> Vec<u8> {
        frame(&[b'b'; super::PIECE]).repeat(2)
    }

    pub fn panic() -> Vec<u8> {
        frame(b"p")
    }

    pub fn panic_in_decoder() -> Vec<u8> {
        frame(b"P")
    }

    pub fn fail_in_decoder() -> Vec<u8> {
        frame(b"F")
    }

    /// From now on the decoder yields messages without consuming bytes.
    pub fn decode_without_end() -> Vec<u8> {
        frame(b"W")
    }

    /// From now on the decoder yields nothing whatever comes.
    pub fn decode_nothing() -> Vec<u8> {
        frame(b"N")
    }

    pub fn panic_in_encoder() -> Vec<u8> {
        frame(b"y")
    }

    pub fn fail_in_encoder() -> Vec<u8> {
        frame(b"z")
    }
}

pub const A_LOT: usize = 32;
pub const PIECE: usize = 32 * 1024;

/// The constants of a victim's protocols; unless a row is about one, they are out of the way.
pub trait Clock: Send + Sync + 'static {
    const HANDSHAKE_MS: u64 = PATIENCE.as_millis() as u64;
    const IDLE_MS: u64 = 0;
    const FLUSH_MS: u64 = PATIENCE.as_millis() as u64;
}

pub struct Patient;
pub struct ShortHandshake;
pub struct ShortIdle;
pub struct ShortFlush;

impl Clock for Patient {}

impl Clock for ShortHandshake {
    const HANDSHAKE_MS: u64 = SHORT_MS;
}

impl Clock for ShortIdle {
    const IDLE_MS: u64 = SHORT_MS;
}

impl Clock for ShortFlush {
    const FLUSH_MS: u64 = SHORT_MS;
}

/// An `on_connect` that outlives its connection.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Ghost {
    #[default]
    Unborn,
    /// It waits for a successor.
    Waits,
    Gone,
}

/// What the hooks have seen. An address takes its place when its handshake begins, and leaves it when the handshake fails
/// or `on_disconnect` begins: never after the node has given its slot away.
#[derive(Debug, Default)]
pub struct Tally {
    pub handshakes: u64,
    pub live: u64,
    pub ends: Vec<(SocketAddr, DisconnectOrigin)>,
    ghost: Ghost,
    places: HashMap<IpAddr, usize>,
    setups: usize,
    pub most_places: usize,
    pub most_places_of_one_ip: usize,
    pub most_setups: usize,
}

impl Tally {
    fn enter(&mut self, ip: IpAddr) {
        self.handshakes += 1;
        self.setups += 1;
        let of_ip = self.places.entry(ip).or_default();
        *of_ip += 1;
        self.most_places_of_one_ip = self.most_places_of_one_ip.max(*of_ip);
        self.most_places = self.most_places.max(self.places.values().sum());
        self.most_setups = self.most_setups.max(self.setups);
    }

    fn leave(&mut self, ip: IpAddr) {
        *self.places.get_mut(&ip).expect("it has entered") -= 1;
    }
}

/// A handshake that is going on.
struct Setup<'a> {
    tally: &'a Mutex<Tally>,
    ip: IpAddr,
    has_failed: bool,
}

impl Drop for Setup<'_> {
    fn drop(&mut self) {
        let mut tally = self.tally.lock().unwrap();
        tally.setups -= 1;
        if self.has_failed {
            tally.leave(self.ip);
        }
    }
}

pub struct Victim<C> {
    node: Node,
    setting: Setting,
    pub tally: Arc<Mutex<Tally>>,
    clock: PhantomData<C>,
}

impl<C> Clone for Victim<C> {
    fn clone(&self) -> Self {
        Self { node: self.node.clone(), setting: self.setting, tally: Arc::clone(&self.tally), clock: PhantomData }
    }
}

impl<C: Clock> Victim<C> {
    /// A victim with all five protocols, and where it listens.
    pub async fn listening(setting: Setting) -> (Self, SocketAddr) {
        let config = Config {
            listener_addr: Some(setting.listens_at.parse().unwrap()),
            listener_backlog: 1_024,
            max_connections: setting.max_connections,
            max_connections_per_ip: setting.max_connections_per_ip,
            max_connecting: setting.max_connecting,
            connection_timeout_ms: 500,
            ..Default::default()
        };
        let victim = Self { node: Node::new(config), setting, tally: Arc::default(), clock: PhantomData };
        victim.enable_handshake().await;
        victim.enable_reading().await;
        victim.enable_writing().await;
        victim.enable_on_connect().await;
        victim.enable_on_disconnect().await;
        let addr = victim.node.toggle_listener().await.unwrap().unwrap();
        (victim, addr)
    }

    async fn send(&self, to: SocketAddr, payload: Bytes) {
        if let Ok(receipt) = self.unicast(to, payload) {
            _ = receipt.await;
        }
    }

    async fn send_for_ever(&self, to: SocketAddr) {
        let piece = Bytes::from(vec![b'f'; PIECE]);
        loop {
            match self.unicast_fast(to, piece.clone()) {
                Ok(()) => tokio::task::yield_now().await,
                Err(error) if error.kind() == io::ErrorKind::QuotaExceeded => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Err(_) => return,
            }
        }
    }
}

impl<C: Clock> Pea2Pea for Victim<C> {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl<C: Clock> Handshake for Victim<C> {
    const TIMEOUT_MS: u64 = C::HANDSHAKE_MS;

    async fn perform_handshake(&self, mut conn: Connection) -> io::Result<Connection> {
        let ip = conn.addr().ip().to_canonical();
        self.tally.lock().unwrap().enter(ip);
        let mut setup = Setup { tally: &self.tally, ip, has_failed: true };
        let is_dialled = conn.side() == ConnectionSide::Initiator;
        let stream = self.borrow_stream(&mut conn);
        if !is_dialled {
            stream.write_all(&HELLO).await?;
        }
        let mut greeting = [0; 16];
        stream.read_exact(&mut greeting).await?;
        match greeting {
            HELLO if is_dialled => stream.write_all(&WELCOME).await?,
            WELCOME if !is_dialled => {}
            PANIC_IN_HANDSHAKE => panic!("{DELIBERATE}"),
            HANG_IN_HANDSHAKE => pending().await,
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
        setup.has_failed = false;
        Ok(conn)
    }
}

impl<C: Clock> OnConnect for Victim<C> {
    const ABORTABLE: bool = false;

    async fn on_connect(&self, addr: SocketAddr) {
        let is_ghost = {
            let mut tally = self.tally.lock().unwrap();
            tally.live += 1;
            let is_ghost = self.setting.haunts && tally.ghost == Ghost::Unborn;
            if is_ghost {
                tally.ghost = Ghost::Waits;
            }
            is_ghost
        };
        if is_ghost {
            // A second handshake is that of a successor: there is one address only.
            while self.tally.lock().unwrap().handshakes < 2 || !self.node.is_connected(addr) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            self.tally.lock().unwrap().ghost = Ghost::Gone;
            panic!("{DELIBERATE}");
        }
    }
}

impl<C: Clock> OnDisconnect for Victim<C> {
    const TIMEOUT_MS: u64 = PATIENCE.as_millis() as u64;

    async fn on_disconnect(&self, addr: SocketAddr, origin: DisconnectOrigin) {
        while self.setting.lingers && self.node.heuristics().inbound_connections_rejected() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut tally = self.tally.lock().unwrap();
        tally.ends.push((addr, origin));
        tally.leave(addr.ip().to_canonical());
    }
}

impl<C: Clock> Reading for Victim<C> {
    const MESSAGE_QUEUE_DEPTH: usize = 4;
    const IDLE_TIMEOUT_MS: u64 = C::IDLE_MS;

    type Message = BytesMut;
    type Codec = Obedient;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Obedient {
        Obedient::new(self.setting.max_frame)
    }

    async fn process_message(&self, source: SocketAddr, message: BytesMut) {
        match message.first() {
            None | Some(b'e') => self.send(source, message.freeze()).await,
            Some(b'l') => {
                for _ in 0..A_LOT {
                    self.send(source, vec![b'l'; PIECE].into()).await;
                }
            }
            Some(b'f') => self.send_for_ever(source).await,
            Some(b'g') => {
                let is_haunted = || {
                    let tally = self.tally.lock().unwrap();
                    tally.handshakes > 1 && tally.ghost != Ghost::Gone
                };
                while is_haunted() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                self.send(source, message.freeze()).await;
            }
            Some(b'h') => pending().await,
            Some(b'b') => {
                for _ in 0..2 {
                    _ = self.unicast_fast(source, vec![b'b'; PIECE].into());
                }
                self.node.disconnect(source).await;
            }
            Some(b'p') => panic!("{DELIBERATE}"),
            Some(command @ (b'y' | b'z')) => self.send(source, Bytes::copy_from_slice(&[*command])).await,
            Some(_) => {}
        }
    }
}

impl<C: Clock> Writing for Victim<C> {
    const TIMEOUT_MS: u64 = C::FLUSH_MS;

    type Message = Bytes;
    type Codec = Obedient;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Obedient {
        Obedient::new(self.setting.max_frame)
    }
}
