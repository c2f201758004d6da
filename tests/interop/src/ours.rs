//! A node of this crate's libp2p example.

use std::{net::SocketAddr, ops::Deref, time::Duration};

use libp2p::{Multiaddr, PeerId, identity::Keypair};
use pea2pea::{Config, DisconnectOrigin, Pea2Pea};
use pea2pea_libp2p::{Event, Libp2p};
use tokio::sync::broadcast::error::RecvError;

use crate::{
    in_time,
    log::{Log, log},
};

pub struct Ours {
    node: Libp2p,
    log: Log<Event>,
    pub multiaddr: Multiaddr,
}

impl Ours {
    /// Starts a node that listens.
    pub async fn start() -> Self {
        let config = Config {
            listener_addr: Some(([127, 0, 0, 1], 0).into()),
            max_connections_per_ip: 16,
            connection_timeout_ms: u16::MAX,
            ..Default::default()
        };
        let node = Libp2p::start(config, Keypair::generate_ed25519()).await.expect("our node starts");
        let (pen, log) = log();
        let mut events = node.events();
        tokio::spawn(async move {
            loop {
                match events.recv().await {
                    Ok(event) => pen.write(event),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                }
            }
        });
        let multiaddr = node.listen().await.expect("our node listens");
        Self { node, log, multiaddr }
    }

    /// Connects to one of theirs.
    pub async fn meet(&self, multiaddr: &Multiaddr) -> SocketAddr {
        in_time("our dial", self.node.dial(multiaddr)).await.expect("they let us in")
    }

    /// Waits until a peer is connected.
    pub async fn met(&self, wanted: PeerId) -> SocketAddr {
        self.saw("their connection", |event| match event {
            Event::Connected { addr, peer } if *peer == wanted => Some(*addr),
            _ => None,
        })
        .await
    }

    /// Waits until a peer is gone.
    pub async fn lost(&self, wanted: PeerId) -> DisconnectOrigin {
        self.saw("the end of their connection", |event| match event {
            Event::Disconnected { peer, origin, .. } if *peer == wanted => Some(*origin),
            _ => None,
        })
        .await
    }

    /// Waits until one of the events is what is wanted.
    pub async fn saw<P>(&self, what: &str, pick: impl Fn(&Event) -> Option<P>) -> P {
        self.log.wait_for(what, |events| events.iter().find_map(&pick)).await
    }

    /// Waits until so many of a peer's pings have been answered.
    pub async fn answered(&self, wanted: PeerId, times: usize) {
        let is_ping = |event: &&Event| matches!(event, Event::Pinged { peer } if *peer == wanted);
        self.log.wait_for("their pings", |events| (events.iter().filter(is_ping).count() >= times).then_some(())).await;
    }

    /// Waits until the node has no connection at all: the hook that tells of an end comes before it.
    pub async fn is_alone(&self) {
        in_time("the end of all connections", async {
            while self.node.node().num_connected() + self.node.node().num_connecting() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }

    pub async fn shut_down(self) {
        in_time("our shutdown", self.node.shut_down()).await;
    }
}

impl Deref for Ours {
    type Target = Libp2p;

    fn deref(&self) -> &Libp2p {
        &self.node
    }
}
