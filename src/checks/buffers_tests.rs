//! What becomes of buffers that are lent and given back.

use bytes::BufMut;

use super::*;

#[test]
fn a_buffer_comes_back_when_nobody_has_a_part_of_it() {
    let mut buffer = take(CAPACITY, MIN_ROOM);
    buffer.extend_from_slice(b"hello");
    drop(buffer.split_to(5));
    give(buffer);
    assert_eq!(SPARE.take().map(|spare| spare.capacity()), Some(CAPACITY - 5));
}

#[test]
fn what_messages_leave_of_a_buffer_is_used_on() {
    let mut messages = Vec::new();
    for _ in 0..1_000 {
        let mut buffer = take(CAPACITY, MIN_ROOM);
        buffer.extend_from_slice(b"hello");
        messages.push(buffer.split_to(5));
        give(buffer);
        // Another connection writes in between.
        let mut batch = take(CAPACITY, CAPACITY / 2);
        batch.extend_from_slice(b"reply");
        give(batch);
    }
    let (first, last) = (messages[0].as_ptr().addr(), messages[999].as_ptr().addr());
    assert_eq!(last - first, 999 * 5, "one buffer serves them all");
    drop(messages);
    // Once half of it is used up, the front is free again.
    let mut buffer = take(CAPACITY, MIN_ROOM);
    buffer.resize(CAPACITY / 2, 0);
    drop(buffer.split_to(CAPACITY / 2));
    give(buffer);
    let buffer = take(CAPACITY, MIN_ROOM);
    assert_eq!((buffer.as_ptr().addr(), buffer.capacity()), (first, CAPACITY));
}

#[test]
fn a_batch_gets_half_a_buffer_at_least_and_a_read_what_is_left() {
    let mut buffer = take(CAPACITY, MIN_ROOM);
    buffer.resize(CAPACITY - 8 * 1024, 0);
    let kept = buffer.split();
    give(buffer);
    let batch = take(CAPACITY, CAPACITY / 2);
    assert_eq!(batch.capacity(), CAPACITY);
    give(batch);
    let rest = take(CAPACITY, MIN_ROOM);
    assert_eq!(rest.capacity(), 8 * 1024, "the rest is used up first");
    give(rest);
    assert_eq!(take(CAPACITY, MIN_ROOM).capacity(), 8 * 1024, "and known when it comes back");
    drop(kept);
}

#[test]
fn a_batch_that_waits_takes_the_rest_from_reads_only_once() {
    let mut messages = Vec::new();
    let mut read = || {
        let (mut lent, mut remainder) = (None, Remainder::default());
        make_room(&mut lent, &mut remainder, CAPACITY).put_slice(b"hello");
        messages.push(lent.as_mut().unwrap().split_to(5));
        release(&mut lent, &mut remainder);
    };
    read();
    for _ in 0..100 {
        let batch = take(CAPACITY, CAPACITY / 2);
        read();
        give(batch);
    }
    let mut buffers: Vec<_> = messages.iter().map(|message| message.as_ptr().addr()).collect();
    buffers.dedup_by_key(|addr| *addr / CAPACITY);
    assert!(buffers.len() <= 4, "{} messages are in {} places", messages.len(), buffers.len());
}

#[test]
fn a_read_takes_no_more_than_its_size_and_what_the_message_under_way_has_shown() {
    for (size, held, room) in [(1, 0, 1), (1_024, 0, 1_024), (1_024, 300, 1_024), (1_024, 5_000, 5_000)] {
        let (mut lent, mut remainder) = (None, Remainder::default());
        restore(&mut lent, &mut remainder, size).resize(held, 7);
        assert_eq!(make_room(&mut lent, &mut remainder, size).remaining_mut(), room, "{size}, {held}");
        assert!(lent.unwrap().capacity() <= CAPACITY, "{size}, {held}");
    }
}

#[test]
fn only_a_message_that_needs_it_or_a_read_that_fills_it_has_a_larger_buffer() {
    const LARGEST: usize = 64 * 1024 * 1024;
    for size in [CAPACITY, 16 * CAPACITY, LARGEST] {
        let (mut lent, mut remainder) = (None, Remainder::default());
        loop {
            let before = lent.as_deref().map_or(0, |buffer: &Buffer| buffer.capacity());
            let room = make_room(&mut lent, &mut remainder, size);
            room.into_inner().resize(before.max(1), 7);
            let buffer = restore(&mut lent, &mut remainder, size);
            assert!(buffer.capacity() <= CAPACITY.max(4 * buffer.len()), "{size}: {}", buffer.capacity());
            if buffer.len() >= LARGEST / 4 {
                break;
            }
        }
        let grown = lent.as_mut().unwrap().split_to(1_000);
        give_back(&mut lent);
        assert!(SPARE.take().is_none(), "{size}: a larger one is not kept");
        drop(grown);
    }
}

#[test]
fn what_a_large_read_leaves_mostly_empty_is_moved_before_it_is_decoded() {
    const SIZE: usize = 1024 * 1024;
    for (count, most) in [(5, CAPACITY), (CAPACITY, 2 * CAPACITY), (SIZE / 4 - 1, SIZE / 2), (SIZE / 4, SIZE)] {
        let (mut lent, mut remainder) = (None, Remainder::default());
        let mut room = make_room(&mut lent, &mut remainder, SIZE);
        assert_eq!(room.get_ref().capacity(), SIZE, "the read may take all of it");
        room.put_slice(&vec![7; count]);
        let buffer = restore(&mut lent, &mut remainder, SIZE);
        assert_eq!(buffer[..], vec![7; count]);
        assert!(buffer.capacity() <= most, "{} B for {count} B", buffer.capacity());
    }
}

#[test]
fn a_remainder_needs_no_buffer() {
    let (mut lent, mut remainder) = (None, Remainder::default());
    make_room(&mut lent, &mut remainder, CAPACITY).put_slice(&[7; SMALL_REMAINDER]);
    release(&mut lent, &mut remainder);
    assert!(lent.is_none());
    assert_eq!(remainder[..], [7; SMALL_REMAINDER]);
    let mut buffer = make_room(&mut lent, &mut remainder, CAPACITY);
    assert_eq!(buffer.get_ref()[..], [7; SMALL_REMAINDER]);
    assert!(remainder.is_empty());

    buffer.put_u8(7);
    release(&mut lent, &mut remainder);
    assert!(lent.is_some(), "too much to be copied each time");
    lent.as_mut().unwrap().clear();
    release(&mut lent, &mut remainder);
    assert!(lent.is_none() && remainder.is_empty());
}

#[test]
fn a_buffer_that_grew_or_is_not_ours_is_not_kept() {
    let mut buffer = take(CAPACITY, MIN_ROOM);
    buffer.reserve(CAPACITY * 4);
    buffer.extend_from_slice(&[0; CAPACITY * 3]);
    drop(buffer.split_to(CAPACITY * 3));
    give(buffer);
    assert!(SPARE.take().is_none(), "it grew");

    let mut foreign = Buffer::with_capacity(CAPACITY * 16);
    foreign.resize(CAPACITY * 15 + 100, 0);
    let kept = foreign.split_to(CAPACITY * 15 + 100);
    assert!(foreign.capacity() < CAPACITY);
    give(foreign);
    assert!(SPARE.take().is_none(), "a part of something larger");
    drop(kept);
}
