//! Lets a few log lines a second through, so that nobody who can provoke one fills a disk.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The budget of one node for one kind of line.
#[derive(Debug)]
pub(crate) struct LogBudget {
    /// The most lines in one second.
    lines: u32,
    /// Held for a few instructions.
    second: Mutex<Second>,
}

#[derive(Debug, Default)]
struct Second {
    /// When it began; `None` before the first line.
    began: Option<Instant>,
    /// How many lines it has had.
    lines: u32,
    /// How many events there were since the last line that was let through.
    withheld: usize,
}

impl LogBudget {
    pub(crate) fn new(lines: u32) -> Self {
        Self { lines, second: Mutex::default() }
    }

    /// Asks for one line about so many events; `Some` with the number of events before them that had no line, or `None` if
    /// these have none either.
    pub(crate) fn take(&self, events: usize) -> Option<usize> {
        self.take_at(Instant::now(), events)
    }

    fn take_at(&self, now: Instant, events: usize) -> Option<usize> {
        let mut second = self.second.lock();
        if second.began.is_none_or(|began| now.duration_since(began) >= Duration::from_secs(1)) {
            second.began = Some(now);
            second.lines = 0;
        }
        if second.lines == self.lines {
            second.withheld += events;
            return None;
        }
        second.lines += 1;
        Some(std::mem::take(&mut second.withheld))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_lines_a_second_pass_and_the_others_are_counted() {
        let (budget, start) = (LogBudget::new(5), Instant::now());
        let take_after = |millis| budget.take_at(start + Duration::from_millis(millis), 3);
        for _ in 0..5 {
            assert_eq!(take_after(0), Some(0));
        }
        assert_eq!(take_after(1), None);
        assert_eq!(take_after(999), None);
        assert_eq!(take_after(1_000), Some(6));
        assert_eq!(take_after(1_000), Some(0));
    }
}
