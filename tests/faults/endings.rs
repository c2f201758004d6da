//! Row 24: shutting down in the middle of everything, from everywhere.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    time::{Duration, Instant},
};

use pea2pea::{DisconnectOrigin, Pea2Pea, protocols::Writing};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::bytes::{Bytes, BytesMut};

use crate::{
    frames,
    kit::{
        Verdict, attack, ensure, sized,
        stage::{Stage, holds_within},
        victim::{Calm, LONG_MS, Temper, Victim},
    },
    row,
};

const HOOK_MS: u64 = 300;

/// The contract's: the longest on_disconnect, a second to flush, a second for tasks to be dropped; and some for the machine.
const BOUND: Duration = Duration::from_millis(HOOK_MS + 2_000 + 1_500);

/// Where `shut_down` is called first.
const OUTSIDE: u8 = 0;
const HANDSHAKE: u8 = 1;
const PROCESS: u8 = 2;
const ON_CONNECT: u8 = 3;
const ON_DISCONNECT: u8 = 4;

/// Whom the victim dials.
const PEER: u8 = 27;

static IS_DUE: AtomicBool = AtomicBool::new(false);
/// How many calls there were from inside of hooks.
static CALLED: AtomicUsize = AtomicUsize::new(0);

/// Shuts its node down in one of its hooks when it is due.
#[derive(Clone)]
struct Closing<const SITE: u8, const HOOK_MS: u64>;

async fn shut_down_at<T: Temper>(is_here: bool, victim: &Victim<T>) {
    if is_here && IS_DUE.load(SeqCst) {
        CALLED.fetch_add(1, SeqCst);
        victim.node().shut_down().await;
    }
}

impl<const SITE: u8, const HOOK_MS: u64> Temper for Closing<SITE, HOOK_MS> {
    const GREETING: Option<&'static [u8]> = Some(b"g");
    const ON_DISCONNECT_MS: u64 = HOOK_MS;

    frames!();

    async fn shake_hands(victim: &Victim<Self>, addr: SocketAddr, stream: &mut TcpStream) -> std::io::Result<()> {
        shut_down_at(SITE == HANDSHAKE, victim).await;
        if addr.ip() == std::net::IpAddr::from([127, 0, 81, PEER]) {
            return Ok(());
        }
        stream.read_u8().await.map(drop)
    }

    async fn process(victim: &Victim<Self>, source: SocketAddr, message: BytesMut) {
        shut_down_at(SITE == PROCESS, victim).await;
        _ = victim.unicast_fast(source, message.freeze());
    }

    async fn started(victim: &Victim<Self>, _: SocketAddr) {
        shut_down_at(SITE == ON_CONNECT, victim).await;
    }

    async fn ending(victim: &Victim<Self>, _: SocketAddr, _: DisconnectOrigin) {
        shut_down_at(SITE == ON_DISCONNECT, victim).await;
        if IS_DUE.load(SeqCst) {
            // Out of time in the end.
            std::future::pending().await
        }
    }
}

/// Accepts, dials, sends, disconnects and then a shutdown; tells how long that took.
#[expect(deprecated, reason = "it is lossy, and has to do what it promises all the same")]
fn storm<const SITE: u8, const HOOK_MS: u64>(stage: &Stage) -> Result<Duration, String> {
    const PEERS: usize = 10;
    IS_DUE.store(false, SeqCst);
    CALLED.store(0, SeqCst);
    let (victim, addr) = stage.victim::<Closing<SITE, HOOK_MS>>(attack::config(24));
    let (peer, peer_addr) = stage.victim::<Calm>(attack::config(PEER));
    let node = victim.node().clone();
    let mut own = JoinSet::new();
    let inside = stage.beside({
        let victim = victim.clone();
        async move {
            for number in 0..4 {
                let victim = victim.clone();
                own.spawn(async move {
                    // Ends when the node is closed.
                    loop {
                        let dialled = victim.node().connect(peer_addr).await;
                        if dialled.is_err_and(|error| pea2pea::ShuttingDown::caused(&error)) {
                            return;
                        }
                        _ = victim.broadcast(Bytes::from_static(b"to all"));
                        if number == 0 {
                            victim.node().disconnect(peer_addr).await;
                        }
                        sleep(Duration::from_millis(1)).await;
                    }
                });
            }
            own.join_all().await;
        }
    });
    let attackers = stage.attack(async {
        let mut attackers = JoinSet::new();
        for number in 0..PEERS {
            attackers.spawn(async move {
                // The listener is gone in the end.
                while let Ok(mut stream) = crate::common::setups::dial_from(attack::source(number), addr).await {
                    _ = stream.write_all(b"g\0\0\0\x08message!").await;
                    let mut reply = [0; 12];
                    _ = timeout(Duration::from_millis(20), stream.read_exact(&mut reply)).await;
                    match number % 2 {
                        0 => drop(stream),
                        _ => attack::reset(stream),
                    }
                }
            });
        }
        attackers
    });
    std::thread::sleep(Duration::from_millis(sized(100, 1_000) as u64));
    let busy = victim.on_connects();
    IS_DUE.store(true, SeqCst);
    let since = Instant::now();
    if SITE != OUTSIDE {
        // The storm itself brings the hook about.
        holds_within(BOUND, "a call from inside", || CALLED.load(SeqCst) > 0)?;
    }
    stage
        .inside(async { timeout(BOUND, node.shut_down()).await })
        .map_err(|_| format!("site {SITE}: no end within {BOUND:?}"))?;
    let took = since.elapsed();
    stage.inside(async { timeout(BOUND, inside).await }).map_err(|_| format!("site {SITE}: dials hang"))?.unwrap();
    stage
        .attack(async { timeout(BOUND, attackers.join_all()).await })
        .map_err(|_| format!("site {SITE}: attackers hang"))?;
    ensure(busy > PEERS, || format!("site {SITE}: no storm, {busy} connections"))?;
    ensure((node.num_connected(), node.num_connecting()) == (0, 0), || format!("site {SITE}: somebody is left"))?;
    let (begun, ended) = (victim.on_connects(), victim.on_disconnects());
    ensure(begun >= ended, || format!("site {SITE}: {begun} went live, {ended} ended"))?;
    stage.inside(peer.node().shut_down());
    Ok(took)
}

fn shutdowns<const HOOK_MS: u64>(stage: &Stage) -> Verdict {
    let (_calm, addr) = stage.victim::<Calm>(attack::config(28));
    let watch = stage.watch::<Calm>(addr);
    let mut figures = Vec::new();
    for (site, storm) in [
        ("outside", storm::<OUTSIDE, HOOK_MS> as fn(&Stage) -> Result<Duration, String>),
        ("perform_handshake", storm::<HANDSHAKE, HOOK_MS>),
        ("process_message", storm::<PROCESS, HOOK_MS>),
        ("on_connect", storm::<ON_CONNECT, HOOK_MS>),
        ("on_disconnect", storm::<ON_DISCONNECT, HOOK_MS>),
    ] {
        figures.push(format!("{site}: {:.1?}", storm(stage)?));
    }
    watch.verdict(figures.join(", "))
}

row!(row_24_a_shutdown_from_anywhere_in_the_middle_of_everything_ends_in_time, shutdowns::<HOOK_MS>, [
    "the bound of on_disconnect" off: shutdowns::<LONG_MS> => "no end within",
]);
