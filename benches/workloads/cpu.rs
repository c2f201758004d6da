//! The CPU time of this process, user and system together.

use std::{fs, time::Duration};

/// Returns the CPU time that the process has used so far; `None` where there is no `/proc`.
///
/// The scheduler's own account in nanoseconds is taken where the kernel keeps one (its threads must live on until the second
/// reading), else the clock ticks of the process.
pub fn used() -> Option<Duration> {
    of_live_threads().or_else(of_process)
}

/// A stopwatch of CPU time.
#[derive(Debug)]
pub struct Stopwatch(Option<Duration>);

impl Stopwatch {
    pub fn start() -> Self {
        Self(used())
    }

    /// Returns the microseconds used since the start, per item; NaN where they cannot be told.
    pub fn micros_per(&self, items: u64) -> f64 {
        match (self.0, used()) {
            (Some(start), Some(now)) => now.saturating_sub(start).as_secs_f64() * 1e6 / items as f64,
            _ => f64::NAN,
        }
    }
}

fn of_live_threads() -> Option<Duration> {
    let mut nanos = 0;
    for thread in fs::read_dir("/proc/self/task").ok()? {
        // A thread may end in between; it is not one of those that are measured.
        let Ok(account) = fs::read_to_string(thread.ok()?.path().join("schedstat")) else { continue };
        nanos += account.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    (nanos > 0).then(|| Duration::from_nanos(nanos))
}

fn of_process() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name in brackets may hold spaces; behind it, user and system time are the 12th and 13th field.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * MILLIS_PER_TICK))
}

/// Linux shows user space 100 ticks per second on every architecture that Rust's tier 1 knows.
const MILLIS_PER_TICK: u64 = 10;
