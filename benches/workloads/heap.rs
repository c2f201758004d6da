//! How much of the heap is in use, as a counting allocator sees it, and how much memory is resident.

#![allow(unsafe_code, reason = "an allocator that counts")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    fs,
    sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Counts once it has been told to: what the other benches allocate costs them one read of a flag.
#[derive(Debug)]
pub struct Counting;

/// Whether to count.
static COUNTS: AtomicBool = AtomicBool::new(false);

/// Bytes allocated minus bytes freed, since counting began.
static IN_USE: AtomicI64 = AtomicI64::new(0);

fn add(bytes: i64) {
    if COUNTS.load(Relaxed) {
        IN_USE.fetch_add(bytes, Relaxed);
    }
}

// SAFETY: hands everything over to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as i64);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as i64);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        add(-(layout.size() as i64));
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        add(size as i64 - layout.size() as i64);
        unsafe { System.realloc(memory, layout, size) }
    }
}

/// Begins to count. Only differences between two readings mean something.
pub fn start_counting() {
    COUNTS.store(true, Relaxed);
}

/// Returns the bytes in use, against the time when counting began.
pub fn in_use() -> i64 {
    IN_USE.load(Relaxed)
}

/// Returns the bytes in use once nothing has moved for a while.
pub async fn settled() -> i64 {
    let (mut last, mut since) = (in_use(), Instant::now());
    let deadline = since + PATIENCE;
    while since.elapsed() < STILL && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let now = in_use();
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    last
}

/// Returns the resident memory of this process in bytes; `None` where there is no `/proc`.
pub fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// This long without an allocation, on a runtime that has nothing left to do, and all has been done.
const STILL: Duration = Duration::from_millis(100);

/// A contender that never rests is measured as it is.
const PATIENCE: Duration = Duration::from_secs(5);
