//! Chat: a room in the terminal, without a server, across machines.
//!
//! Shows a program that strangers may talk to: nicknames and identities are exchanged in the
//! handshake and validated there, members tell each other the addresses they know until everybody
//! is connected with everybody, and nothing that comes from the network can write to the terminal
//! before it was made harmless: a nickname or a line with escape sequences could otherwise erase
//! the screen or pose as somebody else.
//!
//! The first member listens, the others join it; whoever listens too can be joined by others.
//!
//! ```text
//! cargo run --example chat -- ada --listen 0.0.0.0:7000
//! cargo run --example chat -- bob --join 192.168.1.2:7000 --listen 0.0.0.0:0
//! cargo run --example chat -- carol --join 192.168.1.2:7000
//! ```
//!
//! `/peers` shows who is there; `/quit`, Ctrl-D or Ctrl-C leaves. Carol's terminal:
//!
//! ```text
//! * you are carol and cannot be joined; /peers shows who is there, /quit leaves
//! * ada is here (127.0.0.1:7000)
//! * bob is here (127.0.0.1:40919)
//! <ada> hello, you two
//! <bob> hi!
//! /peers
//!   ada at 127.0.0.1:7000
//!   bob at 127.0.0.1:40919
//! * bob left
//! /quit
//! * you left the room
//! ```
//!
//! The lines are not encrypted, and a nickname proves nothing: see the examples `tls` and `noise`.

mod common;

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    io,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use common::Colour;
use futures_util::future::join_all;
use parking_lot::Mutex;
use pea2pea::{
    Config, Connection, ConnectionSide, DisconnectOrigin, Node, Pea2Pea,
    protocols::{Handshake, OnConnect, OnDisconnect, Reading, Writing},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, lookup_host},
    sync::mpsc,
    time::{interval, timeout},
};
use tokio_util::codec::{Decoder, Encoder, LengthDelimitedCodec};

#[tokio::main]
async fn main() -> std::process::ExitCode {
    common::exit(if common::is_short() { rehearse().await } else { converse().await })
}

/// The full mode: one member, who talks with the terminal.
async fn converse() -> io::Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    let (room, mut events) = Room::open(&options.nick, options.listen).await?;
    let outcome = tokio::select! {
        outcome = room.talk_with_terminal(&options, &mut events) => outcome,
        () = common::ctrl_c() => Ok(()),
    };
    drop(events);
    room.node.shut_down().await;
    println!("* you left the room");
    outcome
}

/// One member of the room.
#[derive(Clone)]
struct Room {
    node: Node,
    me: Arc<Hello>,
    /// Whom the handshakes let in, by the address of the connection.
    members: Arc<Mutex<HashMap<SocketAddr, Member>>>,
    /// Bounded: while the terminal is behind, the peers that talk have to wait.
    events: mpsc::Sender<Event>,
}

#[derive(Clone)]
struct Member {
    id: u64,
    /// The nickname; with a part of the id if another member has the same one.
    name: String,
    /// Where this member can be joined.
    listens: Option<SocketAddr>,
}

enum Event {
    Joined(Member, SocketAddr),
    Left(Member),
    Said(Member, String),
}

impl Room {
    async fn open(nick: &str, listen: Option<SocketAddr>) -> io::Result<(Self, mpsc::Receiver<Event>)> {
        let node = Node::new(Config {
            listener_addr: listen,
            max_connections: MAX_MEMBERS,
            // A household, or this example's short mode, has one address for all its members.
            max_connections_per_ip: 16,
            ..Default::default()
        });
        let (sender, events) = mpsc::channel(256);
        let me = Arc::new(Hello { id: RandomState::new().hash_one(0), port: 0, nick: valid_nick(nick)? });
        let room = Self { node, me, members: Arc::default(), events: sender };

        room.enable_handshake().await;
        room.enable_reading().await;
        room.enable_writing().await;
        room.enable_on_connect().await;
        room.enable_on_disconnect().await;
        if listen.is_some() {
            room.node.toggle_listener().await?;
        }
        Ok((room, events))
    }

    async fn talk_with_terminal(&self, options: &Options, events: &mut mpsc::Receiver<Event>) -> io::Result<()> {
        let place = match self.node.listening_addr().await {
            Ok(addr) => format!("can be joined at {addr}"),
            Err(_) => "cannot be joined".to_owned(),
        };
        println!("* you are {} and {place}; /peers shows who is there, /quit leaves", self.me.nick);
        let mut lines = lines_of_stdin();
        for name in &options.join {
            // An address or a host name; the first of its addresses that answers will do.
            let mut outcome = Err(io::Error::other("no such host"));
            for addr in lookup_host(name).await? {
                outcome = self.node.connect(addr).await;
                if outcome.is_ok() {
                    break;
                }
            }
            if let Err(error) = outcome {
                println!("* {name} cannot be joined: {error}");
            }
        }
        loop {
            tokio::select! {
                Some(event) = events.recv() => self.show(event),
                line = lines.recv() => match line.as_deref().map(str::trim) {
                    None | Some("/quit") => return Ok(()),
                    Some("") => {}
                    Some("/peers") => self.show_peers(),
                    Some(command) if command.starts_with('/') => println!("* there is /peers and /quit"),
                    Some(text) => self.say(text),
                },
            }
        }
    }

    /// Sends a line to everybody.
    fn say(&self, text: &str) {
        let members: Vec<_> = self.members.lock().iter().map(|(addr, member)| (*addr, member.name.clone())).collect();
        if members.is_empty() {
            println!("* nobody is here to read that");
        }
        for (addr, name) in members {
            if let Err(error) = self.unicast_fast(addr, Wire::Text(text.chars().take(MAX_TEXT).collect())) {
                println!("* {name} did not get that: {error}");
            }
        }
    }

    fn show(&self, event: Event) {
        let paint = |member: &Member| Colour::of(member.id as usize).paint(&member.name);
        match event {
            Event::Joined(member, addr) => {
                println!("* {} is here ({})", paint(&member), member.listens.unwrap_or(addr));
            }
            Event::Left(member) => println!("* {} left", paint(&member)),
            Event::Said(member, text) => println!("<{}> {text}", paint(&member)),
        }
    }

    fn show_peers(&self) {
        let members = self.members.lock();
        let mut lines: Vec<_> = members
            .iter()
            .map(|(addr, member)| format!("  {} at {}", member.name, member.listens.unwrap_or(*addr)))
            .collect();
        lines.sort();
        println!("{}", if lines.is_empty() { "  nobody yet".to_owned() } else { lines.join("\n") });
    }

    /// Dials a member that somebody told of, unless it is here already.
    async fn meet(&self, addr: SocketAddr) {
        let is_known = self.members.lock().values().any(|member| member.listens == Some(addr));
        if !is_known && addr.port() != 0 && !addr.ip().is_unspecified() && !addr.ip().is_multicast() {
            // It may be gone, or have dialled us at the same moment; a member who stays away is no error.
            let _ = self.node.connect(addr).await;
        }
    }

    /// Takes a member in. Of two connections with the same member, the one that gets here first is kept: `false` for
    /// the second. Of the two ends, only the one with the smaller id decides that, and tells the other.
    fn admit(&self, addr: SocketAddr, hello: Hello, decides: bool) -> bool {
        let mut members = self.members.lock();
        // A handshake that failed after this point has left its member behind, without a connection.
        // Asked in this order: one that goes live in between is found by the second question.
        members.retain(|addr, _| self.node.is_connecting(*addr) || self.node.is_connected(*addr));
        if decides && members.values().any(|member| member.id == hello.id) {
            return false;
        }
        let is_taken = hello.nick == self.me.nick || members.values().any(|member| member.name == hello.nick);
        let name = if is_taken { format!("{}#{:04x}", hello.nick, hello.id as u16) } else { hello.nick };
        let listens = (hello.port != 0).then_some(SocketAddr::new(addr.ip(), hello.port));
        members.insert(addr, Member { id: hello.id, name, listens });
        true
    }

    fn member(&self, addr: SocketAddr) -> Option<Member> {
        self.members.lock().get(&addr).cloned()
    }
}

impl Pea2Pea for Room {
    fn node(&self) -> &Node {
        &self.node
    }
}

/// Both sides say who they are; then the one with the smaller id says whether this connection is to be kept.
impl Handshake for Room {
    async fn perform_handshake(&self, mut conn: Connection) -> io::Result<Connection> {
        let addr = conn.addr();
        let port = self.node.listening_addr().await.map_or(0, |addr| addr.port());
        let stream = self.borrow_stream(&mut conn);
        stream.set_nodelay(true)?;
        stream.write_all(&Hello { port, ..Hello::clone(&self.me) }.to_bytes()).await?;
        let theirs = Hello::read(stream).await?;

        let keep = if self.me.id < theirs.id {
            let keep = self.admit(addr, theirs, true);
            stream.write_u8(keep.into()).await?;
            keep
        } else if self.me.id > theirs.id {
            stream.read_u8().await? == 1 && self.admit(addr, theirs, false)
        } else {
            false // This is the room itself.
        };
        if keep { Ok(conn) } else { Err(io::Error::new(io::ErrorKind::AlreadyExists, "already in the room")) }
    }
}

/// What a member says about itself in the handshake: `MAGIC`, id, port, length of the nickname, nickname.
#[derive(Clone)]
struct Hello {
    id: u64,
    /// Where it listens, at the address it is seen with; 0 if it does not.
    port: u16,
    nick: String,
}

impl Hello {
    fn to_bytes(&self) -> BytesMut {
        let mut bytes = BytesMut::new();
        bytes.put_slice(MAGIC);
        bytes.put_u64(self.id);
        bytes.put_u16(self.port);
        bytes.put_u8(self.nick.len() as u8);
        bytes.put_slice(self.nick.as_bytes());
        bytes
    }

    async fn read(stream: &mut TcpStream) -> io::Result<Self> {
        let mut magic = [0; MAGIC.len()];
        stream.read_exact(&mut magic).await?;
        if &magic != MAGIC {
            return Err(invalid("the other side is no chat room"));
        }
        let (id, port) = (stream.read_u64().await?, stream.read_u16().await?);
        let mut nick = vec![0; stream.read_u8().await?.into()];
        stream.read_exact(&mut nick).await?;
        let nick = valid_nick(&String::from_utf8(nick).map_err(|_| invalid("the nickname is not UTF-8"))?)?;
        Ok(Self { id, port, nick })
    }
}

impl OnConnect for Room {
    async fn on_connect(&self, addr: SocketAddr) {
        let Some(newcomer) = self.member(addr) else { return };
        // It is told whom it can dial. Those who cannot be dialled are told of it, so that they dial it.
        let others = self.members.lock().clone();
        let reachable = others.values().filter_map(|other| other.listens.filter(|it| Some(*it) != newcomer.listens));
        let reachable = reachable.filter(|it| addr.ip().is_loopback() || !it.ip().is_loopback()).collect();
        let _ = self.unicast_fast(addr, Wire::Members(reachable));
        for (other, member) in &others {
            if let (Some(listens), None) = (newcomer.listens, member.listens) {
                let _ = self.unicast_fast(*other, Wire::Members(vec![listens]));
            }
        }
        let _ = self.events.send(Event::Joined(newcomer, addr)).await;

        // Whoever is silent for IDLE_TIMEOUT_MS is taken for gone. This task ends with the connection.
        let mut pulse = interval(Duration::from_secs(20));
        loop {
            pulse.tick().await;
            let _ = self.unicast_fast(addr, Wire::Ping);
        }
    }
}

impl OnDisconnect for Room {
    async fn on_disconnect(&self, addr: SocketAddr, _origin: DisconnectOrigin) {
        let member = self.members.lock().remove(&addr);
        if let Some(member) = member {
            let _ = self.events.send(Event::Left(member)).await;
        }
    }
}

impl Reading for Room {
    const IDLE_TIMEOUT_MS: u64 = 60_000;
    type Message = Wire;
    type Codec = WireCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        WireCodec::default()
    }

    async fn process_message(&self, source: SocketAddr, message: Wire) {
        match message {
            Wire::Ping => {}
            // Whoever names addresses waits until they have answered or not, so nobody can make us dial without end.
            Wire::Members(addrs) => drop(join_all(addrs.into_iter().map(|addr| self.meet(addr))).await),
            Wire::Text(text) => {
                if let Some(member) = self.member(source) {
                    let _ = self.events.send(Event::Said(member, harmless(&text))).await;
                }
            }
        }
    }
}

impl Writing for Room {
    type Message = Wire;
    type Codec = WireCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        WireCodec::default()
    }
}

/// What members send to each other; on the wire, each behind its length, the first byte is the kind.
enum Wire {
    Ping,
    Text(String),
    Members(Vec<SocketAddr>),
}

struct WireCodec(LengthDelimitedCodec);

impl Default for WireCodec {
    fn default() -> Self {
        Self(LengthDelimitedCodec::builder().max_frame_length(4096).new_codec())
    }
}

/// Bytes that are no message are an error, and an error ends the connection.
impl Decoder for WireCodec {
    type Item = Wire;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<Wire>> {
        let Some(mut frame) = self.0.decode(src)? else { return Ok(None) };
        let kind = frame.try_get_u8().map_err(|_| invalid("a message without a kind"))?;
        let text = std::str::from_utf8(&frame).map_err(|_| invalid("a message that is not UTF-8"))?;
        Ok(Some(match kind {
            b'P' => Wire::Ping,
            b'T' => Wire::Text(text.chars().take(MAX_TEXT).collect()),
            b'M' => Wire::Members(
                text.lines()
                    .take(MAX_MEMBERS.into())
                    .map(|line| line.parse().map_err(|_| invalid("a member without an address")))
                    .collect::<io::Result<_>>()?,
            ),
            _ => return Err(invalid("a message of an unknown kind")),
        }))
    }
}

impl Encoder<Wire> for WireCodec {
    type Error = io::Error;

    fn encode(&mut self, message: Wire, dst: &mut BytesMut) -> io::Result<()> {
        let frame = match message {
            Wire::Ping => "P".to_owned(),
            Wire::Text(text) => format!("T{text}"),
            Wire::Members(addrs) => addrs.iter().fold("M".to_owned(), |list, addr| format!("{list}{addr}\n")),
        };
        self.0.encode(Bytes::from(frame), dst)
    }
}

/// A nickname is 1 to 16 letters, digits, `-` or `_`, of any script; nothing else could be printed safely.
fn valid_nick(nick: &str) -> io::Result<String> {
    let is_valid = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    if (1..=16).contains(&nick.chars().count()) && nick.chars().all(is_valid) {
        Ok(nick.to_owned())
    } else {
        Err(invalid("a nickname has 1 to 16 letters, digits, - or _"))
    }
}

/// The text without the characters that command a terminal, hide, or turn the direction of writing.
fn harmless(text: &str) -> String {
    let is_harmful = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    text.chars().map(|c| if is_harmful(c) { '\u{fffd}' } else { c }).collect()
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// The lines that are typed. Reading them blocks, and cannot be given up, so it has a thread that ends with the process.
fn lines_of_stdin() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                break;
            }
        }
    });
    lines
}

#[derive(Default)]
struct Options {
    nick: String,
    listen: Option<SocketAddr>,
    join: Vec<String>,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> io::Result<Self> {
        let usage = || io::Error::other("usage: chat NICK [--listen ADDR:PORT] [--join HOST:PORT]...");
        let mut options = Self { nick: args.next().ok_or_else(usage)?, ..Self::default() };
        while let Some(option) = args.next() {
            let value = args.next().ok_or_else(usage)?;
            match option.as_str() {
                "--listen" => options.listen = Some(value.parse().map_err(|_| usage())?),
                "--join" => options.join.push(value),
                _ => return Err(usage()),
            }
        }
        if options.listen.is_none() && options.join.is_empty() {
            return Err(io::Error::other("without --listen and --join nobody will ever be here"));
        }
        Ok(options)
    }
}

/// The short mode: three members of one process meet and talk, and somebody hostile fails to disturb them.
async fn rehearse() -> io::Result<()> {
    let loopback: SocketAddr = ([127, 0, 0, 1], 0).into();
    let (ada, mut ada_saw) = Room::open("ada", Some(loopback)).await?;
    let (bob, mut bob_saw) = Room::open("bob", Some(loopback)).await?;
    let (carol, mut carol_saw) = Room::open("carol", None).await?;
    let rooms = [&ada, &bob, &carol];
    let mut diaries = [&mut ada_saw, &mut bob_saw, &mut carol_saw];
    let outcome = rehearse_with(rooms, &mut diaries).await;
    for room in rooms {
        room.node.shut_down().await;
    }
    outcome
}

async fn rehearse_with(rooms: [&Room; 3], diaries: &mut [&mut mpsc::Receiver<Event>; 3]) -> io::Result<()> {
    // Bob and carol know ada only, and learn from her of each other.
    let ada_addr = rooms[0].node.listening_addr().await?;
    rooms[1].node.connect(ada_addr).await?;
    rooms[2].node.connect(ada_addr).await?;
    for diary in diaries.iter_mut() {
        for _ in 0..2 {
            next(diary, |event| matches!(event, Event::Joined(..)).then_some(())).await?;
        }
    }
    println!("all three are connected with both others, though two knew only one address");

    for (speaker, room) in rooms.iter().enumerate() {
        let said = format!("I am {}", room.me.nick);
        room.say(&said);
        for (_, diary) in diaries.iter_mut().enumerate().filter(|(listener, _)| *listener != speaker) {
            let (name, text) = next(diary, as_said).await?;
            require(name == room.me.nick && text == said, "a line arrives as it was said, with its author")?;
        }
    }
    println!("each of the 3 lines reached both others, with the name of its author");

    let mut hostile = TcpStream::connect(ada_addr).await?;
    let hello = Hello { id: u64::MAX, port: 0, nick: "\x1b[2Jada".to_owned() };
    hostile.write_all(&hello.to_bytes()).await?;
    // Ada says who she is, and then hangs up instead of letting this in; with a reset if something was unread.
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, hostile.read_to_end(&mut rest)).await?;
    require(rest.len() == rooms[0].me.to_bytes().len(), "a nickname with an escape sequence is refused")?;
    println!("a nickname with an escape sequence is refused");

    let mut hostile = TcpStream::connect(ada_addr).await?;
    hostile.write_all(&Hello { nick: "bob".to_owned(), ..hello }.to_bytes()).await?;
    let mut line = BytesMut::new();
    WireCodec::default().encode(Wire::Text("\x1b[2J\x1b]0;title\x07 \u{202e}hello".to_owned()), &mut line)?;
    hostile.write_all(&line).await?;
    let (name, text) = next(diaries[0], as_said).await?;
    require(!text.contains(char::is_control) && !text.contains('\u{202e}'), "a line cannot command the terminal")?;
    require(name == "bob#ffff", "two members with one nickname can be told apart")?;
    println!("a line with escape sequences is shown as <{name}> {text}");

    rooms[1].node.shut_down().await;
    for listener in [0, 2] {
        let left = |event| if let Event::Left(member) = event { Some(member.name) } else { None };
        while next(diaries[listener], left).await? != "bob" {}
    }
    println!("both others saw bob leave");
    Ok(())
}

/// The next event of the kind that is asked for.
async fn next<T>(diary: &mut mpsc::Receiver<Event>, pick: impl Fn(Event) -> Option<T>) -> io::Result<T> {
    let wait = async {
        while let Some(event) = diary.recv().await {
            if let Some(picked) = pick(event) {
                return Ok(picked);
            }
        }
        Err(io::Error::other("the room is gone"))
    };
    timeout(PATIENCE, wait).await.map_err(|_| io::Error::other("what was waited for did not happen"))?
}

fn as_said(event: Event) -> Option<(String, String)> {
    if let Event::Said(member, text) = event { Some((member.name, text)) } else { None }
}

fn require(holds: bool, claim: &str) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::Error::other(format!("this does not hold: {claim}"))) }
}

const MAGIC: &[u8; 12] = b"pea2pea-chat";
/// As many as one terminal can follow.
const MAX_MEMBERS: u16 = 64;
/// In characters, so at most 3,000 bytes: well within a frame.
const MAX_TEXT: usize = 750;
const PATIENCE: Duration = Duration::from_secs(10);
