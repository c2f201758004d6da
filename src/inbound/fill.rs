//! The first half of the read loop: from the socket into the queue.
//!
//! Reads when the decoder has no complete message left, decodes while the queue has room, and keeps a buffer only while it
//! holds bytes. Processes nothing.

use std::{
    cell::Cell,
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{io::AsyncRead, time::Sleep};
use tokio_util::{codec::Decoder, io::poll_read_buf};

use super::reader::{ReadEnd, Reader, Until};
use crate::{
    buffers,
    counting::Observer,
    error,
    panics::{OnDrop, catch, dispose},
    turn::Turn,
    waiting::poll_yield,
};

/// How many messages in a row a decoder may return without consuming a byte, when no new bytes arrive either.
const MAX_STALLS: u32 = 10_000;

/// How often a full queue without backpressure is read on, dropping what arrives, before other tasks get their turn.
const READS_WHILE_FULL: u32 = 8;

/// How many messages are decoded at most before a look at the clock: the default depth of the queue.
const MAX_SLICE: usize = 64;

impl<R, D, O> Reader<R, D, O>
where
    R: AsyncRead + Unpin,
    D: Decoder<Error = io::Error>,
    O: Observer,
{
    /// Reads and decodes; ready when the queue holds what `until` asks for, or when the end is known.
    pub(super) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        mut timer: Pin<&mut Option<Sleep>>,
        until: Until,
        turn: &mut Turn,
    ) -> Poll<()> {
        let mut reads_while_full = 0;
        // Of the slice before, if the decoder was not asked until it had no more.
        let mut decoded = 0;
        loop {
            if self.end.is_some() {
                buffers::release(&mut self.buffer, &mut self.remainder);
                return Poll::Ready(());
            }
            if self.is_full() && self.settings.backpressure {
                self.idle_clock.stop();
                buffers::release(&mut self.buffer, &mut self.remainder);
                return Poll::Ready(());
            }
            if self.decodable {
                if decoded > 0 {
                    let is_turn_over = self.pace.look_after(decoded, turn);
                    if until == Until::FirstMessages && self.settings.backpressure && self.pace.is_slow() {
                        return Poll::Ready(());
                    }
                    if is_turn_over {
                        return poll_yield(cx);
                    }
                }
                let slice = if self.pace.is_slow() { self.pace.unit() } else { MAX_SLICE };
                match catch(|| self.decode_available(slice)) {
                    Ok(messages) => decoded = messages,
                    Err(panicked) => self.end = Some(Box::new(ReadEnd::DecoderPanicked(panicked))),
                }
                continue;
            }
            decoded = 0;
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
            if self.poll_read(cx).is_ready() {
                self.pace.begin(turn);
            } else {
                buffers::release(&mut self.buffer, &mut self.remainder);
                self.release_ring();
                ready!(self.poll_idle(cx, timer.as_mut()));
            }
        }
    }

    fn is_full(&self) -> bool {
        self.queue.len() >= self.settings.depth
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut room = buffers::make_room(&mut self.buffer, &mut self.remainder, self.settings.buffer_size);
        match ready!(poll_read_buf(Pin::new(&mut self.half), cx, &mut room)) {
            // Asked after the read: the end of a connection discards input only when it has said that it is the end.
            Ok(_) if self.observer.has_ended() => self.end = Some(Box::new(ReadEnd::Stopped)),
            Ok(0) => {
                self.eof = true;
                self.observer.end_of_stream();
            }
            Ok(count) => {
                self.stalls = 0;
                if self.observer.has_write_failed() {
                    self.left_after_failure =
                        self.left_after_failure.saturating_sub(u32::try_from(count).unwrap_or(u32::MAX));
                    if self.left_after_failure == 0 {
                        self.end = Some(Box::new(ReadEnd::Stopped));
                    }
                }
            }
            Err(error) => self.end = Some(Box::new(ReadEnd::Io(error))),
        }
        self.decodable = true;
        Poll::Ready(())
    }

    fn release_ring(&mut self) {
        if buffers::is_surplus(&self.queue) {
            self.queue = VecDeque::new();
        }
    }

    /// Decodes until the decoder needs more bytes, the queue is full, or the stream cannot go on, but so many messages at
    /// most; returns how many.
    fn decode_available(&mut self, slice: usize) -> usize {
        let buffer = buffers::restore(&mut self.buffer, &mut self.remainder, self.settings.buffer_size);
        let (messages, bytes, dropped) = (Cell::new(0), Cell::new(0), Cell::new(0));
        let _reported_also_after_a_panic = OnDrop(|| {
            if messages.get() > 0 {
                self.observer.received(messages.get(), bytes.get());
            }
            if dropped.get() > 0 {
                self.observer.dropped(dropped.get());
            }
        });
        loop {
            let is_full = self.queue.len() >= self.settings.depth;
            if (is_full && self.settings.backpressure) || messages.get() == slice {
                return messages.get();
            }
            let before = buffer.len();
            let decoded = if self.eof { self.decoder.decode_eof(buffer) } else { self.decoder.decode(buffer) };
            // A decoder may replace the buffer by a longer one.
            let consumed = before.saturating_sub(buffer.len());
            self.consumed += consumed;
            match decoded {
                Ok(Some(message)) => {
                    messages.set(messages.get() + 1);
                    bytes.set(bytes.get() + std::mem::take(&mut self.consumed));
                    self.idle_clock.stop();
                    if is_full {
                        dropped.set(dropped.get() + 1);
                        dispose(message);
                    } else {
                        buffers::push_back(&mut self.queue, message);
                    }
                    self.stalls = if consumed == 0 { self.stalls + 1 } else { 0 };
                    if self.stalls > MAX_STALLS {
                        self.end = Some(Box::new(ReadEnd::Decoding(error::no_progress(MAX_STALLS))));
                        return messages.get();
                    }
                }
                Ok(None) => {
                    self.decodable = false;
                    if self.eof {
                        self.end = Some(Box::new(ReadEnd::Eof));
                    }
                    return messages.get();
                }
                Err(error) => {
                    let end = if self.eof { ReadEnd::Truncated } else { ReadEnd::Decoding };
                    self.end = Some(Box::new(end(error)));
                    return messages.get();
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
}
