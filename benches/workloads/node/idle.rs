//! The heap of nodes and connections that do nothing.

use std::net::SocketAddr;

use tokio_util::bytes::Bytes;

use super::{Pea2Pea as _, Peer};
use crate::workloads::{
    heap,
    workload::{IDLE_TRAFFIC, IDLE_TRAFFIC_SIZE, Sample},
};

/// Nodes with one connection each, all to the same node. All nodes are there before; what is kept per thread is there too,
/// from connections and traffic that have been before.
pub async fn pairs(pairs: usize) -> Sample {
    heap::start_counting();
    let hub = Peer::counting().await;
    let addr = hub.listen().await;
    let mut peers = Vec::with_capacity(pairs);
    for _ in 0..pairs {
        peers.push(Peer::counting().await);
    }
    for _ in 0..WARM_UPS {
        connect_all(&peers, &hub, addr).await;
        exchange(&peers, &hub, addr).await;
        for peer in &peers {
            assert!(peer.node().disconnect(addr).await, "it was connected");
        }
        hub.wait_for(0).await;
    }
    let base = heap::settled().await;

    connect_all(&peers, &hub, addr).await;
    let before = heap::settled().await;
    exchange(&peers, &hub, addr).await;
    let after = heap::settled().await;
    peers.push(hub);
    close_all(&mut peers).await;
    [before, after].map(|bytes| (bytes - base) as f64 / pairs as f64).to_vec()
}

async fn connect_all(peers: &[Peer], hub: &Peer, addr: SocketAddr) {
    for peer in peers {
        peer.connect(hub, addr).await;
    }
}

/// Sends some traffic both ways over every connection, all at once so that every thread has its share, and waits for it.
async fn exchange(peers: &[Peer], hub: &Peer, addr: SocketAddr) {
    hub.tally().expect(IDLE_TRAFFIC * peers.len() as u64);
    for peer in peers {
        talk(peer, addr);
    }
    hub.tally().reached().await;
    peers.iter().for_each(|peer| peer.tally().expect(IDLE_TRAFFIC));
    for back in hub.node().connected_addrs() {
        talk(hub, back);
    }
    for peer in peers {
        peer.tally().reached().await;
    }
}

fn talk(from: &Peer, to: SocketAddr) {
    let from = from.clone();
    let payload = Bytes::from_static(&[7; IDLE_TRAFFIC_SIZE]);
    tokio::spawn(async move { from.send_all(to, &payload, IDLE_TRAFFIC).await });
}

/// Nodes that listen; a first generation of them has come and gone before.
pub async fn nodes(nodes: usize) -> Sample {
    heap::start_counting();
    let mut peers = Vec::with_capacity(nodes);
    open_all(&mut peers, nodes).await;
    close_all(&mut peers).await;
    let base = heap::settled().await;

    open_all(&mut peers, nodes).await;
    let open = heap::settled().await;
    close_all(&mut peers).await;
    vec![(open - base) as f64 / nodes as f64]
}

async fn open_all(peers: &mut Vec<Peer>, nodes: usize) {
    for _ in 0..nodes {
        let peer = Peer::counting().await;
        peer.listen().await;
        peers.push(peer);
    }
}

async fn close_all(peers: &mut Vec<Peer>) {
    for peer in peers.drain(..) {
        peer.node().shut_down().await;
    }
}

/// So often, and every thread has had to do with every kind of work.
const WARM_UPS: usize = 3;
