//! Rows 8 and 10: one peer under two kinds of address, and a node that dials itself.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use pea2pea::{Config, Pea2Pea};
use tokio::net::{TcpListener, TcpSocket};

use crate::{
    common::setups::dial_from,
    kit::{
        Verdict, attack, ensure,
        stage::{Stage, holds_within},
        victim::Calm,
    },
    row,
};

const SOON: Duration = Duration::from_secs(5);

/// An IPv4 peer, seen by a dual-stack listener as a mapped address, also dialled as an IPv4 and as a mapped address.
fn mapped<const PLACES: u16>(stage: &Stage) -> Verdict {
    let config =
        Config { listener_addr: Some("[::]:0".parse().unwrap()), max_connections_per_ip: PLACES, ..attack::config(0) };
    let (victim, bound) = stage.victim::<Calm>(config);
    let node = victim.node();
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, bound.port()));
    let watch = stage.watch::<Calm>(addr);
    let peer = Ipv4Addr::new(127, 0, 82, 8);
    let (listener, here) = stage.attack(async {
        let listener = TcpListener::bind((peer, 0)).await.unwrap();
        let here = listener.local_addr().unwrap();
        (listener, here)
    });
    let forms = [here, SocketAddr::from((peer.to_ipv6_mapped(), here.port()))];

    let mut accepted = stage.attack(dial_from(peer.into(), addr)).unwrap();
    holds_within(SOON, "one is accepted", || victim.is_settled(2))?;
    let ip = node.connected_addrs().into_iter().map(|addr| addr.ip()).find(|ip| ip.to_canonical() == IpAddr::V4(peer));
    ensure(ip.is_some_and(|ip| ip.is_ipv6()), || format!("the peer is no mapped address: {ip:?}"))?;
    for form in forms {
        let dialled = stage.inside(node.connect(form)).map_err(|error| error.kind());
        ensure(dialled == Err(ErrorKind::QuotaExceeded), || format!("{form} got a second place: {dialled:?}"))?;
    }
    let mut second = stage.attack(dial_from(peer.into(), addr)).unwrap();
    let rejected = stage.attack(attack::closed_within(SOON, &mut second));
    ensure(rejected.is_some(), || "a second place for an accepted peer".into())?;

    // The other way round: first dialled, then it dials.
    for form in forms {
        stage.attack(async { tokio::io::AsyncWriteExt::shutdown(&mut accepted).await }).unwrap();
        holds_within(SOON, "the peer has left", || victim.is_settled(1))?;
        stage.inside(node.connect(form)).map_err(|error| format!("{form}: {error}"))?;
        let mut dialler = stage.attack(dial_from(peer.into(), addr)).unwrap();
        let rejected = stage.attack(attack::closed_within(SOON, &mut dialler));
        ensure(rejected.is_some(), || format!("a second place for a peer dialled as {form}"))?;
        ensure(stage.inside(node.disconnect(form)), || format!("{form} is not there"))?;
        accepted = stage.attack(dial_from(peer.into(), addr)).unwrap();
        holds_within(SOON, "it gets its place back", || victim.is_settled(2))?;
    }
    drop((accepted, second, listener));
    watch.verdict("one place for both forms, dialled and accepted")
}

row!(row_08_a_mapped_address_has_no_place_of_its_own, mapped::<1>, [
    "the limit per address" off: mapped::<2> => "got a second place",
]);

/// A node dials itself, or, as the canary, a twin that listens where it would.
fn dials<const ITSELF: bool>(stage: &Stage) -> Verdict {
    let mut refused = 0;
    for (bound_to, dialled) in [
        ("127.0.81.10", vec!["127.0.81.10", "::ffff:127.0.81.10"]),
        ("127.0.0.1", vec!["127.0.0.1", "::ffff:127.0.0.1", "0.0.0.0"]),
        ("0.0.0.0", vec!["0.0.0.0", "127.0.0.1", "127.0.0.53", "127.250.250.250", "::ffff:127.0.0.1"]),
        ("::", vec!["::", "::1", "127.0.0.1", "127.9.9.9", "::ffff:127.0.0.1"]),
        ("::1", vec!["::1", "::"]),
    ] {
        let listener_addr = Some(SocketAddr::new(bound_to.parse().unwrap(), 0));
        let (victim, bound) = stage.victim::<Calm>(Config { listener_addr, ..attack::config(0) });
        let reachable = if bound.ip().is_unspecified() { IpAddr::from(Ipv4Addr::LOCALHOST) } else { bound.ip() };
        let stream = stage.attack(tokio::net::TcpStream::connect((reachable, bound.port()))).unwrap();
        let watch = stage.watch_over::<Calm>(stream.into_std().unwrap());
        let twin = stage.inside(crate::kit::victim::Victim::<Calm>::new(attack::config(0)));
        let node = if ITSELF { victim.node() } else { twin.node() };
        for ip in dialled {
            let target = SocketAddr::new(ip.parse().unwrap(), bound.port());
            let socket = if target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
            let results = stage.inside(async {
                [node.connect(target).await, node.connect_using_socket(target, socket.unwrap()).await]
            });
            for result in results {
                let result = result.map_err(|error| error.kind());
                ensure(result == Err(ErrorKind::AddrInUse), || format!("{target}, bound to {bound}: {result:?}"))?;
                refused += 1;
            }
        }
        ensure(victim.is_settled(1) && victim.on_connects() == 1, || format!("something is left at {bound}"))?;
        watch.verdict("")?;
    }
    // A socket that finds itself: TCP allows two sides to open at once, even if they are the same.
    let (victim, addr) = stage.victim::<Calm>(attack::config(10));
    let watch = stage.watch::<Calm>(addr);
    let result = stage.inside(async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.82.10:0".parse().unwrap()).unwrap();
        let itself = socket.local_addr().unwrap();
        victim.node().connect_using_socket(itself, socket).await
    });
    let result = result.map_err(|error| error.kind());
    ensure(result == Err(ErrorKind::AddrInUse), || format!("a socket that finds itself: {result:?}"))?;
    watch.verdict(format_args!("{} dials of the own address refused", refused + 1))
}

row!(row_10_a_node_does_not_connect_to_itself, dials::<true>, [
    "being the same node" off: dials::<false> => "Ok(())",
]);
