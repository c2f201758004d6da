//! The limit of this process on file descriptors, read from `/proc` and set with `prlimit`.

use std::process::Command;

/// The soft and the hard limit.
pub fn limits() -> (u64, u64) {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let mut numbers = line.split_whitespace().filter_map(|word| word.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

pub fn set_soft_limit(soft: u64) {
    let status = Command::new("prlimit")
        .args(["--pid", &std::process::id().to_string(), &format!("--nofile={soft}:")])
        .status()
        .expect("prlimit (of util-linux) is there");
    assert!(status.success() && limits().0 == soft, "the limit could not be set to {soft}");
}

/// Makes room for the rows with thousands of sockets.
pub fn raise() {
    let (soft, hard) = limits();
    let wanted = hard.min(20_000);
    if soft < wanted {
        set_soft_limit(wanted);
    }
}
