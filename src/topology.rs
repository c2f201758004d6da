//! Connecting a set of nodes in a given shape. Uses the public API only.

use std::io;

use crate::{Pea2Pea, error};

/// The shape of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topology {
    /// Each node dials the next one.
    Line,
    /// A line whose last node dials the first one; two nodes dial each other.
    Ring,
    /// Every pair of nodes has a connection.
    Mesh,
    /// All nodes dial the first one.
    Star,
    /// Rows of `width` nodes, `height` of them; each node is connected with its neighbours left, right, above and below.
    Grid {
        /// The number of columns.
        width: usize,
        /// The number of rows.
        height: usize,
    },
    /// A binary tree: node `i` is connected with nodes `2i + 1` and `2i + 2`.
    Tree,
    /// Each node dials `degree` others, chosen by a generator that begins with `seed`; two nodes that choose each other get
    /// two connections.
    Random {
        /// How many others each node chooses.
        degree: usize,
        /// Determines the choice.
        seed: u64,
    },
}

impl Topology {
    /// Returns the number of connections of all nodes together, each being counted at both of its ends.
    pub fn num_expected_connections(&self, num_nodes: usize) -> usize {
        let others = num_nodes.saturating_sub(1);
        let dials = match *self {
            Self::Line | Self::Star | Self::Tree => others,
            Self::Ring => num_nodes,
            // Half of them, to be exact, so the doubling below is left out.
            Self::Mesh => return num_nodes.saturating_mul(others),
            Self::Grid { width, height } => {
                let right = width.saturating_sub(1).saturating_mul(height);
                right.saturating_add(width.saturating_mul(height.saturating_sub(1)))
            }
            Self::Random { degree, .. } => num_nodes.saturating_mul(degree),
        };
        dials.saturating_mul(2)
    }

    /// Lists who dials whom.
    fn dials(self, count: usize) -> Result<Vec<(usize, usize)>, String> {
        if count < 2 {
            return Err(format!("a topology needs at least 2 nodes, not {count}"));
        }
        Ok(match self {
            Self::Line => (1..count).map(|node| (node - 1, node)).collect(),
            Self::Ring => (0..count).map(|node| (node, (node + 1) % count)).collect(),
            Self::Mesh => (0..count).flat_map(|node| (node + 1..count).map(move |other| (node, other))).collect(),
            Self::Star => (1..count).map(|node| (node, 0)).collect(),
            Self::Grid { width, height } => {
                if width.checked_mul(height) != Some(count) {
                    return Err(format!("a grid of {width} by {height} nodes does not have {count} of them"));
                }
                let neighbours = |node: usize| {
                    let right = (!(node + 1).is_multiple_of(width)).then_some((node, node + 1));
                    let below = (node + width < count).then_some((node, node + width));
                    right.into_iter().chain(below)
                };
                (0..count).flat_map(neighbours).collect()
            }
            Self::Tree => (1..count).map(|node| ((node - 1) / 2, node)).collect(),
            Self::Random { degree, seed } => {
                if degree >= count {
                    return Err(format!("a node cannot choose {degree} others of {count} nodes"));
                }
                random_dials(count, degree, seed)
            }
        })
    }
}

/// Shuffles, for each node, as much of the list of the others as it needs: bounded for every seed.
fn random_dials(count: usize, degree: usize, seed: u64) -> Vec<(usize, usize)> {
    let mut state = seed;
    let mut dials = Vec::with_capacity(count * degree);
    for node in 0..count {
        let mut others: Vec<_> = (0..count).filter(|&other| other != node).collect();
        for place in 0..degree {
            let rest = others.len() - place;
            // Less than `rest`, so the conversions lose nothing.
            let pick = place + (split_mix(&mut state) % rest as u64) as usize;
            others.swap(place, pick);
            dials.push((node, others[place]));
        }
    }
    dials
}

/// The SplitMix64 generator: small, and good enough for shapes of networks.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Connects nodes, all of which must be listening, in the given shape.
///
/// # Errors
/// - `InvalidInput`: fewer than 2 nodes, a grid whose dimensions do not multiply to their number, or a random degree that
///   is not below it; nothing has been connected then.
/// - the first error of a `connect`; what was connected before it stays connected.
///
/// # Cancel safety
/// Dropped, it leaves the connections that were made so far.
pub async fn connect_nodes<T: Pea2Pea>(nodes: &[T], topology: Topology) -> io::Result<()> {
    for (from, to) in topology.dials(nodes.len()).map_err(error::invalid_topology)? {
        let addr = nodes[to].node().listening_addr().await?;
        nodes[from].node().connect(addr).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_expected_connections_are_those_that_are_dialled() {
        for count in 2..20 {
            let shapes = [Topology::Line, Topology::Ring, Topology::Mesh, Topology::Star, Topology::Tree];
            let grid = Topology::Grid { width: 1, height: count };
            let random = (0..count).map(|degree| Topology::Random { degree, seed: 1 });
            for topology in shapes.into_iter().chain([grid]).chain(random) {
                let dials = topology.dials(count).unwrap();
                assert_eq!(dials.len() * 2, topology.num_expected_connections(count), "{topology:?} of {count}");
            }
        }
        let grid = Topology::Grid { width: 4, height: 3 };
        assert_eq!(grid.dials(12).unwrap().len() * 2, grid.num_expected_connections(12));
    }

    #[test]
    fn random_terminates_for_every_seed_and_no_node_dials_itself_or_another_twice() {
        for seed in (0..1_000).chain([u64::MAX]) {
            let dials = Topology::Random { degree: 3, seed }.dials(10).unwrap();
            let distinct: BTreeSet<_> = dials.iter().collect();
            assert_eq!((dials.len(), distinct.len()), (30, 30));
            assert!(dials.iter().all(|(from, to)| from != to));
        }
    }

    #[test]
    fn extreme_dimensions_overflow_nothing() {
        let grid = Topology::Grid { width: usize::MAX, height: usize::MAX };
        assert!(grid.dials(4).is_err());
        assert_eq!(grid.num_expected_connections(4), usize::MAX);
        assert_eq!(Topology::Mesh.num_expected_connections(0), 0);
    }
}
