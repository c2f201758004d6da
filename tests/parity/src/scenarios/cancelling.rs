//! Dials that are dropped half way.

use super::{
    super::p2p::{Config, Pea2Pea},
    actor::{ALL, Actor, Protocol, config},
    faults::fault,
};
use crate::shared::{
    observation::Observation,
    raw,
    timing::{eventually, happens_soon, poll_then_drop, soon},
};

pub(crate) async fn an_unpolled_dial_does_nothing() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config()).enabling(ALL).await;
    let (listener, addr) = raw::listener().await;
    let dial = actor.node().connect(addr);
    seen.note("connecting", actor.node().num_connecting());
    drop(dial);
    seen.note("the listener sees it", soon(listener.accept()).await.is_some());
    seen.note("log", actor.log.events());
    seen
}

pub(crate) async fn a_dropped_dial_is_rolled_back_or_live() -> Observation {
    let mut seen = Observation::new();
    for polls in 0..8 {
        let limits = Config { max_connections: 1, max_connections_per_ip: 1, max_connecting: 1, ..config() };
        let actor: Actor = Actor::build(limits).enabling(ALL).await;
        let (_listener, addr) = raw::listener().await;
        let done = poll_then_drop(polls, actor.node().connect(addr)).await;
        eventually("nothing is pending", || actor.node().num_connecting() == 0).await;
        let connected = actor.node().is_connected(addr);
        seen.note("a finished dial is live", done.is_none() || connected);
        if connected {
            actor.log.wait_for("on_connect", 1).await;
        }
        // the number of polls that a dial takes is nobody's promise
        seen.note("disconnect finds what is live", actor.node().disconnect(addr).await == connected);
        let hooks = (actor.log.count("on_connect"), actor.log.count("on_disconnect"));
        seen.note("hooks are paired", hooks == (connected.into(), connected.into()));
        seen.note("every limit is free again", fault(&actor.node().connect(addr).await));
    }
    seen
}

pub(crate) async fn a_dial_dropped_in_its_handshake_is_rolled_back() -> Observation {
    let mut seen = Observation::new();
    let limits = Config { max_connections: 1, max_connections_per_ip: 1, max_connecting: 1, ..config() };
    let actor: Actor = Actor::build(limits)
        .handshake(|actor, conn| async move {
            let _dropped = actor.log.on_drop("dropped");
            actor.log.add("handshake");
            actor.log.wait_for("open", 1).await;
            Ok(conn)
        })
        .enabling([Protocol::Handshake, Protocol::OnConnect, Protocol::OnDisconnect])
        .await;
    let (listener, addr) = raw::listener().await;
    tokio::select! {
        biased;
        _ = actor.node().connect(addr) => seen.note("the dial ended", ()),
        () = actor.log.wait_for("handshake", 1) => seen.note("dropped in the handshake", ()),
    }
    eventually("nothing is pending", || actor.node().num_connecting() == 0).await;
    actor.log.wait_for("dropped", 1).await;
    seen.note("connected", actor.node().num_connected());
    let mut peer = raw::accept(&listener).await;
    seen.note("the peer is cut off", raw::is_ended(&mut peer).await);
    seen.note("log", actor.log.events());
    actor.log.add("open");
    seen.note("every limit is free again", fault(&actor.node().connect(addr).await));
    seen
}

pub(crate) async fn a_dial_dropped_during_the_tcp_stage_is_rolled_back() -> Observation {
    let mut seen = Observation::new();
    let limits = Config { max_connecting: 1, ..config() };
    let actor: Actor = Actor::build(limits).enabling([Protocol::OnConnect]).await;
    let (_fillers, _backlog, addr) = raw::unresponsive().await;
    seen.note("polled", poll_then_drop(3, actor.node().connect(addr)).await.is_some());
    seen.note("pending", (actor.node().num_connecting(), actor.node().is_connecting(addr)));
    let (_listener, other) = raw::listener().await;
    seen.note("the budget is free again", fault(&actor.node().connect(other).await));
    seen.note("rejections", actor.node().heuristics().connect_budget_rejections());
    seen
}

pub(crate) async fn a_live_connection_survives_the_task_that_dialled() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config()).enabling([Protocol::Reading, Protocol::OnConnect]).await;
    let (_listener, addr) = raw::listener().await;
    let dialler = actor.clone();
    let task = tokio::spawn(async move {
        dialler.node().connect(addr).await.unwrap();
        std::future::pending::<()>().await;
    });
    actor.log.wait_for("on_connect", 1).await;
    task.abort();
    seen.note("lost", happens_soon(|| !actor.node().is_connected(addr)).await);
    seen.note("disconnect", actor.node().disconnect(addr).await);
    seen
}

pub(crate) async fn an_aborted_dialling_task_leaves_nothing() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(Config { max_connecting: 1, ..config() })
        .handshake(|actor, conn| async move {
            actor.log.add("handshake");
            if actor.log.count("handshake") == 1 {
                std::future::pending::<()>().await;
            }
            Ok(conn)
        })
        .enabling([Protocol::Handshake])
        .await;
    let (_listener, addr) = raw::listener().await;
    let dialler = actor.clone();
    let task = tokio::spawn(async move { dialler.node().connect(addr).await });
    actor.log.wait_for("handshake", 1).await;
    task.abort();
    eventually("nothing is pending", || actor.node().num_connecting() == 0).await;
    seen.note("connected", actor.node().num_connected());
    seen.note("connect again", fault(&actor.node().connect(addr).await));
    seen
}
