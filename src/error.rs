//! Every `io::Error` that the crate itself makes, in one table, and the payload of those that a shutdown causes.

use std::{
    error::Error,
    fmt,
    io::{self, ErrorKind},
    net::SocketAddr,
};

use crate::{
    host::Host,
    panics::{Panicked, catch},
};

/// The payload of the errors that calls return because their node is shutting down, or has shut down.
///
/// ```
/// # use pea2pea::{Config, Node, ShuttingDown};
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let node = Node::new(Config::default());
/// node.shut_down().await;
/// let error = node.connect("127.0.0.1:1".parse().unwrap()).await.unwrap_err();
/// assert!(ShuttingDown::caused(&error));
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShuttingDown;

impl ShuttingDown {
    /// Tells whether the error was caused by the shutdown of a node.
    pub fn caused(err: &io::Error) -> bool {
        err.get_ref().is_some_and(|payload| payload.is::<Self>())
    }
}

impl fmt::Display for ShuttingDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the node is shutting down")
    }
}

impl Error for ShuttingDown {}

fn new(kind: ErrorKind, message: String) -> io::Error {
    io::Error::new(kind, message)
}

// --- the node as a whole ---

pub(crate) fn shutting_down() -> io::Error {
    io::Error::other(ShuttingDown)
}

pub(crate) fn no_runtime(what: &str) -> io::Error {
    io::Error::other(format!("{what} needs a tokio runtime with I/O and time enabled, and is called outside of one"))
}

pub(crate) fn no_listener_addr() -> io::Error {
    new(ErrorKind::AddrNotAvailable, "the node cannot listen: Config::listener_addr is None".into())
}

pub(crate) fn not_listening() -> io::Error {
    new(ErrorKind::AddrNotAvailable, "the node is not listening: call toggle_listener first".into())
}

#[cfg_attr(all(unix, not(any(target_os = "solaris", target_os = "illumos", target_os = "cygwin"))), expect(dead_code))]
pub(crate) fn no_port_reuse() -> io::Error {
    new(ErrorKind::Unsupported, "Config::reuse_listener_port: this platform has no SO_REUSEPORT".into())
}

pub(crate) fn invalid_topology(reason: String) -> io::Error {
    new(ErrorKind::InvalidInput, reason)
}

// --- setting up a connection ---

pub(crate) fn self_connect(addr: SocketAddr) -> io::Error {
    new(ErrorKind::AddrInUse, format!("{addr} is the node's own address"))
}

pub(crate) fn already_exists(addr: SocketAddr) -> io::Error {
    new(
        ErrorKind::AlreadyExists,
        format!("there already is a connection with {addr}, or one that is beginning or ending"),
    )
}

pub(crate) fn ip_limit(addr: SocketAddr, ip: Host, limit: u16) -> io::Error {
    let message = format!("{addr} would exceed Config::max_connections_per_ip, which is {limit}, for {ip}");
    new(ErrorKind::QuotaExceeded, message)
}

pub(crate) fn node_limit(addr: SocketAddr, limit: u16) -> io::Error {
    new(ErrorKind::QuotaExceeded, format!("{addr} would exceed Config::max_connections, which is {limit}"))
}

pub(crate) fn setup_budget(addr: SocketAddr, limit: u16) -> io::Error {
    let message =
        format!("{addr} cannot be dialled now: Config::max_connecting, which is {limit}, setups are in flight");
    new(ErrorKind::QuotaExceeded, message)
}

pub(crate) fn dial_timeout(addr: SocketAddr, limit_ms: u16) -> io::Error {
    new(ErrorKind::TimedOut, format!("{addr} did not answer within Config::connection_timeout_ms, which is {limit_ms}"))
}

pub(crate) fn handshake_timeout(addr: SocketAddr, limit_ms: u64) -> io::Error {
    let message = format!("the handshake with {addr} took longer than Handshake::TIMEOUT_MS, which is {limit_ms}");
    new(ErrorKind::TimedOut, message)
}

pub(crate) fn panicked(hook: &str, addr: SocketAddr, panicked: &Panicked) -> io::Error {
    io::Error::other(format!("{hook} panicked on the connection with {addr}: {}", panicked.0))
}

pub(crate) fn foreign_connection(addr: SocketAddr) -> io::Error {
    io::Error::other(format!("perform_handshake for {addr} returned another Connection than the one it was given"))
}

pub(crate) fn stream_not_returned(addr: SocketAddr) -> io::Error {
    let message = format!(
        "the handshake took the stream with {addr} and did not give it back: Reading and Writing need return_stream"
    );
    io::Error::other(message)
}

// --- reading and writing ---

pub(crate) fn no_progress(limit: u32) -> io::Error {
    new(
        ErrorKind::InvalidData,
        format!("the decoder returned more than {limit} messages in a row without consuming a byte"),
    )
}

pub(crate) fn write_zero() -> io::Error {
    new(ErrorKind::WriteZero, "the stream takes no more bytes".into())
}

pub(crate) fn flush_timeout() -> io::Error {
    new(ErrorKind::TimedOut, "the peer did not take the batch within Writing::TIMEOUT_MS".into())
}

pub(crate) fn writer_panicked(panicked: &Panicked) -> io::Error {
    io::Error::other(format!("the encoder or the stream panicked: {}", panicked.0))
}

/// The text of an error that may be the user's own, and whose `Display` may panic.
pub(crate) fn describe(error: &io::Error) -> String {
    catch(|| error.to_string()).unwrap_or_else(|panicked| format!("(an error that cannot be shown: {})", panicked.0))
}

/// Makes a second error that says the same, for another receipt of the same batch.
pub(crate) fn duplicate(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| new(error.kind(), describe(error)), io::Error::from_raw_os_error)
}

// --- sending ---

pub(crate) fn not_connected(addr: SocketAddr) -> io::Error {
    new(ErrorKind::NotConnected, format!("there is no connection with {addr}"))
}

pub(crate) fn older_than_writing(addr: SocketAddr) -> io::Error {
    let message = format!("Writing was enabled after this connection, with {addr}, was set up: it takes no messages");
    new(ErrorKind::NotConnected, message)
}

pub(crate) fn no_peers_after_shutdown() -> io::Error {
    new(ErrorKind::NotConnected, "the node has shut down".into())
}

/// Formatted only when shown: a sender may meet it many times a millisecond.
#[derive(Debug)]
struct QueueFull {
    /// The peer whose queue it is.
    addr: SocketAddr,
    /// How many messages it takes.
    depth: usize,
}

impl fmt::Display for QueueFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { addr, depth } = self;
        write!(f, "the outbound queue of {addr} is full: it takes Writing::MESSAGE_QUEUE_DEPTH, {depth}, messages")
    }
}

impl Error for QueueFull {}

pub(crate) fn queue_full(addr: SocketAddr, depth: usize) -> io::Error {
    io::Error::new(ErrorKind::QuotaExceeded, QueueFull { addr, depth })
}

pub(crate) fn writer_gone(addr: SocketAddr) -> io::Error {
    new(ErrorKind::BrokenPipe, format!("the connection with {addr} is ending and takes no more messages"))
}

pub(crate) fn writing_unsupported() -> io::Error {
    new(ErrorKind::Unsupported, "Writing is not enabled on this node, or with another Message type".into())
}
