//! OnConnect, the codec hooks, and the order of all hooks.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::net::{TcpListener, TcpStream};

use super::{
    super::p2p::{Config, Pea2Pea, protocols::Writing},
    actor::{ALL, Actor, Protocol, config},
    faults::fault,
};
use crate::shared::{
    observation::Observation,
    raw,
    timing::{eventually, happens_soon, patiently, soon},
    tuning::{Standard, Tuning, tuning},
    wire::payloads,
};

/// A dialled raw peer.
async fn peer_of<T: Tuning>(actor: &Actor<T>) -> (TcpStream, SocketAddr, TcpListener) {
    let (listener, addr) = raw::listener().await;
    actor.node().connect(addr).await.unwrap();
    let peer = raw::accept(&listener).await;
    (peer, addr, listener)
}

pub(crate) async fn hooks_run_in_order() -> Observation {
    let mut seen = Observation::new();
    let (dialler, listener): (Actor, Actor) =
        (Actor::build(config()).enabling(ALL).await, Actor::build(config()).enabling(ALL).await);
    let addr = listener.listen().await;
    dialler.node().connect(addr).await.unwrap();
    listener.log.wait_for("on_connect", 1).await;
    dialler.unicast_fast(addr, "hello".into()).unwrap();
    listener.log.wait_for("got", 1).await;
    seen.note("disconnect", dialler.node().disconnect(addr).await);
    listener.log.wait_for("on_disconnect", 1).await;
    seen.note("dialler", dialler.log.events());
    seen.note("listener", listener.log.events());
    seen
}

pub(crate) async fn codecs_get_the_side_of_the_node() -> Observation {
    let mut seen = Observation::new();
    let make = || {
        let logs = Arc::new(Mutex::new(Vec::new()));
        let (reads, writes) = (logs.clone(), logs.clone());
        let builder = Actor::<Standard>::build(config())
            .read_codec(move |side| reads.lock().unwrap().push(format!("read {side:?}")))
            .write_codec(move |side| writes.lock().unwrap().push(format!("write {side:?}")));
        (builder, logs)
    };
    let ((dialler, dialler_sides), (listener, listener_sides)) = (make(), make());
    let both = [Protocol::Reading, Protocol::Writing];
    let (dialler, listener) = (dialler.enabling(both).await, listener.enabling(both).await);
    let addr = listener.listen().await;
    dialler.node().connect(addr).await.unwrap();
    eventually("both are live", || listener.node().num_connected() == 1).await;
    seen.note("dialler", dialler_sides.lock().unwrap());
    seen.note("listener", listener_sides.lock().unwrap());
    seen
}

async fn codec_panic(reading: bool, accepted: bool) -> Observation {
    let mut seen = Observation::new();
    let builder = Actor::<Standard>::build(config());
    let builder = if reading {
        builder.read_codec(|_| panic!("on purpose"))
    } else {
        builder.write_codec(|_| panic!("on purpose"))
    };
    let actor = builder.enabling(ALL).await;
    if accepted {
        let addr = actor.listen().await;
        let mut peer = raw::dial(addr).await;
        seen.note("closed", raw::is_ended(&mut peer).await);
        seen.note("still listening", actor.node().listening_addr().await.is_ok());
    } else {
        let (_listener, addr) = raw::listener().await;
        seen.note("connect", fault(&patiently("a dial", actor.node().connect(addr)).await));
    }
    eventually("the slot is free", || actor.node().num_connecting() == 0).await;
    seen.note("connected", actor.node().num_connected());
    seen.note("on_connect", actor.log.count("on_connect"));
    seen.note("on_disconnect", actor.log.count("on_disconnect"));
    seen
}

pub(crate) async fn a_panic_in_a_read_codec_fails_the_dial() -> Observation {
    codec_panic(true, false).await
}

pub(crate) async fn a_panic_in_a_write_codec_fails_the_dial() -> Observation {
    codec_panic(false, false).await
}

pub(crate) async fn a_panic_in_a_read_codec_ends_an_accepted_setup() -> Observation {
    codec_panic(true, true).await
}

pub(crate) async fn a_panic_in_a_write_codec_ends_an_accepted_setup() -> Observation {
    codec_panic(false, true).await
}

pub(crate) async fn connect_does_not_wait_for_on_connect() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .on_connect(|actor, addr| async move {
            actor.log.add(format!("begun, connected: {}", actor.node().is_connected(addr)));
            actor.log.wait_for("open", 1).await;
            actor.log.add("ended");
        })
        .enabling([Protocol::OnConnect])
        .await;
    let _peer = peer_of(&actor).await;
    seen.note("connected", actor.node().num_connected());
    seen.note("ended", actor.log.count("ended"));
    actor.log.wait_for("begun", 1).await;
    actor.log.add("open");
    actor.log.wait_for("ended", 1).await;
    seen.note("log", actor.log.events());
    seen
}

pub(crate) async fn on_connect_can_send() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .on_connect(|actor, addr| async move {
            let receipt = actor.unicast(addr, "welcome".into());
            actor.log.add(format!("unicast {}", fault(&receipt)));
            actor.log.add(format!("receipt {}", fault(&receipt.unwrap().await.unwrap())));
        })
        .enabling([Protocol::Writing, Protocol::OnConnect])
        .await;
    let (mut peer, ..) = peer_of(&actor).await;
    seen.note("the peer got", payloads(&raw::read_exactly(&mut peer, 11).await));
    actor.log.wait_for("receipt", 1).await;
    seen.note("log", actor.log.events());
    seen
}

tuning!(Unabortable { ABORTABLE: bool = false });

async fn disconnect_during_on_connect<T: Tuning>() -> Observation {
    let mut seen = Observation::new();
    let actor = Actor::<T>::build(config())
        .on_connect(|actor, _| async move {
            let _dropped = actor.log.on_drop("dropped");
            actor.log.add("begun");
            actor.log.wait_for("open", 1).await;
            actor.log.add("ended");
        })
        .enabling([Protocol::OnConnect, Protocol::OnDisconnect])
        .await;
    let (_peer, addr, _listener) = peer_of(&actor).await;
    actor.log.wait_for("begun", 1).await;
    seen.note("disconnect", patiently("a disconnect", actor.node().disconnect(addr)).await);
    seen.note("dropped soon", happens_soon(|| actor.log.count("dropped") == 1).await);
    actor.log.add("open");
    actor.log.wait_for("dropped", 1).await;
    seen.note("log", actor.log.events());
    seen
}

pub(crate) async fn an_abortable_on_connect_ends_with_the_connection() -> Observation {
    disconnect_during_on_connect::<Standard>().await
}

pub(crate) async fn an_unabortable_on_connect_runs_to_its_end() -> Observation {
    disconnect_during_on_connect::<Unabortable>().await
}

async fn shut_down_during_on_connect<T: Tuning>() -> Observation {
    let mut seen = Observation::new();
    let actor = Actor::<T>::build(config())
        .on_connect(|actor, _| async move {
            let _dropped = actor.log.on_drop("dropped");
            actor.log.add("begun");
            actor.log.wait_for("open", 1).await;
            actor.log.add("ended");
        })
        .enabling([Protocol::OnConnect, Protocol::OnDisconnect])
        .await;
    let _peer = peer_of(&actor).await;
    actor.log.wait_for("begun", 1).await;
    patiently("the shutdown", actor.node().shut_down()).await;
    seen.note("dropped soon", happens_soon(|| actor.log.count("dropped") == 1).await);
    actor.log.add("open");
    actor.log.wait_for("dropped", 1).await;
    seen.note("log", actor.log.events());
    seen
}

pub(crate) async fn a_shutdown_ends_an_abortable_on_connect() -> Observation {
    shut_down_during_on_connect::<Standard>().await
}

pub(crate) async fn a_shutdown_spares_an_unabortable_on_connect() -> Observation {
    shut_down_during_on_connect::<Unabortable>().await
}

pub(crate) async fn an_unabortable_on_connect_is_never_skipped() -> Observation {
    let mut seen = Observation::new();
    let actor = Actor::<Unabortable>::build(config()).enabling([Protocol::OnConnect, Protocol::OnDisconnect]).await;
    let mut peers = Vec::new();
    for _ in 0..10 {
        let (listener, addr) = raw::listener().await;
        actor.node().connect(addr).await.unwrap();
        seen.note("disconnect", actor.node().disconnect(addr).await);
        peers.push(listener);
    }
    actor.log.wait_for("on_connect", 10).await;
    seen.note("paired", (actor.log.count("on_connect"), actor.log.count("on_disconnect")));
    seen
}

pub(crate) async fn a_panic_in_on_connect_ends_the_connection() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .on_connect(|_, _| async { panic!("on purpose") })
        .enabling([Protocol::OnConnect, Protocol::OnDisconnect, Protocol::Reading])
        .await;
    let (mut peer, addr, _listener) = peer_of(&actor).await;
    let ended = soon(raw::read_to_end(&mut peer)).await.is_some();
    seen.note("the connection ends", ended);
    eventually("it is removed", || !actor.node().is_connected(addr)).await;
    seen.note("on_disconnect", actor.log.after("on_disconnect "));
    seen
}

pub(crate) async fn a_panic_in_an_unabortable_on_connect_ends_the_connection() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor<Unabortable> = Actor::build(config())
        .on_connect(|_, _| async { panic!("on purpose") })
        .enabling([Protocol::OnConnect, Protocol::OnDisconnect, Protocol::Reading])
        .await;
    let (mut peer, addr, _listener) = peer_of(&actor).await;
    let ended = soon(raw::read_to_end(&mut peer)).await.is_some();
    seen.note("the connection ends", ended);
    eventually("it is removed", || !actor.node().is_connected(addr)).await;
    seen.note("on_disconnect", actor.log.after("on_disconnect "));
    seen
}

pub(crate) async fn hooks_may_use_the_node() -> Observation {
    let mut seen = Observation::new();
    let (_other, other) = raw::listener().await;
    let actor: Actor = Actor::build(Config { max_connections: 3, ..config() })
        .on_connect(move |actor, addr| async move {
            if addr != other {
                actor.log.add(format!("dial {}", fault(&actor.node().connect(other).await)));
            }
        })
        .on_disconnect(move |actor, addr, _| async move {
            if addr != other {
                actor.log.add(format!("disconnect {}", actor.node().disconnect(other).await));
            }
        })
        .enabling([Protocol::OnConnect, Protocol::OnDisconnect])
        .await;
    let (_peer, addr, _listener) = peer_of(&actor).await;
    actor.log.wait_for("dial", 1).await;
    seen.note("connected", actor.node().num_connected());
    seen.note("disconnect", patiently("a disconnect", actor.node().disconnect(addr)).await);
    seen.note("connected", actor.node().num_connected());
    seen.note("log", actor.log.events());
    seen
}

pub(crate) async fn late_hooks_meet_existing_connections() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config()).done();
    let (_peer, addr, _listener) = peer_of(&actor).await;
    actor.enable([Protocol::OnConnect, Protocol::OnDisconnect]).await;
    seen.note("on_connect ran", happens_soon(|| actor.log.count("on_connect") == 1).await);
    seen.note("disconnect", actor.node().disconnect(addr).await);
    seen.note("log", actor.log.events());
    seen
}

pub(crate) async fn late_reading_and_writing_spare_existing_connections() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config()).done();
    let (peer, addr, _listener) = peer_of(&actor).await;
    actor.enable([Protocol::Reading, Protocol::Writing]).await;
    drop(peer);
    seen.note("the departure is noticed", happens_soon(|| !actor.node().is_connected(addr)).await);
    seen.note("unicast", fault(&actor.unicast(addr, "x".into())));
    seen.note("log", actor.log.events());
    seen
}
