//! What the run has found, as a page of markdown.

use std::{env, fs, path::PathBuf, time::Duration};

use crate::machine::machine;

/// Memory of several processes together, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    pub heap: i64,
    pub resident: i64,
}

/// What was measured; of each pair the listening processes come first.
pub struct Figures {
    pub library: String,
    pub connections: usize,
    pub groups: usize,
    /// From the first dial until the last connection was live at both ends.
    pub took: Duration,
    /// How many connections each listening process got.
    pub shares: Vec<i64>,
    pub base: [Memory; 2],
    pub before: [Memory; 2],
    pub after: [Memory; 2],
}

/// Prints the page and writes it into the directory of results.
pub fn write(figures: &Figures) {
    let page = page(figures);
    println!("{page}");
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../results");
    let directory = env::var_os("BENCH_RESULTS").map_or_else(beside, PathBuf::from);
    let library = if figures.library == "ours" { String::new() } else { format!("{}-", figures.library) };
    let file = directory.join(format!("idle-{library}{}.md", short(figures.connections)));
    fs::create_dir_all(&directory).and_then(|()| fs::write(&file, page)).expect("a directory for the results");
}

/// Writes thousands as people do.
fn short(connections: usize) -> String {
    if connections.is_multiple_of(1_000) { format!("{}k", connections / 1_000) } else { connections.to_string() }
}

fn page(figures: &Figures) -> String {
    let Figures { library, connections, groups, took, shares, base, before, after } = figures;
    let (least, most) = (shares.iter().min().expect("a process"), shares.iter().max().expect("a process"));
    let mut page = format!(
        "# {connections} idle connections: {library}\n\n\
         Held by {} processes: {groups} that listened, at one shared port, got {least} to {most} connections each, from {groups}\n\
         that dialled. Both ends are nodes with all five protocols, at their defaults but for the idle timeout.\n\
         Connecting took {:.1} s ({:.0} connections/s). Measured on {}.\n\n\
         Bytes per connection; traffic is 1 KiB there and back over every connection.\n\n\
         | end | heap before traffic | heap after | resident before traffic | resident after |\n|---|---:|---:|---:|---:|\n",
        2 * groups,
        took.as_secs_f64(),
        *connections as f64 / took.as_secs_f64(),
        machine(),
    );
    for (end, name) in ["accepting", "dialling"].iter().enumerate() {
        let cells = cells(*connections, base[end], before[end], after[end]);
        page.push_str(&format!("| {name} | {} |\n", cells.join(" | ")));
    }
    let [base, before, after] = [base, before, after].map(|ends| ends[0] + ends[1]);
    page.push_str(&format!("| both | {} |\n", cells(*connections, base, before, after).join(" | ")));
    page
}

fn cells(connections: usize, base: Memory, before: Memory, after: Memory) -> [String; 4] {
    let each = |bytes: i64| format!("{:.0}", bytes as f64 / connections as f64);
    [
        each(before.heap - base.heap),
        each(after.heap - base.heap),
        each(before.resident - base.resident),
        each(after.resident - base.resident),
    ]
}

impl std::ops::Add for Memory {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { heap: self.heap + other.heap, resident: self.resident + other.resident }
    }
}
