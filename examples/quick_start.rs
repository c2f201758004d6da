//! Quick start: three nodes, one conversation, one refusal.
//!
//! Shows all five protocols at work over real TCP on the loopback interface: a handshake that
//! compares protocol versions, framed messages in both directions with delivery receipts, who
//! dialled whom, why a connection ended, what was counted, and a clean shutdown.
//!
//! Run it with
//!
//! ```text
//! cargo run --example quick_start
//! ```
//!
//! You will see the following, with other port numbers; the exit code is 0. Every wait is under a
//! timeout: should something not happen, the story stops there, with an error and exit code 1.
//!
//! ```text
//! 1. ada listens
//!    ada   listens on 127.0.0.1:40913 and speaks version 1
//! 2. bob, who speaks version 1 too, dials ada
//!    bob   peer 127.0.0.1:40913 connected; it is the Responder
//!    ada   peer 127.0.0.1:43230 connected; it is the Initiator
//! 3. messages travel both ways
//!    bob   has the receipt for "hello, ada": flushed to the system
//!    ada   peer 127.0.0.1:43230 says "hello, ada"
//!    bob   has the receipt for "what news?": flushed to the system
//!    ada   peer 127.0.0.1:43230 says "what news?"
//!    ada   has the receipt for "hello, bob": flushed to the system
//!    bob   peer 127.0.0.1:40913 says "hello, bob"
//! 4. carol, who speaks version 2, dials ada and is refused
//!    carol has an error from connect: peer 127.0.0.1:40913 speaks version 1 instead of 2
//!    carol peer 127.0.0.1:40913 speaks version 1 instead of 2
//!    ada   peer 127.0.0.1:36400 speaks version 2 instead of 1
//!    ada   still has 1 connection, carol has 0
//! 5. bob hangs up
//!    bob   peer 127.0.0.1:40913 disconnected; origin: User
//!    ada   peer 127.0.0.1:43230 disconnected; origin: Reading
//! 6. what was counted, framing included
//!    ada   messages sent: 1 (14 bytes), received: 2 (28 bytes)
//!    bob   messages sent: 2 (28 bytes), received: 1 (14 bytes)
//!    carol messages sent: 0 (0 bytes), received: 0 (0 bytes)
//! 7. everything is shut down
//!    ada   does not listen and has 0 connections
//!    bob   does not listen and has 0 connections
//!    carol does not listen and has 0 connections
//! the end
//! ```

use std::{fmt, io, net::SocketAddr, time::Duration};

use bytes::{Bytes, BytesMut};
use pea2pea::{
    Config, Connection, ConnectionSide, DisconnectOrigin, Node, Pea2Pea,
    protocols::{Handshake, OnConnect, OnDisconnect, Reading, Writing},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    time::timeout,
};
use tokio_util::codec::LengthDelimitedCodec;

#[tokio::main]
async fn main() -> io::Result<()> {
    let (ada, mut ada_saw) = in_time("ada", Member::start("ada", 1)).await?;
    let (bob, mut bob_saw) = in_time("bob", Member::start("bob", 1)).await?;
    let (carol, mut carol_saw) = in_time("carol", Member::start("carol", 2)).await?;

    println!("1. ada listens");
    let ada_addr = in_time("the listener", ada.node().toggle_listener())
        .await??
        .ok_or_else(|| io::Error::other("the listener was switched off instead of on"))?;
    ada.say(format_args!("listens on {ada_addr} and speaks version 1"));

    println!("2. bob, who speaks version 1 too, dials ada");
    in_time("bob's dial", bob.node().connect(ada_addr)).await??;
    bob_saw.next(What::Connected(ConnectionSide::Responder)).await?;
    // To ada, bob is the address that his end of the connection was given.
    let bob_addr = ada_saw.next(What::Connected(ConnectionSide::Initiator)).await?;

    println!("3. messages travel both ways");
    for text in ["hello, ada", "what news?"] {
        bob.send(ada_addr, text).await?;
        ada_saw.next(What::Message(text.to_owned())).await?;
    }
    ada.send(bob_addr, "hello, bob").await?;
    bob_saw.next(What::Message("hello, bob".to_owned())).await?;

    println!("4. carol, who speaks version 2, dials ada and is refused");
    match in_time("carol's dial", carol.node().connect(ada_addr)).await? {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            carol.say(format_args!("has an error from connect: {error}"));
        }
        other => return Err(io::Error::other(format!("carol's dial gave {other:?}"))),
    }
    carol_saw.next(What::Mismatch { ours: 2, theirs: 1 }).await?;
    ada_saw.next(What::Mismatch { ours: 1, theirs: 2 }).await?;
    let (adas, carols) = (ada.node().num_connected(), carol.node().num_connected());
    ada.say(format_args!("still has {adas} connection, carol has {carols}"));
    require((adas, carols) == (1, 0), "only bob is connected")?;

    println!("5. bob hangs up");
    let was_connected = in_time("the goodbye", bob.node().disconnect(ada_addr)).await?;
    require(was_connected, "bob had a connection to end")?;
    // Whoever ends a connection knows why; to the other side, the stream it reads from just ended.
    bob_saw.next(What::Ended(DisconnectOrigin::User)).await?;
    ada_saw.next(What::Ended(DisconnectOrigin::Reading)).await?;

    println!("6. what was counted, framing included");
    for member in [&ada, &bob, &carol] {
        let (sent, sent_bytes) = member.node().stats().sent();
        let (received, received_bytes) = member.node().stats().received();
        member.say(format_args!(
            "messages sent: {sent} ({sent_bytes} bytes), received: {received} ({received_bytes} bytes)"
        ));
    }
    let (adas, bobs) = (ada.node().stats(), bob.node().stats());
    require(adas.received() == bobs.sent(), "ada received what bob sent")?;
    require(bobs.received() == adas.sent(), "bob received what ada sent")?;

    println!("7. everything is shut down");
    for member in [&ada, &bob, &carol] {
        in_time("the shutdown", member.node().shut_down()).await?;
        let listens = in_time("an answer", member.node().listening_addr()).await?.is_ok();
        let left = member.node().num_connected();
        require(!listens && left == 0, "nothing is left")?;
        member.say(format_args!("does not listen and has {left} connections"));
    }
    println!("the end");
    Ok(())
}

/// A user of the library: the node, and whatever state the hooks below need.
#[derive(Clone)]
struct Member {
    node: Node,
    version: u8,
    events: mpsc::UnboundedSender<Event>,
}

impl Member {
    /// Creates a node and enables all five protocols; any subset of them would do as well.
    async fn start(name: &'static str, version: u8) -> (Self, Diary) {
        let node = Node::new(Config {
            name: Some(name.to_owned()),
            listener_addr: Some(([127, 0, 0, 1], 0).into()),
            // All the members of this story share one IP address; the default allows one of them.
            max_connections_per_ip: 2,
            ..Default::default()
        });
        let (sender, events) = mpsc::unbounded_channel();
        let member = Self { node, version, events: sender };

        member.enable_handshake().await;
        member.enable_reading().await;
        member.enable_writing().await;
        member.enable_on_connect().await;
        member.enable_on_disconnect().await;

        (member, Diary { name, events })
    }

    /// Queues one message and waits for its receipt: the operating system has taken the bytes.
    async fn send(&self, addr: SocketAddr, text: &'static str) -> io::Result<()> {
        let receipt = self.unicast(addr, Bytes::from(text))?;
        in_time("a delivery receipt", receipt)
            .await?
            .map_err(|_| io::Error::other("the connection went away first"))??;
        self.say(format_args!("has the receipt for {text:?}: flushed to the system"));
        Ok(())
    }

    fn note(&self, addr: SocketAddr, what: What) {
        // Fails once the diary is closed, and then nobody wants to know any more.
        let _ = self.events.send(Event { addr, what });
    }

    fn say(&self, line: fmt::Arguments<'_>) {
        println!("   {:5} {line}", self.node.name());
    }
}

impl Pea2Pea for Member {
    fn node(&self) -> &Node {
        &self.node
    }
}

/// Both sides state their version, and go on only if it is the same one.
impl Handshake for Member {
    async fn perform_handshake(&self, mut conn: Connection) -> io::Result<Connection> {
        let ours = self.version;
        let stream = self.borrow_stream(&mut conn);
        // Small messages leave at once instead of waiting for the peer's acknowledgement.
        stream.set_nodelay(true)?;
        stream.write_u8(ours).await?;
        let theirs = stream.read_u8().await?;

        if theirs == ours {
            return Ok(conn);
        }
        let mismatch = What::Mismatch { ours, theirs };
        let reason = format!("peer {} {mismatch}", conn.addr());
        self.note(conn.addr(), mismatch);
        Err(io::Error::new(io::ErrorKind::InvalidData, reason))
    }
}

impl Reading for Member {
    type Message = BytesMut;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        frames()
    }

    async fn process_message(&self, source: SocketAddr, message: Self::Message) {
        let text = String::from_utf8_lossy(&message).into_owned();
        self.note(source, What::Message(text));
    }
}

impl Writing for Member {
    type Message = Bytes;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        frames()
    }
}

impl OnConnect for Member {
    async fn on_connect(&self, addr: SocketAddr) {
        if let Some(info) = self.node.connection_info(addr) {
            self.note(addr, What::Connected(info.side()));
        }
    }
}

impl OnDisconnect for Member {
    async fn on_disconnect(&self, addr: SocketAddr, origin: DisconnectOrigin) {
        self.note(addr, What::Ended(origin));
    }
}

/// What a hook reports, and of which connection.
struct Event {
    addr: SocketAddr,
    what: What,
}

#[derive(PartialEq)]
enum What {
    Mismatch { ours: u8, theirs: u8 },
    Connected(ConnectionSide),
    Message(String),
    Ended(DisconnectOrigin),
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mismatch { ours, theirs } => {
                write!(f, "speaks version {theirs} instead of {ours}")
            }
            Self::Connected(side) => write!(f, "connected; it is the {side:?}"),
            Self::Message(text) => write!(f, "says {text:?}"),
            Self::Ended(origin) => write!(f, "disconnected; origin: {origin:?}"),
        }
    }
}

/// The events of one member, in the order in which they happened.
struct Diary {
    name: &'static str,
    events: mpsc::UnboundedReceiver<Event>,
}

impl Diary {
    /// Waits for the next event, which has to be the expected one; returns the peer it is about.
    async fn next(&mut self, expected: What) -> io::Result<SocketAddr> {
        let Event { addr, what } =
            in_time("an event", self.events.recv()).await?.ok_or_else(|| io::Error::other("the member is gone"))?;
        println!("   {:5} peer {addr} {what}", self.name);
        require(what == expected, &expected.to_string())?;
        Ok(addr)
    }
}

/// The wire format: each message behind its length, and none above 1 KiB.
fn frames() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().max_frame_length(1024).new_codec()
}

async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> io::Result<T> {
    timeout(PATIENCE, work).await.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("{what} did not come")))
}

fn require(holds: bool, claim: &str) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::Error::other(format!("this does not hold: {claim}"))) }
}

/// How long any single step may take; all of them together take a few milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
