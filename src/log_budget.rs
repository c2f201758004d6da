//! Lets a few log lines a second through, so that nobody who can provoke one fills a disk.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The most lines in one second.
const LINES: u32 = 5;

/// The budget of one node for one kind of line.
#[derive(Debug, Default)]
pub(crate) struct LogBudget(Mutex<Second>);

#[derive(Debug, Default)]
struct Second {
    /// When it began; `None` before the first line.
    began: Option<Instant>,
    /// How many lines it has had.
    lines: u32,
    /// How many lines were withheld since the last one that was let through.
    withheld: u64,
}

impl LogBudget {
    /// Asks for one line; `Some` with the number of lines that were withheld before it, or `None` if it is to be withheld.
    pub(crate) fn take(&self) -> Option<u64> {
        self.take_at(Instant::now())
    }

    fn take_at(&self, now: Instant) -> Option<u64> {
        let mut second = self.0.lock();
        if second.began.is_none_or(|began| now.duration_since(began) >= Duration::from_secs(1)) {
            second.began = Some(now);
            second.lines = 0;
        }
        if second.lines == LINES {
            second.withheld += 1;
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
    fn five_lines_a_second_pass_and_the_others_are_counted() {
        let (budget, start) = (LogBudget::default(), Instant::now());
        let take_after = |millis| budget.take_at(start + Duration::from_millis(millis));
        for _ in 0..5 {
            assert_eq!(take_after(0), Some(0));
        }
        assert_eq!(take_after(1), None);
        assert_eq!(take_after(999), None);
        assert_eq!(take_after(1_000), Some(2));
        assert_eq!(take_after(1_000), Some(0));
    }
}
