//! Reconnect: a link that comes back, however often the other side goes away.
//!
//! Shows the three things a lasting connection needs: noticing the end (a closed stream, or silence
//! where there should be a pulse), trying again with a delay that doubles and has jitter, so that a
//! thousand clients of a restarted server do not all come back in the same instant, and going back to
//! the short delay only after a connection has proved itself.
//!
//! ```text
//! cargo run --example reconnect                     # a server in this process, restarted every few seconds
//! cargo run --example reconnect -- --serve 127.0.0.1:7100
//! cargo run --example reconnect -- 127.0.0.1:7100   # stays connected with that server, whatever you do to it
//! ```
//!
//! The last two run until Ctrl-C, in two terminals. You will see, with other times (this is the short mode):
//!
//! ```text
//! connected
//! pulse 0
//! -- the server goes away: 1 of 3
//! the connection ended; origin: Reading
//! next dial in 34ms (at most 50ms)
//! Connection refused (os error 111); next dial in 82ms (at most 100ms)
//! Connection refused (os error 111); next dial in 122ms (at most 200ms)
//! Connection refused (os error 111); next dial in 383ms (at most 400ms)
//! -- the server is back
//! connected
//! pulse 0
//! ...
//! 3 restarts of the server: the link came back 3 times, after 9 dials in vain
//! ```

mod common;

use std::{
    hash::{BuildHasher, RandomState},
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use common::Colour;
use pea2pea::{
    Config, ConnectionSide, DisconnectOrigin, Node, Pea2Pea, ShuttingDown,
    protocols::{OnConnect, OnDisconnect, Reading, Writing},
};
use tokio::{
    sync::{Notify, mpsc},
    time::{interval, sleep, timeout},
};
use tokio_util::codec::LengthDelimitedCodec;

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    common::exit(match args[..] {
        [] => demonstrate(if common::is_short() { 3 } else { 5 }).await,
        ["--serve", addr] => serve(addr).await,
        [addr] => stay_connected(addr).await,
        _ => Err(io::Error::other("usage: reconnect [ADDR | --serve ADDR]")),
    })
}

async fn serve(addr: &str) -> io::Result<()> {
    let server = Server::start(parse(addr)?).await?;
    println!("serving at {addr}; Ctrl-C ends");
    common::ctrl_c().await;
    server.node.shut_down().await;
    println!("the server is gone");
    Ok(())
}

async fn stay_connected(addr: &str) -> io::Result<()> {
    let (link, mut events) = Link::start(parse(addr)?).await;
    // What happens is shown by the link itself.
    let forget = async { while events.recv().await.is_some() {} };
    tokio::select! {
        () = link.keep_up() => {}
        () = forget => {}
        () = common::ctrl_c() => {}
    }
    link.node.shut_down().await;
    println!("the link is given up");
    Ok(())
}

/// The whole story in one process: the server goes away and comes back at the same address, again and again.
async fn demonstrate(restarts: u32) -> io::Result<()> {
    let mut server = Server::start(([127, 0, 0, 1], 0).into()).await?;
    let addr = server.node.listening_addr().await?;
    let (link, mut events) = Link::start(addr).await;
    let outcome = tokio::select! {
        outcome = restart(&mut server, addr, restarts, &link, &mut events) => outcome,
        () = link.keep_up() => Err(io::Error::other("the link gave up")),
        () = common::ctrl_c() => Err(io::Error::other("interrupted")),
    };
    link.node.shut_down().await;
    server.node.shut_down().await;
    outcome
}

async fn restart(
    server: &mut Server,
    addr: SocketAddr,
    restarts: u32,
    link: &Link,
    events: &mut mpsc::UnboundedReceiver<Event>,
) -> io::Result<()> {
    let mut in_vain = 0;
    for round in 0..=restarts {
        // Whatever it took: after this, messages come through again.
        let (mut waits, mut is_connected, mut is_heard) = (0, false, false);
        while !(is_connected && is_heard) {
            match next(events).await? {
                Event::Connected => is_connected = true,
                Event::Pulse(_) => is_heard = true,
                Event::Waiting { delay, ceiling, .. } => {
                    require(ceiling == ceiling_after(waits), "the ceiling doubles each time, and begins anew")?;
                    require(delay >= ceiling / 2 && delay <= ceiling, "the jitter is between the half and all of it")?;
                    waits += 1;
                }
                Event::Ended(_) => {}
            }
        }
        // The first wait followed the end of the connection, each other one a dial in vain.
        in_vain += waits.saturating_sub(1);
        require(link.node.num_connected() == 1, "there is one connection, and no other")?;
        if round == restarts {
            break;
        }
        println!("{}", Colour::Red.paint(format_args!("-- the server goes away: {} of {restarts}", round + 1)));
        server.node.shut_down().await;
        while !matches!(next(events).await?, Event::Ended(_)) {}
        // Long enough for some dials to fail.
        sleep(if common::is_short() { Duration::from_millis(400) } else { Duration::from_secs(3) }).await;
        *server = Server::start(addr).await?;
        println!("{}", Colour::Green.paint("-- the server is back"));
    }
    require(in_vain >= restarts, "dials failed while the server was away")?;
    println!("{restarts} restarts of the server: the link came back {restarts} times, after {in_vain} dials in vain");
    Ok(())
}

/// The side that stays connected.
#[derive(Clone)]
struct Link {
    node: Node,
    addr: SocketAddr,
    /// Raised by `on_disconnect`, once for each connection.
    ended: Arc<Notify>,
    /// Whether a message came through the present connection.
    is_proven: Arc<AtomicBool>,
    events: mpsc::UnboundedSender<Event>,
}

enum Event {
    Connected,
    Pulse(u64),
    Ended(DisconnectOrigin),
    /// Until the next dial; the reason is that of the last one, if it failed.
    Waiting {
        reason: Option<io::Error>,
        delay: Duration,
        ceiling: Duration,
    },
}

impl Event {
    fn show(&self) {
        match self {
            Self::Connected => println!("{}", Colour::Green.paint("connected")),
            Self::Pulse(number) if number % 10 == 0 => println!("pulse {number}"),
            Self::Pulse(_) => {}
            Self::Ended(origin) => println!("{} {origin:?}", Colour::Red.paint("the connection ended; origin:")),
            Self::Waiting { reason, delay, ceiling } => {
                let reason = reason.as_ref().map(|reason| format!("{reason}; ")).unwrap_or_default();
                println!("{reason}next dial in {delay:.0?} (at most {ceiling:?})");
            }
        }
    }
}

impl Link {
    async fn start(addr: SocketAddr) -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (sender, events) = mpsc::unbounded_channel();
        let node = Node::new(Config { listener_addr: None, ..Default::default() });
        let link = Self { node, addr, ended: Arc::default(), is_proven: Arc::default(), events: sender };
        link.enable_reading().await;
        link.enable_on_disconnect().await;
        (link, events)
    }

    /// Connects, and connects again, until the node is shut down.
    async fn keep_up(&self) {
        let mut failures = 0;
        loop {
            let reason = match self.node.connect(self.addr).await {
                Ok(()) => {
                    self.note(Event::Connected);
                    self.ended.notified().await;
                    // A server that accepts and hangs up at once is no better than one that is away.
                    if self.is_proven.swap(false, Relaxed) {
                        failures = 0;
                    }
                    None
                }
                Err(error) if ShuttingDown::caused(&error) => return,
                Err(error) => Some(error),
            };
            let ceiling = ceiling_after(failures);
            let delay = ceiling.mul_f64(0.5 + 0.5 * random_fraction());
            failures += 1;
            self.note(Event::Waiting { reason, delay, ceiling });
            sleep(delay).await;
        }
    }

    fn note(&self, event: Event) {
        event.show();
        let _ = self.events.send(event);
    }
}

impl Pea2Pea for Link {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Reading for Link {
    /// Many pulses long: whoever is silent for this long is gone, even if the system does not know it yet.
    const IDLE_TIMEOUT_MS: u64 = 3_000;
    type Message = BytesMut;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        frames()
    }

    async fn process_message(&self, _source: SocketAddr, mut message: BytesMut) {
        if let Ok(number) = message.try_get_u64() {
            self.is_proven.store(true, Relaxed);
            self.note(Event::Pulse(number));
        }
    }
}

impl OnDisconnect for Link {
    async fn on_disconnect(&self, _addr: SocketAddr, origin: DisconnectOrigin) {
        self.note(Event::Ended(origin));
        self.ended.notify_one();
    }
}

/// The side that goes away and comes back: it sends a pulse to whoever is connected.
#[derive(Clone)]
struct Server {
    node: Node,
}

impl Server {
    async fn start(addr: SocketAddr) -> io::Result<Self> {
        let server = Self { node: Node::new(Config { listener_addr: Some(addr), ..Default::default() }) };
        server.enable_writing().await;
        server.enable_on_connect().await;
        server.node.toggle_listener().await?;
        Ok(server)
    }
}

impl Pea2Pea for Server {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Writing for Server {
    type Message = Bytes;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        frames()
    }
}

impl OnConnect for Server {
    /// Runs as long as the connection does.
    async fn on_connect(&self, addr: SocketAddr) {
        let mut pace = interval(Duration::from_millis(100));
        for number in 0u64.. {
            pace.tick().await;
            // A link that does not keep up misses a pulse.
            let _ = self.unicast_fast(addr, Bytes::copy_from_slice(&number.to_be_bytes()));
        }
    }
}

/// The longest delay after this many failures in a row.
fn ceiling_after(failures: u32) -> Duration {
    BASE_DELAY.saturating_mul(1 << failures.min(16)).min(MAX_DELAY)
}

/// From 0 to 1; the standard library has no other randomness than the keys of its hashers.
fn random_fraction() -> f64 {
    RandomState::new().hash_one(0) as f64 / u64::MAX as f64
}

async fn next(events: &mut mpsc::UnboundedReceiver<Event>) -> io::Result<Event> {
    timeout(PATIENCE, events.recv()).await?.ok_or_else(|| io::Error::other("the link is gone"))
}

fn frames() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().max_frame_length(8).new_codec()
}

fn parse(addr: &str) -> io::Result<SocketAddr> {
    addr.parse().map_err(|_| io::Error::other(format!("{addr} is not an address with a port")))
}

fn require(holds: bool, claim: &str) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::Error::other(format!("this does not hold: {claim}"))) }
}

const BASE_DELAY: Duration = Duration::from_millis(50);
/// So short that the example does not bore; a minute is usual.
const MAX_DELAY: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(10);
