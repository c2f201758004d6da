//! Setups that fail while they have values of the user's (codecs, streams, connections) whose drops panic.

use std::{
    io, mem,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use pea2pea::{
    Connection, ConnectionSide, Node, Pea2Pea,
    protocols::{Handshake, Reading, Writing},
};
use tokio_util::{
    bytes::{Bytes, BytesMut},
    codec::{Decoder, LengthDelimitedCodec},
    io::InspectReader,
};

use crate::{
    common::{
        DELIBERATE, in_time, keep_deliberate_panics_quiet, local_node,
        setups::{assert_vacant, raw_peer},
    },
    ledger,
};

/// Panics when it is dropped.
struct Fragile;

impl Drop for Fragile {
    fn drop(&mut self) {
        panic!("{DELIBERATE}");
    }
}

impl Decoder for Fragile {
    type Item = BytesMut;
    type Error = io::Error;

    fn decode(&mut self, _: &mut BytesMut) -> io::Result<Option<BytesMut>> {
        Ok(None)
    }
}

/// A node whose setups fail at the latest when they ask for the encoder.
#[derive(Clone)]
struct Holder {
    node: Node,
    /// Whether a handshake gives the connection of the one before back, instead of its own.
    swaps: bool,
    kept: Arc<Mutex<Option<Connection>>>,
}

impl Holder {
    fn new(swaps: bool) -> Self {
        keep_deliberate_panics_quiet();
        Self { node: local_node(), swaps, kept: Arc::default() }
    }

    /// Dials, in a task of its own, so that a panic is the test's failure and not its end.
    async fn dial_fails(&self) {
        let (_peer, addr) = raw_peer().await;
        let node = self.node.clone();
        let dialled = in_time("the dial", tokio::spawn(async move { node.connect(addr).await })).await;
        assert_eq!(dialled.expect("a panic came out of the dial").unwrap_err().kind(), io::ErrorKind::Other);
        assert_vacant(&self.node);
    }
}

impl Pea2Pea for Holder {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Handshake for Holder {
    async fn perform_handshake(&self, mut conn: Connection) -> io::Result<Connection> {
        let (stream, fragile) = (self.take_stream(&mut conn), Fragile);
        self.return_stream(&mut conn, InspectReader::new(stream, move |_: &[u8]| _ = &fragile));
        if self.swaps {
            return self.kept.lock().unwrap().replace(conn).ok_or_else(|| io::Error::other("the first one is kept"));
        }
        Ok(conn)
    }
}

impl Reading for Holder {
    type Message = BytesMut;
    type Codec = Fragile;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Fragile {
        Fragile
    }

    async fn process_message(&self, _source: SocketAddr, _message: BytesMut) {}
}

impl Writing for Holder {
    type Message = Bytes;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> LengthDelimitedCodec {
        panic!("{DELIBERATE}")
    }
}

#[tokio::test(crate = "ledger")]
async fn a_decoder_whose_drop_panics_does_not_panic_in_a_dial_that_gets_no_encoder() {
    let holder = Holder::new(false);
    holder.enable_reading().await;
    holder.enable_writing().await;
    holder.dial_fails().await;
}

#[tokio::test(crate = "ledger")]
async fn a_stream_whose_drop_panics_does_not_panic_in_a_dial_that_gets_no_encoder() {
    let holder = Holder::new(false);
    holder.enable_handshake().await;
    holder.enable_writing().await;
    holder.dial_fails().await;
}

#[tokio::test(crate = "ledger")]
async fn a_foreign_connection_whose_drop_panics_does_not_panic_in_the_dial_that_refuses_it() {
    let holder = Holder::new(true);
    holder.enable_handshake().await;
    holder.dial_fails().await;
    holder.dial_fails().await;
    // Dropped by the kernel's own type: quietly.
    drop(mem::take(&mut *holder.kept.lock().unwrap()));
}
