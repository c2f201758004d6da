//! Multiaddrs of the one kind that this node can use: `/ip4/../tcp/../p2p/PEERID`, or `/ip6/..`.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use libp2p_identity::PeerId;
use multiaddr::{Multiaddr, Protocol};

/// Takes a multiaddr apart; the peer id may be missing.
pub fn parse(multiaddr: &Multiaddr) -> io::Result<(SocketAddr, Option<PeerId>)> {
    let parts: Vec<_> = multiaddr.iter().collect();
    let (ip, port, peer): (IpAddr, _, _) = match parts[..] {
        [Protocol::Ip4(ip), Protocol::Tcp(port)] => (ip.into(), port, None),
        [Protocol::Ip6(ip), Protocol::Tcp(port)] => (ip.into(), port, None),
        [Protocol::Ip4(ip), Protocol::Tcp(port), Protocol::P2p(peer)] => (ip.into(), port, Some(peer)),
        [Protocol::Ip6(ip), Protocol::Tcp(port), Protocol::P2p(peer)] => (ip.into(), port, Some(peer)),
        _ => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{multiaddr} is not of the form /ip4/../tcp/../p2p/PEERID"),
            ));
        }
    };
    Ok((SocketAddr::new(ip, port), peer))
}

/// Puts a multiaddr together.
pub fn format(addr: SocketAddr) -> Multiaddr {
    Multiaddr::from(addr.ip()).with(Protocol::Tcp(addr.port()))
}

/// The same, with the peer id.
pub fn format_with_peer(addr: SocketAddr, peer: PeerId) -> Multiaddr {
    format(addr).with(Protocol::P2p(peer))
}
