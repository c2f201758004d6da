//! libp2p: a node on this kernel that any libp2p node can talk to.
//!
//! Shows how a foreign protocol stack is put on the kernel: multistream-select, Noise and Yamux below, `/ipfs/ping/1.0.0`
//! and `/ipfs/id/1.0.0` above. How the parts are spread over the kernel's five protocols is said in `lib.rs`. The other
//! end may be any node that speaks libp2p over TCP; `tests/interop` tries it against rust-libp2p. Run it with
//!
//! ```text
//! cargo run --manifest-path examples/libp2p/Cargo.toml -- listen [MULTIADDR]
//! cargo run --manifest-path examples/libp2p/Cargo.toml -- dial MULTIADDR [PINGS]
//! ```
//!
//! The first one prints its address for the second one, and goes on until Ctrl-C (peer ids are shortened here):
//!
//! ```text
//! listening on /ip4/127.0.0.1/tcp/38775/p2p/12D3KooWRq23..8fo
//! Ctrl-C ends it
//! 12D3KooWKmgR..JDAf connected from 127.0.0.1:53424
//! 12D3KooWKmgR..JDAf asked who this is
//! 12D3KooWKmgR..JDAf pinged
//! 12D3KooWKmgR..JDAf pinged
//! 12D3KooWKmgR..JDAf pinged
//! 12D3KooWKmgR..JDAf is gone (origin: Reading)
//! 127.0.0.1:53440 came no further: the peer left without asking for /yamux/1.0.0
//! 0 peers to say goodbye to
//! goodbye
//! ```
//!
//! And the second one, with that address; then a third one, which looked for somebody else there:
//!
//! ```text
//! this is 12D3KooWKmgR..JDAf
//! connected to 12D3KooWRq23..8fo in 278.6ms
//!    agent     pea2pea-libp2p/0.1.0
//!    version   ipfs/0.1.0
//!    speaks    /ipfs/ping/1.0.0
//!    speaks    /ipfs/id/1.0.0
//!    listens   /ip4/127.0.0.1/tcp/38775
//!    sees us   at /ip4/127.0.0.1/tcp/53424
//! ping 1: 677.6µs
//! ping 2: 741.3µs
//! ping 3: 5.9ms
//! goodbye
//!
//! this is 12D3KooWQbak..kUbyH
//! goodbye
//! failed: 127.0.0.1:38775 is not 12D3KooWDiJS..FuVW: it has proved to be 12D3KooWRq23..8fo
//! ```
//!
//! The key pair is a new one at each start. With `EXAMPLE_SHORT=1` and no arguments, two nodes of this kind try all of it on
//! each other.

use std::{
    io,
    process::ExitCode,
    time::{Duration, Instant},
};

use libp2p_identity::Keypair;
use multiaddr::Multiaddr;
use pea2pea::{Config, Pea2Pea};
use pea2pea_libp2p::{Event, Info, Libp2p, Pinger, address};
use tokio::{sync::broadcast::error::RecvError, time::timeout};

#[path = "../../common/mod.rs"]
mod common;
mod short;

use common::Colour;

const USAGE: &str = "usage: libp2p listen [MULTIADDR]        default: /ip4/127.0.0.1/tcp/0
       libp2p dial MULTIADDR [PINGS]    default: 5 pings";

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] if common::is_short() => short::run().await,
        ["listen"] => listen("/ip4/127.0.0.1/tcp/0").await,
        ["listen", multiaddr] => listen(multiaddr).await,
        ["dial", multiaddr] => dial(multiaddr, "5").await,
        ["dial", multiaddr, pings] => dial(multiaddr, pings).await,
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    common::exit(outcome)
}

/// Waits for peers until Ctrl-C.
async fn listen(multiaddr: &str) -> io::Result<()> {
    let (addr, _) = address::parse(&parse(multiaddr)?)?;
    let node = Libp2p::start(Config { listener_addr: Some(addr), ..config() }, Keypair::generate_ed25519()).await?;
    let mut events = node.events();
    let outcome = node.listen().await;
    if let Ok(multiaddr) = &outcome {
        println!("listening on {}", Colour::Green.paint(multiaddr));
        println!("Ctrl-C ends it");
        tokio::select! {
            () = common::ctrl_c() => {}
            () = async {
                loop {
                    match events.recv().await {
                        Ok(event) => tell(&event),
                        Err(RecvError::Lagged(missed)) => println!("... {missed} events more ..."),
                        Err(RecvError::Closed) => return,
                    }
                }
            } => {}
        }
        println!("{} peers to say goodbye to", node.node().num_connected());
    }
    node.shut_down().await;
    println!("goodbye");
    outcome.map(|_| ())
}

/// Asks a peer who it is and pings it.
async fn dial(multiaddr: &str, pings: &str) -> io::Result<()> {
    let multiaddr = parse(multiaddr)?;
    let pings = pings.parse().map_err(|_| unusable(format!("{pings} is not a number of pings")))?;
    let node = Libp2p::start(Config { listener_addr: None, ..config() }, Keypair::generate_ed25519()).await?;
    println!("this is {}", node.peer_id());
    let outcome = tokio::select! {
        outcome = converse(&node, &multiaddr, pings) => outcome,
        () = common::ctrl_c() => {
            println!("interrupted");
            Ok(())
        }
    };
    node.shut_down().await;
    println!("goodbye");
    outcome
}

async fn converse(node: &Libp2p, multiaddr: &Multiaddr, pings: u32) -> io::Result<()> {
    let begun = Instant::now();
    let addr = node.dial(multiaddr).await?;
    let peer = node.peer_at(addr).map_or_else(|| "nobody".to_owned(), |peer| peer.to_string());
    println!("connected to {} in {:.1?}", Colour::Green.paint(peer), begun.elapsed());

    match node.identify(addr).await {
        Ok(info) => describe(&info),
        // Identify is optional, and the peer has proved its id to Noise before: whatever goes wrong here, it stays a peer.
        Err(error) => println!("   it does not say who it is: {error}"),
    }

    let mut pinger = node.pinger(addr).await?;
    for number in 1..=pings {
        println!("ping {number}: {}", Colour::Cyan.paint(format_args!("{:.1?}", ping(&mut pinger).await?)));
    }
    pinger.close().await
}

async fn ping(pinger: &mut Pinger) -> io::Result<Duration> {
    timeout(PATIENCE, pinger.ping())
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the peer did not answer a ping"))?
}

/// Prints what a peer says of itself; it decides about that text, so what could control a terminal is not printed as it is.
fn describe(info: &Info) {
    println!("   agent     {}", info.agent.escape_debug());
    println!("   version   {}", info.protocol_version.escape_debug());
    for protocol in &info.protocols {
        println!("   speaks    {}", protocol.escape_debug());
    }
    for multiaddr in &info.listen_addrs {
        println!("   listens   {multiaddr}");
    }
    if let Some(multiaddr) = &info.observed_addr {
        println!("   sees us   at {multiaddr}");
    }
}

fn tell(event: &Event) {
    let paint = |peer| Colour::Cyan.paint(peer);
    match event {
        Event::Connected { addr, peer } => println!("{} connected from {addr}", paint(peer)),
        Event::Refused { addr, reason } => println!("{addr} came no further: {}", reason.escape_debug()),
        Event::Pinged { peer } => println!("{} pinged", paint(peer)),
        Event::Identified { peer } => println!("{} asked who this is", paint(peer)),
        Event::Failed { peer, reason, .. } => println!("{} broke the rules: {}", paint(peer), reason.escape_debug()),
        Event::Disconnected { peer, origin, .. } => println!("{} is gone (origin: {origin:?})", paint(peer)),
    }
}

fn parse(multiaddr: &str) -> io::Result<Multiaddr> {
    multiaddr.parse().map_err(|error| unusable(format!("{multiaddr} is not a multiaddr: {error}")))
}

fn unusable(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}

fn config() -> Config {
    Config {
        // Several nodes of one host may want to talk to this one.
        max_connections_per_ip: 16,
        connection_timeout_ms: 5_000,
        ..Default::default()
    }
}

/// How long a ping may take.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use pea2pea_libp2p::{IDENTIFY, PING};

    use super::*;

    /// The events of a peer that speaks these protocols, while a node converses with it; and how that ended.
    async fn conversed(protocols: &'static [&'static str]) -> (Vec<Event>, io::Result<()>) {
        let local = || Config { listener_addr: Some(([127, 0, 0, 1], 0).into()), ..config() };
        let peer = Libp2p::start_speaking(protocols, local(), Keypair::generate_ed25519()).await.unwrap();
        let node = Libp2p::start(local(), Keypair::generate_ed25519()).await.unwrap();
        let mut events = peer.events();
        let there = peer.listen().await.unwrap();
        let outcome = timeout(6 * PATIENCE, converse(&node, &there, 2)).await.expect("it comes in time");
        node.shut_down().await;
        peer.shut_down().await;
        (std::iter::from_fn(|| events.try_recv().ok()).collect(), outcome)
    }

    #[tokio::test]
    async fn a_peer_that_does_not_speak_identify_is_kept_and_pinged() {
        for (protocols, identified) in [(&[PING][..], 0), (&[PING, IDENTIFY], 1)] {
            let (events, outcome) = conversed(protocols).await;
            outcome.expect("the peer is kept");
            let count = |is_it: fn(&Event) -> bool| events.iter().filter(|event| is_it(event)).count();
            assert_eq!(count(|event| matches!(event, Event::Pinged { .. })), 2, "{events:?}");
            assert_eq!(count(|event| matches!(event, Event::Identified { .. })), identified, "{events:?}");
        }
    }

    /// The canary of the test above: pings are what this conversation is about.
    #[tokio::test]
    async fn a_peer_that_does_not_speak_ping_is_given_up() {
        let (_, outcome) = conversed(&[IDENTIFY]).await;
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::Unsupported);
    }
}
