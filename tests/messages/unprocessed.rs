//! What was decoded before a connection ended: what of it is still processed, and that the rest is counted.

use std::{future::pending, net::SocketAddr, pin::pin, sync::Arc};

use pea2pea::{DisconnectOrigin, Pea2Pea, protocols::Writing};
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::Semaphore};
use tokio_util::bytes::Bytes;

use crate::{
    common::{
        DELIBERATE,
        actor::{Actor, Script, Unhurried},
        keep_deliberate_panics_quiet, poll_times,
        reader::{Noted, Reader},
        wait_until,
        wire::{dialled_raw, frame},
    },
    hook, ledger,
};

/// Messages that are numbered by their only byte.
fn messages(count: u8) -> Vec<u8> {
    (0..count).flat_map(|number| frame(&[number])).collect()
}

/// A frame that is too long for any decoder.
const BROKEN: [u8; 4] = [0xff; 4];

/// A reader that has decoded so many messages, of which the first one is being processed, and what the peer sent behind them.
async fn waiting<const DEPTH: usize, const BACKPRESSURE: bool>(
    count: u8,
    behind: &[u8],
) -> (Reader<DEPTH, BACKPRESSURE>, TcpStream, SocketAddr) {
    let reader = Reader::<DEPTH, BACKPRESSURE>::gated().await;
    let (mut peer, addr) = dialled_raw(&reader.node).await;
    peer.write_all(&[&messages(count), behind].concat()).await.unwrap();
    wait_until("the first is being processed", || reader.begun() == [0]).await;
    (reader, peer, addr)
}

/// Lets the reader notice what has happened to its socket.
async fn settle() {
    poll_times(pin!(pending::<()>()), 1_000).await;
}

/// Waits for the end, which a reply that cannot be written may tell of before the reader does.
async fn ended_by_either<const DEPTH: usize, const BACKPRESSURE: bool>(reader: &Reader<DEPTH, BACKPRESSURE>) {
    wait_until("the end", || matches!(reader.noted.all().last(), Some(Noted::Ended(_)))).await;
    wait_until("the connection is gone", || reader.node.num_connected() == 0).await;
}

/// All messages were processed, then the connection ended.
async fn assert_all_are_processed(reader: &Reader, count: u8) {
    settle().await;
    assert_eq!(reader.noted.all(), [Noted::Begun(0)], "what was decoded is waited for");
    reader.let_pass(count.into());
    ended_by_either(reader).await;
    let mut noted = reader.noted.all();
    assert!(matches!(noted.pop(), Some(Noted::Ended(DisconnectOrigin::Reading | DisconnectOrigin::Writing))));
    let processed = (0..count).flat_map(|number| [Noted::Begun(number), Noted::Done(number)]);
    assert_eq!(noted, Vec::from_iter(processed));
    assert_eq!(reader.node.heuristics().unprocessed_messages(), 0);
}

#[tokio::test(crate = "ledger")]
async fn what_was_decoded_before_a_reset_is_processed_also_when_processing_waits() {
    let (reader, peer, _) = waiting(10, &[]).await;
    peer.set_zero_linger().unwrap();
    drop(peer);
    assert_all_are_processed(&reader, 10).await;
}

#[tokio::test(crate = "ledger")]
async fn what_was_decoded_before_a_truncated_end_is_processed_also_when_processing_waits() {
    let (reader, mut peer, _) = waiting(10, &frame(b"torn")[..6]).await;
    peer.shutdown().await.unwrap();
    assert_all_are_processed(&reader, 10).await;
}

/// Everything that was received was processed, or is counted; tells how much of it.
fn counted<const DEPTH: usize, const BACKPRESSURE: bool>(reader: &Reader<DEPTH, BACKPRESSURE>) -> u64 {
    let unprocessed = reader.node.heuristics().unprocessed_messages();
    assert_eq!(reader.node.stats().received().0, reader.begun().len() as u64 + unprocessed);
    unprocessed
}

#[tokio::test(crate = "ledger")]
async fn after_a_decode_error_what_was_decoded_is_dropped_and_counted_if_processing_waits() {
    let (reader, _peer, _) = waiting::<64, true>(10, &BROKEN).await;
    reader.ended(DisconnectOrigin::Reading).await;
    assert_eq!(reader.noted.all(), [Noted::Begun(0), Noted::Ended(DisconnectOrigin::Reading)]);
    assert_eq!(counted(&reader), 9);
}

#[tokio::test(crate = "ledger")]
async fn what_is_left_after_the_drain_is_dropped_and_counted() {
    let clean = async {
        let (reader, peer, _) = waiting::<64, true>(10, &[]).await;
        drop(peer);
        reader
    };
    let reset = async {
        let (reader, peer, _) = waiting::<64, true>(10, &[]).await;
        peer.set_zero_linger().unwrap();
        drop(peer);
        reader
    };
    let truncated = async {
        let (reader, peer, _) = waiting::<64, true>(10, b"tor").await;
        drop(peer);
        reader
    };
    let (clean, reset, truncated) = tokio::join!(clean, reset, truncated);
    for reader in [clean, reset, truncated] {
        reader.ended(DisconnectOrigin::Reading).await;
        assert_eq!(reader.noted.all(), [Noted::Begun(0), Noted::Ended(DisconnectOrigin::Reading)]);
        assert_eq!(counted(&reader), 9);
    }
}

#[tokio::test(crate = "ledger")]
async fn what_is_left_after_the_drain_of_a_write_that_failed_is_dropped_and_counted() {
    let (reader, peer, addr) = waiting::<64, true>(10, &[]).await;
    peer.set_zero_linger().unwrap();
    drop(peer);
    while reader.unicast_fast(addr, Bytes::new()).is_ok() {
        settle().await;
    }
    reader.ended(DisconnectOrigin::Writing).await;
    assert_eq!(reader.noted.all(), [Noted::Begun(0), Noted::Ended(DisconnectOrigin::Writing)]);
    assert_eq!(counted(&reader), 9);
}

#[tokio::test(crate = "ledger")]
async fn what_waits_in_the_queue_is_counted_when_the_node_ends_the_connection() {
    for is_shutdown in [false, true] {
        let (reader, _peer, addr) = waiting::<4, true>(10, &[]).await;
        // The queue, and the message in hand; the rest is not decoded.
        reader.received(5).await;
        if is_shutdown {
            reader.node.shut_down().await;
        } else {
            assert!(reader.node.disconnect(addr).await);
        }
        assert_eq!(reader.begun(), [0]);
        assert_eq!(counted(&reader), 4);
    }
}

#[tokio::test(crate = "ledger")]
async fn without_backpressure_what_finds_no_room_is_counted() {
    let (reader, peer, _) = waiting::<4, false>(10, &[]).await;
    wait_until("all are received", || reader.node.stats().received().0 == 10).await;
    let unprocessed = reader.node.heuristics().unprocessed_messages();
    assert!((5..=6).contains(&unprocessed), "{unprocessed}: four wait, and perhaps one that was taken out before");
    reader.let_pass(10);
    drop(peer);
    ended_by_either(&reader).await;
    assert_eq!(counted(&reader), unprocessed);
}

#[tokio::test(crate = "ledger")]
async fn what_waits_behind_a_panic_of_process_message_is_counted() {
    keep_deliberate_panics_quiet();
    let gate = Arc::new(Semaphore::new(0));
    let closed = Arc::clone(&gate);
    let actor = Actor::dialling(Script {
        process: hook!(|_, _, _| {
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.unwrap().forget();
                panic!("{DELIBERATE}")
            }
        }),
        ..Script::<Unhurried>::default()
    })
    .await;
    let (mut peer, _) = dialled_raw(actor.node()).await;
    peer.write_all(&messages(10)).await.unwrap();
    wait_until("all are received", || actor.node().stats().received().0 == 10).await;
    closed.add_permits(1);
    wait_until("the connection is gone", || actor.node().num_connected() == 0).await;
    assert_eq!((actor.received(), actor.node().heuristics().unprocessed_messages()), (1, 9));
}
