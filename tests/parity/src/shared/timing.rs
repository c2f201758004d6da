//! Waiting: always for a condition, always bounded.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout};

/// The bound of each single wait; far beyond anything that a healthy run needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// How long something must not happen before a scenario believes that it does not.
pub(crate) const QUIET: Duration = Duration::from_millis(150);

const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Waits until `condition` is true.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        sleep(POLL_INTERVAL).await;
    }
}

/// Whether `condition` comes true within the quiet window; ends early when it does.
pub(crate) async fn happens_soon(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + QUIET;
    while Instant::now() < deadline {
        if condition() {
            return true;
        }
        sleep(POLL_INTERVAL).await;
    }
    condition()
}

/// Waits until `value` has not changed for the quiet window, and returns it.
pub(crate) async fn settled<T: PartialEq>(mut value: impl FnMut() -> T) -> T {
    let deadline = Instant::now() + PATIENCE;
    let mut last = value();
    let mut since = Instant::now();
    while since.elapsed() < QUIET {
        assert!(Instant::now() < deadline, "never settled");
        sleep(POLL_INTERVAL).await;
        let current = value();
        if current != last {
            last = current;
            since = Instant::now();
        }
    }
    last
}

/// Awaits `future`, but not longer than the patience of a test.
pub(crate) async fn patiently<F: Future>(what: &str, future: F) -> F::Output {
    match timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("took too long: {what}"),
    }
}

/// Whether `future` is done within the quiet window; its output if so.
pub(crate) async fn soon<F: Future>(future: F) -> Option<F::Output> {
    timeout(QUIET, future).await.ok()
}

/// Polls `future` up to `times` times, with the chance for everybody else to run in between, then drops it.
/// Returns the output if that came first.
pub(crate) async fn poll_then_drop<F: Future>(times: usize, future: F) -> Option<F::Output> {
    let mut future = Box::pin(future);
    for _ in 0..times {
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        sleep(POLL_INTERVAL).await;
    }
    None
}

/// Polls `future` once, as part of the caller's own poll.
pub(crate) async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}
