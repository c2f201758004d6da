//! What user code cannot break: its panics become errors, and what has to follow follows, also when a future is dropped.
//!
//! Owns no state of a connection and never spawns.

use std::{
    any::Any,
    future::{Future, poll_fn},
    mem,
    ops::{Deref, DerefMut},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    task::{Context, Poll},
};

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
    use crate::waiting::poll_once;

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
}
