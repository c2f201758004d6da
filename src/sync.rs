//! The locks and atomics of the modules whose schedules are explored: the ordinary ones, and in the tests under
//! `cfg(pea2pea_schedules)` those of shuttle, with which every access is a point where another thread may go on.

#[cfg(not(all(test, pea2pea_schedules)))]
pub(crate) use {
    parking_lot::{Mutex, MutexGuard},
    std::sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

#[cfg(all(test, pea2pea_schedules))]
pub(crate) use explored::{AtomicBool, Mutex, MutexGuard, OnceLock, Ordering};

/// Shuttle's types in the form of the ordinary ones.
#[cfg(all(test, pea2pea_schedules))]
mod explored {
    use std::sync::PoisonError;

    pub(crate) use shuttle::sync::{
        MutexGuard,
        atomic::{AtomicBool, Ordering},
    };

    /// A lock that knows no poison.
    #[derive(Debug)]
    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(shuttle::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    /// A cell that is filled once. Whoever comes to it first gives way to the others, as at an atomic.
    #[derive(Debug)]
    pub(crate) struct OnceLock<T> {
        /// What is asked before each access.
        turn: AtomicBool,
        /// Only accessed where nobody can interrupt.
        value: std::sync::OnceLock<T>,
    }

    impl<T> OnceLock<T> {
        pub(crate) fn new() -> Self {
            Self { turn: AtomicBool::new(false), value: std::sync::OnceLock::new() }
        }

        pub(crate) fn get(&self) -> Option<&T> {
            self.turn.load(Ordering::SeqCst);
            self.value.get()
        }

        pub(crate) fn get_or_init(&self, init: impl FnOnce() -> T) -> &T {
            self.turn.load(Ordering::SeqCst);
            self.value.get_or_init(init)
        }
    }
}
