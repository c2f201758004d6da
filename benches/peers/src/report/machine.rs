//! What the figures were measured on, and with which versions.

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

/// Names the versions of the crates that were measured, as they are locked.
pub fn versions(contenders: &[&str]) -> String {
    let taking_part = |package: &Locked| match package.name {
        "pea2pea" | "tokio" | "tokio-util" => true,
        name => contenders.contains(&name),
    };
    let packages = LOCK.split("[[package]]").filter_map(Locked::parse).filter(taking_part);
    packages.map(|package| format!("{} {}", package.name, package.version)).collect::<Vec<_>>().join(", ")
}

/// A package of the lock file.
struct Locked<'a> {
    name: &'a str,
    version: &'a str,
}

impl<'a> Locked<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let value = |key| text.lines().find_map(|line| line.strip_prefix(key)?.strip_suffix('"'));
        Some(Self { name: value("name = \"")?, version: value("version = \"")? })
    }
}

const LOCK: &str = include_str!("../../Cargo.lock");
