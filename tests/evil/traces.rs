//! What an attack may leave behind: open descriptors, and lines in the log.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    span::{Attributes, Id, Record},
};

/// How many file descriptors this process has open.
#[cfg(unix)]
pub fn open_descriptors() -> usize {
    std::fs::read_dir("/dev/fd").expect("a list of the descriptors").count()
}

/// There is no list of them: the count of the tasks, which own the sockets, has to do.
#[cfg(not(unix))]
pub fn open_descriptors() -> usize {
    0
}

/// Counts the lines above `DEBUG` that are logged on the threads where it is the default.
#[derive(Debug, Clone, Default)]
pub struct LogLines(Arc<AtomicU64>);

impl LogLines {
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Subscriber for LogLines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() < Level::DEBUG
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        if event.metadata().is_event() {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
