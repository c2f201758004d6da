//! The allocator of these tests: the system's, with the bytes in use and their peak counted, and for each thread what it
//! does itself.

#![allow(dead_code, reason = "each target uses the part it needs")]
#![allow(unsafe_code, reason = "an allocator that counts")]
#![allow(unreachable_pub, reason = "all of it is private to the tests")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static IN_USE_BY_THREAD: Cell<isize> = const { Cell::new(0) };
    static ALLOCATIONS_OF_THREAD: Cell<u64> = const { Cell::new(0) };
}

/// The bytes that this thread has allocated, less those that it has freed. A test on one thread has its own figure.
pub fn in_use_by_thread() -> isize {
    IN_USE_BY_THREAD.get()
}

/// How often this thread has allocated so far.
pub fn allocations_of_thread() -> u64 {
    ALLOCATIONS_OF_THREAD.get()
}

/// The bytes that are allocated now.
pub fn in_use() -> usize {
    IN_USE.load(Relaxed)
}

/// The most bytes that were allocated at once since the last [`forget_peak`].
pub fn peak() -> usize {
    PEAK.load(Relaxed)
}

pub fn forget_peak() {
    PEAK.store(in_use(), Relaxed);
}

fn grow(size: usize) {
    let in_use = IN_USE.fetch_add(size, Relaxed) + size;
    if in_use > PEAK.load(Relaxed) {
        PEAK.fetch_max(in_use, Relaxed);
    }
    // Out of reach while the thread ends.
    _ = IN_USE_BY_THREAD.try_with(|bytes| bytes.set(bytes.get() + size.cast_signed()));
    _ = ALLOCATIONS_OF_THREAD.try_with(|count| count.set(count.get() + 1));
}

fn shrink(size: usize) {
    IN_USE.fetch_sub(size, Relaxed);
    _ = IN_USE_BY_THREAD.try_with(|bytes| bytes.set(bytes.get() - size.cast_signed()));
}

// SAFETY: hands everything over to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        shrink(layout.size());
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        grow(size);
        shrink(layout.size());
        unsafe { System.realloc(memory, layout, size) }
    }
}
