//! The twelve invariants of INVARIANTS.md, each by its name, in the smallest form that fails when it is broken.

use std::{
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use pea2pea::{
    Config, Connection, ConnectionSide, DisconnectOrigin, Node, Pea2Pea, ShuttingDown,
    protocols::{Handshake, OnConnect, OnDisconnect, Reading, Writing},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    task::yield_now,
};
use tokio_util::{
    bytes::{Bytes, BytesMut},
    codec::LengthDelimitedCodec,
};

use crate::{
    common::{
        DELIBERATE, in_time, keep_deliberate_panics_quiet, local_config,
        nodes::listed,
        poll_times,
        setups::{assert_vacant, raw_peer, settled},
        wait_until,
        wire::{Sender, dialled_narrow, frame, frames, read_to_eof, send_until_refused},
    },
    ledger,
};

/// What the hooks of a node have seen.
#[derive(Default)]
struct Seen {
    on_connect_begun: AtomicUsize,
    on_connect_ended: AtomicUsize,
    on_disconnect: AtomicUsize,
    messages: Mutex<Vec<(SocketAddr, BytesMut)>>,
}

/// A node with all five protocols. A message that begins with `!` makes it panic; in a handshake, 1 is right, 2 makes it
/// shut down before it goes on as if nothing had happened, and anything else is an error.
#[derive(Clone)]
struct Peer {
    node: Node,
    seen: Arc<Seen>,
}

impl Peer {
    async fn new(config: Config) -> Self {
        keep_deliberate_panics_quiet();
        let peer = Self { node: listed(config), seen: Arc::default() };
        peer.enable_handshake().await;
        peer.enable_reading().await;
        peer.enable_writing().await;
        peer.enable_on_connect().await;
        peer.enable_on_disconnect().await;
        peer
    }

    async fn listening(config: Config) -> (Self, SocketAddr) {
        let peer = Self::new(config).await;
        let addr = peer.node.toggle_listener().await.unwrap().unwrap();
        (peer, addr)
    }

    fn endings(&self) -> usize {
        self.seen.on_disconnect.load(SeqCst)
    }

    fn messages(&self) -> usize {
        self.seen.messages.lock().unwrap().len()
    }

    /// Checks that its numbers say what its lists say.
    fn assert_conserved(&self) {
        assert_eq!(self.node.num_connected(), self.node.connected_addrs().len());
        assert_eq!(self.node.num_connected(), self.node.connection_infos().len());
    }
}

impl Pea2Pea for Peer {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Handshake for Peer {
    async fn perform_handshake(&self, mut conn: Connection) -> io::Result<Connection> {
        let stream = self.borrow_stream(&mut conn);
        stream.write_u8(1).await?;
        match stream.read_u8().await? {
            1 => {}
            2 => self.node.shut_down().await,
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
        Ok(conn)
    }
}

impl Reading for Peer {
    type Message = BytesMut;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> LengthDelimitedCodec {
        LengthDelimitedCodec::new()
    }

    async fn process_message(&self, source: SocketAddr, message: BytesMut) {
        assert!(!message.starts_with(b"!"), "{DELIBERATE}");
        self.seen.messages.lock().unwrap().push((source, message));
    }
}

impl Writing for Peer {
    type Message = Bytes;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> LengthDelimitedCodec {
        LengthDelimitedCodec::new()
    }
}

impl OnConnect for Peer {
    const ABORTABLE: bool = false;

    async fn on_connect(&self, _addr: SocketAddr) {
        self.seen.on_connect_begun.fetch_add(1, SeqCst);
        yield_now().await;
        self.seen.on_connect_ended.fetch_add(1, SeqCst);
    }
}

impl OnDisconnect for Peer {
    async fn on_disconnect(&self, _addr: SocketAddr, _origin: DisconnectOrigin) {
        self.seen.on_disconnect.fetch_add(1, SeqCst);
        yield_now().await;
    }
}

/// A raw peer that shakes hands.
async fn raw_dial(addr: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.write_u8(1).await?;
    stream.read_u8().await?;
    Ok(stream)
}

#[tokio::test(crate = "ledger")]
async fn conserved() {
    let config = Config { max_connections_per_ip: 3, ..local_config() };
    let (peer, addr) = Peer::listening(config.clone()).await;
    let (other, _) = Peer::listening(config).await;
    for round in 0..60 {
        match round % 4 {
            0 => {
                other.node.connect(addr).await.unwrap();
                assert!(other.node.disconnect(addr).await);
            }
            1 => drop(poll_times(pin!(other.node.connect(addr)), round / 4).await),
            2 => drop(raw_dial(addr).await),
            _ => {
                let mut stream = TcpStream::connect(addr).await.unwrap();
                stream.write_u8(9).await.unwrap();
            }
        }
        other.assert_conserved();
        peer.assert_conserved();
        other.node.disconnect(addr).await;
        settled(&other.node, 0).await;
        settled(&peer.node, 0).await;
    }
    // What was charged to the IP has been given back: exactly the limit fits.
    let mut kept = Vec::new();
    for _ in 0..3 {
        kept.push(raw_dial(addr).await.unwrap());
    }
    assert!(raw_dial(addr).await.is_err());
    settled(&peer.node, 3).await;
    peer.node.shut_down().await;
    other.node.shut_down().await;
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 2)]
async fn limited() {
    let (peer, addr) = Peer::listening(Config { max_connections: 3, ..local_config() }).await;
    let dials: Vec<_> = (0..60)
        .map(|_| {
            tokio::spawn(async move {
                let stream = raw_dial(addr).await;
                yield_now().await;
                stream
            })
        })
        .collect();
    let mut streams = Vec::new();
    for mut dial in dials {
        loop {
            assert!(peer.node.num_connected() + peer.node.num_connecting() <= 3);
            if let Some(result) = poll_times(pin!(&mut dial), 1).await {
                break streams.extend(result.unwrap().ok());
            }
        }
    }
    assert_eq!((streams.len(), peer.node.heuristics().inbound_connections_rejected()), (3, 57));
    peer.node.shut_down().await;
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 2)]
async fn once() {
    for round in 1..=50 {
        let (peer, addr) = Peer::listening(local_config()).await;
        let (a, b) = (Peer::new(local_config()).await, raw_dial(addr).await.unwrap());
        a.node.connect(addr).await.unwrap();
        settled(&peer.node, 2).await;
        let raw = b.local_addr().unwrap();
        tokio::join!(
            async { drop(b) },
            peer.node.disconnect(raw),
            peer.node.disconnect(raw),
            a.node.disconnect(addr),
            a.node.shut_down(),
            peer.node.shut_down(),
        );
        assert_eq!((peer.endings(), a.endings()), (2, 1), "round {round}");
        // What never went live has no ending.
        assert!(a.node.connect(addr).await.is_err());
        assert_eq!(a.endings(), 1);
    }
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 2)]
async fn paired() {
    let (peer, addr) = Peer::listening(local_config()).await;
    let other = Peer::new(local_config()).await;
    for _ in 0..200 {
        other.node.connect(addr).await.unwrap();
        assert!(other.node.disconnect(addr).await);
    }
    settled(&peer.node, 0).await;
    for seen in [&other.seen, &peer.seen] {
        wait_until("all on_connects have ended", || seen.on_connect_ended.load(SeqCst) == 200).await;
        assert_eq!((seen.on_connect_begun.load(SeqCst), seen.on_disconnect.load(SeqCst)), (200, 200));
    }
    peer.node.shut_down().await;
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 2)]
async fn no_stranger() {
    let (peer, addr) = Peer::listening(local_config()).await;
    // One address for all connections, of an interface that no other test uses: each is the successor of the one before,
    // whose tasks and sends may be late.
    let mut port: SocketAddr = "127.77.0.1:0".parse().unwrap();
    for lives in 1..=100 {
        let mut stream = in_time("a successor", successor(&mut port, addr)).await;
        wait_until("it is live", || peer.node.is_connected(port)).await;
        let info = peer.node.connection_info(port).unwrap();
        assert_eq!(info.stats().sent(), (0, 0), "it has counters of its own");
        peer.unicast(port, Bytes::from(vec![lives; 8])).unwrap().await.unwrap().unwrap();
        let mut received = [0; 12];
        in_time("its message", stream.read_exact(&mut received)).await.unwrap();
        assert_eq!(received[4..], [lives; 8], "not one that was sent to its predecessor");
        // Late, after the end: it reaches nobody.
        let sender = peer.clone();
        let late = tokio::spawn(async move { sender.unicast_fast(port, Bytes::from_static(b"late")) });
        // The peer closes in return, for which the end waits.
        let (has_ended, _) = tokio::join!(peer.node.disconnect(port), async {
            let _rest = stream.read_to_end(&mut Vec::new()).await;
            drop(stream);
        });
        assert!(has_ended);
        let _sent_or_not = late.await.unwrap();
        assert_eq!(peer.endings(), usize::from(lives), "one ending each");
    }
    peer.node.shut_down().await;
}

/// Dials from the same port again; while the slot of the connection before is not released, the dial is refused.
async fn successor(port: &mut SocketAddr, addr: SocketAddr) -> TcpStream {
    loop {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(*port).unwrap();
        *port = socket.local_addr().unwrap();
        let Ok(mut stream) = socket.connect(addr).await else { continue };
        if stream.write_u8(1).await.is_ok() && stream.read_u8().await.is_ok() {
            return stream;
        }
    }
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 2)]
async fn monotonic_close() {
    for _ in 0..20 {
        let (peer, addr) = Peer::listening(local_config()).await;
        let dialler = Peer::new(local_config()).await;
        let dials: Vec<_> = (0..8)
            .map(|_| {
                let dialler = dialler.clone();
                tokio::spawn(async move {
                    let _theirs = raw_dial(addr).await;
                    dialler.node.connect(addr).await
                })
            })
            .collect();
        wait_until("it has begun", || peer.node.num_connected() > 0).await;
        tokio::join!(peer.node.shut_down(), dialler.node.shut_down());
        let live = [&peer, &dialler].map(|peer| peer.seen.on_disconnect.load(SeqCst));
        assert_vacant(&peer.node);
        assert_vacant(&dialler.node);
        let error = dialler.node.connect(addr).await.unwrap_err();
        assert!(ShuttingDown::caused(&error), "{error}");
        for dial in dials {
            let _live_or_not = in_time("the dial", dial).await.unwrap();
        }
        assert_vacant(&peer.node);
        assert_eq!([&peer, &dialler].map(|peer| peer.seen.on_disconnect.load(SeqCst)), live);
        for (peer, live) in [&peer, &dialler].into_iter().zip(live) {
            wait_until("on_connect of all", || peer.seen.on_connect_ended.load(SeqCst) == live).await;
        }
    }
}

/// A handshake that succeeds in the very poll in which the gate was shut.
#[tokio::test(crate = "ledger")]
async fn monotonic_close_of_a_setup_that_is_ready() {
    let (peer, addr) = Peer::listening(local_config()).await;
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_u8(2).await.unwrap();
    assert_eq!(read_to_eof(&mut stream).await, [1]);
    in_time("the end", peer.node.shut_down()).await;
    assert_vacant(&peer.node);
    assert_eq!((peer.endings(), peer.seen.on_connect_begun.load(SeqCst)), (0, 0));
}

/// The heap is looked at, to the byte, in `tests/leaks.rs`.
#[tokio::test(crate = "ledger")]
async fn leak_free() {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let (peer, addr) = Peer::listening(local_config()).await;
    let other = Peer::new(local_config()).await;
    let idle = tasks();
    for round in 0..50 {
        other.node.connect(addr).await.unwrap();
        other.unicast(addr, Bytes::from_static(b"hello")).unwrap().await.unwrap().unwrap();
        wait_until("it arrives", || peer.messages() == round + 1).await;
        assert!(other.node.disconnect(addr).await);
        settled(&peer.node, 0).await;
    }
    // A peer that does not close its side keeps nothing alive.
    let stubborn = raw_dial(addr).await.unwrap();
    settled(&peer.node, 1).await;
    assert!(peer.node.disconnect(stubborn.local_addr().unwrap()).await);
    wait_until("the connections' tasks are gone", || tasks() == idle).await;
    drop(stubborn);
    tokio::join!(peer.node.shut_down(), other.node.shut_down());
    wait_until("the nodes' tasks are gone", || tasks() == before).await;
    let (seen, others) = (Arc::downgrade(&peer.seen), Arc::downgrade(&other.seen));
    drop((peer, other));
    assert!(seen.upgrade().is_none() && others.upgrade().is_none(), "something still owns the user's struct");
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 2)]
async fn ordered() {
    // Large enough for a queue to take more than one batch, so that what is left of it has to be put back.
    const MESSAGES: u32 = 10_000;
    const SIZE: usize = 2_000;
    let (peer, addr) = Peer::listening(local_config()).await;
    let other = Peer::new(local_config()).await;
    other.node.connect(addr).await.unwrap();
    for number in 0..MESSAGES {
        let mut message = BytesMut::zeroed(SIZE);
        message[..4].copy_from_slice(&number.to_be_bytes());
        let message = message.freeze();
        while let Err(error) = other.unicast_fast(addr, message.clone()) {
            assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
            yield_now().await;
        }
    }
    wait_until("all arrive", || peer.messages() >= MESSAGES as usize).await;
    let messages = std::mem::take(&mut *peer.seen.messages.lock().unwrap());
    let numbers = messages.iter().map(|(_, message)| u32::from_be_bytes(message[..4].try_into().unwrap()));
    assert!(numbers.eq(0..MESSAGES));
    assert!(messages.iter().all(|(_, message)| message.len() == SIZE));
    tokio::join!(peer.node.shut_down(), other.node.shut_down());
}

#[tokio::test(crate = "ledger")]
async fn bounded() {
    let sender = Sender::<16>::plain().await;
    let narrow = dialled_narrow(&sender.node).await;
    let message = Bytes::from(vec![7; 1_000]);
    let accepted = send_until_refused(|| sender.unicast_fast(narrow.addr, message.clone())).await;
    let most = 16 * 1_004 + 2 * (256 * 1024 + 1_004) + narrow.capacity;
    assert!((16..=most / 1_004).contains(&accepted), "{accepted} messages");
    sender.node.shut_down().await;
}

#[tokio::test(crate = "ledger")]
async fn cancel_safe() {
    let (peer, addr) = Peer::listening(local_config()).await;
    for polls in 0.. {
        let other = Peer::new(local_config()).await;
        let connected = poll_times(pin!(other.node.connect(addr)), polls).await.is_some();
        assert_eq!(other.node.num_connecting(), 0, "after {polls} polls");
        other.assert_conserved();
        if !other.node.is_connected(addr) {
            other.node.connect(addr).await.unwrap();
        }
        let ended = poll_times(pin!(other.node.disconnect(addr)), polls).await.is_some();
        assert_eq!(other.node.is_connected(addr), polls == 0, "after {polls} polls");
        other.node.disconnect(addr).await;
        other.node.connect(addr).await.unwrap();
        let shut = poll_times(pin!(other.node.shut_down()), polls).await.is_some();
        in_time("another call", other.node.shut_down()).await;
        assert_vacant(&other.node);
        let begun = &other.seen.on_connect_begun;
        wait_until("each is paired", || begun.load(SeqCst) == other.endings()).await;
        if connected && ended && shut {
            break;
        }
    }
    settled(&peer.node, 0).await;
    peer.node.shut_down().await;
}

#[tokio::test(crate = "ledger")]
async fn isolated() {
    let (peer, addr) = Peer::listening(local_config()).await;
    let (mut bad, mut good) = (raw_dial(addr).await.unwrap(), raw_dial(addr).await.unwrap());
    settled(&peer.node, 2).await;
    bad.write_all(&frame(b"!")).await.unwrap();
    assert_eq!(read_to_eof(&mut bad).await, b"");
    settled(&peer.node, 1).await;
    good.write_all(&frame(b"hello")).await.unwrap();
    wait_until("the other one goes on", || peer.messages() == 1).await;
    let _another = raw_dial(addr).await.unwrap();
    settled(&peer.node, 2).await;
    peer.node.shut_down().await;
}

#[tokio::test(crate = "ledger")]
async fn honest() {
    let sender = Sender::<64>::plain().await;
    let mut narrow = dialled_narrow(&sender.node).await;
    let mut receipts = Vec::new();
    let message = Bytes::from(vec![7; 10_000]);
    send_until_refused(|| sender.unicast(narrow.addr, message.clone()).map(|receipt| receipts.push(receipt))).await;
    // The peer has not read a byte, and the end cuts off what it does not take.
    assert!(sender.node.disconnect(narrow.addr).await);
    let mut confirmed = 0;
    for receipt in receipts {
        confirmed += usize::from(matches!(receipt.await, Ok(Ok(()))));
    }
    let mut bytes = Vec::new();
    let _end_or_reset = in_time("the end", narrow.peer.read_to_end(&mut bytes)).await;
    let arrived = frames(&bytes).len();
    assert!(confirmed <= arrived, "{confirmed} confirmed, {arrived} arrived");
    let (listener, addr) = raw_peer().await;
    assert_confirmed_messages_arrive(&sender, listener, addr).await;
    sender.node.shut_down().await;
}

async fn assert_confirmed_messages_arrive(sender: &Sender, listener: TcpListener, addr: SocketAddr) {
    let (dialled, accepted) = tokio::join!(sender.node.connect(addr), listener.accept());
    dialled.unwrap();
    let receipt = sender.unicast(addr, Bytes::from_static(b"hello")).unwrap();
    assert!(sender.node.disconnect(addr).await);
    assert!(matches!(receipt.await, Ok(Ok(()))), "a peer that takes everything");
    assert_eq!(read_to_eof(&mut accepted.unwrap().0).await, frame(b"hello"));
}
