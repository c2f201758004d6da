//! Rows 32 to 34: what was sent, or had arrived, before a connection ended.

use std::{
    io::Write,
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    time::{Duration, Instant},
};

use pea2pea::{Pea2Pea, protocols::Writing};
use tokio::{io::AsyncWriteExt, time::sleep};
use tokio_util::bytes::{Bytes, BytesMut};

use crate::{
    frames,
    kit::{
        Verdict, attack, ensure, sized,
        stage::{Stage, holds_within},
        victim::{LONG_MS, Temper, Victim},
    },
    row,
};

const SETTLED: Duration = Duration::from_secs(10);

// --- row 32 ---

const WORD: u8 = b'!';
static WORDS: AtomicUsize = AtomicUsize::new(0);

/// Counts last words, and answers nothing but what is of the bystander's size.
#[derive(Clone)]
struct Listening;

impl Temper for Listening {
    frames!();

    async fn process(victim: &Victim<Self>, source: SocketAddr, message: BytesMut) {
        if message.len() == 8 {
            _ = victim.unicast_fast(source, message.freeze());
        } else if message[0] == WORD {
            WORDS.fetch_add(1, SeqCst);
        }
    }
}

/// Both sides send; one says its last words and ends. Tells how many were confirmed.
fn say(
    stage: &Stage,
    addr: SocketAddr,
    listener: &Victim<Listening>,
    is_graceful: bool,
    count: usize,
    size: usize,
) -> usize {
    let known = listener.node().connected_addrs();
    // Made before the connection, so that its heap and tasks are gone with it.
    let speaker = stage.inside(Victim::<Listening>::new(attack::config(32)));
    let raw = (!is_graceful).then(|| TcpStream::connect(addr).unwrap());
    if is_graceful {
        stage.inside(speaker.node().connect(addr)).unwrap();
    }
    let newcomer = || listener.node().connected_addrs().into_iter().find(|addr| !known.contains(addr));
    holds_within(SETTLED, "the connection", || newcomer().is_some()).unwrap();
    let speaker_addr = newcomer().unwrap();
    let gossip = stage.beside({
        let listener = listener.clone();
        async move {
            while let Ok(receipt) = listener.unicast(speaker_addr, Bytes::from_static(&[b'.'; 2_000])) {
                // Whatever becomes of it: the next one tells.
                _ = receipt.await;
            }
        }
    });
    let talking = listener.node().connection_info(speaker_addr).expect("the newcomer is live");
    holds_within(SETTLED, "the other side talks", || talking.stats().sent().0 >= 20).unwrap();
    let word = Bytes::from(vec![WORD; size]);
    let confirmed = stage.inside(async {
        let Some(raw) = raw else {
            let receipts: Vec<_> = (0..count).map(|_| speaker.unicast(addr, word.clone()).unwrap()).collect();
            assert!(speaker.node().disconnect(addr).await);
            let mut confirmed = 0;
            for receipt in receipts {
                confirmed += usize::from(matches!(receipt.await, Ok(Ok(()))));
            }
            return confirmed;
        };
        raw.set_nonblocking(true).unwrap();
        let mut raw = tokio::net::TcpStream::from_std(raw).unwrap();
        let frame = [&(size as u32).to_be_bytes()[..], &word].concat();
        raw.write_all(&frame.repeat(count)).await.unwrap();
        attack::reset(raw);
        count
    });
    stage.inside(gossip).unwrap();
    holds_within(SETTLED, "the end", || newcomer().is_none()).unwrap();
    stage.inside(speaker.node().shut_down());
    confirmed
}

fn last_words(stage: &Stage, is_graceful: bool) -> Verdict {
    let (listener, addr) = stage.victim::<Listening>(attack::config(33));
    let watch = stage.watch::<Listening>(addr);
    let mut figures = Vec::new();
    for (count, size, runs) in [(1, 20, sized(40, 400)), (60, 16_000, sized(15, 150))] {
        let (mut confirmed, mut lossy) = (0, 0);
        let before = WORDS.load(SeqCst);
        for _ in 0..runs {
            let (before, said) = (WORDS.load(SeqCst), say(stage, addr, &listener, is_graceful, count, size));
            confirmed += said;
            lossy += usize::from(WORDS.load(SeqCst) - before < said);
        }
        let processed = WORDS.load(SeqCst) - before;
        let figure = format!(
            "{processed} of {confirmed} confirmed words of {size} B were processed, {lossy} of {runs} runs lost some"
        );
        ensure(confirmed > 0, || "nothing was confirmed".into())?;
        ensure(lossy == 0, || figure.clone())?;
        figures.push(figure);
    }
    watch.verdict(figures.join("; "))
}

fn graceful(stage: &Stage) -> Verdict {
    last_words(stage, true)
}

fn abrupt(stage: &Stage) -> Verdict {
    last_words(stage, false)
}

row!(row_32_confirmed_last_words_are_processed_while_the_other_side_sends, graceful, [
    "a graceful end" off: abrupt => "runs lost some",
]);

// --- rows 33 and 34 ---

/// Takes its time for each request, and then answers it if it is of that kind.
#[derive(Clone)]
struct Slow<const MS: u64, const ANSWERS: bool>;

impl<const MS: u64, const ANSWERS: bool> Temper for Slow<MS, ANSWERS> {
    const FLUSH_MS: u64 = LONG_MS;

    frames!();

    async fn process(victim: &Victim<Self>, source: SocketAddr, message: BytesMut) {
        if message.len() == 8 {
            _ = victim.unicast_fast(source, message.freeze());
            return;
        }
        sleep(Duration::from_millis(MS)).await;
        DONE.fetch_add(1, SeqCst);
        if ANSWERS {
            // The client may be gone.
            _ = victim.unicast_fast(source, message.freeze());
        }
    }
}

static DONE: AtomicUsize = AtomicUsize::new(0);

const REQUEST: &[u8] = b"\0\0\0\x02hi";

/// Sends requests, ends in some way, and tells how many were processed until the connection was gone.
fn requests<T: Temper>(stage: &Stage, row: u8, requests: usize, end: impl Fn(TcpStream, &Victim<T>, u64)) -> Verdict {
    let (victim, addr) = stage.victim::<T>(attack::config(row));
    let watch = stage.watch::<T>(addr);
    let mut figures = Vec::new();
    for _ in 0..sized(3, 30) {
        let (ended, done) = (victim.on_disconnects(), DONE.load(SeqCst));
        let mut client = TcpStream::connect(addr).unwrap();
        client.write_all(&REQUEST.repeat(requests)).unwrap();
        let since = Instant::now();
        let bytes = (requests * REQUEST.len()) as u64;
        end(client, &victim, bytes);
        holds_within(SETTLED, "the end", || victim.on_disconnects() > ended && victim.is_settled(1))?;
        let done = DONE.load(SeqCst) - done;
        ensure(done == requests, || format!("{done} of {requests} requests were processed"))?;
        figures.push(format!("{:.1?}", since.elapsed()));
    }
    watch.verdict(format_args!("all of {requests} requests were processed, within {}", figures.join(", ")))
}

fn closed<const MS: u64, const ANSWERS: bool>(stage: &Stage) -> Verdict {
    requests::<Slow<MS, ANSWERS>>(stage, 34, 100, |client, _, _| drop(client))
}

row!(row_33_requests_of_a_client_that_has_gone_are_processed_though_they_are_answered, closed::<5, true>, [
    "three seconds for the rest" off: closed::<100, true> => "requests were processed",
    "three seconds for the rest, without answers," off: closed::<100, false> => "requests were processed",
]);

/// Lets the client end when all of its requests have been decoded.
fn when_decoded(stage: &Stage, last: &'static [u8], resets: bool) -> Verdict {
    requests::<Slow<10, false>>(stage, 35, 50, |mut client, victim, bytes| {
        let own = client.local_addr().unwrap();
        let is_decoded = || victim.node().connection_info(own).is_some_and(|info| info.stats().received().1 == bytes);
        holds_within(SETTLED, "all is decoded", is_decoded).unwrap();
        client.write_all(last).unwrap();
        if resets {
            client.set_nonblocking(true).unwrap();
            stage.attack(async { attack::reset(tokio::net::TcpStream::from_std(client).unwrap()) });
        }
    })
}

fn reset(stage: &Stage) -> Verdict {
    when_decoded(stage, b"", true)
}

fn truncated(stage: &Stage) -> Verdict {
    when_decoded(stage, b"\0\0\0\x09half", false)
}

/// What comes before it is not to be trusted.
fn malformed(stage: &Stage) -> Verdict {
    when_decoded(stage, b"\xff\xff\xff\xff", false)
}

row!(row_34_what_was_decoded_before_a_reset_is_processed, reset, [
    "a stream that was well-formed" off: malformed => "requests were processed",
]);

row!(row_34_what_was_decoded_before_a_truncated_end_is_processed, truncated, [
    "a stream that was well-formed" off: malformed => "requests were processed",
]);
