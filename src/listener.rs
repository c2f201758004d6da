//! The listening socket: where it is bound, whether it is open, and its end.
//!
//! Whoever asks for the end closes the socket: the accept loop's task may belong to a runtime that nobody drives.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll, ready},
};

use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    runtime::Handle,
    sync::Notify,
};

use crate::{config::Config, error, waiting::wait_until};

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
pub(crate) struct ListeningSocket {
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

    /// Switches listening on or off; returns the bound address when it is on. `is_closed` says, under the lock, whether the
    /// node is shutting down. `begin` starts to accept.
    pub(crate) fn toggle(
        &self,
        config: &Config,
        is_closed: impl FnOnce() -> bool,
        begin: impl FnOnce(Arc<ListeningSocket>),
    ) -> io::Result<Option<SocketAddr>> {
        let addr = config.listener_addr.ok_or_else(error::no_listener_addr)?;
        let mut latest = self.latest.lock();
        // A shutdown closes the registry before it stops the listener: it finds either this refusal or the new socket.
        if is_closed() {
            return Err(error::shutting_down());
        }
        if let Some(old) = latest.take() {
            let was_open = old.is_open();
            old.close();
            if was_open {
                return Ok(None);
            }
        }
        if Handle::try_current().is_err() {
            return Err(error::no_runtime("switching the listener on"));
        }
        let socket = Arc::new(ListeningSocket::bind(addr, config)?);
        let addr = socket.addr;
        *latest = Some(Arc::clone(&socket));
        // Under the lock: a shutdown that closes this socket also waits for the task.
        begin(socket);
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

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Whether it still listens: it has not been closed, and the system has not taken its address away.
    pub(crate) fn is_open(&self) -> bool {
        self.socket.lock().as_ref().is_some_and(|socket| socket.local_addr().is_ok_and(|addr| addr == self.addr))
    }

    /// Closes it; `true` for the first who does.
    pub(crate) fn close(&self) -> bool {
        let socket = self.socket.lock().take();
        let is_first = socket.is_some();
        drop(socket);
        self.closed.notify_waiters();
        is_first
    }

    pub(crate) async fn wait_until_closed(&self) {
        wait_until(&self.closed, || self.socket.lock().is_none()).await;
    }

    /// Accepts a connection; ready with `None` when the socket has been closed.
    pub(crate) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<Option<io::Result<(TcpStream, SocketAddr)>>> {
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
