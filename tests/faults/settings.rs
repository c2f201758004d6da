//! Rows 26 and 27: settings at their ends, clocks that jump, and whether each limit is the one that counts.

use std::{
    io::ErrorKind,
    process::Command,
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use pea2pea::{Config, Pea2Pea};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::bytes::BytesMut;

use crate::{
    frames,
    kit::{
        Verdict, attack, ensure, isolation, sized,
        stage::{Stage, holds_within},
        victim::{Calm, Polite, Temper, Victim},
    },
    row,
};

const SOON: Duration = Duration::from_secs(5);
const MESSAGE: [u8; 12] = [0, 0, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8];

/// Sends a message; tells whether it comes back.
async fn echoes(stream: &mut TcpStream) -> bool {
    let mut reply = [0; 12];
    let echo = async {
        stream.write_all(&MESSAGE).await?;
        stream.read_exact(&mut reply).await
    };
    timeout(SOON, echo).await.is_ok_and(|read| read.is_ok()) && reply == MESSAGE
}

/// All timeouts at one value.
#[derive(Clone)]
struct Extreme<const MS: u64>;

impl<const MS: u64> Temper for Extreme<MS> {
    const GREETING: Option<&'static [u8]> = Some(b"g");
    const HANDSHAKE_MS: u64 = MS;
    const IDLE_MS: u64 = MS;
    const FLUSH_MS: u64 = MS;
    const ON_DISCONNECT_MS: u64 = MS;

    frames!();
}

/// Lives of connections under timeouts of one value: whether a handshake that has to wait succeeds, and whether a
/// connection that is silent for a while stays.
fn lives<const MS: u64>(stage: &Stage) -> Result<(bool, bool), String> {
    let (victim, addr) = stage.victim::<Extreme<MS>>(attack::config(26));
    let mut late = stage.attack(attack::dial(1, addr));
    let begun = || victim.seen.handshakes.load(SeqCst) == 1;
    holds_within(SOON, "a handshake", begun)?;
    std::thread::sleep(Duration::from_millis(50));
    // It may be closed already.
    _ = stage.attack(late.write_all(b"g"));
    let waits = stage.attack(echoes(&mut late));
    std::thread::sleep(Duration::from_millis(100));
    let stays = waits && stage.attack(echoes(&mut late));
    drop(late);
    holds_within(SOON, "nobody is left", || victim.is_settled(0))?;
    stage.inside(async { timeout(SOON, victim.node().shut_down()).await }).map_err(|_| "a shutdown hangs")?;
    Ok((waits, stays))
}

/// The ends of the ranges of all fields of the configuration.
fn configurations(stage: &Stage) -> Result<usize, String> {
    let mut lives = 0;
    for connection_timeout_ms in [0, 1, u16::MAX] {
        for listener_backlog in [0, 1, u32::MAX] {
            for most in [1, u16::MAX] {
                let limits = Config {
                    listener_backlog,
                    max_connections: most,
                    max_connections_per_ip: most,
                    max_connecting: most,
                    ..attack::config(29)
                };
                let (victim, addr) = stage.victim::<Calm>(limits.clone());
                let dialler = stage.inside(Victim::<Calm>::new(Config { connection_timeout_ms, ..limits }));
                let dialled = stage.inside(dialler.node().connect(addr));
                // Without any time the dial fails unless it is done at once.
                let is_out_of_time = dialled.as_ref().is_err_and(|error| error.kind() == ErrorKind::TimedOut);
                ensure(dialled.is_ok() || (is_out_of_time && connection_timeout_ms <= 1), || {
                    format!("{connection_timeout_ms} ms: {dialled:?}")
                })?;
                if dialled.is_ok() {
                    holds_within(SOON, "it is accepted", || victim.is_settled(1))?;
                    lives += 1;
                }
                stage.inside(async { tokio::join!(dialler.node().shut_down(), victim.node().shut_down()) });
            }
        }
    }
    Ok(lives)
}

/// What is expected of timeouts of 0, 1 and the largest value; 0 means none for being idle only.
fn extremes_of<const NONE: u64, const LEAST: u64, const MOST: u64>(stage: &Stage) -> Verdict {
    let (calm, addr) = stage.victim::<Calm>(attack::config(28));
    let watch = stage.watch::<Calm>(addr);
    let found = [lives::<NONE>(stage)?, lives::<LEAST>(stage)?, lives::<MOST>(stage)?];
    let expected = [(false, false), (false, false), (true, true)];
    ensure(found == expected, || format!("(waits, stays) at 0, 1 and the most: {found:?}"))?;
    let lives = configurations(stage)?;
    ensure(lives >= 6, || format!("only {lives} configurations served anybody"))?;
    drop(calm);
    watch.verdict(format_args!("(waits, stays) at 0, 1 and the most: {found:?}; {lives} configurations served"))
}

row!(row_26_settings_at_their_ends_mean_what_they_say, extremes_of::<0, 1, { u64::MAX }>, [
    "the largest value" off: extremes_of::<0, 1, 2> => "(waits, stays)",
    "the smallest values" off: extremes_of::<100_000, 100_000, { u64::MAX }> => "(waits, stays)",
]);

const IDLE_MS: u64 = 1_500;

#[derive(Clone)]
struct Watchful;

impl Temper for Watchful {
    const GREETING: Option<&'static [u8]> = Some(b"g");
    const HANDSHAKE_MS: u64 = 60_000;
    const IDLE_MS: u64 = IDLE_MS;

    frames!();
}

/// The whole process is stopped for longer than any timeout, and goes on.
fn stopped(stage: &Stage, are_honest: bool) -> Verdict {
    const PEERS: usize = 50;
    const PAUSE: Duration = Duration::from_millis(IDLE_MS / 10);
    const A_STOP: Duration = Duration::from_secs(2);
    let seconds = sized(4, 90);
    let (victim, addr) = stage.victim::<Watchful>(attack::config(30));
    let mut streams = stage.attack(async {
        let mut dials = JoinSet::new();
        for number in 0..PEERS {
            dials.spawn(async move {
                let mut stream = attack::dial_politely::<Watchful>(number, addr).await;
                assert!(echoes(&mut stream).await);
                stream
            });
        }
        dials.join_all().await
    });
    let script = format!("kill -STOP {0} && sleep {seconds} && kill -CONT {0}", std::process::id());
    let since = Instant::now();
    let stopper = std::thread::spawn(move || Command::new("sh").args(["-c", &script]).status());
    let mut longest_gap = Duration::ZERO;
    // The stop may come before anything else happens here.
    let (mut rounds, mut last) = (0, since);
    while rounds < 15 || longest_gap < A_STOP {
        // Honest peers say something often enough, as far as the clock lets them.
        if are_honest {
            stage.attack(async {
                for stream in &mut streams {
                    _ = stream.write_all(&MESSAGE).await;
                }
            });
        }
        std::thread::sleep(PAUSE);
        longest_gap = longest_gap.max(last.elapsed());
        if last.elapsed() > A_STOP {
            // The victim's clocks, which have run out, come first.
            std::thread::sleep(PAUSE);
        }
        last = Instant::now();
        rounds += u64::from(longest_gap > A_STOP);
        ensure(since.elapsed() < Duration::from_secs(2 * seconds as u64 + 30), || "it was never stopped".into())?;
    }
    assert!(stopper.join().unwrap().unwrap().success());
    let closed = victim.on_disconnects();
    ensure(longest_gap > Duration::from_secs(seconds as u64 - 1), || format!("stopped for {longest_gap:?} only"))?;
    ensure(closed == 0, || format!("{closed} of {PEERS} were closed after a stop of {longest_gap:.1?}"))?;
    ensure(isolation::unwanted_panics() == 0, || "somebody panicked".into())?;
    Ok(format!("none of {PEERS} were closed after a stop of {longest_gap:.1?}"))
}

fn stopped_with_honest_peers(stage: &Stage) -> Verdict {
    stopped(stage, true)
}

fn stopped_with_silent_peers(stage: &Stage) -> Verdict {
    stopped(stage, false)
}

row!(row_26_a_process_that_was_stopped_closes_no_honest_connection, stopped_with_honest_peers, [
    "honesty" off: stopped_with_silent_peers => "were closed after a stop",
]);

/// Idle for a minute at most.
#[derive(Clone)]
struct Minute;

impl Temper for Minute {
    const IDLE_MS: u64 = 60_000;

    frames!();
}

/// Hours on a clock that is the test's, with a message now and then.
fn hours(interval: Duration) -> Verdict {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let victim = Victim::<Minute>::new(attack::config(31)).await;
        let addr = victim.node().toggle_listener().await.unwrap().unwrap();
        let mut stream = attack::dial(1, addr).await;
        let since = tokio::time::Instant::now();
        for message in 0..1_000 {
            sleep(interval).await;
            let mut reply = [0; 12];
            let echo = async {
                stream.write_all(&MESSAGE).await?;
                stream.read_exact(&mut reply).await
            };
            echo.await.map_err(|error| format!("gone after {:?}, {message} messages: {error}", since.elapsed()))?;
        }
        let lived = since.elapsed();
        stream.read_u8().await.expect_err("there is nothing to say");
        let silent = since.elapsed() - lived;
        ensure(silent.as_secs() == 60, || format!("closed after a silence of {silent:?}"))?;
        ensure(victim.node().heuristics().idle_timeouts() == 1, || "no idle timeout".into())?;
        victim.node().shut_down().await;
        Ok(format!("alive for {} virtual minutes, closed after a silence of {silent:.1?}", lived.as_secs() / 60))
    })
}

row!(row_26_hours_pass_and_only_a_silence_ends_a_connection, |_| hours(Duration::from_secs(55)), [
    "messages that come in time" off: |_| hours(Duration::from_secs(65)) => "gone after",
]);

/// A knob that limits a number, and what that number turns out to be when more is asked for.
type Knob = (&'static str, fn(&Stage, u16) -> Result<usize, String>);

const ASKED_FOR: usize = 6;

fn held<T: Temper>(stage: &Stage, config: Config, source: fn(usize) -> usize) -> Result<[usize; 2], String> {
    let (victim, addr) = stage.victim::<T>(config);
    let streams = stage.attack(async {
        let mut streams = Vec::new();
        for number in 0..ASKED_FOR {
            let mut stream = attack::dial(source(number), addr).await;
            _ = stream.write_all(&MESSAGE).await;
            streams.push(stream);
        }
        streams
    });
    // Long enough for those that are refused to be refused.
    let numbers = || [victim.node().num_connected(), victim.node().num_connecting()];
    let mut last = (numbers(), Instant::now());
    while last.1.elapsed() < Duration::from_millis(150) {
        if numbers() != last.0 {
            last = (numbers(), Instant::now());
        }
        victim.seen.look(victim.node());
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(streams);
    stage.inside(victim.node().shut_down());
    Ok([&victim.seen.peak_connected, &victim.seen.peak_connecting].map(|peak| peak.load(SeqCst)))
}

/// Says more than the node's peers do in their handshakes.
#[derive(Clone)]
struct Slow;

impl Temper for Slow {
    const GREETING: Option<&'static [u8]> = Some(&[0; 100]);

    frames!();
}

/// A queue of a depth, behind a message that is never done.
#[derive(Clone)]
struct Deep<const DEPTH: usize>;

impl<const DEPTH: usize> Temper for Deep<DEPTH> {
    const DEPTH: usize = DEPTH;

    frames!();

    async fn process(_: &Victim<Self>, _: std::net::SocketAddr, _: BytesMut) {
        std::future::pending().await
    }
}

fn read_ahead<const DEPTH: usize>(stage: &Stage) -> Result<usize, String> {
    let (victim, addr) = stage.victim::<Deep<DEPTH>>(attack::config(32));
    let stream = stage.attack(async {
        let mut stream = attack::dial(1, addr).await;
        for _ in 0..ASKED_FOR {
            stream.write_all(&MESSAGE).await.unwrap();
            sleep(Duration::from_millis(20)).await;
        }
        stream
    });
    let received = || victim.node().stats().received().0 as usize;
    holds_within(SOON, "a message is received", || received() > 0)?;
    let mut last = (received(), Instant::now());
    while last.1.elapsed() < Duration::from_millis(150) {
        if received() != last.0 {
            last = (received(), Instant::now());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(stream);
    stage.inside(victim.node().shut_down());
    // The first one is in the hook.
    Ok(last.0 - 1)
}

/// Sets each knob and looks at what it limits.
fn wiring(stage: &Stage, set_to: fn(u16) -> u16) -> Verdict {
    let knobs: [Knob; 4] = [
        ("max_connections", |stage, most| {
            Ok(held::<Calm>(stage, Config { max_connections: most, ..attack::config(32) }, |number| number)?[0])
        }),
        ("max_connections_per_ip", |stage, most| {
            Ok(held::<Calm>(stage, Config { max_connections_per_ip: most, ..attack::config(32) }, |_| 1)?[0])
        }),
        ("max_connecting", |stage, most| {
            Ok(held::<Slow>(stage, Config { max_connecting: most, ..attack::config(32) }, |number| number)?[1])
        }),
        ("Reading::MESSAGE_QUEUE_DEPTH", |stage, most| match most {
            1 => read_ahead::<1>(stage),
            2 => read_ahead::<2>(stage),
            _ => read_ahead::<3>(stage),
        }),
    ];
    let (_calm, addr) = stage.victim::<Polite>(attack::config(28));
    let watch = stage.watch::<Polite>(addr);
    for (name, observe) in knobs {
        for most in 1..=2 {
            let observed = observe(stage, set_to(most))?;
            ensure(observed == usize::from(most), || format!("{name} for {most}: {observed} observed"))?;
        }
    }
    watch.verdict("each knob lets 1 and 2 through")
}

fn as_wanted(stage: &Stage) -> Verdict {
    wiring(stage, |most| most)
}

fn one_more(stage: &Stage) -> Verdict {
    wiring(stage, |most| most + 1)
}

row!(row_27_each_limit_is_wired_to_its_knob, as_wanted, [
    "the right value" off: one_more => "max_connections for 1: 2 observed",
]);
