//! Values of the user's (messages, codecs, streams, structs) whose drops panic, or call the node.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::FutureExt;
use pea2pea::{
    Connection, ConnectionSide, DisconnectOrigin, Node, Pea2Pea,
    protocols::{Handshake, OnConnect, OnDisconnect, Reading, Writing},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    task::yield_now,
};
use tokio_util::{
    bytes::{Bytes, BytesMut},
    codec::{Decoder, Encoder, LengthDelimitedCodec},
};

use crate::{
    common::{
        DELIBERATE, in_time, keep_deliberate_panics_quiet, local_node,
        setups::settled,
        wait_until,
        wire::{dialled_narrow, dialled_raw, frame},
    },
    ledger,
};

/// What the drop of a value does.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Dropping {
    Quiet,
    Panics,
    Calls,
}

use Dropping::*;

/// A part of a connection that is the user's.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Part {
    Decoder,
    Encoder,
    Stream,
}

/// A struct whose messages, codecs and streams have drops of their own. Its own drop panics when it is armed.
#[derive(Clone)]
struct Holder {
    node: Node,
    messages: Dropping,
    /// What else has a drop that panics.
    panicking: Option<Part>,
    /// Whether the drops of the struct itself panic.
    is_armed: Arc<AtomicBool>,
    dropped: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
}

impl Holder {
    async fn new(messages: Dropping, panicking: Option<Part>) -> Self {
        keep_deliberate_panics_quiet();
        let holder = Self {
            node: local_node(),
            messages,
            panicking,
            is_armed: Arc::default(),
            dropped: Arc::default(),
            ended: Arc::default(),
        };
        holder.enable_handshake().await;
        holder.enable_reading().await;
        holder.enable_writing().await;
        holder.enable_on_connect().await;
        holder.enable_on_disconnect().await;
        holder
    }

    fn message(&self, payload: impl Into<Bytes>) -> Message {
        Message { payload: payload.into(), dropping: self.messages, holder: self.clone() }
    }

    fn quiet(&self, payload: &'static str) -> Message {
        Message { payload: payload.into(), dropping: Quiet, holder: self.clone() }
    }

    fn codec_as(&self, part: Part) -> Codec {
        let _fragile = Fragile(self.panicking == Some(part));
        Codec { frames: LengthDelimitedCodec::new(), holder: self.clone(), _fragile }
    }

    fn num_dropped(&self) -> usize {
        self.dropped.load(Ordering::SeqCst)
    }

    fn num_ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }

    /// Does what the drop of a message does.
    #[expect(deprecated, reason = "it is lossy, and has to do what it promises all the same")]
    fn on_drop(&self, dropping: Dropping) {
        match dropping {
            Quiet => {}
            Panics => panic!("{DELIBERATE}"),
            Calls => {
                // What is sent from a drop has a quiet drop, or there would be no end to it.
                for addr in self.node.connected_addrs() {
                    _ = self.unicast(addr, self.quiet("sent by a drop"));
                    _ = self.node.connection_info(addr);
                }
                _ = self.broadcast(self.quiet("sent by a drop"));
                _ = self.node.connect(self.node.connected_addrs().first().copied().unwrap_or(NOBODY)).now_or_never();
            }
        }
    }

    /// Proves that the node still makes connections over which messages go both ways.
    async fn goes_on(&self) {
        settled(self.node(), 0).await;
        let (mut peer, addr) = dialled_raw(self.node()).await;
        in_time("receipt", self.unicast(addr, self.quiet("hello")).unwrap()).await.unwrap().unwrap();
        let mut arrived = [0; 9];
        in_time("a message", peer.read_exact(&mut arrived)).await.unwrap();
        assert_eq!(arrived[..], frame(b"hello"));
        peer.write_all(&frame(b"hello")).await.unwrap();
        wait_until("a message", || self.node().connection_info(addr).is_none_or(|info| info.stats().received().0 == 1))
            .await;
        in_time("shut_down", self.node().shut_down()).await;
        assert_eq!((self.node().num_connected(), self.node().num_connecting()), (0, 0));
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if self.is_armed.load(Ordering::SeqCst) {
            panic!("{DELIBERATE}");
        }
    }
}

struct Message {
    payload: Bytes,
    dropping: Dropping,
    holder: Holder,
}

impl Clone for Message {
    fn clone(&self) -> Self {
        Self { payload: self.payload.clone(), dropping: self.dropping, holder: self.holder.clone() }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        self.holder.dropped.fetch_add(1, Ordering::SeqCst);
        self.holder.on_drop(self.dropping);
    }
}

/// Panics when it is dropped, if it is to.
struct Fragile(bool);

impl Drop for Fragile {
    fn drop(&mut self) {
        if self.0 {
            panic!("{DELIBERATE}");
        }
    }
}

struct Codec {
    frames: LengthDelimitedCodec,
    holder: Holder,
    _fragile: Fragile,
}

impl Decoder for Codec {
    type Item = Message;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<Message>> {
        Ok(self.frames.decode(src)?.map(|payload| self.holder.message(payload)))
    }
}

impl Encoder<Message> for Codec {
    type Error = io::Error;

    fn encode(&mut self, mut message: Message, dst: &mut BytesMut) -> io::Result<()> {
        // Those that get as far as this are dropped quietly, unless they are meant to fail.
        if message.payload != POISON {
            message.dropping = Quiet;
        }
        self.frames.encode(message.payload.clone(), dst)
    }
}

/// Nobody listens there.
const NOBODY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

/// A message whose drop is not defused by the encoder.
const POISON: &[u8] = b"poison";

impl Pea2Pea for Holder {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Handshake for Holder {
    async fn perform_handshake(&self, mut conn: Connection) -> io::Result<Connection> {
        if self.panicking == Some(Part::Stream) {
            let stream = self.take_stream(&mut conn);
            self.return_stream(&mut conn, Stream { stream, _fragile: Fragile(true) });
        }
        Ok(conn)
    }
}

impl Reading for Holder {
    type Message = Message;
    type Codec = Codec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Codec {
        self.codec_as(Part::Decoder)
    }

    async fn process_message(&self, _source: SocketAddr, _message: Message) {
        std::future::pending().await
    }
}

impl Writing for Holder {
    const TIMEOUT_MS: u64 = 200;

    type Message = Message;
    type Codec = Codec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Codec {
        self.codec_as(Part::Encoder)
    }
}

impl OnConnect for Holder {
    async fn on_connect(&self, _addr: SocketAddr) {}
}

impl OnDisconnect for Holder {
    async fn on_disconnect(&self, _addr: SocketAddr, _origin: DisconnectOrigin) {
        self.ended.fetch_add(1, Ordering::SeqCst);
    }
}

struct Stream {
    stream: TcpStream,
    _fragile: Fragile,
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

// --- messages ---

/// Queues ten messages behind one that the peer does not take, ends the connection, and counts the drops.
async fn queued_messages(dropping: Dropping, ending: impl AsyncFnOnce(&Holder, SocketAddr)) -> Holder {
    let holder = Holder::new(dropping, None).await;
    let narrow = dialled_narrow(holder.node()).await;
    let stuck = holder.unicast(narrow.addr, holder.message(vec![0; 1 << 20])).unwrap();
    yield_now().await;
    for _ in 0..10 {
        holder.unicast_fast(narrow.addr, holder.message("queued")).unwrap();
    }
    in_time("the ending", ending(&holder, narrow.addr)).await;
    assert!(!matches!(in_time("receipt", stuck).await, Ok(Ok(()))));
    assert_eq!((holder.num_ended(), holder.node().num_connected()), (1, 0));
    wait_until("all are dropped", || holder.num_dropped() >= 11).await;
    holder
}

#[tokio::test(crate = "ledger")]
async fn queued_messages_whose_drops_misbehave_do_not_stop_a_disconnect() {
    for dropping in [Panics, Calls] {
        let holder =
            queued_messages(dropping, async |holder, addr| assert!(holder.node().disconnect(addr).await)).await;
        holder.goes_on().await;
    }
}

#[tokio::test(crate = "ledger")]
async fn queued_messages_whose_drops_misbehave_do_not_stop_a_shutdown() {
    for dropping in [Panics, Calls] {
        queued_messages(dropping, async |holder, _addr| holder.node().shut_down().await).await;
    }
}

#[tokio::test(crate = "ledger")]
async fn queued_messages_whose_drops_misbehave_do_not_stop_a_flush_timeout() {
    for dropping in [Panics, Calls] {
        let holder = queued_messages(dropping, async |holder, _addr| settled(holder.node(), 0).await).await;
        assert_eq!(holder.node().heuristics().write_timeouts(), 1);
        holder.goes_on().await;
    }
}

#[tokio::test(crate = "ledger")]
async fn messages_whose_drops_misbehave_may_fail_together_in_the_encoder() {
    for dropping in [Panics, Calls] {
        let holder = Holder::new(dropping, None).await;
        let (_peer, addr) = dialled_raw(holder.node()).await;
        let send = |payload: &'static [u8]| holder.unicast(addr, holder.message(payload)).unwrap();
        let mut receipts = vec![send(b"first"), send(POISON)];
        receipts.extend((0..10).map(|_| send(b"behind")));
        for receipt in receipts {
            assert!(!matches!(in_time("receipt", receipt).await, Ok(Ok(()))) || dropping == Calls);
        }
        if dropping == Calls {
            assert!(in_time("disconnect", holder.node().disconnect(addr)).await);
        }
        settled(holder.node(), 0).await;
        assert!(holder.num_dropped() >= 12);
        assert_eq!(holder.num_ended(), 1);
        holder.goes_on().await;
    }
}

#[tokio::test(crate = "ledger")]
async fn received_messages_whose_drops_misbehave_do_not_stop_an_ending() {
    for dropping in [Panics, Calls] {
        let holder = Holder::new(dropping, None).await;
        let (mut peer, addr) = dialled_raw(holder.node()).await;
        peer.write_all(&frame(b"x").repeat(10)).await.unwrap();
        wait_until("all are received", || holder.node().stats().received().0 == 10).await;
        assert!(in_time("disconnect", holder.node().disconnect(addr)).await);
        wait_until("all are dropped", || holder.num_dropped() >= 10).await;
        assert_eq!(holder.num_ended(), 1);
        holder.goes_on().await;
    }
}

// --- codecs, streams, structs ---

/// Checks that the connection ends in full although a part of it panics when it is dropped.
async fn panicking_part(ending: impl AsyncFn(&Holder, SocketAddr, TcpStream)) {
    for part in [Part::Decoder, Part::Encoder, Part::Stream] {
        println!("{part:?}");
        let holder = Holder::new(Quiet, Some(part)).await;
        let (peer, addr) = dialled_raw(holder.node()).await;
        in_time("the ending", ending(&holder, addr, peer)).await;
        settled(holder.node(), 0).await;
        assert_eq!(holder.num_ended(), 1);
        holder.goes_on().await;
    }
}

#[tokio::test(crate = "ledger")]
async fn a_codec_or_stream_whose_drop_panics_does_not_stop_a_disconnect() {
    panicking_part(async |holder, addr, _peer| assert!(holder.node().disconnect(addr).await)).await;
}

#[tokio::test(crate = "ledger")]
async fn a_codec_or_stream_whose_drop_panics_does_not_keep_a_connection_that_the_peer_closed() {
    panicking_part(async |_holder, _addr, peer| drop(peer)).await;
}

#[tokio::test(crate = "ledger")]
async fn a_codec_or_stream_whose_drop_panics_does_not_keep_a_connection_that_cannot_write() {
    panicking_part(async |holder, addr, _peer| {
        // Longer than the frames may be: an error of the encoder.
        holder.unicast_fast(addr, holder.message(vec![0; 9 << 20])).unwrap();
    })
    .await;
}

#[tokio::test(crate = "ledger")]
async fn a_struct_whose_drop_panics_does_not_stop_a_shutdown() {
    let holder = Holder::new(Quiet, None).await;
    let node = holder.node().clone();
    holder.is_armed.store(true, Ordering::SeqCst);
    in_time("shut_down", node.shut_down()).await;
    holder.is_armed.store(false, Ordering::SeqCst);
    in_time("a second one", node.shut_down()).await;
}
