//! The wire of a contender that does not encrypt; for `node`, which finds it as `super::wire`.
//!
//! Like `node`, it is compiled once per crate, which the parent module names `p2p`.

use std::{
    future::{Future, ready},
    io,
    net::SocketAddr,
};

use tokio_util::codec::LengthDelimitedCodec;

use super::p2p::{Connection, protocols::Handshake};

pub type Decoding = LengthDelimitedCodec;
pub type Encoding = LengthDelimitedCodec;

/// What a node keeps for its connections.
#[derive(Clone, Default)]
pub struct Wire;

impl Wire {
    /// The handshake.
    pub fn secure(
        &self,
        node: &impl Handshake,
        mut connection: Connection,
    ) -> impl Future<Output = io::Result<Connection>> + Send {
        ready(node.borrow_stream(&mut connection).set_nodelay(true).map(|()| connection))
    }

    pub fn decoding(&self, _: SocketAddr) -> Decoding {
        LengthDelimitedCodec::new()
    }

    pub fn encoding(&self, _: SocketAddr) -> Encoding {
        LengthDelimitedCodec::new()
    }

    /// Forgets a connection.
    pub fn end(&self, _: SocketAddr) {}
}
