//! Messages between live ends: nothing is lost, doubled, torn or out of order.

use std::{io, net::SocketAddr, pin::pin, sync::Arc};

use pea2pea::{
    ConnectionSide, Node, Pea2Pea,
    protocols::{Reading, Writing},
};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    task::{JoinSet, yield_now},
};
use tokio_util::{bytes::BytesMut, codec::Encoder};

use crate::{
    common::{
        local_config,
        nodes::listed,
        poll_times, wait_until,
        wire::{Inbox, Numbered, NumberedCodec, Random, dialled_narrow, new_seed, send_until_refused},
    },
    ledger,
};

#[derive(Clone)]
struct Peer {
    node: Node,
    seed: u64,
    inbox: Arc<Inbox>,
}

impl Peer {
    async fn new(seed: u64) -> Self {
        let peer = Self { node: listed(local_config()), seed, inbox: Arc::default() };
        peer.enable_reading().await;
        peer.enable_writing().await;
        peer
    }

    /// Sends the first messages of a sender, as fast as the connection takes them.
    async fn send(&self, addr: SocketAddr, sender: u32, count: u32) {
        for number in 0..count {
            while let Err(error) = self.unicast_fast(addr, Numbered { sender, number }) {
                assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
                yield_now().await;
            }
        }
    }

    async fn received(&self, sender: u32, count: u32) {
        wait_until("all messages have arrived", || self.inbox.count(sender) == count).await;
    }
}

impl Pea2Pea for Peer {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Reading for Peer {
    type Message = Numbered;
    type Codec = NumberedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> NumberedCodec {
        NumberedCodec { seed: self.seed }
    }

    async fn process_message(&self, _source: SocketAddr, message: Numbered) {
        self.inbox.take_in(message);
    }
}

impl Writing for Peer {
    type Message = Numbered;
    type Codec = NumberedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> NumberedCodec {
        NumberedCodec { seed: self.seed }
    }
}

/// Two peers with one connection; returns how each knows the other.
async fn connected_peers(seed: u64) -> ((Peer, SocketAddr), (Peer, SocketAddr)) {
    let (dialler, listener) = (Peer::new(seed).await, Peer::new(seed).await);
    let listener_addr = listener.node.toggle_listener().await.unwrap().unwrap();
    dialler.node.connect(listener_addr).await.unwrap();
    wait_until("both ends are live", || listener.node.num_connected() == 1).await;
    let dialler_addr = listener.node.connected_addrs()[0];
    ((dialler, listener_addr), (listener, dialler_addr))
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 2)]
async fn a_million_messages_both_ways_at_once_arrive_whole_and_in_order() {
    const EACH_WAY: u32 = 500_000;

    let ((left, right_addr), (right, left_addr)) = connected_peers(new_seed()).await;
    let mut sending = JoinSet::new();
    for (from, to_addr, sender) in [(left.clone(), right_addr, 0), (right.clone(), left_addr, 1)] {
        sending.spawn(async move { from.send(to_addr, sender, EACH_WAY).await });
    }
    sending.join_all().await;
    tokio::join!(left.received(1, EACH_WAY), right.received(0, EACH_WAY));
    assert_counts_agree(&left.node, &right.node, EACH_WAY);
    assert_counts_agree(&right.node, &left.node, EACH_WAY);
}

/// What arrived is all that was sent, and no more. A message counts as sent before the other end can have it, so once it has
/// arrived there is nothing to wait for.
fn assert_counts_agree(from: &Node, to: &Node, messages: u32) {
    assert_eq!(from.stats().sent(), to.stats().received());
    assert_eq!(to.stats().received().0, u64::from(messages));
}

#[tokio::test(crate = "ledger")]
async fn on_one_thread_too_nothing_is_lost_or_out_of_order() {
    const EACH_WAY: u32 = 50_000;

    let ((left, right_addr), (right, left_addr)) = connected_peers(new_seed()).await;
    tokio::join!(left.send(right_addr, 0, EACH_WAY), right.send(left_addr, 1, EACH_WAY));
    tokio::join!(left.received(1, EACH_WAY), right.received(0, EACH_WAY));
    assert_counts_agree(&left.node, &right.node, EACH_WAY);
    assert_counts_agree(&right.node, &left.node, EACH_WAY);
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_cut_anywhere_yields_the_same_messages() {
    const MESSAGES: u32 = 50_000;

    let seed = new_seed();
    let peer = Peer::new(seed).await;
    let addr = peer.node.toggle_listener().await.unwrap().unwrap();
    let mut raw = TcpStream::connect(addr).await.unwrap();
    raw.set_nodelay(true).unwrap();
    let mut stream = BytesMut::new();
    let mut codec = NumberedCodec { seed };
    for number in 0..MESSAGES {
        codec.encode(Numbered { sender: 0, number }, &mut stream).unwrap();
    }

    let total = stream.len();
    let mut random = Random::new(seed);
    while !stream.is_empty() {
        let limit = [1, 12, 13, 300, 5_000, 70_000, 200_000][random.below(7)];
        let chunk = stream.split_to((1 + random.below(limit)).min(stream.len()));
        raw.write_all(&chunk).await.unwrap();
        if random.below(4) == 0 {
            // The node gets a chance to see the chunk by itself.
            yield_now().await;
        }
    }
    peer.received(0, MESSAGES).await;
    assert_eq!(peer.node.stats().received(), (u64::from(MESSAGES), total as u64));
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 4)]
async fn four_senders_on_one_connection_each_keep_their_order() {
    const EACH: u32 = 40_000;

    let ((left, right_addr), (right, _)) = connected_peers(new_seed()).await;
    let mut sending = JoinSet::new();
    for sender in 0..4 {
        let left = left.clone();
        sending.spawn(async move { left.send(right_addr, sender, EACH).await });
    }
    sending.join_all().await;
    for sender in 0..4 {
        right.received(sender, EACH).await;
    }
    assert_counts_agree(&left.node, &right.node, 4 * EACH);
}

#[tokio::test(crate = "ledger")]
#[expect(deprecated, reason = "it is lossy, and has to do what it promises all the same")]
async fn a_broadcast_reaches_every_peer() {
    let hub = Peer::new(0).await;
    hub.broadcast(Numbered { sender: 0, number: 0 }).expect("nobody is a fine audience");

    let mut leaves = Vec::new();
    for _ in 0..20 {
        let leaf = Peer::new(0).await;
        let addr = leaf.node.toggle_listener().await.unwrap().unwrap();
        hub.node.connect(addr).await.unwrap();
        leaves.push(leaf);
    }
    for number in 0..50 {
        hub.broadcast(Numbered { sender: 0, number }).unwrap();
    }
    for leaf in leaves {
        leaf.received(0, 50).await;
    }
    assert_eq!(hub.node.stats().sent().0, 20 * 50);
}

#[tokio::test(crate = "ledger")]
#[expect(deprecated, reason = "it is lossy, and has to do what it promises all the same")]
async fn a_broadcast_skips_peers_that_are_full_or_ending() {
    let hub = Peer::new(0).await;
    let good = Peer::new(0).await;
    hub.node.connect(good.node.toggle_listener().await.unwrap().unwrap()).await.unwrap();
    let (full, ending) = (dialled_narrow(&hub.node).await, dialled_narrow(&hub.node).await);
    for stalled in [full.addr, ending.addr] {
        send_until_refused(|| hub.unicast_fast(stalled, Numbered { sender: 1, number: 0 })).await;
    }
    // The ending waits for the peer to take what is queued, and takes no more messages meanwhile.
    let mut disconnecting = pin!(hub.node.disconnect(ending.addr));
    assert!(poll_times(disconnecting.as_mut(), 3).await.is_none());
    assert_eq!(hub.node.num_connected(), 3);
    let error = hub.unicast_fast(ending.addr, Numbered { sender: 0, number: 0 }).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);

    for number in 0..10 {
        // In one poll: nothing makes room in between.
        while hub.unicast_fast(full.addr, Numbered { sender: 1, number: 0 }).is_ok() {}
        hub.broadcast(Numbered { sender: 0, number }).expect("some peers are well");
        let error = hub.unicast_fast(full.addr, Numbered { sender: 1, number: 0 }).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
    }
    good.received(0, 10).await;
}
