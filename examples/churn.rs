//! Churn: 100 clients connect, ping, wait for the pong, and disconnect, over and over again.
//!
//! Shows that connections come and go at a high rate without leaving anything behind. Each client is a node of its own,
//! and goes through whole lives of connections: a dial, both hooks at both ends, one message in each direction, a clean
//! end.
//!
//! Run it with
//!
//! ```text
//! cargo run --release --example churn
//! ```
//!
//! It goes on until Ctrl-C (2 seconds with `EXAMPLE_SHORT=1`), and shows the rate: in a line that changes if this is a
//! terminal, else once a second. Then it counts:
//!
//! ```text
//! 100 clients, one server
//!   1967 cycles/s, 1967 in all
//! (and so on, on a busy machine, without --release)
//! 23022 cycles in 12.0 s: 1914 per second
//! on_connect 46044 times, on_disconnect 46044 times, at both ends together
//! verified: as many ends as beginnings; no connection left
//! verified: 15 file descriptors, before and after
//! a client had to wait for a free port 0 times
//! ```
//!
//! A client's system keeps the port of a connection for a while after its end. Linux gives such ports out again after a
//! second on the loopback interface; where all are in use, the clients wait for one, and the last lines say how often.

#[path = "common/mod.rs"]
mod common;

use std::{
    fs,
    io::{self, IsTerminal, Write},
    net::SocketAddr,
    pin::pin,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use common::Colour;
use pea2pea::{
    Config, ConnectionSide, DisconnectOrigin, Node, Pea2Pea,
    protocols::{OnConnect, OnDisconnect, Reading, Writing},
};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::codec::LengthDelimitedCodec;

#[tokio::main]
async fn main() -> ExitCode {
    let tally = Arc::new(Tally::default());
    let server = Member::start(Arc::clone(&tally)).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Member::start(Arc::clone(&tally)).await);
    }

    let outcome = churn(&server, &clients, &tally).await;
    server.node.shut_down().await;
    for client in &clients {
        client.node.shut_down().await;
    }
    common::exit(outcome)
}

async fn churn(server: &Member, clients: &[Member], tally: &Tally) -> io::Result<()> {
    let mut end =
        pin!(async { if common::is_short() { sleep(Duration::from_secs(2)).await } else { common::ctrl_c().await } });
    // Begins to wait for Ctrl-C, which takes file descriptors of its own, before they are counted.
    let _ = timeout(Duration::ZERO, &mut end).await;
    let listening = server.node.toggle_listener().await?;
    let addr = listening.ok_or_else(|| io::Error::other("the listener was switched off"))?;
    let descriptors = num_descriptors();
    println!("{} clients, one server", clients.len());

    let begun = Instant::now();
    let mut lives = JoinSet::new();
    for client in clients {
        lives.spawn(client.clone().live(addr));
    }
    tokio::select! {
        () = &mut end => {}
        () = show_rate(tally) => {}
        // Clients go on until they are told to stop; one that has ended has an error to tell.
        Some(ended) = lives.join_next() => ended.map_err(io::Error::other)??,
    }
    tally.is_over.store(true, Relaxed);
    while let Some(ended) = in_time("the end of the clients", lives.join_next()).await? {
        ended.map_err(io::Error::other)??;
    }
    let took = begun.elapsed().as_secs_f64();
    // A client is done when its own end is; the server may need a moment longer.
    in_time("the server's last end", async {
        while server.node.num_connected() > 0 || tally.disconnects.load(Relaxed) < tally.connects.load(Relaxed) {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await?;

    // The last sockets are closed a little later than their connections are gone.
    in_time("the last closed socket", async {
        while num_descriptors() > descriptors {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await?;

    let cycles = tally.cycles.load(Relaxed);
    let (connects, disconnects) = (tally.connects.load(Relaxed), tally.disconnects.load(Relaxed));
    if io::stdout().is_terminal() {
        println!();
    }
    println!("{cycles} cycles in {took:.1} s: {:.0} per second", cycles as f64 / took);
    println!("on_connect {connects} times, on_disconnect {disconnects} times, at both ends together");
    require(cycles > 0 && connects == 2 * cycles, "each cycle is one on_connect at each end")?;
    require(connects == disconnects, "each on_connect has its on_disconnect")?;
    let left = || clients.iter().chain([server]).map(|member| &member.node);
    require(left().all(|node| node.num_connected() + node.num_connecting() == 0), "no connection is left")?;
    require(server.node.stats().received().0 == cycles, "the server had one ping per cycle")?;
    let now = num_descriptors();
    require(now == descriptors, &format!("{descriptors:?} file descriptors before are {now:?} afterwards"))?;
    println!("{}", Colour::Green.paint("verified: as many ends as beginnings; no connection left"));
    if let Some(count) = now {
        println!("verified: {count} file descriptors, before and after");
    }
    println!("a client had to wait for a free port {} times", tally.waits.load(Relaxed));
    Ok(())
}

async fn show_rate(tally: &Tally) {
    let (is_live, mut before) = (io::stdout().is_terminal(), 0);
    let every = if is_live { Duration::from_millis(250) } else { Duration::from_secs(1) };
    loop {
        sleep(every).await;
        let cycles = tally.cycles.load(Relaxed);
        let rate = (cycles - before) as f64 / every.as_secs_f64();
        let (start, end) = if is_live { ("\r", "") } else { ("", "\n") };
        print!("{start}{}, {cycles} in all   {end}", Colour::Cyan.paint(format_args!("{rate:6.0} cycles/s")));
        // A figure that is not shown changes nothing.
        let _ = io::stdout().flush();
        before = cycles;
    }
}

/// What has happened, at all nodes together.
#[derive(Default)]
struct Tally {
    connects: AtomicU64,
    disconnects: AtomicU64,
    cycles: AtomicU64,
    /// How often a client found no free port.
    waits: AtomicU64,
    is_over: AtomicBool,
}

/// The server, or a client.
#[derive(Clone)]
struct Member {
    node: Node,
    tally: Arc<Tally>,
    pong: Arc<Notify>,
}

impl Member {
    async fn start(tally: Arc<Tally>) -> Self {
        let node = Node::new(Config {
            listener_addr: Some(([127, 0, 0, 1], 0).into()),
            listener_backlog: 1_024,
            // More than there are clients: the server's end of a connection may outlive the client's for a moment.
            max_connections: 10 * CLIENTS,
            max_connections_per_ip: 10 * CLIENTS,
            max_connecting: 10 * CLIENTS,
            connection_timeout_ms: 10_000,
            ..Default::default()
        });
        let member = Self { node, tally, pong: Arc::default() };
        member.enable_reading().await;
        member.enable_writing().await;
        member.enable_on_connect().await;
        member.enable_on_disconnect().await;
        member
    }

    /// The client's part.
    async fn live(self, server: SocketAddr) -> io::Result<()> {
        while !self.tally.is_over.load(Relaxed) {
            match self.node.connect(server).await {
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                    self.tally.waits.fetch_add(1, Relaxed);
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
                outcome => outcome?,
            }
            self.unicast_fast(server, Bytes::from_static(PING))?;
            in_time("a pong", self.pong.notified()).await?;
            require(self.node.disconnect(server).await, "the client ended its own connection")?;
            self.tally.cycles.fetch_add(1, Relaxed);
        }
        Ok(())
    }
}

impl Pea2Pea for Member {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl OnConnect for Member {
    /// Runs for each connection, even for one that ends first: else the numbers could not be equal.
    const ABORTABLE: bool = false;

    async fn on_connect(&self, _addr: SocketAddr) {
        self.tally.connects.fetch_add(1, Relaxed);
    }
}

impl OnDisconnect for Member {
    async fn on_disconnect(&self, _addr: SocketAddr, _origin: DisconnectOrigin) {
        self.tally.disconnects.fetch_add(1, Relaxed);
    }
}

impl Reading for Member {
    type Message = BytesMut;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        LengthDelimitedCodec::new()
    }

    async fn process_message(&self, source: SocketAddr, message: Self::Message) {
        if message == PING {
            // Should it fail, the client misses its pong, and says so.
            let _ = self.unicast_fast(source, Bytes::from_static(PONG));
        } else {
            self.pong.notify_one();
        }
    }
}

impl Writing for Member {
    type Message = Bytes;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        LengthDelimitedCodec::new()
    }
}

/// How many file descriptors this process has; `None` where there is no `/proc`.
fn num_descriptors() -> Option<usize> {
    Some(fs::read_dir("/proc/self/fd").ok()?.count())
}

async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> io::Result<T> {
    timeout(PATIENCE, work).await.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("{what} did not come")))
}

fn require(holds: bool, claim: &str) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::Error::other(format!("this does not hold: {claim}"))) }
}

const CLIENTS: u16 = 100;
const PING: &[u8] = b"ping";
const PONG: &[u8] = b"pong";

/// How long any single step may take; it takes a few milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
