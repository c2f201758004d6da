//! The three limits: exact in both directions, never exceeded, and given back however a setup or a connection ends.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
};

use pea2pea::{Config, Node};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    task::yield_now,
};

use crate::{
    common::{
        in_time, local_config, poll_times,
        setups::{Commanded, Gated, Lingering, assert_vacant, dial_from, end_of, listening, raw_peer, settled},
        wait_until,
    },
    ledger,
};

const LOCALHOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn neighbour() -> IpAddr {
    "127.0.0.2".parse().unwrap()
}

/// Peers of a node, kept connected.
#[derive(Default)]
struct Peers {
    dialled: Vec<TcpListener>,
    accepted: Vec<TcpStream>,
}

impl Peers {
    /// Makes the node dial a new peer.
    async fn dialled_by(&mut self, node: &Node) -> Result<SocketAddr, ErrorKind> {
        let (peer, addr) = raw_peer().await;
        self.dialled.push(peer);
        in_time("the dial", node.connect(addr)).await.map(|()| addr).map_err(|error| error.kind())
    }

    /// Makes a new peer dial the node, which has room for it.
    async fn accepted_by(&mut self, node: &Node, source: IpAddr) -> SocketAddr {
        let stream = dial_from(source, node.listening_addr().await.unwrap()).await.unwrap();
        let addr = stream.local_addr().unwrap();
        self.accepted.push(stream);
        wait_until("the dialler is accepted", || node.is_connected(addr)).await;
        addr
    }
}

/// Dials a node that has no room: it hangs up and counts it.
async fn is_rejected(node: &Node, source: IpAddr) {
    let rejected_before = node.heuristics().inbound_connections_rejected();
    let mut stream = dial_from(source, node.listening_addr().await.unwrap()).await.unwrap();
    end_of(&mut stream).await;
    assert!(!node.is_connected(stream.local_addr().unwrap()));
    assert_eq!(node.heuristics().inbound_connections_rejected(), rejected_before + 1);
}

/// Fills the one limit that is low with dialled and accepted connections, in each proportion, and then some.
async fn takes_exactly(limit: u16, config: Config) {
    for num_dialled in 0..=limit {
        let (node, _) = listening(config.clone()).await;
        let mut peers = Peers::default();
        let mut live = Vec::new();
        for _ in 0..num_dialled {
            live.push(peers.dialled_by(&node).await.unwrap());
        }
        for _ in num_dialled..limit {
            live.push(peers.accepted_by(&node, LOCALHOST).await);
        }
        for addr in live {
            assert_eq!(peers.dialled_by(&node).await, Err(ErrorKind::QuotaExceeded));
            is_rejected(&node, LOCALHOST).await;
            assert_eq!((node.num_connected(), node.num_connecting()), (usize::from(limit), 0));
            // One out, one in, and the limit is reached again.
            assert!(node.disconnect(addr).await);
            peers.accepted_by(&node, LOCALHOST).await;
        }
        assert_eq!(peers.dialled_by(&node).await, Err(ErrorKind::QuotaExceeded));
        assert_eq!(node.heuristics().connect_budget_rejections(), 0);
    }
}

#[tokio::test(crate = "ledger")]
async fn a_node_takes_exactly_as_many_connections_as_max_connections() {
    for limit in 1..=2 {
        takes_exactly(limit, Config { max_connections: limit, ..local_config() }).await;
    }
}

#[tokio::test(crate = "ledger")]
async fn a_node_takes_exactly_as_many_connections_per_ip_as_max_connections_per_ip() {
    for limit in 1..=2 {
        takes_exactly(limit, Config { max_connections_per_ip: limit, ..local_config() }).await;
    }
}

#[tokio::test(crate = "ledger")]
async fn the_limit_per_ip_is_kept_for_each_ip_apart() {
    let config = Config {
        listener_addr: Some("127.0.79.2:0".parse().unwrap()),
        max_connections_per_ip: 1,
        max_connections: 3,
        ..local_config()
    };
    let (node, addr) = listening(config).await;
    let mut streams = Vec::new();
    for last_byte in 1..=4 {
        let source = IpAddr::from([127, 0, 0, last_byte]);
        let mut stream = dial_from(source, addr).await.unwrap();
        if last_byte < 4 {
            settled(&node, usize::from(last_byte)).await;
        } else {
            end_of(&mut stream).await;
        }
        let mut second = dial_from(source, addr).await.unwrap();
        end_of(&mut second).await;
        streams.push(stream);
    }
    assert_eq!((node.num_connected(), node.heuristics().inbound_connections_rejected()), (3, 5));
}

#[tokio::test(crate = "ledger")]
async fn exactly_max_connecting_setups_are_in_flight_and_surplus_accepts_wait() {
    for limit in 1..=2 {
        for num_dialled in 0..=limit {
            let gated = Gated::new(Config { max_connecting: limit, ..local_config() }).await;
            let own = gated.node.toggle_listener().await.unwrap().unwrap();
            let mut peers = Peers::default();
            for _ in 0..num_dialled {
                let (peer, addr) = raw_peer().await;
                peers.dialled.push(peer);
                drop(gated.spawn_dial(addr));
            }
            gated.begun(num_dialled.into()).await;
            let num_accepted = usize::from(limit - num_dialled);
            const SURPLUS: usize = 3;
            for _ in 0..num_accepted + SURPLUS {
                peers.accepted.push(dial_from(LOCALHOST, own).await.unwrap());
            }
            gated.begun(limit.into()).await;
            assert_eq!(peers.dialled_by(&gated.node).await, Err(ErrorKind::QuotaExceeded));
            assert_eq!(gated.node.heuristics().connect_budget_rejections(), 1);

            // Each handshake that ends lets exactly one of those that wait begin.
            let limit = usize::from(limit);
            for passed in 0..SURPLUS {
                assert_eq!((gated.num_begun(), gated.node.num_connecting()), (limit + passed, limit));
                gated.let_pass(1);
                gated.begun(limit + passed + 1).await;
                assert_eq!(gated.node.num_connected(), passed + 1);
            }
            gated.let_pass(limit);
            settled(&gated.node, limit + SURPLUS).await;
            assert_eq!(gated.node.heuristics().inbound_connections_rejected(), 0, "they waited");
        }
    }
}

#[tokio::test(crate = "ledger")]
async fn connections_that_are_being_set_up_or_ended_count_too() {
    for config in [
        Config { max_connections: 2, ..local_config() },
        Config { max_connections_per_ip: 2, max_connecting: 2, ..local_config() },
    ] {
        let mut peers = Peers::default();
        let gated = Gated::new(config.clone()).await;
        let own = gated.node.toggle_listener().await.unwrap().unwrap();
        gated.let_pass(1);
        peers.dialled_by(&gated.node).await.unwrap();
        let _pending = dial_from(LOCALHOST, own).await.unwrap();
        gated.begun(2).await;
        assert_eq!(peers.dialled_by(&gated.node).await, Err(ErrorKind::QuotaExceeded));
        is_rejected(&gated.node, LOCALHOST).await;
        assert_eq!(gated.node.heuristics().connect_budget_rejections(), 0);

        let lingering = Lingering::new(config).await;
        lingering.node.toggle_listener().await.unwrap();
        peers.dialled_by(&lingering.node).await.unwrap();
        let addr = peers.dialled_by(&lingering.node).await.unwrap();
        let ending = lingering.begin_end(addr).await;
        assert_eq!(peers.dialled_by(&lingering.node).await, Err(ErrorKind::QuotaExceeded));
        is_rejected(&lingering.node, LOCALHOST).await;
        lingering.let_end(1);
        assert!(in_time("the ending", ending).await.unwrap());
        peers.accepted_by(&lingering.node, LOCALHOST).await;
        lingering.let_end(2);
    }
}

#[test]
fn max_connecting_is_lowered_to_max_connections() {
    ledger::check(|| {
        let max_connecting = |max_connecting, max_connections| {
            let config = Config { max_connecting, max_connections, ..local_config() };
            Node::new(config).config().max_connecting
        };
        assert_eq!(max_connecting(5, 2), 2);
        assert_eq!(max_connecting(u16::MAX, 1), 1);
        assert_eq!(max_connecting(2, 5), 2);
        assert_eq!(max_connecting(5, 5), 5);
    });
}

#[test]
fn a_limit_of_0_is_refused_with_a_message_that_names_it() {
    ledger::check(|| {
        for (field, config) in [
            ("max_connections", Config { max_connections: 0, ..local_config() }),
            ("max_connections_per_ip", Config { max_connections_per_ip: 0, ..local_config() }),
            ("max_connecting", Config { max_connecting: 0, ..local_config() }),
        ] {
            let panic = std::panic::catch_unwind(|| Node::new(config)).expect_err(field);
            let text = panic.downcast_ref::<String>().unwrap();
            assert!(text.split(|c: char| c != '_' && !c.is_alphanumeric()).any(|word| word == field), "{text}");
        }
    });
}

#[tokio::test(crate = "ledger")]
async fn a_mapped_address_shares_the_count_of_its_ipv4_address() {
    let config = Config { listener_addr: Some("[::]:0".parse().unwrap()), max_connections_per_ip: 1, ..local_config() };
    let mut peers = Peers::default();
    let (node, own) = listening(config).await;
    let own_v4 = SocketAddr::new(LOCALHOST, own.port());
    let own_v6 = SocketAddr::new("::1".parse().unwrap(), own.port());

    // An accepted mapped one is in the way of dialling IPv4, mapped or not, and of accepting more.
    let accepted = dial_from(LOCALHOST, own_v4).await.unwrap();
    settled(&node, 1).await;
    let listed = node.connected_addrs()[0];
    assert!(listed.is_ipv6() && listed.ip().to_canonical() == LOCALHOST, "{listed}");
    assert_eq!(peers.dialled_by(&node).await, Err(ErrorKind::QuotaExceeded));
    let (_peer, addr) = raw_peer().await;
    let mapped = SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), addr.port());
    assert_eq!(node.connect(mapped).await.unwrap_err().kind(), ErrorKind::QuotaExceeded);
    end_of(&mut dial_from(LOCALHOST, own_v4).await.unwrap()).await;
    // It is not in the way of others.
    let _neighbour = dial_from(neighbour(), own_v4).await.unwrap();
    let _v6 = dial_from(own_v6.ip(), own_v6).await.unwrap();
    settled(&node, 3).await;

    // And the other way round.
    assert!(node.disconnect(listed).await);
    let dialled = peers.dialled_by(&node).await.unwrap();
    end_of(&mut dial_from(LOCALHOST, own_v4).await.unwrap()).await;
    assert!(node.disconnect(dialled).await);
    node.connect(mapped).await.unwrap();
    assert_eq!(peers.dialled_by(&node).await, Err(ErrorKind::QuotaExceeded));
    assert_eq!(node.heuristics().inbound_connections_rejected(), 2);
    drop(accepted);
}

#[tokio::test(crate = "ledger")]
async fn an_accepted_duplicate_is_rejected_and_the_connection_it_doubles_stays() {
    let reusing_port = || {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseport(true).unwrap();
        socket
    };
    let socket = reusing_port();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let peer = socket.listen(8).unwrap();
    let addr = peer.local_addr().unwrap();
    let (node, own) = listening(local_config()).await;
    node.connect(addr).await.unwrap();
    // The peer dials the node from the very address that it listens at.
    let socket = reusing_port();
    socket.bind(addr).unwrap();
    end_of(&mut socket.connect(own).await.unwrap()).await;
    assert_eq!(node.heuristics().inbound_connections_rejected(), 1);
    assert_eq!(node.connected_addrs(), [addr]);
    assert!(node.disconnect(addr).await);
}

#[tokio::test(crate = "ledger")]
async fn connections_that_a_shutdown_cuts_off_do_not_count_as_rejected() {
    let gated = Gated::new(Config { max_connecting: 1, ..local_config() }).await;
    let own = gated.node.toggle_listener().await.unwrap().unwrap();
    let mut in_handshake = dial_from(LOCALHOST, own).await.unwrap();
    gated.begun(1).await;
    let mut without_permit = dial_from(LOCALHOST, own).await.unwrap();
    for _ in 0..20 {
        yield_now().await;
    }
    in_time("the shutdown", gated.node.shut_down()).await;
    end_of(&mut in_handshake).await;
    end_of(&mut without_permit).await;
    assert_vacant(&gated.node);
    assert_eq!(gated.node.heuristics().inbound_connections_rejected(), 0);
}

#[tokio::test(crate = "ledger")]
async fn a_setup_gives_everything_back_whichever_way_its_handshake_fails() {
    let tight = Config { max_connections: 1, max_connections_per_ip: 1, max_connecting: 1, ..local_config() };
    let commanded = Commanded::new(tight).await;
    let node = &commanded.node;
    let own = node.toggle_listener().await.unwrap().unwrap();
    for failure in [Commanded::FAIL, Commanded::PANIC, Commanded::HANG, Commanded::HANG_UP] {
        let mut accepted = dial_from(LOCALHOST, own).await.unwrap();
        assert!(!Commanded::is_served(&mut accepted, failure).await);
        settled(node, 0).await;

        let (peer, addr) = raw_peer().await;
        let answering = async {
            let (mut stream, _) = peer.accept().await.unwrap();
            Commanded::is_served(&mut stream, failure).await
        };
        let both = async { tokio::join!(node.connect(addr), answering) };
        let (dialled, is_served) = in_time("the dial", both).await;
        assert!(dialled.is_err() && !is_served);
        assert_vacant(node);

        let mut accepted = dial_from(LOCALHOST, own).await.unwrap();
        assert!(Commanded::is_served(&mut accepted, Commanded::SERVE).await);
        settled(node, 1).await;
        drop(accepted);
        settled(node, 0).await;
    }
    assert_eq!(node.heuristics().handshake_timeouts(), 2);
    assert_eq!(node.heuristics().inbound_connections_rejected(), 0);
}

#[tokio::test(crate = "ledger")]
async fn a_dropped_dial_gives_everything_back_or_has_gone_live() {
    let tight = Config { max_connections: 1, max_connections_per_ip: 1, max_connecting: 1, ..local_config() };
    let (_peer, addr) = raw_peer().await;
    let gated = Gated::new(tight).await;
    let mut num_polls = 0;
    let mut was_live = false;
    while !was_live {
        // With a handshake that waits until it is dropped, and with one that does not wait.
        for passes in [0, 1] {
            gated.let_pass(passes);
            let mut dial = Box::pin(gated.node.connect(addr));
            _ = poll_times(dial.as_mut(), num_polls).await;
            drop(dial);
            was_live = gated.node.is_connected(addr);
            assert_eq!((gated.node.num_connected(), gated.node.num_connecting()), (usize::from(was_live), 0));
            assert_eq!(gated.node.disconnect(addr).await, was_live);
            if passes == 1 && !was_live {
                // What the dropped dial did not use up is there for this one.
                in_time("the next dial", gated.node.connect(addr)).await.unwrap();
                assert!(gated.node.disconnect(addr).await);
            }
            assert_vacant(&gated.node);
        }
        num_polls += 1;
        assert!(num_polls < 100, "a dial goes live after some polls");
    }
    assert_eq!(gated.node.heuristics().connect_budget_rejections(), 0);
}
