//! Switching the listener on and off.

use std::net::SocketAddr;

use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};

use super::{
    super::p2p::{Config, Pea2Pea},
    actor::{Actor, Protocol, config, plain},
    faults::fault,
};
use crate::shared::{
    observation::Observation,
    raw,
    timing::{eventually, happens_soon, patiently, poll_then_drop, soon},
    wire::frame,
};

pub(crate) async fn switching_on_gives_the_bound_address() -> Observation {
    let mut seen = Observation::new();
    let actor = plain();
    let node = actor.node();
    let bound = node.toggle_listener().await.unwrap().unwrap();
    seen.note("ip", bound.ip());
    seen.note("a real port", bound.port() != 0);
    seen.note("listening_addr agrees", node.listening_addr().await.unwrap() == bound);
    seen.note("the config keeps what it was given", node.config().listener_addr);
    raw::dial(bound).await;
    eventually("the dial was accepted", || node.num_connected() == 1).await;
    seen.note("accepted", node.num_connected());
    seen
}

pub(crate) async fn switching_off_ends_the_listening() -> Observation {
    let mut seen = Observation::new();
    let actor = plain();
    let bound = actor.listen().await;
    seen.note("off", actor.node().toggle_listener().await.unwrap());
    seen.note("listening_addr", fault(&actor.node().listening_addr().await));
    let mut last = String::new();
    while last != "ConnectionRefused (os error 111)" {
        last = fault(&soon(TcpStream::connect(bound)).await.expect("loopback answers at once"));
    }
    seen.note("a dial, in the end", last);
    seen.note("connected", actor.node().num_connected());
    seen
}

pub(crate) async fn switching_off_has_closed_the_socket() -> Observation {
    let mut seen = Observation::new();
    let (first, second) = (plain(), plain());
    let bound = first.listen().await;
    first.node().toggle_listener().await.unwrap();
    seen.note("the port can be bound", TcpListener::bind(bound).await.is_ok());
    let bound = second.listen().await;
    second.node().toggle_listener().await.unwrap();
    seen.note("a dial", fault(&TcpStream::connect(bound).await));
    seen
}

pub(crate) async fn the_listener_can_be_switched_many_times() -> Observation {
    let mut seen = Observation::new();
    let actor = plain();
    let node = actor.node();
    for _ in 0..5 {
        let addr = node.toggle_listener().await.unwrap().unwrap();
        seen.note("on", node.listening_addr().await.unwrap() == addr);
        raw::dial(addr).await;
        seen.note("off", node.toggle_listener().await.unwrap());
    }
    seen
}

/// The published crate has the socket open for a moment after the switch-off.
async fn switch_on_once_the_port_is_free(actor: &Actor) {
    patiently("a free port", async {
        while actor.node().toggle_listener().await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

pub(crate) async fn a_given_port_can_be_bound_anew() -> Observation {
    let mut seen = Observation::new();
    let addr = raw::free_addr();
    let actor: Actor = Actor::build(Config { listener_addr: Some(addr), ..config() }).done();
    for _ in 0..3 {
        switch_on_once_the_port_is_free(&actor).await;
        seen.note("on", actor.node().listening_addr().await.unwrap() == addr);
        let live = raw::dial(addr).await;
        eventually("it is live", || actor.node().num_connected() == 1).await;
        actor.node().toggle_listener().await.unwrap();
        // our end closes first, so the port is left in TIME_WAIT
        actor.node().disconnect(actor.only_peer()).await;
        drop(live);
    }
    seen
}

pub(crate) async fn without_an_address_there_is_no_listener() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(Config { listener_addr: None, ..config() }).done();
    seen.note("toggle", fault(&actor.node().toggle_listener().await));
    seen.note("toggle again", fault(&actor.node().toggle_listener().await));
    seen.note("listening_addr", fault(&actor.node().listening_addr().await));
    let other = plain();
    let addr = other.listen().await;
    seen.note("it can dial", fault(&actor.node().connect(addr).await));
    seen
}

pub(crate) async fn a_busy_port_cannot_be_bound() -> Observation {
    let mut seen = Observation::new();
    let (_busy, addr) = raw::listener().await;
    let actor: Actor = Actor::build(Config { listener_addr: Some(addr), ..config() }).done();
    seen.note("toggle", fault(&actor.node().toggle_listener().await));
    seen.note("listening_addr", fault(&actor.node().listening_addr().await));
    drop(_busy);
    seen.note("toggle once it is free", fault(&actor.node().toggle_listener().await));
    seen
}

pub(crate) async fn a_foreign_address_cannot_be_bound() -> Observation {
    let mut seen = Observation::new();
    let foreign: SocketAddr = ([203, 0, 113, 1], 0).into();
    let actor: Actor = Actor::build(Config { listener_addr: Some(foreign), ..config() }).done();
    seen.note("toggle", fault(&actor.node().toggle_listener().await));
    seen.note("listening_addr", fault(&actor.node().listening_addr().await));
    seen
}

pub(crate) async fn reuse_listener_port_lets_two_nodes_share_one() -> Observation {
    let mut seen = Observation::new();
    let sharing = Config { reuse_listener_port: true, ..config() };
    let first: Actor = Actor::build(sharing.clone()).done();
    let addr = first.listen().await;
    let second: Actor = Actor::build(Config { listener_addr: Some(addr), ..sharing }).done();
    seen.note("second", second.node().toggle_listener().await.unwrap() == Some(addr));
    let exclusive: Actor = Actor::build(Config { listener_addr: Some(addr), ..config() }).done();
    seen.note("one that does not share", fault(&exclusive.node().toggle_listener().await));
    first.node().toggle_listener().await.unwrap();
    // what the kernel had assigned to the first socket before it was closed gets a reset
    let mut dials = Vec::new();
    patiently("the one that is left accepts", async {
        while second.node().num_connected() == 0 {
            dials.push(soon(TcpStream::connect(addr)).await);
            tokio::task::yield_now().await;
        }
    })
    .await;
    seen.note("the first after its switch-off", first.node().num_connected());
    seen
}

pub(crate) async fn setups_outlive_the_listener() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .handshake(|actor, conn| async move {
            actor.log.add("handshake");
            actor.log.wait_for("open", 1).await;
            Ok(conn)
        })
        .enabling([Protocol::Handshake])
        .await;
    let addr = actor.listen().await;
    let mut live = raw::dial(addr).await;
    actor.log.wait_for("handshake", 1).await;
    seen.note("off", actor.node().toggle_listener().await.unwrap());
    seen.note("connecting", actor.node().num_connecting());
    actor.log.add("open");
    eventually("it went live", || actor.node().num_connected() == 1).await;
    seen.note("connecting", actor.node().num_connecting());
    seen.note("it stays open", raw::stays_open(&mut live).await);
    seen.note("connected", actor.node().num_connected());
    seen
}

pub(crate) async fn concurrent_switches_take_turns() -> Observation {
    let mut seen = Observation::new();
    let actor = plain();
    let node = actor.node();
    let (first, second, third) = tokio::join!(node.toggle_listener(), node.toggle_listener(), node.toggle_listener());
    let mut results = [first, second, third].map(|result| result.unwrap().is_some());
    results.sort();
    seen.note("results", results);
    seen.note("listening in the end", node.listening_addr().await.is_ok());
    seen
}

pub(crate) async fn a_dropped_switch_leaves_a_usable_listener() -> Observation {
    let mut seen = Observation::new();
    for polls in 0..4 {
        let actor = plain();
        let node = actor.node();
        let done = poll_then_drop(polls, node.toggle_listener()).await.map(|result| result.unwrap().is_some());
        let is_on = node.listening_addr().await.is_ok();
        seen.note("a finished switch is on, a dropped one off", is_on == (done == Some(true)));
        let next = patiently("the next switch", node.toggle_listener()).await.unwrap();
        seen.note("the next one does the opposite", next.is_some() != is_on);
    }
    seen
}

pub(crate) async fn a_dual_stack_listener_reports_mapped_addresses() -> Observation {
    let mut seen = Observation::new();
    let wildcard = "[::]:0".parse().unwrap();
    let actor: Actor = Actor::build(Config { listener_addr: Some(wildcard), ..config() }).done();
    let bound = actor.listen().await;
    seen.note("bound", bound.ip());
    let stream = raw::dial(([127, 0, 0, 1], bound.port()).into()).await;
    eventually("it is live", || actor.node().num_connected() == 1).await;
    let peer = actor.only_peer();
    let dialler = stream.local_addr().unwrap();
    seen.note("the peer's ip", peer.ip());
    seen.note("the peer's port", peer.port() == dialler.port());
    seen.note("connected under the plain address", actor.node().is_connected(dialler));
    seen.note("disconnect under the plain address", actor.node().disconnect(dialler).await);
    seen.note("disconnect under the mapped address", actor.node().disconnect(peer).await);
    seen
}

pub(crate) async fn a_new_listener_does_not_disturb_live_connections() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config()).enabling([Protocol::Reading]).await;
    let addr = actor.listen().await;
    let mut stream = raw::dial(addr).await;
    eventually("it is live", || actor.node().num_connected() == 1).await;
    actor.node().toggle_listener().await.unwrap();
    let again = actor.node().toggle_listener().await.unwrap();
    seen.note("on again", again.is_some());
    seen.note("lost", happens_soon(|| actor.node().num_connected() != 1).await);
    let frame = frame(b"still here");
    stream.write_all(&frame).await.unwrap();
    actor.log.wait_for("got", 1).await;
    seen.note("got", actor.log.after("got "));
    seen
}
