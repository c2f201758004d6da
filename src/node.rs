//! The node: public methods, each a few lines that delegate.

use std::{collections::HashMap, io, net::SocketAddr, sync::Arc};

use tokio::net::TcpSocket;
use tracing::Span;

use crate::{
    config::Config, connection::ConnectionInfo, counting::heuristics::Heuristics, counting::stats::Stats, error,
    kernel::Kernel, lifecycle,
};

/// A peer of a network: owns the listener, the connections, their limits and the configuration. Clones are cheap and refer
/// to the same node.
///
/// A node that listens, or has a protocol enabled, lives on without handles until [`shut_down`](Self::shut_down).
///
/// Connections are keyed by the peer's `SocketAddr`. Two nodes that dial each other at once get two connections.
#[derive(Debug, Clone)]
pub struct Node(Arc<Kernel>);

impl Node {
    /// Makes a node; it does nothing until it is told to.
    ///
    /// # Panics
    /// If `max_connections`, `max_connections_per_ip` or `max_connecting` is 0; the message names the field.
    pub fn new(config: Config) -> Self {
        Self(Arc::new(Kernel::new(config)))
    }

    pub(crate) fn kernel(&self) -> &Arc<Kernel> {
        &self.0
    }

    /// Returns the name given in the configuration, or the number that took its place.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Returns the configuration: with the number that took the place of a name that was not given, and with
    /// `max_connecting` lowered to `max_connections` if it was larger.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// Returns the traffic counters of all connections together, past ones included.
    pub fn stats(&self) -> &Stats {
        &self.0.traffic.stats
    }

    /// Returns the counters of what went wrong.
    pub fn heuristics(&self) -> &Heuristics {
        self.0.heuristics()
    }

    /// Returns the span that the node's log lines belong to.
    pub fn span(&self) -> &Span {
        &self.0.span
    }

    /// Switches listening on or off; returns the bound address, with the real port, when it is on now, and `None` when it
    /// is off.
    ///
    /// The socket has `SO_REUSEADDR`. When switching off has returned, the socket is closed: a dial is refused, and the
    /// port can be bound again. Connections that were accepted before are still set up. A socket that the system has
    /// revoked counts as off.
    ///
    /// # Errors
    /// - `AddrNotAvailable`: there is no [`Config::listener_addr`].
    /// - `Unsupported`: [`Config::reuse_listener_port`] on a platform without `SO_REUSEPORT`.
    /// - `Other` with [`ShuttingDown`](crate::ShuttingDown) inside: the node is shutting down.
    /// - what the OS says to the binding of the socket.
    ///
    /// # Cancel safety
    /// Nothing happens before the first poll, and everything in it.
    #[expect(clippy::unused_async, reason = "the API line has it async")]
    pub async fn toggle_listener(&self) -> io::Result<Option<SocketAddr>> {
        lifecycle::toggle_listener(&self.0)
    }

    /// Returns the address that the node listens at.
    ///
    /// # Errors
    /// `AddrNotAvailable`: the node is not listening, or the system has revoked the socket that it listened with.
    #[expect(clippy::unused_async, reason = "the API line has it async")]
    pub async fn listening_addr(&self) -> io::Result<SocketAddr> {
        self.0.listener.addr().ok_or_else(error::not_listening)
    }

    /// Dials an address; resolves when the connection is live: the handshake is done, the protocols are attached, and
    /// `on_connect` is scheduled.
    ///
    /// # Errors
    /// - `AddrInUse`: the address is the node's own.
    /// - `AlreadyExists`: there is a connection with the address, or one that is being set up or ended.
    /// - `QuotaExceeded`: the limit per IP, the limit of the node, or the budget for setups in flight is used up.
    /// - `TimedOut`: the dial or the handshake took too long.
    /// - `Other`: a hook panicked (the text names it), it is called outside of a tokio runtime, or, with
    ///   [`ShuttingDown`](crate::ShuttingDown) inside, the node is shutting down.
    /// - the handshake's own error, as it is, or that of the OS.
    ///
    /// # Cancel safety
    /// Dropped, it leaves either nothing or, if it had just succeeded, the live connection.
    pub async fn connect(&self, addr: SocketAddr) -> io::Result<()> {
        lifecycle::dial(&self.0, addr, None).await
    }

    /// [`connect`](Self::connect) over the caller's own socket, for instance one that is bound or configured.
    ///
    /// # Errors
    /// As with `connect`.
    ///
    /// # Cancel safety
    /// As with `connect`.
    pub async fn connect_using_socket(&self, addr: SocketAddr, socket: TcpSocket) -> io::Result<()> {
        lifecycle::dial(&self.0, addr, Some(socket)).await
    }

    /// Ends the connection with an address; `true` only for the one call that really did.
    ///
    /// Runs `on_disconnect`, flushes what is queued, as far as the peer takes it within a second (and within
    /// `Writing::TIMEOUT_MS`), and closes the socket. A call that finds somebody else ending the connection returns
    /// `false` at once. From inside a hook of the connection it does all of this too; the hook is dropped at its next
    /// await. If something was sent to a peer that has not closed, the socket stays open until it has, within that second:
    /// closing it earlier could cost the peer what it has not read yet.
    ///
    /// It works outside of a tokio runtime too: timers are then those of the connection's own. If nobody drives that, or it
    /// has been shut down, `on_disconnect` is begun and dropped at its first await, and nothing is flushed.
    ///
    /// # Cancel safety
    /// Dropped before its first poll, it has done nothing; later, the connection is removed at once.
    pub async fn disconnect(&self, addr: SocketAddr) -> bool {
        lifecycle::disconnect(&self.0, addr).await
    }

    /// Returns the addresses of the peers whose connections are live, those being ended included.
    pub fn connected_addrs(&self) -> Vec<SocketAddr> {
        self.0.registry.addrs()
    }

    /// Tells whether there is a live connection with the address, or one that is being ended.
    ///
    /// Inside a hook of a connection its own address means that connection, and no successor at the same address.
    pub fn is_connected(&self, addr: SocketAddr) -> bool {
        self.0.is_connected(addr)
    }

    /// Tells whether a connection with the address is being set up.
    pub fn is_connecting(&self, addr: SocketAddr) -> bool {
        self.0.registry.is_connecting(addr)
    }

    /// Returns the number of live connections, those being ended included.
    pub fn num_connected(&self) -> usize {
        self.0.registry.counts().live
    }

    /// Returns the number of connections that are being set up.
    pub fn num_connecting(&self) -> usize {
        self.0.registry.counts().pending
    }

    /// Returns the facts about the live connection with an address.
    ///
    /// Inside a hook of a connection its own address means that connection, and no successor at the same address.
    pub fn connection_info(&self, addr: SocketAddr) -> Option<ConnectionInfo> {
        self.0.connection_at(addr).map(|live| live.info().clone())
    }

    /// Returns the facts about all live connections.
    pub fn connection_infos(&self) -> HashMap<SocketAddr, ConnectionInfo> {
        self.0.registry.all().into_iter().map(|(addr, live)| (addr, live.info().clone())).collect()
    }

    /// Ends everything: the listener, the setups, all connections side by side, and the hooks. Final; later calls of
    /// anything fail with [`ShuttingDown`](crate::ShuttingDown) or do nothing.
    ///
    /// When it returns, none of the node's tasks runs (except for an `on_connect` that is not abortable), none of its
    /// sockets is open, and the last `Node` frees the rest. Only a `connect` that is still held keeps its socket until its
    /// next poll, which fails, or its drop, and tasks on a runtime that nobody drives keep theirs; the listening socket is
    /// closed whoever drives what. It takes at most `OnDisconnect::TIMEOUT_MS`, a second for flushing and a second
    /// for tasks to be dropped. Where that timeout is `u64::MAX`, it waits without a bound for the hooks that this call
    /// began, and for those that others began at most 3 seconds. Concurrent calls all wait for the same end.
    ///
    /// Outside of a tokio runtime its timers are those of a connection's runtime that is driven. If there is none, nothing is
    /// flushed or waited for, and each `on_disconnect` is begun and dropped at its first await.
    ///
    /// From inside one of the node's hooks it closes the node, leaves the rest to a task, and returns; another call, from
    /// outside, waits for that task's work.
    ///
    /// # Cancel safety
    /// Once it has been polled, the node is closed. Dropped then, it releases at once the connections that it was ending;
    /// another call finishes the rest.
    pub async fn shut_down(&self) {
        lifecycle::shut_down(&self.0).await;
    }
}
