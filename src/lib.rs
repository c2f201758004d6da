#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod addr_hash;
mod config;
mod connection;
mod error;
mod framing;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod heuristics;
mod hooks;
mod kernel;
mod lifecycle;
mod link;
mod listener;
mod log_budget;
mod meter;
mod node;
mod outbox;
mod press;
pub mod protocols;
mod registry;
mod scope;
mod scratch;
mod stats;
mod sync;
mod task;
mod topology;
mod transport;

/// Connections: their facts, their sides, and what ends them.
pub mod connections {
    pub use crate::connection::{Connection, ConnectionInfo, ConnectionSide, DisconnectOrigin};
}

pub use config::Config;
pub use connections::{Connection, ConnectionInfo, ConnectionSide, DisconnectOrigin};
pub use error::ShuttingDown;
pub use heuristics::Heuristics;
pub use node::Node;
pub use stats::Stats;
pub use topology::{Topology, connect_nodes};

/// Gives access to the node that a struct is built around; what every protocol needs.
///
/// ```
/// # use pea2pea::{Config, Node, Pea2Pea};
/// #[derive(Clone)]
/// struct MyNode {
///     node: Node,
///     // whatever else the peer needs
/// }
///
/// impl Pea2Pea for MyNode {
///     fn node(&self) -> &Node {
///         &self.node
///     }
/// }
/// ```
pub trait Pea2Pea {
    /// Returns the node.
    fn node(&self) -> &Node;
}
