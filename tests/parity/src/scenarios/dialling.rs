//! What `connect` and `connect_using_socket` say, and what they leave behind.

use std::{net::SocketAddr, pin::pin, time::Instant};

use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::{
    super::p2p::{Config, Pea2Pea},
    actor::{ALL, Actor, Protocol, config, plain},
    faults::fault,
};
use crate::shared::{
    observation::Observation,
    raw,
    timing::{eventually, happens_soon, patiently, poll_once},
};

/// The counts that a failed dial must leave at zero.
fn counts(actor: &Actor) -> (usize, usize) {
    (actor.node().num_connected(), actor.node().num_connecting())
}

pub(crate) async fn a_dial_of_a_listening_node_succeeds() -> Observation {
    let mut seen = Observation::new();
    let (dialler, listener) = (plain(), plain());
    let addr = listener.listen().await;
    seen.note("connect", fault(&dialler.node().connect(addr).await));
    seen.note("connected", dialler.node().is_connected(addr));
    seen.note("connecting", dialler.node().is_connecting(addr));
    seen.note("addrs", dialler.node().connected_addrs() == [addr]);
    seen.note("info", dialler.node().connection_info(addr).map(|info| (info.addr() == addr, info.side())));
    eventually("the other end is live", || listener.node().num_connected() == 1).await;
    let peer = listener.only_peer();
    seen.note("other end's info", listener.node().connection_info(peer).map(|info| (info.addr() == peer, info.side())));
    let infos = listener.node().connection_infos();
    seen.note("other end's infos", infos.iter().map(|(addr, info)| info.addr() == *addr).collect::<Vec<_>>());
    seen.note("the keys differ", addr != peer);
    seen
}

pub(crate) async fn a_node_does_not_dial_its_listening_address() -> Observation {
    let mut seen = Observation::new();
    let actor = plain();
    let addr = actor.listen().await;
    seen.note("connect", fault(&actor.node().connect(addr).await));
    seen.note("counts", counts(&actor));
    let socket = TcpSocket::new_v4().unwrap();
    seen.note("connect_using_socket", fault(&actor.node().connect_using_socket(addr, socket).await));
    seen.note("rejected inbound", actor.node().heuristics().inbound_connections_rejected());
    seen
}

pub(crate) async fn a_wildcard_node_does_not_dial_itself_over_loopback() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(Config { listener_addr: Some(([0, 0, 0, 0], 0).into()), ..config() }).done();
    let bound = actor.listen().await;
    seen.note("bound", bound.ip());
    for ip in ["127.0.0.1", "127.0.0.2", "127.255.255.254", "0.0.0.0"] {
        let addr = SocketAddr::new(ip.parse().unwrap(), bound.port());
        seen.note(ip, fault(&actor.node().connect(addr).await));
        seen.note("counts", counts(&actor));
    }
    seen
}

pub(crate) async fn a_wildcard_v6_node_does_not_dial_itself_over_loopback() -> Observation {
    let mut seen = Observation::new();
    let wildcard = "[::]:0".parse().unwrap();
    let actor: Actor = Actor::build(Config { listener_addr: Some(wildcard), ..config() }).done();
    let port = actor.listen().await.port();
    for ip in ["::1", "::"] {
        seen.note(ip, fault(&actor.node().connect(SocketAddr::new(ip.parse().unwrap(), port)).await));
        seen.note("counts", counts(&actor));
    }
    seen
}

pub(crate) async fn another_nodes_port_on_loopback_is_no_self_dial() -> Observation {
    let mut seen = Observation::new();
    let actor = plain();
    let own = actor.listen().await;
    let same_port: SocketAddr = ([127, 0, 0, 7], own.port()).into();
    let _listener = TcpListener::bind(same_port).await.unwrap();
    seen.note("the same port on another loopback ip", fault(&actor.node().connect(same_port).await));
    seen.note("counts", counts(&actor));
    seen
}

pub(crate) async fn an_address_is_dialled_once() -> Observation {
    let mut seen = Observation::new();
    let actor = plain();
    let (_listener, addr) = raw::listener().await;
    seen.note("first", fault(&actor.node().connect(addr).await));
    seen.note("second", fault(&actor.node().connect(addr).await));
    let socket = TcpSocket::new_v4().unwrap();
    seen.note("with a socket", fault(&actor.node().connect_using_socket(addr, socket).await));
    seen.note("counts", counts(&actor));
    seen
}

pub(crate) async fn an_address_that_is_being_dialled_is_taken() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .handshake(|actor, conn| async move {
            actor.log.add("handshake");
            actor.log.wait_for("open", 1).await;
            Ok(conn)
        })
        .enabling([Protocol::Handshake])
        .await;
    let (_listener, addr) = raw::listener().await;
    let second = async {
        actor.log.wait_for("handshake", 1).await;
        seen.note("connecting", (actor.node().is_connecting(addr), counts(&actor)));
        seen.note("connected", actor.node().is_connected(addr));
        seen.note("info", actor.node().connection_info(addr).is_some());
        seen.note("second", fault(&actor.node().connect(addr).await));
        seen.note("disconnect", actor.node().disconnect(addr).await);
        actor.log.add("open");
    };
    let (first, ()) = patiently("both dials", async { tokio::join!(actor.node().connect(addr), second) }).await;
    seen.note("first", fault(&first));
    seen.note("counts", counts(&actor));
    seen
}

pub(crate) async fn an_address_in_teardown_is_taken() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .on_disconnect(|actor, _, _| async move {
            actor.log.add("on_disconnect");
            actor.log.wait_for("open", 1).await;
        })
        .enabling([Protocol::OnDisconnect])
        .await;
    let (_listener, addr) = raw::listener().await;
    actor.node().connect(addr).await.unwrap();
    let redial = async {
        actor.log.wait_for("on_disconnect", 1).await;
        seen.note("during the teardown", fault(&actor.node().connect(addr).await));
        seen.note("listed", (actor.node().is_connected(addr), actor.node().connected_addrs().len(), counts(&actor)));
        seen.note("info", actor.node().connection_info(addr).is_some());
        actor.log.add("open");
    };
    let (done, ()) = patiently("the teardown", async { tokio::join!(actor.node().disconnect(addr), redial) }).await;
    seen.note("disconnect", done);
    seen.note("afterwards", fault(&actor.node().connect(addr).await));
    seen
}

pub(crate) async fn a_refused_dial_gives_the_os_error() -> Observation {
    let mut seen = Observation::new();
    let actor = plain();
    let (_socket, addr) = raw::deserted();
    for _ in 0..2 {
        seen.note("connect", fault(&actor.node().connect(addr).await));
        seen.note("counts", counts(&actor));
    }
    seen.note("budget rejections", actor.node().heuristics().connect_budget_rejections());
    seen
}

pub(crate) async fn impossible_addresses_give_the_os_error() -> Observation {
    let mut seen = Observation::new();
    let actor = plain();
    for addr in ["127.0.0.1:0", "255.255.255.255:9"] {
        seen.note(addr, fault(&actor.node().connect(addr.parse().unwrap()).await));
        seen.note("counts", counts(&actor));
    }
    let socket = TcpSocket::new_v6().unwrap();
    let (_listener, addr) = raw::listener().await;
    seen.note("a v6 socket to a v4 address", fault(&actor.node().connect_using_socket(addr, socket).await));
    seen.note("counts", counts(&actor));
    seen.note("the address is free", fault(&actor.node().connect(addr).await));
    seen
}

pub(crate) async fn a_dial_that_nobody_answers_times_out() -> Observation {
    let mut seen = Observation::new();
    let (_fillers, _listener, addr) = raw::unresponsive().await;
    let actor: Actor = Actor::build(Config { connection_timeout_ms: 300, ..config() }).done();
    let start = Instant::now();
    seen.note("connect", fault(&actor.node().connect(addr).await));
    seen.note("not before the timeout", start.elapsed().as_millis() >= 300);
    seen.note("counts", counts(&actor));
    seen.note("handshake timeouts", actor.node().heuristics().handshake_timeouts());
    let socket = TcpSocket::new_v4().unwrap();
    seen.note("with a socket", fault(&actor.node().connect_using_socket(addr, socket).await));
    seen
}

pub(crate) async fn a_dial_timeout_of_zero_fails_at_once() -> Observation {
    let mut seen = Observation::new();
    let (_fillers, _listener, addr) = raw::unresponsive().await;
    let actor: Actor = Actor::build(Config { connection_timeout_ms: 0, ..config() }).done();
    seen.note("connect", fault(&actor.node().connect(addr).await));
    seen.note("counts", counts(&actor));
    seen
}

pub(crate) async fn the_socket_of_the_caller_is_used() -> Observation {
    let mut seen = Observation::new();
    let (dialler, listener) = (plain(), plain());
    let addr = listener.listen().await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 5], 0).into()).unwrap();
    let local = socket.local_addr().unwrap();
    seen.note("connect", fault(&dialler.node().connect_using_socket(addr, socket).await));
    eventually("the other end is live", || listener.node().num_connected() == 1).await;
    seen.note("the peer sees the bound address", listener.node().is_connected(local));
    seen.note("connected", dialler.node().is_connected(addr));
    seen
}

pub(crate) async fn a_tcp_self_dial_is_refused() -> Observation {
    let mut seen = Observation::new();
    let actor = plain();
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let local = socket.local_addr().unwrap();
    seen.note("connect_using_socket", fault(&actor.node().connect_using_socket(local, socket).await));
    seen.note("counts", counts(&actor));
    seen
}

/// Dials a peer that leaves during the handshake.
async fn dial_one_that_leaves(leave: impl Fn(TcpStream)) -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .handshake(|actor, conn| async move {
            actor.log.add("handshake");
            actor.log.wait_for("gone", 1).await;
            Ok(conn)
        })
        .enabling(ALL)
        .await;
    let (listener, addr) = raw::listener().await;
    let peer = async {
        let stream = raw::accept(&listener).await;
        actor.log.wait_for("handshake", 1).await;
        leave(stream);
        actor.log.add("gone");
    };
    let (result, ()) = tokio::join!(actor.node().connect(addr), peer);
    seen.note("connect", fault(&result));
    eventually("the end was noticed", || actor.node().num_connected() == 0).await;
    seen.note("on_disconnect", actor.log.after("on_disconnect "));
    seen
}

pub(crate) async fn a_peer_that_closes_during_the_handshake_was_connected() -> Observation {
    dial_one_that_leaves(drop).await
}

pub(crate) async fn a_peer_that_resets_during_the_handshake_was_connected() -> Observation {
    dial_one_that_leaves(raw::reset).await
}

/// The kernel has done the TCP handshake and seen the reset before the dial is polled again.
pub(crate) async fn a_peer_that_resets_before_the_dial_knows_of_it() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config()).enabling([Protocol::Reading, Protocol::OnDisconnect]).await;
    let (listener, addr) = raw::listener().await;
    let mut dial = pin!(actor.node().connect(addr));
    seen.note("connected at once", poll_once(dial.as_mut()).await.is_some());
    raw::reset(raw::accept(&listener).await);
    seen.note("connect", fault(&dial.await));
    eventually("nothing is left", || actor.node().num_connected() + actor.node().num_connecting() == 0).await;
    seen.note("on_disconnect", actor.log.after("on_disconnect "));
    seen
}

pub(crate) async fn a_peer_that_closes_at_once_was_connected() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config()).enabling([Protocol::Reading, Protocol::OnDisconnect]).await;
    let (listener, addr) = raw::listener().await;
    let peer = async { drop(raw::accept(&listener).await) };
    let (result, ()) = tokio::join!(actor.node().connect(addr), peer);
    seen.note("connect", fault(&result));
    eventually("the end was noticed", || actor.node().num_connected() == 0).await;
    seen.note("on_disconnect", actor.log.after("on_disconnect "));
    seen
}

pub(crate) async fn nodes_that_dial_each_other_have_two_connections() -> Observation {
    let mut seen = Observation::new();
    let (left, right) = (plain(), plain());
    let (left_addr, right_addr) = (left.listen().await, right.listen().await);
    let (first, second) = tokio::join!(left.node().connect(right_addr), right.node().connect(left_addr));
    seen.note("results", (fault(&first), fault(&second)));
    eventually("all ends are live", || left.node().num_connected() == 2 && right.node().num_connected() == 2).await;
    let mut sides: Vec<_> = left.node().connection_infos().values().map(|info| format!("{:?}", info.side())).collect();
    sides.sort();
    seen.note("sides", sides);
    seen
}

pub(crate) async fn mapped_and_plain_addresses_are_different_peers() -> Observation {
    let mut seen = Observation::new();
    let actor = plain();
    let (_listener, addr) = raw::listener().await;
    let mapped: SocketAddr = format!("[::ffff:127.0.0.1]:{}", addr.port()).parse().unwrap();
    seen.note("plain", fault(&actor.node().connect(addr).await));
    seen.note("mapped", fault(&actor.node().connect(mapped).await));
    seen.note("connected", (actor.node().is_connected(addr), actor.node().is_connected(mapped), counts(&actor)));
    seen
}

pub(crate) async fn without_reading_a_departed_peer_stays_listed() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config()).enabling([Protocol::Writing, Protocol::OnDisconnect]).await;
    let (listener, addr) = raw::listener().await;
    actor.node().connect(addr).await.unwrap();
    drop(raw::accept(&listener).await);
    seen.note("noticed", happens_soon(|| actor.node().num_connected() == 0).await);
    seen.note("disconnect", actor.node().disconnect(addr).await);
    seen.note("on_disconnect", actor.log.after("on_disconnect "));
    seen
}
