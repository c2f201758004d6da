//! TLS: nodes with certificates on both sides, and anything else that speaks TLS, such as `openssl s_client`.
//!
//! Shows how a handshake wraps the stream: it takes the TCP stream out of the connection, does TLS 1.3 over it, and
//! returns the encrypted stream in its place; the codecs see plain text and know nothing of it. Each side proves its name
//! with a certificate of a small authority that is made at start.
//!
//! Run it with
//!
//! ```text
//! cargo run --manifest-path examples/secure/Cargo.toml --release --bin tls
//! ```
//!
//! You will see the following, with other port numbers. Then it is your turn: ada goes on listening until you press
//! Ctrl-C, and prints a command with which you can talk to her as bob. The exit code is 0. With `EXAMPLE_SHORT=1` it ends
//! after the story.
//!
//! ```text
//! 1. bob dials ada, whose certificate has to say so
//!    127.0.0.1:40192 has proven to be bob
//!    127.0.0.1:42465 has proven to be ada
//!    verified: each knows the name in the other's certificate
//! 2. they talk
//!    a line arrives: "what is under the oak?"
//!    a line arrives: "the gold"
//!    1727 bytes have passed somebody in the middle
//!    verified: no plaintext on the wire
//! 3. a bit is flipped in the middle
//!    verified: the connection ended, and the line was not delivered
//! 4. bob dials the same address for carol
//!    bob   has no connection: invalid peer certificate: certificate not valid for name "carol"; certificate is only ...
//!    verified: bob does not talk to ada when he means carol
//! 5. somebody without a certificate dials ada
//!    who   has no connection: received fatal alert: CertificateRequired
//!    verified: a stranger is refused
//! 6. eve dials ada with a certificate that her own authority has signed for "bob"
//!    eve   has no connection: invalid peer certificate: BadSignature
//!    verified: another authority counts for nothing
//! 7. somebody dials ada and speaks plain text
//!    ada answers [15, 03, 03, 00, 02, 02, 32], which is an alert of TLS at most, and hangs up
//!    verified: without TLS nobody is let in
//! 8. your turn: be bob, from another terminal (Ctrl-C ends ada)
//!    openssl s_client -connect 127.0.0.1:32839 -servername ada -verify_hostname ada -verify_return_error -quiet ...
//!    ada   bob is connected from 127.0.0.1:48840
//!    ada   is told "hello from openssl"
//!    ada   127.0.0.1:48840 has gone
//! the end
//! ```

#[path = "../../../common/mod.rs"]
mod common;

use std::{
    collections::HashMap,
    fmt, fs, io,
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::BytesMut;
use common::Colour;
use pea2pea::{
    Config, Connection, ConnectionSide, DisconnectOrigin, Node, Pea2Pea,
    protocols::{Handshake, OnDisconnect, Reading, Writing},
};
use pea2pea_secure::{
    relay::Relay,
    tls::{Authority, Credentials, Tls},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    task::yield_now,
    time::timeout,
};
use tokio_util::codec::{Decoder, Encoder, LinesCodec, LinesCodecError};

#[tokio::main]
async fn main() -> ExitCode {
    let mut members = Members::default();
    let outcome = everything(&mut members).await;
    for member in &members.0 {
        member.node.shut_down().await;
    }
    let left: usize = members.0.iter().map(|member| member.node.num_connected()).sum();
    common::exit(
        outcome.and_then(|()| require(left == 0, "nobody is connected any more")).map(|()| println!("the end")),
    )
}

async fn everything(members: &mut Members) -> io::Result<()> {
    let authority = Authority::new("the authority of this example")?;
    let ada = authority.issue("ada")?;
    let (ada, mut ada_saw) = members.start("ada", Tls::new(&authority, Some(&ada))?).await;
    let there = in_time("the listener", ada.node.toggle_listener())
        .await??
        .ok_or_else(|| io::Error::other("the listener was switched off instead of on"))?;
    let bob = authority.issue("bob")?;
    story(members, &authority, &bob, &ada, &mut ada_saw, there).await?;
    if common::is_short() { Ok(()) } else { your_turn(&authority, &bob, &ada, &mut ada_saw, there).await }
}

async fn story(
    members: &mut Members,
    authority: &Authority,
    bobs: &Credentials,
    ada: &Member,
    ada_saw: &mut Diary,
    there: SocketAddr,
) -> io::Result<()> {
    println!("1. bob dials ada, whose certificate has to say so");
    let (bob, mut bob_saw) = members.start("bob", Tls::new(authority, Some(bobs))?).await;
    let middle = Relay::start(there).await?;
    in_time("the dial", bob.dial(middle.addr, "ada")).await??;
    let bob_addr = ada_saw.connected("bob").await?;
    bob_saw.connected("ada").await?;
    verify(true, "each knows the name in the other's certificate")?;

    println!("2. they talk");
    bob.send(middle.addr, "what is under the oak?").await?;
    ada_saw.line("what is under the oak?").await?;
    ada.send(bob_addr, "the gold").await?;
    bob_saw.line("the gold").await?;
    let recording = middle.recording();
    let is_readable = |text: &[u8]| recording.windows(text.len()).any(|window| window == text);
    println!("   {} bytes have passed somebody in the middle", recording.len());
    require(recording.len() > 500, "the recording is complete")?;
    verify(!is_readable(b"under the oak") && !is_readable(b"the gold"), "no plaintext on the wire")?;

    println!("3. a bit is flipped in the middle");
    middle.flip_a_bit();
    bob.send(middle.addr, "really?").await?;
    ada_saw.end().await?;
    bob_saw.end().await?;
    verify(true, "the connection ended, and the line was not delivered")?;

    println!("4. bob dials the same address for carol");
    let error = refused(&bob, there, "carol").await?;
    verify(error.to_string().contains("not valid for name"), "bob does not talk to ada when he means carol")?;

    println!("5. somebody without a certificate dials ada");
    let (stranger, _saw) = members.start("who", Tls::new(authority, None)?).await;
    let error = refused(&stranger, there, "ada").await?;
    verify(error.to_string().contains("CertificateRequired"), "a stranger is refused")?;

    println!("6. eve dials ada with a certificate that her own authority has signed for \"bob\"");
    let eves = Authority::new("the authority of this example")?;
    let eve = Tls::new(&eves, Some(&eves.issue("bob")?))?;
    let (eve, _saw) = members.start("eve", eve).await;
    refused(&eve, there, "ada").await?;
    ada.is_alone().await?;
    verify(true, "another authority counts for nothing")?;

    println!("7. somebody dials ada and speaks plain text");
    let mut plain = in_time("the dial", TcpStream::connect(there)).await??;
    plain.write_all(b"what is under the oak?\n").await?;
    let mut answer = Vec::new();
    // A reset is an answer too.
    let _reset = in_time("the end", plain.read_to_end(&mut answer)).await?;
    println!("   ada answers {answer:02x?}, which is an alert of TLS at most, and hangs up");
    let is_alert = answer.is_empty() || (answer[0] == 0x15 && answer.len() == 7);
    ada.is_alone().await?;
    verify(is_alert, "without TLS nobody is let in")
}

/// Ada repeats what she is told, until Ctrl-C.
async fn your_turn(
    authority: &Authority,
    bob: &Credentials,
    ada: &Member,
    ada_saw: &mut Diary,
    there: SocketAddr,
) -> io::Result<()> {
    let files = Files::write(authority, bob)?;
    println!("8. your turn: be bob, from another terminal (Ctrl-C ends ada)");
    println!("   {}", files.command(there));
    loop {
        let event = tokio::select! {
            () = common::ctrl_c() => return Ok(()),
            event = ada_saw.0.recv() => event.ok_or_else(|| io::Error::other("ada is gone"))?,
        };
        match event {
            Event::Connected(addr, name) => ada.say(format_args!("{name} is connected from {addr}")),
            Event::Line(addr, line) => {
                ada.say(format_args!("is told {line:?}"));
                // Whoever does not read the answers, or has gone, does not get them.
                let _ = ada.unicast_fast(addr, format!("you said: {line}"));
            }
            Event::Ended(addr) => ada.say(format_args!("{addr} has gone")),
        }
    }
}

/// What another program needs to be bob; gone when this is dropped.
struct Files(PathBuf);

impl Files {
    fn write(authority: &Authority, bob: &Credentials) -> io::Result<Self> {
        let directory = std::env::temp_dir().join(format!("pea2pea-tls-{}", std::process::id()));
        fs::create_dir(&directory)?;
        let files = Self(directory);
        fs::write(files.0.join("authority.pem"), authority.pem())?;
        fs::write(files.0.join("bob.pem"), bob.certificate_pem())?;
        fs::write(files.0.join("bob.key"), bob.key_pem())?;
        Ok(files)
    }

    fn command(&self, there: SocketAddr) -> String {
        let directory = self.0.display();
        format!(
            "openssl s_client -connect {there} -servername ada -verify_hostname ada -verify_return_error -quiet \
             -CAfile {directory}/authority.pem -cert {directory}/bob.pem -key {directory}/bob.key"
        )
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} cannot be removed: {error}", self.0.display());
        }
    }
}

/// All that were started, whatever became of the story.
#[derive(Default)]
struct Members(Vec<Member>);

impl Members {
    async fn start(&mut self, name: &str, tls: Tls) -> (Member, Diary) {
        let node = Node::new(Config {
            name: Some(name.to_owned()),
            listener_addr: Some(([127, 0, 0, 1], 0).into()),
            max_connections_per_ip: 10,
            ..Default::default()
        });
        let (sender, events) = mpsc::unbounded_channel();
        let member = Member { node, tls, expected: Arc::default(), events: sender };
        member.enable_handshake().await;
        member.enable_reading().await;
        member.enable_writing().await;
        member.enable_on_disconnect().await;
        self.0.push(member.clone());
        (member, Diary(events))
    }
}

/// A user of the library: the node, its certificate, and whom it expects where.
#[derive(Clone)]
struct Member {
    node: Node,
    tls: Tls,
    expected: Arc<Mutex<HashMap<SocketAddr, String>>>,
    events: mpsc::UnboundedSender<Event>,
}

impl Member {
    /// Dials somebody by address and name; the handshake knows only the address.
    async fn dial(&self, addr: SocketAddr, name: &str) -> io::Result<()> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner).insert(addr, name.to_owned());
        self.node.connect(addr).await
    }

    /// Sends, and waits until the operating system has taken it.
    async fn send(&self, addr: SocketAddr, line: &str) -> io::Result<()> {
        let receipt = self.unicast(addr, line.to_owned())?;
        in_time("a receipt", receipt).await?.map_err(|_| io::Error::from(io::ErrorKind::NotConnected))?
    }

    /// Waits until there is no connection: an end is told of while the connection is still there.
    async fn is_alone(&self) -> io::Result<()> {
        in_time("the end of the last connection", async {
            while self.node.num_connected() > 0 {
                yield_now().await;
            }
        })
        .await
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
        let addr = conn.addr();
        let stream = self.take_stream(&mut conn);
        stream.set_nodelay(true)?;
        let (stream, name) = match conn.side() {
            ConnectionSide::Initiator => self.tls.accept(stream).await?,
            ConnectionSide::Responder => {
                let name = self.expected.lock().unwrap_or_else(PoisonError::into_inner).get(&addr).cloned();
                let name = name.ok_or_else(|| io::Error::other("nobody is expected there"))?;
                (self.tls.dial(stream, &name).await?, name)
            }
        };
        self.return_stream(&mut conn, stream);
        self.note(Event::Connected(addr, name));
        Ok(conn)
    }
}

impl Reading for Member {
    type Message = String;
    type Codec = Lines;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Lines {
        Lines::default()
    }

    async fn process_message(&self, source: SocketAddr, line: String) {
        self.note(Event::Line(source, line));
    }
}

impl Writing for Member {
    type Message = String;
    type Codec = Lines;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Lines {
        Lines::default()
    }
}

impl OnDisconnect for Member {
    async fn on_disconnect(&self, addr: SocketAddr, _origin: DisconnectOrigin) {
        self.note(Event::Ended(addr));
    }
}

/// Lines of at most 1 KiB, with the errors of the kernel instead of the codec's own.
struct Lines(LinesCodec);

impl Default for Lines {
    fn default() -> Self {
        Self(LinesCodec::new_with_max_length(1024))
    }
}

impl Decoder for Lines {
    type Item = String;
    type Error = io::Error;

    fn decode(&mut self, input: &mut BytesMut) -> io::Result<Option<String>> {
        self.0.decode(input).map_err(lines_error)
    }

    fn decode_eof(&mut self, input: &mut BytesMut) -> io::Result<Option<String>> {
        self.0.decode_eof(input).map_err(lines_error)
    }
}

impl Encoder<String> for Lines {
    type Error = io::Error;

    fn encode(&mut self, line: String, output: &mut BytesMut) -> io::Result<()> {
        self.0.encode(line, output).map_err(lines_error)
    }
}

fn lines_error(error: LinesCodecError) -> io::Error {
    match error {
        LinesCodecError::MaxLineLengthExceeded => {
            io::Error::new(io::ErrorKind::InvalidData, "a line of more than 1 KiB")
        }
        LinesCodecError::Io(error) => error,
    }
}

enum Event {
    Connected(SocketAddr, String),
    Line(SocketAddr, String),
    Ended(SocketAddr),
}

/// The events of one member, in the order in which they happened.
struct Diary(mpsc::UnboundedReceiver<Event>);

impl Diary {
    async fn next(&mut self) -> io::Result<Event> {
        in_time("an event", self.0.recv()).await?.ok_or_else(|| io::Error::other("the member is gone"))
    }

    async fn connected(&mut self, expected: &str) -> io::Result<SocketAddr> {
        match self.next().await? {
            Event::Connected(addr, name) => {
                println!("   {addr} has proven to be {name}");
                require(name == expected, &format!("it is {expected}"))?;
                Ok(addr)
            }
            _ => Err(io::Error::other("something else than a connection")),
        }
    }

    async fn line(&mut self, expected: &str) -> io::Result<()> {
        match self.next().await? {
            Event::Line(_, line) => {
                println!("   a line arrives: {line:?}");
                require(line == expected, "it is as it was sent")
            }
            _ => Err(io::Error::other("something else than a line")),
        }
    }

    async fn end(&mut self) -> io::Result<()> {
        require(matches!(self.next().await?, Event::Ended(_)), "the connection ends")
    }
}

async fn refused(dialler: &Member, addr: SocketAddr, name: &str) -> io::Result<io::Error> {
    match in_time("the dial", dialler.dial(addr, name)).await? {
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

/// How long any single step may take; all of them together take a second.
const PATIENCE: Duration = Duration::from_secs(5);
