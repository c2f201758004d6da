//! The listening socket: binding, the accept loop, its pauses, and its end.
//!
//! The accept loop's task owns the socket; the rest of the node only knows its address. Knows nothing of what becomes of
//! an accepted connection.

use std::{
    future::poll_fn,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::{Either, select};
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::{Notify, OwnedSemaphorePermit},
    time::sleep,
};
use tracing::{debug, warn};

use crate::{config::Config, error, kernel::Kernel, lifecycle, task::wait_until};

/// The pause after an accept that failed for want of resources: at most three errors a second, and accepting again
/// within half a second of the relief.
const PRESSURE_PAUSE: Duration = Duration::from_millis(400);

/// A node's listener.
#[derive(Debug, Default)]
pub(crate) struct Listener {
    /// The latest accept loop; its socket may be closed already.
    latest: Mutex<Option<Arc<AcceptLoop>>>,
}

/// What an accept loop and whoever ends it have in common.
#[derive(Debug)]
struct AcceptLoop {
    /// Where its socket is bound.
    addr: SocketAddr,
    /// Whether it is to close its socket.
    stopping: AtomicBool,
    /// Whether its socket is closed.
    closed: AtomicBool,
    /// Woken when either changes.
    changed: Notify,
}

impl Listener {
    /// Returns where the node listens now.
    pub(crate) fn addr(&self) -> Option<SocketAddr> {
        self.latest.lock().as_ref().filter(|latest| !latest.is_closed()).map(|latest| latest.addr)
    }

    /// Whether a dial to the address would reach this listener.
    pub(crate) fn is_at(&self, addr: SocketAddr) -> bool {
        self.addr().is_some_and(|bound| {
            let (own, ip) = (bound.ip().to_canonical(), addr.ip().to_canonical());
            // Dialling the unspecified address reaches the loopback interface.
            let is_local = ip.is_loopback() || ip.is_unspecified();
            let is_everywhere = own.is_unspecified() && is_local;
            let is_loopback = own.is_loopback() && ip.is_unspecified() && own.is_ipv4() == ip.is_ipv4();
            let is_obvious = own == ip || is_everywhere || is_loopback;
            bound.port() == addr.port() && (is_obvious || (own.is_unspecified() && is_of_this_host(addr)))
        })
    }

    /// Switches listening on or off; returns the bound address when it is on.
    ///
    /// # Cancel safety
    /// Switching on happens without waiting, once a socket that is being closed is closed. Switching off, dropped, still
    /// happens. Nothing is held while waiting.
    pub(crate) async fn toggle(&self, kernel: &Arc<Kernel>) -> io::Result<Option<SocketAddr>> {
        loop {
            let (open, was_on) = match self.toggle_at_once(kernel)? {
                Toggled::On(addr) => return Ok(Some(addr)),
                Toggled::Stopping { open, was_on } => (open, was_on),
            };
            open.wait_until_closed().await;
            if was_on {
                debug!(parent: &kernel.span, "stopped listening");
                return Ok(None);
            }
        }
    }

    fn toggle_at_once(&self, kernel: &Arc<Kernel>) -> io::Result<Toggled> {
        let addr = kernel.config.listener_addr.ok_or_else(error::no_listener_addr)?;
        let mut latest = self.latest.lock();
        // A shutdown closes the registry before it stops the listener: it finds either this refusal or the new socket.
        if kernel.registry.is_closed() {
            return Err(error::shutting_down());
        }
        if let Some(open) = latest.as_ref().filter(|latest| !latest.is_closed()) {
            return Ok(Toggled::Stopping { open: Arc::clone(open), was_on: open.request_stop() });
        }
        let socket = bind(addr, &kernel.config)?;
        let addr = socket.local_addr()?;
        let accept_loop = Arc::new(AcceptLoop {
            addr,
            stopping: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            changed: Notify::new(),
        });
        *latest = Some(Arc::clone(&accept_loop));
        drop(latest);
        let open = OpenSocket { socket: Some(socket), accept_loop };
        lifecycle::spawn_counted(kernel, None, Box::pin(accept_connections(open, Arc::clone(kernel))));
        debug!(parent: &kernel.span, %addr, "listening");
        Ok(Toggled::On(addr))
    }

    /// Closes the socket, if there is one.
    pub(crate) async fn stop(&self) {
        let latest = self.latest.lock().clone();
        if let Some(accept_loop) = latest {
            accept_loop.request_stop();
            accept_loop.wait_until_closed().await;
        }
    }
}

/// Whether an address is one of this host's own: the OS would dial it from that very address. Nothing is sent.
fn is_of_this_host(addr: SocketAddr) -> bool {
    let anywhere = match addr.ip() {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let source = UdpSocket::bind((anywhere, 0)).and_then(|socket| {
        socket.connect(addr)?;
        socket.local_addr()
    });
    source.is_ok_and(|source| source.ip().to_canonical() == addr.ip().to_canonical())
}

/// What a toggle does at once.
enum Toggled {
    On(SocketAddr),
    /// The socket is being closed; `was_on`: by this very toggle.
    Stopping {
        open: Arc<AcceptLoop>,
        was_on: bool,
    },
}

impl AcceptLoop {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Asks for the socket to be closed; `true` for the first who does.
    fn request_stop(&self) -> bool {
        let is_first = !self.stopping.swap(true, Ordering::AcqRel);
        self.changed.notify_waiters();
        is_first
    }

    async fn wait_until_closed(&self) {
        wait_until(&self.changed, || self.is_closed()).await;
    }

    async fn stop_requested(&self) {
        wait_until(&self.changed, || self.stopping.load(Ordering::Acquire)).await;
    }
}

fn bind(addr: SocketAddr, config: &Config) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    if config.reuse_listener_port {
        reuse_port(&socket)?;
    }
    socket.bind(addr)?;
    socket.listen(config.listener_backlog)
}

#[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos", target_os = "cygwin"))))]
fn reuse_port(socket: &TcpSocket) -> io::Result<()> {
    socket.set_reuseport(true)
}

#[cfg(not(all(unix, not(any(target_os = "solaris", target_os = "illumos", target_os = "cygwin")))))]
fn reuse_port(_: &TcpSocket) -> io::Result<()> {
    Err(error::no_port_reuse())
}

/// The listening socket; its end is made known when it has been closed.
struct OpenSocket {
    /// `None` once it is closed.
    socket: Option<TcpListener>,
    /// Who is told.
    accept_loop: Arc<AcceptLoop>,
}

impl OpenSocket {
    fn close(&mut self) {
        drop(self.socket.take());
        self.accept_loop.closed.store(true, Ordering::Release);
        self.accept_loop.changed.notify_waiters();
    }
}

impl Drop for OpenSocket {
    fn drop(&mut self) {
        self.close();
    }
}

async fn accept_connections(mut open: OpenSocket, kernel: Arc<Kernel>) {
    let accept_loop = Arc::clone(&open.accept_loop);
    let mut stop = pin!(accept_loop.stop_requested());
    while let Some(socket) = &open.socket {
        let accepted = match select(&mut stop, poll_fn(|cx| socket.poll_accept(cx))).await {
            Either::Left(_) => return,
            Either::Right((accepted, _)) => accepted,
        };
        match accepted {
            Ok((stream, addr)) => {
                let permit = match Arc::clone(&kernel.setups).try_acquire_owned() {
                    Ok(permit) => Some(permit),
                    // Boxed, as is the pause below: a node that waits for somebody to come keeps no room for what is rare.
                    Err(_none_left) => Box::pin(next_permit(&kernel, &mut open, stop.as_mut())).await,
                };
                if let Some(permit) = permit {
                    lifecycle::accept(&kernel, stream, addr, permit);
                }
            }
            Err(error) if is_peers_doing(&error) => {
                debug!(parent: &kernel.span, %error, "a peer gave up before it was accepted")
            }
            Err(error) => {
                kernel.heuristics().accept_errors.increment();
                warn!(parent: &kernel.span, %error, "cannot accept; trying again in {PRESSURE_PAUSE:?}");
                if let Either::Left(_) = select(&mut stop, Box::pin(sleep(PRESSURE_PAUSE))).await {
                    return;
                }
            }
        }
    }
}

/// Waits for a setup's permit. The one connection that has been accepted is set up even if listening ends meanwhile, but
/// the socket does not stay open for it.
async fn next_permit(
    kernel: &Arc<Kernel>,
    open: &mut OpenSocket,
    stop: impl Future<Output = ()> + Unpin,
) -> Option<OwnedSemaphorePermit> {
    let acquire = pin!(Arc::clone(&kernel.setups).acquire_owned());
    let acquire = match select(stop, acquire).await {
        Either::Right((permit, _)) => return permit.ok(),
        Either::Left(((), acquire)) => acquire,
    };
    open.close();
    let closed = wait_until(kernel.registry.changed(), || kernel.registry.is_closed());
    match select(pin!(closed), acquire).await {
        Either::Left(_) => None,
        Either::Right((permit, _)) => permit.ok(),
    }
}

/// Whether an error of accept belongs to one connection that is gone already, so that the next may be fine.
fn is_peers_doing(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionReset, HostUnreachable, Interrupted, NetworkDown, NetworkUnreachable, TimedOut,
    };
    // EPROTO, ENOPROTOOPT, EHOSTDOWN and ENONET, which accept(2) lists too, and which have no kind.
    let is_pending_network_error =
        cfg!(target_os = "linux") && matches!(error.raw_os_error(), Some(71 | 92 | 112 | 64));
    is_pending_network_error
        || matches!(
            error.kind(),
            ConnectionAborted
                | ConnectionReset
                | HostUnreachable
                | Interrupted
                | NetworkDown
                | NetworkUnreachable
                | TimedOut
        )
}
