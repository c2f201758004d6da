//! The Writing protocol: what the send methods say and what reaches the peer.

use std::{io, net::SocketAddr};

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::codec::LinesCodec;

use super::{
    super::p2p::{ConnectionSide, Node, Pea2Pea, protocols::Writing},
    actor::{Actor, Protocol, config, plain},
    faults::fault,
};
use crate::shared::{
    observation::Observation,
    raw,
    timing::{eventually, settled},
    tuning::{Standard, Tuning, tuning},
    wire::{ERROR, NOTHING, PANIC, payloads},
};

const WRITER: [Protocol; 2] = [Protocol::Writing, Protocol::OnDisconnect];

/// An actor that writes and has dialled a raw peer.
async fn writer<T: Tuning>() -> (Actor<T>, TcpStream, SocketAddr) {
    let actor = Actor::<T>::build(config()).enabling(WRITER).await;
    let (listener, addr) = raw::listener().await;
    let peer = dialled_by(&actor, &listener, addr).await;
    (actor, peer, addr)
}

async fn dialled_by<T: Tuning>(actor: &Actor<T>, listener: &TcpListener, addr: SocketAddr) -> TcpStream {
    actor.node().connect(addr).await.unwrap();
    raw::accept(listener).await
}

fn numbered(number: usize) -> Bytes {
    format!("{number:04}").into()
}

/// The size of a numbered message on the wire.
const NUMBERED: usize = 8;

/// The same node with another message type.
#[derive(Clone)]
struct Stranger(Node);

impl Pea2Pea for Stranger {
    fn node(&self) -> &Node {
        &self.0
    }
}

impl Writing for Stranger {
    type Message = String;
    type Codec = Lines;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Lines {
        Lines(LinesCodec::new())
    }
}

struct Lines(LinesCodec);

impl tokio_util::codec::Encoder<String> for Lines {
    type Error = io::Error;

    fn encode(&mut self, line: String, dst: &mut bytes::BytesMut) -> io::Result<()> {
        self.0.encode(line, dst).map_err(io::Error::other)
    }
}

pub(crate) async fn sends_without_writing_are_unsupported() -> Observation {
    let mut seen = Observation::new();
    let actor = plain();
    let (_listener, addr) = raw::listener().await;
    for _ in 0..2 {
        seen.note("unicast", fault(&actor.unicast(addr, "x".into())));
        seen.note("unicast_fast", fault(&actor.unicast_fast(addr, "x".into())));
        #[expect(deprecated, reason = "deprecated on both sides: the lint finds a side that is not")]
        let broadcast = actor.broadcast("x".into());
        seen.note("broadcast", fault(&broadcast));
        // the second round is over a live connection
        actor.node().connect(addr).await.ok();
    }
    seen
}

pub(crate) async fn sends_to_strangers_are_not_connected() -> Observation {
    let mut seen = Observation::new();
    let (actor, _peer, addr) = writer::<Standard>().await;
    let (_socket, nobody) = raw::deserted();
    seen.note("unicast", fault(&actor.unicast(nobody, "x".into())));
    seen.note("unicast_fast", fault(&actor.unicast_fast(nobody, "x".into())));
    actor.node().disconnect(addr).await;
    seen.note("unicast to a former peer", fault(&actor.unicast(addr, "x".into())));
    seen.note("unicast_fast to a former peer", fault(&actor.unicast_fast(addr, "x".into())));
    #[expect(deprecated, reason = "deprecated on both sides: the lint finds a side that is not")]
    let broadcast = actor.broadcast("x".into());
    seen.note("broadcast to nobody", fault(&broadcast));
    seen
}

pub(crate) async fn sends_of_another_type_are_unsupported() -> Observation {
    let mut seen = Observation::new();
    let (actor, _peer, addr) = writer::<Standard>().await;
    let stranger = Stranger(actor.node().clone());
    seen.note("unicast", fault(&stranger.unicast(addr, "x".into())));
    seen.note("unicast_fast", fault(&stranger.unicast_fast(addr, "x".into())));
    #[expect(deprecated, reason = "deprecated on both sides: the lint finds a side that is not")]
    let broadcast = stranger.broadcast("x".into());
    seen.note("broadcast", fault(&broadcast));
    seen.note("unicast of the owner", fault(&actor.unicast(addr, "x".into())));
    let (_socket, nobody) = raw::deserted();
    seen.note("unicast to nobody", fault(&stranger.unicast(nobody, "x".into())));
    seen
}

pub(crate) async fn sends_after_the_shutdown_are_not_connected() -> Observation {
    let mut seen = Observation::new();
    let (actor, _peer, addr) = writer::<Standard>().await;
    actor.node().shut_down().await;
    seen.note("unicast", fault(&actor.unicast(addr, "x".into())));
    seen.note("unicast_fast", fault(&actor.unicast_fast(addr, "x".into())));
    seen
}

tuning!(Shallow { WRITE_DEPTH: usize = 5 });
tuning!(Single { WRITE_DEPTH: usize = 1 });

/// Sends without a pause until the queue is full, then lets the writer run.
async fn burst<T: Tuning>(with_receipts: bool) -> Observation {
    let mut seen = Observation::new();
    let (actor, mut peer, addr) = writer::<T>().await;
    let mut accepted = 0;
    let mut receipts = Vec::new();
    let refusal = loop {
        let result = if with_receipts {
            actor.unicast(addr, numbered(accepted)).map(|receipt| receipts.push(receipt))
        } else {
            actor.unicast_fast(addr, numbered(accepted))
        };
        match result {
            Ok(()) => accepted += 1,
            Err(error) => break error,
        }
    };
    seen.note("accepted", accepted);
    seen.note("refused", refusal.kind());
    seen.note("refused again", fault(&actor.unicast_fast(addr, "surplus".into())));
    seen.note("sent", actor.node().stats().sent());
    seen.note("the peer got", payloads(&raw::read_exactly(&mut peer, accepted * NUMBERED).await));
    for receipt in receipts {
        seen.note("receipt", receipt.await.unwrap().is_ok());
    }
    seen.note("sent", actor.node().stats().sent());
    seen.note("there is room again", fault(&actor.unicast_fast(addr, numbered(0))));
    seen.note("connected", actor.node().is_connected(addr));
    seen
}

pub(crate) async fn a_burst_is_accepted_up_to_the_depth() -> Observation {
    burst::<Shallow>(false).await
}

pub(crate) async fn a_burst_with_receipts_is_accepted_up_to_the_depth() -> Observation {
    burst::<Shallow>(true).await
}

pub(crate) async fn a_burst_is_accepted_up_to_the_default_depth() -> Observation {
    burst::<Standard>(false).await
}

pub(crate) async fn a_queue_of_one_accepts_one() -> Observation {
    burst::<Single>(true).await
}

pub(crate) async fn a_broadcast_reaches_everybody_with_room() -> Observation {
    let mut seen = Observation::new();
    let actor = Actor::<Shallow>::build(config()).enabling(WRITER).await;
    let mut peers = Vec::new();
    for _ in 0..3 {
        let (listener, addr) = raw::listener().await;
        peers.push((dialled_by(&actor, &listener, addr).await, addr));
    }
    let full = peers[1].1;
    while actor.unicast_fast(full, numbered(0)).is_ok() {}
    #[expect(deprecated, reason = "deprecated on both sides: the lint finds a side that is not")]
    let broadcast = actor.broadcast(numbered(1));
    seen.note("broadcast", fault(&broadcast));
    for (peer, addr) in &mut peers {
        let expected = if *addr == full { 5 } else { 1 };
        seen.note("got", payloads(&raw::read_exactly(peer, expected * NUMBERED).await));
    }
    seen.note("sent", settled(|| actor.node().stats().sent()).await);
    seen.note("connected", actor.node().num_connected());
    seen
}

pub(crate) async fn messages_leave_in_order() -> Observation {
    let mut seen = Observation::new();
    let (actor, mut peer, addr) = writer::<Standard>().await;
    for round in 0..10 {
        for number in 0..50 {
            actor.unicast_fast(addr, numbered(round * 50 + number)).unwrap();
        }
        seen.note("round", payloads(&raw::read_exactly(&mut peer, 50 * NUMBERED).await));
        eventually("the queue is empty", || actor.node().stats().sent().0 == (round as u64 + 1) * 50).await;
    }
    seen.note("node", actor.node().stats().sent());
    let info = actor.node().connection_info(addr).unwrap();
    seen.note("connection", info.stats().sent());
    seen
}

tuning!(TinyBuffer { WRITE_BUFFER: usize = 16 });
tuning!(NoBuffer { WRITE_BUFFER: usize = 0 });

async fn large_messages<T: Tuning>() -> Observation {
    let mut seen = Observation::new();
    let (actor, mut peer, addr) = writer::<T>().await;
    let sizes = [1, 10_000, 3_000_000];
    let receipts: Vec<_> = sizes.map(|size| actor.unicast(addr, vec![b'x'; size].into()).unwrap()).into();
    for size in sizes {
        let bytes = raw::read_exactly(&mut peer, size + 4).await;
        seen.note("got", payloads(&bytes).iter().map(String::len).collect::<Vec<_>>());
    }
    for receipt in receipts {
        seen.note("receipt", receipt.await.unwrap().is_ok());
    }
    seen.note("sent", actor.node().stats().sent());
    seen
}

pub(crate) async fn messages_may_exceed_the_buffer() -> Observation {
    large_messages::<TinyBuffer>().await
}

pub(crate) async fn the_write_buffer_size_may_be_zero() -> Observation {
    large_messages::<NoBuffer>().await
}

pub(crate) async fn an_encoder_may_produce_nothing() -> Observation {
    let mut seen = Observation::new();
    let (actor, mut peer, addr) = writer::<Standard>().await;
    let receipt = actor.unicast(addr, NOTHING.into()).unwrap();
    seen.note("receipt", receipt.await.unwrap().is_ok());
    seen.note("sent", actor.node().stats().sent());
    let receipt = actor.unicast(addr, numbered(1)).unwrap();
    seen.note("receipt", receipt.await.unwrap().is_ok());
    seen.note("sent", actor.node().stats().sent());
    seen.note("the peer got", payloads(&raw::read_exactly(&mut peer, NUMBERED).await));
    seen
}

/// Sends a poisoned message on its own, with nothing else in flight.
async fn poison(payload: &'static [u8]) -> Observation {
    let mut seen = Observation::new();
    let (actor, mut peer, addr) = writer::<Standard>().await;
    let before = actor.unicast(addr, numbered(1)).unwrap();
    seen.note("before", before.await.unwrap().is_ok());
    seen.note("unicast_fast", fault(&actor.unicast_fast(addr, payload.into())));
    actor.log.wait_for("on_disconnect", 1).await;
    eventually("it is removed", || actor.node().num_connected() == 0).await;
    seen.note("log", actor.log.events());
    let (bytes, _) = raw::read_to_end(&mut peer).await;
    seen.note("the peer got", payloads(&bytes));
    seen.note("sent", actor.node().stats().sent());
    seen.note("write timeouts", actor.node().heuristics().write_timeouts());
    seen
}

pub(crate) async fn an_encoder_error_ends_the_connection() -> Observation {
    poison(ERROR).await
}

pub(crate) async fn an_encoder_panic_ends_the_connection() -> Observation {
    poison(PANIC).await
}

tuning!(ShortWrites { WRITE_TIMEOUT_MS: u64 = 300, WRITE_DEPTH: usize = 16 });
tuning!(NoWrites { WRITE_TIMEOUT_MS: u64 = 0 });

/// More than the kernel takes for a loopback connection whose peer does not read.
const MORE_THAN_THE_KERNEL_TAKES: usize = 16 * 1024 * 1024;

pub(crate) async fn a_peer_that_does_not_read_is_disconnected() -> Observation {
    let mut seen = Observation::new();
    let (actor, _peer, addr) = writer::<ShortWrites>().await;
    let receipt = actor.unicast(addr, vec![0; MORE_THAN_THE_KERNEL_TAKES].into()).unwrap();
    seen.note("receipt", fault(&receipt.await.unwrap()));
    actor.log.wait_for("on_disconnect", 1).await;
    eventually("it is removed", || actor.node().num_connected() == 0).await;
    seen.note("log", actor.log.events());
    seen.note("write timeouts", actor.node().heuristics().write_timeouts());
    seen.note("sent", actor.node().stats().sent());
    seen
}

pub(crate) async fn a_write_timeout_of_zero_fails_what_has_to_wait() -> Observation {
    let mut seen = Observation::new();
    let (actor, _peer, addr) = writer::<NoWrites>().await;
    let receipt = actor.unicast(addr, vec![0; MORE_THAN_THE_KERNEL_TAKES].into()).unwrap();
    seen.note("receipt", fault(&receipt.await.unwrap()));
    actor.log.wait_for("on_disconnect", 1).await;
    seen.note("origin", actor.log.after("on_disconnect "));
    seen.note("write timeouts", actor.node().heuristics().write_timeouts());
    seen
}

pub(crate) async fn a_stalled_peer_ends_in_a_full_queue() -> Observation {
    let mut seen = Observation::new();
    let (actor, _peer, addr) = writer::<Shallow>().await;
    actor.unicast_fast(addr, vec![0; MORE_THAN_THE_KERNEL_TAKES].into()).unwrap();
    let mut refusal = Ok(());
    while refusal.is_ok() {
        refusal = actor.unicast_fast(addr, vec![0; MORE_THAN_THE_KERNEL_TAKES].into());
        tokio::task::yield_now().await;
    }
    seen.note("refusal", fault(&refusal));
    seen.note("connected", actor.node().is_connected(addr));
    seen.note("sent", actor.node().stats().sent());
    seen
}

pub(crate) async fn a_reset_is_noticed_by_writing() -> Observation {
    let mut seen = Observation::new();
    let (actor, peer, addr) = writer::<Standard>().await;
    raw::reset(peer);
    let mut last = Ok(());
    while last.is_ok() {
        last = actor.unicast_fast(addr, numbered(0));
        tokio::task::yield_now().await;
    }
    actor.log.wait_for("on_disconnect", 1).await;
    eventually("it is removed", || actor.node().num_connected() == 0).await;
    seen.note("log", actor.log.events());
    seen.note("write timeouts", actor.node().heuristics().write_timeouts());
    seen
}

pub(crate) async fn handles_of_one_node_share_its_writing() -> Observation {
    let mut seen = Observation::new();
    let (actor, mut peer, addr) = writer::<Standard>().await;
    for handle in [actor.clone(), actor.clone()] {
        handle.unicast(addr, numbered(7)).unwrap().await.unwrap().unwrap();
    }
    seen.note("got", payloads(&raw::read_exactly(&mut peer, 2 * NUMBERED).await));
    seen
}
