//! The Handshake protocol.

use std::{io, time::Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    super::p2p::{
        Pea2Pea,
        protocols::{Handshake, Writing},
    },
    actor::{Actor, Protocol, config},
    faults::fault,
};
use crate::shared::{
    observation::Observation,
    raw,
    timing::{eventually, patiently},
    tuning::tuning,
    wire::frames,
};

#[derive(Debug)]
struct UsersOwn;

impl std::fmt::Display for UsersOwn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("not with you")
    }
}

impl std::error::Error for UsersOwn {}

pub(crate) async fn a_failed_handshake_gives_the_users_error() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .handshake(|_, _| async { Err(io::Error::new(io::ErrorKind::PermissionDenied, UsersOwn)) })
        .enabling([Protocol::Handshake, Protocol::OnConnect, Protocol::OnDisconnect])
        .await;
    let (listener, addr) = raw::listener().await;
    let error = actor.node().connect(addr).await.unwrap_err();
    seen.note("kind", error.kind());
    seen.note("text", error.to_string());
    seen.note("payload", error.get_ref().is_some_and(|payload| payload.is::<UsersOwn>()));
    seen.note("counts", (actor.node().num_connected(), actor.node().num_connecting()));
    seen.note("timeouts", actor.node().heuristics().handshake_timeouts());
    let mut peer = raw::accept(&listener).await;
    seen.note("the peer sees", raw::read_to_end(&mut peer).await);
    seen.note("hooks", actor.log.events());
    seen
}

pub(crate) async fn a_responder_that_refuses_closes_the_connection() -> Observation {
    let mut seen = Observation::new();
    let listener: Actor = Actor::build(config())
        .handshake(|_, _| async { Err(io::ErrorKind::PermissionDenied.into()) })
        .enabling([Protocol::Handshake, Protocol::OnConnect, Protocol::OnDisconnect])
        .await;
    let dialler: Actor = Actor::build(config()).enabling([Protocol::Reading, Protocol::OnDisconnect]).await;
    let addr = listener.listen().await;
    seen.note("the dial", fault(&dialler.node().connect(addr).await));
    dialler.log.wait_for("on_disconnect", 1).await;
    seen.note("the dialler", dialler.log.after("on_disconnect "));
    seen.note("the listener", (listener.node().num_connected(), listener.node().num_connecting()));
    seen.note("rejected", listener.node().heuristics().inbound_connections_rejected());
    seen.note("hooks", listener.log.events());
    seen.note("still listening", listener.node().listening_addr().await.is_ok());
    seen
}

tuning!(Hasty { HANDSHAKE_TIMEOUT_MS: u64 = 200 });
tuning!(Impatient { HANDSHAKE_TIMEOUT_MS: u64 = 0 });

pub(crate) async fn a_dialled_handshake_times_out() -> Observation {
    let mut seen = Observation::new();
    let actor = Actor::<Hasty>::build(config())
        .handshake(|actor, conn| async move {
            let _dropped = actor.log.on_drop("dropped");
            std::future::pending::<()>().await;
            Ok(conn)
        })
        .enabling([Protocol::Handshake, Protocol::OnDisconnect])
        .await;
    let (_listener, addr) = raw::listener().await;
    let start = Instant::now();
    seen.note("connect", fault(&actor.node().connect(addr).await));
    seen.note("not before the timeout", start.elapsed().as_millis() >= 200);
    seen.note("timeouts", actor.node().heuristics().handshake_timeouts());
    seen.note("counts", (actor.node().num_connected(), actor.node().num_connecting()));
    seen.note("hooks", actor.log.events());
    seen
}

pub(crate) async fn an_accepted_handshake_times_out() -> Observation {
    let mut seen = Observation::new();
    let actor = Actor::<Hasty>::build(config())
        .handshake(|actor, mut conn| async move {
            actor.borrow_stream(&mut conn).read_u8().await?;
            Ok(conn)
        })
        .enabling([Protocol::Handshake, Protocol::OnDisconnect])
        .await;
    let addr = actor.listen().await;
    let mut silent = raw::dial(addr).await;
    seen.note("the peer sees", raw::read_to_end(&mut silent).await);
    eventually("the slot is free", || actor.node().num_connecting() == 0).await;
    seen.note("timeouts", actor.node().heuristics().handshake_timeouts());
    let mut prompt = raw::dial(addr).await;
    prompt.write_all(&[1]).await.unwrap();
    eventually("the next one is live", || actor.node().num_connected() == 1).await;
    seen.note("timeouts", actor.node().heuristics().handshake_timeouts());
    seen.note("hooks", actor.log.events());
    seen
}

pub(crate) async fn a_handshake_timeout_of_zero_fails_what_has_to_wait() -> Observation {
    let mut seen = Observation::new();
    let actor = Actor::<Impatient>::build(config())
        .handshake(|actor, mut conn| async move {
            actor.log.add("handshake");
            actor.borrow_stream(&mut conn).read_u8().await?;
            Ok(conn)
        })
        .enabling([Protocol::Handshake])
        .await;
    let (_listener, addr) = raw::listener().await;
    seen.note("connect", fault(&actor.node().connect(addr).await));
    seen.note("timeouts", actor.node().heuristics().handshake_timeouts());
    seen.note("connecting", actor.node().num_connecting());
    seen
}

pub(crate) async fn a_panic_in_a_dialled_handshake_fails_the_dial() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .handshake(|actor, conn| async move {
            if actor.log.count("again") == 0 {
                panic!("on purpose");
            }
            Ok(conn)
        })
        .enabling([Protocol::Handshake])
        .await;
    let (_listener, addr) = raw::listener().await;
    let result = patiently("a dial", actor.node().connect(addr)).await;
    seen.note("connect", fault(&result));
    seen.note("counts", (actor.node().num_connected(), actor.node().num_connecting()));
    actor.log.add("again");
    seen.note("the next dial", fault(&patiently("a dial", actor.node().connect(addr)).await));
    seen
}

pub(crate) async fn a_panic_in_an_accepted_handshake_ends_that_setup() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .handshake(|actor, conn| async move {
            if actor.log.count("again") == 0 {
                panic!("on purpose");
            }
            Ok(conn)
        })
        .enabling([Protocol::Handshake])
        .await;
    let addr = actor.listen().await;
    let mut first = raw::dial(addr).await;
    seen.note("closed", raw::is_ended(&mut first).await);
    eventually("the slot is free", || actor.node().num_connecting() == 0).await;
    actor.log.add("again");
    let _second = raw::dial(addr).await;
    eventually("the second is live", || actor.node().num_connected() == 1).await;
    seen.note("counts", (actor.node().num_connected(), actor.node().num_connecting()));
    seen
}

pub(crate) async fn handshakes_exchange_bytes_before_messages() -> Observation {
    let mut seen = Observation::new();
    let make = || {
        Actor::build(config()).handshake(|actor: Actor, mut conn| async move {
            let stream = actor.borrow_stream(&mut conn);
            stream.write_all(b"hello").await?;
            let mut reply = [0; 5];
            stream.read_exact(&mut reply).await?;
            actor.log.add(format!("handshake {} {:?}", String::from_utf8_lossy(&reply), conn.side()));
            Ok(conn)
        })
    };
    let all = [Protocol::Handshake, Protocol::Reading, Protocol::Writing];
    let (dialler, listener) = (make().enabling(all).await, make().enabling(all).await);
    let addr = listener.listen().await;
    seen.note("connect", fault(&dialler.node().connect(addr).await));
    eventually("both are live", || listener.node().num_connected() == 1).await;
    dialler.unicast_fast(addr, "to the listener".into()).unwrap();
    listener.unicast_fast(listener.only_peer(), "to the dialler".into()).unwrap();
    dialler.log.wait_for("got", 1).await;
    listener.log.wait_for("got", 1).await;
    seen.note("dialler", (dialler.log.after("handshake "), dialler.log.after("got ")));
    seen.note("listener", (listener.log.after("handshake "), listener.log.after("got ")));
    seen.note("stats do not count the handshake", dialler.node().stats().received());
    seen
}

pub(crate) async fn bytes_behind_the_handshake_reach_the_reader() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .handshake(|actor, mut conn| async move {
            let mut greeting = [0; 5];
            actor.borrow_stream(&mut conn).read_exact(&mut greeting).await?;
            Ok(conn)
        })
        .enabling([Protocol::Handshake, Protocol::Reading])
        .await;
    let addr = actor.listen().await;
    let mut peer = raw::dial(addr).await;
    let bytes = [&b"hello"[..], &frames(["one", "two", "three"])].concat();
    peer.write_all(&bytes).await.unwrap();
    actor.log.wait_for("got", 3).await;
    seen.note("got", actor.log.after("got "));
    seen
}

pub(crate) async fn a_handshake_knows_its_connection() -> Observation {
    let mut seen = Observation::new();
    let make = || {
        Actor::build(config()).handshake(|actor: Actor, mut conn| async move {
            let addr = conn.addr();
            let node = actor.node();
            actor.log.add(format!("side {:?} {:?}", conn.side(), conn.info().side()));
            actor.log.add(format!("info agrees {}", conn.info().addr() == addr));
            let stream = actor.borrow_stream(&mut conn);
            actor.log.add(format!("peer_addr agrees {:?}", stream.peer_addr().map(|peer| peer == addr).ok()));
            actor.log.add(format!("counts {} {}", node.num_connecting(), node.num_connected()));
            actor.log.add(format!("states {} {}", node.is_connecting(addr), node.is_connected(addr)));
            conn.stats().register_sent_messages(1, 10);
            conn.info().stats().register_received_message(20);
            Ok(conn)
        })
    };
    let (dialler, listener) =
        (make().enabling([Protocol::Handshake]).await, make().enabling([Protocol::Handshake]).await);
    let addr = listener.listen().await;
    dialler.node().connect(addr).await.unwrap();
    eventually("both are live", || listener.node().num_connected() == 1).await;
    for (actor, peer) in [(&dialler, addr), (&listener, listener.only_peer())] {
        seen.note("log", actor.log.events());
        let info = actor.node().connection_info(peer).unwrap();
        seen.note("connection stats", (info.stats().sent(), info.stats().received()));
        seen.note("node stats", (actor.node().stats().sent(), actor.node().stats().received()));
    }
    seen
}

pub(crate) async fn a_late_handshake_spares_live_connections() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor =
        Actor::build(config()).handshake(|_, _| async { Err(io::ErrorKind::PermissionDenied.into()) }).done();
    let (_listener, addr) = raw::listener().await;
    let (_other_listener, other) = raw::listener().await;
    actor.node().connect(addr).await.unwrap();
    actor.enable_handshake().await;
    seen.note("the live one", actor.node().is_connected(addr));
    seen.note("a new one", fault(&actor.node().connect(other).await));
    seen.note("connected", actor.node().num_connected());
    seen
}

pub(crate) async fn a_handshake_runs_even_if_the_peer_is_gone() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .handshake(|actor, mut conn| async move {
            let read = actor.borrow_stream(&mut conn).read_u8().await;
            actor.log.add(format!("handshake {:?}", read.map_err(|error| error.kind())));
            Ok(conn)
        })
        .enabling([Protocol::Handshake, Protocol::OnConnect])
        .await;
    let addr = actor.listen().await;
    drop(raw::dial(addr).await);
    actor.log.wait_for("on_connect", 1).await;
    seen.note("log", actor.log.events());
    seen
}
