//! The read loop: one task reads, decodes and processes, so that a message never changes hands.
//!
//! While `process_message` is pending, the same task keeps reading until the queue is full; then the socket is left alone
//! and TCP tells the peer to wait. A buffer is held only while it holds bytes.
//!
//! ```text
//!            bytes                      complete messages             one at a time
//! socket -----------> buffer, decoder -----------------> queue -----------------------> process
//!                                                        `depth` at most
//! ```
//!
//! What it does next, by what it knows: whether the decoder may have another message in the buffer (*decodable*), whether the peer
//! has closed its side (*eof*), and why the connection is to end (*end*).
//!
//! ```text
//! decodable  eof  end    queue      next
//! no         no   none   not full   read: bytes, or eof                                     -> decodable
//! yes        no   none   not full   decode: a message -> queue; none -> not decodable; an error -> end
//! yes        yes  none   not full   decode_eof: a message -> queue; none, or an error       -> end
//! any        any  none   full       process; without backpressure decode first, and drop what there is no room for
//! any        any  some   not empty  process: for DRAIN_TIME (*draining*) if the stream has ended, else as far as nothing waits
//! any        any  some   empty      return the end
//! ```
//!
//! A turn ends after a number of messages and after a time, whether it is decoding or processing that takes it
//! ([`turn`](crate::turn)), and when what the messages send fills queues ([`hold`](super::hold)). The first half is in
//! [`fill`](super::fill).

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::AsyncRead,
    task::coop,
    time::{Instant, Sleep, sleep_until},
};
use tokio_util::codec::Decoder;

use super::{hold::Gate, idle::IdleClock};
use crate::{
    buffers,
    counting::Observer,
    outbound::{AnyOutbox, crowding},
    panics::{Disposed, Panicked, Shield, catch, dispose_all},
    turn::{Pace, Turn},
    waiting::poll_yield,
};

/// How long messages that were decoded before the end of the stream may still be processed.
pub(crate) const DRAIN_TIME: Duration = Duration::from_secs(3);

/// How much is still read after a write has failed.
const MAX_READ_AFTER_FAILURE: u32 = 1024 * 1024;

/// The settings of a read loop.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadSettings {
    /// How many decoded messages may wait while one is being processed.
    pub(crate) depth: usize,
    /// Whether a full queue stops the reading; if not, what does not fit is dropped.
    pub(crate) backpressure: bool,
    /// How many bytes one read may take.
    pub(crate) buffer_size: usize,
    /// How long to wait for the next complete message.
    pub(crate) idle_timeout: Option<Duration>,
}

/// Why a read loop ended.
#[derive(Debug)]
pub(crate) enum ReadEnd {
    /// The peer closed its side, and no message was incomplete.
    Eof,
    /// The peer closed its side within a message.
    Truncated(io::Error),
    /// A read error.
    Io(io::Error),
    /// An error of the decoder.
    Decoding(io::Error),
    /// No complete message arrived in time.
    Idle,
    /// The decoder panicked.
    DecoderPanicked(Panicked),
    /// The processing of a message panicked.
    ProcessPanicked(Panicked),
    /// The connection was ended by somebody else.
    Stopped,
}

impl ReadEnd {
    /// Whether the stream has ended, and not the patience with what it brings: what it has brought before is processed.
    fn is_end_of_stream(&self) -> bool {
        matches!(self, Self::Eof | Self::Truncated(_) | Self::Io(_))
    }
}

/// How far to fill the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// Nothing is being processed: as soon as there is something to process, do that.
    FirstMessages,
    /// A message is being processed: read on.
    Full,
}

/// Everything before the processing: stream, buffer, decoder, queue.
pub(crate) struct Reader<R, D: Decoder, O: Observer> {
    /// Where the bytes come from.
    pub(super) half: R,
    /// Makes messages of them.
    pub(super) decoder: Disposed<D>,
    /// What the user chose.
    pub(super) settings: &'static ReadSettings,
    /// Is told what passes.
    pub(super) observer: O,
    /// Gets what `process` sends to the peer, with Writing.
    outbox: Option<Arc<dyn AnyOutbox>>,
    /// Bytes that no complete message has consumed; none while there are none and none are being read.
    pub(super) buffer: buffers::Lent,
    /// Those of them for which no buffer is kept.
    pub(super) remainder: buffers::Remainder,
    /// Decoded and not being processed yet.
    pub(super) queue: VecDeque<D::Item>,
    /// Whether the decoder has not yet said that it needs more bytes.
    pub(super) decodable: bool,
    /// Whether the peer has closed its side.
    pub(super) eof: bool,
    /// Bytes that the decoder consumed for a message that is not complete yet.
    pub(super) consumed: usize,
    /// Messages in a row that consumed nothing.
    pub(super) stalls: u32,
    /// How long messages take to be decoded and processed. Where it looks at the clock, the task's cooperation budget is
    /// asked too.
    pub(super) pace: Pace,
    /// Whether the next message may be processed.
    gate: Gate,
    /// Whether a message that is still being processed has made a queue crowded.
    is_crowded: bool,
    /// How many bytes are still read after a write has failed.
    pub(super) left_after_failure: u32,
    /// How long the next complete message has been waited for.
    pub(super) idle_clock: IdleClock,
    /// Why the connection is to end once the queue is empty.
    pub(super) end: Option<Box<ReadEnd>>,
    /// Whether the timer is set to the end of the drain.
    draining: bool,
}

impl<R, D, O> Reader<R, D, O>
where
    R: AsyncRead + Unpin,
    D: Decoder<Error = io::Error>,
    O: Observer,
{
    pub(crate) fn new(half: R, decoder: D, settings: &'static ReadSettings, observer: O) -> Self {
        Self {
            half,
            decoder: Disposed::new(decoder),
            settings,
            observer,
            outbox: None,
            buffer: None,
            remainder: buffers::Remainder::default(),
            queue: VecDeque::new(),
            decodable: false,
            eof: false,
            consumed: 0,
            stalls: 0,
            pace: Pace::new(),
            gate: Gate::new(),
            is_crowded: false,
            left_after_failure: MAX_READ_AFTER_FAILURE,
            idle_clock: IdleClock::new(),
            end: None,
            draining: false,
        }
    }

    /// Lets the messages wait for the queue of what `process` sends to the peer.
    pub(crate) fn with_outbox(mut self, outbox: Option<Arc<dyn AnyOutbox>>) -> Self {
        self.outbox = outbox;
        self
    }

    /// Reads, decodes and processes messages, strictly in order and one at a time, until the connection ends.
    ///
    /// What was decoded before the end of the stream is still processed, for at most [`DRAIN_TIME`]; before another end, as
    /// far as `process` does not wait.
    ///
    /// # Cancel safety
    /// Dropping it drops the pending `process`; the messages not processed yet go with the reader.
    #[expect(clippy::manual_async_fn, reason = "an async fn would keep room for its arguments twice")]
    pub(crate) fn run<F: Future<Output = ()>>(
        &mut self,
        mut process: impl FnMut(D::Item) -> F,
    ) -> impl Future<Output = ReadEnd> {
        async move {
            let mut timer = pin!(None::<Sleep>);
            let mut place = pin!(None);
            let mut processing = Shield::new(place.as_mut());
            poll_fn(move |cx| self.poll_run(cx, timer.as_mut(), &mut processing, &mut process)).await
        }
    }

    fn poll_run<F: Future<Output = ()>>(
        &mut self,
        cx: &mut Context<'_>,
        timer: Pin<&mut Option<Sleep>>,
        processing: &mut Shield<'_, F>,
        process: &mut impl FnMut(D::Item) -> F,
    ) -> Poll<ReadEnd> {
        let _ended_after_the_turn = crowding::begin_processing(std::mem::take(&mut self.is_crowded));
        let polled = self.poll_turn(cx, timer, processing, process);
        self.is_crowded = crowding::is_crowded() && !processing.is_clear();
        polled
    }

    fn poll_turn<F: Future<Output = ()>>(
        &mut self,
        cx: &mut Context<'_>,
        mut timer: Pin<&mut Option<Sleep>>,
        processing: &mut Shield<'_, F>,
        process: &mut impl FnMut(D::Item) -> F,
    ) -> Poll<ReadEnd> {
        let mut turn = Turn::default();
        if self.decodable || !self.queue.is_empty() {
            self.pace.begin(&mut turn);
        }
        if !self.gate.is_open() && processing.is_clear() && self.gate.poll(cx, self.outbox.as_deref()).is_pending() {
            return self.poll_wait(cx, timer, &mut turn);
        }
        loop {
            if !self.settings.backpressure && self.decodable && processing.is_clear() {
                // What is complete is decoded, and dropped if there is no room for it, before the next message.
                ready!(self.poll_fill(cx, timer.as_mut(), Until::FirstMessages, &mut turn));
            }
            let Self { queue, observer, pace, .. } = self;
            // A message goes from the queue right into the future that is polled: each copy would cost as much as the rest.
            let run = || {
                loop {
                    if processing.is_clear() {
                        if queue.is_empty() || pace.is_look_due() || observer.has_ended() || crowding::is_crowded() {
                            return Poll::Ready(());
                        }
                        let Some(message) = queue.pop_front() else { return Poll::Ready(()) };
                        processing.set(process(message));
                    }
                    ready!(processing.poll_uncaught(cx));
                    processing.clear_uncaught();
                    pace.count();
                }
            };
            match catch(run) {
                Err(panicked) => return Poll::Ready(ReadEnd::ProcessPanicked(panicked)),
                Ok(Poll::Ready(())) => {}
                Ok(Poll::Pending) => return self.poll_wait(cx, timer, &mut turn),
            }
            if self.observer.has_ended() {
                return Poll::Ready(ReadEnd::Stopped);
            }
            let is_crowded = !self.queue.is_empty() && crowding::take_crowded();
            if is_crowded {
                self.gate.give_way();
            }
            if self.pace.is_look_due() {
                for _ in 0..self.pace.budget_units() {
                    ready!(coop::poll_proceed(cx)).made_progress();
                }
                if self.pace.look(&mut turn) {
                    return poll_yield(cx);
                }
            }
            if is_crowded {
                return poll_yield(cx);
            }
            if self.queue.is_empty() {
                if let Some(end) = self.end.take() {
                    return Poll::Ready(*end);
                }
                ready!(self.poll_fill(cx, timer.as_mut(), Until::FirstMessages, &mut turn));
            }
        }
    }

    /// Reads on while no message can be processed.
    fn poll_wait(
        &mut self,
        cx: &mut Context<'_>,
        mut timer: Pin<&mut Option<Sleep>>,
        turn: &mut Turn,
    ) -> Poll<ReadEnd> {
        let _ready_or_not = self.poll_fill(cx, timer.as_mut(), Until::Full, turn);
        self.poll_end_of_wait(cx, timer).map_or(Poll::Pending, Poll::Ready)
    }

    /// Tells, while no message can be processed, whether the connection ends without waiting any longer.
    fn poll_end_of_wait(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Option<Sleep>>) -> Option<ReadEnd> {
        // A full queue may keep the decoder from saying that the end has come.
        if self.end.as_ref().map_or(self.eof, |end| end.is_end_of_stream()) {
            if !self.draining {
                self.draining = true;
                timer.set(Some(sleep_until(Instant::now() + DRAIN_TIME)));
            }
            if timer.as_pin_mut().is_some_and(|sleep| sleep.poll(cx).is_pending()) {
                return None;
            }
            return Some(self.end.take().map_or(ReadEnd::Eof, |end| *end));
        }
        // Whoever ended the connection may be this very `process`, still inside its call; it is dropped with the task.
        if matches!(self.end.as_deref(), Some(ReadEnd::Stopped)) {
            return None;
        }
        self.end.take().map(|end| *end)
    }
}

impl<R, D: Decoder, O: Observer> Drop for Reader<R, D, O> {
    fn drop(&mut self) {
        if !self.queue.is_empty() {
            self.observer.unprocessed(self.queue.len());
        }
        dispose_all(self.queue.drain(..));
        buffers::give_back(&mut self.buffer);
    }
}
