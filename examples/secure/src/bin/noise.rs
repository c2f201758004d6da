//! Noise: nodes that encrypt everything and know each other by their keys, with somebody in the middle who tries his
//! best.
//!
//! Shows how encryption fits into the kernel's own read and write loops: the handshake (Noise XX, in `snow`) runs on the
//! bare stream in `Handshake`, and leaves a cipher for each direction, which `Reading::codec` and `Writing::codec` hand to
//! the kernel inside a decoder and an encoder (`src/noise/codec.rs`). They encrypt in the batch that is written and decrypt
//! in the buffer that was read; nothing is copied twice. With a secret of the group (XXpsk3), who has not been given it
//! stays outside.
//!
//! Run it with
//!
//! ```text
//! cargo run --manifest-path examples/secure/Cargo.toml --release --bin noise
//! ```
//!
//! You will see the following, with other keys and numbers; the exit code is 0. With `EXAMPLE_SHORT=1`, the last part,
//! which measures for three seconds, is left out.
//!
//! ```text
//! 1. ada and bob have each other's keys; mallory stands between them and writes down what passes
//!    ada   talks with the key 1c1a6616e9ba
//!    bob   talks with the key e91d042d003b
//!    verified: each knows the other by its key
//! 2. messages of 25 bytes, and of 1 MiB, which takes 17 Noise frames
//!    verified: all of them arrived as they were sent
//! 3. 9000 more messages: the key is replaced each 4,096 frames, on both sides
//!    verified: both have replaced the key twice
//! 4. what mallory has
//!    mallory has written down 2564972 bytes
//!    verified: no plaintext and no key on the wire
//! 5. mallory flips a bit
//!    its end: Reading, Some(Tampered)
//!    its end: Reading, Some(CutOff)
//!    verified: the connection ended, and the message was not delivered
//! 6. bob comes back, and says goodbye
//!    its end: Reading, Some(Goodbye)
//!    its end: User, None
//!    verified: ada knows that nothing is missing
//! 7. bob comes back, and mallory closes the connection between two messages
//!    its end: Reading, Some(CutOff)
//!    its end: Reading, Some(CutOff)
//!    verified: both know that something may be missing
//! 8. mallory dials ada, and answers bob, with a key of her own
//!    mal   has no connection: the listener did not let us in
//!    bob   has no connection: the key c286b968941b is not trusted
//!    verified: neither of them talks to a key that is not trusted
//! 9. carol's group has a secret: the right key alone does not do
//!    bob   has no connection: unexpected end of file
//!    bob   has no connection: the listener did not let us in
//!    bob   is let in
//!    verified: only who knows the secret is let in
//! 10. messages of 64 KiB for 3 seconds
//!    far   got 9397 messages/s, 0.62 GB/s on the wire; the key was replaced 13 times
//! the end
//! ```

#[path = "../../../common/mod.rs"]
mod common;

use std::{
    collections::HashSet,
    fmt, io,
    net::SocketAddr,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use common::Colour;
use pea2pea::{
    Config, Connection, ConnectionSide, DisconnectOrigin, Node, Pea2Pea,
    protocols::{Handshake, OnDisconnect, Reading, Writing},
};
use pea2pea_secure::{
    noise::{self, Ending, Identity, Opener, Outgoing, PublicKey, Sealer, Sessions, SharedSecret},
    relay::Relay,
};
use tokio::{sync::mpsc, task::yield_now, time::timeout};

#[tokio::main]
async fn main() -> ExitCode {
    let mut members = Members::default();
    let outcome = match story(&mut members).await {
        Ok(()) if !common::is_short() => speed(&mut members).await,
        outcome => outcome,
    };
    for member in &members.0 {
        member.node.shut_down().await;
    }
    let left: usize = members.0.iter().map(|member| member.node.num_connected()).sum();
    common::exit(
        outcome.and_then(|()| require(left == 0, "nobody is connected any more")).map(|()| println!("the end")),
    )
}

async fn story(members: &mut Members) -> io::Result<()> {
    println!("1. ada and bob have each other's keys; mallory stands between them and writes down what passes");
    let [adas, bobs] = [Arc::new(Identity::generate()?), Arc::new(Identity::generate()?)];
    let keys = [adas.public(), bobs.public()];
    let (ada, mut ada_saw) = members.start("ada", &adas, &keys, None).await;
    let (bob, mut bob_saw) = members.start("bob", &bobs, &keys, None).await;
    let mallory = Relay::start(ada.listen().await?).await?;
    let there = mallory.addr;
    let bob_addr = connect(&bob, there, &mut ada_saw).await?;
    bob_saw.connected().await?;
    ada.say(format_args!("talks with the key {}", ada.sessions.get(bob_addr)?.peer));
    bob.say(format_args!("talks with the key {}", bob.sessions.get(there)?.peer));
    let met = ada.sessions.get(bob_addr)?.peer == keys[1] && bob.sessions.get(there)?.peer == keys[0];
    verify(met, "each knows the other by its key")?;

    println!("2. messages of {} bytes, and of 1 MiB, which takes 17 Noise frames", SMALL.len());
    let large: Bytes = LARGE.repeat((1 << 20) / LARGE.len()).into();
    for message in [SMALL.into(), large] {
        bob.send(there, message.clone()).await?;
        ada_saw.message(&message).await?;
        ada.send(bob_addr, message.clone()).await?;
        bob_saw.message(&message).await?;
    }
    verify(true, "all of them arrived as they were sent")?;

    println!("3. {MANY} more messages: the key is replaced each 4,096 frames, on both sides");
    let messages: Vec<Bytes> = (0..MANY).map(|number| format!("{SMALL} {number}").into()).collect();
    bob.stream(there, &messages).await?;
    for message in &messages {
        ada_saw.message(message).await?;
    }
    let renewals = [bob.sessions.get(there)?.outbound.renewals(), ada.sessions.get(bob_addr)?.inbound.renewals()];
    verify(renewals == [2, 2], "both have replaced the key twice")?;

    println!("4. what mallory has");
    let recording = mallory.recording();
    let is_there = |text: &[u8]| recording.windows(text.len()).any(|window| window == text);
    println!("   mallory has written down {} bytes", recording.len());
    require(recording.len() > 2 << 20, "everything has passed the relay")?;
    let readable = [&SMALL.as_bytes()[..8], &LARGE.as_bytes()[..8], keys[0].as_bytes(), keys[1].as_bytes()];
    verify(!readable.into_iter().any(is_there), "no plaintext and no key on the wire")?;

    println!("5. mallory flips a bit");
    mallory.flip_a_bit();
    bob.send(there, SMALL.into()).await?;
    ada_saw.end(Some(Ending::Tampered)).await?;
    bob_saw.end(Some(Ending::CutOff)).await?;
    verify(true, "the connection ended, and the message was not delivered")?;

    println!("6. bob comes back, and says goodbye");
    connect(&bob, there, &mut ada_saw).await?;
    bob_saw.connected().await?;
    require(in_time("the end", bob.node.disconnect(there)).await?, "bob was connected")?;
    ada_saw.end(Some(Ending::Goodbye)).await?;
    bob_saw.end(None).await?;
    verify(true, "ada knows that nothing is missing")?;

    println!("7. bob comes back, and mallory closes the connection between two messages");
    connect(&bob, there, &mut ada_saw).await?;
    bob_saw.connected().await?;
    mallory.cut();
    ada_saw.end(Some(Ending::CutOff)).await?;
    bob_saw.end(Some(Ending::CutOff)).await?;
    verify(true, "both know that something may be missing")?;

    println!("8. mallory dials ada, and answers bob, with a key of her own");
    let mallorys = Arc::new(Identity::generate()?);
    let (impostor, _saw) = members.start("mal", &mallorys, &keys, None).await;
    let error = refused(&impostor, there).await?;
    require(error.kind() == io::ErrorKind::PermissionDenied, "the listener refuses")?;
    let error = refused(&bob, impostor.listen().await?).await?;
    verify(error.kind() == io::ErrorKind::PermissionDenied, "neither of them talks to a key that is not trusted")?;

    println!("9. carol's group has a secret: the right key alone does not do");
    let carols = Arc::new(Identity::generate()?);
    let trusted = [keys[1], carols.public()];
    let (carol, mut carol_saw) = members.start("carol", &carols, &trusted, Some(SECRET)).await;
    let there = carol.listen().await?;
    for secret in [None, Some([0; 32]), Some(SECRET)] {
        let (bob, mut bob_saw) = members.start("bob", &bobs, &trusted, secret).await;
        if secret != Some(SECRET) {
            refused(&bob, there).await?;
            continue;
        }
        connect(&bob, there, &mut carol_saw).await?;
        bob_saw.connected().await?;
        bob.say(format_args!("is let in"));
        bob.send(there, SMALL.into()).await?;
        carol_saw.message(SMALL.as_bytes()).await?;
    }
    verify(true, "only who knows the secret is let in")
}

/// How fast it is, both ends on this machine and without mallory.
async fn speed(members: &mut Members) -> io::Result<()> {
    println!("10. messages of 64 KiB for 3 seconds");
    let identity = Arc::new(Identity::generate()?);
    let (far, mut far_saw) = members.start("far", &identity, &[identity.public()], None).await;
    let (near, _near_saw) = members.start("near", &identity, &[identity.public()], None).await;
    let there = far.listen().await?;
    connect(&near, there, &mut far_saw).await?;
    far_saw.close();
    let (start, message) = (Instant::now(), Bytes::from(vec![7; 64 << 10]));
    while start.elapsed() < Duration::from_secs(3) {
        near.stream(there, &vec![message.clone(); 1_000]).await?;
    }
    near.send(there, message).await?;
    let (received, bytes) = far.node.stats().received();
    let seconds = start.elapsed().as_secs_f64();
    far.say(format_args!(
        "got {:.0} messages/s, {:.2} GB/s on the wire; the key was replaced {} times",
        received as f64 / seconds,
        bytes as f64 / seconds / 1e9,
        near.sessions.get(there)?.outbound.renewals()
    ));
    require(received > 0, "something arrived")
}

/// All that were started, whatever became of the story.
#[derive(Default)]
struct Members(Vec<Member>);

impl Members {
    async fn start(
        &mut self,
        name: &str,
        identity: &Arc<Identity>,
        trusted: &[PublicKey],
        secret: Option<SharedSecret>,
    ) -> (Member, Diary) {
        let node = Node::new(Config {
            name: Some(name.to_owned()),
            listener_addr: Some(([127, 0, 0, 1], 0).into()),
            max_connections_per_ip: 10,
            ..Default::default()
        });
        let (sender, events) = mpsc::unbounded_channel();
        let member = Member {
            node,
            identity: Arc::clone(identity),
            trusted: Arc::new(trusted.iter().copied().collect()),
            secret,
            sessions: Sessions::default(),
            events: sender,
        };
        member.enable_handshake().await;
        member.enable_reading().await;
        member.enable_writing().await;
        member.enable_on_disconnect().await;
        self.0.push(member.clone());
        (member, Diary(events))
    }
}

/// A user of the library: the node, who it is, whom it trusts, and its sessions.
#[derive(Clone)]
struct Member {
    node: Node,
    identity: Arc<Identity>,
    trusted: Arc<HashSet<PublicKey>>,
    secret: Option<SharedSecret>,
    sessions: Sessions,
    events: mpsc::UnboundedSender<Event>,
}

impl Member {
    async fn listen(&self) -> io::Result<SocketAddr> {
        in_time("the listener", self.node.toggle_listener())
            .await??
            .ok_or_else(|| io::Error::other("the listener was switched off instead of on"))
    }

    /// Sends, and waits until the operating system has taken it.
    async fn send(&self, addr: SocketAddr, message: Bytes) -> io::Result<()> {
        let receipt = self.unicast(addr, Outgoing::Message(message))?;
        in_time("a receipt", receipt).await?.map_err(|_| io::Error::from(io::ErrorKind::NotConnected))?
    }

    /// Queues messages as soon as there is room for them.
    async fn stream(&self, addr: SocketAddr, messages: &[Bytes]) -> io::Result<()> {
        in_time("room in the queue", async {
            for message in messages {
                while let Err(error) = self.unicast_fast(addr, Outgoing::Message(message.clone())) {
                    if error.kind() != io::ErrorKind::QuotaExceeded {
                        return Err(error);
                    }
                    yield_now().await;
                }
            }
            Ok(())
        })
        .await?
    }

    fn note(&self, event: Event) {
        // Fails once the diary is closed, and then nobody wants to know any more.
        let _ = self.events.send(event);
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

impl Handshake for Member {
    async fn perform_handshake(&self, mut conn: Connection) -> io::Result<Connection> {
        let (addr, own_side) = (conn.addr(), !conn.side());
        let stream = self.borrow_stream(&mut conn);
        stream.set_nodelay(true)?;
        let is_trusted = |key: &PublicKey| self.trusted.contains(key);
        let session = noise::secure(stream, own_side, &self.identity, self.secret.as_ref(), is_trusted).await?;
        self.sessions.begin(addr, session);
        self.note(Event::Connected(addr));
        Ok(conn)
    }
}

impl Reading for Member {
    type Message = BytesMut;
    type Codec = Opener;

    fn codec(&self, addr: SocketAddr, _side: ConnectionSide) -> Opener {
        self.sessions.opener(addr)
    }

    async fn process_message(&self, _source: SocketAddr, message: BytesMut) {
        self.note(Event::Message(message));
    }
}

impl Writing for Member {
    type Message = Outgoing;
    type Codec = Sealer;

    fn codec(&self, addr: SocketAddr, _side: ConnectionSide) -> Sealer {
        self.sessions.sealer(addr)
    }
}

impl OnDisconnect for Member {
    async fn on_disconnect(&self, addr: SocketAddr, origin: DisconnectOrigin) {
        let mut ending = self.sessions.get(addr).ok().and_then(|session| session.inbound.ending());
        if matches!(origin, DisconnectOrigin::User | DisconnectOrigin::Shutdown) {
            // Still possible here; the end of the connection waits until it has left. With a full queue it does without.
            let _ = self.unicast_fast(addr, Outgoing::Goodbye);
        } else {
            // A connection can also be reset, and then the decoder sees no end.
            ending = ending.or(Some(Ending::CutOff));
        }
        self.sessions.end(addr);
        self.note(Event::Ended(origin, ending));
    }
}

enum Event {
    Connected(SocketAddr),
    Message(BytesMut),
    Ended(DisconnectOrigin, Option<Ending>),
}

/// The events of one member, in the order in which they happened.
struct Diary(mpsc::UnboundedReceiver<Event>);

impl Diary {
    async fn next(&mut self) -> io::Result<Event> {
        in_time("an event", self.0.recv()).await?.ok_or_else(|| io::Error::other("the member is gone"))
    }

    async fn connected(&mut self) -> io::Result<SocketAddr> {
        match self.next().await? {
            Event::Connected(addr) => Ok(addr),
            _ => Err(io::Error::other("something else than a connection")),
        }
    }

    async fn message(&mut self, expected: &[u8]) -> io::Result<()> {
        let arrived = self.next().await?;
        require(matches!(arrived, Event::Message(message) if message == expected), "the message arrives as it was sent")
    }

    async fn end(&mut self, expected: Option<Ending>) -> io::Result<()> {
        match self.next().await? {
            Event::Ended(origin, ending) if ending == expected => {
                println!("   its end: {origin:?}, {ending:?}");
                Ok(())
            }
            Event::Ended(_, ending) => Err(io::Error::other(format!("the connection ended with {ending:?}"))),
            _ => Err(io::Error::other("something else than the end of a connection")),
        }
    }

    fn close(&mut self) {
        self.0.close();
    }
}

/// Dials, and waits until the other end has the connection too; returns by which address.
async fn connect(dialler: &Member, addr: SocketAddr, other_saw: &mut Diary) -> io::Result<SocketAddr> {
    // An end is told of while the connection is still there, so that there can be a farewell.
    in_time("the end of the last connection", async {
        while dialler.node.is_connected(addr) {
            yield_now().await;
        }
    })
    .await?;
    in_time("the dial", dialler.node.connect(addr)).await??;
    other_saw.connected().await
}

async fn refused(dialler: &Member, addr: SocketAddr) -> io::Result<io::Error> {
    match in_time("the dial", dialler.node.connect(addr)).await? {
        Ok(()) => Err(io::Error::other(format!("{} was let in", dialler.node.name()))),
        Err(error) => {
            dialler.say(format_args!("has no connection: {error}"));
            Ok(error)
        }
    }
}

async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> io::Result<T> {
    timeout(PATIENCE, work).await.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("{what} did not come")))
}

fn require(holds: bool, claim: &str) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::Error::other(format!("this does not hold: {claim}"))) }
}

fn verify(holds: bool, claim: &str) -> io::Result<()> {
    require(holds, claim)?;
    println!("   {} {claim}", Colour::Green.paint("verified:"));
    Ok(())
}

const SMALL: &str = "the gold is under the oak";
const LARGE: &str = "a map of the wood, and of each of its oaks, drawn from memory...";

/// Enough for two new keys.
const MANY: usize = 9_000;

const SECRET: SharedSecret = *b"nobody shall know this but us...";

/// How long any single step may take; all of them together take a second.
const PATIENCE: Duration = Duration::from_secs(5);
