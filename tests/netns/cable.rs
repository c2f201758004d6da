//! Rows 3, 20 and 21: silence. A dial into a black hole, a cable that is pulled, a peer that comes back after it.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    time::{Duration, Instant},
};

use pea2pea::{Config, DisconnectOrigin, Pea2Pea, protocols::Writing};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{interval, sleep, timeout},
};
use tokio_util::bytes::{Bytes, BytesMut};

use crate::{
    frames,
    kit::{
        Verdict, attack, ensure,
        stage::{Stage, holds_within},
        victim::{Calm, LONG_MS, Temper, Victim},
    },
    namespace::{CutCable, run, set_up},
    netns_row,
};

const FAR: Ipv4Addr = Ipv4Addr::new(127, 0, 90, 2);
const IDLE_MS: u64 = 1_000;
const IDLE: Duration = Duration::from_millis(IDLE_MS);
const TOLERANCE: Duration = Duration::from_millis(IDLE_MS / 10 + 400);

const CONNECT_MS: u16 = 600;

fn black_hole<const CONNECT_MS: u16>(stage: &Stage) -> Verdict {
    set_up();
    let expected = Duration::from_millis(self::CONNECT_MS.into());
    let (victim, addr) = stage.victim::<Calm>(Config { connection_timeout_ms: CONNECT_MS, ..attack::config(3) });
    let watch = stage.watch::<Calm>(addr);
    let cut = CutCable::to(FAR);
    let since = Instant::now();
    let bound = expected + TOLERANCE;
    let dial = async { timeout(bound, victim.node().connect(SocketAddr::from((FAR, 9_999)))).await };
    let result = stage.inside(dial);
    let (took, connecting) = (since.elapsed(), victim.node().num_connecting());
    cut.heal();
    let error = result.map_err(|_| format!("no error within {bound:?}"))?.expect_err("nobody is there");
    ensure(error.kind() == ErrorKind::TimedOut && took >= expected.mul_f32(0.9), || format!("{error} after {took:?}"))?;
    ensure(connecting == 0, || format!("{connecting} slots are taken"))?;
    watch.verdict(format_args!("{error} after {took:.1?}"))
}

netns_row!(row_03_a_dial_into_a_black_hole_fails_in_time, black_hole::<CONNECT_MS>, [
    "the dial's timeout" off: black_hole::<{ u16::MAX }> => "no error within",
]);

#[derive(Clone)]
struct Watchful<const IDLE_MS: u64>;

impl<const IDLE_MS: u64> Temper for Watchful<IDLE_MS> {
    const IDLE_MS: u64 = IDLE_MS;

    frames!();

    /// One side begins with an empty message; each answers what it gets, after a moment.
    async fn process(victim: &Victim<Self>, source: SocketAddr, message: BytesMut) {
        if message.len() != 8 {
            sleep(Duration::from_millis(20)).await;
        }
        _ = victim.unicast_fast(source, message.freeze());
    }
}

/// Two nodes that talk, and the cable between them.
fn pulled_cable<const IDLE_MS: u64>(stage: &Stage) -> Verdict {
    set_up();
    let (near, addr) = stage.victim::<Watchful<IDLE_MS>>(attack::config(1));
    let watch = stage.watch::<Watchful<IDLE_MS>>(addr);
    let far = stage.inside(Victim::<Watchful<IDLE_MS>>::new(attack::config(0)));
    let dial = || {
        stage.inside(async {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::from((FAR, 0))).unwrap();
            let dialled = far.node().connect_using_socket(addr, socket).await;
            dialled.and_then(|()| far.unicast_fast(addr, Bytes::new()))
        })
    };
    dial().map_err(|error| error.to_string())?;
    let talk = || far.seen.processed.load(SeqCst);
    let said = talk();
    holds_within(Duration::from_secs(5), "they talk", || talk() > said + 10)?;
    let cut = CutCable::to(FAR);
    let since = Instant::now();
    let said = talk();
    let mut ends = [None; 2];
    while ends.contains(&None) {
        for (end, node) in ends.iter_mut().zip([&near, &far]) {
            if end.is_none() && node.on_disconnects() == 1 {
                *end = Some(since.elapsed());
            }
        }
        ensure(since.elapsed() <= IDLE + TOLERANCE, || format!("not closed within {:?}: {ends:?}", IDLE + TOLERANCE))?;
        std::thread::sleep(Duration::from_millis(1));
    }
    ensure(talk() <= said + 2, || "they talk through a cable that is cut".into())?;
    ensure(ends.iter().flatten().all(|end| *end + Duration::from_millis(50) >= IDLE), || {
        format!("closed after {ends:?}")
    })?;
    cut.heal();
    let since = Instant::now();
    dial().map_err(|error| format!("after the cable was healed: {error}"))?;
    let said = talk();
    holds_within(Duration::from_secs(1), "they talk again", || talk() > said)?;
    let healed = since.elapsed();
    ensure(stage.inside(far.node().disconnect(addr)), || "it was gone".into())?;
    let idle_timeouts = [&near, &far].map(|node| node.node().heuristics().idle_timeouts());
    ensure(idle_timeouts == [1, 1], || format!("idle timeouts: {idle_timeouts:?}"))?;
    watch.verdict(format_args!("closed after {ends:.1?}, talking again {healed:.1?} after the cable was healed"))
}

netns_row!(row_20_a_pulled_cable_is_noticed_and_a_healed_one_carries_again, pulled_cable::<IDLE_MS>, [
    "the idle timeout" off: pulled_cable::<0> => "not closed within",
]);

const HOOK_MS: u64 = 3_000;

/// How often there were two connections of the far peer, their endings included.
static PRESENT: AtomicUsize = AtomicUsize::new(0);
static COEXISTED: AtomicBool = AtomicBool::new(false);

#[derive(Clone)]
struct Lingering<const HOOK_MS: u64>;

impl<const HOOK_MS: u64> Temper for Lingering<HOOK_MS> {
    const GREETING: Option<&'static [u8]> = Some(b"g");
    const ON_DISCONNECT_MS: u64 = HOOK_MS;

    frames!();

    async fn shake_hands(_: &Victim<Self>, addr: SocketAddr, stream: &mut TcpStream) -> std::io::Result<()> {
        stream.read_u8().await?;
        if addr.ip() == FAR && PRESENT.fetch_add(1, SeqCst) > 0 {
            COEXISTED.store(true, SeqCst);
        }
        Ok(())
    }

    async fn ending(_: &Victim<Self>, addr: SocketAddr, _: DisconnectOrigin) {
        struct Ending;
        impl Drop for Ending {
            fn drop(&mut self) {
                PRESENT.fetch_sub(1, SeqCst);
            }
        }
        if addr.ip() == FAR {
            let _ending = Ending;
            std::future::pending::<()>().await;
        }
    }
}

async fn served(own: SocketAddr, target: SocketAddr) -> Option<TcpStream> {
    let mut stream = attack::dial_from_port(own, target).await.ok()?;
    let mut reply = [0; 12];
    let echo = async {
        stream.write_all(b"g\0\0\0\x08message!").await?;
        stream.read_exact(&mut reply).await
    };
    if matches!(timeout(Duration::from_secs(1), echo).await, Ok(Ok(_))) {
        return Some(stream);
    }
    attack::reset(stream);
    None
}

/// A peer that vanishes without a word, and dials again from the same address and port when it is back.
fn reboot<const HOOK_MS: u64>(stage: &Stage) -> Verdict {
    const REDIAL: Duration = Duration::from_millis(50);
    // An unanswered or rejected dial is repeated by the OS after a second.
    let bound = Duration::from_millis(self::HOOK_MS) + REDIAL + Duration::from_millis(1_000 + 1_500);

    set_up();
    PRESENT.store(0, SeqCst);
    let (victim, addr) = stage.victim::<Lingering<HOOK_MS>>(attack::config(2));
    let watch = stage.watch::<Lingering<HOOK_MS>>(addr);
    let mut stream = stage.attack(served(SocketAddr::from((FAR, 0)), addr)).ok_or("not served at first")?;
    let own = stream.local_addr().unwrap();
    let cut = CutCable::to(FAR);
    // The socket is gone on its side only: what the OS says about it does not get through.
    run(&format!("ss -K -tn src {} sport = :{}", own.ip(), own.port()));
    let killed = stage.attack(async { stream.read_u8().await });
    drop(stream);
    cut.heal();
    ensure(killed.is_err(), || "the socket lives".into())?;
    ensure(victim.node().is_connected(own), || "the old connection does not linger".into())?;
    let since = Instant::now();
    let (mut successor, redials) = stage.attack(async {
        let mut ticks = interval(REDIAL);
        for redials in 1.. {
            ticks.tick().await;
            let left = bound.checked_sub(since.elapsed()).ok_or(format!("not served again within {bound:?}"))?;
            match timeout(left, served(own, addr)).await {
                Ok(Some(stream)) => return Ok((stream, redials)),
                Ok(None) => {}
                Err(_) => return Err(format!("not served again within {bound:?}")),
            }
        }
        unreachable!("the redials end only by returning")
    })?;
    let took = since.elapsed();
    ensure(!COEXISTED.load(SeqCst), || "two connections of the same peer coexisted".into())?;
    let alive = stage.attack(async {
        sleep(Duration::from_millis(200)).await;
        let mut reply = [0; 12];
        successor.write_all(b"\0\0\0\x08message!").await?;
        successor.read_exact(&mut reply).await
    });
    ensure(alive.is_ok() && victim.node().is_connected(own), || format!("the successor was hit: {alive:?}"))?;
    attack::reset(successor);
    watch.verdict(format_args!("served again after {took:.1?} and {redials} redials, beside a hook of {HOOK_MS} ms"))
}

netns_row!(row_21_a_peer_that_reboots_is_served_when_its_predecessor_is_gone, reboot::<HOOK_MS>, [
    "the bound of on_disconnect" off: reboot::<LONG_MS> => "not served again",
]);
