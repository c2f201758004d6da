//! A node against a peer that is written byte by byte: for what a peer may do, but rust-libp2p does not.

use std::{collections::VecDeque, future::poll_fn, io, pin::Pin, task::Poll, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{AsyncWrite, AsyncWriteExt as _};
use libp2p_identity::Keypair;
use pea2pea::{Config, ConnectionSide, Pea2Pea};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};
use tokio_util::{
    codec::{Decoder, Encoder},
    compat::TokioAsyncReadCompatExt,
};

use crate::{
    Libp2p, address,
    hooks::agree,
    noise::{Identity, MAX_PLAINTEXT, Opener, Sealer, secure},
    session::Pipe,
};

/// Both sides of the negotiation send the same.
const YAMUX_NEGOTIATION: &[u8] = b"\x13/multistream/1.0.0\n\x0d/yamux/1.0.0\n";

/// Version 0, type 2, flag SYN, no stream, and the number that is to come back.
const YAMUX_PING: [u8; 12] = [0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 42];

/// The same with the flag ACK.
const YAMUX_PONG: [u8; 12] = [0, 2, 0, 2, 0, 0, 0, 0, 0, 0, 0, 42];

/// Version 0, type 3, and no error.
const YAMUX_GOODBYE: [u8; 12] = [0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[tokio::test]
async fn what_comes_along_with_the_negotiation_is_not_lost() {
    let node = listener().await;
    let mut peer = RawPeer::dial(&node).await;
    peer.send(&[YAMUX_NEGOTIATION, &YAMUX_PING].concat()).await;
    assert_eq!(peer.receive(YAMUX_NEGOTIATION.len()).await, YAMUX_NEGOTIATION);
    peer.receive_frame(YAMUX_PONG).await;
    node.shut_down().await;
}

#[tokio::test]
async fn a_disconnect_says_goodbye() {
    let node = listener().await;
    let mut peer = RawPeer::dial(&node).await;
    peer.send(YAMUX_NEGOTIATION).await;
    assert_eq!(peer.receive(YAMUX_NEGOTIATION.len()).await, YAMUX_NEGOTIATION);
    peer.send(&YAMUX_PING).await;
    peer.receive_frame(YAMUX_PONG).await;

    let addr = peer.tcp.local_addr().expect("an address");
    let (was_connected, ()) = tokio::join!(node.disconnect(addr), peer.receive_frame(YAMUX_GOODBYE));
    assert!(was_connected);
    assert_eq!(peer.receive_part().await.expect("the end"), 0, "nothing comes after the goodbye");
    node.shut_down().await;
}

#[tokio::test]
async fn a_forged_message_ends_the_connection() {
    let node = listener().await;
    let mut peer = RawPeer::dial(&node).await;
    peer.send(YAMUX_NEGOTIATION).await;
    assert_eq!(peer.receive(YAMUX_NEGOTIATION.len()).await, YAMUX_NEGOTIATION);
    peer.tcp.write_all(&[0, 20]).await.expect("a length");
    peer.tcp.write_all(&[7; 20]).await.expect("a forgery");
    // Whatever else the node had to say comes before its end.
    while peer.receive_part().await.is_ok_and(|size| size > 0) {}
    until(|| node.node().num_connected() == 0).await;
    node.shut_down().await;
}

/// What Yamux writes waits while one message is on its way and the next one is full; then it goes on, with no byte lost.
#[tokio::test]
async fn a_full_pipe_waits_until_its_message_has_left() {
    let node = listener().await;
    let mut peer = RawPeer::dial(&node).await;
    peer.send(YAMUX_NEGOTIATION).await;
    assert_eq!(peer.receive(YAMUX_NEGOTIATION.len()).await, YAMUX_NEGOTIATION);
    let addr = peer.tcp.local_addr().expect("an address");
    until(|| node.node().is_connected(addr)).await;

    let data: Vec<u8> = (0..4 * MAX_PLAINTEXT).map(|n| (n % 251) as u8).collect();
    let (_inbound, inbound) = mpsc::channel(1);
    let mut pipe = Pipe::new(node.clone(), addr, inbound, Bytes::new());
    let (mut accepted, mut refused) = (0, 0);
    // Nothing else runs on this thread meanwhile, so the first message does not leave. The pipe waits a first time when it
    // sends that one, and from then on when the next one is full.
    poll_fn(|cx| {
        while refused < 3 {
            let Poll::Ready(size) = Pin::new(&mut pipe).poll_write(cx, &data[accepted..]) else {
                refused += 1;
                continue;
            };
            let size = size.expect("it is accepted");
            assert!(size > 0, "a full pipe waits, and does not accept nothing");
            accepted += size;
            assert!(accepted <= 2 * MAX_PLAINTEXT, "the pipe holds two messages, and no more");
        }
        Poll::Ready(())
    })
    .await;
    assert_eq!(accepted, 2 * MAX_PLAINTEXT, "the pipe is full");

    let write = async {
        pipe.write_all(&data[accepted..]).await.expect("the rest is accepted");
        pipe.flush().await.expect("all of it leaves");
    };
    let read = async {
        let mut arrived = Vec::new();
        while arrived.len() < data.len() {
            assert!(peer.receive_part().await.expect("more") > 0, "more was to come");
            while let Some(message) = peer.messages.pop_front() {
                // The session of this connection may measure the round trip meanwhile.
                if message[..4] != YAMUX_PING[..4] || message.len() != YAMUX_PING.len() {
                    arrived.extend_from_slice(&message);
                }
            }
        }
        arrived
    };
    let ((), arrived) = in_time(async { tokio::join!(write, read) }).await;
    assert!(arrived == data, "every byte has arrived, in its place");
    node.shut_down().await;
}

async fn listener() -> Libp2p {
    let config = Config { listener_addr: Some(([127, 0, 0, 1], 0).into()), ..Default::default() };
    let node = Libp2p::start(config, Keypair::generate_ed25519()).await.expect("a node");
    node.listen().await.expect("it listens");
    node
}

/// A peer after the Noise handshake.
struct RawPeer {
    tcp: TcpStream,
    sealer: Sealer,
    opener: Opener,
    arrived: BytesMut,
    /// The messages that were not asked for yet.
    messages: VecDeque<Bytes>,
}

impl RawPeer {
    async fn dial(node: &Libp2p) -> Self {
        let (addr, _) = address::parse(&node.listen().await.expect("it listens")).expect("an address");
        let mut tcp = TcpStream::connect(addr).await.expect("a connection");
        let identity = Identity::new(Keypair::generate_ed25519()).expect("an identity");
        agree((&mut tcp).compat(), ConnectionSide::Initiator, "/noise").await.expect("Noise is spoken");
        let (key, sealer, opener) = secure(&mut tcp, ConnectionSide::Initiator, &identity).await.expect("secured");
        assert_eq!(key.to_peer_id(), node.peer_id());
        Self { tcp, sealer, opener, arrived: BytesMut::new(), messages: VecDeque::new() }
    }

    /// Sends all of it in one Noise message.
    async fn send(&mut self, plaintext: &[u8]) {
        let mut message = BytesMut::new();
        self.sealer.encode(Bytes::copy_from_slice(plaintext), &mut message).expect("a message");
        self.tcp.write_all(&message).await.expect("it is sent");
    }

    async fn receive(&mut self, size: usize) -> BytesMut {
        let mut plaintext = BytesMut::new();
        while plaintext.len() < size {
            let Some(message) = self.messages.front_mut() else {
                assert!(self.receive_part().await.expect("more") > 0, "more was to come");
                continue;
            };
            plaintext.extend_from_slice(&message.split_to(message.len().min(size - plaintext.len())));
            if message.is_empty() {
                self.messages.pop_front();
            }
        }
        plaintext
    }

    async fn receive_part(&mut self) -> io::Result<usize> {
        let size = in_time(self.tcp.read_buf(&mut self.arrived)).await?;
        while let Some(plaintext) = self.opener.decode(&mut self.arrived)? {
            self.messages.push_back(plaintext);
        }
        Ok(size)
    }

    /// Receives frames until it is this one: Yamux may measure the round trip with pings of its own in between.
    async fn receive_frame(&mut self, wanted: [u8; 12]) {
        loop {
            let frame = self.receive(wanted.len()).await;
            if frame == wanted[..] {
                return;
            }
            assert_eq!(frame.chunk()[..4], YAMUX_PING[..4], "nothing but pings comes before");
        }
    }
}

async fn until(is_so: impl Fn() -> bool) {
    in_time(async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(60), work).await.expect("it comes in time")
}
