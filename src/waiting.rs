//! Waiting: for a condition, for tasks to end, for one more turn of the others; with a bound, and fairly where a timer is late.
//!
//! Owns no state of a connection and never spawns.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};

use crate::panics::OnDrop;

/// Lets every other task that can run have its turn, and the runtime look for new work, before this one is polled again.
pub(crate) fn poll_yield<T>(cx: &mut Context<'_>) -> Poll<T> {
    let pending = pin!(tokio::task::yield_now()).poll(cx);
    debug_assert!(pending.is_pending(), "the first poll of yield_now");
    Poll::Pending
}

/// Polls a future once, within the poll of the caller.
pub(crate) async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// The bound that a `TIMEOUT_MS` stands for; the largest one means none.
pub(crate) const fn bound(timeout_ms: u64) -> Option<Duration> {
    match timeout_ms {
        u64::MAX => None,
        _ => Some(Duration::from_millis(timeout_ms)),
    }
}

/// Waits for a future within a bound; `None` when the time ran out.
pub(crate) async fn within<F: Future>(bound: Option<Duration>, future: F) -> Option<F::Output> {
    match bound {
        Some(bound) => timeout(bound, future).await.ok(),
        None => Some(future.await),
    }
}

/// Waits until `condition` holds; whoever changes what it reads must call `changed.notify_waiters()` afterwards.
///
/// # Cancel safety
/// Holds nothing but its place among the waiters.
pub(crate) async fn wait_until(changed: &Notify, condition: impl Fn() -> bool) {
    loop {
        let mut notified = pin!(changed.notified());
        // Enlisted before the condition is read: a change between the two is not missed.
        notified.as_mut().enable();
        if condition() {
            return;
        }
        notified.await;
    }
}

/// [`wait_until`] for at most `bound`; `false` when the time ran out first.
pub(crate) async fn wait_at_most(bound: Duration, changed: &Notify, condition: impl Fn() -> bool) -> bool {
    timeout(bound, wait_until(changed, condition)).await.is_ok()
}

/// Counts the running tasks of a connection or a node.
#[derive(Debug, Default)]
pub(crate) struct TaskCount {
    /// How many have entered and not left.
    running: AtomicUsize,
    /// Woken at each leave.
    left: Notify,
}

impl TaskCount {
    // The race of the orderings here: tasks leave on any thread, and whoever sees that the last one has left goes on to look at what
    // they did. So a leave releases, and a look acquires.

    pub(crate) fn enter(&self) {
        self.running.fetch_add(1, Ordering::AcqRel);
    }

    /// Enters until the guard is dropped.
    pub(crate) fn present(&self) -> OnDrop<impl FnMut()> {
        self.enter();
        OnDrop(|| self.leave())
    }

    pub(crate) fn leave(&self) {
        self.running.fetch_sub(1, Ordering::AcqRel);
        self.left.notify_waiters();
    }

    /// How many have entered and not left.
    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::Acquire)
    }

    /// Lets who waits for a condition look again.
    pub(crate) fn notify(&self) {
        self.left.notify_waiters();
    }

    /// Waits until all have left, for at most `bound`.
    pub(crate) async fn wait_for_all(&self, bound: Duration) -> bool {
        self.wait_for(|| self.running() == 0, bound).await
    }

    /// Waits for `condition`, which is read again whenever a task leaves, for at most `bound`.
    pub(crate) async fn wait_for(&self, condition: impl Fn() -> bool, bound: Duration) -> bool {
        condition() || wait_at_most(bound, &self.left, condition).await
    }
}

/// A timer that fires later than this was held up with the whole process: it was stopped, or its clock jumped.
pub(crate) const CLOCK_JUMP: Duration = Duration::from_secs(1);

/// What a peer is given once its time is up, for the delay may be ours.
#[derive(Debug, Default)]
pub(crate) struct Grace {
    /// Whether the runtime has been asked once more for what is waited for.
    has_looked_again: bool,
    /// Whether the time has been started anew after a clock jump.
    is_pardoned: bool,
}

impl Grace {
    /// The timer has fired, so late. Ready with whether the wait is over; if not, its time starts anew.
    pub(crate) fn poll_is_over(&mut self, cx: &mut Context<'_>, lateness: Duration) -> Poll<bool> {
        // Once per wait: on a thread on which others compute, each timer may be as late.
        if lateness > CLOCK_JUMP && !self.is_pardoned {
            *self = Self { has_looked_again: false, is_pardoned: true };
            return Poll::Ready(false);
        }
        if !self.has_looked_again {
            // A thread that was held up learns that the time is up before it learns what the peer has done.
            self.has_looked_again = true;
            return poll_yield(cx);
        }
        Poll::Ready(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_for_all_tasks_ends_with_the_last_one_or_in_time() {
        let count = TaskCount::default();
        count.enter();
        count.enter();
        count.leave();
        assert!(!count.wait_for_all(Duration::from_millis(1)).await);
        let (waited, ()) = tokio::join!(count.wait_for_all(Duration::from_secs(10)), async { count.leave() });
        assert!(waited);
    }
}
