//! The listening socket: binding, the accept loop, and its end.
//!
//! Whoever asks for the end closes the socket: the accept loop's task may belong to a runtime that nobody drives. Knows
//! nothing of what becomes of an accepted connection.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_util::future::{Either, select};
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    runtime::Handle,
    sync::{Notify, OwnedSemaphorePermit},
    time::sleep,
};
use tracing::{debug, error, warn};

use self::failures::{Failures, Step};
use crate::{config::Config, error, kernel::Kernel, lifecycle, task::wait_until};

mod failures;
mod own_address;

/// A node's listener.
#[derive(Debug, Default)]
pub(crate) struct Listener {
    /// The latest listening socket; it may be closed already. Locked while one is bound or closed, so that toggles take
    /// turns.
    latest: Mutex<Option<Arc<ListeningSocket>>>,
}

/// A listening socket, which its accept loop uses and anybody may close.
#[derive(Debug)]
struct ListeningSocket {
    /// Where it is bound.
    addr: SocketAddr,
    /// Whether peers of IPv4 reach it.
    takes_ipv4: bool,
    /// `None` once it is closed. Locked for one call of the system.
    socket: Mutex<Option<TcpListener>>,
    /// Woken when it is closed.
    closed: Notify,
}

impl Listener {
    /// Returns where the node listens now.
    pub(crate) fn addr(&self) -> Option<SocketAddr> {
        self.open().map(|open| open.addr)
    }

    /// Whether a dial to the address would reach this listener.
    pub(crate) fn is_at(&self, addr: SocketAddr) -> bool {
        self.open().is_some_and(|open| own_address::reaches(addr, open.addr, open.takes_ipv4))
    }

    fn open(&self) -> Option<Arc<ListeningSocket>> {
        self.latest.lock().clone().filter(|latest| latest.is_open())
    }

    /// Switches listening on or off; returns the bound address when it is on.
    pub(crate) fn toggle(&self, kernel: &Arc<Kernel>) -> io::Result<Option<SocketAddr>> {
        let addr = kernel.config.listener_addr.ok_or_else(error::no_listener_addr)?;
        let mut latest = self.latest.lock();
        // A shutdown closes the registry before it stops the listener: it finds either this refusal or the new socket.
        if kernel.registry.is_closed() {
            return Err(error::shutting_down());
        }
        if let Some(old) = latest.take() {
            let was_open = old.is_open();
            old.close();
            if was_open {
                debug!(parent: &kernel.span, "stopped listening");
                return Ok(None);
            }
        }
        if Handle::try_current().is_err() {
            return Err(error::no_runtime("switching the listener on"));
        }
        let socket = Arc::new(ListeningSocket::bind(addr, &kernel.config)?);
        let addr = socket.addr;
        *latest = Some(Arc::clone(&socket));
        // Under the lock: a shutdown that closes this socket also waits for the task.
        lifecycle::spawn_counted(kernel, None, Box::pin(accept_connections(ClosedOnDrop(socket), Arc::clone(kernel))));
        debug!(parent: &kernel.span, %addr, "listening");
        Ok(Some(addr))
    }

    /// Closes the socket, if there is one.
    pub(crate) fn stop(&self) {
        if let Some(latest) = self.latest.lock().take() {
            latest.close();
        }
    }
}

impl ListeningSocket {
    fn bind(addr: SocketAddr, config: &Config) -> io::Result<Self> {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        if config.reuse_listener_port {
            reuse_port(&socket)?;
        }
        socket.bind(addr)?;
        let mut socket = socket.listen(config.listener_backlog)?;
        let addr = socket.local_addr()?;
        let mut takes_ipv4 = true;
        if addr.is_ipv6() {
            // Only the standard library's socket can be asked.
            let itself = socket.into_std()?;
            takes_ipv4 = !is_ipv6_only(&itself);
            socket = TcpListener::from_std(itself)?;
        }
        Ok(Self { addr, takes_ipv4, socket: Mutex::new(Some(socket)), closed: Notify::new() })
    }

    /// Whether it still listens: it has not been closed, and the system has not taken its address away.
    fn is_open(&self) -> bool {
        self.socket.lock().as_ref().is_some_and(|socket| socket.local_addr().is_ok_and(|addr| addr == self.addr))
    }

    /// Closes it; `true` for the first who does.
    fn close(&self) -> bool {
        let socket = self.socket.lock().take();
        let is_first = socket.is_some();
        drop(socket);
        self.closed.notify_waiters();
        is_first
    }

    async fn wait_until_closed(&self) {
        wait_until(&self.closed, || self.socket.lock().is_none()).await;
    }

    /// Accepts a connection; ready with `None` when the socket has been closed.
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<Option<io::Result<(TcpStream, SocketAddr)>>> {
        match &*self.socket.lock() {
            None => Poll::Ready(None),
            Some(socket) => Poll::Ready(Some(ready!(socket.poll_accept(cx)))),
        }
    }
}

#[expect(deprecated, reason = "deprecated is to set it on a bound socket, for which it comes too late")]
fn is_ipv6_only(socket: &std::net::TcpListener) -> bool {
    socket.only_v6().unwrap_or(false)
}

#[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos", target_os = "cygwin"))))]
fn reuse_port(socket: &TcpSocket) -> io::Result<()> {
    socket.set_reuseport(true)
}

#[cfg(not(all(unix, not(any(target_os = "solaris", target_os = "illumos", target_os = "cygwin")))))]
fn reuse_port(_: &TcpSocket) -> io::Result<()> {
    Err(error::no_port_reuse())
}

/// The accept loop's hold of its socket: without the loop it would be a socket that nobody accepts from.
struct ClosedOnDrop(Arc<ListeningSocket>);

impl Drop for ClosedOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

async fn accept_connections(open: ClosedOnDrop, kernel: Arc<Kernel>) {
    let socket = &open.0;
    let mut closed = pin!(socket.wait_until_closed());
    let mut failures = Failures::default();
    loop {
        let accept = poll_fn(|cx| {
            let accepted = socket.poll_accept(cx);
            if accepted.is_pending() {
                failures.reset();
            }
            accepted
        });
        let accepted = match select(&mut closed, accept).await {
            Either::Left(((), _)) | Either::Right((None, _)) => return,
            Either::Right((Some(accepted), _)) => accepted,
        };
        let error = match accepted {
            Ok((stream, addr)) => {
                failures.reset();
                let permit = match Arc::clone(&kernel.setups).try_acquire_owned() {
                    Ok(permit) => Some(permit),
                    // Boxed, as is the pause below: a node that waits for somebody to come keeps no room for what is rare.
                    Err(_none_left) => Box::pin(next_permit(&kernel)).await,
                };
                if let Some(permit) = permit {
                    lifecycle::accept(&kernel, stream, addr, permit);
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
                    let addr = socket.addr;
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
