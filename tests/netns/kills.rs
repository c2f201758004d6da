//! Row 23: sockets that the OS kills.

use std::{collections::HashMap, net::SocketAddr, sync::Mutex, time::Duration};

use pea2pea::DisconnectOrigin;

use crate::{
    frames,
    kit::{
        Verdict, attack, ensure,
        stage::{Stage, holds_within},
        victim::{Temper, Victim},
    },
    namespace::{run, set_up},
    netns_row,
};

/// How often `on_disconnect` began for each connection.
static ENDS: Mutex<Option<HashMap<SocketAddr, usize>>> = Mutex::new(None);

/// Notices the end of connections, or not.
#[derive(Clone)]
struct Noting<const READS: bool>;

impl<const READS: bool> Temper for Noting<READS> {
    const READS: bool = READS;

    frames!();

    async fn ending(_: &Victim<Self>, addr: SocketAddr, _: DisconnectOrigin) {
        if let Some(ends) = &mut *ENDS.lock().unwrap() {
            *ends.entry(addr).or_default() += 1;
        }
    }
}

fn killed<const READS: bool>(stage: &Stage) -> Verdict {
    const SOCKETS: usize = 100;
    set_up();
    *ENDS.lock().unwrap() = Some(HashMap::with_capacity(4 * SOCKETS));
    let (victim, addr) = stage.victim::<Noting<READS>>(attack::config(23));
    let watch = READS.then(|| stage.watch::<Noting<READS>>(addr));
    let streams = stage.attack(async {
        let mut streams = Vec::new();
        for number in 0..SOCKETS {
            streams.push(attack::dial(number, addr).await);
        }
        streams
    });
    let others = usize::from(READS);
    holds_within(Duration::from_secs(5), "all are connected", || victim.is_settled(SOCKETS + others))?;
    // The victim's sockets, known by their peers.
    let killed = run(&format!("ss -K -Htn state established sport = :{} dst 127.100.0.0/16", addr.port()));
    let killed = killed.lines().filter(|line| !line.is_empty()).count();
    ensure(killed == SOCKETS, || format!("{killed} sockets were killed"))?;
    let noticed = holds_within(Duration::from_secs(5), "all ends are noticed", || victim.is_settled(others))?;
    drop(streams);
    let ends = ENDS.lock().unwrap().clone().unwrap();
    ensure(ends.len() == SOCKETS && ends.values().all(|count| *count == 1), || format!("on_disconnects: {ends:?}"))?;
    watch.ok_or("nobody watched")?.verdict(format_args!("{killed} killed, all noticed after {noticed:.1?}"))
}

netns_row!(row_23_killed_sockets_end_their_connections_once_each, killed::<true>, [
    "anybody who notices" off: killed::<false> => "all ends are noticed",
]);
