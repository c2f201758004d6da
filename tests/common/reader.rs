//! For tests about receiving: a node that notes what it processes, as slowly as the test wants it.

use std::{net::SocketAddr, sync::Arc};

use pea2pea::{
    ConnectionSide, DisconnectOrigin, Node, Pea2Pea,
    protocols::{OnDisconnect, Reading, Writing},
};
use tokio::sync::Semaphore;
use tokio_util::{
    bytes::{Bytes, BytesMut},
    codec::LengthDelimitedCodec,
};

use super::{Events, local_node, wait_until};

/// What a reader notes; messages by their first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    Begun(u8),
    Done(u8),
    Ended(DisconnectOrigin),
}

/// A node that receives length-delimited frames, answers each with a frame of its first byte, and notes what happens.
#[derive(Debug, Clone)]
pub struct Reader<
    const DEPTH: usize = 64,
    const BACKPRESSURE: bool = true,
    const IDLE_MS: u64 = 0,
    const BUFFER: usize = 65_536,
> {
    pub node: Node,
    pub noted: Events<Noted>,
    /// Each message takes one permit to be done.
    gate: Arc<Semaphore>,
}

impl<const DEPTH: usize, const BACKPRESSURE: bool, const IDLE_MS: u64, const BUFFER: usize>
    Reader<DEPTH, BACKPRESSURE, IDLE_MS, BUFFER>
{
    /// Its messages wait until the test lets them pass.
    pub async fn gated() -> Self {
        let reader = Self { node: local_node(), noted: Events::default(), gate: Arc::new(Semaphore::new(0)) };
        reader.enable_reading().await;
        reader.enable_writing().await;
        reader.enable_on_disconnect().await;
        reader
    }

    /// Its messages are done at once.
    pub async fn quick() -> Self {
        let reader = Self::gated().await;
        reader.let_pass(1_000_000);
        reader
    }

    pub fn let_pass(&self, messages: usize) {
        self.gate.add_permits(messages);
    }

    pub async fn received(&self, messages: u64) {
        wait_until(&format!("{messages} are received"), || self.node.stats().received().0 == messages).await;
    }

    pub async fn ended(&self, origin: DisconnectOrigin) {
        self.noted.wait_for(Noted::Ended(origin)).await;
        wait_until("the connection is gone", || self.node.num_connected() == 0).await;
    }

    /// The first bytes of the messages whose processing has begun.
    pub fn begun(&self) -> Vec<u8> {
        let begun = |noted: &Noted| if let Noted::Begun(byte) = noted { Some(*byte) } else { None };
        self.noted.all().iter().filter_map(begun).collect()
    }
}

impl<const DEPTH: usize, const BACKPRESSURE: bool, const IDLE_MS: u64, const BUFFER: usize> Pea2Pea
    for Reader<DEPTH, BACKPRESSURE, IDLE_MS, BUFFER>
{
    fn node(&self) -> &Node {
        &self.node
    }
}

impl<const DEPTH: usize, const BACKPRESSURE: bool, const IDLE_MS: u64, const BUFFER: usize> Reading
    for Reader<DEPTH, BACKPRESSURE, IDLE_MS, BUFFER>
{
    const MESSAGE_QUEUE_DEPTH: usize = DEPTH;
    const BACKPRESSURE: bool = BACKPRESSURE;
    const INITIAL_BUFFER_SIZE: usize = BUFFER;
    const IDLE_TIMEOUT_MS: u64 = IDLE_MS;

    type Message = BytesMut;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> LengthDelimitedCodec {
        LengthDelimitedCodec::new()
    }

    async fn process_message(&self, source: SocketAddr, message: BytesMut) {
        assert!(self.node.is_connected(source), "nothing is read before the connection is live");
        let byte = message[0];
        self.noted.push(Noted::Begun(byte));
        self.gate.acquire().await.unwrap().forget();
        // The connection may be ending, or its queue full: not what the tests of receiving are about.
        _ = self.unicast_fast(source, Bytes::copy_from_slice(&[byte]));
        self.noted.push(Noted::Done(byte));
    }
}

impl<const DEPTH: usize, const BACKPRESSURE: bool, const IDLE_MS: u64, const BUFFER: usize> Writing
    for Reader<DEPTH, BACKPRESSURE, IDLE_MS, BUFFER>
{
    type Message = Bytes;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> LengthDelimitedCodec {
        LengthDelimitedCodec::new()
    }
}

impl<const DEPTH: usize, const BACKPRESSURE: bool, const IDLE_MS: u64, const BUFFER: usize> OnDisconnect
    for Reader<DEPTH, BACKPRESSURE, IDLE_MS, BUFFER>
{
    async fn on_disconnect(&self, _addr: SocketAddr, origin: DisconnectOrigin) {
        self.noted.push(Noted::Ended(origin));
    }
}
