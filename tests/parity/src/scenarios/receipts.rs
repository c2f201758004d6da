//! What becomes of the receipts of `unicast`, and of what was queued when a connection ends.

use std::net::SocketAddr;

use bytes::Bytes;
use tokio::{net::TcpStream, sync::oneshot};

use super::{
    super::p2p::{Pea2Pea, protocols::Writing},
    actor::{Actor, Protocol, config},
    faults::fault,
};
use crate::shared::{
    observation::Observation,
    raw,
    timing::{eventually, patiently, settled},
    tuning::{Standard, Tuning, tuning},
    wire::{ERROR, PANIC, payloads},
};

type Receipt = oneshot::Receiver<std::io::Result<()>>;

async fn writer<T: Tuning>() -> (Actor<T>, TcpStream, SocketAddr) {
    let actor = Actor::<T>::build(config()).enabling([Protocol::Writing, Protocol::OnDisconnect]).await;
    let (listener, addr) = raw::listener().await;
    actor.node().connect(addr).await.unwrap();
    let peer = raw::accept(&listener).await;
    (actor, peer, addr)
}

/// What a receipt resolved to.
async fn outcome(receipt: Receipt) -> String {
    match patiently("a receipt", receipt).await {
        Ok(result) => fault(&result),
        Err(_) => "gone".into(),
    }
}

/// The different outcomes of several receipts, in order.
async fn outcomes(receipts: Vec<Receipt>) -> Vec<String> {
    let mut outcomes = Vec::new();
    for receipt in receipts {
        outcomes.push(outcome(receipt).await);
    }
    outcomes.dedup();
    outcomes
}

fn numbered(number: usize) -> Bytes {
    format!("{number:04}").into()
}

pub(crate) async fn a_receipt_resolves_after_the_counters() -> Observation {
    let mut seen = Observation::new();
    let (actor, mut peer, addr) = writer::<Standard>().await;
    for number in 1..=5 {
        let receipt = actor.unicast(addr, numbered(number)).unwrap();
        seen.note("outcome", outcome(receipt).await);
        seen.note("node", actor.node().stats().sent());
        seen.note("connection", actor.node().connection_info(addr).unwrap().stats().sent());
    }
    seen.note("the peer got", payloads(&raw::read_exactly(&mut peer, 40).await));
    seen
}

pub(crate) async fn a_dropped_receipt_changes_nothing() -> Observation {
    let mut seen = Observation::new();
    let (actor, mut peer, addr) = writer::<Standard>().await;
    for number in 0..5 {
        drop(actor.unicast(addr, numbered(number)).unwrap());
    }
    seen.note("the peer got", payloads(&raw::read_exactly(&mut peer, 40).await));
    seen.note("connected", actor.node().is_connected(addr));
    seen
}

/// A batch with a poisoned message in its middle.
async fn poisoned_batch(payload: &'static [u8]) -> Observation {
    let mut seen = Observation::new();
    let (actor, mut peer, addr) = writer::<Standard>().await;
    let first = actor.unicast(addr, numbered(1)).unwrap();
    let poison = actor.unicast(addr, payload.into()).unwrap();
    let last = actor.unicast(addr, numbered(2)).unwrap();
    seen.note("poison", outcome(poison).await);
    seen.note("before it", outcome(first).await);
    seen.note("after it", outcome(last).await);
    eventually("it is removed", || actor.node().num_connected() == 0).await;
    let (bytes, _) = raw::read_to_end(&mut peer).await;
    seen.note("the peer got", payloads(&bytes));
    seen.note("sent", actor.node().stats().sent());
    seen.note("origin", actor.log.after("on_disconnect "));
    seen
}

pub(crate) async fn an_encoder_error_fails_its_batch() -> Observation {
    poisoned_batch(ERROR).await
}

pub(crate) async fn an_encoder_panic_fails_its_batch() -> Observation {
    poisoned_batch(PANIC).await
}

/// Queues messages and ends the connection without a pause.
async fn queued_at_the_end(protocols: &[Protocol], shut_down: bool) -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config()).enabling(protocols.iter().copied()).await;
    let (listener, addr) = raw::listener().await;
    actor.node().connect(addr).await.unwrap();
    let mut peer = raw::accept(&listener).await;
    let receipts: Vec<_> = (0..10).map(|number| actor.unicast(addr, numbered(number)).unwrap()).collect();
    if shut_down {
        patiently("the shutdown", actor.node().shut_down()).await;
    } else {
        seen.note("disconnect", patiently("the disconnect", actor.node().disconnect(addr)).await);
    }
    seen.note("outcomes", outcomes(receipts).await);
    let (bytes, end) = raw::read_to_end(&mut peer).await;
    seen.note("the peer got", payloads(&bytes));
    seen.note("end", end);
    seen
}

const WITH_HOOK: &[Protocol] = &[Protocol::Writing, Protocol::OnDisconnect];
const WITHOUT_HOOK: &[Protocol] = &[Protocol::Writing];

pub(crate) async fn messages_queued_before_a_disconnect() -> Observation {
    queued_at_the_end(WITH_HOOK, false).await
}

pub(crate) async fn messages_queued_before_a_shutdown() -> Observation {
    queued_at_the_end(WITH_HOOK, true).await
}

pub(crate) async fn messages_queued_before_a_disconnect_without_hooks() -> Observation {
    queued_at_the_end(WITHOUT_HOOK, false).await
}

pub(crate) async fn messages_queued_before_a_shutdown_without_hooks() -> Observation {
    queued_at_the_end(WITHOUT_HOOK, true).await
}

tuning!(ShortWrites { WRITE_TIMEOUT_MS: u64 = 300 });

const MORE_THAN_THE_KERNEL_TAKES: usize = 16 * 1024 * 1024;

pub(crate) async fn a_disconnect_from_a_stalled_peer_loses_the_queue() -> Observation {
    let mut seen = Observation::new();
    let (actor, _peer, addr) = writer::<Standard>().await;
    let stuck = actor.unicast(addr, vec![0; MORE_THAN_THE_KERNEL_TAKES].into()).unwrap();
    // the writer has the large message in its hands before the others are queued
    eventually_stuck(&actor).await;
    let queued = actor.unicast(addr, numbered(1)).unwrap();
    seen.note("disconnect", patiently("a disconnect", actor.node().disconnect(addr)).await);
    let stuck = outcome(stuck).await;
    seen.note("the stuck one succeeded", stuck == "ok");
    seen.note("the queued one", outcome(queued).await);
    seen.note("sent", actor.node().stats().sent());
    seen
}

/// Lets the writer run until it waits for the peer.
async fn eventually_stuck<T: Tuning>(actor: &Actor<T>) {
    settled(|| actor.node().stats().sent()).await;
}

pub(crate) async fn a_flush_timeout_fails_its_batch() -> Observation {
    let mut seen = Observation::new();
    let (actor, _peer, addr) = writer::<ShortWrites>().await;
    let first = actor.unicast(addr, vec![0; MORE_THAN_THE_KERNEL_TAKES].into()).unwrap();
    seen.note("first", outcome(first).await);
    eventually("it is removed", || actor.node().num_connected() == 0).await;
    seen.note("origin", actor.log.after("on_disconnect "));
    seen.note("write timeouts", actor.node().heuristics().write_timeouts());
    seen
}

pub(crate) async fn what_waits_behind_a_failed_batch_is_gone() -> Observation {
    let mut seen = Observation::new();
    let (actor, _peer, addr) = writer::<ShortWrites>().await;
    let first = actor.unicast(addr, vec![0; MORE_THAN_THE_KERNEL_TAKES].into()).unwrap();
    // the batch of the first is closed once the writer waits for the peer
    eventually_stuck(&actor).await;
    let second = actor.unicast(addr, numbered(1)).unwrap();
    seen.note("first", outcome(first).await);
    seen.note("second", outcome(second).await);
    seen
}

/// Writing and reading by the same connection, with the end in the other direction.
pub(crate) async fn receipts_of_a_connection_that_ends_by_reading() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor =
        Actor::build(config()).enabling([Protocol::Reading, Protocol::Writing, Protocol::OnDisconnect]).await;
    let (listener, addr) = raw::listener().await;
    actor.node().connect(addr).await.unwrap();
    let peer = raw::accept(&listener).await;
    let stuck = actor.unicast(addr, vec![0; MORE_THAN_THE_KERNEL_TAKES].into()).unwrap();
    eventually_stuck(&actor).await;
    let queued = actor.unicast(addr, numbered(1)).unwrap();
    drop(peer);
    eventually("it is removed", || actor.node().num_connected() == 0).await;
    seen.note("the stuck one succeeded", outcome(stuck).await == "ok");
    seen.note("the queued one succeeded", outcome(queued).await == "ok");
    seen.note("the hook ran", actor.log.count("on_disconnect"));
    seen
}
