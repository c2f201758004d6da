//! File descriptors belong to the whole process: they are counted while no test but this one plays rows.

use std::{
    cmp::Reverse,
    sync::{Mutex, PoisonError, RwLock, RwLockReadGuard},
    thread,
    time::{Duration, Instant},
};

use crate::{
    common::PATIENCE,
    row::{attack, dials, handshakes},
    table,
    traces::open_descriptors,
    verdict::{SETTLED, judge},
};

/// Rows are played behind a shared hold, the ledger is kept behind the exclusive one.
static LEDGER: RwLock<()> = RwLock::new(());

/// How many rows are played at once.
const AT_ONCE: usize = 12;

pub fn play_with_others() -> RwLockReadGuard<'static, ()> {
    LEDGER.read().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn after_the_table_no_descriptor_is_left() {
    let _alone = LEDGER.write().unwrap_or_else(PoisonError::into_inner);
    // What the process opens once and keeps.
    judge(&attack([dials([]).at("127.0.0.1")], handshakes(1)), PATIENCE).unwrap();
    let before = open_descriptors();
    let mut rows = table();
    // What waits for a second or more ends in ways in which others end too.
    rows.retain(|(_, row)| row.not_before < Duration::from_secs(1));
    rows.sort_by_key(|(_, row)| Reverse(row.not_before));
    let rows = Mutex::new(rows.into_iter());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((name, row)) = { rows.lock().unwrap().next() } {
                    judge(&row, PATIENCE).unwrap_or_else(|complaint| panic!("{name}: {complaint}"));
                }
            });
        }
    });
    let ended = Instant::now();
    while open_descriptors() > before {
        assert!(ended.elapsed() < SETTLED, "{before} descriptors before, {} after the table", open_descriptors());
        thread::yield_now();
    }
}
