//! One spare buffer per thread, so that a connection needs none while it holds no bytes.

use std::cell::Cell;

use bytes::BytesMut;

/// What a buffer holds when it is taken: the default `INITIAL_BUFFER_SIZE` of both directions.
pub(crate) const CAPACITY: usize = 64 * 1024;

thread_local! {
    static SPARE: Cell<Option<BytesMut>> = const { Cell::new(None) };
}

/// Returns an empty buffer with a capacity of [`CAPACITY`].
pub(crate) fn take() -> BytesMut {
    // The thread-local is out of reach only while the thread itself ends.
    let spare = SPARE.try_with(Cell::take).ok().flatten();
    spare.unwrap_or_else(|| BytesMut::with_capacity(CAPACITY))
}

/// Returns an empty buffer of the given capacity: the spare one if that is the usual size.
pub(crate) fn take_sized(capacity: usize) -> BytesMut {
    if capacity == CAPACITY { take() } else { BytesMut::with_capacity(capacity) }
}

/// Keeps the buffer as the thread's spare one if it is of the usual size and nobody holds a part of it; else frees it.
pub(crate) fn give(mut buffer: BytesMut) {
    buffer.clear();
    // The first call finds buffers that grew, even where a consumed front hides it.
    if !buffer.try_reclaim(CAPACITY + 1) && buffer.try_reclaim(CAPACITY) {
        let _gone_with_the_thread = SPARE.try_with(|spare| spare.set(Some(buffer)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_whole_unless_it_grew_or_is_shared() {
        let mut buffer = take();
        buffer.extend_from_slice(b"hello");
        let shared = buffer.split_to(2).freeze();
        give(buffer);
        assert!(SPARE.take().is_none(), "a part of it is still held");
        drop(shared);

        let mut buffer = take();
        buffer.extend_from_slice(b"hello");
        drop(buffer.split_to(2));
        give(buffer);
        assert_eq!(SPARE.take().map(|spare| spare.capacity()), Some(CAPACITY));

        let mut buffer = take();
        buffer.reserve(CAPACITY * 4);
        buffer.extend_from_slice(&[0; CAPACITY * 3]);
        drop(buffer.split_to(CAPACITY * 3));
        give(buffer);
        assert!(SPARE.take().is_none(), "it grew");
    }
}
