//! A subscriber that counts log lines by level and by time, and keeps the first ones as evidence. It allocates nothing
//! per line, so that the heap stays the victim's.

use std::{
    fmt::{Debug, Write},
    sync::{
        LazyLock, Mutex, Once,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Instant,
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span::{Attributes, Id, Record},
};

/// A tenth of a second each; the last one takes all that comes later.
const SLOTS: usize = 36_000;
const SLOTS_PER_SECOND: usize = 10;
const MAX_EVIDENCE: usize = 5;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);
/// Lines at ERROR, WARN, INFO and DEBUG.
static LINES: [[AtomicU32; SLOTS]; 4] = [const { [const { AtomicU32::new(0) }; SLOTS] }; 4];
static COUNTS_DEBUG: AtomicBool = AtomicBool::new(false);
static EVIDENCE: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Counting;

fn slot() -> usize {
    let tenths = START.elapsed().as_millis() as usize / (1_000 / SLOTS_PER_SECOND);
    tenths.min(SLOTS - 1)
}

fn row_of(level: Level) -> Option<usize> {
    [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG].iter().position(|other| *other == level)
}

impl Subscriber for Counting {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= if COUNTS_DEBUG.load(Relaxed) { Level::DEBUG } else { Level::INFO }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(if COUNTS_DEBUG.load(Relaxed) { LevelFilter::DEBUG } else { LevelFilter::INFO })
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let level = *event.metadata().level();
        let Some(row) = row_of(level) else { return };
        LINES[row][slot()].fetch_add(1, Relaxed);
        let mut evidence = EVIDENCE.lock().unwrap();
        if level <= Level::INFO && evidence.len() < MAX_EVIDENCE {
            let mut line = Line(format!("{level}"));
            event.record(&mut line);
            evidence.push(line.0);
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        _ = write!(self.0, " {field}={value:?}");
    }
}

/// Counts the lines of this process from now on.
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        LazyLock::force(&START);
        EVIDENCE.lock().unwrap().reserve(MAX_EVIDENCE);
        tracing::subscriber::set_global_default(Counting).expect("the only subscriber of this process");
    });
}

/// Whether lines at DEBUG count too.
pub fn count_debug(counts: bool) {
    COUNTS_DEBUG.store(counts, Relaxed);
    tracing::callsite::rebuild_interest_cache();
}

/// A moment from which on lines are of interest.
#[derive(Debug, Clone, Copy)]
pub struct Mark(usize);

impl Mark {
    pub fn now() -> Self {
        Self(slot())
    }

    /// The most lines at the level or above within any second since then.
    pub fn busiest_second(self, level: Level) -> u32 {
        let rows = &LINES[..=row_of(level).expect("a level that is counted")];
        let per_slot = |slot: usize| rows.iter().map(|row| row[slot].load(Relaxed)).sum::<u32>();
        let window = |first: usize| (first..(first + SLOTS_PER_SECOND).min(SLOTS)).map(per_slot).sum();
        (self.0..=slot()).map(window).max().unwrap_or(0)
    }
}

/// The first lines at INFO or above.
pub fn evidence() -> Vec<String> {
    EVIDENCE.lock().unwrap().clone()
}
