//! The accept loop: takes connections from the listening socket, and decides what follows when it cannot.

use std::{future::poll_fn, io, net::SocketAddr, pin::pin, sync::Arc};

use futures_util::future::{Either, select};
use tokio::{sync::OwnedSemaphorePermit, time::sleep};
use tracing::{debug, error, field::display, warn};

use self::failures::{Failures, Step};
use super::{setup::accept, spawn_counted};
use crate::{kernel::Kernel, listener::ListeningSocket, panics::OnDrop, waiting::wait_until};

mod failures;

/// Switches listening on or off; returns the bound address when it is on.
pub(crate) fn toggle_listener(kernel: &Arc<Kernel>) -> io::Result<Option<SocketAddr>> {
    let is_closed = || kernel.registry.is_closed();
    let toggled = kernel.listener.toggle(&kernel.config, is_closed, |socket| {
        let (own, socket_of_loop) = (Arc::clone(kernel), Arc::clone(&socket));
        // Made here: the task may be dropped before its first poll. Without the loop nobody would accept from the socket.
        let closed_at_the_end = OnDrop(move || _ = socket.close());
        let accepting = async move {
            accept_connections(&socket_of_loop, &own).await;
            drop(closed_at_the_end);
        };
        spawn_counted(kernel, None, Box::pin(accepting));
    });
    match &toggled {
        Ok(Some(addr)) => debug!(parent: &kernel.span, %addr, "listening"),
        Ok(None) => debug!(parent: &kernel.span, "stopped listening"),
        Err(error) => {
            let addr = kernel.config.listener_addr.map(display);
            debug!(parent: &kernel.span, addr, %error, "could not listen");
        }
    }
    toggled
}

async fn accept_connections(socket: &ListeningSocket, kernel: &Arc<Kernel>) {
    let mut closed = pin!(socket.wait_until_closed());
    let mut failures = Failures::default();
    loop {
        let next = poll_fn(|cx| {
            let accepted = socket.poll_accept(cx);
            if accepted.is_pending() {
                failures.reset();
            }
            accepted
        });
        let accepted = match select(&mut closed, next).await {
            Either::Left(((), _)) | Either::Right((None, _)) => return,
            Either::Right((Some(accepted), _)) => accepted,
        };
        let error = match accepted {
            Ok((stream, addr)) => {
                failures.reset();
                let permit = match Arc::clone(&kernel.setups).try_acquire_owned() {
                    Ok(permit) => Some(permit),
                    // Boxed, as is the pause below: a node that waits for somebody to come keeps no room for what is rare.
                    Err(_none_left) => Box::pin(next_permit(kernel)).await,
                };
                if let Some(permit) = permit {
                    accept(kernel, stream, addr, permit);
                }
                continue;
            }
            Err(error) => error,
        };
        // What the socket says of itself counts for more than what the error does.
        let step = if socket.is_open() { failures.next(&error) } else { Step::GiveUp };
        match step {
            Step::GoOn => debug!(parent: &kernel.span, %error, "a peer gave up before it was accepted"),
            Step::Pause { pause, is_news } => {
                kernel.heuristics().accept_errors.increment();
                if is_news {
                    warn!(parent: &kernel.span, %error, "cannot accept; trying again in {pause:?}");
                } else {
                    debug!(parent: &kernel.span, %error, "cannot accept; trying again in {pause:?}");
                }
                if let Either::Left(_) = select(&mut closed, Box::pin(sleep(pause))).await {
                    return;
                }
            }
            // Only the first who closes it says so: the socket may also have been closed on purpose between its error and now.
            Step::GiveUp => {
                if socket.close() {
                    kernel.heuristics().accept_errors.increment();
                    let addr = socket.addr();
                    error!(parent: &kernel.span, %addr, %error, "the system has revoked the listening socket: not listening");
                }
                return;
            }
        }
    }
}

/// Waits for a setup's permit. The one connection that has been accepted is set up even if listening ends meanwhile.
async fn next_permit(kernel: &Arc<Kernel>) -> Option<OwnedSemaphorePermit> {
    let acquire = pin!(Arc::clone(&kernel.setups).acquire_owned());
    let closed = pin!(wait_until(kernel.registry.changed(), || kernel.registry.is_closed()));
    match select(closed, acquire).await {
        Either::Left(_) => None,
        Either::Right((permit, _)) => permit.ok(),
    }
}
