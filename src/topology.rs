//! Connecting a set of nodes in a given shape. Uses the public API only.

use std::{collections::BTreeSet, io};

use crate::{Pea2Pea, error};

/// The shape of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topology {
    /// Each node dials the next one.
    Line,
    /// A line whose last node dials the first one.
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
    /// Each node dials `degree` others, chosen by a generator that begins with `seed`; a pair is connected once.
    Random {
        /// How many others each node chooses.
        degree: usize,
        /// Determines the choice.
        seed: u64,
    },
}

impl Topology {
    /// Returns the number of connections of all nodes together, each being counted at both of its ends.
    ///
    /// A number of nodes that does not go with the topology gives 0.
    pub fn num_expected_connections(&self, num_nodes: usize) -> usize {
        self.pairs(num_nodes).map_or(0, |pairs| pairs.len() * 2)
    }

    /// Lists who dials whom, each pair once.
    fn pairs(self, count: usize) -> Result<Vec<(usize, usize)>, String> {
        if count < 2 {
            return Err(format!("a topology needs at least 2 nodes, not {count}"));
        }
        Ok(match self {
            Self::Line => (1..count).map(|node| (node - 1, node)).collect(),
            // Two nodes have one connection, whatever the shape.
            Self::Ring if count == 2 => vec![(0, 1)],
            Self::Ring => (0..count).map(|node| (node, (node + 1) % count)).collect(),
            Self::Mesh => (0..count).flat_map(|node| (node + 1..count).map(move |other| (node, other))).collect(),
            Self::Star => (1..count).map(|node| (node, 0)).collect(),
            Self::Grid { width, height } => {
                if width.checked_mul(height) != Some(count) {
                    return Err(format!("a grid of {width} by {height} nodes does not have {count} of them"));
                }
                let right = (0..count).filter(|node| (node + 1) % width != 0).map(|node| (node, node + 1));
                let down = (0..count - width).map(|node| (node, node + width));
                right.chain(down).collect()
            }
            Self::Tree => (1..count).map(|node| ((node - 1) / 2, node)).collect(),
            Self::Random { degree, seed } => {
                if degree >= count {
                    return Err(format!("a node cannot choose {degree} others of {count} nodes"));
                }
                random_pairs(count, degree, seed)
            }
        })
    }
}

/// Shuffles, for each node, as much of the list of the others as it needs: bounded for every seed.
fn random_pairs(count: usize, degree: usize, seed: u64) -> Vec<(usize, usize)> {
    let mut state = seed;
    let mut chosen = BTreeSet::new();
    let mut pairs = Vec::new();
    for node in 0..count {
        let mut others: Vec<_> = (0..count).filter(|&other| other != node).collect();
        for place in 0..degree {
            let rest = (others.len() - place) as u64;
            let pick = place + usize::try_from(split_mix(&mut state) % rest).unwrap_or(0);
            others.swap(place, pick);
            let other = others[place];
            if chosen.insert((node.min(other), node.max(other))) {
                pairs.push((node, other));
            }
        }
    }
    pairs
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
    for (from, to) in topology.pairs(nodes.len()).map_err(error::invalid_topology)? {
        let addr = nodes[to].node().listening_addr().await?;
        nodes[from].node().connect(addr).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_has_the_connections_it_is_known_for() {
        for (topology, nodes, expected) in [
            (Topology::Line, 5, 8),
            (Topology::Ring, 5, 10),
            (Topology::Ring, 2, 2),
            (Topology::Mesh, 5, 20),
            (Topology::Star, 5, 8),
            (Topology::Grid { width: 3, height: 2 }, 6, 14),
            (Topology::Grid { width: 1, height: 4 }, 4, 6),
            (Topology::Tree, 7, 12),
            (Topology::Random { degree: 4, seed: 1 }, 5, 20),
            (Topology::Random { degree: 0, seed: 1 }, 5, 0),
            (Topology::Line, 1, 0),
        ] {
            assert_eq!(topology.num_expected_connections(nodes), expected, "{topology:?} of {nodes}");
        }
    }

    #[test]
    fn random_terminates_for_every_seed_and_never_repeats_a_pair() {
        for seed in (0..1_000).chain([u64::MAX]) {
            let pairs = Topology::Random { degree: 3, seed }.pairs(10).unwrap();
            let distinct: BTreeSet<_> = pairs.iter().map(|&(a, b)| (a.min(b), a.max(b))).collect();
            assert_eq!(distinct.len(), pairs.len());
            assert!(pairs.iter().all(|(a, b)| a != b));
            assert!((15..=30).contains(&pairs.len()), "{}", pairs.len());
        }
    }
}
