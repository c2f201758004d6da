//! Settings and calls that are refused with a panic that says what is wrong.

use std::{
    io,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
};

use futures_util::FutureExt;
use pea2pea::{
    Config, ConnectionSide, Node, Pea2Pea,
    protocols::{Handshake, OnConnect, OnDisconnect, Reading, Writing},
};
use tokio_util::{bytes::BytesMut, codec::BytesCodec};

use crate::{
    common::{
        actor::{Actor, Script, Unhurried, silent},
        local_config, local_node,
    },
    hook, ledger,
};

/// The text of the panic that the future, which does not have to wait, ends with.
fn panic_of(future: impl Future<Output = ()>) -> String {
    let payload = catch_unwind(AssertUnwindSafe(|| future.now_or_never())).expect_err("a panic");
    payload.downcast_ref::<String>().cloned().or(payload.downcast_ref::<&str>().map(ToString::to_string)).unwrap()
}

#[tokio::test(crate = "ledger")]
async fn enabling_a_protocol_twice_panics_with_its_name_and_changes_nothing() {
    let script = Script::<Unhurried> {
        handshake: hook!(|_actor, conn| async move { Ok(conn) }),
        process: silent(),
        on_connect: silent(),
        on_disconnect: silent(),
        writes: true,
        ..Default::default()
    };
    let (actor, addr) = Actor::listening(script).await;
    for (name, text) in [
        ("handshake", panic_of(actor.enable_handshake())),
        ("reading", panic_of(actor.enable_reading())),
        ("writing", panic_of(actor.enable_writing())),
        ("onconnect", panic_of(actor.enable_on_connect())),
        ("ondisconnect", panic_of(actor.enable_on_disconnect())),
    ] {
        assert!(text.to_lowercase().replace([' ', '_'], "").contains(name), "{name}: {text}");
    }
    let dialler = local_node();
    dialler.connect(addr).await.unwrap();
    actor.only_peer().await;
    actor.node().shut_down().await;
    assert_eq!((actor.begun_on_connect(), actor.begun_on_disconnect()), (1, 1));
}

/// A struct whose queues hold nothing.
#[derive(Clone)]
struct NoQueue(Node);

impl Pea2Pea for NoQueue {
    fn node(&self) -> &Node {
        &self.0
    }
}

impl Reading for NoQueue {
    const MESSAGE_QUEUE_DEPTH: usize = 0;

    type Message = BytesMut;
    type Codec = BytesCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        BytesCodec::new()
    }

    async fn process_message(&self, _source: SocketAddr, _message: BytesMut) {}
}

impl Writing for NoQueue {
    const MESSAGE_QUEUE_DEPTH: usize = 0;

    type Message = BytesMut;
    type Codec = BytesCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        BytesCodec::new()
    }
}

#[tokio::test(crate = "ledger")]
async fn a_queue_depth_of_zero_panics_and_leaves_the_protocol_to_others() {
    let node = local_node();
    for text in [panic_of(NoQueue(node.clone()).enable_reading()), panic_of(NoQueue(node.clone()).enable_writing())] {
        assert!(text.contains("MESSAGE_QUEUE_DEPTH"), "{text}");
    }
    let sent = NoQueue(node).unicast_fast(([127, 0, 0, 1], 1).into(), BytesMut::new());
    assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::Unsupported);
}

#[test]
fn a_limit_of_zero_panics_with_the_name_of_the_field() {
    ledger::check(|| {
        type Change = fn(Config) -> Config;
        let configs: [(&str, Change); 3] = [
            ("max_connections", |config| Config { max_connections: 0, ..config }),
            ("max_connections_per_ip", |config| Config { max_connections_per_ip: 0, ..config }),
            ("max_connecting", |config| Config { max_connecting: 0, ..config }),
        ];
        for (field, zeroed) in configs {
            let payload = catch_unwind(|| Node::new(zeroed(local_config()))).expect_err("a panic");
            let text = payload.downcast_ref::<String>().unwrap();
            assert!(
                text.split(|c: char| c != '_' && !c.is_alphanumeric()).any(|word| word == field),
                "{field}: {text}"
            );
        }
    });
}
