//! Rows 4, 5, 7 and 9: crowds that come and go, and crowds that want in.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    time::{Duration, Instant},
};

use pea2pea::{Config, Pea2Pea};
use tokio::{io::AsyncWriteExt, task::JoinSet};

use crate::{
    common::{setups::dial_from, wire::Random},
    frames,
    kit::{
        Verdict, attack, ensure, sized,
        stage::{Stage, holds_within},
        victim::{Calm, Polite, Temper, Victim},
    },
    row,
};

const LIMIT: usize = 50;

/// Looks at the victim's numbers all the time while something goes on.
fn while_looking<T: Temper, O>(victim: &Victim<T>, something: impl FnOnce() -> O) -> O {
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(SeqCst) {
                victim.seen.look(victim.node());
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        let output = something();
        is_done.store(true, SeqCst);
        output
    })
}

/// The peaks that were found, or which of them is over the limit.
fn peaks<T: Temper>(victim: &Victim<T>) -> Verdict {
    let peaks = [&victim.seen.peak_connected, &victim.seen.peak_connecting].map(|peak| peak.load(SeqCst));
    ensure(peaks.iter().all(|peak| *peak <= LIMIT), || format!("over the limit of {LIMIT}: {peaks:?}"))?;
    Ok(format!("peaks {peaks:?} of {LIMIT}"))
}

/// Peers that connect and close at once, many at a time.
fn churn<const LIMIT: u16>(stage: &Stage) -> Verdict {
    const AT_A_TIME: usize = 100;
    let rounds = sized(2_000, 20_000) / AT_A_TIME;
    let (victim, addr) = stage.victim::<Calm>(Config { max_connections: LIMIT, ..attack::config(4) });
    let watch = stage.watch::<Calm>(addr);
    let since = Instant::now();
    let injected = while_looking(&victim, || {
        stage.attack(async {
            let mut injected = 0;
            for round in 0..rounds {
                let mut dials = JoinSet::new();
                for number in 0..AT_A_TIME {
                    dials.spawn(async move { attack::dial(round * AT_A_TIME + number, addr).await });
                }
                injected += dials.join_all().await.len();
            }
            injected
        })
    });
    let took = since.elapsed();
    ensure(injected == rounds * AT_A_TIME, || format!("only {injected} were injected"))?;
    let peaks = peaks(&victim)?;
    let rejected = || victim.node().heuristics().inbound_connections_rejected() as usize;
    holds_within(Duration::from_secs(5), "all are served or rejected, and the bystander alone is left", || {
        victim.on_connects() + rejected() == injected + 1 && victim.is_settled(1)
    })?;
    let rejected = rejected();
    watch.verdict(format_args!("{injected} came and went in {took:.1?}, {rejected} rejected, {peaks}"))
}

row!(row_04_peers_that_come_and_go_leave_nothing, churn::<{ LIMIT as u16 }>, [
    "the limit" off: churn::<5_000> => "over the limit",
]);

/// A temper that does not notice when a connection ends.
#[derive(Clone)]
struct Blind;

impl Temper for Blind {
    const GREETING: Option<&'static [u8]> = Some(b"g");
    const READS: bool = false;

    frames!();
}

/// Peers that reset their connections: before they are accepted, in the handshake, when live, in the middle of a frame.
fn resets(stage: &Stage) -> Verdict {
    resets_of::<Polite>(stage, sized(2_000, 10_000))
}

fn resets_of<T: Temper>(stage: &Stage, total: usize) -> Verdict {
    const AT_A_TIME: usize = 100;
    let (victim, addr) = stage.victim::<T>(attack::config(5));
    let watch = T::READS.then(|| stage.watch::<T>(addr));
    let injected = stage.attack(async {
        let injected: [AtomicUsize; 4] = Default::default();
        let injected = std::sync::Arc::new(injected);
        for round in 0..total / AT_A_TIME {
            let mut attackers = JoinSet::new();
            for number in 0..AT_A_TIME {
                let number = round * AT_A_TIME + number;
                let (injected, mut random) = (std::sync::Arc::clone(&injected), Random::new(number as u64));
                attackers.spawn(async move {
                    let mut stream = attack::dial(number, addr).await;
                    let phase = random.below(4);
                    for _ in 0..random.below(4) {
                        tokio::task::yield_now().await;
                    }
                    if phase >= 1 {
                        tokio::time::sleep(Duration::from_millis(random.below(10) as u64)).await;
                    }
                    if phase >= 2 {
                        _ = stream.write_all(T::GREETING.unwrap_or_default()).await;
                        tokio::time::sleep(Duration::from_millis(random.below(10) as u64)).await;
                    }
                    if phase >= 3 {
                        _ = stream.write_all(&[0, 0, 1, 0, 7]).await;
                    }
                    attack::reset(stream);
                    injected[phase].fetch_add(1, SeqCst);
                });
            }
            attackers.join_all().await;
        }
        injected.each_ref().map(|count| count.load(SeqCst))
    });
    ensure(injected.iter().sum::<usize>() == total && injected.iter().all(|count| *count > total / 8), || {
        format!("unevenly injected: {injected:?}")
    })?;
    let everybody = usize::from(T::READS);
    holds_within(Duration::from_secs(3), "nobody but the bystander is left", || victim.is_settled(everybody))?;
    let accept_errors = victim.node().heuristics().accept_errors();
    ensure(accept_errors == 0, || format!("{accept_errors} accept errors"))?;
    let (on_connects, on_disconnects) = (victim.on_connects(), victim.on_disconnects());
    ensure(on_connects == on_disconnects + 1, || format!("{on_connects} went live, {on_disconnects} ended"))?;
    ensure(on_disconnects > total / 4, || format!("only {on_disconnects} were live"))?;
    let stream = stage.attack(attack::dial_politely::<T>(0, addr));
    holds_within(Duration::from_secs(5), "the listener is alive", || victim.is_settled(2))?;
    drop(stream);
    watch.ok_or("nobody watched")?.verdict(format_args!("{injected:?} resets by phase, {on_disconnects} of them live"))
}

/// Nothing of the victim notices that its peers are gone.
fn unnoticed_resets(stage: &Stage) -> Verdict {
    resets_of::<Blind>(stage, 200)
}

row!(row_05_resets_at_any_time_leave_nothing, resets, [
    "anybody who notices" off: unnoticed_resets => "nobody but the bystander is left",
]);

/// Many dials from one address, with few places for each; somebody from another address gets in meanwhile.
fn one_address<const PLACES: u16>(stage: &Stage) -> Verdict {
    const DIALS: usize = 50;
    // A busy machine gets more than the 100 ms of the matrix.
    const QUICKLY: Duration = Duration::from_millis(500);

    let (victim, addr) = stage.victim::<Calm>(Config { max_connections_per_ip: PLACES, ..attack::config(7) });
    let watch = stage.watch::<Calm>(addr);
    let (mut flood, entered, rejected) = stage.attack(async {
        let mut flood = Vec::new();
        for _ in 0..DIALS {
            flood.push(attack::dial(1, addr).await);
        }
        let since = Instant::now();
        // The flood may still be queued: whoever comes last is the last to be looked at.
        let mut other = attack::dial(2, addr).await;
        other.write_all(&[0, 0, 0, 1, 7]).await.unwrap();
        let mut reply = [0; 5];
        tokio::io::AsyncReadExt::read_exact(&mut other, &mut reply).await.unwrap();
        let entered = since.elapsed();
        let mut rejected = 0;
        for stream in &mut flood {
            rejected += usize::from(attack::closed_within(Duration::from_millis(100), stream).await.is_some());
        }
        (flood, entered, rejected)
    });
    let ip: IpAddr = attack::source(1);
    let live = victim.node().connected_addrs().iter().filter(|addr| addr.ip() == ip).count();
    flood.clear();
    ensure(live == 1, || format!("{live} live connections from one address"))?;
    ensure(rejected == DIALS - 1, || format!("{rejected} of {DIALS} saw their end"))?;
    ensure(entered <= QUICKLY, || format!("somebody else got in after {entered:?}"))?;
    watch.verdict(format_args!("{live} of {DIALS} live, somebody else got in after {entered:.1?}"))
}

row!(row_07_one_address_gets_as_many_places_as_it_may_have, one_address::<1>, [
    "the limit per address" off: one_address::<50> => "50 live connections",
]);

/// A crowd that wants in and stays.
fn crowd<const LIMIT: u16>(stage: &Stage) -> Verdict {
    const AT_A_TIME: usize = 500;
    let diallers = sized(2_000, 20_000);
    let (victim, addr) = stage.victim::<Calm>(Config { max_connections: LIMIT, ..attack::config(9) });
    let watch = stage.watch::<Calm>(addr);
    let served = while_looking(&victim, || {
        stage.attack(async {
            let mut served = Vec::new();
            for wave in 0..diallers / AT_A_TIME {
                let mut dials = JoinSet::new();
                for number in 0..AT_A_TIME {
                    dials.spawn(async move {
                        let mut stream = dial_from(attack::source(wave * AT_A_TIME + number), addr).await.unwrap();
                        // An echo, or the end.
                        _ = stream.write_all(&[0, 0, 0, 1, 7]).await;
                        let mut reply = [0; 5];
                        let reading = tokio::io::AsyncReadExt::read_exact(&mut stream, &mut reply);
                        reading.await.is_ok().then_some(stream)
                    });
                }
                served.extend(dials.join_all().await.into_iter().flatten());
            }
            served
        })
    });
    let peaks = peaks(&victim)?;
    let (live, stay) = (victim.node().num_connected(), served.len() + 1);
    ensure(live == self::LIMIT && stay == self::LIMIT, || format!("{live} live in the end, {stay} served"))?;
    let peak = victim.seen.peak_connected.load(SeqCst);
    ensure(peak == self::LIMIT, || format!("{peak} live at most"))?;
    let rejected = victim.node().heuristics().inbound_connections_rejected() as usize;
    ensure(rejected + served.len() == diallers, || format!("{rejected} rejected, {} served", served.len()))?;
    drop(served);
    watch.verdict(format_args!("{rejected} of {diallers} rejected, {peaks}"))
}

row!(row_09_a_crowd_gets_as_many_places_as_there_are, crowd::<{ LIMIT as u16 }>, [
    "the limit" off: crowd::<200> => "over the limit",
]);
