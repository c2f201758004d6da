//! What `process_message` sends to the very peer that it serves.

use std::{
    future::{Future, pending},
    io::{self, Read, Write},
    net::SocketAddr,
    sync::Mutex,
    time::Duration,
};

use pea2pea::{Pea2Pea, protocols::Writing};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::{block_in_place, yield_now},
    time::timeout,
};
use tokio_util::bytes::{Bytes, BytesMut};

use crate::{
    common::{
        self,
        actor::{Actor, Script},
        in_time, wait_until,
        wire::{dialled_narrow, dialled_raw, frame, frames, read_to_eof},
    },
    ledger,
};

/// An actor that has sent a first message, so that its writer is at rest.
async fn answering<F>(answer: impl Fn(Actor, SocketAddr, Bytes) -> F + Send + Sync + 'static) -> (Actor, TcpStream)
where
    F: Future<Output = ()> + Send + 'static,
{
    let actor = Actor::dialling(script(answer)).await;
    let (mut peer, addr) = dialled_raw(actor.node()).await;
    greet(&actor, &mut peer, addr).await;
    (actor, peer)
}

fn script<F>(answer: impl Fn(Actor, SocketAddr, Bytes) -> F + Send + Sync + 'static) -> Script<common::actor::Unhurried>
where
    F: Future<Output = ()> + Send + 'static,
{
    let process = move |(actor, source, message): (Actor, SocketAddr, BytesMut)| {
        Box::pin(answer(actor, source, message.freeze())) as _
    };
    Script { process: Some(Box::new(process)), writes: true, ..Script::default() }
}

async fn greet(actor: &Actor, peer: &mut TcpStream, addr: SocketAddr) {
    actor.unicast(addr, Bytes::from_static(b"hi")).unwrap().await.unwrap().unwrap();
    assert_eq!(next_frame(peer).await, b"hi");
}

async fn next_frame(peer: &mut TcpStream) -> Vec<u8> {
    let length = in_time("a frame", peer.read_u32()).await.unwrap();
    let mut payload = vec![0; length as usize];
    in_time("the rest of a frame", peer.read_exact(&mut payload)).await.unwrap();
    payload
}

/// Keeps the thread until the future resolves, or panics in time.
fn blocking_in_place<F: Future>(what: &str, future: F) -> F::Output {
    block_in_place(|| tokio::runtime::Handle::current().block_on(in_time(what, future)))
}

/// On one thread, which is blocked until the peer has got the reply: whatever had not left before would never leave.
#[tokio::test(crate = "ledger")]
async fn a_reply_whose_receipt_was_awaited_has_left_before_the_thread_is_blocked() {
    let (arrived, blocked) = std::sync::mpsc::channel();
    let blocked = Mutex::new(blocked);
    let (addr, peer) = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let peer = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(common::PATIENCE)).unwrap();
            stream.write_all(&frame(b"question")).unwrap();
            let mut reply = [0; 12];
            stream.read_exact(&mut reply).unwrap();
            arrived.send(reply).unwrap();
            stream
        });
        (addr, peer)
    };
    let (done, is_done) = oneshot::channel();
    let (blocked, done) = (std::sync::Arc::new(blocked), std::sync::Arc::new(Mutex::new(Some(done))));
    let actor = Actor::dialling(script(move |actor: Actor, source, message| {
        let (blocked, done) = (std::sync::Arc::clone(&blocked), std::sync::Arc::clone(&done));
        async move {
            actor.unicast(source, message).unwrap().await.unwrap().unwrap();
            // Not `recv`: a thread keeps what it waited with at a channel, which the ledger would find.
            let began = std::time::Instant::now();
            let got = loop {
                match blocked.lock().unwrap().try_recv() {
                    Err(_) if began.elapsed() < common::PATIENCE => std::thread::sleep(Duration::from_millis(1)),
                    got => break got,
                }
            };
            done.lock().unwrap().take().unwrap().send(got).unwrap();
        }
    }))
    .await;
    actor.node().connect(addr).await.unwrap();
    let got = in_time("the hook's end", is_done).await.unwrap();
    assert_eq!(got.expect("it arrived while the thread was blocked").to_vec(), frame(b"question"));
    drop(peer.join().unwrap());
}

#[tokio::test(crate = "ledger")]
async fn a_reply_arrives_while_process_message_waits() {
    let answer = |actor: Actor, source, message| async move {
        actor.unicast_fast(source, message).unwrap();
        pending().await
    };
    let (actor, mut peer) = answering(answer).await;
    peer.write_all(&frame(b"ping")).await.unwrap();
    assert_eq!(next_frame(&mut peer).await, b"ping");
    assert_eq!(actor.node().stats().sent(), (2, 14));
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_resolves_while_process_message_blocks_its_thread_in_place() {
    let answer = |actor: Actor, source, message: Bytes| async move {
        actor.unicast_fast(source, message.clone()).unwrap();
        let receipt = actor.unicast(source, message).unwrap();
        blocking_in_place("the receipt", receipt).unwrap().unwrap();
        assert_eq!(actor.node().stats().sent().0, 3);
    };
    let (_actor, mut peer) = answering(answer).await;
    peer.write_all(&frame(b"ping")).await.unwrap();
    assert_eq!(next_frame(&mut peer).await, b"ping");
    assert_eq!(next_frame(&mut peer).await, b"ping");
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_arrives_while_process_message_blocks_its_thread_in_place() {
    let (reply_seen, seen) = oneshot::channel::<()>();
    let seen = Mutex::new(Some(seen));
    let answer = move |actor: Actor, source, message: Bytes| {
        let seen = seen.lock().unwrap().take().unwrap();
        async move {
            actor.unicast_fast(source, message).unwrap();
            blocking_in_place("the peer has the reply", seen).unwrap();
        }
    };
    let (_actor, mut peer) = answering(answer).await;
    peer.write_all(&frame(b"ping")).await.unwrap();
    assert_eq!(next_frame(&mut peer).await, b"ping");
    reply_seen.send(()).unwrap();
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 2)]
async fn another_threads_message_does_not_wait_for_a_process_message_that_blocks_in_place() {
    let answer = |actor: Actor, source, message: Bytes| async move {
        actor.unicast_fast(source, message).unwrap();
        let sending = tokio::spawn(async move { actor.unicast(source, Bytes::from_static(b"pong")).unwrap().await });
        blocking_in_place("the other message", sending).unwrap().unwrap().unwrap();
    };
    let (_actor, mut peer) = answering(answer).await;
    peer.write_all(&frame(b"ping")).await.unwrap();
    assert_eq!(next_frame(&mut peer).await, b"ping");
    assert_eq!(next_frame(&mut peer).await, b"pong");
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_does_not_wait_for_the_next_message_that_blocks_in_place() {
    let (reply_seen, wait) = oneshot::channel::<()>();
    let wait = Mutex::new(Some(wait));
    let answer = move |actor: Actor, source, message: Bytes| {
        let wait = (message == "block").then(|| wait.lock().unwrap().take()).flatten();
        async move {
            match wait {
                Some(wait) => blocking_in_place("the peer has the reply", wait).unwrap(),
                None => actor.unicast_fast(source, message).unwrap(),
            }
        }
    };
    let (_actor, mut peer) = answering(answer).await;
    peer.write_all(&[frame(b"ping"), frame(b"block")].concat()).await.unwrap();
    assert_eq!(next_frame(&mut peer).await, b"ping");
    reply_seen.send(()).unwrap();
}

#[tokio::test(crate = "ledger")]
async fn a_reply_before_a_disconnect_from_within_arrives() {
    let answer = |actor: Actor, source, message| async move {
        actor.unicast_fast(source, message).unwrap();
        assert!(actor.node().disconnect(source).await);
    };
    let (_actor, mut peer) = answering(answer).await;
    peer.write_all(&frame(b"ping")).await.unwrap();
    let rest = in_time("the end", read_to_eof(&mut peer)).await;
    assert_eq!(frames(&rest), [b"ping"]);
}

/// Answers each message, however often there is no room.
async fn echo(actor: Actor, source: SocketAddr, message: Bytes) {
    while let Err(error) = actor.unicast_fast(source, message.clone()) {
        assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
        yield_now().await;
    }
}

/// Small and large requests, so that batches end anywhere and sockets are full at any byte.
fn request(number: u32) -> Vec<u8> {
    let size = if number.is_multiple_of(50) { 40_000 } else { number as usize % 7 };
    let mut request = number.to_be_bytes().to_vec();
    request.resize(4 + size, number as u8);
    request
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 2)]
async fn replies_to_a_flood_arrive_whole_and_in_order_also_through_narrow_sockets() {
    const REQUESTS: u32 = 3_000;

    let actor = Actor::dialling(script(echo)).await;
    let (wide, addr) = dialled_raw(actor.node()).await;
    let narrow = dialled_narrow(actor.node()).await;
    for (mut peer, addr) in [(wide, addr), (narrow.peer, narrow.addr)] {
        greet(&actor, &mut peer, addr).await;
        let (mut from, mut to) = peer.into_split();
        let asking = tokio::spawn(async move {
            for number in 0..REQUESTS {
                to.write_all(&frame(&request(number))).await.unwrap();
                if number.is_multiple_of(97) {
                    yield_now().await;
                }
            }
            to
        });
        for number in 0..REQUESTS {
            let length = in_time("a reply", from.read_u32()).await.unwrap();
            let mut reply = vec![0; length as usize];
            in_time("the rest of a reply", from.read_exact(&mut reply)).await.unwrap();
            assert!(reply == request(number), "reply {number} is something else");
        }
        drop(asking.await.unwrap());
    }
    let bytes: u64 = (0..REQUESTS).map(|number| request(number).len() as u64 + 4).sum();
    assert_eq!(actor.node().stats().sent(), (2 * u64::from(REQUESTS) + 2, 2 * bytes + 12));
}

/// Writes 24 MB of requests before it reads an answer; returns how many answers then come.
async fn answers_to_all_at_once(size: usize) -> (usize, usize) {
    let (actor, mut peer) = answering(async |actor: Actor, source, message: Bytes| {
        let _sent_or_refused = actor.unicast_fast(source, message.slice(..4));
    })
    .await;
    let requests = 24_000_000 / (size + 4);
    let all = frame(&vec![7; size]).repeat(requests);
    in_time("all requests are written", peer.write_all(&all)).await.expect("the connection lives");
    let mut received = 0;
    let mut buffer = vec![0; 64 * 1024];
    // Until a last request, of which there is an answer for sure, has its answer.
    wait_until("all are processed", || actor.node().stats().received().0 == requests as u64).await;
    let more = async {
        while let Ok(Ok(count @ 1..)) = timeout(Duration::from_secs(2), peer.read(&mut buffer)).await {
            received += count;
        }
    };
    in_time("what was answered", more).await;
    assert!(actor.node().num_connected() == 1, "the connection lives");
    (received / 8, requests)
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_writes_all_its_requests_before_it_reads_is_held_up_once_and_gets_what_there_is_room_for() {
    let (answers, requests) = answers_to_all_at_once(100).await;
    assert_eq!(answers, requests, "the system has room for all of them");
    // More than there is room for: the rest is refused, and the client gets through.
    let (answers, requests) = answers_to_all_at_once(20).await;
    assert!((10_000..requests).contains(&answers), "{answers} of {requests}");
}
