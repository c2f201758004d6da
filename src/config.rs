//! The settings of a node and their one validation.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The settings of a [`Node`](crate::Node), fixed for its life.
///
/// The cargo feature `test` changes two defaults, so that whole networks fit on one host: `listener_addr` becomes
/// `127.0.0.1:0` and `max_connections_per_ip` becomes 100.
///
/// ```
/// # use pea2pea::Config;
/// let config = Config { name: Some("alice".into()), max_connections: 8, ..Default::default() };
/// assert_eq!(config.listener_backlog, 128);
/// ```
#[derive(Debug, Clone)]
pub struct Config {
    /// The name shown in the node's logs. Default: `None`. A node then takes a number, counted up from 0 in each process,
    /// and its [`config`](crate::Node::config) holds that.
    pub name: Option<String>,
    /// The address that [`Node::toggle_listener`](crate::Node::toggle_listener) binds; port 0 lets the OS choose.
    /// `None`: the node never listens. Default: `0.0.0.0:0`; with feature `test`: `127.0.0.1:0`.
    pub listener_addr: Option<SocketAddr>,
    /// How many connections the OS may hold ready to be accepted, as in `listen(2)`. Default: 128.
    pub listener_backlog: u32,
    /// Lets several sockets listen on one port (`SO_REUSEPORT`). Where the platform has none, listening fails with
    /// `Unsupported`. Default: `false`.
    pub reuse_listener_port: bool,
    /// The most connections at any instant, those being set up included. Default: 100. Must not be 0.
    pub max_connections: u16,
    /// The most connections with one IP address at any instant, those being set up included; an IPv4-mapped IPv6 address
    /// counts as its IPv4 address, and a link-local address is another one on each interface. An accepted connection
    /// beyond it is closed; one of each IP address first waits for up to a second if a former connection is ending.
    /// Default: 1; with feature `test`: 100. Must not be 0.
    pub max_connections_per_ip: u16,
    /// The most connection setups in flight, inbound and outbound together; lowered to `max_connections` where it is
    /// larger. Default: 100. Must not be 0.
    pub max_connecting: u16,
    /// How long the TCP dial of a `connect` may take, in milliseconds, before any handshake. Default: 1000.
    pub connection_timeout_ms: u16,
}

impl Default for Config {
    fn default() -> Self {
        let for_tests = cfg!(feature = "test");
        let ip = if for_tests { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
        Self {
            name: None,
            listener_addr: Some(SocketAddr::new(IpAddr::V4(ip), 0)),
            listener_backlog: 128,
            reuse_listener_port: false,
            max_connections: 100,
            max_connections_per_ip: if for_tests { 100 } else { 1 },
            max_connecting: 100,
            connection_timeout_ms: 1_000,
        }
    }
}

impl Config {
    /// Clamps what is to be clamped.
    ///
    /// # Panics
    /// If one of the `max_*` limits is 0: such a node could never have a connection.
    pub(crate) fn validated(mut self) -> Self {
        for (field, limit) in [
            ("max_connections", self.max_connections),
            ("max_connections_per_ip", self.max_connections_per_ip),
            ("max_connecting", self.max_connecting),
        ] {
            assert!(limit != 0, "Config::{field} is 0: the node could never have a connection; set it to at least 1");
        }
        self.max_connecting = self.max_connecting.min(self.max_connections);
        self
    }
}
