//! Limits and the setup budget.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};

use super::{
    super::p2p::{Config, Pea2Pea},
    actor::{Actor, Protocol, config, plain},
    faults::fault,
};
use crate::shared::{
    observation::Observation,
    raw,
    timing::{eventually, happens_soon, patiently},
};

/// Two raw listeners on each of the given IPs.
async fn listeners(ips: &[&str]) -> (Vec<TcpListener>, Vec<SocketAddr>) {
    let mut made = (Vec::new(), Vec::new());
    for ip in ips.iter().flat_map(|ip| [ip, ip]) {
        let (listener, addr) = raw::listener_at(ip).await;
        made.0.push(listener);
        made.1.push(addr);
    }
    made
}

/// A node whose handshakes wait for the event "open".
async fn gated(config: Config) -> Actor {
    Actor::build(config)
        .handshake(|actor, conn| async move {
            actor.log.add("handshake");
            actor.log.wait_for("open", 1).await;
            Ok(conn)
        })
        .enabling([Protocol::Handshake])
        .await
}

pub(crate) async fn dials_respect_the_limit_per_ip() -> Observation {
    let mut seen = Observation::new();
    let (_listeners, addrs) = listeners(&["127.0.0.1", "127.0.0.2"]).await;
    let actor: Actor = Actor::build(Config { max_connections_per_ip: 1, ..config() }).done();
    for addr in &addrs {
        seen.note("connect", fault(&actor.node().connect(*addr).await));
    }
    seen.note("connected", actor.node().num_connected());
    seen.note("budget rejections", actor.node().heuristics().connect_budget_rejections());
    actor.node().disconnect(addrs[0]).await;
    seen.note("after a disconnect", fault(&actor.node().connect(addrs[1]).await));
    seen.note("the first again", fault(&actor.node().connect(addrs[0]).await));
    seen
}

pub(crate) async fn accepts_respect_the_limit_per_ip() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(Config { max_connections_per_ip: 2, ..config() })
        .enabling([Protocol::Handshake, Protocol::Reading, Protocol::OnConnect, Protocol::OnDisconnect])
        .await;
    let addr = actor.listen().await;
    let mut admitted = Vec::new();
    for count in 1..=2 {
        admitted.push(raw::dial(addr).await);
        actor.log.wait_for("on_connect", count).await;
    }
    let mut surplus = raw::dial(addr).await;
    seen.note("the third is closed", raw::is_ended(&mut surplus).await);
    seen.note("rejected", actor.node().heuristics().inbound_connections_rejected());
    let other_ip = raw::dial_from("127.0.0.2", addr).await;
    actor.log.wait_for("on_connect", 3).await;
    seen.note("connected", actor.node().num_connected());
    seen.note("hooks", actor.log.count("handshake"));
    drop(admitted.pop());
    eventually("the departure was noticed", || actor.node().num_connected() == 2).await;
    let _successor = raw::dial(addr).await;
    actor.log.wait_for("on_connect", 4).await;
    seen.note("connected", actor.node().num_connected());
    seen.note("rejected", actor.node().heuristics().inbound_connections_rejected());
    drop(other_ip);
    seen
}

pub(crate) async fn dials_respect_the_connection_limit() -> Observation {
    let mut seen = Observation::new();
    let (_listeners, addrs) = listeners(&["127.0.0.1", "127.0.0.2"]).await;
    let actor: Actor = Actor::build(Config { max_connections: 2, ..config() }).done();
    for addr in &addrs {
        seen.note("connect", fault(&actor.node().connect(*addr).await));
    }
    seen.note("connected", actor.node().num_connected());
    seen.note("a known address", fault(&actor.node().connect(addrs[0]).await));
    seen.note("budget rejections", actor.node().heuristics().connect_budget_rejections());
    seen
}

pub(crate) async fn accepts_respect_the_connection_limit() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(Config { max_connections: 2, ..config() }).done();
    let addr = actor.listen().await;
    let mut streams = Vec::new();
    for count in 1..=2 {
        streams.push(raw::dial(addr).await);
        eventually("it is live", || actor.node().num_connected() == count).await;
    }
    for count in 1..=3 {
        let mut surplus = raw::dial(addr).await;
        seen.note("surplus is closed", raw::is_ended(&mut surplus).await);
        seen.note("rejected", actor.node().heuristics().inbound_connections_rejected() == count);
    }
    let (_listener, other) = raw::listener_at("127.0.0.2").await;
    seen.note("a dial", fault(&actor.node().connect(other).await));
    let peer = actor.node().connected_addrs()[0];
    actor.node().disconnect(peer).await;
    seen.note("a dial after a disconnect", fault(&actor.node().connect(other).await));
    seen.note("connected", actor.node().num_connected());
    seen
}

pub(crate) async fn pending_connections_count_towards_the_limits() -> Observation {
    let mut seen = Observation::new();
    let actor = gated(Config { max_connections: 2, max_connections_per_ip: 1, ..config() }).await;
    let (_listeners, addrs) = listeners(&["127.0.0.1", "127.0.0.2", "127.0.0.3"]).await;
    let others = async {
        actor.log.wait_for("handshake", 2).await;
        seen.note("pending", (actor.node().num_connecting(), actor.node().num_connected()));
        seen.note("same ip", fault(&actor.node().connect(addrs[1]).await));
        seen.note("another ip", fault(&actor.node().connect(addrs[4]).await));
        actor.log.add("open");
    };
    let dials = async { tokio::join!(actor.node().connect(addrs[0]), actor.node().connect(addrs[2]), others) };
    let (first, second, ()) = patiently("the dials", dials).await;
    seen.note("the pending ones", (fault(&first), fault(&second)));
    seen.note("in the end", (actor.node().num_connecting(), actor.node().num_connected()));
    seen
}

pub(crate) async fn an_empty_budget_fails_a_dial() -> Observation {
    let mut seen = Observation::new();
    let actor = gated(Config { max_connecting: 1, ..config() }).await;
    let (_listeners, addrs) = listeners(&["127.0.0.1"]).await;
    let others = async {
        actor.log.wait_for("handshake", 1).await;
        seen.note("another address", fault(&actor.node().connect(addrs[1]).await));
        seen.note("budget rejections", actor.node().heuristics().connect_budget_rejections());
        seen.note("the address in setup", fault(&actor.node().connect(addrs[0]).await));
        seen.note("budget rejections", actor.node().heuristics().connect_budget_rejections());
        actor.log.add("open");
    };
    let dials = async { tokio::join!(actor.node().connect(addrs[0]), others) };
    let (first, ()) = patiently("the dials", dials).await;
    seen.note("the pending one", fault(&first));
    seen.note("another address, afterwards", fault(&actor.node().connect(addrs[1]).await));
    seen.note("inbound rejections", actor.node().heuristics().inbound_connections_rejected());
    seen
}

pub(crate) async fn a_live_address_wins_over_an_empty_budget() -> Observation {
    let mut seen = Observation::new();
    let (_listeners, addrs) = listeners(&["127.0.0.1"]).await;
    let (pending, live) = (addrs[0], addrs[1]);
    let actor: Actor = Actor::build(Config { max_connecting: 1, ..config() })
        .handshake(move |actor, conn| async move {
            if conn.addr() == pending {
                actor.log.add("handshake");
                actor.log.wait_for("open", 1).await;
            }
            Ok(conn)
        })
        .enabling([Protocol::Handshake])
        .await;
    actor.node().connect(live).await.unwrap();
    let others = async {
        actor.log.wait_for("handshake", 1).await;
        seen.note("the live address", fault(&actor.node().connect(live).await));
        seen.note("budget rejections", actor.node().heuristics().connect_budget_rejections());
        actor.log.add("open");
    };
    let dials = async { tokio::join!(actor.node().connect(pending), others) };
    let (first, ()) = patiently("the dials", dials).await;
    seen.note("the pending one", fault(&first));
    seen
}

pub(crate) async fn an_empty_budget_makes_accepts_wait() -> Observation {
    let mut seen = Observation::new();
    let actor = gated(Config { max_connecting: 1, ..config() }).await;
    let addr = actor.listen().await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(raw::dial(addr).await);
    }
    actor.log.wait_for("handshake", 1).await;
    seen.note("more handshakes", happens_soon(|| actor.log.count("handshake") > 1).await);
    seen.note("connecting", actor.node().num_connecting());
    let (_listener, other) = raw::listener_at("127.0.0.2").await;
    seen.note("a dial", fault(&actor.node().connect(other).await));
    actor.log.add("open");
    eventually("all are live", || actor.node().num_connected() == 4).await;
    seen.note("inbound rejections", actor.node().heuristics().inbound_connections_rejected());
    seen.note("budget rejections", actor.node().heuristics().connect_budget_rejections());
    seen
}

pub(crate) async fn an_idle_listener_holds_no_permit() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(Config { max_connecting: 1, ..config() }).done();
    actor.listen().await;
    let (_listeners, addrs) = listeners(&["127.0.0.1"]).await;
    for addr in addrs {
        seen.note("connect", fault(&actor.node().connect(addr).await));
    }
    seen
}

pub(crate) async fn failed_dials_give_everything_back() -> Observation {
    let mut seen = Observation::new();
    let limits = Config { max_connections: 1, max_connections_per_ip: 1, max_connecting: 1, ..config() };
    let actor: Actor = Actor::build(limits).done();
    let (_socket, deserted) = raw::deserted();
    for _ in 0..3 {
        seen.note("refused", fault(&actor.node().connect(deserted).await));
    }
    let (_listener, addr) = raw::listener().await;
    seen.note("connect", fault(&actor.node().connect(addr).await));
    seen.note("connected", actor.node().num_connected());
    seen
}

pub(crate) async fn mapped_peers_share_the_limit_of_their_ip() -> Observation {
    let mut seen = Observation::new();
    let wildcard = "[::]:0".parse().unwrap();
    let limits = Config { listener_addr: Some(wildcard), max_connections_per_ip: 1, ..config() };
    let actor: Actor = Actor::build(limits).done();
    let port = actor.listen().await.port();
    let _inbound = raw::dial(([127, 0, 0, 1], port).into()).await;
    eventually("it is live", || actor.node().num_connected() == 1).await;
    let (_listener, addr) = raw::listener().await;
    seen.note("a dial of the plain ip", fault(&actor.node().connect(addr).await));
    let mut second = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    seen.note("another inbound one is closed", raw::is_ended(&mut second).await);
    let _other_ip = raw::dial_from("127.0.0.2", ([127, 0, 0, 1], port).into()).await;
    eventually("it is live", || actor.node().num_connected() == 2).await;
    let _v6 = TcpStream::connect(("::1", port)).await.unwrap();
    eventually("v6 loopback is an ip of its own", || actor.node().num_connected() == 3).await;
    seen.note("rejected", actor.node().heuristics().inbound_connections_rejected());
    seen
}

pub(crate) async fn nodes_within_limits_find_each_other() -> Observation {
    let mut seen = Observation::new();
    let hub = plain();
    let addr = hub.listen().await;
    let mut leaves = Vec::new();
    for _ in 0..20 {
        let leaf = plain();
        seen.note("connect", fault(&leaf.node().connect(addr).await));
        leaves.push(leaf);
    }
    eventually("all are live", || hub.node().num_connected() == 20).await;
    seen.note("distinct addresses", hub.node().connected_addrs().len());
    seen.note("rejected", hub.node().heuristics().inbound_connections_rejected());
    seen
}
