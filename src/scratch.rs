//! One spare buffer per thread, so that a connection needs none while it holds no bytes.
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
    static SPARE: Cell<Option<BytesMut>> = const { Cell::new(None) };
    /// Where the buffer begins that was last lent for reading, to tell what is left of it from a part of something larger.
    static LENT: Cell<usize> = const { Cell::new(0) };
}

/// Returns an empty buffer with room for a read: of the given size, or, if that is the usual one, what is left of the
/// spare buffer.
pub(crate) fn take_for_reading(size: usize) -> BytesMut {
    if size != CAPACITY {
        return BytesMut::with_capacity(size);
    }
    let buffer = take_spare().unwrap_or_else(|| BytesMut::with_capacity(CAPACITY));
    if buffer.capacity() == CAPACITY {
        LENT.set(buffer.as_ptr().addr());
    }
    buffer
}

/// Returns an empty buffer of the given size: the spare one if that is the usual one and nobody has a part of it.
pub(crate) fn take_for_writing(size: usize) -> BytesMut {
    if size == CAPACITY
        && let Some(spare) = take_spare()
    {
        if spare.capacity() == CAPACITY {
            return spare;
        }
        keep(spare);
    }
    BytesMut::with_capacity(size)
}

/// Takes a buffer back: keeps it, or what is left of it, as the thread's spare one if it is of the usual size.
pub(crate) fn give(mut buffer: BytesMut) {
    buffer.clear();
    // The first call finds buffers that grew, even where a consumed front hides it.
    if buffer.try_reclaim(CAPACITY + 1) {
        return;
    }
    if buffer.try_reclaim(CAPACITY) {
        // What is left of another one is used up first: a whole one is cheap to make, and kept messages share the rest.
        let rest = take_spare().filter(|rest| rest.capacity() < CAPACITY);
        keep(rest.unwrap_or(buffer));
    } else if buffer.capacity() >= MIN_ROOM && buffer.as_ptr().addr().wrapping_sub(LENT.get()) < CAPACITY {
        keep(buffer);
    }
}

/// Whether a queue is too large to be kept while it is empty.
pub(crate) fn is_surplus<T>(ring: &VecDeque<T>) -> bool {
    ring.is_empty() && ring.capacity() * size_of::<T>() > SMALL_RING
}

fn take_spare() -> Option<BytesMut> {
    let mut spare = SPARE.try_with(Cell::take).ok().flatten()?;
    // All of it, if the messages that had parts of it are gone.
    let _whole_or_what_is_left = spare.try_reclaim(CAPACITY);
    Some(spare)
}

fn keep(buffer: BytesMut) {
    // The thread-local is out of reach only while the thread itself ends.
    let _gone_with_the_thread = SPARE.try_with(|spare| spare.set(Some(buffer)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_whole_when_nobody_has_a_part_of_it() {
        let mut buffer = take_for_reading(CAPACITY);
        buffer.extend_from_slice(b"hello");
        drop(buffer.split_to(5));
        give(buffer);
        assert_eq!(SPARE.take().map(|spare| spare.capacity()), Some(CAPACITY));
    }

    #[test]
    fn what_messages_leave_of_a_buffer_is_used_on() {
        let mut messages = Vec::new();
        for _ in 0..1_000 {
            let mut buffer = take_for_reading(CAPACITY);
            buffer.extend_from_slice(b"hello");
            messages.push(buffer.split_to(5));
            give(buffer);
            // Another connection writes in between.
            let mut batch = take_for_writing(CAPACITY);
            batch.extend_from_slice(b"reply");
            give(batch);
        }
        let (first, last) = (messages[0].as_ptr().addr(), messages[999].as_ptr().addr());
        assert_eq!(last - first, 999 * 5, "one buffer serves them all");
        assert!(take_for_writing(CAPACITY).capacity() == CAPACITY, "a batch gets a whole one");
        drop(messages);
        assert_eq!(take_for_reading(CAPACITY).capacity(), CAPACITY, "and it is whole again");
    }

    #[test]
    fn a_buffer_that_grew_or_is_not_ours_is_not_kept() {
        let mut buffer = take_for_reading(CAPACITY);
        buffer.reserve(CAPACITY * 4);
        buffer.extend_from_slice(&[0; CAPACITY * 3]);
        drop(buffer.split_to(CAPACITY * 3));
        give(buffer);
        assert!(SPARE.take().is_none(), "it grew");

        let mut foreign = BytesMut::with_capacity(CAPACITY * 16);
        foreign.resize(CAPACITY * 15 + 100, 0);
        let kept = foreign.split_to(CAPACITY * 15 + 100);
        assert!(foreign.capacity() < CAPACITY);
        give(foreign);
        assert!(SPARE.take().is_none(), "a part of something larger");
        drop(kept);
    }
}
