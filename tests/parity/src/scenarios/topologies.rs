//! Topology and `connect_nodes`.

use super::{
    super::p2p::{ConnectionSide, Pea2Pea, Topology, connect_nodes},
    actor::{Actor, plain},
    faults::fault,
};
use crate::shared::{observation::Observation, timing::eventually};

/// Every topology that fits the number of nodes.
fn all(num_nodes: usize) -> Vec<Topology> {
    vec![
        Topology::Line,
        Topology::Ring,
        Topology::Mesh,
        Topology::Star,
        Topology::Tree,
        Topology::Grid { width: num_nodes, height: 1 },
        Topology::Random { degree: 1, seed: 7 },
    ]
}

async fn listening(num_nodes: usize) -> Vec<Actor> {
    let mut actors = Vec::new();
    for _ in 0..num_nodes {
        let actor = plain();
        actor.listen().await;
        actors.push(actor);
    }
    actors
}

/// The edges as (dialler, listener), by position.
async fn edges(actors: &[Actor]) -> Vec<(usize, usize)> {
    let mut addrs = Vec::new();
    for actor in actors {
        addrs.push(actor.node().listening_addr().await.unwrap());
    }
    let mut edges = Vec::new();
    for (position, actor) in actors.iter().enumerate() {
        for (addr, info) in actor.node().connection_infos() {
            if info.side() == ConnectionSide::Responder {
                edges.push((position, addrs.iter().position(|known| *known == addr).unwrap()));
            }
        }
    }
    edges.sort();
    edges
}

fn total(actors: &[Actor]) -> usize {
    actors.iter().map(|actor| actor.node().num_connected()).sum()
}

pub(crate) async fn expected_connections_are_the_same() -> Observation {
    let mut seen = Observation::new();
    for num_nodes in 2..=12 {
        let counts: Vec<_> =
            all(num_nodes).into_iter().map(|topology| topology.num_expected_connections(num_nodes)).collect();
        seen.note("counts", (num_nodes, counts));
    }
    for (width, height) in [(1, 1), (2, 2), (3, 2), (2, 3), (4, 4), (10, 1), (5, 7)] {
        let grid = Topology::Grid { width, height };
        seen.note("grid", (grid, grid.num_expected_connections(width * height)));
    }
    for degree in [0, 1, 2, 5] {
        seen.note("random", (degree, Topology::Random { degree, seed: 1 }.num_expected_connections(6)));
    }
    seen
}

pub(crate) async fn expected_connections_of_none_and_one() -> Observation {
    let mut seen = Observation::new();
    for topology in [Topology::Line, Topology::Mesh, Topology::Star, Topology::Tree] {
        seen.note("one node", (topology, topology.num_expected_connections(1)));
    }
    for topology in [Topology::Mesh, Topology::Grid { width: 1, height: 1 }, Topology::Random { degree: 0, seed: 0 }] {
        seen.note("one node", (topology, topology.num_expected_connections(1)));
    }
    seen
}

pub(crate) async fn too_few_nodes_are_an_invalid_input() -> Observation {
    let mut seen = Observation::new();
    for num_nodes in [0, 1] {
        let actors = listening(num_nodes).await;
        for topology in all(num_nodes) {
            seen.note("connect_nodes", (num_nodes, topology, fault(&connect_nodes(&actors, topology).await)));
        }
    }
    seen
}

pub(crate) async fn impossible_topologies_are_an_invalid_input() -> Observation {
    let mut seen = Observation::new();
    let actors = listening(4).await;
    for (width, height) in [(2, 3), (0, 4), (4, 0), (1, 3), (0, 0)] {
        let grid = Topology::Grid { width, height };
        seen.note("grid", (width, height, fault(&connect_nodes(&actors, grid).await)));
    }
    for degree in [4, 5, usize::MAX] {
        let random = Topology::Random { degree, seed: 3 };
        seen.note("random", (degree, fault(&connect_nodes(&actors, random).await)));
    }
    seen.note("connections", total(&actors));
    seen
}

async fn connected(num_nodes: usize, topology: Topology) -> (Observation, Vec<Actor>) {
    let mut seen = Observation::new();
    let actors = listening(num_nodes).await;
    seen.note("connect_nodes", fault(&connect_nodes(&actors, topology).await));
    let expected = topology.num_expected_connections(num_nodes);
    eventually("all ends are live", || total(&actors) == expected).await;
    seen.note("connections", expected);
    (seen, actors)
}

async fn with_edges(topology: Topology) -> Observation {
    let (mut seen, actors) = connected(6, topology).await;
    seen.note("edges", edges(&actors).await);
    seen
}

pub(crate) async fn a_line_has_these_edges() -> Observation {
    with_edges(Topology::Line).await
}

pub(crate) async fn a_ring_has_these_edges() -> Observation {
    with_edges(Topology::Ring).await
}

pub(crate) async fn a_mesh_has_these_edges() -> Observation {
    with_edges(Topology::Mesh).await
}

pub(crate) async fn a_star_has_these_edges() -> Observation {
    with_edges(Topology::Star).await
}

pub(crate) async fn a_grid_has_these_edges() -> Observation {
    with_edges(Topology::Grid { width: 3, height: 2 }).await
}

pub(crate) async fn a_tree_has_these_edges() -> Observation {
    with_edges(Topology::Tree).await
}

pub(crate) async fn two_nodes_fit_every_topology() -> Observation {
    let mut seen = Observation::new();
    for topology in all(2) {
        let actors = listening(2).await;
        seen.note("connect_nodes", (topology, fault(&connect_nodes(&actors, topology).await)));
        let expected = topology.num_expected_connections(2);
        seen.note("expected", expected);
        eventually("the ends are live", || actors.iter().all(|actor| actor.node().num_connected() > 0)).await;
        seen.note("edges", edges(&actors).await.len());
    }
    seen
}

pub(crate) async fn random_nodes_dial_as_many_as_their_degree() -> Observation {
    let mut seen = Observation::new();
    for (degree, seed) in [(0, 1), (1, 0), (2, 5), (5, 9), (3, u64::MAX)] {
        let topology = Topology::Random { degree, seed };
        let (outcome, actors) = connected(6, topology).await;
        seen.note("outcome", outcome);
        let edges = edges(&actors).await;
        let dialled: Vec<_> =
            (0..6).map(|position| edges.iter().filter(|(dialler, _)| *dialler == position).count()).collect();
        seen.note("dialled", dialled);
        seen.note("no self-dial", edges.iter().all(|(dialler, listener)| dialler != listener));
    }
    seen
}

pub(crate) async fn a_node_that_does_not_listen_fails_the_topology() -> Observation {
    let mut seen = Observation::new();
    let mut actors = listening(2).await;
    actors.push(plain());
    seen.note("connect_nodes", fault(&connect_nodes(&actors, Topology::Line).await));
    seen.note("the first edge", actors[0].node().num_connected());
    seen
}

pub(crate) async fn connecting_the_same_nodes_twice_fails() -> Observation {
    let mut seen = Observation::new();
    let (first, actors) = connected(3, Topology::Line).await;
    seen.note("first", first);
    seen.note("second", fault(&connect_nodes(&actors, Topology::Line).await));
    seen.note("connections", total(&actors));
    seen
}
