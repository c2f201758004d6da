//! What the user sees.

use std::{
    io::{self, Write},
    time::Instant,
};

use crate::common::{self, Colour};

/// A bar in a terminal, and elsewhere a line for each quarter.
pub(crate) struct Progress {
    begun: Instant,
    from: u64,
    len: u64,
    shown: u64,
}

impl Progress {
    pub(crate) fn new(from: u64, len: u64) -> Self {
        Self { begun: Instant::now(), from, len, shown: from * 4 / len.max(1) }
    }

    pub(crate) fn show(&mut self, have: u64) {
        let steps = if common::is_colourful() { 200 } else { 4 };
        let step = have * steps / self.len.max(1);
        if step == self.shown {
            return;
        }
        self.shown = step;
        let percent = have * 100 / self.len.max(1);
        let speed = (have - self.from) as f64 / self.begun.elapsed().as_secs_f64() / f64::from(1 << 20);
        if common::is_colourful() {
            let done = "#".repeat(percent as usize / 2);
            print!("\r\x1b[K[{}] {percent}% {speed:.0} MiB/s ", Colour::Green.paint(format_args!("{done:.<50}")));
            // A bar that is not shown at once is shown with the next step.
            _ = io::stdout().flush();
        } else {
            println!("    {percent}%, {speed:.0} MiB/s");
        }
    }
}

/// A line of its own, also where a progress bar stands.
pub(crate) fn say(line: std::fmt::Arguments<'_>) {
    println!("{}{line}", if common::is_colourful() { "\r\x1b[K" } else { "" });
}

pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
