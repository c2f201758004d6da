//! Row 10: every address of the host.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use pea2pea::{Config, Pea2Pea};
use tokio::net::TcpSocket;

use crate::{
    kit::{
        Verdict, attack, ensure,
        stage::{Stage, holds_within},
        victim::{Calm, Victim},
    },
    namespace::{run, set_up},
    netns_row,
};

/// Waits until the address is one of this namespace's, which on a busy machine it is not at once: the route of its subnet is
/// there before its own, and until then whoever calls it learns that there is no route. Only a call that arrives shows it.
fn wait_for(addr: &str) -> Result<(), String> {
    let arrives = || {
        TcpListener::bind((addr, 0))
            .and_then(|listener| TcpStream::connect_timeout(&listener.local_addr()?, Duration::from_secs(1)))
            .is_ok()
    };
    holds_within(Duration::from_secs(10), addr, arrives).map(drop)
}

/// A node bound to every address dials each of them; or, as the canary, a twin does.
fn every_address<const ITSELF: bool>(stage: &Stage) -> Verdict {
    set_up();
    for command in [
        "ip addr replace 10.77.0.1/24 dev lo",
        // For the second address of a subnet the system takes the first one as the source of a dial.
        "ip addr replace 10.77.0.2/24 dev lo",
        "ip addr replace 10.78.0.1/32 dev lo",
        "ip addr replace fd77::1/64 dev lo nodad",
    ] {
        run(command);
    }
    wait_for("fd77::1")?;
    wait_for("::1")?;
    let mut refused = 0;
    for (bound_to, dialled) in [
        ("0.0.0.0:0", &["10.77.0.1", "10.77.0.2", "10.78.0.1", "127.0.0.1", "::ffff:10.77.0.2"][..]),
        ("[::]:0", &["10.77.0.1", "10.77.0.2", "10.78.0.1", "fd77::1", "::1", "::ffff:10.77.0.1"]),
    ] {
        let listener_addr = Some(bound_to.parse().unwrap());
        let (victim, bound) = stage.victim::<Calm>(Config { listener_addr, ..attack::config(0) });
        let watch = stage.watch::<Calm>(SocketAddr::from(([127, 0, 0, 1], bound.port())));
        let twin = stage.inside(Victim::<Calm>::new(attack::config(0)));
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
        ensure(victim.node().num_connected() == 1, || format!("something is left at {bound}"))?;
        watch.verdict("")?;
    }
    Ok(format!("{refused} dials of own addresses refused"))
}

netns_row!(row_10_a_node_does_not_connect_to_itself_at_any_address, every_address::<true>, [
    "being the same node" off: every_address::<false> => "Ok(())",
]);

/// A node bound to every address of one family dials somebody else who listens at the same port of the other family; or, as
/// the canary, nobody else does.
fn the_other_family<const IS_THERE: bool>(stage: &Stage) -> Verdict {
    set_up();
    run("ip addr replace 10.77.0.1/24 dev lo");
    run("ip addr replace fd77::1/64 dev lo nodad");
    wait_for("fd77::1")?;
    wait_for("::1")?;
    // Of all new sockets in this namespace.
    std::fs::write("/proc/sys/net/ipv6/bindv6only", "1").map_err(|error| format!("bindv6only: {error}"))?;
    for (bound_to, others, dialled) in [
        ("0.0.0.0:0", "[::]", &["fd77::1", "::1", "::"][..]),
        ("[::]:0", "0.0.0.0", &["10.77.0.1", "127.0.0.1", "0.0.0.0"]),
    ] {
        let listener_addr = Some(bound_to.parse().unwrap());
        let (victim, bound) = stage.victim::<Calm>(Config { listener_addr, ..attack::config(0) });
        let other = format!("{others}:{}", bound.port());
        let _other = IS_THERE.then(|| TcpListener::bind(other)).transpose().map_err(|error| error.to_string())?;
        for ip in dialled {
            let target = SocketAddr::new(ip.parse().unwrap(), bound.port());
            let result = stage.inside(victim.node().connect(target)).map_err(|error| error.kind());
            ensure(result.is_ok(), || format!("{target}, bound to {bound}: {result:?}"))?;
            ensure(stage.inside(victim.node().disconnect(target)), || format!("{target} is gone"))?;
        }
    }
    Ok("all dials of the other family arrived".into())
}

netns_row!(row_10_somebody_else_at_the_same_port_of_the_other_family_is_no_self, the_other_family::<true>, [
    "somebody else" off: the_other_family::<false> => "ConnectionRefused",
]);
