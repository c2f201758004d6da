//! The queue between decoding and processing.

use std::time::Duration;

use tokio::{io::AsyncWriteExt, net::TcpStream, time::Instant};

use super::{
    super::p2p::Pea2Pea,
    actor::{Actor, Protocol, config},
};
use crate::shared::{
    observation::Observation,
    raw,
    timing::{eventually, settled},
    tuning::{Standard, Tuning, tuning},
    wire::frame,
};

const READER: [Protocol; 2] = [Protocol::Reading, Protocol::OnDisconnect];

/// A raw peer that is live.
async fn peer_of<T: Tuning>(actor: &Actor<T>) -> TcpStream {
    let addr = actor.listen().await;
    let peer = raw::dial(addr).await;
    eventually("the peer is live", || actor.node().num_connected() == 1).await;
    peer
}

fn numbered(count: usize) -> Vec<u8> {
    (0..count).flat_map(|number| frame(format!("{number}").as_bytes())).collect()
}

/// An actor whose processing waits for the event "open".
async fn gated<T: Tuning>() -> (Actor<T>, TcpStream) {
    let actor = Actor::<T>::build(config())
        .process(|actor, _, message| async move {
            actor.log.add(format!("begun {}", String::from_utf8_lossy(&message)));
            actor.log.wait_for("open", 1).await;
            actor.log.add(format!("got {}", String::from_utf8_lossy(&message)));
        })
        .enabling(READER)
        .await;
    let peer = peer_of(&actor).await;
    (actor, peer)
}

tuning!(Shallow { READ_DEPTH: usize = 3 });

tuning!(Lossy { READ_DEPTH: usize = 3, BACKPRESSURE: bool = false });

tuning!(ShallowAndIdle { READ_DEPTH: usize = 1, IDLE_TIMEOUT_MS: u64 = 300 });

pub(crate) async fn messages_are_processed_one_at_a_time() -> Observation {
    let mut seen = Observation::new();
    let (actor, mut peer) = gated::<Standard>().await;
    peer.write_all(&numbered(5)).await.unwrap();
    actor.log.wait_for("begun", 1).await;
    seen.note("begun", settled(|| actor.log.count("begun")).await);
    seen.note("received", actor.node().stats().received());
    actor.log.add("open");
    actor.log.wait_for("got", 5).await;
    seen.note("log", actor.log.events());
    seen
}

pub(crate) async fn a_full_queue_stops_the_decoding() -> Observation {
    let mut seen = Observation::new();
    let (actor, mut peer) = gated::<Shallow>().await;
    peer.write_all(&numbered(20)).await.unwrap();
    actor.log.wait_for("begun", 1).await;
    seen.note("received while blocked", settled(|| actor.node().stats().received()).await);
    actor.log.add("open");
    actor.log.wait_for("got", 20).await;
    let expected: Vec<_> = (0..20).map(|number| number.to_string()).collect();
    seen.note("all came, in order", actor.log.after("got ") == expected);
    seen
}

pub(crate) async fn without_backpressure_the_surplus_is_dropped() -> Observation {
    let mut seen = Observation::new();
    let (actor, mut peer) = gated::<Lossy>().await;
    peer.write_all(&frame(b"first")).await.unwrap();
    actor.log.wait_for("begun", 1).await;
    peer.write_all(&numbered(20)).await.unwrap();
    let all = (21, (numbered(20).len() + frame(b"first").len()) as u64);
    eventually("everything is counted", || actor.node().stats().received() == all).await;
    actor.log.add("open");
    actor.log.wait_for("got", 4).await;
    peer.write_all(&frame(b"last")).await.unwrap();
    actor.log.wait_for("got last", 1).await;
    seen.note("got", actor.log.after("got "));
    seen.note("received", actor.node().stats().received());
    seen
}

pub(crate) async fn without_backpressure_a_burst_from_idle_is_cut() -> Observation {
    let mut seen = Observation::new();
    let actor = Actor::<Lossy>::build(config()).enabling(READER).await;
    let mut peer = peer_of(&actor).await;
    peer.write_all(&numbered(20)).await.unwrap();
    eventually("everything is counted", || actor.node().stats().received().0 == 20).await;
    seen.note("got", settled(|| actor.log.after("got ")).await);
    seen
}

pub(crate) async fn slow_processing_is_not_idleness() -> Observation {
    let mut seen = Observation::new();
    let (actor, mut peer) = gated::<ShallowAndIdle>().await;
    peer.write_all(&numbered(10)).await.unwrap();
    actor.log.wait_for("begun", 1).await;
    let start = Instant::now();
    eventually("three idle timeouts passed", || start.elapsed() > Duration::from_millis(900)).await;
    seen.note("connected while the queue is full", actor.node().num_connected());
    actor.log.add("open");
    actor.log.wait_for("got", 10).await;
    actor.log.wait_for("on_disconnect", 1).await;
    seen.note("in the end", (actor.log.after("on_disconnect "), actor.node().heuristics().idle_timeouts()));
    seen
}
