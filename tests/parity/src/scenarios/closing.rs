//! `shut_down` from inside the hooks.

use std::mem;

use tokio::io::AsyncWriteExt;

use super::{
    super::p2p::{DisconnectOrigin, Pea2Pea},
    actor::{ALL, Actor, Protocol, config},
    faults::fault,
};
use crate::shared::{observation::Observation, raw, timing::patiently, wire::frame};

/// `shut_down` from inside a hook: whatever becomes of that call, one from outside finishes the work.
async fn from_a_hook(hook: Protocol) -> Observation {
    let mut seen = Observation::new();
    let is = move |other: Protocol| mem::discriminant(&hook) == mem::discriminant(&other);
    let actor: Actor = Actor::build(config())
        .handshake(move |actor, conn| async move {
            if is(Protocol::Handshake) {
                actor.log.add("in the hook");
                actor.node().shut_down().await;
                actor.log.add("returned");
            }
            Ok(conn)
        })
        .process(move |actor, _, _| async move {
            actor.log.add("in the hook");
            actor.node().shut_down().await;
            actor.log.add("returned");
        })
        .on_connect(move |actor, _| async move {
            if is(Protocol::OnConnect) {
                actor.log.add("in the hook");
                actor.node().shut_down().await;
                actor.log.add("returned");
            }
        })
        .on_disconnect(move |actor, _, origin| async move {
            actor.log.add(format!("on_disconnect {origin:?}"));
            if is(Protocol::OnDisconnect) && origin == DisconnectOrigin::User {
                actor.log.add("in the hook");
                actor.node().shut_down().await;
                actor.log.add("returned");
            }
        })
        .enabling(ALL)
        .await;
    let (listener, addr) = raw::listener().await;
    let run = async {
        let dialled = actor.node().connect(addr).await;
        let mut peer = raw::accept(&listener).await;
        if is(Protocol::Reading) {
            peer.write_all(&frame(b"x")).await.unwrap();
        }
        if is(Protocol::OnDisconnect) {
            actor.node().disconnect(addr).await;
        }
        actor.log.wait_for("in the hook", 1).await;
        actor.node().shut_down().await;
        (dialled, peer)
    };
    let (dialled, mut peer) = patiently("all of it", run).await;
    seen.note("connect", fault(&dialled));
    seen.note("counts", (actor.node().num_connected(), actor.node().num_connecting()));
    seen.note("the peer is cut off", raw::is_ended(&mut peer).await);
    seen.note("on_disconnect", actor.log.after("on_disconnect "));
    seen.note("connect again", fault(&actor.node().connect(addr).await));
    seen
}

pub(crate) async fn a_handshake_may_shut_the_node_down() -> Observation {
    from_a_hook(Protocol::Handshake).await
}

pub(crate) async fn process_message_may_shut_the_node_down() -> Observation {
    from_a_hook(Protocol::Reading).await
}

pub(crate) async fn on_connect_may_shut_the_node_down() -> Observation {
    from_a_hook(Protocol::OnConnect).await
}

pub(crate) async fn on_disconnect_may_shut_the_node_down() -> Observation {
    from_a_hook(Protocol::OnDisconnect).await
}
