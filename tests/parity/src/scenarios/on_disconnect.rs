//! The OnDisconnect protocol.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    time::Instant,
};

use super::{
    super::p2p::{Pea2Pea, protocols::Writing},
    actor::{Actor, Protocol, config},
    faults::fault,
};
use crate::shared::{
    observation::Observation,
    raw,
    timing::{eventually, patiently},
    tuning::{Tuning, tuning},
    wire::{ERROR, payloads},
};

/// A dialled raw peer.
async fn peer_of<T: Tuning>(actor: &Actor<T>) -> (TcpStream, SocketAddr, TcpListener) {
    let (listener, addr) = raw::listener().await;
    actor.node().connect(addr).await.unwrap();
    let peer = raw::accept(&listener).await;
    (peer, addr, listener)
}

pub(crate) async fn on_disconnect_sees_a_live_connection() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .on_disconnect(|actor, addr, origin| async move {
            let node = actor.node();
            actor.log.add(format!("origin {origin:?}"));
            actor.log.add(format!("connected {} {}", node.is_connected(addr), node.num_connected()));
            actor.log.add(format!("info {}", node.connection_info(addr).is_some()));
            actor.log.add(format!("disconnect {}", node.disconnect(addr).await));
            let receipt = actor.unicast(addr, "farewell".into());
            actor.log.add(format!("unicast {}", fault(&receipt)));
            actor.log.add(format!("receipt {}", fault(&receipt.unwrap().await.unwrap())));
        })
        .enabling([Protocol::Writing, Protocol::OnDisconnect])
        .await;
    let (mut peer, addr, _listener) = peer_of(&actor).await;
    seen.note("disconnect", patiently("a disconnect", actor.node().disconnect(addr)).await);
    seen.note("log", actor.log.events());
    let (bytes, end) = raw::read_to_end(&mut peer).await;
    seen.note("the peer got", payloads(&bytes));
    seen.note("end", end);
    seen
}

/// A hook that queues a message without waiting for it.
async fn hasty_farewell(shut_down: bool) -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .on_disconnect(|actor, addr, _| async move {
            actor.log.add(format!("sent {}", fault(&actor.unicast_fast(addr, "farewell".into()))));
        })
        .enabling([Protocol::Writing, Protocol::OnDisconnect])
        .await;
    let (mut peer, addr, _listener) = peer_of(&actor).await;
    if shut_down {
        actor.node().shut_down().await;
    } else {
        actor.node().disconnect(addr).await;
    }
    seen.note("log", actor.log.events());
    let (bytes, end) = raw::read_to_end(&mut peer).await;
    seen.note("the peer got", payloads(&bytes));
    seen.note("end", end);
    seen
}

pub(crate) async fn a_message_queued_by_on_disconnect() -> Observation {
    hasty_farewell(false).await
}

pub(crate) async fn a_message_queued_by_on_disconnect_at_shutdown() -> Observation {
    hasty_farewell(true).await
}

pub(crate) async fn on_disconnect_cannot_send_when_the_writer_failed() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .on_disconnect(|actor, addr, origin| async move {
            actor.log.add(format!("origin {origin:?}"));
            let kind = actor.unicast(addr, "farewell".into()).map(drop).map_err(|error| error.kind());
            let refused = matches!(kind, Err(io::ErrorKind::NotConnected | io::ErrorKind::BrokenPipe));
            actor.log.add(format!("refused {refused}"));
        })
        .enabling([Protocol::Writing, Protocol::OnDisconnect])
        .await;
    let (_peer, addr, _listener) = peer_of(&actor).await;
    actor.unicast_fast(addr, ERROR.into()).unwrap();
    actor.log.wait_for("refused", 1).await;
    seen.note("log", actor.log.events());
    seen
}

tuning!(ShortHook { ON_DISCONNECT_TIMEOUT_MS: u64 = 200 });

tuning!(NoHookTime { ON_DISCONNECT_TIMEOUT_MS: u64 = 0 });

async fn hanging_on_disconnect<T: Tuning>() -> Observation {
    let mut seen = Observation::new();
    let actor = Actor::<T>::build(config())
        .on_disconnect(|actor, _, _| async move {
            let _dropped = actor.log.on_drop("dropped");
            actor.log.add("begun");
            std::future::pending::<()>().await;
        })
        .enabling([Protocol::OnDisconnect])
        .await;
    let (_peer, addr, _listener) = peer_of(&actor).await;
    let start = Instant::now();
    seen.note("disconnect", patiently("a disconnect", actor.node().disconnect(addr)).await);
    seen.note("not before the timeout", start.elapsed() >= Duration::from_millis(T::ON_DISCONNECT_TIMEOUT_MS));
    seen.note("connected", actor.node().is_connected(addr));
    eventually("the hook is dropped", || actor.log.count("begun") == actor.log.count("dropped")).await;
    seen.note("dropped", actor.log.count("dropped"));
    seen
}

pub(crate) async fn a_hanging_on_disconnect_is_cut_off() -> Observation {
    hanging_on_disconnect::<ShortHook>().await
}

pub(crate) async fn an_on_disconnect_without_time_is_cut_off_at_once() -> Observation {
    hanging_on_disconnect::<NoHookTime>().await
}

pub(crate) async fn a_panic_in_on_disconnect_is_contained() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .on_disconnect(|actor, _, _| async move {
            actor.log.add("begun");
            panic!("on purpose");
        })
        .enabling([Protocol::OnDisconnect])
        .await;
    let (mut peer, addr, _listener) = peer_of(&actor).await;
    seen.note("disconnect", patiently("a disconnect", actor.node().disconnect(addr)).await);
    seen.note("closed", raw::is_ended(&mut peer).await);
    seen.note("connected", actor.node().num_connected());
    seen.note("connect again", fault(&actor.node().connect(addr).await));
    seen.note("log", actor.log.events());
    seen
}
