//! That connections, hooks and threads do not get in each other's way.

use std::{any::type_name, net::SocketAddr, thread};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    super::p2p::{
        Config, Node, Pea2Pea,
        connections::{Connection, ConnectionInfo, ConnectionSide, DisconnectOrigin},
        protocols::*,
    },
    actor::{ALL, Actor, Protocol, config, plain},
    faults::fault,
};
use crate::shared::{
    observation::Observation,
    raw,
    timing::{eventually, happens_soon, patiently},
    tuning::tuning,
    wire::{frame, frames, payloads},
};

/// A raw peer that is live.
async fn peer_of(actor: &Actor, addr: SocketAddr) -> TcpStream {
    let before = actor.node().num_connected();
    let peer = raw::dial(addr).await;
    eventually("the peer is live", || actor.node().num_connected() > before).await;
    peer
}

pub(crate) async fn a_node_can_be_made_outside_of_a_runtime() -> Observation {
    let mut seen = Observation::new();
    let node = thread::spawn(|| Node::new(config())).join().ok();
    seen.note("made", node.is_some());
    let node = node.unwrap();
    seen.note("it can listen", node.toggle_listener().await.is_ok());
    let clone = node.clone();
    let counts =
        thread::spawn(move || (clone.num_connected(), clone.connected_addrs().len(), clone.is_connecting(nobody())));
    seen.note("it can be asked", counts.join().ok());
    seen.note("it can be dropped", thread::spawn(move || drop(node)).join().is_ok());
    seen
}

fn nobody() -> SocketAddr {
    ([127, 0, 0, 1], 9).into()
}

pub(crate) async fn messages_can_be_sent_from_outside_of_a_runtime() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config()).enabling([Protocol::Writing]).await;
    let (listener, addr) = raw::listener().await;
    actor.node().connect(addr).await.unwrap();
    let mut peer = raw::accept(&listener).await;
    let sender = actor.clone();
    let sent = thread::spawn(move || {
        let fast = sender.unicast_fast(addr, "fast".into()).is_ok();
        let receipt = sender.unicast(addr, "slow".into()).is_ok();
        (fast, receipt)
    });
    seen.note("sent", sent.join().ok());
    seen.note("the peer got", payloads(&raw::read_exactly(&mut peer, 16).await));
    seen
}

pub(crate) async fn protocols_can_be_enabled_from_a_task() -> Observation {
    let mut seen = Observation::new();
    let actor = plain();
    let (enabling, node) = (actor.clone(), actor.node().clone());
    tokio::spawn(async move {
        enabling.enable_handshake().await;
        enabling.enable_reading().await;
        enabling.enable_writing().await;
        enabling.enable_on_connect().await;
        enabling.enable_on_disconnect().await;
    })
    .await
    .unwrap();
    let (_listener, addr) = raw::listener().await;
    let dial = tokio::spawn(async move {
        let result = node.connect(addr).await;
        let done = node.disconnect(addr).await;
        node.toggle_listener().await.unwrap();
        node.shut_down().await;
        (fault(&result), done)
    });
    seen.note("all futures can move between threads", dial.await.unwrap());
    seen
}

pub(crate) async fn the_types_are_send_and_sync() -> Observation {
    fn is_shareable<T: Send + Sync + 'static>() -> bool {
        !type_name::<T>().is_empty()
    }
    let mut seen = Observation::new();
    seen.note("node", is_shareable::<Node>());
    seen.note("connection", is_shareable::<Connection>());
    seen.note("info", is_shareable::<ConnectionInfo>());
    seen.note("side", is_shareable::<ConnectionSide>());
    seen.note("origin", is_shareable::<DisconnectOrigin>());
    seen
}

pub(crate) async fn a_silent_dialler_does_not_hold_up_others() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .handshake(|actor, mut conn| async move {
            actor.borrow_stream(&mut conn).read_u8().await?;
            Ok(conn)
        })
        .enabling([Protocol::Handshake])
        .await;
    let addr = actor.listen().await;
    let mut silent = Vec::new();
    for _ in 0..5 {
        silent.push(raw::dial(addr).await);
    }
    eventually("all are in their handshakes", || actor.node().num_connecting() == 5).await;
    let mut prompt = raw::dial(addr).await;
    prompt.write_all(&[1]).await.unwrap();
    eventually("the prompt one is live", || actor.node().num_connected() == 1).await;
    seen.note("connecting", actor.node().num_connecting());
    seen.note("inbound setups are known by their address", actor.node().is_connecting(silent[0].local_addr().unwrap()));
    drop(silent);
    eventually("the silent ones are gone", || actor.node().num_connecting() == 0).await;
    seen.note("connected", actor.node().num_connected());
    seen.note("timeouts", actor.node().heuristics().handshake_timeouts());
    seen
}

pub(crate) async fn the_dial_timeout_does_not_cover_the_handshake() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(Config { connection_timeout_ms: 100, ..config() })
        .handshake(|actor, conn| async move {
            actor.log.add("handshake");
            // longer than the dial may take
            happens_soon(|| false).await;
            Ok(conn)
        })
        .enabling([Protocol::Handshake])
        .await;
    let (_listener, addr) = raw::listener().await;
    seen.note("connect", fault(&actor.node().connect(addr).await));
    seen.note("connected", actor.node().is_connected(addr));
    seen
}

tuning!(Endless {
    HANDSHAKE_TIMEOUT_MS: u64 = u64::MAX,
    IDLE_TIMEOUT_MS: u64 = u64::MAX,
    WRITE_TIMEOUT_MS: u64 = u64::MAX,
    ON_DISCONNECT_TIMEOUT_MS: u64 = u64::MAX,
});

pub(crate) async fn timeouts_may_be_endless() -> Observation {
    let mut seen = Observation::new();
    let make = || Actor::<Endless>::build(config()).enabling(ALL);
    let (dialler, listener) = (make().await, make().await);
    let addr = listener.listen().await;
    seen.note("connect", fault(&dialler.node().connect(addr).await));
    seen.note("receipt", fault(&dialler.unicast(addr, "hello".into()).unwrap().await.unwrap()));
    listener.log.wait_for("got hello", 1).await;
    seen.note("disconnect", patiently("a disconnect", dialler.node().disconnect(addr)).await);
    listener.log.wait_for("on_disconnect", 1).await;
    patiently("the shutdown", listener.node().shut_down()).await;
    seen.note("dialler", dialler.log.after("on_disconnect "));
    seen.note("listener", listener.log.after("on_disconnect "));
    seen
}

pub(crate) async fn a_slow_peer_does_not_hold_up_others() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .process(|actor, _, message| async move {
            if &message[..] == b"slow" {
                actor.log.wait_for("open", 1).await;
            }
            actor.log.add(format!("got {}", String::from_utf8_lossy(&message)));
        })
        .enabling([Protocol::Reading])
        .await;
    let addr = actor.listen().await;
    let (mut slow, mut quick) = (peer_of(&actor, addr).await, peer_of(&actor, addr).await);
    slow.write_all(&frames(["slow", "behind"])).await.unwrap();
    quick.write_all(&frames(["one", "two"])).await.unwrap();
    actor.log.wait_for("got two", 1).await;
    actor.log.add("open");
    actor.log.wait_for("got behind", 1).await;
    seen.note("got", actor.log.after("got "));
    seen
}

pub(crate) async fn a_stalled_peer_does_not_hold_up_others() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config()).enabling([Protocol::Writing]).await;
    let (stalled_listener, stalled) = raw::listener().await;
    let (quick_listener, quick) = raw::listener().await;
    actor.node().connect(stalled).await.unwrap();
    actor.node().connect(quick).await.unwrap();
    let (_stalled, mut peer) = (raw::accept(&stalled_listener).await, raw::accept(&quick_listener).await);
    actor.unicast_fast(stalled, vec![0; 16 * 1024 * 1024].into()).unwrap();
    for _ in 0..5 {
        let receipt = actor.unicast(quick, "quick".into()).unwrap();
        seen.note("receipt", fault(&patiently("a receipt", receipt).await.unwrap()));
    }
    seen.note("the peer got", payloads(&raw::read_exactly(&mut peer, 45).await));
    seen.note("connected", actor.node().num_connected());
    seen
}

pub(crate) async fn a_slow_on_connect_does_not_hold_up_reading() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .on_connect(|actor, _| async move {
            actor.log.add("on_connect begun");
            actor.log.wait_for("open", 1).await;
            actor.log.add("on_connect ended");
        })
        .enabling([Protocol::Reading, Protocol::OnConnect])
        .await;
    let addr = actor.listen().await;
    let mut peer = peer_of(&actor, addr).await;
    peer.write_all(&frame(b"early")).await.unwrap();
    actor.log.wait_for("got", 1).await;
    seen.note("on_connect ended", actor.log.count("on_connect ended"));
    actor.log.add("open");
    actor.log.wait_for("on_connect ended", 1).await;
    seen
}

pub(crate) async fn a_disconnect_cuts_process_message_short() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .process(|actor, _, message| async move {
            let _dropped = actor.log.on_drop("dropped");
            actor.log.add(format!("begun {}", String::from_utf8_lossy(&message)));
            actor.log.wait_for("open", 1).await;
            actor.log.add(format!("got {}", String::from_utf8_lossy(&message)));
        })
        .enabling([Protocol::Reading, Protocol::OnDisconnect])
        .await;
    let addr = actor.listen().await;
    let mut peer = peer_of(&actor, addr).await;
    peer.write_all(&frames(["one", "two", "three"])).await.unwrap();
    actor.log.wait_for("begun", 1).await;
    seen.note("disconnect", actor.node().disconnect(actor.only_peer()).await);
    eventually("the hook is dropped", || actor.log.count("dropped") == 1).await;
    actor.log.add("open");
    seen.note("more is processed", happens_soon(|| actor.log.count("begun") > 1).await);
    seen.note("log", actor.log.events());
    seen
}

pub(crate) async fn messages_are_processed_while_on_disconnect_runs() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .on_disconnect(|actor, _, origin| async move {
            actor.log.add(format!("on_disconnect {origin:?}"));
            actor.log.wait_for("got", 1).await;
        })
        .enabling([Protocol::Reading, Protocol::OnDisconnect])
        .await;
    let addr = actor.listen().await;
    let mut peer = peer_of(&actor, addr).await;
    let late = async {
        actor.log.wait_for("on_disconnect", 1).await;
        peer.write_all(&frame(b"late")).await.unwrap();
    };
    let (done, ()) =
        patiently("the ending", async { tokio::join!(actor.node().disconnect(actor.only_peer()), late) }).await;
    seen.note("disconnect", done);
    seen.note("log", actor.log.events());
    seen
}

pub(crate) async fn a_peer_that_leaves_during_on_disconnect_changes_nothing() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .on_disconnect(|actor, _, origin| async move {
            actor.log.add(format!("on_disconnect {origin:?}"));
            actor.log.wait_for("open", 1).await;
            actor.log.add("ended");
        })
        .enabling([Protocol::Reading, Protocol::OnDisconnect])
        .await;
    let addr = actor.listen().await;
    let peer = peer_of(&actor, addr).await;
    let leaving = async {
        actor.log.wait_for("on_disconnect", 1).await;
        drop(peer);
        seen.note("it is removed early", happens_soon(|| actor.node().num_connected() == 0).await);
        actor.log.add("open");
    };
    let ending = async { tokio::join!(actor.node().disconnect(actor.only_peer()), leaving) };
    let (done, ()) = patiently("the ending", ending).await;
    seen.note("disconnect", done);
    seen.note("log", actor.log.events());
    seen
}
