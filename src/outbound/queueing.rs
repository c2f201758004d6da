//! The sender's side of an outbox.

use super::{
    Outbox, Placed, PushError,
    encoder::{Item, ReceiptSender},
};

/// What becomes of a message that was queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Queued {
    /// The writer will come for it.
    Expected,
    /// It is the very first one: its sender has to start the writer.
    First,
}

impl<M: Send + 'static> Outbox<M> {
    /// Queues a message, or, on a streaming connection, encodes what is queued to make room for it.
    pub(crate) fn push(&self, message: M, receipt: Option<ReceiptSender>) -> Result<Queued, PushError> {
        self.follow_up(Placed::NeedsRoom, Some(Item { message, receipt }))
    }

    /// The part of a [`push`](Self::push) that takes a few instructions, runs nothing of a user's and wakes nobody. What is
    /// queued is taken.
    // All of it in one function with the look-up: 5 % of a send.
    #[inline(always)]
    pub(crate) fn place(&self, item: &mut Option<Item<M>>, may_grow: bool) -> Placed<M> {
        self.state.lock().place(item, may_grow, self.settings)
    }

    /// The rest of a [`push`](Self::push), outside of all locks.
    pub(crate) fn follow_up(&self, placed: Placed<M>, mut item: Option<Item<M>>) -> Result<Queued, PushError> {
        match placed {
            Placed::Queued => Ok(Queued::Expected),
            Placed::First => Ok(Queued::First),
            Placed::Awaited => {
                self.wake_writer();
                Ok(Queued::Expected)
            }
            Placed::ToBeEncoded(mut encoder) => {
                encoder.run();
                self.return_encoder(encoder);
                Ok(Queued::Expected)
            }
            Placed::NeedsRoom => {
                let placed = self.place(&mut item, true);
                self.follow_up(placed, item)
            }
            Placed::Refused(error) => Err(error),
        }
    }
}
