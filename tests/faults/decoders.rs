//! Rows 15 and 16: decoders that misbehave, and messages that are never done.

use std::{
    io,
    net::SocketAddr,
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use pea2pea::{Pea2Pea, protocols::Writing};
use tokio::{io::AsyncWriteExt, task::JoinSet};
use tokio_util::{
    bytes::BytesMut,
    codec::{Decoder, LengthDelimitedCodec},
};

use crate::{
    common::DELIBERATE,
    frames,
    kit::{
        Verdict, attack, ensure, heap,
        stage::{Stage, holds_within, victim_cpu},
        victim::{Temper, Victim},
    },
    row,
};

const IDLE_MS: u64 = 800;

/// The decoder's faults, by the first byte of an attacker; frames begin with a zero.
const ERROR: u8 = b'e';
const PANIC: u8 = b'p';
const FOR_EVER: u8 = b's';
const NEVER: u8 = b'n';

/// A panic of user code is worth a line of the log; more of them within a second would be the attackers' fault.
const PANICKING: usize = 5;
const OTHERS: usize = 10;

#[derive(Clone)]
struct Wild<const TAME: u8, const IDLE_MS: u64>;

impl<const TAME: u8, const IDLE_MS: u64> Temper for Wild<TAME, IDLE_MS> {
    const IDLE_MS: u64 = IDLE_MS;

    type Decoder = WildDecoder<TAME>;

    fn decoder() -> Self::Decoder {
        WildDecoder(LengthDelimitedCodec::new())
    }
}

/// Does as the attackers like, with the exception of one fault.
struct WildDecoder<const TAME: u8>(LengthDelimitedCodec);

impl<const TAME: u8> Decoder for WildDecoder<TAME> {
    type Item = BytesMut;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<BytesMut>> {
        match src.first() {
            Some(fault) if *fault == TAME => Ok(None),
            Some(&ERROR) => Err(io::Error::other("as the attacker likes")),
            Some(&PANIC) => panic!("{DELIBERATE}"),
            Some(&FOR_EVER) => Ok(Some(BytesMut::new())),
            Some(&NEVER) => Ok(None),
            _ => self.0.decode(src),
        }
    }
}

fn wild<const TAME: u8, const IDLE_MS: u64>(stage: &Stage) -> Verdict {
    const AT_ONCE: Duration = Duration::from_secs(1);
    let idle = Duration::from_millis(self::IDLE_MS);

    let (victim, addr) = stage.victim::<Wild<TAME, IDLE_MS>>(attack::config(15));
    let watch = stage.watch::<Wild<TAME, IDLE_MS>>(addr);
    let mut figures = Vec::new();
    for (fault, attackers, at_least, at_most) in [
        (ERROR, OTHERS, Duration::ZERO, AT_ONCE),
        (PANIC, PANICKING, Duration::ZERO, AT_ONCE),
        (FOR_EVER, OTHERS, Duration::ZERO, AT_ONCE),
        (NEVER, OTHERS, idle, idle + Duration::from_millis(self::IDLE_MS / 10 + 400)),
    ] {
        let name = char::from(fault);
        let (cpu, before) = (victim_cpu(), victim.on_disconnects());
        let ends = stage.attack(async {
            let mut dials = JoinSet::new();
            for number in 0..attackers {
                dials.spawn(async move {
                    let mut stream = attack::dial(number, addr).await;
                    let since = Instant::now();
                    stream.write_all(&[fault; 100]).await.unwrap();
                    let end = attack::closed_within(at_most, &mut stream).await;
                    end.map(|end| end.saturating_duration_since(since))
                });
            }
            dials.join_all().await
        });
        let cpu = (victim_cpu() - cpu) / attackers as u32;
        for end in ends {
            let lasted = end.ok_or_else(|| format!("{name}: still connected after {at_most:?}"))?;
            ensure(lasted + Duration::from_millis(5) >= at_least, || format!("{name}: ended after {lasted:?}"))?;
        }
        ensure(cpu <= Duration::from_secs(1), || format!("{name}: {cpu:?} of CPU for each"))?;
        holds_within(AT_ONCE, "the bystander alone", || victim.is_settled(1))?;
        let ended = victim.on_disconnects() - before;
        ensure(ended == attackers, || format!("{name}: {ended} connections ended"))?;
        figures.push(format!("{name}: {attackers} ended, {cpu:?} of CPU each"));
    }
    let idle_timeouts = victim.node().heuristics().idle_timeouts();
    ensure(idle_timeouts == OTHERS as u64, || format!("{idle_timeouts} idle timeouts"))?;
    watch.verdict(figures.join(", "))
}

const ALL_WILD: u8 = 0xff;

row!(row_15_a_decoder_that_misbehaves_ends_its_own_connection_only, wild::<ALL_WILD, IDLE_MS>, [
    "an error of the decoder" off: wild::<ERROR, 0> => "e: still connected",
    "a panic of the decoder" off: wild::<PANIC, 0> => "p: still connected",
    "an end of a decoder that goes on for ever" off: wild::<FOR_EVER, 0> => "s: still connected",
    "the idle timeout" off: wild::<ALL_WILD, 0> => "n: still connected",
]);

#[derive(Clone)]
struct Stuck<const DEPTH: usize>;

impl<const DEPTH: usize> Temper for Stuck<DEPTH> {
    const DEPTH: usize = DEPTH;

    frames!();

    async fn process(victim: &Victim<Self>, source: SocketAddr, message: BytesMut) {
        match message.len() {
            8 => _ = victim.unicast_fast(source, message.freeze()),
            _ => std::future::pending().await,
        }
    }
}

const DEPTH: usize = 16;

/// Attackers whose first message is never done send more and more.
fn stuck<const DEPTH: usize>(stage: &Stage) -> Verdict {
    const ATTACKERS: usize = 10;
    const SIZE: usize = 32 * 1024;
    const OFFERED: usize = 8 * 1024 * 1024;
    // One in process, a full queue, and a chunk of which nothing is decoded. A message holds the chunk that it came in.
    const CHUNK: usize = 64 * 1024;
    let cap = (1 + self::DEPTH + 1) * CHUNK.max(SIZE);

    let (victim, addr) = stage.victim::<Stuck<DEPTH>>(attack::config(16));
    let watch = stage.watch::<Stuck<DEPTH>>(addr);
    let messages_before = victim.node().stats().received().0;
    let echoes_before = victim.seen.processed.load(SeqCst);
    let streams = stage.attack(async {
        let mut attackers = JoinSet::new();
        for number in 0..ATTACKERS {
            attackers.spawn(async move {
                let mut stream = attack::dial(number, addr).await;
                let message = [&(SIZE as u32).to_be_bytes()[..], &[7; SIZE]].concat();
                let flood = async {
                    for _ in 0..OFFERED / message.len() {
                        stream.write_all(&message).await.unwrap();
                    }
                };
                _ = tokio::time::timeout(Duration::from_secs(1), flood).await;
                stream
            });
        }
        attackers.join_all().await
    });
    let held = heap::in_use().saturating_sub(watch.before.heap) / ATTACKERS;
    let echoes = (victim.seen.processed.load(SeqCst) - echoes_before - ATTACKERS) as u64;
    // Those of the bystander that arrive between the two looks do not matter.
    let taken = (victim.node().stats().received().0 - messages_before).saturating_sub(echoes) / ATTACKERS as u64;
    ensure(taken > self::DEPTH as u64, || format!("only {taken} messages were taken"))?;
    ensure(held <= cap, || format!("{held} bytes are held for each attacker, of {cap} at most"))?;
    let peers: Vec<_> = victim.node().connected_addrs();
    let since = Instant::now();
    for peer in peers.into_iter().filter(|peer| peer.ip() != attack::BYSTANDER) {
        ensure(stage.inside(victim.node().disconnect(peer)), || format!("{peer} was gone"))?;
    }
    let took = since.elapsed() / ATTACKERS as u32;
    ensure(took <= Duration::from_secs(2), || format!("a disconnect took {took:?}"))?;
    drop(streams);
    watch.verdict(format_args!("{taken} messages and {held} bytes held for each, a disconnect took {took:.1?}"))
}

row!(row_16_messages_that_are_never_done_hold_a_queue_of_others_at_most, stuck::<DEPTH>, [
    "the depth of the queue" off: stuck::<100_000> => "bytes are held for each attacker",
]);

/// A message that takes its time: the task waits, or its thread with everything on it.
#[derive(Clone)]
struct Slow<const WAITS: bool>;

impl<const WAITS: bool> Temper for Slow<WAITS> {
    frames!();

    async fn process(victim: &Victim<Self>, source: SocketAddr, message: BytesMut) {
        const TIME: Duration = Duration::from_millis(400);
        match message.len() {
            8 => _ = victim.unicast_fast(source, message.freeze()),
            _ if WAITS => tokio::time::sleep(TIME).await,
            _ => std::thread::sleep(TIME),
        }
    }
}

/// Messages that take long, on more connections than there are threads. The canary is that of the bystander itself.
fn slow<const WAITS: bool>(stage: &Stage) -> Verdict {
    const ATTACKERS: usize = 10;
    let (victim, addr) = stage.victim::<Slow<WAITS>>(attack::config(17));
    let watch = stage.watch::<Slow<WAITS>>(addr);
    let streams = stage.attack(async {
        let mut streams = Vec::new();
        for number in 0..ATTACKERS {
            let mut stream = attack::dial(number, addr).await;
            stream.write_all(&[0, 0, 0, 1, 7]).await.unwrap();
            stream.shutdown().await.unwrap();
            streams.push(stream);
        }
        streams
    });
    let took = holds_within(Duration::from_secs(10), "all are processed", || victim.on_disconnects() == ATTACKERS)?;
    drop(streams);
    watch.verdict(format_args!("{ATTACKERS} slow messages side by side took {took:.1?}"))
}

row!(row_16_messages_that_take_long_do_not_hold_up_others, slow::<true>, [
    "a hook that gives way" off: slow::<false> => "the bystander's replies took",
]);
