//! One spare buffer per thread, so that a connection needs none while it holds no bytes.
//!
//! A message may keep a part of the buffer that it was decoded from. The rest stays the spare one, so that small messages
//! that arrive one by one, on whatever connections, share a buffer with the batches of their replies instead of keeping one
//! each. That is so whatever size of a read the user has chosen: a smaller one limits how much a read into the spare buffer
//! takes, and what a larger read leaves mostly empty is moved out of its buffer before it is decoded.

use std::{
    cell::Cell,
    collections::VecDeque,
    mem,
    ops::{Deref, DerefMut},
};

use bytes::{BufMut, BytesMut, buf::Limit};

/// The capacity of a spare buffer: the default `INITIAL_BUFFER_SIZE` of both directions.
pub(crate) const CAPACITY: usize = 64 * 1024;

/// The least room for which the rest of a buffer is worth keeping.
pub(crate) const MIN_ROOM: usize = 4 * 1024;

/// The largest piece of an incomplete message for which the buffer is given back and the piece copied. A peer that sends a
/// byte at a time makes us copy that much each time, which is still less than its read costs; without that, the message
/// could keep a whole buffer.
const SMALL_REMAINDER: usize = 8 * 1024;

/// The same of a buffer that is larger than the usual one.
const TINY_REMAINDER: usize = 1024;

/// A queue with one place that takes at most this much memory is kept while a connection is idle.
const SMALL_RING: usize = 256;

/// A buffer that moves as a pointer: a connection at rest keeps no room for it, and a copy of what has just been written to
/// would wait for the write. It shares no cache line with the buffer of another thread.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Buffer {
    bytes: BytesMut,
    /// Whether no batch gets it while messages have a part of it.
    is_for_reads: bool,
    /// Whether it was made for a large read that has not been looked at yet.
    is_for_large_read: bool,
}

impl Buffer {
    pub(crate) fn with_capacity(capacity: usize) -> Box<Self> {
        Box::new(Self { bytes: BytesMut::with_capacity(capacity), ..Self::default() })
    }
}

impl Deref for Buffer {
    type Target = BytesMut;

    fn deref(&self) -> &BytesMut {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }
}

/// A buffer while there is one.
pub(crate) type Lent = Option<Box<Buffer>>;

/// The beginning of a message, for which no buffer is kept.
pub(crate) type Remainder = Box<[u8]>;

thread_local! {
    /// Empty, with at least [`MIN_ROOM`]; messages may have what lies before.
    static SPARE: Cell<Lent> = const { Cell::new(None) };
    /// Where the memory of the buffer begins that was last lent whole.
    static LENT: Cell<usize> = const { Cell::new(0) };
}

/// Returns an empty buffer with room for at least `least` bytes: of the given size, or, if that is the usual one, what is
/// left of the spare buffer.
#[inline]
pub(crate) fn take(size: usize, least: usize) -> Box<Buffer> {
    if size == CAPACITY { take_spare(least, true) } else { Buffer::with_capacity(size) }
}

/// Returns what is left of the spare buffer, or a new one, with room for at least `least` bytes.
#[inline]
fn take_spare(least: usize, is_batch: bool) -> Box<Buffer> {
    let mut buffer = SPARE.try_with(Cell::take).ok().flatten().unwrap_or_default();
    let is_kept_back = is_batch && buffer.is_for_reads;
    // All of it, if the messages that had parts of it are gone; asked only now and then.
    if (buffer.capacity() < CAPACITY / 2 || is_kept_back)
        && !buffer.try_reclaim(CAPACITY)
        && (buffer.capacity() < least || is_kept_back)
    {
        if buffer.capacity() >= MIN_ROOM {
            // It still does for a read, and is known by where it lies.
            give(buffer);
            return Buffer::with_capacity(CAPACITY);
        }
        **buffer = BytesMut::with_capacity(CAPACITY);
    }
    if buffer.capacity() == CAPACITY {
        buffer.is_for_reads = false;
        LENT.set(buffer.as_ptr().addr());
    }
    buffer
}

/// Takes back a buffer, or what is left of it: keeps it as the thread's spare one if it is of the usual size.
#[inline]
pub(crate) fn give(mut buffer: Box<Buffer>) {
    buffer.clear();
    let before = buffer.as_ptr().addr().wrapping_sub(LENT.get());
    let is_lent = before < CAPACITY && before + buffer.capacity() <= CAPACITY && buffer.capacity() >= MIN_ROOM;
    // Finds buffers that grew, even where a consumed front hides it.
    if !is_lent && buffer.try_reclaim(CAPACITY + 1) {
        return;
    }
    if is_lent || buffer.try_reclaim(CAPACITY) {
        // The thread-local is out of reach only while the thread itself ends.
        let _gone_with_the_thread = SPARE.try_with(|spare| {
            // What is left of another one is used up first: a whole one is cheap to make, and kept messages share the rest.
            let rest = spare.take().filter(|rest| rest.capacity() < buffer.capacity());
            spare.set(Some(rest.unwrap_or(buffer)));
        });
    } else if buffer.capacity() >= MIN_ROOM {
        keep_spare_for_reads();
    }
}

/// Sees to it that the rest of the spare buffer is there for the next read.
///
/// A batch that waits for its peer keeps the rest of a buffer that long; whoever reads meanwhile takes a new one, and of the
/// two rests one is lost. That may happen once per buffer, but not once per batch.
#[cold]
fn keep_spare_for_reads() {
    let _gone_with_the_thread = SPARE.try_with(|spare| {
        let mut rest = spare.take();
        if let Some(rest) = &mut rest {
            rest.is_for_reads = true;
        }
        spare.set(rest);
    });
}

/// Makes room in a read buffer for one sensible read of `size` bytes at most, or of what the decoder has reserved.
#[inline]
pub(crate) fn make_room<'a>(lent: &'a mut Lent, remainder: &mut Remainder, size: usize) -> Limit<&'a mut BytesMut> {
    let buffer = hold(lent, remainder, size);
    let held = buffer.len();
    let room = buffer.capacity() - held;
    // A large message is left the room that its decoder reserved; only a small remainder is worth moving.
    if room == 0 || (room < CAPACITY / 2 && held < CAPACITY / 2) {
        renew(buffer, room, size);
    }
    // A message that is larger than such a read is not read in small pieces, though.
    let is_limited = size < CAPACITY && buffer.capacity() <= CAPACITY;
    let limit = if is_limited { size.max(held) } else { usize::MAX };
    (&mut ***buffer).limit(limit)
}

/// Gets more room for a buffer that has little left.
#[inline]
fn renew(buffer: &mut Box<Buffer>, room: usize, size: usize) {
    let held = buffer.len();
    let wanted = if held < CAPACITY / 2 { CAPACITY - held } else { CAPACITY };
    // Where others have a part of the buffer, it is used up to its end.
    if buffer.try_reclaim(wanted) || room >= MIN_ROOM {
        return;
    }
    if held <= SMALL_REMAINDER {
        let used_up = mem::replace(buffer, take_for_read(size));
        buffer.extend_from_slice(&used_up);
    } else {
        // What is kept of it will be this message, a quarter of it at least.
        buffer.reserve(wanted.max(size.min(held * 3)));
    }
}

/// Returns the buffer whose bytes are to be decoded; takes one, unless there is one, and puts the remainder into it.
#[inline]
pub(crate) fn restore<'a>(lent: &'a mut Lent, remainder: &mut Remainder, size: usize) -> &'a mut Box<Buffer> {
    let buffer = hold(lent, remainder, size);
    if size > CAPACITY {
        settle(buffer);
    }
    buffer
}

/// Takes a buffer for a read, unless there is one, and puts the remainder into it.
#[inline]
fn hold<'a>(lent: &'a mut Lent, remainder: &mut Remainder, size: usize) -> &'a mut Box<Buffer> {
    lent.get_or_insert_with(|| {
        let mut buffer = take_for_read(size);
        if !remainder.is_empty() {
            buffer.extend_from_slice(&mem::take(remainder));
        }
        buffer
    })
}

#[inline]
fn take_for_read(size: usize) -> Box<Buffer> {
    if size > CAPACITY {
        let mut buffer = Buffer::with_capacity(size);
        buffer.is_for_large_read = true;
        return buffer;
    }
    take_spare(MIN_ROOM, false)
}

/// Moves what a large read has brought, if that is little, to where messages do not keep much more than themselves.
fn settle(buffer: &mut Box<Buffer>) {
    let held = buffer.len();
    // A buffer that a decoder has made larger is to be filled.
    if !mem::take(&mut buffer.is_for_large_read) || held >= buffer.capacity() / 4 {
        return;
    }
    let mut place = take_spare(MIN_ROOM, false);
    if place.capacity() < held || held > CAPACITY / 2 {
        give(place);
        // With room for the rest of the last message.
        place = Buffer::with_capacity(held * 2);
    }
    place.extend_from_slice(buffer);
    *buffer = place;
}

/// Gives a read buffer back if it holds nothing, or so little that copying it costs less than keeping the buffer.
#[inline]
pub(crate) fn release(lent: &mut Lent, remainder: &mut Remainder) {
    let Some(buffer) = lent else { return };
    // What a decoder has made larger was so for what is to come.
    let limit =
        if buffer.capacity() <= CAPACITY || buffer.is_for_large_read { SMALL_REMAINDER } else { TINY_REMAINDER };
    if buffer.len() <= limit {
        if !buffer.is_empty() {
            *remainder = Remainder::from(&buffer[..]);
        }
        give_back(lent);
    }
}

/// Gives a buffer back whatever it holds.
#[inline]
pub(crate) fn give_back(lent: &mut Lent) {
    if let Some(buffer) = lent.take() {
        give(buffer);
    }
}

/// Whether a queue is too large to be kept while it is empty.
pub(crate) fn is_surplus<T>(ring: &VecDeque<T>) -> bool {
    ring.is_empty() && (ring.capacity() > 1 || size_of::<T>() > SMALL_RING) && ring.capacity() > 0
}

/// Appends to a queue, whose first place is made alone: many connections never have two messages at once.
#[inline]
pub(crate) fn push_back<T>(ring: &mut VecDeque<T>, item: T) {
    if ring.capacity() == 0 {
        ring.reserve_exact(1);
    }
    ring.push_back(item);
}

#[cfg(test)]
#[path = "checks/buffers_tests.rs"]
mod tests;
