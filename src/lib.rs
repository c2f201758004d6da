//! A small kernel for TCP peer-to-peer nodes on tokio: it accepts, dials, limits, frames, batches and ends connections,
//! and leaves everything else (identity, discovery, wire format, policy) to you.
//!
//! Put a [`Node`] into a type of your own, implement [`Pea2Pea`] for it and the traits you need out of the five in
//! [`protocols`], enable those once, and let the node listen or connect.
//!
//! ```
//! use std::{io, net::SocketAddr};
//!
//! use pea2pea::{Config, ConnectionSide, Node, Pea2Pea, protocols::{Reading, Writing}};
//! use tokio::sync::mpsc;
//! use tokio_util::{bytes::BytesMut, codec::LengthDelimitedCodec};
//!
//! #[derive(Clone)]
//! struct Peer {
//!     node: Node,
//!     inbox: mpsc::Sender<BytesMut>,
//! }
//!
//! impl Pea2Pea for Peer {
//!     fn node(&self) -> &Node {
//!         &self.node
//!     }
//! }
//!
//! impl Reading for Peer {
//!     type Message = BytesMut;
//!     type Codec = LengthDelimitedCodec;
//!
//!     fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
//!         LengthDelimitedCodec::new()
//!     }
//!
//!     // The next message of this peer waits until this future is done, and then the peer itself.
//!     async fn process_message(&self, _source: SocketAddr, message: BytesMut) {
//!         let _nobody_listens = self.inbox.send(message).await;
//!     }
//! }
//!
//! impl Writing for Peer {
//!     type Message = tokio_util::bytes::Bytes;
//!     type Codec = LengthDelimitedCodec;
//!
//!     fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
//!         LengthDelimitedCodec::new()
//!     }
//! }
//!
//! async fn peer() -> (Peer, mpsc::Receiver<BytesMut>) {
//!     let config = Config { listener_addr: Some(([127, 0, 0, 1], 0).into()), ..Default::default() };
//!     let (inbox, messages) = mpsc::channel(16);
//!     let peer = Peer { node: Node::new(config), inbox };
//!     peer.enable_reading().await;
//!     peer.enable_writing().await;
//!     (peer, messages)
//! }
//!
//! #[tokio::main]
//! async fn main() -> io::Result<()> {
//!     let (ada, mut messages) = peer().await;
//!     let (bob, _) = peer().await;
//!     let addr = ada.node().toggle_listener().await?.expect("it was off");
//!
//!     bob.node().connect(addr).await?;
//!     let receipt = bob.unicast(addr, "hello".into())?;
//!     receipt.await.expect("the connection is up")?; // the operating system has it
//!     assert_eq!(messages.recv().await.as_deref(), Some(&b"hello"[..]));
//!
//!     bob.node().shut_down().await;
//!     ada.node().shut_down().await;
//!     Ok(())
//! }
//! ```
//!
//! # Where to read on
//!
//! - [`guide`]: the concepts, a page per protocol with a complete program, and pages on queues and buffers, backpressure,
//!   cancel safety, the public internet, scaling, testing and migrating. All programs in it run as tests.
//! - [`Node`] and [`Config`]: what a node can be asked and told. [`Config`] lists the limits and their defaults.
//! - [`protocols`]: the five traits. Their constants (timeouts in milliseconds, depths in messages, sizes in bytes) are
//!   documented where they are declared.
//! - `README.md`, `INVARIANTS.md`, `SECURITY.md` and `examples/` in the package: figures, promises and what enforces them,
//!   what is defended, and more than twenty programs.
//!
//! # Features
//!
//! `test` (off by default) is for networks on one host: it changes the default of [`Config::listener_addr`] to
//! `127.0.0.1:0` and that of [`Config::max_connections_per_ip`] to 100, and nothing else.
//!
//! # The life of a connection
//!
//! Yellow is a limit, blue a state, green what runs code of yours. Solid arrows are the usual way, dashed ones what may
//! happen at any time in between.
#![doc = "<div class=\"life\"><style>.life { overflow-x: auto } .life svg { max-width: 100%; height: auto }</style>"]
#![doc = include_str!("../docs/lifecycle.svg")]
#![doc = "</div>"]
#![forbid(unsafe_code)]

mod addr_hash;
mod buffers;
mod config;
mod connection;
mod counting;
mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
#[path = "checks/fuzzing/mod.rs"]
pub mod fuzzing;
// Part of the documentation only: a build has nothing of it.
#[cfg(any(doc, doctest))]
pub mod guide;
mod hooks;
mod host;
mod inbound;
mod inside;
mod kernel;
mod lifecycle;
mod listener;
mod live_connection;
mod node;
mod outbound;
mod panics;
pub mod protocols;
mod registry;
mod sync;
mod topology;
mod transport;
mod turn;
mod waiting;

/// Connections: their facts, their sides, and what ends them.
pub mod connections {
    pub use crate::connection::{Connection, ConnectionInfo, ConnectionSide, DisconnectOrigin};
}

pub use config::Config;
pub use connections::{Connection, ConnectionInfo, ConnectionSide, DisconnectOrigin};
pub use counting::heuristics::Heuristics;
pub use counting::stats::Stats;
pub use error::ShuttingDown;
pub use node::Node;
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

/// The programs in the README compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
