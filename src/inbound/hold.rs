//! What keeps a reader from the next message: the queues of those to whom it sends must not overflow because it is quick.
//!
//! A message that makes a queue half full, or full, is the last one of its turn, so that the writers get theirs. If the
//! queue to the *own* peer is still half full then, the next message waits for it: a peer that sends requests waits for its
//! answers to be taken, instead of losing them. Nobody waits on behalf of another peer.
//!
//! ```text
//!        a queue gets crowded             own queue still half full           nothing taken for HOLD_TIME
//! Open ----------------------> GivingWay ---------------------------> Holding -------------------------> GivenUp
//!  ^                               | own queue has room                  |                                  | the peer
//!  +-------------------------------+-------------------------------------+                                  | takes something
//!                                  ^------------------------------------------------------------------------+
//! ```

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

use crate::outbound::AnyOutbox;

/// How long the next message waits for a peer that takes nothing of what was sent to it.
const HOLD_TIME: Duration = Duration::from_secs(1);

/// How often is looked whether the peer has taken something: a hold ends late by so much at most.
const TICK: Duration = Duration::from_millis(125);

/// So many ticks without progress end a hold. The first one may be the rest of a tick with progress.
const QUIET_TICKS: u8 = HOLD_TIME.as_millis().div_ceil(TICK.as_millis()) as u8;

/// Lets the next message pass, or not.
#[derive(Debug)]
pub(super) struct Gate {
    /// Until the next look whether the peer has taken something, while it is waited for.
    tick: Option<Pin<Box<Sleep>>>,
    /// Whether the next message may be processed.
    state: State,
    /// How many ticks have been waited since the peer last took something. Kept when room appears for another reason, as it
    /// does when a sender encodes ahead: a stall is waited for once.
    quiet: u8,
}

/// Whether the next message may be processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Yes.
    Open,
    /// After the other tasks have had a turn.
    GivingWay,
    /// When there is room for its replies, or the peer has taken nothing for too long.
    Holding,
    /// Yes, although there may be no room: the peer has had its time. Until it takes something it is not waited for again.
    GivenUp,
}

impl Gate {
    pub(super) const fn new() -> Self {
        Self { tick: None, state: State::Open, quiet: 0 }
    }

    pub(super) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// A queue is crowded: this turn is to end.
    pub(super) fn give_way(&mut self) {
        // Who was given up on is not waited for, but the others still have writers.
        if self.is_open() {
            self.state = State::GivingWay;
        }
    }

    /// Ready when the next message may be processed; `own` is where its replies go.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, own: Option<&dyn AnyOutbox>) -> Poll<()> {
        let Some(own) = own else { return self.pass(State::Open) };
        // While it is waited for, that is looked at with the tick.
        if self.state != State::Holding && own.take_progress() {
            self.quiet = 0;
        } else if self.state == State::GivenUp {
            return self.pass(State::GivenUp);
        }
        if own.poll_room(cx).is_ready() {
            return self.pass(State::Open);
        }
        self.state = State::Holding;
        let tick = self.tick.get_or_insert_with(|| Box::pin(sleep(TICK)));
        while tick.as_mut().poll(cx).is_ready() {
            tick.as_mut().reset(Instant::now() + TICK);
            self.quiet = if own.take_progress() { 0 } else { self.quiet + 1 };
            if self.quiet >= QUIET_TICKS {
                return self.pass(State::GivenUp);
            }
        }
        Poll::Pending
    }

    fn pass(&mut self, state: State) -> Poll<()> {
        self.tick = None;
        self.state = state;
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::Arc};

    use tokio::time::advance;

    use super::*;
    use crate::outbound::{
        Outbox, PushError, crowding,
        writer::Writer,
        writer_tests::{DEPTH, Message, PATIENT, Sent, Sink, TestEncoder},
    };

    /// An outbox that is half full, and a gate that finds it so.
    fn crowded() -> (Arc<Outbox<Message>>, Gate) {
        let outbox = Arc::new(Outbox::new(TestEncoder, &PATIENT));
        for _ in 0..DEPTH.div_ceil(2) {
            assert!(outbox.push(Message::Bytes(vec![7]), None).is_ok());
        }
        let mut gate = Gate::new();
        gate.give_way();
        (outbox, gate)
    }

    async fn time_until_ready(gate: &mut Gate, outbox: &Outbox<Message>) -> Duration {
        let began = Instant::now();
        poll_fn(|cx| gate.poll(cx, Some(outbox))).await;
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_waited_for_once_for_a_second() {
        let (outbox, mut gate) = crowded();
        let waited = time_until_ready(&mut gate, &outbox).await;
        assert!((HOLD_TIME..=HOLD_TIME + TICK + Duration::from_millis(10)).contains(&waited), "{waited:?}");
        assert!(matches!(gate.state, State::GivenUp));
        // The queue gets crowded again, and the peer has still taken nothing.
        gate.give_way();
        assert_eq!(time_until_ready(&mut gate, &outbox).await, Duration::ZERO);

        // Once there has been room, it is waited for anew.
        let mut writing = tokio_test::task::spawn(
            Writer::new(Sink::taking_all(&Arc::default()), Arc::clone(&outbox), Sent::default()).run(),
        );
        assert!(writing.poll().is_pending());
        assert_eq!(time_until_ready(&mut gate, &outbox).await, Duration::ZERO);
        assert!(gate.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_a_little_now_and_then_is_waited_for() {
        let (outbox, mut gate) = crowded();
        let slow = Arc::clone(&outbox);
        let taking = tokio::spawn(async move {
            for _ in 0..10 {
                sleep(HOLD_TIME * 9 / 10).await;
                slow.note_progress();
            }
        });
        let waited = time_until_ready(&mut gate, &outbox).await;
        assert!(taking.is_finished() && waited >= HOLD_TIME * 10, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_message_is_let_in_when_there_is_room() {
        let (outbox, mut gate) = crowded();
        let sink = Sink::taking_all(&Arc::default());
        let mut held = tokio_test::task::spawn(poll_fn(|cx| gate.poll(cx, Some(&*outbox))));
        assert!(held.poll().is_pending());
        advance(TICK * 3).await;
        assert!(held.poll().is_pending());
        let mut writing = tokio_test::task::spawn(Writer::new(sink, Arc::clone(&outbox), Sent::default()).run());
        assert!(writing.poll().is_pending());
        assert!(held.is_woken() && held.poll().is_ready());
        drop(held);
        assert!(gate.is_open());
    }

    #[tokio::test]
    async fn nobody_is_waited_for_who_gets_no_replies_or_no_more() {
        let (outbox, mut gate) = crowded();
        assert!(poll_fn(|cx| Poll::Ready(gate.poll(cx, None))).await.is_ready());
        for abandons in [false, true] {
            gate.give_way();
            let mut held = tokio_test::task::spawn(poll_fn(|cx| gate.poll(cx, Some(&*outbox))));
            if abandons {
                outbox.abandon()
            } else {
                outbox.finish()
            };
            assert!(held.poll().is_ready());
        }
    }

    fn push(outbox: &Outbox<Message>) -> Result<(), PushError> {
        outbox.push(Message::Bytes(vec![7]), None).map(|_| ())
    }

    #[test]
    fn what_a_message_sends_beyond_a_full_queue_is_encoded_ahead_and_each_edge_is_signalled() {
        let outbox = Outbox::new(TestEncoder, &PATIENT);
        let sends = crowding::begin_processing(false);
        for sent in 1..=DEPTH {
            assert_eq!(push(&outbox), Ok(()));
            assert_eq!(crowding::take_crowded(), sent == DEPTH.div_ceil(2) || sent == DEPTH, "{sent} are queued");
        }
        assert_eq!(push(&outbox), Ok(()), "encoded ahead");
        assert!(crowding::is_crowded());
        drop(sends);
        for _ in 1..DEPTH {
            assert_eq!(push(&outbox), Ok(()));
        }
        assert_eq!(push(&outbox), Err(PushError::Full), "nobody streams");
    }

    #[test]
    fn a_reader_that_is_polled_within_a_message_of_another_one_is_told_apart() {
        let outbox = Outbox::new(TestEncoder, &PATIENT);
        let _outer = crowding::begin_processing(false);
        let inner = crowding::begin_processing(false);
        for _ in 0..DEPTH {
            assert_eq!(push(&outbox), Ok(()));
        }
        assert!(crowding::is_crowded());
        drop(inner);
        assert!(!crowding::is_crowded());
        assert_eq!(push(&outbox), Ok(()), "encoded ahead");
        assert!(crowding::is_crowded());
    }
}
