//! The end of a live connection: from the claim to the release.

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use tokio::{runtime::Handle, sync::oneshot};
use tracing::debug;

use super::{
    MAX_STOP_TIME,
    outside::{first_driven, with_runtime},
    report_panic, spawn_counted,
};
use crate::{
    connection::{ConnectionInfo, DisconnectOrigin},
    hooks::OnDisconnectHook,
    inside,
    kernel::Kernel,
    live_connection::LiveConnection,
    outbound::writer::FailedWrite,
    panics::{OnDrop, Panicked, caught},
    registry::Teardown,
    waiting::{bound, poll_once, within},
};

/// Ends the connection of the address; `false` if there is none or somebody else is ending it.
pub(crate) async fn disconnect(kernel: &Arc<Kernel>, addr: SocketAddr) -> bool {
    // Asked first, and cheaply: a hook may go through all addresses, most of which are being ended.
    if !kernel.registry.is_claimable(addr) {
        return false;
    }
    let Some(live) = kernel.connection_at(addr) else { return false };
    let info = live.info().clone();
    if Handle::try_current().is_err() {
        let runtime = live.runtime().clone();
        drop(live);
        if let Some(runtime) = first_driven([runtime]) {
            // Timers come after the claim: a runtime that goes away has cut an ending short that is this call's.
            return with_runtime(runtime, Box::pin(end_by_user(kernel, info))).await.unwrap_or(true);
        }
        return claim_by_user(kernel, &info).map(|claim| cut_short(kernel, claim)).is_some();
    }
    drop(live);
    // Boxed: most calls of a hook that goes through all addresses find nothing to do.
    if inside::is_deep() { Box::pin(hand_over(kernel, info)).await } else { Box::pin(end_by_user(kernel, info)).await }
}

/// Claims and runs an ending, in place.
async fn end_by_user(kernel: &Arc<Kernel>, info: ConnectionInfo) -> bool {
    let Some(claim) = claim_by_user(kernel, &info) else { return false };
    tear_down(kernel, claim, None).await;
    // A hook of this connection that called us has been told to stop too, and would be dropped at this await.
    if !inside::is_in_task_of(info.id()) {
        info.tasks().wait_for_all(MAX_STOP_TIME).await;
    }
    true
}

fn claim_by_user(kernel: &Kernel, info: &ConnectionInfo) -> Option<Teardown<LiveConnection>> {
    kernel.registry.claim(info.addr(), info.id(), DisconnectOrigin::User)
}

/// Lets a task claim and run an ending: each ending that a hook of another one begins nests in it, on one stack. The task is
/// inside the same hooks as the caller.
///
/// # Cancel safety
/// Dropping it stops the task, and with it the ending.
async fn hand_over(kernel: &Arc<Kernel>, info: ConnectionInfo) -> bool {
    let (tell, told) = oneshot::channel();
    let own = Arc::clone(kernel);
    let ending = Box::pin(async move {
        let has_ended = end_by_user(&own, info).await;
        let _caller_is_gone = tell.send(has_ended);
    });
    let task = spawn_counted(kernel, None, inside::inherited(ending));
    let _stopped_with_the_caller = OnDrop(|| task.abort());
    // Not told: the runtime goes away.
    told.await.unwrap_or(false)
}

/// Runs the ending that was claimed: OnDisconnect, flush, stop, release. The first poll begins OnDisconnect.
///
/// # Cancel safety
/// Dropping it stops the connection and releases its slot at once.
pub(super) async fn tear_down(kernel: &Arc<Kernel>, claim: Teardown<LiveConnection>, mut failed: Option<FailedWrite>) {
    let live = claim.connection();
    // Dropped before the claim, which releases the slot.
    let _stopped_first = OnDrop(|| live.stop());
    if let Some(hook) = kernel.hooks.on_disconnect() {
        let limit = bound(hook.timeout_ms());
        let mut run = begin(kernel, &claim, hook);
        let begun = poll_once(Pin::new(&mut run)).await;
        // The receipts must not wait for the hook, and the hook may wait for the receipts.
        report_failed_write(live, &mut failed);
        let outcome = match begun {
            Some(outcome) => Some(outcome),
            None => within(limit, run).await,
        };
        report(kernel, live, outcome);
    }
    report_failed_write(live, &mut failed);
    if claim.origin() != DisconnectOrigin::Writing {
        live.flush().await;
    }
    debug!(parent: live.info().span(), origin = ?claim.origin(), "ended");
}

/// Ends a connection at once, where nobody can wait: OnDisconnect is begun and cut, nothing is flushed.
pub(super) fn cut_short(kernel: &Arc<Kernel>, claim: Teardown<LiveConnection>) {
    let live = claim.connection();
    // Dropped before the claim, which releases the slot.
    let _stopped_first = OnDrop(|| live.stop());
    if let Some(hook) = kernel.hooks.on_disconnect() {
        // So that it can make timers, if they never fire.
        let _context = live.runtime().enter();
        let mut run = begin(kernel, &claim, hook);
        if let Poll::Ready(outcome) = Pin::new(&mut run).poll(&mut Context::from_waker(Waker::noop())) {
            report(kernel, live, Some(outcome));
        }
    }
    debug!(parent: live.info().span(), origin = ?claim.origin(), "ended without a runtime");
}

/// Resolves the receipts of a failed batch, and then those of everything behind it.
fn report_failed_write(live: &LiveConnection, failed: &mut Option<FailedWrite>) {
    if let Some(failed) = failed.take() {
        failed.report();
        if let Some(outbox) = live.outbox() {
            outbox.abandon();
        }
    }
}

/// The first poll of what this returns begins the hook.
fn begin(
    kernel: &Kernel,
    claim: &Teardown<LiveConnection>,
    hook: Arc<dyn OnDisconnectHook>,
) -> impl Future<Output = Result<(), Panicked>> + Send + Unpin + use<> {
    let (addr, origin) = (claim.addr(), claim.origin());
    inside::within_hook(kernel.identity(), Box::pin(caught(move || hook.on_disconnect(addr, origin))))
}

fn report(kernel: &Kernel, live: &LiveConnection, outcome: Option<Result<(), Panicked>>) {
    match outcome {
        Some(Ok(())) => {}
        Some(Err(panicked)) => _ = report_panic(kernel, "on_disconnect", live.info(), &panicked),
        None => debug!(parent: live.info().span(), "on_disconnect ran out of time"),
    }
}
