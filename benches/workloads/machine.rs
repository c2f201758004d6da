//! What the figures were measured on.

use std::{fs, process::Command, thread};

/// Describes the processor, the kernel and the compiler.
pub fn machine() -> String {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let processor = fs::read_to_string("/proc/cpuinfo").ok().and_then(|info| {
        let line = info.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").ok().map(|release| {
        let mut numbers = release.split(['.', '-']);
        format!("Linux {}.{}", numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default())
    });
    let compiler = Command::new("rustc").arg("--version").output().ok().filter(|output| output.status.success());
    let compiler = compiler.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    [
        Some(format!("{cores} cores of {}", processor.as_deref().unwrap_or("an unknown processor"))),
        Some(kernel.unwrap_or_else(|| std::env::consts::OS.to_owned())),
        compiler,
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>()
    .join("; ")
}
