//! One spare buffer per thread and direction, so that a connection needs none while it holds no bytes.
//!
//! A message may keep a part of the buffer that it was decoded from. The rest stays the spare one, so that small messages
//! that arrive one by one, on whatever connections, share a buffer instead of keeping one each.

use std::{cell::Cell, collections::VecDeque};

use bytes::BytesMut;

/// The capacity of a spare buffer: the default `INITIAL_BUFFER_SIZE` of both directions.
pub(crate) const CAPACITY: usize = 64 * 1024;

/// The least room for which the rest of a buffer is worth keeping.
pub(crate) const MIN_ROOM: usize = 4 * 1024;

/// A queue of messages that takes at most this much memory is kept while a connection is idle.
const SMALL_RING: usize = 256;

thread_local! {
    /// Empty, with at least [`MIN_ROOM`]; messages may have what lies before.
    static FOR_READING: Cell<Option<BytesMut>> = const { Cell::new(None) };
    /// Where the memory of the buffer begins that was last lent for reading.
    static LENT: Cell<usize> = const { Cell::new(0) };
    /// Empty, of [`CAPACITY`].
    static FOR_WRITING: Cell<Option<BytesMut>> = const { Cell::new(None) };
}

/// Returns an empty buffer with room for a read: of the given size, or, if that is the usual one, what is left of the
/// spare buffer.
pub(crate) fn take_for_reading(size: usize) -> BytesMut {
    if size != CAPACITY {
        return BytesMut::with_capacity(size);
    }
    let mut buffer = FOR_READING.try_with(Cell::take).ok().flatten().unwrap_or_default();
    // All of it, if the messages that had parts of it are gone; asked only now and then.
    if buffer.capacity() < CAPACITY / 2 && !buffer.try_reclaim(CAPACITY) && buffer.capacity() < MIN_ROOM {
        buffer = BytesMut::with_capacity(CAPACITY);
    }
    if buffer.capacity() == CAPACITY {
        LENT.set(buffer.as_ptr().addr());
    }
    buffer
}

/// Takes back a buffer for reading, or what is left of it: keeps it as the thread's spare one if it is of the usual size.
pub(crate) fn give_for_reading(mut buffer: BytesMut) {
    buffer.clear();
    let before = buffer.as_ptr().addr().wrapping_sub(LENT.get());
    let is_lent = before < CAPACITY && before + buffer.capacity() <= CAPACITY && buffer.capacity() >= MIN_ROOM;
    // The second question finds buffers that grew, even where a consumed front hides it.
    if is_lent || (!buffer.try_reclaim(CAPACITY + 1) && buffer.try_reclaim(CAPACITY)) {
        // The thread-local is out of reach only while the thread itself ends.
        let _gone_with_the_thread = FOR_READING.try_with(|spare| {
            // What is left of another one is used up first: a whole one is cheap to make, and kept messages share the rest.
            let rest = spare.take().filter(|rest| rest.capacity() < buffer.capacity());
            spare.set(Some(rest.unwrap_or(buffer)));
        });
    }
}

/// Returns an empty buffer of the given size: the spare one if that is the usual one.
pub(crate) fn take_for_writing(size: usize) -> BytesMut {
    let spare = if size == CAPACITY { FOR_WRITING.try_with(Cell::take).ok().flatten() } else { None };
    spare.unwrap_or_else(|| BytesMut::with_capacity(size))
}

/// Takes back a buffer for writing: keeps it as the thread's spare one if it is a whole one of the usual size.
pub(crate) fn give_for_writing(mut buffer: BytesMut) {
    buffer.clear();
    if buffer.capacity() == CAPACITY {
        let _gone_with_the_thread = FOR_WRITING.try_with(|spare| spare.set(Some(buffer)));
    }
}

/// Whether a queue is too large to be kept while it is empty.
pub(crate) fn is_surplus<T>(ring: &VecDeque<T>) -> bool {
    ring.is_empty() && ring.capacity() * size_of::<T>() > SMALL_RING
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_nobody_has_a_part_of_it() {
        let mut buffer = take_for_reading(CAPACITY);
        buffer.extend_from_slice(b"hello");
        drop(buffer.split_to(5));
        give_for_reading(buffer);
        assert_eq!(FOR_READING.take().map(|spare| spare.capacity()), Some(CAPACITY - 5));

        let batch = take_for_writing(CAPACITY);
        let place = batch.as_ptr();
        give_for_writing(batch);
        assert_eq!(take_for_writing(CAPACITY).as_ptr(), place);
    }

    #[test]
    fn what_messages_leave_of_a_buffer_is_used_on() {
        let mut messages = Vec::new();
        for _ in 0..1_000 {
            let mut buffer = take_for_reading(CAPACITY);
            buffer.extend_from_slice(b"hello");
            messages.push(buffer.split_to(5));
            give_for_reading(buffer);
        }
        let (first, last) = (messages[0].as_ptr().addr(), messages[999].as_ptr().addr());
        assert_eq!(last - first, 999 * 5, "one buffer serves them all");
        drop(messages);
        // Once half of it is used up, the front is free again.
        let mut buffer = take_for_reading(CAPACITY);
        buffer.resize(CAPACITY / 2, 0);
        drop(buffer.split_to(CAPACITY / 2));
        give_for_reading(buffer);
        let buffer = take_for_reading(CAPACITY);
        assert_eq!((buffer.as_ptr().addr(), buffer.capacity()), (first, CAPACITY));
    }

    #[test]
    fn a_buffer_that_grew_or_is_not_ours_is_not_kept() {
        let mut buffer = take_for_reading(CAPACITY);
        buffer.reserve(CAPACITY * 4);
        buffer.extend_from_slice(&[0; CAPACITY * 3]);
        drop(buffer.split_to(CAPACITY * 3));
        give_for_reading(buffer);
        assert!(FOR_READING.take().is_none(), "it grew");

        let mut foreign = BytesMut::with_capacity(CAPACITY * 16);
        foreign.resize(CAPACITY * 15 + 100, 0);
        let kept = foreign.split_to(CAPACITY * 15 + 100);
        assert!(foreign.capacity() < CAPACITY);
        give_for_reading(foreign);
        assert!(FOR_READING.take().is_none(), "a part of something larger");
        drop(kept);

        let mut batch = take_for_writing(CAPACITY);
        batch.resize(CAPACITY + 1, 0);
        give_for_writing(batch);
        assert!(FOR_WRITING.take().is_none(), "it grew");
    }
}
