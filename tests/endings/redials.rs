//! A peer that hangs up and dials again at once, while its former connection is still being ended.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use pea2pea::{Config, Node, Pea2Pea, protocols::Writing};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_util::bytes::Bytes;

use crate::{
    common::{
        actor::{Actor, Script, Unhurried, hanging, silent},
        in_time, local_config,
        setups::{Lingering, assert_vacant, dial_from, end_of, settled},
        wait_until,
        wire::frame,
    },
    ledger,
};

const LOCALHOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// One connection for each IP address.
fn one_each() -> Config {
    Config { max_connections_per_ip: 1, ..local_config() }
}

fn rejected(node: &Node) -> u64 {
    node.heuristics().inbound_connections_rejected()
}

fn assert_limited(node: &Node, limit: usize) {
    assert!(node.num_connected() + node.num_connecting() <= limit);
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_disconnects_and_dials_again_at_once_is_served() {
    const REDIALS: usize = 50;
    let script = || Script { process: silent(), writes: true, ..Default::default() };
    let server = Actor::<Unhurried>::new(one_each(), script()).await;
    let addr = server.node().toggle_listener().await.unwrap().unwrap();
    let client = Actor::<Unhurried>::new(one_each(), script()).await;
    for redial in 1..=REDIALS {
        client.node().connect(addr).await.unwrap();
        let receipt = client.unicast(addr, Bytes::from_static(b"hello")).unwrap();
        in_time("the receipt", receipt).await.unwrap().unwrap();
        assert_limited(server.node(), 1);
        wait_until("the message arrives", || server.received() == redial).await;
        assert!(client.node().disconnect(addr).await);
    }
    assert_eq!(rejected(server.node()), 0);
}

/// A node with one connection whose end takes until the test says so; where it listens, and who waits for the end.
async fn ending(config: Config) -> (Lingering, SocketAddr, tokio::task::JoinHandle<bool>) {
    let lingering = Lingering::new(config).await;
    let addr = lingering.node.toggle_listener().await.unwrap().unwrap();
    let former = dial_from(LOCALHOST, addr).await.unwrap();
    settled(&lingering.node, 1).await;
    let end = lingering.begin_end(former.local_addr().unwrap()).await;
    (lingering, addr, end)
}

/// Dials, and sees that it is neither served nor rejected.
async fn waiting_dial(node: &Node, addr: SocketAddr) -> TcpStream {
    let mut stream = dial_from(LOCALHOST, addr).await.unwrap();
    let rejected_before = rejected(node);
    assert!(timeout(Duration::from_millis(200), end_of(&mut stream)).await.is_err(), "it waits");
    assert_eq!((node.num_connected(), node.num_connecting(), rejected(node)), (1, 0, rejected_before));
    stream
}

#[tokio::test(crate = "ledger")]
async fn a_redial_waits_for_the_end_of_the_connection_before_it_without_a_permit() {
    let (lingering, addr, end) = ending(Config { max_connecting: 1, ..one_each() }).await;
    let node = &lingering.node;
    let redial = waiting_dial(node, addr).await;
    // Others are accepted and set up meanwhile.
    let other = dial_from("127.0.0.2".parse().unwrap(), addr).await.unwrap();
    wait_until("the other one", || node.is_connected(other.local_addr().unwrap())).await;
    lingering.let_end(1);
    assert!(in_time("the end", end).await.unwrap());
    wait_until("the redial", || node.is_connected(redial.local_addr().unwrap())).await;
    assert_eq!((node.num_connected(), rejected(node)), (2, 0));
    lingering.let_end(2);
}

#[tokio::test(crate = "ledger")]
async fn a_redial_waits_for_a_second_at_most() {
    let (lingering, addr, end) = ending(one_each()).await;
    let began = Instant::now();
    let mut redial = waiting_dial(&lingering.node, addr).await;
    end_of(&mut redial).await;
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    assert_eq!(rejected(&lingering.node), 1);
    lingering.let_end(1);
    assert!(in_time("the end", end).await.unwrap());
    assert_vacant(&lingering.node);
}

#[tokio::test(crate = "ledger")]
async fn of_one_address_one_redial_waits() {
    let (lingering, addr, end) = ending(one_each()).await;
    let node = &lingering.node;
    let redial = waiting_dial(node, addr).await;
    for surplus in 1..=20 {
        end_of(&mut dial_from(LOCALHOST, addr).await.unwrap()).await;
        assert_eq!(rejected(node), surplus);
    }
    lingering.let_end(1);
    assert!(in_time("the end", end).await.unwrap());
    wait_until("the first one is served", || node.is_connected(redial.local_addr().unwrap())).await;
    assert_eq!(node.num_connected(), 1);
    lingering.let_end(1);
}

#[tokio::test(crate = "ledger")]
async fn a_redial_waits_for_what_the_former_connection_has_sent_to_be_processed() {
    let script = Script::<Unhurried> { process: hanging(), ..Default::default() };
    let actor = Actor::new(Config { max_connections_per_ip: 2, ..local_config() }, script).await;
    let (node, addr) = (actor.node(), actor.node().toggle_listener().await.unwrap().unwrap());
    let mut former = dial_from(LOCALHOST, addr).await.unwrap();
    let _neighbour = dial_from(LOCALHOST, addr).await.unwrap();
    settled(node, 2).await;
    former.write_all(&frame(b"x")).await.unwrap();
    former.shutdown().await.unwrap();
    wait_until("it is being processed", || actor.received() == 1).await;
    let mut redial = dial_from(LOCALHOST, addr).await.unwrap();
    assert!(timeout(Duration::from_millis(200), end_of(&mut redial)).await.is_err(), "it waits");
    assert_limited(node, 2);
    assert!(node.disconnect(former.local_addr().unwrap()).await);
    wait_until("it is served", || node.is_connected(redial.local_addr().unwrap())).await;
    assert_eq!((node.num_connected(), rejected(node)), (2, 0));
}

#[tokio::test(crate = "ledger")]
async fn a_redial_beside_live_connections_only_is_rejected() {
    let script = Script::<Unhurried> { process: silent(), ..Default::default() };
    let actor = Actor::new(one_each(), script).await;
    let (node, addr) = (actor.node(), actor.node().toggle_listener().await.unwrap().unwrap());
    let _live = dial_from(LOCALHOST, addr).await.unwrap();
    settled(node, 1).await;
    for surplus in 1..=3 {
        end_of(&mut dial_from(LOCALHOST, addr).await.unwrap()).await;
        assert_eq!((rejected(node), node.num_connected()), (surplus, 1));
    }
}

#[tokio::test(crate = "ledger")]
async fn a_shutdown_ends_the_wait_of_a_redial() {
    let (lingering, addr, end) = ending(one_each()).await;
    let mut redial = waiting_dial(&lingering.node, addr).await;
    let shut_down = tokio::spawn({
        let node = lingering.node.clone();
        async move { node.shut_down().await }
    });
    end_of(&mut redial).await;
    lingering.let_end(1);
    assert!(in_time("the end", end).await.unwrap());
    in_time("shut_down", shut_down).await.unwrap();
    assert_eq!(rejected(&lingering.node), 0);
}
