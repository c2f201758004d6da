//! What the log says of failures that the system reports without an address.
//!
//! In a binary of its own: `tracing` may switch a line off for good if a thread without a subscriber is the first to come by it.

mod common;
#[path = "common/ledger.rs"]
mod ledger;

use std::{
    fmt::{Debug, Write},
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use common::{
    in_time, local_config, local_node,
    nodes::listed,
    setups::raw_peer,
    wire::{Sender, dialled_raw},
};
use pea2pea::{Config, Node, protocols::Writing};
use tokio::net::TcpListener;
use tokio_util::bytes::Bytes;
use tracing::{
    Event, Level, Metadata,
    field::{Field, Visit},
    span,
    subscriber::DefaultGuard,
};

/// Keeps the lines that are logged on one thread.
#[derive(Default, Clone)]
struct Lines(Arc<Mutex<Vec<(Level, String)>>>);

impl Lines {
    /// Keeps those of this thread, and thus of one test only.
    fn kept() -> (Self, DefaultGuard) {
        let lines = Self::default();
        let guard = tracing::subscriber::set_default(lines.clone());
        (lines, guard)
    }

    /// The only line with this text in it since this was last asked.
    #[track_caller]
    fn only(&self, text: &str) -> String {
        let mut lines = std::mem::take(&mut *self.0.lock().unwrap());
        lines.retain(|(_, line)| line.contains(text));
        let [(Level::DEBUG, line)] = &lines[..] else { panic!("not one DEBUG line with {text:?}: {lines:?}") };
        line.clone()
    }
}

impl tracing::Subscriber for Lines {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _span: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _span: &span::Id, _values: &span::Record<'_>) {}

    fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields(String::new());
        event.record(&mut fields);
        self.0.lock().unwrap().push((*event.metadata().level(), fields.0));
    }

    fn enter(&self, _span: &span::Id) {}

    fn exit(&self, _span: &span::Id) {}
}

struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, "{field}={value:?} ").unwrap();
    }
}

/// The error is as the system made it, and the line names the address beside it.
#[track_caller]
fn assert_is_the_systems(error: &io::Error, addr: SocketAddr, line: &str) {
    assert!(error.raw_os_error().is_some(), "not the system's: {error:?}");
    assert!(line.contains(&format!("addr={addr} ")), "{addr} is not named: {line}");
    assert!(line.contains(&error.to_string()), "{error} is not shown: {line}");
}

#[tokio::test(crate = "ledger")]
async fn a_failed_bind_is_logged_with_its_address() {
    let (lines, _guard) = Lines::kept();
    let busy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for addr in [busy.local_addr().unwrap(), "203.0.113.7:0".parse().unwrap()] {
        let node = listed(Config { listener_addr: Some(addr), ..local_config() });
        let error = node.toggle_listener().await.unwrap_err();
        assert_is_the_systems(&error, addr, &lines.only("could not listen"));
    }
    let deaf = listed(Config { listener_addr: None, ..local_config() });
    assert_eq!(deaf.toggle_listener().await.unwrap_err().kind(), ErrorKind::AddrNotAvailable);
    assert!(!lines.only("could not listen").contains("addr="));
}

/// The error of a dial that fails, and the line about it.
async fn refusal(node: &Node, addr: SocketAddr, lines: &Lines) -> (io::Error, String) {
    let error = in_time("the dial", node.connect(addr)).await.unwrap_err();
    (error, lines.only("could not connect"))
}

#[tokio::test(crate = "ledger")]
async fn every_failed_dial_is_logged_with_its_address() {
    let (lines, _guard) = Lines::kept();
    let node = local_node();
    let unused = {
        let listener = TcpListener::bind("127.0.83.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let (error, line) = refusal(&node, unused, &lines).await;
    assert_is_the_systems(&error, unused, &line);

    // Refused before anything is asked of the system.
    let own = node.toggle_listener().await.unwrap().unwrap();
    let (_peer, taken) = raw_peer().await;
    node.connect(taken).await.unwrap();
    for (addr, kind) in [(own, ErrorKind::AddrInUse), (taken, ErrorKind::AlreadyExists)] {
        let (error, line) = refusal(&node, addr, &lines).await;
        assert_eq!(error.kind(), kind);
        assert!(line.contains(&format!("addr={addr} ")), "{addr} is not named: {line}");
    }
    let full = listed(Config { max_connections: 1, max_connecting: 1, ..local_config() });
    full.connect(taken).await.unwrap();
    let (error, line) = refusal(&full, unused, &lines).await;
    assert_eq!(error.kind(), ErrorKind::QuotaExceeded);
    assert!(line.contains(&format!("addr={unused} ")), "{unused} is not named: {line}");
}

#[tokio::test(crate = "ledger")]
#[expect(deprecated, reason = "it is lossy, and has to do what it promises all the same")]
async fn a_broadcast_says_that_it_skips_a_connection_older_than_writing() {
    let (lines, _guard) = Lines::kept();
    let sender = Sender::<64>::mute();
    let (_older, addr) = dialled_raw(&sender.node).await;
    sender.enable_writing().await;
    sender.broadcast(Bytes::from_static(b"hello")).unwrap();
    let line = lines.only("skipped a peer");
    assert!(line.contains(&format!("addr={addr} ")), "{addr} is not named: {line}");
    assert!(line.contains("Writing was enabled after this connection"), "no reason: {line}");
}
