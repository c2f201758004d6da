//! Networks of real nodes: who dials whom in each shape, how many connections that makes, and what is refused.

use std::{collections::BTreeSet, io::ErrorKind, net::SocketAddr};

use pea2pea::{ConnectionSide, Node, Pea2Pea, Topology, connect_nodes};

use crate::{
    common::{
        in_time, local_config, local_node,
        setups::{assert_vacant, listening},
        wait_until,
    },
    ledger,
};

struct Peer {
    node: Node,
    addr: SocketAddr,
}

impl Pea2Pea for Peer {
    fn node(&self) -> &Node {
        &self.node
    }
}

async fn peers(count: usize) -> Vec<Peer> {
    let mut peers = Vec::new();
    for _ in 0..count {
        let (node, addr) = listening(local_config()).await;
        peers.push(Peer { node, addr });
    }
    peers
}

/// Lists who has dialled whom, by the places of the peers.
fn dials(peers: &[Peer]) -> BTreeSet<(usize, usize)> {
    let place = |addr| peers.iter().position(|peer| peer.addr == addr).unwrap();
    let mut dials = BTreeSet::new();
    for (from, peer) in peers.iter().enumerate() {
        for (addr, info) in peer.node.connection_infos() {
            if info.side() == ConnectionSide::Responder {
                dials.insert((from, place(addr)));
            }
        }
    }
    dials
}

/// Connects new peers; returns who has dialled whom. Checks that the number of connections is the expected one.
async fn dials_in(topology: Topology, count: usize) -> Vec<(usize, usize)> {
    let peers = peers(count).await;
    in_time("connecting", connect_nodes(&peers, topology)).await.unwrap();
    let dials = dials(&peers);
    // Each dial is accepted, and then there are no more connections than these.
    wait_until("all dials are accepted", || {
        peers.iter().enumerate().all(|(place, peer)| {
            let num_dials = dials.iter().filter(|&&(from, to)| from == place || to == place).count();
            peer.node.num_connected() == num_dials && peer.node.num_connecting() == 0
        })
    })
    .await;
    let num_connections: usize = peers.iter().map(|peer| peer.node.num_connected()).sum();
    assert_eq!(num_connections, topology.num_expected_connections(count), "{topology:?} of {count}");
    for peer in &peers {
        peer.node.shut_down().await;
    }
    dials.into_iter().collect()
}

#[tokio::test(crate = "ledger")]
async fn in_a_line_each_node_dials_the_next() {
    assert_eq!(dials_in(Topology::Line, 2).await, [(0, 1)]);
    assert_eq!(dials_in(Topology::Line, 4).await, [(0, 1), (1, 2), (2, 3)]);
}

#[tokio::test(crate = "ledger")]
async fn in_a_ring_the_last_node_dials_the_first_even_if_it_is_the_second() {
    assert_eq!(dials_in(Topology::Ring, 4).await, [(0, 1), (1, 2), (2, 3), (3, 0)]);
    assert_eq!(dials_in(Topology::Ring, 3).await, [(0, 1), (1, 2), (2, 0)]);
    assert_eq!(dials_in(Topology::Ring, 2).await, [(0, 1), (1, 0)]);
}

#[tokio::test(crate = "ledger")]
async fn in_a_mesh_each_pair_is_connected_once() {
    assert_eq!(dials_in(Topology::Mesh, 2).await, [(0, 1)]);
    assert_eq!(dials_in(Topology::Mesh, 4).await, [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]);
}

#[tokio::test(crate = "ledger")]
async fn in_a_star_all_dial_the_first() {
    assert_eq!(dials_in(Topology::Star, 2).await, [(1, 0)]);
    assert_eq!(dials_in(Topology::Star, 4).await, [(1, 0), (2, 0), (3, 0)]);
}

#[tokio::test(crate = "ledger")]
async fn in_a_grid_each_node_dials_its_neighbours_on_the_right_and_below() {
    let grid = |width, height| Topology::Grid { width, height };
    let expected = [(0, 1), (0, 3), (1, 2), (1, 4), (2, 5), (3, 4), (4, 5)];
    assert_eq!(dials_in(grid(3, 2), 6).await, expected);
    assert_eq!(dials_in(grid(1, 3), 3).await, [(0, 1), (1, 2)]);
    assert_eq!(dials_in(grid(3, 1), 3).await, [(0, 1), (1, 2)]);
    assert_eq!(dials_in(grid(2, 2), 4).await, [(0, 1), (0, 2), (1, 3), (2, 3)]);
}

#[tokio::test(crate = "ledger")]
async fn in_a_tree_each_node_dials_its_two_children() {
    assert_eq!(dials_in(Topology::Tree, 2).await, [(0, 1)]);
    assert_eq!(dials_in(Topology::Tree, 6).await, [(0, 1), (0, 2), (1, 3), (1, 4), (2, 5)]);
    assert_eq!(dials_in(Topology::Tree, 7).await.len(), 6);
}

#[tokio::test(crate = "ledger")]
async fn in_a_random_network_each_node_dials_as_many_others_as_the_degree_says() {
    const NODES: usize = 5;
    for degree in 0..NODES {
        for seed in [0, 1, u64::MAX] {
            let topology = Topology::Random { degree, seed };
            let dials = dials_in(topology, NODES).await;
            for node in 0..NODES {
                let dialled = dials.iter().filter(|(from, to)| *from == node && *to != node).count();
                assert_eq!(dialled, degree, "{topology:?}, node {node}: {dials:?}");
            }
        }
    }
}

#[tokio::test(crate = "ledger")]
async fn a_random_network_is_determined_by_its_seed() {
    let topology = |seed| Topology::Random { degree: 2, seed };
    let first = dials_in(topology(7), 6).await;
    assert_eq!(dials_in(topology(7), 6).await, first);
    let mut others = Vec::new();
    for seed in 8..12 {
        others.push(dials_in(topology(seed), 6).await);
    }
    assert!(others.iter().any(|other| *other != first));
}

#[test]
fn the_expected_connections_of_large_networks_follow_from_their_shapes() {
    ledger::check(|| {
        const NODES: usize = 100;
        for (topology, expected) in [
            (Topology::Line, 2 * 99),
            (Topology::Ring, 2 * 100),
            (Topology::Mesh, 100 * 99),
            (Topology::Star, 2 * 99),
            (Topology::Grid { width: 20, height: 5 }, 2 * (19 * 5 + 20 * 4)),
            (Topology::Tree, 2 * 99),
            (Topology::Random { degree: 7, seed: 1 }, 2 * 100 * 7),
            (Topology::Random { degree: 99, seed: 1 }, 2 * 100 * 99),
        ] {
            assert_eq!(topology.num_expected_connections(NODES), expected, "{topology:?}");
        }
        assert_eq!(Topology::Mesh.num_expected_connections(1_000_000), 999_999_000_000);
        for topology in [Topology::Line, Topology::Mesh, Topology::Star, Topology::Tree] {
            assert_eq!(topology.num_expected_connections(1), 0, "{topology:?}");
        }
    });
}

/// Checks that a network is refused, before anything is connected.
async fn assert_invalid(topology: Topology, count: usize) {
    let peers = peers(count).await;
    let error = connect_nodes(&peers, topology).await.expect_err(&format!("{topology:?} of {count}"));
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{topology:?} of {count}: {error}");
    peers.iter().for_each(|peer| assert_vacant(&peer.node));
}

#[tokio::test(crate = "ledger")]
async fn fewer_than_two_nodes_are_no_network() {
    for topology in [
        Topology::Line,
        Topology::Ring,
        Topology::Mesh,
        Topology::Star,
        Topology::Tree,
        Topology::Grid { width: 1, height: 1 },
        Topology::Grid { width: 0, height: 0 },
        Topology::Random { degree: 0, seed: 0 },
    ] {
        assert_invalid(topology, 0).await;
        assert_invalid(topology, 1).await;
    }
}

#[tokio::test(crate = "ledger")]
async fn the_dimensions_of_a_grid_have_to_multiply_to_the_number_of_nodes() {
    for (width, height) in [(2, 3), (4, 2), (4, 0), (0, 4), (1, 1), (usize::MAX, usize::MAX), (usize::MAX / 2 + 3, 2)] {
        assert_invalid(Topology::Grid { width, height }, 4).await;
    }
}

#[tokio::test(crate = "ledger")]
async fn the_degree_has_to_be_below_the_number_of_nodes() {
    for degree in [3, 4, usize::MAX] {
        assert_invalid(Topology::Random { degree, seed: 1 }, 3).await;
    }
}

#[tokio::test(crate = "ledger")]
async fn an_error_of_a_dial_comes_back_and_what_was_connected_stays() {
    let mut peers = peers(3).await;
    peers[2].node = local_node();
    let error = connect_nodes(&peers, Topology::Line).await.expect_err("the last one does not listen");
    assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
    assert_eq!(dials(&peers).into_iter().collect::<Vec<_>>(), [(0, 1)]);
    let error = connect_nodes(&peers[..2], Topology::Line).await.expect_err("they are connected already");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
}
