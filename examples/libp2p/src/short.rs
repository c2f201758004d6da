//! The short mode: two nodes of this kind try everything on each other, and check that it happened.

use std::{io, time::Duration};

use libp2p_identity::{Keypair, PeerId};
use multiaddr::Protocol;
use pea2pea::{Config, DisconnectOrigin, Pea2Pea};
use pea2pea_libp2p::{AGENT, Event, IDENTIFY, Libp2p, PING};
use tokio::{sync::broadcast::Receiver, time::timeout};

use crate::{common::Colour, config, describe, ping};

pub async fn run() -> io::Result<()> {
    let local = || Config { listener_addr: Some(([127, 0, 0, 1], 0).into()), ..config() };
    let ada = Libp2p::start(local(), Keypair::generate_ed25519()).await?;
    let bob = Libp2p::start(local(), Keypair::generate_ed25519()).await?;
    let outcome = timeout(Duration::from_secs(10), converse(&ada, &bob)).await;
    ada.shut_down().await;
    bob.shut_down().await;
    outcome.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the story took more than 10 s"))??;
    check(ada.node().num_connected() + bob.node().num_connected() == 0, "both have shut down")?;
    println!("the end");
    Ok(())
}

async fn converse(ada: &Libp2p, bob: &Libp2p) -> io::Result<()> {
    let mut ada_sees = ada.events();
    let there = ada.listen().await?;
    println!("ada listens on {there}");

    let nobody = PeerId::random();
    let mut elsewhere = there.clone();
    elsewhere.pop();
    let error =
        bob.dial(&elsewhere.with(Protocol::P2p(nobody))).await.err().ok_or_else(|| failed("a dial of nobody"))?;
    check(error.kind() == io::ErrorKind::PermissionDenied, "another peer id is refused")?;
    println!("bob looks for somebody else there: {error}");
    let refused = |event: &Event| matches!(event, Event::Refused { .. });
    wait_for(&mut ada_sees, "the end of the refused connection", refused).await?;

    let addr_of_ada = bob.dial(&there).await?;
    check(bob.peer_at(addr_of_ada) == Some(ada.peer_id()), "bob is connected to ada")?;
    let bobs_id = bob.peer_id();
    let connected = |event: &Event| matches!(event, Event::Connected { peer, .. } if *peer == bobs_id);
    wait_for(&mut ada_sees, "bob's connection", connected).await?;
    let addr_of_bob = ada.addr_of(bobs_id).ok_or_else(|| failed("ada is connected to bob"))?;

    for (name, node, addr, other) in [("bob", bob, addr_of_ada, ada), ("ada", ada, addr_of_bob, bob)] {
        let mut pinger = node.pinger(addr).await?;
        let mut times = Vec::new();
        for _ in 0..PINGS {
            times.push(format!("{:.0?}", ping(&mut pinger).await?));
        }
        pinger.close().await?;
        println!("{name}'s pings came back after {}", times.join(" "));

        let info = node.identify(addr).await?;
        println!("{name} asks who it is:");
        describe(&info);
        check(info.public_key.to_peer_id() == other.peer_id(), "the peer is who it says")?;
        check(info.agent == AGENT, "the agent is this software")?;
        check(info.protocols == [PING, IDENTIFY], "ping and identify are spoken")?;

        let error =
            node.open(addr, "/nobody/speaks/this").await.err().ok_or_else(|| failed("a protocol nobody has"))?;
        check(error.kind() == io::ErrorKind::Unsupported, "an unknown protocol is answered with na")?;
        println!("{name} asks for something else: {error}");
    }
    check(
        bob.identify(addr_of_ada).await?.observed_addr == Some(pea2pea_libp2p::address::format(addr_of_bob)),
        "observed",
    )?;

    check(bob.disconnect(addr_of_ada).await, "bob had a connection to end")?;
    let gone = |event: &Event| matches!(event, Event::Disconnected { peer, origin: DisconnectOrigin::Reading, .. } if *peer == bobs_id);
    wait_for(&mut ada_sees, "bob's end", gone).await?;
    println!("bob says goodbye, and ada notices");
    println!(
        "{} a wrong peer id refused; {PINGS} pings, identify and an unknown protocol, both ways; a goodbye",
        Colour::Green.paint("verified:")
    );
    Ok(())
}

async fn wait_for(events: &mut Receiver<Event>, what: &str, is_it: impl Fn(&Event) -> bool) -> io::Result<()> {
    loop {
        match events.recv().await {
            Ok(event) if is_it(&event) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(failed(&format!("{what}: {error}"))),
        }
    }
}

fn check(holds: bool, claim: &str) -> io::Result<()> {
    if holds { Ok(()) } else { Err(failed(claim)) }
}

fn failed(claim: &str) -> io::Error {
    io::Error::other(format!("this does not hold: {claim}"))
}

const PINGS: usize = 5;
