//! When a writer gives way, and what it leaves to grow.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use tokio::io::AsyncWrite;

use super::{
    AnyOutbox, Outbox, PushError, WriteSettings, WriteStream,
    writer::Writer,
    writer_tests::{DEPTH, Message, PATIENT, Sent, Sink, TestEncoder},
};

#[test]
fn a_writer_gives_way_after_256_kib_or_2048_small_messages_even_if_the_stream_takes_all() {
    static SMALL_BATCHES: WriteSettings = WriteSettings { depth: 5_000, flush_at: 64, timeout: None };
    // Polled by hand: each poll is a turn.
    let turns_of = |messages: Vec<Message>| {
        let taken = Arc::<Mutex<Vec<u8>>>::default();
        let sink = Sink::taking_all(&taken);
        let outbox = Arc::new(Outbox::new(TestEncoder, &SMALL_BATCHES));
        messages.into_iter().for_each(|message| assert!(outbox.push(message, None).is_ok()));
        outbox.finish();
        let mut writing = tokio_test::task::spawn(Writer::new(sink, outbox, Sent::default()).run());
        let (mut turns, mut before) = (Vec::new(), 0);
        loop {
            let poll = writing.poll();
            let after = taken.lock().unwrap().len();
            turns.push(after - std::mem::replace(&mut before, after));
            match poll {
                Poll::Ready(written) => {
                    assert!(matches!(written.end, Ok(())));
                    return turns;
                }
                Poll::Pending => assert!(writing.is_woken(), "it only gave way"),
            }
        }
    };
    let (turn, large) = (256 * 1024, 1_000_000);
    assert_eq!(turns_of(vec![Message::Bytes(vec![1; large])]), [turn, turn, turn, large - 3 * turn]);
    let small = turns_of(vec![Message::Bytes(vec![1]); 5_000]);
    assert_eq!(small.iter().sum::<usize>(), 5_000);
    // A thread that is held up ends a turn earlier.
    assert!(small.len() >= 3 && small.iter().all(|turn| (1..2_100).contains(turn)), "{small:?}");
}

#[test]
fn a_writer_that_streams_leaves_a_small_batch_to_grow_until_the_next_message_or_for_a_turn() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    // Within a runtime, whoever gives way is not woken before the runtime has its turn.
    runtime.block_on(async {
        let taken = Arc::default();
        let outbox = Arc::new(Outbox::new(TestEncoder, &PATIENT));
        let push = |size| outbox.push(Message::Bytes(vec![0; size]), None);
        let mut writing =
            tokio_test::task::spawn(Writer::new(Sink::taking_all(&taken), Arc::clone(&outbox), Sent::default()).run());
        macro_rules! written_in_a_turn {
            () => {{
                assert!(writing.poll().is_pending());
                std::mem::take(&mut *taken.lock().unwrap()).len()
            }};
        }

        assert!(push(1).is_ok());
        assert_eq!(written_in_a_turn!(), 1, "not streaming: however small");
        for _ in 0..DEPTH {
            assert!(push(100).is_ok());
        }
        assert_eq!(push(100), Err(PushError::Full));
        assert_eq!(written_in_a_turn!(), DEPTH * 100);

        assert!(push(100).is_ok());
        assert_eq!(written_in_a_turn!(), 0, "a small batch is held back");
        assert_eq!(written_in_a_turn!(), 100, "but for one turn only");

        assert!(push(100).is_ok());
        assert_eq!(written_in_a_turn!(), 0);
        assert!(!writing.is_woken());
        assert!(push(2 * 1024).is_ok());
        assert!(writing.is_woken(), "by the next message");
        assert_eq!(written_in_a_turn!(), 100 + 2 * 1024);

        assert!(push(2 * 1024).is_ok());
        assert_eq!(written_in_a_turn!(), 2 * 1024, "a quarter of a batch is not small");

        assert!(push(1).is_ok());
        assert_eq!(written_in_a_turn!(), 1, "what it weighs is not known before");
        assert!(push(1).is_ok());
        outbox.finish();
        assert!(writing.poll().is_ready(), "nothing is held back at the end");
    });
}

static UNHURRIED: WriteSettings = WriteSettings { depth: DEPTH, flush_at: 8 * 1024, timeout: None };

#[test]
fn what_comes_while_the_last_batch_waits_for_the_stream_is_found_behind_it() {
    type Came = fn(&Outbox<Message>);
    let message: Came = |outbox| assert!(outbox.push(Message::Bytes(vec![2]), None).is_ok());
    let finish: Came = |outbox| assert!(!outbox.finish(), "the batch is not written");
    let abandon: Came = |outbox| assert!(!outbox.abandon(), "the batch is not written");
    for (came, is_end) in [(message, false), (finish, true), (abandon, true)] {
        let taken = Arc::<Mutex<Vec<u8>>>::default();
        let is_open = Arc::<AtomicBool>::default();
        let gate = Gate { is_open: Arc::clone(&is_open), sink: Sink::taking_all(&taken) };
        let outbox = Arc::new(Outbox::new(TestEncoder, &UNHURRIED));
        let mut writing = tokio_test::task::spawn(Writer::new(gate, Arc::clone(&outbox), Sent::default()).run());
        assert!(outbox.push(Message::Bytes(vec![1]), None).is_ok());
        assert!(writing.poll().is_pending());
        came(&outbox);
        assert_eq!(writing.is_woken(), is_end, "a message is found behind the batch");
        // This poll uses up the wake-up, and the stream has no room yet.
        assert!(writing.poll().is_pending());
        is_open.store(true, Ordering::SeqCst);
        assert_eq!(writing.poll().is_ready(), is_end);
        assert_eq!(*taken.lock().unwrap(), if is_end { vec![1] } else { vec![1, 2] });
    }
}

#[test]
fn a_writer_that_has_written_all_is_flushed_without_being_asked() {
    let taken = Arc::default();
    let outbox = Arc::new(Outbox::new(TestEncoder, &PATIENT));
    let mut writing =
        tokio_test::task::spawn(Writer::new(Sink::taking_all(&taken), Arc::clone(&outbox), Sent::default()).run());
    assert!(outbox.push(Message::Bytes(vec![1]), None).is_ok());
    assert!(writing.poll().is_pending());
    assert!(outbox.finish(), "there is nothing to wait for");
    assert!(writing.is_woken() && writing.poll().is_ready());
}

/// Takes nothing before it is open.
struct Gate {
    is_open: Arc<AtomicBool>,
    sink: Sink,
}

impl WriteStream for Gate {}

impl AsyncWrite for Gate {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if !self.is_open.load(Ordering::SeqCst) {
            return Poll::Pending;
        }
        Pin::new(&mut self.sink).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
