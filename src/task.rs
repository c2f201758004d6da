//! Small guards around tasks and user code: catching panics, counting tasks, waiting for a condition.
//!
//! Owns no state of a connection and never spawns.

use std::{
    any::Any,
    future::{Future, poll_fn},
    mem,
    ops::{Deref, DerefMut},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};

/// The message of a panic of user code, its payload already disposed of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Panicked(pub(crate) String);

impl Panicked {
    fn from_payload(payload: Box<dyn Any + Send>) -> Self {
        let message = if let Some(text) = payload.downcast_ref::<&'static str>() {
            (*text).to_owned()
        } else if let Some(text) = payload.downcast_ref::<String>() {
            text.clone()
        } else {
            "(the payload is not a string)".to_owned()
        };
        dispose(payload);
        Self(message)
    }
}

/// Runs user code that is not async; a panic becomes an error.
pub(crate) fn catch<R>(user_code: impl FnOnce() -> R) -> Result<R, Panicked> {
    catch_unwind(AssertUnwindSafe(user_code)).map_err(Panicked::from_payload)
}

/// Drops a value of the user's whose drop may panic.
pub(crate) fn dispose<T>(value: T) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
        // The payload's own drop may panic too; what is left after that is not worth a second unwinding.
        if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            mem::forget(second);
        }
    }
}

/// Drops values of the user's one by one, so that two panicking drops cannot meet and abort the process.
pub(crate) fn dispose_all<T>(values: impl IntoIterator<Item = T>) {
    for value in values {
        dispose(value);
    }
}

/// Holds a value of the user's whose drop may panic, so that it cannot meet the panic of another drop and abort the
/// process.
pub(crate) struct Disposed<T>(Option<T>);

impl<T> Disposed<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Some(value))
    }

    /// Hands the value to another keeper of its kind.
    pub(crate) fn into_inner(mut self) -> T {
        match self.0.take() {
            Some(value) => value,
            None => unreachable!("it is there until it is dropped"),
        }
    }
}

impl<T> Deref for Disposed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.0 {
            Some(value) => value,
            None => unreachable!("it is there until it is dropped"),
        }
    }
}

impl<T> DerefMut for Disposed<T> {
    fn deref_mut(&mut self) -> &mut T {
        match &mut self.0 {
            Some(value) => value,
            None => unreachable!("it is there until it is dropped"),
        }
    }
}

impl<T> Drop for Disposed<T> {
    fn drop(&mut self) {
        dispose(self.0.take());
    }
}

/// Polls and drops a user's future in its place; a panic becomes an error, also when the surrounding future is dropped.
pub(crate) struct Shield<'a, F>(Pin<&'a mut Option<F>>);

impl<'a, F: Future> Shield<'a, F> {
    pub(crate) fn new(place: Pin<&'a mut Option<F>>) -> Self {
        Self(place)
    }

    pub(crate) fn is_clear(&self) -> bool {
        self.0.is_none()
    }

    /// Puts a future into the place, which must be clear.
    #[inline]
    pub(crate) fn set(&mut self, future: F) {
        self.0.set(Some(future));
    }

    /// # Panics
    /// If the future does, or if there is none.
    #[inline]
    pub(crate) fn poll_uncaught(&mut self, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Some(future) = self.0.as_mut().as_pin_mut() else {
            unreachable!("a shielded future is not polled after its end");
        };
        future.poll(cx)
    }

    /// Drops the future.
    ///
    /// # Panics
    /// If its drop does.
    #[inline]
    pub(crate) fn clear_uncaught(&mut self) {
        self.0.set(None);
    }

    /// # Panics
    /// If the future has been cleared.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<F::Output, Panicked>> {
        match catch(|| self.poll_uncaught(cx)) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(panicked) => Poll::Ready(Err(panicked)),
        }
    }

    /// Drops the future.
    pub(crate) fn clear(&mut self) -> Result<(), Panicked> {
        catch(|| self.clear_uncaught())
    }
}

impl<F> Drop for Shield<'_, F> {
    fn drop(&mut self) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| self.0.set(None))) {
            dispose(payload);
        }
    }
}

/// Makes, polls and drops a user's future; a panic in any of the three becomes an error.
pub(crate) async fn caught<F: Future>(make: impl FnOnce() -> F) -> Result<F::Output, Panicked> {
    let mut place = pin!(Some(catch(make)?));
    let mut future = Shield::new(place.as_mut());
    let output = poll_fn(|cx| future.poll(cx)).await?;
    future.clear()?;
    Ok(output)
}

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

/// Does something when it is dropped, however that comes about: at the end of a block, by a panic, or with a future.
#[must_use]
pub(crate) struct OnDrop<F: FnMut()>(pub(crate) F);

impl<F: FnMut()> Drop for OnDrop<F> {
    #[inline]
    fn drop(&mut self) {
        (self.0)();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }

    #[tokio::test]
    async fn a_panic_in_making_polling_or_dropping_a_future_is_an_error() {
        let made = caught(|| -> std::future::Ready<()> { panic!("made") }).await;
        assert_eq!(made, Err(Panicked("made".into())));
        let polled = caught(|| async { panic!("polled {}", 1) }).await;
        assert_eq!(polled, Err::<(), _>(Panicked("polled 1".into())));
        let bomb = Bomb;
        let dropped = caught(|| {
            poll_fn(move |_| {
                let _kept = &bomb;
                Poll::Ready(())
            })
        })
        .await;
        assert_eq!(dropped, Err(Panicked("dropped".into())));
    }

    #[tokio::test]
    async fn dropping_the_wait_for_a_future_whose_drop_panics_is_quiet() {
        let bomb = Bomb;
        let mut waiting = Box::pin(caught(|| {
            poll_fn(move |_| {
                let _kept = &bomb;
                Poll::<()>::Pending
            })
        }));
        assert!(poll_once(waiting.as_mut()).await.is_none());
        drop(waiting);
    }

    #[test]
    fn a_payload_that_panics_when_dropped_is_disposed_of() {
        let result = catch(|| std::panic::panic_any(Bomb));
        assert!(result.is_err());
        dispose_all([Bomb, Bomb]);
    }

    #[test]
    fn two_disposed_values_whose_drops_panic_do_not_meet() {
        let pair = (Disposed::new(Bomb), Disposed::new(Bomb));
        drop(pair);
    }

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
