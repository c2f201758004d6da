//! When a writer gives way, and what it leaves to grow.

use std::{
    sync::{Arc, Mutex},
    task::Poll,
};

use super::{
    write::{WriteEnd, Writer},
    write_tests::{DEPTH, Message, PATIENT, Sent, Sink, TestEncoder},
};
use crate::outbox::{AnyOutbox, Outbox, PushError, WriteSettings};

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
                    assert!(matches!(written.end, WriteEnd::Finished));
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
    assert!(small.len() == 3 && small[..2].iter().all(|turn| (1_900..2_100).contains(turn)), "{small:?}");
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
