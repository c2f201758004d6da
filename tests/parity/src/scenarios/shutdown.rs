//! `shut_down`, and what is left of a node after it.

use std::net::SocketAddr;

use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};

use super::{
    super::p2p::{Config, Pea2Pea},
    actor::{ALL, Actor, Protocol, config, plain},
    faults::{fault, panic_text},
};
use crate::shared::{
    observation::Observation,
    raw,
    timing::{eventually, patiently, poll_then_drop},
    tuning::{Standard, Tuning, tuning},
    wire::frame,
};

/// A dialled raw peer.
async fn peer_of<T: Tuning>(actor: &Actor<T>) -> (TcpStream, SocketAddr, TcpListener) {
    let (listener, addr) = raw::listener().await;
    actor.node().connect(addr).await.unwrap();
    let peer = raw::accept(&listener).await;
    (peer, addr, listener)
}

pub(crate) async fn a_shutdown_ends_everything() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config()).enabling(ALL).await;
    let addr = actor.listen().await;
    let mut inbound = raw::dial(addr).await;
    eventually("it is live", || actor.node().num_connected() == 1).await;
    let (mut outbound, ..) = peer_of(&actor).await;
    actor.log.wait_for("on_connect", 2).await;
    let node = actor.node();
    patiently("the shutdown", node.shut_down()).await;
    seen.note("counts", (node.num_connected(), node.num_connecting()));
    seen.note("lists", (node.connected_addrs().len(), node.connection_infos().len()));
    seen.note("listening_addr", fault(&node.listening_addr().await));
    seen.note("peers are cut off", (raw::is_ended(&mut inbound).await, raw::is_ended(&mut outbound).await));
    seen.note("on_disconnect", actor.log.after("on_disconnect "));
    seen
}

pub(crate) async fn a_shutdown_has_closed_the_listener() -> Observation {
    let mut seen = Observation::new();
    let (first, second) = (plain(), plain());
    let addr = first.listen().await;
    patiently("the shutdown", first.node().shut_down()).await;
    seen.note("the port can be bound", TcpListener::bind(addr).await.is_ok());
    let addr = second.listen().await;
    patiently("the shutdown", second.node().shut_down()).await;
    seen.note("a dial", fault(&TcpStream::connect(addr).await));
    seen
}

pub(crate) async fn nothing_works_after_a_shutdown() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config()).enabling(ALL).await;
    let (_peer, addr, _listener) = peer_of(&actor).await;
    let node = actor.node();
    patiently("the shutdown", node.shut_down()).await;
    seen.note("connect", fault(&node.connect(addr).await));
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    seen.note("connect_using_socket", fault(&node.connect_using_socket(addr, socket).await));
    seen.note("toggle_listener", fault(&node.toggle_listener().await));
    seen.note("disconnect", node.disconnect(addr).await);
    seen.note("is_connected", node.is_connected(addr));
    seen.note("info", node.connection_info(addr).is_some());
    seen.note("counts", (node.num_connected(), node.num_connecting()));
    seen.note("budget rejections", node.heuristics().connect_budget_rejections());
    seen.note("name and config", (node.name(), node.config().max_connections));
    seen
}

pub(crate) async fn without_a_listener_the_toggle_is_refused_after_a_shutdown() -> Observation {
    let mut seen = Observation::new();
    let unlistening = Config { listener_addr: None, ..config() };
    let actor: Actor = Actor::build(unlistening).done();
    actor.node().shut_down().await;
    seen.note("toggle_listener", fault(&actor.node().toggle_listener().await));
    seen.note("listening_addr", fault(&actor.node().listening_addr().await));
    seen
}

pub(crate) async fn the_own_address_is_refused_after_a_shutdown() -> Observation {
    let mut seen = Observation::new();
    let actor = plain();
    let addr = actor.listen().await;
    actor.node().shut_down().await;
    seen.note("connect", fault(&actor.node().connect(addr).await));
    seen
}

pub(crate) async fn protocols_cannot_be_enabled_after_a_shutdown() -> Observation {
    let mut seen = Observation::new();
    let actor = plain();
    actor.node().shut_down().await;
    for protocol in ALL.into_iter().chain(ALL) {
        seen.note("panicked", panic_text(actor.enable([protocol])).await.is_some());
    }
    seen
}

pub(crate) async fn protocols_enabled_before_a_shutdown_and_again_after_it() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config()).enabling(ALL).await;
    actor.node().shut_down().await;
    for protocol in ALL {
        seen.note("panicked", panic_text(actor.enable([protocol])).await.is_some());
    }
    seen
}

pub(crate) async fn a_shutdown_can_be_repeated() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config()).enabling(ALL).await;
    actor.listen().await;
    let _peer = peer_of(&actor).await;
    for _ in 0..3 {
        patiently("a shutdown", actor.node().shut_down()).await;
        seen.note("on_disconnect", actor.log.after("on_disconnect "));
        seen.note("counts", (actor.node().num_connected(), actor.node().num_connecting()));
    }
    seen
}

pub(crate) async fn an_idle_node_can_be_shut_down() -> Observation {
    let mut seen = Observation::new();
    let actor = plain();
    patiently("a shutdown", actor.node().shut_down()).await;
    seen.note("connected", actor.node().num_connected());
    let (listening, clone) = (plain(), plain());
    listening.listen().await;
    patiently("a shutdown", listening.node().shut_down()).await;
    patiently("a shutdown of a clone", clone.node().clone().shut_down()).await;
    seen.note("the original", fault(&clone.node().toggle_listener().await));
    seen
}

/// An actor whose OnDisconnect waits for the event "open".
async fn gated_end() -> Actor {
    Actor::build(config())
        .on_disconnect(|actor, _, origin| async move {
            actor.log.add(format!("begun {origin:?}"));
            actor.log.wait_for("open", 1).await;
            actor.log.add(format!("ended {origin:?}"));
        })
        .enabling([Protocol::OnDisconnect])
        .await
}

pub(crate) async fn concurrent_shutdowns_wait_for_the_same_end() -> Observation {
    let mut seen = Observation::new();
    let actor = gated_end().await;
    let _peer = peer_of(&actor).await;
    let gate = async {
        actor.log.wait_for("begun", 1).await;
        tokio::task::yield_now().await;
        actor.log.add("open");
    };
    let node = actor.node();
    let shut_down = async {
        node.shut_down().await;
        actor.log.add(format!("done with {}", node.num_connected()));
    };
    let again = async {
        actor.log.wait_for("begun", 1).await;
        node.shut_down().await;
        actor.log.add(format!("done with {}", node.num_connected()));
    };
    patiently("both shutdowns", async { tokio::join!(shut_down, again, gate) }).await;
    seen.note("log", actor.log.events());
    seen
}

pub(crate) async fn connections_end_side_by_side() -> Observation {
    let mut seen = Observation::new();
    let actor = gated_end().await;
    let mut peers = Vec::new();
    for _ in 0..5 {
        peers.push(peer_of(&actor).await);
    }
    let gate = async {
        actor.log.wait_for("begun", 5).await;
        seen.note("listed", actor.node().num_connected());
        seen.note("connect", fault(&actor.node().connect(peers[0].1).await));
        seen.note("toggle_listener", fault(&actor.node().toggle_listener().await));
        seen.note("disconnect", actor.node().disconnect(peers[0].1).await);
        actor.log.add("open");
    };
    patiently("the shutdown", async { tokio::join!(actor.node().shut_down(), gate) }).await;
    seen.note("ended", actor.log.count("ended Shutdown"));
    seen.note("connected", actor.node().num_connected());
    seen
}

pub(crate) async fn a_disconnect_in_progress_keeps_its_origin() -> Observation {
    let mut seen = Observation::new();
    let actor = gated_end().await;
    let (_peer, addr, _listener) = peer_of(&actor).await;
    let shut_down = async {
        actor.log.wait_for("begun", 1).await;
        let gate = async {
            tokio::task::yield_now().await;
            actor.log.add("open");
        };
        tokio::join!(actor.node().shut_down(), gate);
        actor.log.add("shut down");
    };
    let (done, ()) = patiently("both", async { tokio::join!(actor.node().disconnect(addr), shut_down) }).await;
    seen.note("disconnect", done);
    seen.note("origins", actor.log.after("begun "));
    seen.note("connected", actor.node().num_connected());
    seen
}

pub(crate) async fn a_pending_dial_is_told_of_the_shutdown() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .handshake(|actor, conn| async move {
            let _dropped = actor.log.on_drop("dropped");
            actor.log.add("handshake");
            actor.log.wait_for("open", 1).await;
            Ok(conn)
        })
        .enabling([Protocol::Handshake, Protocol::OnConnect, Protocol::OnDisconnect])
        .await;
    let (_listener, addr) = raw::listener().await;
    let shut_down = async {
        actor.log.wait_for("handshake", 1).await;
        actor.node().shut_down().await;
        seen.note("counts", (actor.node().num_connected(), actor.node().num_connecting()));
        actor.log.add("open");
    };
    let (result, ()) = patiently("both", async { tokio::join!(actor.node().connect(addr), shut_down) }).await;
    seen.note("connect", fault(&result));
    seen.note("hooks", (actor.log.count("on_connect"), actor.log.count("on_disconnect")));
    seen.note("the handshake is gone", actor.log.count("dropped"));
    seen.note("connected", actor.node().num_connected());
    seen
}

pub(crate) async fn a_pending_accept_ends_with_the_shutdown() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .handshake(|actor, conn| async move {
            let _dropped = actor.log.on_drop("dropped");
            actor.log.add("handshake");
            actor.log.wait_for("open", 1).await;
            Ok(conn)
        })
        .enabling([Protocol::Handshake, Protocol::OnConnect, Protocol::OnDisconnect])
        .await;
    let addr = actor.listen().await;
    let mut peer = raw::dial(addr).await;
    actor.log.wait_for("handshake", 1).await;
    patiently("the shutdown", actor.node().shut_down()).await;
    actor.log.add("open");
    seen.note("the peer is cut off", raw::is_ended(&mut peer).await);
    eventually("the setup is gone", || actor.log.count("dropped") == 1).await;
    eventually("the slot is free", || actor.node().num_connecting() == 0).await;
    seen.note("hooks", (actor.log.count("on_connect"), actor.log.count("on_disconnect")));
    seen.note("counts", (actor.node().num_connected(), actor.node().num_connecting()));
    seen.note("rejected", actor.node().heuristics().inbound_connections_rejected());
    seen
}

tuning!(ShortHook { ON_DISCONNECT_TIMEOUT_MS: u64 = 200 });

pub(crate) async fn a_hanging_hook_does_not_hold_the_shutdown() -> Observation {
    let mut seen = Observation::new();
    let actor = Actor::<ShortHook>::build(config())
        .on_disconnect(|actor, _, _| async move {
            let _dropped = actor.log.on_drop("dropped");
            std::future::pending::<()>().await;
        })
        .process(|actor, _, _| async move {
            let _dropped = actor.log.on_drop("process dropped");
            actor.log.add("process");
            std::future::pending::<()>().await;
        })
        .enabling([Protocol::Reading, Protocol::OnDisconnect])
        .await;
    let (mut peer, ..) = peer_of(&actor).await;
    peer.write_all(&frame(b"x")).await.unwrap();
    actor.log.wait_for("process", 1).await;
    patiently("the shutdown", actor.node().shut_down()).await;
    eventually("all hooks are gone", || actor.log.count("dropped") + actor.log.count("process dropped") == 2).await;
    seen.note("connected", actor.node().num_connected());
    seen.note("the peer is cut off", raw::is_ended(&mut peer).await);
    seen
}

pub(crate) async fn a_dropped_shutdown_can_be_finished() -> Observation {
    let mut seen = Observation::new();
    for polls in 0..6 {
        let actor: Actor = Actor::build(config()).enabling(ALL).await;
        actor.listen().await;
        let (mut peer, addr, _listener) = peer_of(&actor).await;
        actor.log.wait_for("on_connect", 1).await;
        let finished = poll_then_drop(polls, actor.node().shut_down()).await.is_some();
        if polls == 0 {
            seen.note("unpolled", (finished, actor.node().is_connected(addr)));
        } else {
            seen.note("the gate is shut", fault(&actor.node().connect(addr).await));
        }
        patiently("the second call", actor.node().shut_down()).await;
        seen.note("counts", (actor.node().num_connected(), actor.node().num_connecting()));
        seen.note("the peer is cut off", raw::is_ended(&mut peer).await);
        seen.note("at most one hook", actor.log.count("on_disconnect") <= 1);
        seen.note("listening_addr", fault(&actor.node().listening_addr().await));
    }
    seen
}

pub(crate) async fn a_node_lives_on_without_handles_until_shut_down() -> Observation {
    let mut seen = Observation::new();
    let actor = Actor::<Standard>::build(config()).enabling([Protocol::Reading, Protocol::OnConnect]).await;
    let addr = actor.listen().await;
    let log = actor.log.clone();
    drop(actor);
    let mut peer = raw::dial(addr).await;
    log.wait_for("on_connect", 1).await;
    peer.write_all(&frame(b"still there?")).await.unwrap();
    log.wait_for("got", 1).await;
    seen.note("log", log.events());
    seen
}
