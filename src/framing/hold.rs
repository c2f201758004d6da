//! What keeps a reader from the next message: the queues of those to whom it sends must not overflow because it is quick.
//!
//! A message that makes a queue half full, or full, is the last one of its turn, so that the writers get theirs. If the
//! queue to the *own* peer is still half full then, the next message waits for it: a peer that sends requests waits for its
//! answers to be taken, instead of losing them. Nobody waits on behalf of another peer.
//!
//! ```text
//!        a queue gets crowded             own queue still half full           nothing taken for HOLD_TIME
//! Open ----------------------> GivingWay ---------------------------> Holding -------------------------> GivenUp
//!  ^                               |                                     |                                  |
//!  +-------------------------------+---------- own queue has room -------+----------------------------------+
//! ```

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

use crate::outbox::AnyOutbox;

/// How long the next message waits for a peer that takes nothing of what was sent to it.
const HOLD_TIME: Duration = Duration::from_secs(1);

/// How often is looked whether the peer has taken something: a hold ends late by so much at most.
const TICK: Duration = Duration::from_millis(125);

/// So many ticks without progress end a hold. The first one may be the rest of a tick with progress.
const QUIET_TICKS: u32 = HOLD_TIME.as_millis().div_ceil(TICK.as_millis()) as u32;

/// Whether the next message may be processed.
#[derive(Debug)]
pub(super) enum Gate {
    /// Yes.
    Open,
    /// After the other tasks have had a turn.
    GivingWay,
    /// When there is room for its replies, or the peer has taken nothing for too long.
    Holding(Hold),
    /// Yes, although there is no room: the peer has had its time. Until there is room it is not waited for again.
    GivenUp,
}

/// A wait for a peer to take what was sent to it.
#[derive(Debug)]
pub(super) struct Hold {
    /// Until the next look whether it has taken something.
    tick: Pin<Box<Sleep>>,
    /// How many ticks in a row it has taken nothing.
    quiet: u32,
}

impl Gate {
    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Open)
    }

    /// A queue is crowded: this turn is to end.
    pub(super) fn give_way(&mut self) {
        // Who was given up on is not waited for, but the others still have writers.
        if self.is_open() {
            *self = Self::GivingWay;
        }
    }

    /// Ready when the next message may be processed; `own` is where its replies go.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, own: Option<&dyn AnyOutbox>) -> Poll<()> {
        let Some(own) = own else {
            *self = Self::Open;
            return Poll::Ready(());
        };
        if own.poll_room(cx).is_ready() {
            *self = Self::Open;
            return Poll::Ready(());
        }
        loop {
            match self {
                Self::Open | Self::GivenUp => return Poll::Ready(()),
                Self::GivingWay => {
                    own.take_progress();
                    *self = Self::Holding(Hold { tick: Box::pin(sleep(TICK)), quiet: 0 });
                }
                Self::Holding(hold) => {
                    if hold.tick.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    hold.quiet = if own.take_progress() { 0 } else { hold.quiet + 1 };
                    if hold.quiet >= QUIET_TICKS {
                        *self = Self::GivenUp;
                    } else {
                        hold.tick.as_mut().reset(Instant::now() + TICK);
                    }
                }
            }
        }
    }
}
