//! What is in use: compared before and after an attack.

use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::heap;

/// How long an attack may have consequences after it has stopped: the matrix says 5 s of a machine that does nothing else.
const SETTLING_TIME: Duration = Duration::from_secs(5);

/// The heap may have grown by a twentieth, or by this much: the two buffers of 64 KiB that each of the victim's threads keeps
/// for reuse, if one of them has had nothing to do before; and tables that have grown once.
const HEAP_ALLOWANCE: usize = (2 * 64 + 96) * 1024;

/// File descriptors and heap of the process, tasks of a runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ledger {
    pub files: usize,
    pub tasks: usize,
    pub heap: usize,
}

impl Ledger {
    pub fn read(runtime: &Handle) -> Self {
        // One of the entries is the look itself.
        let files = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() - 1);
        Self { files, tasks: runtime.metrics().num_alive_tasks(), heap: heap::in_use() }
    }

    /// Reads it when files and tasks have not moved for a while; of the heap, which breathes, the largest figure counts.
    pub fn at_rest(runtime: &Handle) -> Self {
        let (mut last, mut same) = (Self::read(runtime), 0);
        while same < 20 {
            std::thread::sleep(Duration::from_millis(5));
            let now = Self::read(runtime);
            let is_same = (now.files, now.tasks) == (last.files, last.tasks);
            same = if is_same { same + 1 } else { 0 };
            last = Self { heap: now.heap.max(if is_same { last.heap } else { 0 }), ..now };
        }
        last
    }

    /// Waits until all is as it was; tells how long it took.
    pub fn wait_until_restored(self, runtime: &Handle) -> Result<Duration, String> {
        let (since, limit) = (Instant::now(), self.heap + (self.heap / 20).max(HEAP_ALLOWANCE));
        loop {
            let now = Self::read(runtime);
            if (now.files, now.tasks) == (self.files, self.tasks) && now.heap <= limit {
                return Ok(since.elapsed());
            }
            if since.elapsed() > SETTLING_TIME {
                return Err(format!("not settled: {now:?} is in use, {self:?} was"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
