//! Rows 1 to 3: peers that drag a setup out, and dials that nobody answers.

use std::{
    net::SocketAddr,
    sync::{Mutex, atomic::Ordering::SeqCst},
    time::{Duration, Instant},
};

use pea2pea::{Config, Pea2Pea};
use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinSet, time::sleep};

use crate::{
    common::setups::raw_peer,
    frames,
    kit::{
        Verdict, attack, ensure, sized,
        stage::{Stage, holds_within},
        victim::{LONG_MS, Temper, Victim},
    },
    row,
};

const TIMEOUT_MS: u64 = 600;
const TIMEOUT: Duration = Duration::from_millis(TIMEOUT_MS);

/// The matrix grants 10 %; a machine that is busy with other tests gets some more.
const TOLERANCE: Duration = Duration::from_millis(TIMEOUT_MS / 10 + 300);

/// When the handshakes began. There is one row in each process.
static BEGUN: Mutex<Vec<(SocketAddr, Instant)>> = Mutex::new(Vec::new());

/// Wants sixteen bytes within a time that is limited, or not.
#[derive(Clone)]
struct Waiting<const MS: u64>;

impl<const MS: u64> Temper for Waiting<MS> {
    const GREETING: Option<&'static [u8]> = Some(b"sixteen bytes...");
    const HANDSHAKE_MS: u64 = MS;

    frames!();

    async fn shake_hands(_: &Victim<Self>, addr: SocketAddr, stream: &mut TcpStream) -> std::io::Result<()> {
        BEGUN.lock().unwrap().push((addr, Instant::now()));
        let mut greeting = [0; 16];
        tokio::io::AsyncReadExt::read_exact(stream, &mut greeting).await.map(drop)
    }
}

/// Peers that each say a byte now and then, or none, in the handshake; each has to be cut off in time.
fn slow_greeting<const MS: u64>(stage: &Stage, attackers: usize, pause: Option<Duration>) -> Verdict {
    BEGUN.lock().unwrap().clear();
    BEGUN.lock().unwrap().reserve(attackers + 1);
    // Half of them have to wait for a permit.
    let max_connecting = attackers as u16 / 2 + 1;
    let (victim, addr) = stage.victim::<Waiting<MS>>(Config { max_connecting, ..attack::config(1) });
    let watch = stage.watch::<Waiting<MS>>(addr);
    let since = Instant::now();
    let all_gone = 2 * (TIMEOUT + TOLERANCE) + Duration::from_secs(1);

    let closed = stage.attack(async move {
        let mut dials = JoinSet::new();
        for number in 0..attackers {
            dials.spawn(async move {
                let mut stream = attack::dial(number, addr).await;
                let own = stream.local_addr().unwrap();
                let Some(pause) = pause else { return (own, attack::closed_within(all_gone, &mut stream).await) };
                let (mut reader, mut writer) = stream.split();
                // Fewer bytes than the handshake wants in any time that this row takes.
                let trickling = async {
                    for _ in 0..15 {
                        sleep(pause).await;
                        _ = writer.write_all(b"t").await;
                    }
                    std::future::pending().await
                };
                let reading = async {
                    let mut sink = tokio::io::sink();
                    let ending = tokio::io::copy(&mut reader, &mut sink);
                    tokio::time::timeout(all_gone, ending).await.ok().map(|_| Instant::now())
                };
                tokio::select! {
                    closed = reading => (own, closed),
                    () = trickling => unreachable!("it never ends"),
                }
            });
        }
        dials.join_all().await
    });

    let begun: Vec<_> = BEGUN.lock().unwrap().clone();
    let mut longest = Duration::ZERO;
    for (own, closed) in closed {
        let closed = closed.ok_or_else(|| format!("a peer was still connected after {all_gone:?}"))?;
        let (_, permitted) = *begun.iter().find(|(addr, _)| *addr == own).ok_or("a peer had no handshake")?;
        let lasted = closed.saturating_duration_since(permitted);
        longest = longest.max(lasted);
        ensure(lasted + Duration::from_millis(5) >= TIMEOUT, || format!("cut off after {lasted:?}"))?;
        ensure(lasted <= TIMEOUT + TOLERANCE, || format!("cut off only after {lasted:?}"))?;
    }
    let took = since.elapsed();
    ensure(took <= all_gone, || format!("all gone only after {took:?}"))?;
    let timeouts = || victim.node().heuristics().handshake_timeouts();
    // A peer may see its end before it is counted.
    holds_within(Duration::from_secs(5), "all timeouts are counted", || timeouts() >= attackers as u64)?;
    let timeouts = timeouts();
    ensure(timeouts == attackers as u64, || format!("{timeouts} timeouts of {attackers} peers"))?;
    let peak = victim.seen.peak_connecting.load(SeqCst);
    ensure(peak == usize::from(max_connecting), || format!("{peak} setups at once, of {max_connecting}"))?;
    watch.verdict(format_args!("{attackers} cut off after {longest:.1?} at most, all after {took:.1?}"))
}

fn silent<const MS: u64>(stage: &Stage) -> Verdict {
    slow_greeting::<MS>(stage, 200, None)
}

row!(row_01_silent_peers_are_cut_off_in_time, silent::<TIMEOUT_MS>, [
    "the handshake's timeout" off: silent::<LONG_MS> => "a peer was still connected",
]);

fn trickling<const MS: u64>(stage: &Stage) -> Verdict {
    slow_greeting::<MS>(stage, sized(50, 200), Some(TIMEOUT / 5))
}

/// What the deadline must not be: one for each read.
fn trickling_with_a_deadline_per_read(stage: &Stage) -> Verdict {
    trickling::<LONG_MS>(stage)
}

row!(row_02_peers_that_say_a_byte_now_and_then_are_cut_off_in_time, trickling::<TIMEOUT_MS>, [
    "a deadline for the whole handshake" off: trickling_with_a_deadline_per_read => "a peer was still connected",
]);

const CONNECT_MS: u16 = 500;

/// Own dials to a peer that never answers, and to one that accepts and stays silent.
fn unanswered<const CONNECT_MS: u16, const HANDSHAKE_MS: u64>(stage: &Stage) -> Verdict {
    let config = Config { connection_timeout_ms: CONNECT_MS, ..attack::config(2) };
    let (victim, addr) = stage.victim::<Waiting<HANDSHAKE_MS>>(config);
    let watch = stage.watch::<Waiting<HANDSHAKE_MS>>(addr);
    let (full, silent) = stage.attack(async {
        // The OS drops what dials a full backlog.
        let full = tokio::net::TcpSocket::new_v4().unwrap();
        full.bind("127.0.81.3:0".parse().unwrap()).unwrap();
        let full = full.listen(0).unwrap();
        let fills_it = TcpStream::connect(full.local_addr().unwrap()).await.unwrap();
        ((full, fills_it), raw_peer().await)
    });
    let black_hole = full.0.local_addr().unwrap();
    let mut figures = Vec::new();
    let targets = [
        ("black hole", black_hole, Duration::from_millis(self::CONNECT_MS.into())),
        ("silent peer", silent.1, TIMEOUT),
    ];
    let rounds = sized(1, 8);
    for (what, target, expected) in targets {
        let mut longest = Duration::ZERO;
        for _ in 0..rounds {
            let since = Instant::now();
            let bound = expected + TOLERANCE;
            let result = stage.inside(async { tokio::time::timeout(bound, victim.node().connect(target)).await });
            // The slot is free at once: nothing is waited for here.
            let connecting = victim.node().num_connecting();
            let error = result.map_err(|_| format!("{what}: no error within {bound:?}"))?.expect_err("nobody answers");
            let took = since.elapsed();
            ensure(error.kind() == std::io::ErrorKind::TimedOut, || format!("{what}: {error}"))?;
            ensure(took >= expected.mul_f32(0.9), || format!("{what}: {error} after {took:?} already"))?;
            ensure(connecting == 0, || format!("{what}: {connecting} slots are taken"))?;
            longest = longest.max(took);
        }
        figures.push(format!("{what}: {rounds} errors after {longest:.1?} at most"));
    }
    holds_within(Duration::from_secs(5), "the bystander alone", || victim.is_settled(1))?;
    drop((full, silent));
    watch.verdict_without_ledger(figures.join(", "))
}

row!(row_03_dials_that_nobody_answers_fail_in_time, unanswered::<CONNECT_MS, TIMEOUT_MS>, [
    "the dial's timeout" off: unanswered::<{ u16::MAX }, TIMEOUT_MS> => "black hole: no error",
    "the handshake's timeout" off: unanswered::<CONNECT_MS, LONG_MS> => "silent peer: no error",
]);
