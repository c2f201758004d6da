//! `disconnect`, from everywhere and at any time.

use std::net::SocketAddr;

use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};

use super::{
    super::p2p::{Pea2Pea, protocols::Writing},
    actor::{Actor, Protocol, config, plain},
    faults::fault,
};
use crate::shared::{
    observation::Observation,
    raw,
    timing::{eventually, happens_soon, patiently, poll_then_drop},
    tuning::Tuning,
    wire::{frame, frames},
};

/// A dialled raw peer.
async fn peer_of<T: Tuning>(actor: &Actor<T>) -> (TcpStream, SocketAddr, TcpListener) {
    let (listener, addr) = raw::listener().await;
    actor.node().connect(addr).await.unwrap();
    let peer = raw::accept(&listener).await;
    (peer, addr, listener)
}

pub(crate) async fn only_the_first_disconnect_is_one() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config()).enabling([Protocol::OnDisconnect]).await;
    let (mut peer, addr, _listener) = peer_of(&actor).await;
    seen.note("first", actor.node().disconnect(addr).await);
    seen.note("second", actor.node().disconnect(addr).await);
    seen.note("the peer sees", raw::read_to_end(&mut peer).await);
    seen.note("connected", (actor.node().num_connected(), actor.node().is_connected(addr)));
    seen.note("info", actor.node().connection_info(addr).is_some());
    seen.note("log", actor.log.events());
    seen
}

pub(crate) async fn of_concurrent_disconnects_one_wins() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .on_disconnect(|actor, _, origin| async move {
            actor.log.add(format!("on_disconnect {origin:?}"));
            tokio::task::yield_now().await;
        })
        .enabling([Protocol::OnDisconnect])
        .await;
    let (_peer, addr, _listener) = peer_of(&actor).await;
    let node = actor.node();
    let race = async { tokio::join!(node.disconnect(addr), node.disconnect(addr), node.disconnect(addr)) };
    let (first, second, third) = patiently("the race", race).await;
    seen.note("results", [first, second, third]);
    seen.note("log", actor.log.events());
    seen
}

pub(crate) async fn a_losing_disconnect_does_not_wait() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .on_disconnect(|actor, _, _| async move {
            actor.log.add("on_disconnect");
            actor.log.wait_for("open", 1).await;
        })
        .enabling([Protocol::OnDisconnect])
        .await;
    let (_peer, addr, _listener) = peer_of(&actor).await;
    let loser = async {
        actor.log.wait_for("on_disconnect", 1).await;
        seen.note("loser", actor.node().disconnect(addr).await);
        seen.note("still connected", actor.node().is_connected(addr));
        actor.log.add("open");
    };
    let race = async { tokio::join!(actor.node().disconnect(addr), loser) };
    let (winner, ()) = patiently("the race", race).await;
    seen.note("winner", winner);
    seen
}

pub(crate) async fn a_peer_can_be_dialled_again_and_again() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .enabling([Protocol::Reading, Protocol::Writing, Protocol::OnConnect, Protocol::OnDisconnect])
        .await;
    let (listener, addr) = raw::listener().await;
    for round in 1..=5 {
        seen.note("connect", fault(&actor.node().connect(addr).await));
        let mut peer = raw::accept(&listener).await;
        actor.unicast(addr, "ping".into()).unwrap().await.unwrap().unwrap();
        raw::read_exactly(&mut peer, 8).await;
        peer.write_all(&frame(b"pong")).await.unwrap();
        actor.log.wait_for("got", round).await;
        let info = actor.node().connection_info(addr).unwrap();
        seen.note("fresh stats", (info.stats().sent(), info.stats().received()));
        actor.log.wait_for("on_connect", round).await;
        seen.note("disconnect", actor.node().disconnect(addr).await);
    }
    seen.note("node stats", (actor.node().stats().sent(), actor.node().stats().received()));
    seen.note("hooks", (actor.log.count("on_connect"), actor.log.count("on_disconnect")));
    seen
}

pub(crate) async fn stats_outlive_connections() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config()).enabling([Protocol::Reading, Protocol::Writing]).await;
    let (mut peer, addr, _listener) = peer_of(&actor).await;
    let info = actor.node().connection_info(addr).unwrap();
    actor.unicast(addr, "one".into()).unwrap().await.unwrap().unwrap();
    peer.write_all(&frames(["two", "three"])).await.unwrap();
    actor.log.wait_for("got", 2).await;
    actor.node().disconnect(addr).await;
    seen.note("info kept by the user", (info.stats().sent(), info.stats().received(), info.addr() == addr));
    seen.note("info of the node", actor.node().connection_info(addr).is_some());
    seen.note("node", (actor.node().stats().sent(), actor.node().stats().received()));
    actor.node().shut_down().await;
    seen.note("node after the shutdown", (actor.node().stats().sent(), actor.node().stats().received()));
    seen
}

/// `disconnect` of the own connection, from one of its hooks.
async fn from_a_hook(hook: Protocol) -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .process(move |actor, addr, _| async move {
            let _dropped = actor.log.on_drop("process dropped");
            actor.log.add("process");
            let done = actor.node().disconnect(addr).await;
            actor.log.add(format!("disconnect from process {done}"));
            tokio::task::yield_now().await;
        })
        .on_connect(move |actor, addr| async move {
            if matches!(hook, Protocol::OnConnect) {
                let _dropped = actor.log.on_drop("on_connect dropped");
                let done = actor.node().disconnect(addr).await;
                actor.log.add(format!("disconnect from on_connect {done}"));
                tokio::task::yield_now().await;
            }
        })
        .enabling([Protocol::Reading, Protocol::Writing, Protocol::OnConnect, Protocol::OnDisconnect])
        .await;
    let (mut peer, addr, _listener) = peer_of(&actor).await;
    if matches!(hook, Protocol::Reading) {
        peer.write_all(&frame(b"go")).await.unwrap();
    }
    eventually("it is removed", || !actor.node().is_connected(addr)).await;
    seen.note("the peer is cut off", raw::is_ended(&mut peer).await);
    eventually("the hook is dropped", || {
        actor.log.count("process dropped") + actor.log.count("on_connect dropped") == 1
    })
    .await;
    seen.note("on_disconnect", actor.log.after("on_disconnect "));
    seen.note("result", actor.log.after("disconnect from "));
    seen.note("connect again", fault(&actor.node().connect(addr).await));
    seen
}

pub(crate) async fn process_message_may_disconnect_its_peer() -> Observation {
    from_a_hook(Protocol::Reading).await
}

pub(crate) async fn on_connect_may_disconnect_its_peer() -> Observation {
    from_a_hook(Protocol::OnConnect).await
}

pub(crate) async fn a_handshake_cannot_disconnect_its_peer() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .handshake(|actor, conn| async move {
            actor.log.add(format!("disconnect {}", actor.node().disconnect(conn.addr()).await));
            Ok(conn)
        })
        .enabling([Protocol::Handshake, Protocol::OnDisconnect])
        .await;
    let (_peer, addr, _listener) = peer_of(&actor).await;
    seen.note("connected", actor.node().is_connected(addr));
    seen.note("log", actor.log.events());
    seen
}

pub(crate) async fn unread_input_does_not_reset_the_farewell() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config()).enabling([Protocol::Writing]).await;
    let (mut peer, addr, _listener) = peer_of(&actor).await;
    peer.write_all(&frames(["never", "read"])).await.unwrap();
    actor.unicast(addr, "farewell".into()).unwrap().await.unwrap().unwrap();
    seen.note("disconnect", actor.node().disconnect(addr).await);
    let (bytes, end) = raw::read_to_end(&mut peer).await;
    seen.note("the end", end);
    seen.note("bytes", bytes.len());
    seen
}

pub(crate) async fn a_dropped_disconnect_is_finished_anyway() -> Observation {
    let mut seen = Observation::new();
    for polls in 0..5 {
        let actor: Actor = Actor::build(config()).enabling([Protocol::Writing, Protocol::OnDisconnect]).await;
        let (mut peer, addr, _listener) = peer_of(&actor).await;
        let done = poll_then_drop(polls, actor.node().disconnect(addr)).await;
        if polls == 0 {
            seen.note("unpolled", (done, happens_soon(|| !actor.node().is_connected(addr)).await));
            continue;
        }
        eventually("it is removed", || !actor.node().is_connected(addr)).await;
        seen.note("the peer is cut off", raw::is_ended(&mut peer).await);
        seen.note("at most one hook", actor.log.count("on_disconnect") <= 1);
        seen.note("a second disconnect", actor.node().disconnect(addr).await);
        eventually("the address is free", || !actor.node().is_connected(addr)).await;
        seen.note("connect again", fault(&actor.node().connect(addr).await));
    }
    seen
}

pub(crate) async fn a_dropped_disconnect_cuts_the_hook_short() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .on_disconnect(|actor, _, _| async move {
            let _dropped = actor.log.on_drop("dropped");
            actor.log.add("begun");
            std::future::pending::<()>().await;
        })
        .enabling([Protocol::OnDisconnect])
        .await;
    let (mut peer, addr, _listener) = peer_of(&actor).await;
    let done = poll_then_drop(10, actor.node().disconnect(addr)).await;
    seen.note("done", done);
    eventually("it is removed", || !actor.node().is_connected(addr)).await;
    seen.note("the peer is cut off", raw::is_ended(&mut peer).await);
    eventually("the hook is dropped", || actor.log.count("dropped") == actor.log.count("begun")).await;
    seen.note("log", actor.log.events());
    seen.note("connect again", fault(&actor.node().connect(addr).await));
    seen
}

pub(crate) async fn a_disconnect_is_seen_by_the_other_node() -> Observation {
    let mut seen = Observation::new();
    let make = || Actor::build(config()).enabling([Protocol::Reading, Protocol::OnDisconnect]);
    let (dialler, listener): (Actor, Actor) = (make().await, make().await);
    let addr = listener.listen().await;
    dialler.node().connect(addr).await.unwrap();
    eventually("both are live", || listener.node().num_connected() == 1).await;
    seen.note("disconnect", listener.node().disconnect(listener.only_peer()).await);
    eventually("the dialler noticed", || dialler.node().num_connected() == 0).await;
    seen.note("listener", listener.log.after("on_disconnect "));
    seen.note("dialler", dialler.log.after("on_disconnect "));
    seen.note("strangers", plain().node().disconnect(addr).await);
    seen
}
