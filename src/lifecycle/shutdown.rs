//! The end of a node.

use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};

use futures_util::{
    StreamExt,
    future::{BoxFuture, join},
    stream::FuturesUnordered,
};

use super::{
    MAX_STOP_TIME,
    ending::{cut_short, tear_down},
    outside::{first_driven, with_runtime},
};
use tokio::runtime::Handle;

use crate::{
    inside,
    kernel::Kernel,
    outbound::MAX_FLUSH_TIME,
    panics::OnDrop,
    waiting::{bound, wait_until, within},
};

/// Closes the node and ends everything that belongs to it.
///
/// # Cancel safety
/// The node stays closed; connections whose ending had begun are released at once; another call finishes the rest.
pub(crate) async fn shut_down(kernel: &Arc<Kernel>) {
    if Handle::try_current().is_ok() {
        return shut_down_here(kernel).await;
    }
    let runtimes = kernel.registry.all().into_iter().map(|(_, live)| live.runtime().clone());
    let finished = match first_driven(runtimes) {
        Some(runtime) => with_runtime(runtime, Box::pin(shut_down_here(kernel))).await,
        None => None,
    };
    if finished.is_none() {
        shut_down_at_once(kernel);
    }
}

/// Closes a node that no runtime drives: there is nobody to wait for.
fn shut_down_at_once(kernel: &Arc<Kernel>) {
    let claims = kernel.registry.close();
    kernel.listener.stop();
    for claim in claims {
        cut_short(kernel, claim);
    }
    for live in kernel.registry.evict_all() {
        live.stop();
    }
    drop(kernel.hooks.take());
}

async fn shut_down_here(kernel: &Arc<Kernel>) {
    let end = |claim| {
        let kernel = Arc::clone(kernel);
        Box::pin(async move { tear_down(&kernel, claim, None).await }) as BoxFuture<'static, ()>
    };
    let mut endings: Vec<_> = kernel.registry.close().into_iter().map(end).collect();
    kernel.listener.stop();
    // In the very poll that claimed them, every ending begins its OnDisconnect: whatever is dropped later, it has begun.
    poll_fn(|cx| {
        endings.retain_mut(|ending| ending.as_mut().poll(cx).is_pending());
        Poll::Ready(())
    })
    .await;
    let rest = finish_shutdown(Arc::clone(kernel), endings.into_iter().collect());
    if inside::is_in_hook_of(kernel.identity()) {
        // The caller is one of those that the rest waits for.
        kernel.finishers.enter();
        let own = Arc::clone(kernel);
        // Made here: the task may be dropped before its first poll.
        let finished = OnDrop(move || own.finishers.leave());
        tokio::spawn(async move {
            rest.await;
            drop(finished);
        });
    } else {
        rest.await;
        kernel.finishers.wait_for_all(MAX_STOP_TIME).await;
    }
}

async fn finish_shutdown(kernel: Arc<Kernel>, endings: FuturesUnordered<BoxFuture<'static, ()>>) {
    let hook_time = kernel.hooks.on_disconnect().map_or(Some(Duration::ZERO), |hook| bound(hook.timeout_ms()));
    let limit = hook_time.map(|time| time.saturating_add(MAX_FLUSH_TIME));
    // Every ending is bounded by as much, but nobody may be polling one that somebody else has claimed: a hook without a
    // bound is waited for only if it is polled here.
    let limit_of_others = limit.unwrap_or(MAX_FOREIGN_HOOK_TIME + MAX_FLUSH_TIME);
    let drained = wait_until(kernel.registry.changed(), || kernel.registry.is_closed_and_empty());
    if !kernel.registry.is_closed_and_empty() {
        join(within(limit, endings.collect::<()>()), within(Some(limit_of_others), drained)).await;
    }
    for live in kernel.registry.evict_all() {
        if let Some(outbox) = live.outbox() {
            outbox.set_overdue();
        }
        live.stop();
    }
    kernel.tasks.wait_for_all(MAX_STOP_TIME).await;
    // The hooks own clones of the user's structs, and these own the node.
    drop(kernel.hooks.take());
}

/// How long a shutdown waits for an `on_disconnect` without a bound that somebody else is polling, or not: as long as for one
/// with the default bound.
const MAX_FOREIGN_HOOK_TIME: Duration = Duration::from_secs(3);
