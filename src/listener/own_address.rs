//! Which addresses mean the node's own listening socket. Sends nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use crate::host::Host;

/// Whether a dial to the address reaches a socket that listens at `bound`. A mapped IPv4 address counts as the IPv4 address.
///
/// `0.0.0.0` stands for all IPv4 addresses of this host and for no IPv6 address. `[::]` stands for all IPv6 addresses, and,
/// with `takes_ipv4`, for those of IPv4 too. Somebody else may listen at the same port of the other family.
pub(super) fn reaches(addr: SocketAddr, bound: SocketAddr, takes_ipv4: bool) -> bool {
    if addr.port() != bound.port() {
        return false;
    }
    let (own, target) = (bound.ip().to_canonical(), target_of(addr));
    if !own.is_unspecified() {
        return Host::of(bound) == Host::of(target);
    }
    let is_taken = if target.is_ipv4() { own.is_ipv4() || takes_ipv4 } else { own.is_ipv6() };
    is_taken && (target.ip().is_loopback() || is_of_this_host(target))
}

/// Where a dial goes: to dial the unspecified address reaches the loopback address of its family.
fn target_of(mut addr: SocketAddr) -> SocketAddr {
    addr.set_ip(match addr.ip().to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    });
    addr
}

/// Whether an address is one of this host's own: a socket can be bound to it. The source that the system takes for a dial to
/// it is not enough to tell: for the second address of a subnet it may be the first one.
fn is_of_this_host(addr: SocketAddr) -> bool {
    let can_be_bound = UdpSocket::bind(with_port(addr, 0)).and_then(|socket| socket.connect(addr)).is_ok();
    can_be_bound && !addr.ip().is_multicast() && (!binds_foreign_addresses(addr) || is_its_own_source(addr))
}

/// Whether the system binds sockets to addresses that it does not have (on Linux, `ip_nonlocal_bind`).
fn binds_foreign_addresses(addr: SocketAddr) -> bool {
    // Reserved, and given to nobody: the dummy address of RFC 7600, the discard prefix of RFC 6666.
    let nobodys = match addr {
        SocketAddr::V4(_) => IpAddr::from([192, 0, 0, 8]),
        SocketAddr::V6(_) => IpAddr::from([0x100, 0, 0, 0, 0, 0, 0, 1]),
    };
    UdpSocket::bind((nobodys, 0)).is_ok()
}

/// Whether the system would dial the address from that very address.
fn is_its_own_source(addr: SocketAddr) -> bool {
    let anywhere: IpAddr = match addr {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let source = UdpSocket::bind((anywhere, 0)).and_then(|socket| {
        socket.connect(addr)?;
        socket.local_addr()
    });
    source.is_ok_and(|source| source.ip() == addr.ip())
}

fn with_port(mut addr: SocketAddr, port: u16) -> SocketAddr {
    addr.set_port(port);
    addr
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reached(addr: &str, bound: &str, takes_ipv4: bool) -> bool {
        reaches(addr.parse().unwrap(), bound.parse().unwrap(), takes_ipv4)
    }

    #[test]
    fn a_wildcard_stands_for_its_own_family() {
        for (addr, bound, takes_ipv4, is_own) in [
            ("127.0.0.1:1", "0.0.0.0:1", false, true),
            ("127.0.0.1:2", "0.0.0.0:1", false, false),
            ("127.9.0.1:1", "0.0.0.0:1", false, true),
            ("0.0.0.0:1", "0.0.0.0:1", false, true),
            ("[::ffff:127.0.0.1]:1", "0.0.0.0:1", false, true),
            ("[::ffff:0.0.0.0]:1", "0.0.0.0:1", false, true),
            ("[::1]:1", "0.0.0.0:1", false, false),
            ("[::]:1", "0.0.0.0:1", false, false),
            ("[::1]:1", "[::]:1", true, true),
            ("[::]:1", "[::]:1", true, true),
            ("127.0.0.1:1", "[::]:1", true, true),
            ("[::ffff:127.0.0.1]:1", "[::]:1", true, true),
            ("0.0.0.0:1", "[::]:1", true, true),
            ("[::1]:1", "[::]:1", false, true),
            ("127.0.0.1:1", "[::]:1", false, false),
            ("[::ffff:127.0.0.1]:1", "[::]:1", false, false),
            ("0.0.0.0:1", "[::]:1", false, false),
            // Reserved for documentation, so of no host.
            ("203.0.113.7:1", "0.0.0.0:1", false, false),
            ("[2001:db8::7]:1", "[::]:1", true, false),
            ("239.1.2.3:1", "0.0.0.0:1", false, false),
            ("255.255.255.255:1", "0.0.0.0:1", false, false),
        ] {
            assert_eq!(reached(addr, bound, takes_ipv4), is_own, "{addr}, bound to {bound}, IPv4 too: {takes_ipv4}");
        }
    }

    #[test]
    fn a_single_address_stands_for_itself() {
        for (addr, bound, is_own) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("[::ffff:127.0.0.1]:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "[::ffff:127.0.0.1]:1", true),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("0.0.0.0:1", "127.0.0.5:1", false),
            ("127.0.0.2:1", "127.0.0.1:1", false),
            ("[::1]:1", "127.0.0.1:1", false),
            ("[::]:1", "127.0.0.1:1", false),
            ("[::]:1", "[::1]:1", true),
            ("0.0.0.0:1", "[::1]:1", false),
            ("[fe80::1%2]:1", "[fe80::1%2]:1", true),
            ("[fe80::1%3]:1", "[fe80::1%2]:1", false),
        ] {
            assert_eq!(reached(addr, bound, false), is_own, "{addr}, bound to {bound}");
        }
    }
}
