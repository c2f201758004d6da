//! What arrives when one side has already gone, or is going.

use std::net::SocketAddr;

use bytes::Bytes;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    time::{Duration, sleep},
};

use super::{
    super::p2p::{Pea2Pea, protocols::Writing},
    actor::{Actor, ActorBuilder, Protocol, config},
};
use crate::shared::{
    observation::Observation,
    raw,
    timing::{eventually, patiently},
    tuning::Standard,
    wire::{frame, payloads},
};

const READER_AND_WRITER: [Protocol; 3] = [Protocol::Reading, Protocol::Writing, Protocol::OnDisconnect];

/// A dialled raw peer.
async fn peer_of(actor: &Actor) -> (TcpStream, SocketAddr, TcpListener) {
    let (listener, addr) = raw::listener().await;
    actor.node().connect(addr).await.unwrap();
    let peer = raw::accept(&listener).await;
    (peer, addr, listener)
}

fn requests(count: usize) -> Vec<u8> {
    (0..count).flat_map(|number| frame(format!("{number:04}").as_bytes())).collect()
}

/// An actor that answers each message, and counts those that it could not answer.
fn answering() -> ActorBuilder<Standard> {
    Actor::build(config()).process(|actor, addr, message| async move {
        match actor.unicast_fast(addr, message) {
            Ok(()) => actor.log.add("answered"),
            Err(error) => actor.log.add(format!("refused {:?}", error.kind())),
        }
    })
}

pub(crate) async fn each_of_many_pipelined_requests_is_answered() -> Observation {
    const REQUESTS: usize = 1_000;

    let mut seen = Observation::new();
    let actor = answering().enabling(READER_AND_WRITER).await;
    let (mut peer, _, _listener) = peer_of(&actor).await;
    peer.write_all(&requests(REQUESTS)).await.unwrap();
    peer.shutdown().await.unwrap();
    let (bytes, end) = raw::read_to_end(&mut peer).await;
    let expected: Vec<_> = (0..REQUESTS).map(|number| format!("{number:04}")).collect();
    seen.note("refused", actor.log.count("refused"));
    seen.note("all were answered, in order", payloads(&bytes) == expected);
    seen.note("end", end);
    seen
}

pub(crate) async fn each_of_many_pipelined_requests_is_answered_before_the_peer_closes() -> Observation {
    const REQUESTS: usize = 1_000;

    let mut seen = Observation::new();
    let actor = answering().enabling(READER_AND_WRITER).await;
    let (mut peer, _, _listener) = peer_of(&actor).await;
    peer.write_all(&requests(REQUESTS)).await.unwrap();
    actor.log.wait_for("", REQUESTS).await;
    seen.note("refused", actor.log.count("refused"));
    let bytes = raw::read_exactly(&mut peer, requests(actor.log.count("answered")).len()).await;
    seen.note("answers", payloads(&bytes).len());
    seen
}

pub(crate) async fn an_answer_is_read_behind_an_upload_that_goes_on() -> Observation {
    const ANSWER: usize = 200_000;

    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config()).enabling(READER_AND_WRITER).await;
    let (mut peer, addr, _listener) = peer_of(&actor).await;
    let receipt = actor.unicast(addr, vec![b'a'; ANSWER].into()).unwrap();
    seen.note("receipt", patiently("the receipt", receipt).await.is_ok_and(|result| result.is_ok()));
    let ending = tokio::spawn({
        let node = actor.node().clone();
        async move { node.disconnect(addr).await }
    });
    eventually("it is removed", || !actor.node().is_connected(addr)).await;
    for _ in 0..10 {
        _ = peer.write_all(&frame(&[b'u'; 10_000])).await;
    }
    let (bytes, end) = raw::read_to_end(&mut peer).await;
    seen.note("disconnect", ending.await.unwrap());
    seen.note("the answer is whole", end.is_ok() && bytes == frame(&[b'a'; ANSWER]));
    seen
}

pub(crate) async fn what_was_sent_before_a_reset_is_processed_after_a_write_has_failed() -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .process(|actor, _, _| async move {
            actor.log.add("begun");
            actor.log.wait_for("open", 1).await;
            actor.log.add("processed");
        })
        .enabling(READER_AND_WRITER)
        .await;
    let (mut peer, addr, _listener) = peer_of(&actor).await;
    peer.write_all(&requests(10)).await.unwrap();
    eventually("all are received", || actor.node().stats().received().0 == 10).await;
    raw::reset(peer);
    // The system takes the first message after a reset without a word.
    while let Ok(receipt) = actor.unicast(addr, Bytes::from_static(b"too late")) {
        _ = patiently("the receipt", receipt).await;
        sleep(Duration::from_millis(1)).await;
    }
    actor.log.add("open");
    eventually("it is removed", || !actor.node().is_connected(addr)).await;
    seen.note("on_disconnect", actor.log.count("on_disconnect "));
    seen.note("all were processed", actor.log.count("processed") == 10);
    seen
}

/// 100 requests and a close, as a client makes them that wants no answers.
async fn requests_and_a_close(replies: bool) -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .process(move |actor, addr, message| async move {
            sleep(Duration::from_millis(2)).await;
            actor.log.add("processed");
            if replies {
                _ = actor.unicast_fast(addr, message);
            }
        })
        .enabling(READER_AND_WRITER)
        .await;
    let (mut peer, addr, _listener) = peer_of(&actor).await;
    peer.write_all(&requests(100)).await.unwrap();
    drop(peer);
    eventually("it is removed", || !actor.node().is_connected(addr)).await;
    seen.note("all were processed", actor.log.count("processed") == 100);
    seen.note("on_disconnect", actor.log.count("on_disconnect "));
    seen
}

pub(crate) async fn requests_before_a_close_are_processed() -> Observation {
    requests_and_a_close(false).await
}

pub(crate) async fn requests_before_a_close_are_processed_although_they_are_answered() -> Observation {
    requests_and_a_close(true).await
}
