//! The write loop under any pattern of partial writes and any encoder, on scripted streams.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{BufMut, BytesMut};
use proptest::prelude::*;
use tokio::{
    io::AsyncWrite,
    sync::oneshot,
    task::{coop, yield_now},
    time::{Instant, advance},
};
use tokio_util::codec::Encoder;

use super::{AnyOutbox, Outbox, PushError, Queued, WriteSettings, WriteStream, encoder::WriteError, writer::Writer};
use crate::counting::Observer;

pub(crate) const DEPTH: usize = 8;

pub(crate) static PATIENT: WriteSettings =
    WriteSettings { depth: DEPTH, flush_at: 8 * 1024, timeout: Some(Duration::from_secs(60)) };

static HASTY: WriteSettings = WriteSettings { depth: DEPTH, flush_at: 8 * 1024, timeout: Some(Duration::ZERO) };

/// What a scripted stream does at one write.
#[derive(Debug, Clone, Copy)]
enum Step {
    Take(usize),
    Pending,
    Reset,
}

/// Repeats its script for ever.
pub(crate) struct Sink {
    script: Vec<Step>,
    next: usize,
    taken: Arc<Mutex<Vec<u8>>>,
}

impl Sink {
    /// Takes all that it is offered, into the vector.
    pub(crate) fn taking_all(taken: &Arc<Mutex<Vec<u8>>>) -> Self {
        Self { script: vec![Step::Take(usize::MAX)], next: 0, taken: Arc::clone(taken) }
    }
}

impl WriteStream for Sink {}

impl WriteStream for tokio::io::DuplexStream {}

impl AsyncWrite for Sink {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let step = self.script[self.next % self.script.len()];
        self.next += 1;
        match step {
            Step::Take(count) => {
                let count = count.min(buf.len());
                self.taken.lock().unwrap().extend_from_slice(&buf[..count]);
                Poll::Ready(Ok(count))
            }
            Step::Pending => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Step::Reset => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A message and what its encoding comes to.
#[derive(Debug, Clone)]
pub(crate) enum Message {
    Bytes(Vec<u8>),
    Error,
    Panic,
}

pub(crate) struct TestEncoder;

impl Encoder<Message> for TestEncoder {
    type Error = io::Error;

    fn encode(&mut self, message: Message, dst: &mut BytesMut) -> io::Result<()> {
        match message {
            Message::Bytes(bytes) => {
                dst.extend_from_slice(&bytes);
                Ok(())
            }
            Message::Error => {
                dst.put_u8(0xEE);
                Err(io::ErrorKind::InvalidInput.into())
            }
            Message::Panic => panic!("the encoder of a test panics"),
        }
    }
}

#[derive(Clone, Default)]
pub(crate) struct Sent(Arc<Mutex<(usize, usize)>>);

impl Observer for Sent {
    fn has_ended(&self) -> bool {
        false
    }

    fn received(&self, _: usize, _: usize) {}

    fn dropped(&self, _: usize) {}

    fn unprocessed(&self, _: usize) {}

    fn sent(&self, messages: usize, bytes: usize) {
        let mut sent = self.0.lock().unwrap();
        sent.0 += messages;
        sent.1 += bytes;
    }

    fn unsent(&self, messages: usize, bytes: usize) {
        let mut sent = self.0.lock().unwrap();
        sent.0 -= messages;
        sent.1 -= bytes;
    }
}

fn message() -> impl Strategy<Value = Message> {
    let bytes = prop_oneof![
        20 => prop::collection::vec(any::<u8>(), 0..60),
        2 => (1_usize..100_000).prop_map(|size| vec![0xAB; size]),
    ];
    prop_oneof![100 => bytes.prop_map(Message::Bytes), 1 => Just(Message::Error), 1 => Just(Message::Panic)]
}

fn script() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1_usize..40).prop_map(Step::Take),
        6 => Just(Step::Take(usize::MAX)),
        3 => Just(Step::Pending),
    ];
    let end = prop_oneof![3 => Just(Step::Take(100_000)), 1 => Just(Step::Reset)];
    (prop::collection::vec(step, 0..20), end).prop_map(|(mut steps, end)| {
        steps.push(end);
        steps
    })
}

proptest! {
    #[test]
    fn messages_leave_in_order_and_receipts_are_honest(
        messages in prop::collection::vec((message(), any::<bool>(), 0_u8..4), 0..120),
        script in script(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let outbox = Arc::new(Outbox::new(TestEncoder, &PATIENT));
            let taken = Arc::new(Mutex::new(Vec::new()));
            let sent = Sent::default();
            let sink = Sink { script, next: 0, taken: Arc::clone(&taken) };
            let (queue, observer) = (Arc::clone(&outbox), sent.clone());
            let writer = tokio::spawn(async move {
                let end = Writer::new(sink, queue, observer).run().await.end;
                if let Err(failed) = end {
                    failed.report();
                    return false;
                }
                true
            });
            let mut accepted: Vec<(Message, Option<oneshot::Receiver<io::Result<()>>>)> = Vec::new();
            'messages: for (message, wants_receipt, yields) in messages {
                for _ in 0..yields {
                    yield_now().await;
                }
                loop {
                    let (tx, rx) = oneshot::channel();
                    match outbox.push(message.clone(), wants_receipt.then_some(tx)) {
                        Ok(_) => break accepted.push((message, wants_receipt.then_some(rx))),
                        Err(PushError::Full) => yield_now().await,
                        // The writer has failed.
                        Err(PushError::Closed) => break 'messages,
                    }
                }
            }
            outbox.finish();
            let is_finished = writer.await.unwrap();
            outbox.abandon();

            // What the stream took is a prefix of what was accepted.
            let expected: Vec<Vec<u8>> = accepted.iter().map(|(message, _)| match message {
                Message::Bytes(bytes) => bytes.clone(),
                Message::Error | Message::Panic => Vec::new(),
            }).collect();
            let taken = taken.lock().unwrap().clone();
            assert!(expected.concat().starts_with(&taken));
            if is_finished {
                assert_eq!(taken, expected.concat());
                assert_eq!(*sent.0.lock().unwrap(), (accepted.len(), taken.len()));
            }

            let mut end_of_message = 0;
            let (mut failed, mut gone) = (false, false);
            for ((message, receipt), bytes) in accepted.into_iter().zip(expected) {
                end_of_message += bytes.len();
                let is_bad = !matches!(message, Message::Bytes(_));
                match receipt.map(|mut receipt| receipt.try_recv()) {
                    None => {}
                    Some(Ok(Ok(()))) => {
                        assert!(end_of_message <= taken.len(), "confirmed, but not taken by the stream");
                        assert!(!is_bad && !failed && !gone);
                    }
                    Some(Ok(Err(_))) => {
                        assert!(!gone, "a batch fails before what is behind it is gone");
                        failed = true;
                    }
                    Some(Err(_)) => gone = true,
                }
                assert!(!is_finished || !(is_bad || failed || gone));
            }
        });
    }
}

#[test]
fn a_writer_that_has_to_wait_fails_after_its_timeout_and_not_for_want_of_budget() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let (near, far) = tokio::io::duplex(64);
        let outbox = Arc::new(Outbox::new(TestEncoder, &HASTY));
        assert_eq!(outbox.push(Message::Bytes(vec![1; 64]), None), Ok(Queued::First));
        assert_eq!(outbox.push(Message::Bytes(vec![1; 64]), None), Ok(Queued::Expected));
        let queue = Arc::clone(&outbox);
        let end = Writer::new(near, queue, Sent::default()).run().await.end;
        assert!(matches!(end, Err(failed) if matches!(failed.cause, WriteError::TimedOut)));
        drop(far);

        // A stream that always takes a byte uses up the budget of a turn, and is no reason for a timeout.
        let taken = Arc::default();
        let sink = Sink { script: vec![Step::Take(1)], next: 0, taken: Arc::clone(&taken) };
        let outbox = Arc::new(Outbox::new(TestEncoder, &HASTY));
        assert_eq!(outbox.push(Message::Bytes(vec![1; 10_000]), None), Ok(Queued::First));
        outbox.finish();
        while coop::has_budget_remaining() {
            coop::consume_budget().await;
        }
        let end = Writer::new(sink, outbox, Sent::default()).run().await.end;
        assert!(matches!(end, Ok(())));
        assert_eq!(taken.lock().unwrap().len(), 10_000);
    });
}

#[test]
fn a_burst_from_idle_takes_exactly_the_depth_and_a_streaming_connection_a_batch_more() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let outbox = Arc::new(Outbox::new(TestEncoder, &PATIENT));
        let (near, _far) = tokio::io::duplex(16);
        let queue = Arc::clone(&outbox);
        let writer = tokio::spawn(Writer::new(near, queue, Sent::default()).run());
        let push = || outbox.push(Message::Bytes(vec![0; 100]), None);
        yield_now().await;
        for _ in 0..DEPTH {
            assert!(push().is_ok());
        }
        assert_eq!(push(), Err(PushError::Full), "idle");
        // The writer swaps the queue out and is stuck in the stream: the connection is streaming now.
        yield_now().await;
        let mut accepted = 0;
        while push().is_ok() {
            accepted += 1;
        }
        let batch = 8 * 1024 / 100 + 1;
        assert!((DEPTH + 1..=2 * DEPTH + batch).contains(&accepted), "{accepted}");
        assert_eq!(push(), Err(PushError::Full), "a stalled peer");
        outbox.abandon();
        assert_eq!(push(), Err(PushError::Closed));
        writer.abort();
    });
}

/// Takes a byte for a unit of the budget until it is shut.
struct Thrifty(Arc<AtomicBool>);

impl WriteStream for Thrifty {}

impl AsyncWrite for Thrifty {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        let coop = ready!(coop::poll_proceed(cx));
        if self.0.load(Ordering::SeqCst) {
            return Poll::Pending;
        }
        coop.made_progress();
        Poll::Ready(Ok(1))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn the_time_of_a_peer_does_not_begin_when_the_budget_ends_within_a_batch() {
    static SECOND: WriteSettings =
        WriteSettings { depth: DEPTH, flush_at: 8 * 1024, timeout: Some(Duration::from_secs(1)) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let is_shut = Arc::<AtomicBool>::default();
        let outbox = Arc::new(Outbox::new(TestEncoder, &SECOND));
        assert_eq!(outbox.push(Message::Bytes(vec![1; 1_000]), None), Ok(Queued::First));
        let writer = tokio::spawn(Writer::new(Thrifty(Arc::clone(&is_shut)), outbox, Sent::default()).run());
        yield_now().await;
        is_shut.store(true, Ordering::SeqCst);
        // Others keep the thread for as long.
        advance(Duration::from_millis(900)).await;
        yield_now().await;
        advance(Duration::from_millis(500)).await;
        yield_now().await;
        assert!(!writer.is_finished(), "the peer has had half of its second");
    });
}

/// Has room when the runtime has looked once more after a second.
struct Unseen {
    deadline: Instant,
    asked_after: u32,
}

impl WriteStream for Unseen {}

impl AsyncWrite for Unseen {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if Instant::now() < self.deadline {
            return Poll::Pending;
        }
        self.asked_after += 1;
        if self.asked_after < 2 { Poll::Pending } else { Poll::Ready(Ok(buf.len())) }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn room_that_a_held_up_thread_has_not_seen_yet_is_used_before_the_timeout_fails_the_flush() {
    static SECOND: WriteSettings =
        WriteSettings { depth: DEPTH, flush_at: 8 * 1024, timeout: Some(Duration::from_secs(1)) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let stream = Unseen { deadline: Instant::now() + Duration::from_secs(1), asked_after: 0 };
        let outbox = Arc::new(Outbox::new(TestEncoder, &SECOND));
        assert_eq!(outbox.push(Message::Bytes(vec![1; 1_000]), None), Ok(Queued::First));
        outbox.finish();
        let end =
            tokio::time::timeout(Duration::from_secs(60), Writer::new(stream, outbox, Sent::default()).run()).await;
        assert!(matches!(end.expect("the flush has a timeout").end, Ok(())));
    });
}

proptest! {
    #[test]
    fn whatever_sender_encoder_and_stream_do_each_message_has_its_bytes_its_place_and_its_receipt(
        decisions in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(crate::fuzzing::check_write_loop(&decisions));
    }
}
