//! Row 23: sockets that the OS kills, that of the listener too.

use std::{collections::HashMap, net::SocketAddr, sync::Mutex, time::Duration};

use pea2pea::{DisconnectOrigin, Pea2Pea};

use crate::{
    frames,
    kit::{
        Verdict, attack, ensure, logs,
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

/// The OS kills the listening socket; or, as the canary, does not.
fn killed_listener<const KILLED: bool>(stage: &Stage) -> Verdict {
    set_up();
    let (victim, addr) = stage.victim::<Noting<true>>(attack::config(23));
    let stream = stage.attack(attack::dial(0, addr));
    holds_within(Duration::from_secs(5), "one is connected", || victim.is_settled(1))?;
    if KILLED {
        run(&format!("ss -K -Hltn sport = :{}", addr.port()));
    }
    let is_listening = || stage.inside(victim.node().listening_addr()).is_ok();
    let noticed = holds_within(Duration::from_secs(5), "listening_addr says so", || !is_listening())?;
    // A busy loop would count them, and the lines of its log.
    let errors = || victim.node().heuristics().accept_errors();
    holds_within(Duration::from_secs(5), "the accept loop gives up", || errors() > 0)?;
    let counted = errors();
    std::thread::sleep(Duration::from_millis(1_000));
    ensure(errors() == counted && counted <= 3, || format!("accept errors: {counted}, then {}", errors()))?;
    let said = logs::evidence();
    ensure(said.len() == 1 && said[0].contains("revoked"), || format!("the log: {said:?}"))?;
    ensure(victim.is_settled(1), || "its connections do not outlive it".into())?;
    drop(stream);
    let again = stage.inside(victim.node().toggle_listener()).map_err(|error| error.to_string())?;
    let again = again.ok_or("it was on")?;
    ensure(stage.inside(victim.node().listening_addr()).ok() == Some(again), || "it is not listening anew".into())?;
    let _stream = stage.attack(attack::dial(1, again));
    holds_within(Duration::from_secs(5), "it accepts anew", || victim.is_settled(1))?;
    Ok(format!("noticed after {noticed:.1?}, {counted} accept errors"))
}

netns_row!(row_23_a_killed_listener_is_noticed_once_and_can_be_switched_on_anew, killed_listener::<true>, [
    "the kill" off: killed_listener::<false> => "listening_addr says so",
]);
