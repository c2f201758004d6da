//! Listening: on and off, errors, ports that are free when it says so, and what becomes of connections half-way.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use pea2pea::{Config, Node, ShuttingDown};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    task::yield_now,
};

use crate::{
    common::{
        in_time, local_config, local_node,
        nodes::listed,
        poll_times,
        setups::{Gated, assert_vacant, dial_from, end_of, listening, settled},
        wait_until,
    },
    ledger,
};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn config_at(listener_addr: SocketAddr) -> Config {
    Config { listener_addr: Some(listener_addr), ..local_config() }
}

/// Any port of an address that nothing else on this host uses, so that nobody takes a port that was just given up.
fn private(last_byte: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 77, last_byte], 0))
}

async fn toggled(node: &Node) -> Option<SocketAddr> {
    in_time("the toggle", node.toggle_listener()).await.unwrap()
}

async fn assert_refused(addr: SocketAddr) {
    let error = TcpStream::connect(addr).await.expect_err("nobody listens");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

/// Binds and listens without the leniency of `SO_REUSEADDR`.
fn bind_strictly(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(addr)?;
    socket.listen(8)
}

async fn assert_not_listening(node: &Node) {
    let error = node.listening_addr().await.expect_err("it does not listen");
    assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
}

#[tokio::test(crate = "ledger")]
async fn each_toggle_switches_listening_on_or_off() {
    let node = listed(config_at(private(1)));
    assert_not_listening(&node).await;
    for round in 1..=3 {
        let addr = toggled(&node).await.expect("it is on");
        assert_ne!(addr.port(), 0, "it is the real port");
        assert_eq!(node.listening_addr().await.unwrap(), addr);
        let _stream = dial_from(LOCALHOST, addr).await.unwrap();
        settled(&node, round).await;

        assert_eq!(toggled(&node).await, None);
        assert_not_listening(&node).await;
        assert_refused(addr).await;
        assert_eq!(node.num_connected(), round, "connections stay");
    }
}

#[tokio::test(crate = "ledger")]
async fn a_given_port_is_listened_at_again_after_connections_through_it() {
    let addr = TcpListener::bind(private(2)).await.unwrap().local_addr().unwrap();
    let node = listed(config_at(addr));
    for _ in 0..3 {
        assert_eq!(toggled(&node).await, Some(addr));
        let mut stream = dial_from(LOCALHOST, addr).await.unwrap();
        settled(&node, 1).await;
        // The node closes first, so that the port is left in the state that needs `SO_REUSEADDR`.
        assert!(node.disconnect(stream.local_addr().unwrap()).await);
        end_of(&mut stream).await;
        assert_eq!(toggled(&node).await, None);
    }
}

async fn assert_cannot_listen(node: &Node) {
    let error = node.toggle_listener().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
    assert!(!ShuttingDown::caused(&error) && error.raw_os_error().is_none());
    assert_not_listening(node).await;
}

#[tokio::test(crate = "ledger")]
async fn a_node_without_a_listener_address_never_listens() {
    let node = listed(Config { listener_addr: None, ..local_config() });
    assert_cannot_listen(&node).await;
    assert_cannot_listen(&node).await;
}

#[tokio::test(crate = "ledger")]
async fn a_node_without_a_listener_address_says_just_that_after_its_shutdown_too() {
    let node = listed(Config { listener_addr: None, ..local_config() });
    in_time("the shutdown", node.shut_down()).await;
    assert_cannot_listen(&node).await;
}

#[tokio::test(crate = "ledger")]
async fn errors_of_binding_come_back_as_they_are_and_leave_nothing() {
    let peer = TcpListener::bind(private(3)).await.unwrap();
    let busy = peer.local_addr().unwrap();
    let node = listed(config_at(busy));
    let error = node.toggle_listener().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(error.raw_os_error().is_some());
    assert_not_listening(&node).await;
    node.connect(busy).await.expect("it is not the node's own address");
    assert!(node.disconnect(busy).await);
    drop(peer);
    assert_eq!(toggled(&node).await, Some(busy));

    // An address reserved for documentation.
    let foreign = listed(config_at("203.0.113.7:0".parse().unwrap()));
    let error = foreign.toggle_listener().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
    assert!(error.raw_os_error().is_some());
}

#[tokio::test(crate = "ledger")]
async fn a_node_that_has_shut_down_does_not_listen() {
    for was_on in [false, true] {
        let node = local_node();
        if was_on {
            toggled(&node).await;
        }
        in_time("the shutdown", node.shut_down()).await;
        assert_not_listening(&node).await;
        let error = node.toggle_listener().await.unwrap_err();
        assert!(ShuttingDown::caused(&error) && error.kind() == ErrorKind::Other, "{error}");
        assert_not_listening(&node).await;
    }
}

#[tokio::test(crate = "ledger")]
async fn toggles_at_the_same_time_are_carried_out_one_after_the_other() {
    let node = local_node();
    let toggles = async { tokio::join!(node.toggle_listener(), node.toggle_listener(), node.toggle_listener()) };
    let (first, second, third) = in_time("three toggles", toggles).await;
    assert!(first.unwrap().is_some());
    assert_eq!(second.unwrap(), None);
    assert_eq!(third.unwrap(), Some(node.listening_addr().await.unwrap()));
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 2)]
async fn as_many_toggles_switch_on_as_off_whatever_thread_they_come_from() {
    const TOGGLES: usize = 40;
    let node = local_node();
    let toggles: Vec<_> = (0..TOGGLES)
        .map(|_| {
            let node = node.clone();
            tokio::spawn(async move { node.toggle_listener().await.unwrap().is_some() })
        })
        .collect();
    let mut switched_on = 0;
    for toggle in toggles {
        switched_on += usize::from(in_time("a toggle", toggle).await.unwrap());
    }
    assert_eq!(switched_on, TOGGLES / 2);
    assert_not_listening(&node).await;
}

#[tokio::test(crate = "ledger")]
async fn switching_off_happens_even_if_its_future_is_dropped() {
    let (node, addr) = listening(config_at(private(4))).await;
    let unpolled = node.toggle_listener();
    drop(unpolled);
    assert_eq!(node.listening_addr().await.unwrap(), addr, "a future that was not polled has done nothing");

    for num_polls in 0..5 {
        let addr = node.listening_addr().await.unwrap();
        let mut toggle = Box::pin(node.toggle_listener());
        if num_polls == 0 {
            // One poll, and the accept loop gets no turn before the next call.
            tokio::select! { biased; _ = &mut toggle => {}, () = std::future::ready(()) => {} }
        } else {
            _ = poll_times(toggle.as_mut(), num_polls).await;
        }
        drop(toggle);
        // The next call finds it off, however far that is, and switches it on.
        let next = toggled(&node).await.expect("it is on");
        assert_eq!(node.listening_addr().await.unwrap(), next);
        assert_refused(addr).await;
        let _stream = dial_from(LOCALHOST, next).await.unwrap();
        settled(&node, num_polls + 1).await;
    }

    // Without a next call too.
    let addr = node.listening_addr().await.unwrap();
    let mut toggle = Box::pin(node.toggle_listener());
    _ = poll_times(toggle.as_mut(), 1).await;
    drop(toggle);
    let switched_off = async {
        while node.listening_addr().await.is_ok() {
            yield_now().await;
        }
    };
    in_time("it is off", switched_off).await;
    assert_refused(addr).await;
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 2)]
async fn the_port_is_free_as_soon_as_listening_has_been_switched_off_or_the_node_shut_down() {
    for round in 0..40 {
        let (node, addr) = listening(config_at(private(5))).await;
        if round % 2 == 0 {
            assert_eq!(toggled(&node).await, None);
        } else {
            in_time("the shutdown", node.shut_down()).await;
        }
        assert_refused(addr).await;
        bind_strictly(addr).expect("the port is free");
    }
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 2)]
async fn the_port_is_free_while_accepted_connections_live_on() {
    for _ in 0..20 {
        let (node, addr) = listening(config_at(private(6))).await;
        let stream = dial_from(LOCALHOST, addr).await.unwrap();
        let peer = stream.local_addr().unwrap();
        settled(&node, 1).await;
        assert_eq!(toggled(&node).await, None);
        assert_refused(addr).await;
        TcpListener::bind(addr).await.expect("the port is free");
        assert!(node.disconnect(peer).await);
    }
}

/// A node with one setup in its handshake, one that is accepted and waits for the budget, and one dial in the backlog.
async fn node_with_three_at_the_door(last_byte: u8) -> (Gated, SocketAddr, [TcpStream; 3]) {
    let config = Config { max_connecting: 1, listener_backlog: 0, ..config_at(private(last_byte)) };
    let gated = Gated::new(config).await;
    let addr = toggled(&gated.node).await.unwrap();
    let in_handshake = dial_from(LOCALHOST, addr).await.unwrap();
    gated.begun(1).await;
    let waiting = dial_from(LOCALHOST, addr).await.unwrap();
    // The backlog has room for one dial: the next one gets in only after the one before it has been accepted. If it comes
    // too early, the OS repeats it after a second, so the accept loop gets its turns first.
    for _ in 0..20 {
        yield_now().await;
    }
    let in_backlog = in_time("the third dial", dial_from(LOCALHOST, addr)).await.unwrap();
    (gated, addr, [in_handshake, waiting, in_backlog])
}

#[tokio::test(crate = "ledger")]
async fn the_backlog_is_as_long_as_configured() {
    let (gated, addr, _streams) = node_with_three_at_the_door(10).await;
    let one_more = tokio::time::timeout(Duration::from_millis(200), dial_from(LOCALHOST, addr)).await;
    assert!(one_more.is_err(), "the OS lets it wait outside");
    assert_eq!(gated.node.num_connecting(), 1);

    let config = Config { max_connecting: 1, listener_backlog: 8, ..local_config() };
    let gated = Gated::new(config).await;
    let addr = toggled(&gated.node).await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..8 {
        streams.push(in_time("the dial", dial_from(LOCALHOST, addr)).await.unwrap());
    }
}

#[tokio::test(crate = "ledger")]
async fn setups_already_accepted_go_on_after_listening_was_switched_off() {
    let (gated, addr, [in_handshake, waiting, mut in_backlog]) = node_with_three_at_the_door(7).await;
    assert_eq!(toggled(&gated.node).await, None);
    assert_refused(addr).await;
    end_of(&mut in_backlog).await;
    assert_eq!(gated.node.num_connecting(), 1);
    gated.let_pass(2);
    settled(&gated.node, 2).await;
    for stream in [in_handshake, waiting] {
        assert!(gated.node.is_connected(stream.local_addr().unwrap()));
    }
    assert_eq!(gated.num_begun(), 2);
}

#[tokio::test(crate = "ledger")]
async fn listening_again_does_not_disturb_setups_that_wait_since_before() {
    let (gated, _, [_in_handshake, _waiting, _in_backlog]) = node_with_three_at_the_door(8).await;
    toggled(&gated.node).await;
    let addr = toggled(&gated.node).await.unwrap();
    let _new = dial_from(LOCALHOST, addr).await.unwrap();
    gated.let_pass(3);
    settled(&gated.node, 3).await;
    assert_eq!(toggled(&gated.node).await, None);
    assert_refused(addr).await;
}

#[tokio::test(crate = "ledger")]
async fn shutting_down_ends_the_setups_and_frees_the_port() {
    let (gated, addr, mut streams) = node_with_three_at_the_door(9).await;
    in_time("the shutdown", gated.node.shut_down()).await;
    assert_vacant(&gated.node);
    assert_refused(addr).await;
    TcpListener::bind(addr).await.expect("the port is free");
    for stream in &mut streams {
        end_of(stream).await;
    }
    assert_eq!(gated.num_begun(), 1);
}

#[tokio::test(crate = "ledger")]
async fn peers_that_give_up_before_they_are_accepted_are_no_accept_errors() {
    let gated = Gated::new(Config { max_connecting: 1, ..local_config() }).await;
    let addr = toggled(&gated.node).await.unwrap();
    let _first = dial_from(LOCALHOST, addr).await.unwrap();
    gated.begun(1).await;
    for _ in 0..50 {
        let stream = dial_from(LOCALHOST, addr).await.unwrap();
        // Dropping it sends a reset.
        stream.set_zero_linger().unwrap();
    }
    let last = dial_from(LOCALHOST, addr).await.unwrap();
    gated.let_pass(60);
    wait_until("the last one is served", || gated.node.is_connected(last.local_addr().unwrap())).await;
    assert_eq!(gated.node.heuristics().accept_errors(), 0);
}

#[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos", target_os = "cygwin"))))]
#[tokio::test(crate = "ledger")]
async fn nodes_share_a_port_if_both_reuse_it() {
    let (first, addr) = listening(Config { reuse_listener_port: true, ..local_config() }).await;
    let strict = listed(config_at(addr));
    assert_eq!(strict.toggle_listener().await.unwrap_err().kind(), ErrorKind::AddrInUse);
    let second = listed(Config { reuse_listener_port: true, ..config_at(addr) });
    assert_eq!(toggled(&second).await, Some(addr));

    // The OS hands the dials out between the two.
    let mut streams = Vec::new();
    let both_have_some = || first.num_connected() > 0 && second.num_connected() > 0;
    while !both_have_some() && streams.len() < 200 {
        streams.push(dial_from(LOCALHOST, addr).await.unwrap());
        let num_dialled = streams.len();
        wait_until("one of them accepts", || first.num_connected() + second.num_connected() == num_dialled).await;
    }
    assert!(both_have_some());

    // When one stops, the other gets them all.
    assert_eq!(toggled(&first).await, None);
    let before = second.num_connected();
    for _ in 0..10 {
        streams.push(dial_from(LOCALHOST, addr).await.unwrap());
    }
    settled(&second, before + 10).await;
}
