//! When a silent connection ends, on a paused clock.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWriteExt, DuplexStream, ReadBuf, duplex},
    time::{Instant, sleep},
};
use tokio_util::codec::BytesCodec;

use super::reader::{ReadEnd, ReadSettings, Reader};
use crate::{
    counting::Observer,
    outbound::{
        Outbox,
        writer::Writer,
        writer_tests::{Message, PATIENT, Sent, TestEncoder},
    },
    waiting::CLOCK_JUMP,
};

struct Nobody;

impl Observer for Nobody {
    fn has_ended(&self) -> bool {
        false
    }

    fn received(&self, _: usize, _: usize) {}

    fn dropped(&self, _: usize) {}

    fn unprocessed(&self, _: usize) {}

    fn sent(&self, _: usize, _: usize) {}

    fn unsent(&self, _: usize, _: usize) {}
}

const SECOND: Duration = Duration::from_secs(1);

static MINUTE: ReadSettings =
    ReadSettings { depth: 4, backpressure: true, buffer_size: 1_024, idle_timeout: Some(Duration::from_secs(60)) };

/// Runs a reader beside a peer; returns how long the peer had been silent when the connection ended.
fn silence_before_the_end<P: Future<Output = DuplexStream>>(
    settings: &'static ReadSettings,
    peer: impl FnOnce(DuplexStream) -> P,
) -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let (near, far) = duplex(64);
        let mut reader = Reader::new(near, BytesCodec::new(), settings, Nobody);
        let peer = async {
            let far = peer(far).await;
            (Instant::now(), far)
        };
        let (end, (last_sign, _far)) = tokio::join!(reader.run(async |_| {}), peer);
        assert!(matches!(end, ReadEnd::Idle), "{end:?}");
        last_sign.elapsed()
    })
}

/// A peer that sends so many messages, each after a pause.
async fn send(mut stream: DuplexStream, messages: u32, pause: Duration) -> DuplexStream {
    for _ in 0..messages {
        sleep(pause).await;
        stream.write_all(b"x").await.expect("the connection lives as long as messages come");
    }
    stream
}

#[track_caller]
fn assert_within(silence: Duration, least: Duration, most: Duration) {
    // The runtime's timers know milliseconds.
    let most = most + Duration::from_millis(2);
    assert!((least..=most).contains(&silence), "{silence:?} is not within {least:?} and {most:?}");
}

#[test]
fn a_peer_that_never_says_anything_has_exactly_the_idle_time() {
    assert_within(silence_before_the_end(&MINUTE, |stream| send(stream, 0, SECOND)), 60 * SECOND, 60 * SECOND);
}

#[test]
fn a_peer_that_was_busy_has_the_idle_time_and_at_most_a_sixteenth_more() {
    for pause in [10, 100, 777, 1_000, 3_000].map(Duration::from_millis) {
        for messages in [1, 2, 3, 10, 100] {
            let silence = silence_before_the_end(&MINUTE, |stream| send(stream, messages, pause));
            assert_within(silence, 60 * SECOND, 60 * SECOND + 60 * SECOND / 16);
        }
    }
}

#[test]
fn a_peer_that_says_little_has_exactly_the_idle_time_after_each_message() {
    for pause in [5, 20, 59] {
        let silence = silence_before_the_end(&MINUTE, |stream| send(stream, 10, pause * SECOND));
        assert_within(silence, 60 * SECOND, 60 * SECOND);
    }
}

#[test]
fn a_short_idle_time_is_kept_exactly_however_busy_the_peer_was() {
    static SHORT: ReadSettings = ReadSettings { idle_timeout: Some(SECOND), ..MINUTE };
    let silence = silence_before_the_end(&SHORT, |stream| send(stream, 1_000, Duration::from_millis(3)));
    assert_within(silence, SECOND, SECOND);
}

#[test]
fn a_peer_that_falls_silent_after_a_pause_longer_than_a_tick_is_not_given_a_second_idle_time() {
    let peer = async |stream| {
        // Busy, so that there are ticks; then a wait whose tick has long passed; then one last message.
        let stream = send(stream, 20, SECOND).await;
        send(stream, 1, 30 * SECOND).await
    };
    assert_within(silence_before_the_end(&MINUTE, peer), 60 * SECOND, 60 * SECOND);
}

/// Once the time is up, has a message when it is asked for the second time, as if the thread had been held up.
struct HeldUp {
    inner: DuplexStream,
    time_is_up: Instant,
    asked_since: u32,
}

impl AsyncRead for HeldUp {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if Instant::now() < self.time_is_up {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        self.asked_since += 1;
        if self.asked_since != 2 {
            return Poll::Pending;
        }
        buf.put_slice(b"x");
        Poll::Ready(Ok(()))
    }
}

#[test]
fn a_tick_that_finds_a_wait_does_not_use_up_the_second_look() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let begun = Instant::now();
        let (near, far) = duplex(64);
        let stream = HeldUp { inner: near, time_is_up: begun + 61 * SECOND, asked_since: 0 };
        let mut reader = Reader::new(stream, BytesCodec::new(), &MINUTE, Nobody);
        // One message: the tick that it begins finds a wait whose time is known.
        let (end, _far) = tokio::join!(reader.run(async |_| {}), send(far, 1, SECOND));
        assert!(matches!(end, ReadEnd::Idle), "{end:?}");
        assert!(begun.elapsed() >= 121 * SECOND, "the message began the time anew: {:?}", begun.elapsed());
    });
}

/// How often a task has to be polled until it is ready, if each time so much later than its timer asks for.
fn polls_when_always_late<T>(task: impl Future<Output = T>, timeout: Duration) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut task = tokio_test::task::spawn(task);
        for polls in 1..=20 {
            if task.poll().is_ready() {
                return polls;
            }
            tokio::time::advance(timeout + 2 * CLOCK_JUMP).await;
        }
        panic!("it is pardoned each time");
    })
}

#[test]
fn a_silent_peer_is_pardoned_once_however_late_the_clock_is_looked_at() {
    let (near, _far) = duplex(64);
    let mut reader = Reader::new(near, BytesCodec::new(), &MINUTE, Nobody);
    // Begins to wait, is pardoned, is looked at again.
    assert_eq!(polls_when_always_late(reader.run(async |_| {}), 60 * SECOND), 4);
}

#[test]
fn a_peer_that_does_not_read_is_pardoned_once_for_each_batch() {
    let (near, _far) = duplex(64);
    let outbox = std::sync::Arc::new(Outbox::new(TestEncoder, &PATIENT));
    assert!(outbox.push(Message::Bytes(vec![1; 100]), None).is_ok());
    let writing = Writer::new(near, outbox, Sent::default()).run();
    assert_eq!(polls_when_always_late(writing, 60 * SECOND), 4);
}
