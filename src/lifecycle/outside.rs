//! What ends a connection from where none of its tasks runs: outside of every runtime, or when its own is not driven.

use std::{future::poll_fn, sync::mpsc, task::Poll, time::Duration};

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;

use crate::panics::catch;

/// How long a runtime has to run a task that shows that it is driven. The thread waits for it, so not for long.
const PROBE_TIME: Duration = Duration::from_millis(250);

/// Returns a runtime that somebody drives. The calling thread waits for the answer, so it must not be the one who does.
pub(super) fn first_driven(runtimes: impl IntoIterator<Item = Handle>) -> Option<Handle> {
    let (tell, told) = mpsc::channel();
    for runtime in runtimes {
        let (tell, own) = (tell.clone(), runtime.clone());
        // A runtime that has been shut down drops the task, and with it the sender.
        drop(runtime.spawn(async move {
            let _asker_is_gone = tell.send(own);
        }));
    }
    drop(tell);
    told.recv_timeout(PROBE_TIME).ok()
}

/// Polls a future whose timers are those of a runtime that polls something else; `None` if that runtime goes away meanwhile.
pub(super) async fn with_runtime<T>(runtime: Handle, mut future: BoxFuture<'_, T>) -> Option<T> {
    poll_fn(|cx| {
        let _context = runtime.enter();
        // Code of users is caught further inside: what panics here is a timer of a runtime that is shutting down.
        match catch(|| future.as_mut().poll(cx)) {
            Ok(polled) => polled.map(Some),
            Err(_timers_are_gone) => Poll::Ready(None),
        }
    })
    .await
}
