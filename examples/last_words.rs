//! Last words: `OnDisconnect` says farewell over the connection that is about to end.
//!
//! Shows that the hook runs while the connection is still listed and writable, which endings that is good for, and
//! which not: a guest dials a host, the connection ends in one of seven ways, and each time the guest tries to send its
//! last words.
//!
//! Run it with
//!
//! ```text
//! cargo run --example last_words
//! ```
//!
//! You will see:
//!
//! ```text
//! how it ends                          origin          receipt    at the host
//! the guest disconnects                User            taken      "farewell; User", then the end
//! the guest's node shuts down          Shutdown        taken      "farewell; Shutdown", then the end
//! the guest's on_connect panics        OnConnectAbort  taken      "farewell; OnConnectAbort", then the end
//! the guest cannot decode a message    Reading         taken      "farewell; Reading", then the end
//! the guest cannot encode a message    Writing         refused    the end, and no words
//! the host hangs up                    Reading         taken      the end, and no words
//! the guest's process is killed        no hook runs    none       the end, and no words
//! verified: 7 endings, and the words arrived in those that promise it
//! ```
//!
//! The receipt of the words tells that the system has taken them, and nothing about the other end: when the host has
//! hung up, nobody reads there any more, though the guest's system takes the words all the same. After a write error
//! nothing can follow the piece of a message that may have been written; and a process that is killed, or loses its
//! power, runs no hook.
//!
//! Exit code 0 means that the words arrived where this table says so, before the end of the connection, and nowhere
//! else.

#[path = "common/mod.rs"]
mod common;

use std::{
    env,
    io::{self, Read},
    net::SocketAddr,
    process::{Command, ExitCode, Stdio},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use common::Colour;
use pea2pea::{
    Config, ConnectionSide, DisconnectOrigin, Node, Pea2Pea,
    protocols::{OnConnect, OnDisconnect, Reading, Writing},
};
use tokio::{
    sync::{Notify, mpsc},
    task::spawn_blocking,
    time::timeout,
};
use tokio_util::codec::LengthDelimitedCodec;

#[tokio::main]
async fn main() -> ExitCode {
    if let Some(host) = env::args().nth(1) {
        return common::exit(be_a_guest(&host).await);
    }

    let (host, mut at_host) = Member::start(Role::Host).await;
    let outcome = all_endings(&host, &mut at_host).await;
    host.node.shut_down().await;
    common::exit(outcome)
}

async fn all_endings(host: &Member, at_host: &mut mpsc::UnboundedReceiver<Event>) -> io::Result<()> {
    let addr = host.node.toggle_listener().await?.ok_or_else(|| io::Error::other("the listener was switched off"))?;
    println!("{:36} {:15} {:10} at the host", "how it ends", "origin", "receipt");

    for ending in ENDINGS {
        let words = match ending {
            Ending::Killed => killed(addr, at_host).await?,
            _ => ended(ending, addr, host, at_host).await?,
        };
        println!(
            "{}",
            match &words {
                Some(words) => Colour::Green.paint(format_args!("{words:?}, then the end")),
                None => Colour::Yellow.paint("the end, and no words"),
            }
        );
        require(words.is_some() == ending.arrives(), ending.name())?;
    }
    println!("verified: {} endings, and the words arrived in those that promise it", ENDINGS.len());
    Ok(())
}

/// Lets a guest dial and the connection end; returns the words that the host heard before its end.
async fn ended(
    ending: Ending,
    addr: SocketAddr,
    host: &Member,
    at_host: &mut mpsc::UnboundedReceiver<Event>,
) -> io::Result<Option<String>> {
    let role = if ending == Ending::Panics { Role::ClumsyGuest } else { Role::Guest };
    let (guest, mut at_guest) = Member::start(role).await;
    let words = async {
        guest.node.connect(addr).await?;
        let Event::Connected(guest_addr) = next(at_host).await? else {
            return Err(io::Error::other("the host did not see the guest come"));
        };
        match ending {
            Ending::Disconnects => {
                guest.node.disconnect(addr).await;
            }
            Ending::ShutsDown => guest.node.shut_down().await,
            // Too long for the guest's decoder, and for its encoder; not for the host's encoder.
            Ending::CannotDecode => host.unicast_fast(guest_addr, Bytes::from(vec![b'?'; LONGEST_WORDS + 1]))?,
            Ending::CannotEncode => guest.unicast_fast(addr, Bytes::from(vec![b'?'; LONGEST_WORDS + 1]))?,
            Ending::HostHangsUp => {
                host.node.disconnect(guest_addr).await;
            }
            // The hook waits for this, so that the host has seen the guest come before it goes.
            Ending::Panics => host.unicast_fast(guest_addr, Bytes::from_static(b"boo!"))?,
            // Another process, elsewhere.
            Ending::Killed => {}
        }
        let Event::Spoke { origin, receipt } = next(&mut at_guest).await? else {
            return Err(io::Error::other("the guest reports something else than its last words"));
        };
        let receipt = if receipt.is_ok() { "taken" } else { "refused" };
        print!("{:36} {:15} {receipt:10} ", ending.name(), format!("{origin:?}"));
        until_the_end(at_host).await
    }
    .await;
    guest.node.shut_down().await;
    words
}

/// Lets a process dial, and kills it.
async fn killed(addr: SocketAddr, at_host: &mut mpsc::UnboundedReceiver<Event>) -> io::Result<Option<String>> {
    let mut child =
        Command::new(env::current_exe()?).arg(addr.to_string()).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    let connected = next(at_host).await;
    child.kill()?;
    child.wait()?;
    connected?;
    print!("{:36} {:15} {:10} ", Ending::Killed.name(), "no hook runs", "none");
    until_the_end(at_host).await
}

/// The other process: it would say its last words if somebody let it.
async fn be_a_guest(host: &str) -> io::Result<()> {
    let addr = host.parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "an address, please"))?;
    let (guest, _events) = Member::start(Role::Guest).await;
    let connected = guest.node.connect(addr).await;
    // Ends if it is not killed, but the host's process ends.
    let stdin = spawn_blocking(|| io::stdin().read(&mut [0])).await;
    guest.node.shut_down().await;
    connected?;
    stdin.map_err(io::Error::other)?.map(|_| ())
}

/// What the host hears before the end of the connection.
async fn until_the_end(at_host: &mut mpsc::UnboundedReceiver<Event>) -> io::Result<Option<String>> {
    let mut words = None;
    loop {
        match next(at_host).await? {
            Event::Heard(text) => words = Some(text),
            Event::Ended => return Ok(words),
            Event::Connected(_) | Event::Spoke { .. } => return Err(io::Error::other("another guest came")),
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Ending {
    Disconnects,
    ShutsDown,
    Panics,
    CannotDecode,
    CannotEncode,
    HostHangsUp,
    Killed,
}

impl Ending {
    fn name(self) -> &'static str {
        match self {
            Self::Disconnects => "the guest disconnects",
            Self::ShutsDown => "the guest's node shuts down",
            Self::Panics => "the guest's on_connect panics",
            Self::CannotDecode => "the guest cannot decode a message",
            Self::CannotEncode => "the guest cannot encode a message",
            Self::HostHangsUp => "the host hangs up",
            Self::Killed => "the guest's process is killed",
        }
    }

    fn arrives(self) -> bool {
        matches!(self, Self::Disconnects | Self::ShutsDown | Self::Panics | Self::CannotDecode)
    }
}

const ENDINGS: [Ending; 7] = [
    Ending::Disconnects,
    Ending::ShutsDown,
    Ending::Panics,
    Ending::CannotDecode,
    Ending::CannotEncode,
    Ending::HostHangsUp,
    Ending::Killed,
];

#[derive(Clone)]
struct Member {
    node: Node,
    role: Role,
    events: mpsc::UnboundedSender<Event>,
    /// Tells a guest's `on_connect` that the host has said something.
    startled: Arc<Notify>,
}

#[derive(Clone, Copy, PartialEq)]
enum Role {
    Host,
    Guest,
    ClumsyGuest,
}

enum Event {
    Connected(SocketAddr),
    Heard(String),
    Ended,
    Spoke { origin: DisconnectOrigin, receipt: io::Result<()> },
}

impl Member {
    async fn start(role: Role) -> (Self, mpsc::UnboundedReceiver<Event>) {
        let node = Node::new(Config {
            listener_addr: Some(([127, 0, 0, 1], 0).into()),
            // A guest may come while the host's end of the connection before is not quite over, and counts.
            max_connections_per_ip: 2,
            ..Default::default()
        });
        let (sender, events) = mpsc::unbounded_channel();
        let member = Self { node, role, events: sender, startled: Arc::default() };
        member.enable_reading().await;
        member.enable_writing().await;
        member.enable_on_connect().await;
        member.enable_on_disconnect().await;
        (member, events)
    }

    /// Sends the last words, and waits until the system has taken them.
    async fn say_last_words(&self, addr: SocketAddr, origin: DisconnectOrigin) -> io::Result<()> {
        let receipt = self.unicast(addr, Bytes::from(format!("farewell; {origin:?}")))?;
        receipt.await.map_err(|_| io::Error::other("the connection went away first"))?
    }

    fn note(&self, event: Event) {
        // Fails when nobody wants to know any more.
        let _ = self.events.send(event);
    }

    fn frames(&self) -> LengthDelimitedCodec {
        let longest = if self.role == Role::Host { 2 * LONGEST_WORDS } else { LONGEST_WORDS };
        LengthDelimitedCodec::builder().max_frame_length(longest).new_codec()
    }
}

impl Pea2Pea for Member {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl OnDisconnect for Member {
    /// The longest that an ending waits for the words to be taken.
    const TIMEOUT_MS: u64 = 2_000;

    async fn on_disconnect(&self, addr: SocketAddr, origin: DisconnectOrigin) {
        if self.role == Role::Host {
            return self.note(Event::Ended);
        }
        let receipt = self.say_last_words(addr, origin).await;
        self.note(Event::Spoke { origin, receipt });
    }
}

impl OnConnect for Member {
    async fn on_connect(&self, addr: SocketAddr) {
        match self.role {
            Role::Host => self.note(Event::Connected(addr)),
            Role::Guest => {}
            // A panic, without the message that would spoil the table.
            Role::ClumsyGuest => {
                self.startled.notified().await;
                std::panic::resume_unwind(Box::new("oops"))
            }
        }
    }
}

impl Reading for Member {
    type Message = BytesMut;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        self.frames()
    }

    async fn process_message(&self, _source: SocketAddr, message: Self::Message) {
        match self.role {
            Role::Host => self.note(Event::Heard(String::from_utf8_lossy(&message).into_owned())),
            Role::Guest | Role::ClumsyGuest => self.startled.notify_one(),
        }
    }
}

impl Writing for Member {
    type Message = Bytes;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        self.frames()
    }
}

async fn next(events: &mut mpsc::UnboundedReceiver<Event>) -> io::Result<Event> {
    let event = timeout(PATIENCE, events.recv())
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "an event did not come"))?;
    event.ok_or_else(|| io::Error::other("the member is gone"))
}

fn require(holds: bool, claim: &str) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::Error::other(format!("this went otherwise: {claim}"))) }
}

/// In bytes.
const LONGEST_WORDS: usize = 64;

/// How long any single step may take; it takes a few milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
