//! "One goes, all go": endings that the hooks of other endings begin, thousands of them, one in another.

mod common;
#[path = "common/ledger.rs"]
mod ledger;

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use common::{Events, in_time, local_config, nodes::listed, poll_times, setups::settled};
use pea2pea::{Config, DisconnectOrigin, Node, Pea2Pea, protocols::OnDisconnect};
use tokio::net::TcpStream;

/// As many as two file descriptors each, of 20,000 in all, leave room for.
const CONNECTIONS: usize = 2_000;

/// How many dials wait to be accepted.
const AT_ONCE: usize = 100;

/// A node that gives all its connections up when it loses one.
#[derive(Clone)]
struct Together {
    node: Node,
    /// For whom the hook has begun.
    begun: Events<SocketAddr>,
    /// How many calls of `disconnect`, in a hook, have ended a connection.
    ended: Arc<AtomicUsize>,
}

impl Pea2Pea for Together {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl OnDisconnect for Together {
    const TIMEOUT_MS: u64 = u64::MAX;

    async fn on_disconnect(&self, addr: SocketAddr, _: DisconnectOrigin) {
        self.begun.push(addr);
        for other in self.node.connected_addrs() {
            if self.node.disconnect(other).await {
                self.ended.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

impl Together {
    /// Makes a node with so many connections; the peers of these, too.
    async fn connected() -> (Self, Vec<TcpStream>) {
        let limit = CONNECTIONS as u16;
        let config = Config {
            max_connections: limit,
            max_connections_per_ip: limit,
            listener_backlog: AT_ONCE as u32,
            ..local_config()
        };
        let together = Self { node: listed(config), begun: Events::default(), ended: Arc::default() };
        together.enable_on_disconnect().await;
        let addr = together.node.toggle_listener().await.unwrap().unwrap();
        let mut peers = Vec::new();
        while peers.len() < CONNECTIONS {
            for _ in 0..AT_ONCE {
                peers.push(in_time("a dial", TcpStream::connect(addr)).await.unwrap());
            }
            settled(&together.node, peers.len()).await;
        }
        (together, peers)
    }

    /// The hook of each connection has begun, once.
    fn assert_all_have_begun_once(&self) {
        let begun = self.begun.all();
        let different: HashSet<_> = begun.iter().collect();
        assert_eq!((begun.len(), different.len()), (CONNECTIONS, CONNECTIONS));
    }
}

async fn assert_one_takes_all_along() {
    let (together, peers) = Together::connected().await;
    let first = together.node.connected_addrs()[0];
    assert!(in_time("all endings", together.node.disconnect(first)).await);
    together.assert_all_have_begun_once();
    assert_eq!(together.ended.load(Ordering::SeqCst), CONNECTIONS - 1, "each of the others was ended by one call");
    assert_eq!(together.node.num_connected(), 0);
    in_time("shut_down", together.node.shut_down()).await;
    together.assert_all_have_begun_once();
    drop(peers);
}

#[tokio::test(crate = "ledger")]
async fn one_that_goes_takes_all_others_along_and_each_caller_learns_of_it() {
    assert_one_takes_all_along().await;
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 2)]
async fn one_that_goes_takes_all_others_along_on_many_threads_too() {
    assert_one_takes_all_along().await;
}

/// The outermost ending is dropped when about so many others have begun.
async fn assert_a_dropped_end_leaves_nothing_connected(until: usize) {
    let (together, peers) = Together::connected().await;
    let first = together.node.connected_addrs()[0];
    let mut ending = Box::pin(together.node.disconnect(first));
    while together.begun.len() < until {
        assert_eq!(poll_times(ending.as_mut(), 1).await, None, "it goes on");
    }
    drop(ending);
    in_time("shut_down", together.node.shut_down()).await;
    together.assert_all_have_begun_once();
    assert_eq!((together.node.num_connected(), together.node.connected_addrs()), (0, Vec::new()));
    drop(peers);
}

#[tokio::test(crate = "ledger")]
async fn when_the_outermost_end_is_dropped_every_hook_begins_once_and_nothing_stays_connected() {
    for until in [1, 5, CONNECTIONS / 2] {
        assert_a_dropped_end_leaves_nothing_connected(until).await;
    }
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 2)]
async fn when_the_outermost_end_is_dropped_every_hook_begins_once_on_many_threads_too() {
    assert_a_dropped_end_leaves_nothing_connected(CONNECTIONS / 2).await;
}
