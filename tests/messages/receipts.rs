//! Delivery receipts: when they resolve, to what, and in which order.

use std::{
    io::{self, ErrorKind},
    pin::pin,
    time::Duration,
};

use pea2pea::{DisconnectOrigin, Pea2Pea, protocols::Writing};
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    sync::oneshot::{self, error::TryRecvError},
};
use tokio_util::bytes::Bytes;

use crate::{
    common::{
        in_time, poll_times, wait_until,
        wire::{Narrow, Sender, dialled_narrow, dialled_raw},
    },
    ledger,
};

type Receipt = oneshot::Receiver<io::Result<()>>;

const HELLO: Bytes = Bytes::from_static(b"hello");

fn large(size: usize) -> Bytes {
    vec![0; size].into()
}

/// Reads and forgets whatever comes.
async fn drain(peer: TcpStream) {
    let (mut from, mut to) = (peer, tokio::io::sink());
    _ = tokio::io::copy(&mut from, &mut to).await;
}

/// Waits until the writer is at work on what has been queued so far: the peer sees its first bytes.
async fn taken(peer: &TcpStream) {
    in_time("the first bytes", peer.readable()).await.unwrap();
    poll_times(pin!(std::future::pending::<()>()), 20).await;
}

// --- success ---

#[tokio::test(crate = "ledger")]
async fn a_receipt_resolves_only_when_the_os_has_taken_all_bytes() {
    const SIZE: usize = 1_000_000;

    let sender = Sender::<64>::plain().await;
    let Narrow { mut peer, addr, capacity } = dialled_narrow(&sender.node).await;
    let mut receipt = sender.unicast(addr, large(SIZE)).unwrap();
    taken(&peer).await;
    let mut read = 0;
    let mut buffer = [0; 4_096];
    while let Err(error) = receipt.try_recv() {
        assert_eq!(error, TryRecvError::Empty);
        assert_eq!(sender.node.stats().sent(), (0, 0));
        read += in_time("more bytes", peer.read(&mut buffer)).await.unwrap();
    }
    assert!(read + capacity >= SIZE, "confirmed when {read} bytes were read, and the sockets hold {capacity} at most");
    assert_eq!(sender.node.stats().sent(), (1, SIZE as u64 + 4));
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 2)]
async fn the_counters_include_a_message_before_its_receipt_resolves() {
    let sender = Sender::<64>::plain().await;
    let (peer, addr) = dialled_raw(&sender.node).await;
    let info = sender.node.connection_info(addr).unwrap();
    let draining = tokio::spawn(drain(peer));
    for sent in 1..=500 {
        sender.unicast(addr, HELLO).unwrap().await.unwrap().unwrap();
        assert_eq!(info.stats().sent(), (sent, sent * 9));
        assert_eq!(sender.node.stats().sent(), (sent, sent * 9));
    }
    sender.node.shut_down().await;
    in_time("the peer sees the end", draining).await.unwrap();
}

/// The size decides whether many messages share a batch or each has its own.
async fn assert_places_are_free_when_a_receipt_resolves<const DEPTH: usize>(size: usize) {
    let sender = Sender::<DEPTH>::plain().await;
    let Narrow { peer, addr, .. } = dialled_narrow(&sender.node).await;
    let draining = tokio::spawn(drain(peer));
    for awaited in (0..DEPTH).cycle().take(20) {
        let mut receipts: Vec<_> = (0..DEPTH).map(|_| sender.unicast(addr, large(size)).unwrap()).collect();
        in_time("the receipt", &mut receipts[awaited]).await.unwrap().unwrap();
        for freed in 0..=awaited {
            let again = sender.unicast(addr, large(size));
            receipts.push(again.unwrap_or_else(|error| panic!("{freed} of {} places are free: {error}", awaited + 1)));
        }
        for receipt in receipts.into_iter().skip(awaited + 1) {
            in_time("the rest", receipt).await.unwrap().unwrap();
        }
        // The next round is to find the queue empty, and the connection at rest.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
    sender.node.shut_down().await;
    in_time("the peer sees the end", draining).await.unwrap();
}

#[tokio::test(crate = "ledger")]
async fn when_a_receipt_resolves_the_places_of_its_message_and_of_all_earlier_ones_are_free() {
    assert_places_are_free_when_a_receipt_resolves::<1>(10).await;
    assert_places_are_free_when_a_receipt_resolves::<5>(10).await;
    assert_places_are_free_when_a_receipt_resolves::<5>(100_000).await;
    assert_places_are_free_when_a_receipt_resolves::<20>(9_000).await;
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 2)]
async fn the_places_are_free_on_many_threads_too() {
    assert_places_are_free_when_a_receipt_resolves::<1>(10).await;
    assert_places_are_free_when_a_receipt_resolves::<5>(50_000).await;
}

#[tokio::test(crate = "ledger")]
async fn dropping_a_receipt_changes_nothing() {
    let sender = Sender::<64>::plain().await;
    let (mut peer, addr) = dialled_raw(&sender.node).await;
    drop(sender.unicast(addr, HELLO).unwrap());
    let kept = sender.unicast(addr, HELLO).unwrap();
    let mut bytes = [0; 18];
    in_time("both arrive", peer.read_exact(&mut bytes)).await.unwrap();
    kept.await.unwrap().unwrap();
}

// --- failure ---

/// What counts as sent of a batch of three that fails.
const DOOMED: (u64, u64) = (3, 10_000 + 10_000 + 400_000 + 3 * 4);

/// A batch that fails, and three messages behind it.
struct Doomed {
    batch: Vec<Receipt>,
    later: Vec<Receipt>,
}

impl Doomed {
    /// So many messages make one batch; the last of them alone is more than the sockets hold.
    async fn new<const TIMEOUT_MS: u64>(sender: &Sender<64, TIMEOUT_MS>, narrow: &Narrow, count: usize) -> Self {
        let send = |size| sender.unicast(narrow.addr, large(size)).unwrap();
        let mut batch: Vec<_> = (1..count).map(|_| send(10_000)).collect();
        batch.push(send(400_000));
        taken(&narrow.peer).await;
        Self { batch, later: (0..3).map(|_| send(10_000)).collect() }
    }

    /// When the first of the later receipts resolves, to `Err(_)`, the whole batch has resolved already.
    async fn assert_fails_with(self, kinds: &[ErrorKind]) {
        let Self { mut batch, later } = self;
        for receipt in later {
            in_time("a later receipt", receipt).await.expect_err("never written");
            for receipt in batch.drain(..) {
                let fate = { receipt }.try_recv().expect("it has resolved");
                assert!(kinds.contains(&fate.unwrap_err().kind()));
            }
        }
    }
}

async fn assert_a_flush_timeout_is_told<const NOTING: bool>() {
    type Hasty = Sender<64, 100>;
    let sender = if NOTING { Hasty::noting_ends().await } else { Hasty::plain().await };
    let narrow = dialled_narrow(&sender.node).await;
    let mut doomed = Doomed::new(&sender, &narrow, 3).await;
    let error = in_time("the first receipt", doomed.batch.remove(0)).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_eq!(sender.node.heuristics().write_timeouts(), 1);
    if NOTING {
        wait_until("the end is noted", || sender.ends.all() == [DisconnectOrigin::Writing]).await;
    } else {
        assert!(!sender.node.is_connected(narrow.addr), "the ending is one poll, and no receipt precedes it");
    }
    for receipt in doomed.later {
        in_time("a later receipt", receipt).await.expect_err("never written");
    }
    assert_eq!(sender.node.stats().sent(), DOOMED, "a part of the batch may have arrived, nothing of the later ones");
    wait_until("the connection is gone", || !sender.node.is_connected(narrow.addr)).await;
    assert_eq!(sender.unicast_fast(narrow.addr, HELLO).unwrap_err().kind(), ErrorKind::NotConnected);
}

#[tokio::test(crate = "ledger")]
async fn a_flush_timeout_fails_the_batch_and_ends_the_connection_with_origin_writing() {
    tokio::join!(assert_a_flush_timeout_is_told::<true>(), assert_a_flush_timeout_is_told::<false>());
}

async fn assert_the_failed_batch_resolves_first(count: usize) {
    for sender in [Sender::<64, 50>::plain().await, Sender::noting_ends().await] {
        let narrow = dialled_narrow(&sender.node).await;
        Doomed::new(&sender, &narrow, count).await.assert_fails_with(&[ErrorKind::TimedOut]).await;
    }
    for sender in [Sender::<64>::plain().await, Sender::noting_ends().await] {
        let narrow = dialled_narrow(&sender.node).await;
        let doomed = Doomed::new(&sender, &narrow, count).await;
        narrow.peer.set_zero_linger().unwrap();
        drop(narrow.peer);
        doomed.assert_fails_with(&[ErrorKind::ConnectionReset, ErrorKind::BrokenPipe]).await;
        assert_eq!(sender.node.heuristics().write_timeouts(), 0);
    }
}

#[tokio::test(crate = "ledger")]
async fn the_failed_batch_resolves_before_any_later_receipt() {
    assert_the_failed_batch_resolves_first(1).await;
    assert_the_failed_batch_resolves_first(3).await;
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 2)]
async fn the_failed_batch_resolves_first_on_many_threads_too() {
    // Of several messages the writer may take the first at once, as a batch of its own.
    assert_the_failed_batch_resolves_first(1).await;
}

#[tokio::test(crate = "ledger")]
async fn receipts_are_dropped_when_the_connection_goes_away_first() {
    let sender = Sender::<64>::plain().await;
    let narrow = dialled_narrow(&sender.node).await;
    let doomed = Doomed::new(&sender, &narrow, 3).await;
    // Cancelled at its first await, the ending flushes nothing more.
    poll_times(pin!(sender.node.disconnect(narrow.addr)), 1).await;
    assert!(!sender.node.is_connected(narrow.addr));
    for receipt in doomed.batch.into_iter().chain(doomed.later) {
        in_time("the receipt", receipt).await.expect_err("never written");
    }
    assert_eq!(sender.node.stats().sent(), DOOMED, "a part of the batch may have arrived, nothing of the later ones");
}

#[tokio::test(crate = "ledger")]
async fn a_broken_connection_is_told_in_the_receipt_even_if_nobody_reads() {
    let sender = Sender::<64>::noting_ends().await;
    let (peer, addr) = dialled_raw(sender.node()).await;
    peer.set_zero_linger().unwrap();
    drop(peer);
    let error = loop {
        // The OS takes the first message after a reset without a word.
        match in_time("the receipt", sender.unicast(addr, HELLO).unwrap()).await {
            Ok(Ok(())) => tokio::time::sleep(Duration::from_millis(1)).await,
            Ok(Err(error)) => break error,
            Err(_) => panic!("it was the write that failed first"),
        }
    };
    assert!([ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&error.kind()), "{error}");
    sender.ends.wait_for(DisconnectOrigin::Writing).await;
}

#[tokio::test(crate = "ledger")]
async fn each_batch_has_the_whole_timeout_for_itself() {
    let sender = Sender::<64, 1_000>::noting_ends().await;
    let Narrow { mut peer, addr, .. } = dialled_narrow(&sender.node).await;
    for _ in 0..15 {
        let receipt = sender.unicast(addr, large(400_000)).unwrap();
        // Each has to wait for a tenth of the timeout, and all together for longer than that.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut bytes = vec![0; 400_004];
        in_time("the message", peer.read_exact(&mut bytes)).await.unwrap();
        receipt.await.unwrap().unwrap();
    }
    assert_eq!(sender.ends.all(), []);
    assert_eq!(sender.node.heuristics().write_timeouts(), 0);
}
