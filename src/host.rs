//! What a limit per IP address counts for, and what it takes for one and the same.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

/// The host of an address: its IP address, in its IPv4 form if it has one. A link-local address is another host's on each
/// interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Host {
    /// The IP address.
    ip: IpAddr,
    /// The interface of a link-local address, or 0.
    scope: u32,
}

impl Host {
    pub(crate) fn of(addr: SocketAddr) -> Self {
        let scope = match addr {
            SocketAddr::V6(addr) if addr.ip().is_unicast_link_local() => addr.scope_id(),
            SocketAddr::V6(_) | SocketAddr::V4(_) => 0,
        };
        Self { ip: addr.ip().to_canonical(), scope }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scope {
            0 => write!(f, "{}", self.ip),
            scope => write!(f, "{}%{scope}", self.ip),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(addr: &str) -> Host {
        Host::of(addr.parse().unwrap())
    }

    #[test]
    fn a_host_has_any_port_and_both_forms_of_an_ipv4_address() {
        assert_eq!(host("10.0.0.1:1"), host("[::ffff:10.0.0.1]:2"));
        assert_ne!(host("10.0.0.1:1"), host("[::10.0.0.1]:1"));
        assert_eq!(host("[2001:db8::1%1]:1"), host("[2001:db8::1%2]:1"));
    }

    #[test]
    fn link_local_addresses_are_told_apart_by_their_interface() {
        assert_eq!(host("[fe80::1%2]:1"), host("[fe80::1%2]:2"));
        assert_ne!(host("[fe80::1%2]:1"), host("[fe80::1%3]:1"));
        assert_eq!(host("[fe80::1%3]:1").to_string(), "fe80::1%3");
    }
}
