//! The life of a connection, and the end of a node: accept ([`accepting`]) or dial, set up, go live ([`setup`]); what is sent to
//! its peer ([`sending`]); its tasks ([`tasks`]) and its end ([`ending`]); the end of everything ([`shutdown`]).
//!
//! Ownership: a setup holds a permit and a `Reservation`; from `go_live` on the registry owns the `LiveConnection`, and the
//! connection's tasks own its stream; whoever claims the end holds the `Teardown` and runs `tear_down` in place. There is
//! no supervisor. Whichever of these futures is dropped, its guard gives the slot back.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{runtime::Handle, task::AbortHandle};
use tracing::{debug, error};

use crate::{
    connection::ConnectionInfo,
    error,
    inside::{self, Scope},
    kernel::Kernel,
    panics::{Panicked, dispose},
};

mod accepting;
mod ending;
mod outside;
#[cfg(all(test, pea2pea_schedules))]
#[path = "../checks/schedules/mod.rs"]
mod schedules;
mod sending;
mod setup;
mod shutdown;
mod tasks;

pub(crate) use accepting::toggle_listener;
pub(crate) use ending::disconnect;
pub(crate) use sending::{send, send_to_all};
pub(crate) use setup::dial;
pub(crate) use shutdown::shut_down;

/// How long an ending waits for the connection's, or the node's, stopped tasks to be dropped.
const MAX_STOP_TIME: Duration = Duration::from_secs(1);

/// Logs a panic of user code, once, and makes the error that says so. A peer may know how to provoke it, so only a few a
/// second are errors in the log.
fn report_panic(kernel: &Kernel, hook: &'static str, info: &ConnectionInfo, panicked: &Panicked) -> io::Error {
    let addr = info.addr();
    match kernel.panic_log.take(1) {
        Some(0) => error!(parent: info.span(), %addr, "{hook} panicked: {}", panicked.0),
        Some(withheld) => error!(parent: info.span(), %addr, withheld, "{hook} panicked: {}", panicked.0),
        None => debug!(parent: info.span(), %addr, "{hook} panicked: {}", panicked.0),
    }
    error::panicked(hook, addr, panicked)
}

/// Spawns a task that `shut_down` waits for, and, if it belongs to a connection, the end of that connection too.
fn spawn_counted(
    kernel: &Arc<Kernel>,
    info: Option<ConnectionInfo>,
    task: impl Future<Output = ()> + Send + Unpin + 'static,
) -> AbortHandle {
    kernel.tasks.enter();
    if let Some(info) = &info {
        info.tasks().enter();
    }
    // Not `tokio::spawn`: a runtime that is shutting down drops the task at once, while that borrows the thread's context,
    // and its drop may have to enter the runtime.
    Handle::current().spawn(Counted { task: Some(task), info, kernel: Arc::clone(kernel) }).abort_handle()
}

/// A task that leaves the counts when it has been dropped.
struct Counted<F> {
    /// `None` once it is dropped.
    task: Option<F>,
    /// The connection that it belongs to, if any.
    info: Option<ConnectionInfo>,
    /// The node that it belongs to.
    kernel: Arc<Kernel>,
}

impl<F: Future<Output = ()> + Unpin> Future for Counted<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let connection = self.info.as_ref().map(|info| (info.id(), info.addr()));
        let scope = Scope { node: self.kernel.identity(), connection };
        let Some(task) = &mut self.task else { return Poll::Ready(()) };
        inside::poll_within(scope, || Pin::new(task).poll(cx))
    }
}

impl<F> Drop for Counted<F> {
    fn drop(&mut self) {
        dispose(self.task.take());
        if let Some(info) = &self.info {
            info.tasks().leave();
        }
        self.kernel.tasks.leave();
    }
}
