//! The versions of the crates that were measured.

/// Names the versions of the crates that were measured, as they are locked.
pub fn versions(contenders: &[&str]) -> String {
    let taking_part = |package: &Locked| match package.name {
        "pea2pea" | "tokio" | "tokio-util" => true,
        "snow" => contenders.contains(&"ours+noise"),
        "rustls" => contenders.contains(&"ours+tls"),
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
