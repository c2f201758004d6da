//! The Reading protocol.

use std::time::Duration;

use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{Instant, sleep},
};

use super::{
    super::p2p::{Pea2Pea, protocols::Writing},
    actor::{Actor, Protocol, config},
};
use crate::shared::{
    observation::Observation,
    raw,
    timing::{eventually, happens_soon},
    tuning::{Standard, Tuning, tuning},
    wire::{ERROR, PANIC, frame, frames, payloads},
};

const READER: [Protocol; 2] = [Protocol::Reading, Protocol::OnDisconnect];

/// An actor that reads, and a raw peer of it.
async fn reader<T: Tuning>() -> (Actor<T>, TcpStream) {
    let actor = Actor::<T>::build(config()).enabling(READER).await;
    let peer = peer_of(&actor).await;
    (actor, peer)
}

/// A raw peer that is live.
async fn peer_of<T: Tuning>(actor: &Actor<T>) -> TcpStream {
    let addr = match actor.node().listening_addr().await {
        Ok(addr) => addr,
        Err(_) => actor.listen().await,
    };
    let before = actor.node().num_connected();
    let peer = raw::dial(addr).await;
    eventually("the peer is live", || actor.node().num_connected() > before).await;
    peer
}

fn numbered(count: usize) -> Vec<u8> {
    (0..count).flat_map(|number| frame(format!("{number}").as_bytes())).collect()
}

pub(crate) async fn messages_are_processed_in_order() -> Observation {
    let mut seen = Observation::new();
    let (actor, mut peer) = reader::<Standard>().await;
    peer.write_all(&numbered(500)).await.unwrap();
    actor.log.wait_for("got", 500).await;
    seen.note("got", actor.log.after("got "));
    let wire: usize = numbered(500).len();
    seen.note("counted as on the wire", actor.node().stats().received() == (500, wire as u64));
    let info = actor.node().connection_info(actor.only_peer()).unwrap();
    seen.note("connection", info.stats().received() == actor.node().stats().received());
    seen
}

pub(crate) async fn frames_may_come_byte_by_byte() -> Observation {
    let mut seen = Observation::new();
    let (actor, mut peer) = reader::<Standard>().await;
    peer.set_nodelay(true).unwrap();
    for byte in frames(["slow", "", "frames"]) {
        peer.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    actor.log.wait_for("got", 3).await;
    seen.note("got", actor.log.after("got "));
    seen.note("stats", actor.node().stats().received());
    seen
}

tuning!(TinyBuffer { READ_BUFFER: usize = 16 });
tuning!(NoBuffer { READ_BUFFER: usize = 0 });

async fn large_frames<T: Tuning>() -> Observation {
    let mut seen = Observation::new();
    let actor = Actor::<T>::build(config())
        .process(|actor, _, message| async move { actor.log.add(format!("got {}", message.len())) })
        .enabling(READER)
        .await;
    let mut peer = peer_of(&actor).await;
    for size in [1, 1_000, 100_000, 2_000_000] {
        peer.write_all(&frame(&vec![7; size])).await.unwrap();
    }
    actor.log.wait_for("got", 4).await;
    seen.note("got", actor.log.after("got "));
    seen.note("stats", actor.node().stats().received());
    seen
}

pub(crate) async fn frames_may_exceed_the_buffer() -> Observation {
    large_frames::<TinyBuffer>().await
}

pub(crate) async fn the_buffer_size_may_be_zero() -> Observation {
    large_frames::<NoBuffer>().await
}

/// Sends `bytes` once two messages have been processed, and watches the end.
async fn ends_with(bytes: &[u8]) -> Observation {
    let mut seen = Observation::new();
    let (actor, mut peer) = reader::<Standard>().await;
    let mut bystander = peer_of(&actor).await;
    peer.write_all(&frames(["one", "two"])).await.unwrap();
    actor.log.wait_for("got", 2).await;
    peer.write_all(bytes).await.unwrap();
    actor.log.wait_for("on_disconnect", 1).await;
    eventually("it is removed", || actor.node().num_connected() == 1).await;
    seen.note("the peer is cut off", raw::is_ended(&mut peer).await);
    seen.note("log", actor.log.events());
    seen.note("stats", actor.node().stats().received());
    seen.note("idle timeouts", actor.node().heuristics().idle_timeouts());
    bystander.write_all(&frame(b"bystander")).await.unwrap();
    actor.log.wait_for("got bystander", 1).await;
    seen
}

pub(crate) async fn a_decode_error_ends_the_connection() -> Observation {
    ends_with(&frame(ERROR)).await
}

pub(crate) async fn a_decoder_panic_ends_the_connection() -> Observation {
    ends_with(&frame(PANIC)).await
}

pub(crate) async fn nothing_behind_a_decode_error_is_processed() -> Observation {
    ends_with(&[frame(ERROR), frame(b"behind")].concat()).await
}

/// Sends everything at once, including an error behind some messages.
pub(crate) async fn messages_before_a_decode_error() -> Observation {
    let mut seen = Observation::new();
    let (actor, mut peer) = reader::<Standard>().await;
    peer.write_all(&[frames(["one", "two", "three"]), frame(ERROR)].concat()).await.unwrap();
    actor.log.wait_for("on_disconnect", 1).await;
    eventually("it is removed", || actor.node().num_connected() == 0).await;
    seen.note("log", actor.log.events());
    seen.note("stats", actor.node().stats().received());
    seen
}

async fn peer_leaves(tail: &[u8], with_reset: bool) -> Observation {
    let mut seen = Observation::new();
    let (actor, mut peer) = reader::<Standard>().await;
    peer.write_all(&frames(["one", "two"])).await.unwrap();
    actor.log.wait_for("got", 2).await;
    peer.write_all(tail).await.unwrap();
    if with_reset {
        raw::reset(peer)
    } else {
        drop(peer)
    }
    actor.log.wait_for("on_disconnect", 1).await;
    eventually("it is removed", || actor.node().num_connected() == 0).await;
    seen.note("log", actor.log.events());
    seen.note("stats", actor.node().stats().received());
    seen
}

pub(crate) async fn a_peer_that_closes_ends_the_connection() -> Observation {
    peer_leaves(b"", false).await
}

pub(crate) async fn a_peer_that_closes_within_a_frame_ends_the_connection() -> Observation {
    peer_leaves(&frame(b"incomplete")[..9], false).await
}

pub(crate) async fn a_peer_that_resets_ends_the_connection() -> Observation {
    peer_leaves(b"", true).await
}

pub(crate) async fn messages_before_the_end_of_the_stream() -> Observation {
    let mut seen = Observation::new();
    let (actor, mut peer) = reader::<Standard>().await;
    peer.write_all(&numbered(20)).await.unwrap();
    drop(peer);
    actor.log.wait_for("on_disconnect", 1).await;
    eventually("it is removed", || actor.node().num_connected() == 0).await;
    seen.note("log", actor.log.events());
    seen
}

pub(crate) async fn slow_messages_before_the_end_of_the_stream() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .process(|actor, _, message| async move {
            sleep(Duration::from_millis(20)).await;
            actor.log.add(format!("got {}", String::from_utf8_lossy(&message)));
        })
        .enabling(READER)
        .await;
    let mut peer = peer_of(&actor).await;
    peer.write_all(&numbered(5)).await.unwrap();
    drop(peer);
    actor.log.wait_for("on_disconnect", 1).await;
    eventually("it is removed", || actor.node().num_connected() == 0).await;
    seen.note("log", actor.log.events());
    seen
}

pub(crate) async fn a_half_closed_peer() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .process(|actor, source, message| async move {
            sleep(Duration::from_millis(50)).await;
            let sent = actor.unicast_fast(source, message);
            actor.log.add(format!("reply {:?}", sent.map_err(|error| error.kind())));
        })
        .enabling([Protocol::Reading, Protocol::Writing, Protocol::OnDisconnect])
        .await;
    let mut peer = peer_of(&actor).await;
    peer.write_all(&frames(["one", "two"])).await.unwrap();
    peer.shutdown().await.unwrap();
    let (bytes, end) = raw::read_to_end(&mut peer).await;
    seen.note("replies", payloads(&bytes));
    seen.note("end", end);
    eventually("it is removed", || actor.node().num_connected() == 0).await;
    seen.note("origin", actor.log.after("on_disconnect "));
    seen
}

tuning!(ShortIdle { IDLE_TIMEOUT_MS: u64 = 400 });
tuning!(NoIdle { IDLE_TIMEOUT_MS: u64 = 0 });

pub(crate) async fn an_idle_peer_is_disconnected() -> Observation {
    let mut seen = Observation::new();
    let start = Instant::now();
    let (actor, mut peer) = reader::<ShortIdle>().await;
    actor.log.wait_for("on_disconnect", 1).await;
    seen.note("not before the timeout", start.elapsed() >= Duration::from_millis(400));
    seen.note("closed", raw::is_ended(&mut peer).await);
    seen.note("log", actor.log.events());
    seen.note("idle timeouts", actor.node().heuristics().idle_timeouts());
    seen
}

pub(crate) async fn an_idle_timeout_of_zero_is_none() -> Observation {
    let mut seen = Observation::new();
    let (actor, mut peer) = reader::<NoIdle>().await;
    seen.note("ended", happens_soon(|| actor.node().num_connected() == 0).await);
    peer.write_all(&frame(b"late")).await.unwrap();
    actor.log.wait_for("got", 1).await;
    seen.note("idle timeouts", actor.node().heuristics().idle_timeouts());
    seen
}

pub(crate) async fn complete_messages_keep_a_connection_alive() -> Observation {
    let mut seen = Observation::new();
    let (actor, mut peer) = reader::<ShortIdle>().await;
    let start = Instant::now();
    let mut sent = 0;
    // three times the idle timeout, with a message every eighth of it
    while start.elapsed() < Duration::from_millis(1_200) {
        peer.write_all(&frame(b"alive")).await.unwrap();
        sent += 1;
        actor.log.wait_for("got", sent).await;
        sleep(Duration::from_millis(50)).await;
    }
    seen.note("connected", actor.node().num_connected());
    seen.note("idle timeouts", actor.node().heuristics().idle_timeouts());
    seen
}

pub(crate) async fn parts_of_a_message_do_not_keep_it_alive() -> Observation {
    let mut seen = Observation::new();
    let (actor, mut peer) = reader::<ShortIdle>().await;
    peer.set_nodelay(true).unwrap();
    let start = Instant::now();
    for byte in frame(&[7; 60]) {
        if actor.log.count("on_disconnect") == 1 || peer.write_all(&[byte]).await.is_err() {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    actor.log.wait_for("on_disconnect", 1).await;
    seen.note("long before the frame was complete", start.elapsed() < Duration::from_millis(2_500));
    seen.note("log", actor.log.events());
    seen.note("idle timeouts", actor.node().heuristics().idle_timeouts());
    seen
}

pub(crate) async fn a_panic_in_process_message_ends_the_connection() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .process(|actor, _, message| async move {
            if &message[..] == b"bang" {
                panic!("on purpose");
            }
            actor.log.add(format!("got {}", String::from_utf8_lossy(&message)));
        })
        .enabling(READER)
        .await;
    let mut peer = peer_of(&actor).await;
    let mut bystander = peer_of(&actor).await;
    peer.write_all(&frames(["one"])).await.unwrap();
    actor.log.wait_for("got", 1).await;
    peer.write_all(&frames(["bang"])).await.unwrap();
    actor.log.wait_for("on_disconnect", 1).await;
    seen.note("closed", raw::is_ended(&mut peer).await);
    eventually("it is removed", || actor.node().num_connected() == 1).await;
    bystander.write_all(&frames(["bystander"])).await.unwrap();
    actor.log.wait_for("got bystander", 1).await;
    seen.note("log", actor.log.events());
    seen
}

pub(crate) async fn messages_name_their_source() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .process(|actor, source, message| async move {
            actor.unicast(source, message).unwrap().await.unwrap().unwrap();
        })
        .enabling([Protocol::Reading, Protocol::Writing])
        .await;
    let mut peers = Vec::new();
    for _ in 0..3 {
        peers.push(peer_of(&actor).await);
    }
    for (number, peer) in peers.iter_mut().enumerate() {
        peer.write_all(&frame(format!("peer {number}").as_bytes())).await.unwrap();
        seen.note("echo", payloads(&raw::read_exactly(peer, 10).await));
    }
    seen
}
