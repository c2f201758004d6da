//! `disconnect` outside of every runtime, of a connection whose runtime goes away meanwhile.

use std::{
    future::pending,
    net::SocketAddr,
    sync::{Once, mpsc},
    thread,
    time::Duration,
};

use pea2pea::{Config, DisconnectOrigin, Node, Pea2Pea, protocols::OnDisconnect};
use tokio::runtime::Builder;

use crate::{common::block_on_outside, ledger};

#[derive(Clone)]
struct Peer {
    node: Node,
    begun: mpsc::Sender<()>,
    sleeps: bool,
}

impl Pea2Pea for Peer {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl OnDisconnect for Peer {
    const TIMEOUT_MS: u64 = 60_000;

    async fn on_disconnect(&self, _: SocketAddr, _: DisconnectOrigin) {
        _ = self.begun.send(());
        if self.sleeps {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        pending::<()>().await;
    }
}

fn disconnect_while_the_runtime_vanishes(sleeps: bool) {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (begun, has_begun) = mpsc::channel();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let node = Node::new(Config { listener_addr: None, ..Default::default() });
    let peer = Peer { node, begun, sleeps };
    runtime.block_on(async {
        peer.enable_on_disconnect().await;
        peer.node.connect(addr).await.unwrap();
    });
    let own = peer.clone();
    let outside = thread::spawn(move || block_on_outside(own.node.disconnect(addr)));
    has_begun.recv_timeout(Duration::from_secs(20)).expect("on_disconnect begins");
    drop(runtime);
    let ended = outside.join();
    assert_eq!(peer.node.num_connected(), 0);
    block_on_outside(peer.node.shut_down());
    assert!(
        matches!(ended, Ok(true)),
        "disconnect panicked: {:?}",
        ended.map_err(|what| what
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or(what.downcast_ref::<String>().cloned()))
    );
}

/// Runs the test once before the ledger is opened, for what the process keeps of threads and channels. The panics of the timers,
/// which are caught, would be kept with the output of the test.
fn check(sleeps: bool) {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let text = info.payload().downcast_ref::<&str>().copied();
            let text = text.or_else(|| info.payload().downcast_ref::<String>().map(String::as_str));
            if !text.is_some_and(|text| text.contains("being shutdown")) {
                default(info);
            }
        }));
    });
    disconnect_while_the_runtime_vanishes(sleeps);
    ledger::check(|| disconnect_while_the_runtime_vanishes(sleeps));
}

#[test]
fn a_disconnect_returns_when_the_runtime_goes_away_under_a_hook_that_waits() {
    check(false);
}

#[test]
fn a_disconnect_returns_when_the_runtime_goes_away_under_a_hook_that_sleeps() {
    check(true);
}
