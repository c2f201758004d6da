//! Busy neighbours: processes that keep every core busy with something else.

use std::{
    env,
    io::{self, Read},
    process::{Child, Command, Stdio, exit},
    thread,
};

/// As many busy processes as there are cores; they end with this value, and with this process however it ends.
#[derive(Debug)]
pub struct Neighbours(Vec<Child>);

impl Neighbours {
    /// Starts them, or none.
    pub fn start(wanted: bool) -> Self {
        let cores = if wanted { thread::available_parallelism().map_or(1, Into::into) } else { 0 };
        let itself = env::current_exe().expect("the path of this program");
        let neighbour = |_| {
            // Its standard input stays open for as long as this process lives.
            let mut command = Command::new(&itself);
            command.env(VARIABLE, "1").stdin(Stdio::piped()).spawn().expect("another process")
        };
        Self((0..cores).map(neighbour).collect())
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have ended already.
            _ = child.kill();
            _ = child.wait();
        }
    }
}

/// Is a busy neighbour until the standard input ends, if this process was started as one; to be called first in `main`.
pub fn be_one_if_asked() {
    if env::var_os(VARIABLE).is_none() {
        return;
    }
    thread::spawn(|| {
        loop {
            std::hint::black_box(0);
        }
    });
    _ = io::stdin().read_to_end(&mut Vec::new());
    exit(0);
}

/// Set for a neighbour.
const VARIABLE: &str = "BENCH_NEIGHBOUR";
