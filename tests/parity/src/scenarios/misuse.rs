//! What the API answers to programs that use it wrongly.

use std::{io, net::SocketAddr};

use bytes::Bytes;

use super::{
    super::p2p::{Connection, ConnectionSide, Node, Pea2Pea, protocols::*},
    actor::{ALL, Actor, Protocol, config, plain},
    faults::{fault, panic_text},
};
use crate::shared::{
    observation::Observation,
    raw,
    timing::{eventually, patiently},
    tuning::{Tuning, tuning},
    wire::Frames,
};

fn name_of(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Handshake => "handshake",
        Protocol::Reading => "reading",
        Protocol::Writing => "writing",
        Protocol::OnConnect => "onconnect",
        Protocol::OnDisconnect => "ondisconnect",
    }
}

pub(crate) async fn a_protocol_enabled_twice_panics() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config()).enabling(ALL).await;
    for protocol in ALL {
        let text = panic_text(actor.enable([protocol])).await;
        seen.note("panicked", text.is_some());
        let text = text.unwrap_or_default().to_lowercase().replace(['_', ' '], "");
        seen.note("the text names the protocol", text.contains(name_of(protocol)));
    }
    let (_listener, addr) = raw::listener().await;
    seen.note("the node still works", fault(&actor.node().connect(addr).await));
    seen
}

tuning!(NoReadQueue { READ_DEPTH: usize = 0 });
tuning!(NoWriteQueue { WRITE_DEPTH: usize = 0 });

async fn enable_without_a_queue<T: Tuning>(protocol: Protocol) -> Observation {
    let mut seen = Observation::new();
    let actor = Actor::<T>::build(config()).done();
    let text = panic_text(actor.enable([protocol])).await;
    seen.note("panicked", text.is_some());
    seen.note("the text names the constant", text.unwrap_or_default().contains("MESSAGE_QUEUE_DEPTH"));
    let (_listener, addr) = raw::listener().await;
    seen.note("the node still works", fault(&actor.node().connect(addr).await));
    seen
}

pub(crate) async fn a_read_queue_of_zero_panics() -> Observation {
    enable_without_a_queue::<NoReadQueue>(Protocol::Reading).await
}

pub(crate) async fn a_write_queue_of_zero_panics() -> Observation {
    enable_without_a_queue::<NoWriteQueue>(Protocol::Writing).await
}

pub(crate) async fn a_protocol_may_be_enabled_after_one_that_panicked() -> Observation {
    let mut seen = Observation::new();
    let bad = Actor::<NoWriteQueue>::build(config()).done();
    seen.note("panicked", panic_text(bad.enable([Protocol::Writing])).await.is_some());
    let writer = OnlyWriting(bad.node().clone());
    seen.note("panicked", panic_text(writer.enable_writing()).await.is_some());
    let (_listener, addr) = raw::listener().await;
    bad.node().connect(addr).await.unwrap();
    seen.note("unicast", fault(&writer.unicast(addr, "x".into())));
    seen
}

#[derive(Clone)]
struct OnlyHandshake(Node);

impl Pea2Pea for OnlyHandshake {
    fn node(&self) -> &Node {
        &self.0
    }
}

impl Handshake for OnlyHandshake {
    async fn perform_handshake(&self, conn: Connection) -> io::Result<Connection> {
        Ok(conn)
    }
}

#[derive(Clone)]
struct OnlyWriting(Node);

impl Pea2Pea for OnlyWriting {
    fn node(&self) -> &Node {
        &self.0
    }
}

impl Writing for OnlyWriting {
    type Message = Bytes;
    type Codec = Frames;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Frames {
        Frames
    }
}

pub(crate) async fn protocols_may_belong_to_different_types() -> Observation {
    let mut seen = Observation::new();
    let reader: Actor = Actor::build(config()).enabling([Protocol::Reading, Protocol::OnConnect]).await;
    let writer = OnlyWriting(reader.node().clone());
    writer.enable_writing().await;
    OnlyHandshake(reader.node().clone()).enable_handshake().await;
    let listener: Actor = Actor::build(config()).enabling([Protocol::Reading]).await;
    let addr = listener.listen().await;
    seen.note("connect", fault(&reader.node().connect(addr).await));
    seen.note("unicast", fault(&writer.unicast(addr, "by the writer".into())));
    // the message type is what must match, not the type that enabled the protocol
    seen.note("unicast of another type with that message", fault(&reader.unicast(addr, "by the reader".into())));
    listener.log.wait_for("got", 2).await;
    seen.note("got", listener.log.after("got "));
    let twice = panic_text(OnlyHandshake(reader.node().clone()).enable_handshake()).await;
    seen.note("one of each protocol per node", twice.is_some());
    seen
}

pub(crate) async fn a_handshake_may_not_return_another_connection() -> Observation {
    let mut seen = Observation::new();
    let stash = std::sync::Arc::new(std::sync::Mutex::new(None::<Connection>));
    let shared = stash.clone();
    let actor: Actor = Actor::build(config())
        .handshake(move |actor, conn| {
            let shared = shared.clone();
            async move {
                if shared.lock().unwrap().is_none() {
                    // keeps the first connection, and fails
                    *shared.lock().unwrap() = Some(conn);
                    return Err(io::ErrorKind::PermissionDenied.into());
                }
                actor.log.add("returned the other one");
                let other = shared.lock().unwrap().take().unwrap();
                drop(conn);
                Ok(other)
            }
        })
        .enabling([Protocol::Handshake])
        .await;
    let (_first_listener, first) = raw::listener().await;
    let (_second_listener, second) = raw::listener().await;
    seen.note("first", fault(&patiently("a dial", actor.node().connect(first)).await));
    seen.note("second", fault(&patiently("a dial", actor.node().connect(second)).await));
    seen.note("connected", (actor.node().is_connected(first), actor.node().is_connected(second)));
    eventually("nothing is pending", || actor.node().num_connecting() == 0).await;
    seen.note("log", actor.log.events());
    drop(stash);
    seen
}

pub(crate) async fn unknown_addresses_are_harmless() -> Observation {
    let mut seen = Observation::new();
    let actor = plain();
    for addr in ["0.0.0.0:0", "127.0.0.1:0", "[::]:0", "255.255.255.255:65535", "[ff02::1]:7"] {
        let addr: SocketAddr = addr.parse().unwrap();
        seen.note("states", (actor.node().is_connected(addr), actor.node().is_connecting(addr)));
        seen.note("disconnect", actor.node().disconnect(addr).await);
        seen.note("info", actor.node().connection_info(addr).is_some());
    }
    seen
}
