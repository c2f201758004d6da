//! What `process_message` sends to the peer that it serves, on scripted streams.

use std::{
    future::{Future, pending, poll_fn},
    io,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, Waker},
};

use tokio::sync::oneshot;

use super::{
    read::ReadEnd,
    reply_scene_tests::{ALL, Line, Scene, text},
    write::WriteEnd,
    write_tests::{DEPTH, Message, Sink},
};
use crate::{
    outbox::{AnyOutbox, Outbox, PushError, Queued},
    press::WriteError,
};

#[test]
fn a_lone_reply_is_written_by_the_reader_and_wakes_nobody() {
    let mut scene = Scene::new();
    for round in 1..=3 {
        let outbox = &scene.outbox;
        scene.read(scene.line(1, ALL), async || assert_eq!(outbox.push(text("ab"), None), Ok(Queued::Expected)));
        assert!(!scene.is_writer_woken());
        assert_eq!(scene.writes(), round);
        scene.assert_sent(round, &"ab".repeat(round));
    }
    // The writer is as it was.
    assert_eq!(scene.outbox.push(text("cd"), None), Ok(Queued::Expected));
    assert!(scene.is_writer_woken());
    assert!(scene.poll_writer().is_none());
    scene.assert_sent(4, "abababcd");
    assert!(scene.outbox.finish(), "nothing is left to write");
}

#[test]
fn replies_to_what_was_decoded_together_leave_together() {
    let scene = Scene::new();
    let outbox = &scene.outbox;
    scene.read(scene.line(1, ALL), async || {
        for _ in 0..DEPTH {
            assert_eq!(outbox.push(text("x"), None), Ok(Queued::Expected));
        }
    });
    assert_eq!((scene.writes(), scene.is_writer_woken()), (1, false));
    scene.assert_sent(DEPTH, &"x".repeat(DEPTH));
}

#[test]
fn a_reply_leaves_before_process_message_waits() {
    let scene = Scene::new();
    let outbox = &scene.outbox;
    let end = scene.read(scene.line(2, ALL), || async {
        assert_eq!(outbox.push(text("a"), None), Ok(Queued::Expected));
        pending().await
    });
    assert!(end.is_none());
    assert!(!scene.is_writer_woken());
    scene.assert_sent(1, "a");
}

#[test]
fn a_reply_with_a_receipt_is_the_writers_at_once() {
    let mut scene = Scene::new();
    let (bell, outbox) = (Arc::clone(&scene.bell), Arc::clone(&scene.outbox));
    let (receipt, mut receiver) = oneshot::channel();
    let mut receipt = Some(receipt);
    scene.read(scene.line(1, ALL), || {
        assert_eq!(outbox.push(text("a"), None), Ok(Queued::Expected));
        assert!(!bell.0.load(Ordering::Relaxed));
        assert_eq!(outbox.push(text("b"), receipt.take()), Ok(Queued::Expected));
        assert!(bell.0.load(Ordering::Relaxed), "it may block this thread until the receipt resolves");
        async {}
    });
    assert_eq!(scene.writes(), 0);
    assert!(scene.poll_writer().is_none());
    scene.assert_sent(2, "ab");
    assert!(matches!(receiver.try_recv(), Ok(Ok(()))));
}

#[test]
fn a_message_from_elsewhere_wakes_the_writer_and_comes_behind() {
    let mut scene = Scene::new();
    let (bell, outbox) = (Arc::clone(&scene.bell), Arc::clone(&scene.outbox));
    scene.read(scene.line(1, ALL), || {
        assert_eq!(outbox.push(text("a"), None), Ok(Queued::Expected));
        std::thread::scope(|scope| {
            scope.spawn(|| assert_eq!(outbox.push(text("b"), None), Ok(Queued::Expected)));
        });
        assert!(bell.0.load(Ordering::Relaxed), "who blocks this thread must not keep others waiting");
        assert_eq!(outbox.push(text("c"), None), Ok(Queued::Expected));
        async {}
    });
    assert_eq!(scene.writes(), 0);
    assert!(scene.poll_writer().is_none());
    scene.assert_sent(3, "abc");
}

#[test]
fn what_a_stream_does_not_take_at_once_is_left_to_the_writer() {
    for room in [0, 1, 5] {
        let mut scene = Scene::new();
        let outbox = Arc::clone(&scene.outbox);
        scene.read(scene.line(1, Some(room)), async || {
            assert_eq!(outbox.push(text("abc"), None), Ok(Queued::Expected));
            assert_eq!(outbox.push(text("def"), None), Ok(Queued::Expected));
        });
        assert_eq!(scene.written(), format!("!{}", &"abcdef"[..room]));
        let counted = if room == 0 { (1, 1) } else { (3, 7) };
        assert_eq!(scene.sent.get(), counted, "a batch is counted as a whole, unless nothing of it is taken");
        assert!(!scene.outbox.finish(), "something is left to write");
        assert!(scene.is_writer_woken());
        let written = scene.poll_writer().expect("it was told to finish");
        assert!(matches!(written.end, WriteEnd::Finished));
        scene.assert_sent(2, "abcdef");
    }
}

#[test]
fn a_full_queue_is_encoded_ahead_and_handed_to_the_writer_at_once() {
    let mut scene = Scene::new();
    let (bell, outbox) = (Arc::clone(&scene.bell), Arc::clone(&scene.outbox));
    scene.read(scene.line(1, ALL), || {
        for _ in 0..DEPTH {
            assert_eq!(outbox.push(text("x"), None), Ok(Queued::Expected));
        }
        assert!(!bell.0.load(Ordering::Relaxed));
        assert_eq!(outbox.push(text("y"), None), Ok(Queued::Expected), "encoded ahead, as while streaming");
        assert!(bell.0.load(Ordering::Relaxed), "it may block this thread until there is room");
        async {}
    });
    assert_eq!(scene.writes(), 0);
    assert!(scene.poll_writer().is_none());
    scene.assert_sent(DEPTH + 1, &("x".repeat(DEPTH) + "y"));
}

#[test]
fn an_end_in_the_meantime_is_the_writers() {
    for abandons in [false, true] {
        let mut scene = Scene::new();
        let outbox = Arc::clone(&scene.outbox);
        scene.read(scene.line(1, ALL), async || {
            assert_eq!(outbox.push(text("a"), None), Ok(Queued::Expected));
            let is_flushed = if abandons { outbox.abandon() } else { outbox.finish() };
            assert!(!is_flushed);
            assert_eq!(outbox.push(text("b"), None), Err(PushError::Closed));
        });
        assert_eq!(scene.writes(), 0);
        let written = scene.poll_writer().expect("it was told to finish");
        assert!(matches!(written.end, WriteEnd::Finished));
        if abandons { scene.assert_sent(0, "") } else { scene.assert_sent(1, "a") }
    }
}

#[test]
fn an_encoder_that_fails_ends_the_writer_and_not_the_reader() {
    for bad in [Message::Error, Message::Panic] {
        let mut scene = Scene::new();
        let outbox = Arc::clone(&scene.outbox);
        let end = scene.read(scene.line(1, ALL), async || {
            assert_eq!(outbox.push(text("a"), None), Ok(Queued::Expected));
            assert_eq!(outbox.push(bad.clone(), None), Ok(Queued::Expected));
        });
        assert!(end.is_none(), "{end:?}");
        let written = scene.poll_writer().expect("it has failed");
        let WriteEnd::Failed(failed) = written.end else { panic!("finished") };
        assert_eq!(matches!(failed.cause, WriteError::Panicked(_)), matches!(bad, Message::Panic));
        scene.assert_sent(0, "");
    }
}

#[test]
fn a_reply_of_a_process_message_that_panics_is_not_lost() {
    let mut scene = Scene::new();
    let outbox = Arc::clone(&scene.outbox);
    let end = scene.read(scene.line(1, ALL), async || {
        assert_eq!(outbox.push(text("a"), None), Ok(Queued::Expected));
        panic!("a process_message of a test panics");
    });
    assert!(matches!(end, Some(ReadEnd::ProcessPanicked(_))), "{end:?}");
    assert!(scene.poll_writer().is_none());
    scene.assert_sent(1, "a");
    // What is sent after that, in `on_disconnect` for one, is no reply.
    assert_eq!(scene.outbox.push(text("b"), None), Ok(Queued::Expected));
    assert!(scene.is_writer_woken());
}

#[test]
fn a_reader_polled_within_a_process_message_keeps_its_replies_apart() {
    let (outer, inner) = (Scene::new(), Scene::new());
    let to = |scene: &Scene| assert_eq!(scene.outbox.push(text("a"), None), Ok(Queued::Expected));
    outer.read(outer.line(1, ALL), async || {
        to(&outer);
        inner.read(inner.line(1, ALL), async || {
            to(&inner);
            to(&outer);
        });
        assert!(outer.is_writer_woken(), "for the inner one it is some other peer");
        assert!(!inner.is_writer_woken());
        to(&inner);
        assert!(inner.is_writer_woken(), "for the outer one too");
    });
    inner.assert_sent(1, "a");
    assert_eq!(outer.writes(), 0);
}

#[test]
fn a_reply_does_not_overtake_the_last_batch_while_that_waits_for_the_stream() {
    let mut scene = Scene::with_sink(Sink::hesitating);
    assert_eq!(scene.outbox.push(text("ab"), None), Ok(Queued::Expected));
    assert!(scene.poll_writer().is_none());
    let outbox = Arc::clone(&scene.outbox);
    scene.read(scene.line(1, ALL), async || assert_eq!(outbox.push(text("c"), None), Ok(Queued::Expected)));
    assert_eq!(scene.writes(), 0);
    while scene.is_writer_woken() {
        assert!(scene.poll_writer().is_none());
    }
    scene.assert_sent(2, "abc");
}

#[test]
fn what_happens_while_a_reply_is_written_is_not_missed() {
    let read_with = |meanwhile: fn(&Outbox<Message>)| {
        let mut scene = Scene::new();
        let outbox = Arc::clone(&scene.outbox);
        let line = Line { meanwhile, ..scene.line(1, ALL) };
        scene.read(line, async || assert_eq!(outbox.push(text("a"), None), Ok(Queued::Expected)));
        assert_eq!(scene.writes(), 1);
        assert!(scene.is_writer_woken());
        let end = scene.poll_writer().map(|written| written.end);
        (scene, end)
    };

    let (scene, end) = read_with(|outbox| assert_eq!(outbox.push(text("b"), None), Ok(Queued::Expected)));
    assert!(end.is_none());
    scene.assert_sent(2, "ab");

    let (scene, end) = read_with(|outbox| assert!(!outbox.finish(), "the reply is not counted yet"));
    assert!(matches!(end, Some(WriteEnd::Finished)));
    scene.assert_sent(1, "a");

    let (scene, end) = read_with(|outbox| assert!(!outbox.abandon()));
    assert!(matches!(end, Some(WriteEnd::Finished)));
    assert_eq!(Arc::strong_count(&scene.encoder), 1, "an abandoned outbox keeps no encoder");
}

#[test]
fn replies_beyond_a_batch_are_left_to_the_writer() {
    let mut scene = Scene::new();
    let (outbox, large) = (Arc::clone(&scene.outbox), "x".repeat(10_000));
    scene.read(scene.line(1, ALL), async || {
        for _ in 0..DEPTH {
            assert_eq!(outbox.push(text(&large), None), Ok(Queued::Expected));
        }
    });
    assert_eq!(scene.writes(), 1);
    assert!(scene.written().len() < DEPTH * large.len());
    assert!(scene.poll_writer().is_none());
    scene.assert_sent(DEPTH, &large.repeat(DEPTH));
}

#[test]
fn an_error_of_the_stream_is_told_by_the_writer_as_it_was() {
    let mut scene = Scene::new();
    let outbox = Arc::clone(&scene.outbox);
    let end = scene.read(scene.line(1, None), async || {
        assert_eq!(outbox.push(text("a"), None), Ok(Queued::Expected));
    });
    assert!(end.is_none(), "{end:?}");
    let written = scene.poll_writer().expect("it has failed");
    let WriteEnd::Failed(failed) = written.end else { panic!("finished") };
    assert!(matches!(failed.cause, WriteError::Io(error) if error.kind() == io::ErrorKind::ConnectionReset));
    scene.assert_sent(0, "");
}

#[test]
fn a_reply_is_handed_over_before_the_next_message_is_processed() {
    let scene = Scene::new();
    let (bell, outbox) = (Arc::clone(&scene.bell), Arc::clone(&scene.outbox));
    let mut processed = 0;
    scene.read(scene.line(3, ALL), || {
        processed += 1;
        assert_eq!(bell.0.load(Ordering::Relaxed), processed > 1, "it may block this thread");
        assert_eq!(outbox.push(text("a"), None), Ok(Queued::Expected));
        async {}
    });
    assert_eq!((processed, scene.writes()), (3, 0));
}

#[test]
fn a_burst_takes_exactly_the_depth_after_replies_that_left_others_no_room() {
    let mut scene = Scene::new();
    let outbox = Arc::clone(&scene.outbox);
    let line = Line {
        meanwhile: |outbox| assert_eq!(outbox.push(text("z"), None), Err(PushError::Full)),
        ..scene.line(1, ALL)
    };
    scene.read(line, async || {
        for _ in 0..DEPTH {
            assert_eq!(outbox.push(text("x"), None), Ok(Queued::Expected));
        }
    });
    assert!(!scene.is_writer_woken());
    assert_eq!(scene.outbox.push(text("y"), None), Ok(Queued::Expected));
    assert!(scene.poll_writer().is_none());
    for _ in 0..DEPTH {
        assert_eq!(scene.outbox.push(text("x"), None), Ok(Queued::Expected));
    }
    assert_eq!(scene.outbox.push(text("x"), None), Err(PushError::Full), "nobody streams");
}

#[test]
fn a_message_that_cannot_be_encoded_does_not_tear_a_reply_that_has_been_begun() {
    let mut scene = Scene::new();
    let outbox = Arc::clone(&scene.outbox);
    scene.read(scene.line(1, Some(5)), async || {
        assert_eq!(outbox.push(text("abc"), None), Ok(Queued::Expected));
        assert_eq!(outbox.push(text("def"), None), Ok(Queued::Expected));
    });
    assert_eq!(scene.outbox.push(Message::Error, None), Ok(Queued::Expected));
    let written = scene.poll_writer().expect("it has failed");
    assert!(matches!(written.end, WriteEnd::Failed(_)));
    scene.assert_sent(2, "abcdef");
}

#[test]
fn of_messages_that_were_decoded_together_only_the_last_one_is_answered_by_the_reader() {
    for answered in [1, 2, 3] {
        let scene = Scene::new();
        let (bell, outbox) = (Arc::clone(&scene.bell), Arc::clone(&scene.outbox));
        let mut processed = 0;
        scene.read(Line { at_once: 3, ..scene.line(3, ALL) }, || {
            processed += 1;
            assert_eq!(bell.0.load(Ordering::Relaxed), processed > answered, "the next one may block this thread");
            if processed == answered {
                assert_eq!(outbox.push(text("a"), None), Ok(Queued::Expected));
            }
            async {}
        });
        assert_eq!((processed, scene.writes()), (3, usize::from(answered == 3)));
    }
}

#[test]
fn a_reply_after_an_await_is_written_by_the_reader_too() {
    let scene = Scene::new();
    let outbox = &scene.outbox;
    let mut reader = scene.reader(scene.line(1, ALL));
    let _context = scene.runtime.enter();
    let mut has_waited = false;
    let process = |_| {
        poll_fn(move |_| {
            if std::mem::replace(&mut has_waited, true) {
                assert_eq!(outbox.push(text("a"), None), Ok(Queued::Expected));
                return Poll::Ready(());
            }
            Poll::Pending
        })
    };
    let mut run = pin!(reader.run(process));
    for writes in [0, 1] {
        assert!(run.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert_eq!((scene.writes(), scene.is_writer_woken()), (writes, false));
    }
    scene.assert_sent(1, "a");
}
