//! A peer that takes nothing leaves nothing with the system: it is reset. But what was confirmed before an encoder failed
//! arrives.

use std::{
    future::pending,
    io::{self, ErrorKind},
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering},
};

use pea2pea::{DisconnectOrigin, Pea2Pea, protocols::Writing};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Handle,
};
use tokio_util::bytes::Bytes;

use crate::{
    common::{
        DELIBERATE, Events,
        actor::{Actor, Script, Tuning, Unhurried, silent},
        in_time, keep_deliberate_panics_quiet, poll_times, wait_until,
        wire::{Narrow, Sender, dialled_narrow, dialled_raw, frame, frames, read_to_eof},
    },
    hook, ledger,
};

/// More than the sockets hold.
const LARGE: usize = 400_000;

/// The peer finds the connection reset, and not closed behind bytes that wait for it.
async fn assert_reset(peer: &mut TcpStream) {
    let mut bytes = Vec::new();
    let end = in_time("the end", peer.read_to_end(&mut bytes)).await;
    assert_eq!(end.expect_err("no clean end").kind(), ErrorKind::ConnectionReset);
    assert!(bytes.len() < LARGE, "the rest was given up");
}

/// A connection on which the sender has something under way that the peer does not take.
async fn stalled<const TIMEOUT_MS: u64>(sender: &Sender<64, TIMEOUT_MS>) -> Narrow {
    let narrow = dialled_narrow(&sender.node).await;
    sender.unicast_fast(narrow.addr, vec![0; LARGE].into()).unwrap();
    in_time("the first bytes", narrow.peer.readable()).await.unwrap();
    // The sockets get full.
    poll_times(pin!(pending::<()>()), 1_000).await;
    narrow
}

async fn assert_a_stalled_peer_is_reset<const TIMEOUT_MS: u64>() {
    let sender = Sender::<64, TIMEOUT_MS>::plain().await;
    let mut narrow = stalled(&sender).await;
    assert!(in_time("disconnect", sender.node.disconnect(narrow.addr)).await);
    assert_reset(&mut narrow.peer).await;

    let mut narrow = stalled(&sender).await;
    in_time("shut_down", sender.node.shut_down()).await;
    assert_reset(&mut narrow.peer).await;
}

#[tokio::test(crate = "ledger")]
async fn a_peer_that_never_reads_is_reset_when_the_flush_bound_of_a_graceful_end_has_run_out() {
    tokio::join!(assert_a_stalled_peer_is_reset::<200>(), assert_a_stalled_peer_is_reset::<{ u64::MAX }>());
}

#[tokio::test(crate = "ledger")]
async fn a_peer_that_never_reads_is_reset_after_a_write_timeout() {
    for sender in [Sender::<64, 100>::plain().await, Sender::noting_ends().await] {
        let mut narrow = stalled(&sender).await;
        wait_until("the connection is gone", || sender.node.num_connected() == 0).await;
        assert_eq!(sender.node.heuristics().write_timeouts(), 1);
        assert_reset(&mut narrow.peer).await;
    }
}

// --- an encoder fails ---

#[derive(Debug, Clone, Copy)]
enum Failure {
    Error,
    Panic,
}

/// An actor whose encoder fails on the message behind the first `good` ones.
async fn failing<T: Tuning>(good: usize, failure: Failure, events: &Events<DisconnectOrigin>) -> Actor<T> {
    keep_deliberate_panics_quiet();
    let (encoded, ended) = (AtomicUsize::new(0), events.clone());
    Actor::dialling(Script {
        process: silent(),
        writes: true,
        encode: Some(Box::new(move |_| {
            if encoded.fetch_add(1, Ordering::SeqCst) < good {
                return Ok(());
            }
            match failure {
                Failure::Error => Err(io::Error::other(DELIBERATE)),
                Failure::Panic => panic!("{DELIBERATE}"),
            }
        })),
        on_disconnect: hook!(|_, _, origin| {
            ended.push(origin);
            async {}
        }),
        ..Script::default()
    })
    .await
}

#[tokio::test(crate = "ledger")]
async fn what_was_confirmed_before_an_encoder_failed_arrives_and_the_end_is_clean() {
    const GOOD: usize = 60;
    const SIZE: usize = 1_000;

    for failure in [Failure::Error, Failure::Panic] {
        let events = Events::default();
        let actor = failing::<Unhurried>(GOOD, failure, &events).await;
        let (mut peer, addr) = dialled_raw(actor.node()).await;
        let message = || Bytes::from(vec![7; SIZE]);
        for _ in 0..GOOD {
            in_time("a receipt", actor.unicast(addr, message()).unwrap()).await.unwrap().unwrap();
        }
        in_time("the bad one", actor.unicast(addr, message()).unwrap()).await.unwrap().unwrap_err();
        wait_until("the connection is gone", || actor.node().num_connected() == 0).await;
        assert_eq!(events.all(), [DisconnectOrigin::Writing], "{failure:?}");
        // The peer goes on sending before it reads.
        for _ in 0..10 {
            peer.write_all(&frame(&[0; 1_000])).await.unwrap();
        }
        let bytes = read_to_eof(&mut peer).await;
        assert_eq!(frames(&bytes), vec![&[7; SIZE][..]; GOOD], "{failure:?}");
    }
}

#[tokio::test(crate = "ledger")]
async fn what_was_confirmed_before_an_encoder_failed_arrives_however_late_the_peer_reads() {
    const GOOD: usize = 40;
    const SIZE: usize = 1_000;

    let late = |failure| async move {
        let events = Events::default();
        let actor = failing::<Unhurried>(GOOD, failure, &events).await;
        let Narrow { mut peer, addr, .. } = dialled_narrow(actor.node()).await;
        let message = || Bytes::from(vec![7; SIZE]);
        for _ in 0..GOOD {
            in_time("a receipt", actor.unicast(addr, message()).unwrap()).await.unwrap().unwrap();
        }
        in_time("the bad one", actor.unicast(addr, message()).unwrap()).await.unwrap().unwrap_err();
        in_time("shut_down", actor.node().shut_down()).await;
        assert_eq!(events.all(), [DisconnectOrigin::Writing], "{failure:?}");
        // The writer, which waits for the peer as long as it may, has closed the socket.
        wait_until("no task is left", || Handle::current().metrics().num_alive_tasks() == 0).await;
        peer.readable().await.unwrap();
        let arrived = peer.peek(&mut [0; GOOD * SIZE]).await.unwrap();
        assert!(arrived < GOOD * SIZE, "the rest is in the sender's buffer: {arrived}");
        let bytes = read_to_eof(&mut peer).await;
        assert_eq!(frames(&bytes), vec![&[7; SIZE][..]; GOOD], "{failure:?}");
    };
    tokio::join!(late(Failure::Error), late(Failure::Panic));
}
