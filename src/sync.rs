//! The locks and atomics of the modules whose schedules are explored: the ordinary ones, and in the tests under
//! `cfg(pea2pea_schedules)` those of shuttle, with which every access is a point where another thread may go on.

#[cfg(not(all(test, pea2pea_schedules)))]
pub(crate) use {
    parking_lot::Mutex,
    std::{
        sync::{
            OnceLock,
            atomic::{AtomicBool, Ordering},
        },
        thread_local,
    },
};

#[cfg(all(test, pea2pea_schedules))]
pub(crate) use {
    explored::{AtomicBool, Mutex, OnceLock, Ordering},
    shuttle::thread_local,
};

/// Shuttle's types in the form of the ordinary ones.
#[cfg(all(test, pea2pea_schedules))]
mod explored {
    use std::{
        ops::{Deref, DerefMut},
        sync::PoisonError,
    };

    pub(crate) use shuttle::sync::atomic::{AtomicBool, Ordering};

    /// A lock that knows no poison.
    #[derive(Debug)]
    pub(crate) struct Mutex<T> {
        lock: shuttle::sync::Mutex<T>,
        /// What is asked after each release.
        turn: AtomicBool,
    }

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self { lock: shuttle::sync::Mutex::new(value), turn: AtomicBool::new(false) }
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            MutexGuard { guard: Some(guard), turn: &self.turn }
        }
    }

    /// Gives way once more when the lock is free: what follows may be a step that shuttle does not know of.
    pub(crate) struct MutexGuard<'a, T> {
        /// `None` while it is dropped.
        guard: Option<shuttle::sync::MutexGuard<'a, T>>,
        /// What is asked after the release.
        turn: &'a AtomicBool,
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            match &self.guard {
                Some(guard) => guard,
                None => unreachable!("it is there until it is dropped"),
            }
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            match &mut self.guard {
                Some(guard) => guard,
                None => unreachable!("it is there until it is dropped"),
            }
        }
    }

    impl<T> Drop for MutexGuard<'_, T> {
        fn drop(&mut self) {
            drop(self.guard.take());
            if !std::thread::panicking() {
                self.turn.load(Ordering::SeqCst);
            }
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
