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
    task::coop,
    time::{Instant, Sleep, sleep_until},
};
use tokio_util::{codec::Decoder, io::poll_read_buf};

use super::{Observer, ReadStream, Replies, Tally, idle::IdleClock};
use crate::{
    error,
    outbox::{Answering, AnyOutbox},
    scratch,
    task::{Disposed, Panicked, Shield, catch, dispose, dispose_all},
};

/// How many messages in a row a decoder may return without consuming a byte, when no new bytes arrive either.
const MAX_STALLS: u32 = 10_000;

/// How long messages that were decoded before a clean end of the stream may still be processed.
pub(crate) const DRAIN_TIME: Duration = Duration::from_secs(3);

/// How many messages are processed between two looks at the task's cooperation budget, of which one turn has 128: a peer
/// that floods us gives way to the others at least every 2,048 messages.
const MESSAGES_PER_BUDGET_UNIT: u32 = 16;

/// How often a full queue without backpressure is read on, dropping what arrives, before other tasks get their turn.
const READS_WHILE_FULL: u32 = 8;

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
    /// A read error, or an error of the decoder.
    Failed(io::Error),
    /// No complete message arrived in time.
    Idle,
    /// The decoder panicked.
    DecoderPanicked(Panicked),
    /// The processing of a message panicked.
    ProcessPanicked(Panicked),
    /// The connection was ended by somebody else.
    Stopped,
}

/// How far to fill the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// Nothing is being processed: as soon as there is something to process, do that.
    FirstMessages,
    /// A message is being processed: read on.
    Full,
}

/// Everything before the processing: stream, buffer, decoder, queue.
pub(crate) struct Reader<R, D: Decoder, O> {
    /// Where the bytes come from.
    half: R,
    /// Makes messages of them.
    decoder: Disposed<D>,
    /// What the user chose.
    settings: &'static ReadSettings,
    /// Is told what passes.
    observer: O,
    /// Gets what `process` sends, if replies may be written to the stream from here.
    outbox: Option<Arc<dyn AnyOutbox>>,
    /// Bytes that no complete message has consumed; none while there are none and none are being read.
    buffer: scratch::Lent,
    /// Those of them for which no buffer is kept.
    remainder: scratch::Remainder,
    /// Decoded and not being processed yet.
    queue: VecDeque<D::Item>,
    /// Whether the decoder has not yet said that it needs more bytes.
    decodable: bool,
    /// Whether the peer has closed its side.
    eof: bool,
    /// Bytes that the decoder consumed for a message that is not complete yet.
    consumed: usize,
    /// Messages in a row that consumed nothing.
    stalls: u32,
    /// Messages until the next look at the task's budget.
    left_of_unit: u32,
    /// How long the next complete message has been waited for.
    idle_clock: IdleClock,
    /// Why the connection is to end once the queue is empty.
    end: Option<Box<ReadEnd>>,
    /// Whether the timer is set to the end of the drain.
    draining: bool,
}

impl<R, D, O> Reader<R, D, O>
where
    R: ReadStream,
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
            remainder: scratch::Remainder::default(),
            queue: VecDeque::new(),
            decodable: false,
            eof: false,
            consumed: 0,
            stalls: 0,
            left_of_unit: MESSAGES_PER_BUDGET_UNIT,
            idle_clock: IdleClock::new(),
            end: None,
            draining: false,
        }
    }

    /// Lets the reader write what `process` sends to the peer.
    pub(crate) fn with_replies(mut self, outbox: Option<Arc<dyn AnyOutbox>>) -> Self {
        self.outbox = outbox;
        self
    }

    /// Reads, decodes and processes messages, strictly in order and one at a time, until the connection ends.
    ///
    /// What was decoded before an end of the stream is still processed: after a clean end for at most [`DRAIN_TIME`],
    /// after an error as far as `process` does not wait.
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
        let answering = Answering::begin(self.outbox.as_deref());
        let polled = self.poll_turn(cx, timer, &answering, processing, process);
        // Whatever ended the turn: there may be no other one.
        let has_replies = answering.take_replies();
        drop(answering);
        if let Some(outbox) = self.outbox.as_ref().filter(|_| has_replies) {
            outbox.write_replies(&Replies { half: &self.half, observer: &self.observer });
        }
        polled
    }

    fn poll_turn<F: Future<Output = ()>>(
        &mut self,
        cx: &mut Context<'_>,
        mut timer: Pin<&mut Option<Sleep>>,
        answering: &Answering,
        processing: &mut Shield<'_, F>,
        process: &mut impl FnMut(D::Item) -> F,
    ) -> Poll<ReadEnd> {
        loop {
            let Self { queue, observer, outbox, left_of_unit, .. } = self;
            // A message goes from the queue right into the future that is polled: each copy would cost as much as the rest.
            let run = || {
                loop {
                    if processing.is_clear() {
                        if *left_of_unit == 0 || observer.has_ended() {
                            return Poll::Ready(());
                        }
                        let Some(message) = queue.pop_front() else { return Poll::Ready(()) };
                        // What the one before has sent does not wait for this one, which may block the thread.
                        if let Some(outbox) = outbox.as_ref().filter(|_| answering.take_replies()) {
                            outbox.hand_over_replies();
                        }
                        processing.set(process(message));
                    }
                    ready!(processing.poll_uncaught(cx));
                    processing.clear_uncaught();
                    *left_of_unit -= 1;
                }
            };
            match catch(run) {
                Err(panicked) => return Poll::Ready(ReadEnd::ProcessPanicked(panicked)),
                Ok(Poll::Ready(())) => {}
                Ok(Poll::Pending) => {
                    let _ready_or_not = self.poll_fill(cx, timer.as_mut(), Until::Full);
                    return self.poll_end_of_wait(cx, timer).map_or(Poll::Pending, Poll::Ready);
                }
            }
            if self.observer.has_ended() {
                return Poll::Ready(ReadEnd::Stopped);
            }
            if self.left_of_unit == 0 {
                ready!(coop::poll_proceed(cx)).made_progress();
                self.left_of_unit = MESSAGES_PER_BUDGET_UNIT;
            }
            if self.queue.is_empty() {
                if let Some(end) = self.end.take() {
                    return Poll::Ready(*end);
                }
                ready!(self.poll_fill(cx, timer.as_mut(), Until::FirstMessages));
            }
        }
    }

    /// Reads and decodes; ready when the queue holds what `until` asks for, or when the end is known.
    fn poll_fill(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Option<Sleep>>, until: Until) -> Poll<()> {
        let mut reads_while_full = 0;
        loop {
            if self.end.is_some() {
                scratch::release(&mut self.buffer, &mut self.remainder);
                return Poll::Ready(());
            }
            if self.is_full() && self.settings.backpressure {
                self.idle_clock.stop();
                scratch::release(&mut self.buffer, &mut self.remainder);
                return Poll::Ready(());
            }
            if self.decodable {
                if let Err(panicked) = catch(|| self.decode_available()) {
                    self.end = Some(Box::new(ReadEnd::DecoderPanicked(panicked)));
                }
                continue;
            }
            if until == Until::FirstMessages && !self.queue.is_empty() {
                return Poll::Ready(());
            }
            if self.is_full() {
                reads_while_full += 1;
                if reads_while_full > READS_WHILE_FULL {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
            if self.poll_read(cx).is_pending() {
                scratch::release(&mut self.buffer, &mut self.remainder);
                self.release_ring();
                ready!(self.poll_idle(cx, timer.as_mut()));
            }
        }
    }

    fn is_full(&self) -> bool {
        self.queue.len() >= self.settings.depth
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut room = scratch::make_room(&mut self.buffer, &mut self.remainder, self.settings.buffer_size);
        match ready!(poll_read_buf(Pin::new(&mut self.half), cx, &mut room)) {
            // Asked after the read: the end of a connection discards input only when it has said that it is the end.
            Ok(_) if self.observer.has_ended() => self.end = Some(Box::new(ReadEnd::Stopped)),
            Ok(0) => self.eof = true,
            Ok(_) => self.stalls = 0,
            Err(error) => self.end = Some(Box::new(ReadEnd::Failed(error))),
        }
        self.decodable = true;
        Poll::Ready(())
    }

    fn release_ring(&mut self) {
        if scratch::is_surplus(&self.queue) {
            self.queue = VecDeque::new();
        }
    }

    /// Decodes until the decoder needs more bytes, the queue is full, or the stream cannot go on.
    fn decode_available(&mut self) {
        let buffer = scratch::restore(&mut self.buffer, &mut self.remainder, self.settings.buffer_size);
        let mut tally = Tally { observer: &self.observer, messages: 0, bytes: 0, dropped: 0 };
        loop {
            let is_full = self.queue.len() >= self.settings.depth;
            if is_full && self.settings.backpressure {
                return;
            }
            let before = buffer.len();
            let decoded = if self.eof { self.decoder.decode_eof(buffer) } else { self.decoder.decode(buffer) };
            // A decoder may replace the buffer by a longer one.
            let consumed = before.saturating_sub(buffer.len());
            self.consumed += consumed;
            match decoded {
                Ok(Some(message)) => {
                    tally.messages += 1;
                    tally.bytes += std::mem::take(&mut self.consumed);
                    self.idle_clock.stop();
                    if is_full {
                        tally.dropped += 1;
                        dispose(message);
                    } else {
                        scratch::push_back(&mut self.queue, message);
                    }
                    self.stalls = if consumed == 0 { self.stalls + 1 } else { 0 };
                    if self.stalls > MAX_STALLS {
                        self.end = Some(Box::new(ReadEnd::Failed(error::no_progress(MAX_STALLS))));
                        return;
                    }
                }
                Ok(None) => {
                    self.decodable = false;
                    if self.eof {
                        self.end = Some(Box::new(ReadEnd::Eof));
                    }
                    return;
                }
                Err(error) => {
                    self.end = Some(Box::new(ReadEnd::Failed(error)));
                    return;
                }
            }
        }
    }

    /// Ready when the next complete message took too long, the end being set then.
    fn poll_idle(&mut self, cx: &mut Context<'_>, timer: Pin<&mut Option<Sleep>>) -> Poll<()> {
        let Some(timeout) = self.settings.idle_timeout else { return Poll::Pending };
        ready!(self.idle_clock.poll(cx, timer, timeout));
        self.end = Some(Box::new(ReadEnd::Idle));
        Poll::Ready(())
    }

    /// Tells, while `process` is pending, whether the connection ends without waiting for it any longer.
    fn poll_end_of_wait(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Option<Sleep>>) -> Option<ReadEnd> {
        // A full queue may keep the decoder from saying that the end has come.
        if self.eof && matches!(self.end.as_deref(), None | Some(ReadEnd::Eof)) {
            if !self.draining {
                self.draining = true;
                timer.set(Some(sleep_until(Instant::now() + DRAIN_TIME)));
            }
            if timer.as_pin_mut().is_some_and(|sleep| sleep.poll(cx).is_pending()) {
                return None;
            }
            return Some(ReadEnd::Eof);
        }
        // Whoever ended the connection may be this very `process`, still inside its call; it is dropped with the task.
        if matches!(self.end.as_deref(), Some(ReadEnd::Stopped)) {
            return None;
        }
        self.end.take().map(|end| *end)
    }
}

impl<R, D: Decoder, O> Drop for Reader<R, D, O> {
    fn drop(&mut self) {
        dispose_all(self.queue.drain(..));
        scratch::give_back(&mut self.buffer);
    }
}
