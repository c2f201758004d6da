//! Last words: what was confirmed arrives although the peer is sending too, and what a peer has sent before a write to it
//! failed is processed.

use std::{
    future::pending,
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use pea2pea::{DisconnectOrigin, Pea2Pea, protocols::Writing};
use tokio::{io::AsyncWriteExt, sync::oneshot, task::spawn_blocking};
use tokio_util::bytes::Bytes;

use crate::{
    common::{
        self, Events, PATIENCE,
        actor::{Actor, Script, Tuning, Unhurried},
        in_time, poll_times,
        reader::{Noted, Reader},
        setups::settled,
        wait_until,
        wire::{dialled_narrow, dialled_raw, frame, frames},
    },
    hook, ledger,
};

const HELLO: Bytes = Bytes::from_static(b"hello");

// --- a write fails ---

/// Most of what its peers send stays in the socket while a message waits.
type Frugal = Reader<4, true, 0, 64>;

/// How many messages it takes from the socket while the first one waits.
const TAKEN: u64 = 5;

const REQUESTS: u8 = 100;

/// One segment of messages that are numbered by their only byte.
fn requests() -> Vec<u8> {
    (0..REQUESTS).flat_map(|number| frame(&[number])).collect()
}

/// All of them processed, in order, and then the end.
fn all_processed(origin: DisconnectOrigin) -> Vec<Noted> {
    let processed = (0..REQUESTS).flat_map(|number| [Noted::Begun(number), Noted::Done(number)]);
    processed.chain([Noted::Ended(origin)]).collect()
}

/// Sends until a write fails; returns why.
async fn failed_write(reader: &Frugal, addr: SocketAddr) -> io::Error {
    loop {
        // The OS takes the first message after a reset without a word.
        match in_time("the receipt", reader.unicast(addr, HELLO).unwrap()).await.expect("it is written or fails") {
            Ok(()) => poll_times(pin!(pending::<()>()), 100).await,
            Err(error) => return error,
        };
    }
}

#[tokio::test(crate = "ledger")]
async fn a_failed_write_is_told_at_once_and_what_the_peer_has_sent_before_is_processed_before_the_end() {
    let reader = Frugal::gated().await;
    let (mut peer, addr) = dialled_raw(&reader.node).await;
    peer.write_all(&requests()).await.unwrap();
    reader.received(TAKEN).await;
    peer.set_zero_linger().unwrap();
    drop(peer);
    let error = failed_write(&reader, addr).await;
    assert!([ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&error.kind()), "{error}");
    let refused = [reader.unicast_fast(addr, HELLO).unwrap_err(), reader.unicast(addr, HELLO).unwrap_err()];
    assert_eq!(refused.map(|error| error.kind()), [ErrorKind::BrokenPipe; 2]);
    assert!(reader.node.is_connected(addr), "it is read on");
    assert_eq!(reader.noted.all(), [Noted::Begun(0)]);
    reader.let_pass(REQUESTS.into());
    reader.ended(DisconnectOrigin::Writing).await;
    assert_eq!(reader.noted.all(), all_processed(DisconnectOrigin::Writing));
    assert_eq!(reader.node.heuristics().unprocessed_messages(), 0);
}

#[tokio::test(crate = "ledger")]
async fn the_receipts_behind_a_failed_write_do_not_wait_for_the_reader_either() {
    let reader = Frugal::gated().await;
    let mut narrow = dialled_narrow(&reader.node).await;
    narrow.peer.write_all(&requests()).await.unwrap();
    reader.received(TAKEN).await;
    let send = |size| reader.unicast(narrow.addr, vec![0; size].into()).unwrap();
    let failing = send(400_000);
    in_time("the first bytes", narrow.peer.readable()).await.unwrap();
    let behind = [send(10_000), send(10_000)];
    narrow.peer.set_zero_linger().unwrap();
    drop(narrow.peer);
    let error = in_time("the failed one", failing).await.unwrap().unwrap_err();
    assert!([ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&error.kind()), "{error}");
    for receipt in behind {
        in_time("one behind it", receipt).await.expect_err("never written");
    }
    assert_eq!(reader.noted.all(), [Noted::Begun(0)]);
    reader.let_pass(REQUESTS.into());
    reader.ended(DisconnectOrigin::Writing).await;
    assert_eq!(reader.noted.all(), all_processed(DisconnectOrigin::Writing));
}

#[derive(Clone)]
struct Hasty;

impl Tuning for Hasty {
    const FLUSH_MS: u64 = 100;
}

#[tokio::test(crate = "ledger")]
async fn after_a_write_timeout_nothing_that_the_peer_has_sent_is_waited_for() {
    let events = Events::default();
    let ended = events.clone();
    let actor = Actor::<Hasty>::dialling(Script {
        process: common::actor::hanging(),
        on_disconnect: hook!(|_, _, origin| {
            ended.push(origin);
            async {}
        }),
        writes: true,
        ..Script::default()
    })
    .await;
    let mut narrow = dialled_narrow(actor.node()).await;
    narrow.peer.write_all(&requests()).await.unwrap();
    wait_until("the first is being processed", || actor.received() == 1).await;
    let receipt = actor.unicast(narrow.addr, vec![0; 400_000].into()).unwrap();
    let error = in_time("the timeout", receipt).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    // The end has begun before the receipt resolves.
    assert_eq!((events.all(), actor.received()), (vec![DisconnectOrigin::Writing], 1));
}

// --- a reply to a peer that has gone ---

#[tokio::test(crate = "ledger")]
async fn a_reply_to_a_peer_that_has_gone_throws_none_of_its_requests_away() {
    let reader = Frugal::gated().await;
    let (mut peer, addr) = dialled_raw(&reader.node).await;
    peer.write_all(&requests()).await.unwrap();
    drop(peer);
    // Each is answered, until the answers are refused.
    let mut passed = 0;
    while reader.unicast_fast(addr, HELLO).is_ok() {
        reader.let_pass(1);
        reader.noted.wait_for(Noted::Done(passed)).await;
        passed += 1;
        poll_times(pin!(pending::<()>()), 100).await;
    }
    assert!(passed < REQUESTS / 2, "a write fails soon");
    reader.let_pass((REQUESTS - passed).into());
    reader.ended(DisconnectOrigin::Writing).await;
    assert_eq!(reader.noted.all(), all_processed(DisconnectOrigin::Writing));
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 2)]
async fn requests_and_a_close_are_processed_to_the_last_one_while_each_is_answered() {
    for _ in 0..5 {
        let events = Events::default();
        let ended = events.clone();
        let script = Script::<Unhurried> {
            process: hook!(|actor, source, message| async move {
                // So slow that the answers to the first ones have failed long before the last one.
                tokio::time::sleep(Duration::from_millis(1)).await;
                _ = actor.unicast_fast(source, message.freeze());
            }),
            on_disconnect: hook!(|_, _, origin| {
                ended.push(origin);
                async {}
            }),
            writes: true,
            ..Script::default()
        };
        let (actor, addr) = Actor::listening(script).await;
        let asking = spawn_blocking(move || {
            let mut client = TcpStream::connect(addr).unwrap();
            // In one segment: a close throws away what the system of the client has not sent yet.
            client.write_all(&requests()).unwrap();
        });
        in_time("the client", asking).await.unwrap();
        wait_until("the end", || events.len() == 1).await;
        assert_eq!(actor.received(), usize::from(REQUESTS), "{:?}", events.all());
        actor.node().shut_down().await;
    }
}

// --- both are sending ---

/// An actor that counts the last words it gets, and waits for nothing.
async fn listener_to_last_words() -> (Actor, Arc<Events<u8>>) {
    let words = Arc::new(Events::default());
    let heard = Arc::clone(&words);
    let script = Script::<Unhurried> {
        process: hook!(|_, _, message| {
            if message[0] == b'!' {
                heard.push(message[0]);
            }
            async {}
        }),
        writes: true,
        ..Script::default()
    };
    (Actor::new(common::local_config(), script).await, words)
}

/// One says its last words while the other one talks; returns how many were confirmed, and how many were heard.
async fn part_while_the_other_one_talks(count: usize, size: usize) -> (usize, usize) {
    let ((one, _), (other, heard)) = (listener_to_last_words().await, listener_to_last_words().await);
    let there = other.node().toggle_listener().await.unwrap().unwrap();
    one.node().connect(there).await.unwrap();
    let back = other.only_peer().await;
    let talking = tokio::spawn({
        let other = other.clone();
        async move {
            while let Ok(receipt) = other.unicast(back, Bytes::from_static(&[b'.'; 2_000])) {
                _ = receipt.await;
            }
        }
    });
    wait_until("the other one talks", || one.received() > 10).await;
    let words = Bytes::from(vec![b'!'; size]);
    let receipts: Vec<_> = (0..count).map(|_| one.unicast(there, words.clone()).unwrap()).collect();
    assert!(in_time("the farewell", one.node().disconnect(there)).await);
    let mut confirmed = 0;
    for receipt in receipts {
        confirmed += usize::from(matches!(in_time("each receipt", receipt).await, Ok(Ok(()))));
    }
    in_time("it falls silent", talking).await.unwrap();
    settled(other.node(), 0).await;
    one.node().shut_down().await;
    other.node().shut_down().await;
    (confirmed, heard.len())
}

async fn assert_last_words_are_heard(count: usize, size: usize) {
    for round in 0..25 {
        let (confirmed, heard) = part_while_the_other_one_talks(count, size).await;
        assert!(confirmed > 0 && heard >= confirmed, "round {round}: {confirmed} confirmed, {heard} heard");
    }
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 2)]
async fn a_confirmed_last_message_arrives_although_the_other_node_is_sending() {
    assert_last_words_are_heard(1, 20).await;
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 2)]
async fn many_large_confirmed_last_messages_arrive_although_the_other_node_is_sending() {
    assert_last_words_are_heard(60, 16_000).await;
}

/// A connection to a peer that is no node, and blocks.
async fn dialled_std(actor: &Actor) -> (TcpStream, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    actor.node().connect(addr).await.unwrap();
    let peer = listener.accept().unwrap().0;
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    peer.set_write_timeout(Some(PATIENCE)).unwrap();
    (peer, addr)
}

/// Goes on sending until it has read the end of the stream; returns what it has read, and how that ended.
fn read_and_send(peer: &TcpStream, pause: Duration) -> (Vec<u8>, io::Result<usize>) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let (mut to, chunk) = (peer, frame(&[0; 2_000]));
            while !is_over.load(Ordering::SeqCst) {
                if to.write_all(&chunk).is_err() {
                    break;
                }
                std::thread::sleep(pause);
            }
        });
        let (mut from, mut bytes) = (peer, Vec::new());
        let end = from.read_to_end(&mut bytes);
        is_over.store(true, Ordering::SeqCst);
        _ = peer.shutdown(Shutdown::Both);
        sending.join().unwrap();
        (bytes, end)
    })
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 2)]
async fn confirmed_last_messages_arrive_at_a_plain_peer_that_goes_on_sending() {
    // A peer that floods is stopped, and not answered with a reset, after 1 MiB, and holds the end up for its whole bound.
    for (pause, rounds) in [(Duration::from_micros(500), 20), (Duration::ZERO, 3)] {
        for (round, (count, size)) in (0..rounds).flat_map(|round| [(round, (1, 20)), (round, (60, 16_000))]) {
            let actor = listener_to_last_words().await.0;
            let (peer, addr) = dialled_std(&actor).await;
            let talking = spawn_blocking(move || read_and_send(&peer, pause));
            wait_until("the peer talks", || actor.received() > 10).await;
            let words = Bytes::from(vec![b'!'; size]);
            let receipts: Vec<_> = (0..count).map(|_| actor.unicast(addr, words.clone()).unwrap()).collect();
            assert!(in_time("the farewell", actor.node().disconnect(addr)).await);
            let mut confirmed = 0;
            for receipt in receipts {
                confirmed += usize::from(matches!(in_time("each receipt", receipt).await, Ok(Ok(()))));
            }
            let (bytes, end) = in_time("the peer's end", talking).await.unwrap();
            let heard = frames(&bytes).len();
            assert!(
                confirmed > 0 && heard >= confirmed,
                "round {round}: {confirmed} confirmed, {heard} heard, {end:?}"
            );
            actor.node().shut_down().await;
        }
    }
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 2)]
async fn an_uploader_that_reads_the_answer_only_afterwards_gets_all_of_it() {
    const ANSWER: usize = 200_000;
    const UPLOADS: [usize; 3] = [1, 100_000, 1_000_000];

    for upload in UPLOADS {
        let actor = listener_to_last_words().await.0;
        let (mut peer, addr) = dialled_std(&actor).await;
        let (tell, told) = oneshot::channel();
        let uploading = spawn_blocking(move || {
            peer.write_all(&frame(b"first")).unwrap();
            told.blocking_recv().unwrap();
            let uploaded = vec![0; upload].chunks(16_000).try_for_each(|chunk| peer.write_all(chunk));
            let mut answer = Vec::new();
            let end = peer.read_to_end(&mut answer);
            (uploaded, answer, end)
        });
        wait_until("the upload has begun", || actor.received() == 1).await;
        let receipt = actor.unicast(addr, vec![7; ANSWER].into()).unwrap();
        let node = actor.node().clone();
        let parting = tokio::spawn(async move { node.disconnect(addr).await });
        in_time("the receipt", receipt).await.unwrap().unwrap();
        wait_until("the address is free", || !actor.node().is_connected(addr)).await;
        tell.send(()).unwrap();
        let (uploaded, answer, end) = in_time("the uploader's end", uploading).await.unwrap();
        assert!(in_time("the farewell", parting).await.unwrap());
        assert!(uploaded.is_ok() && end.is_ok(), "{upload}: {uploaded:?} {end:?}");
        assert!(answer == frame(&[7; ANSWER]), "{upload}: {} bytes of the answer", answer.len());
    }
}
