//! A waker that knows whether it has been woken, so that a loop is polled then and only then.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// What the waker of a loop rings.
#[derive(Default)]
pub(crate) struct Bell {
    has_rung: AtomicBool,
    /// The waker of whoever polls the loop.
    listener: AtomicWaker,
}

impl Bell {
    pub(crate) fn listen(&self, waker: &Waker) {
        self.listener.register(waker);
    }

    pub(crate) fn ring(&self) {
        self.has_rung.store(true, Ordering::Relaxed);
        self.listener.wake();
    }

    pub(crate) fn has_rung(&self) -> bool {
        self.has_rung.load(Ordering::Relaxed)
    }

    /// Whether it has rung since this was last asked.
    pub(crate) fn take(&self) -> bool {
        self.has_rung.swap(false, Ordering::Relaxed)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }
}
