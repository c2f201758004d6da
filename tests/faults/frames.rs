//! Rows 11 to 14: frames that never end, that announce too much, that are large, and that are tiny.

use std::{
    net::SocketAddr,
    sync::{Mutex, atomic::Ordering::SeqCst},
    time::{Duration, Instant},
};

use pea2pea::{Pea2Pea, protocols::Writing};
use tokio::{io::AsyncWriteExt, task::JoinSet, time::sleep};
use tokio_util::{
    bytes::{Buf, Bytes, BytesMut},
    codec::{Decoder, LengthDelimitedCodec},
};

use crate::{
    frames,
    kit::{
        Verdict, attack, ensure, heap, sized,
        stage::{Stage, holds_within},
        victim::{Calm, Temper, Victim},
    },
    row,
};

const IDLE_MS: u64 = 800;
const IDLE: Duration = Duration::from_millis(IDLE_MS);
/// The matrix grants a tenth, of a machine that does nothing else.
const TOLERANCE: Duration = Duration::from_millis(IDLE_MS / 10 + 400);

#[derive(Clone)]
struct Patient<const IDLE_MS: u64>;

impl<const IDLE_MS: u64> Temper for Patient<IDLE_MS> {
    const IDLE_MS: u64 = IDLE_MS;

    frames!();
}

/// Half of the attackers send half a frame and then nothing, the others a byte of it now and then.
fn unfinished<const IDLE_MS: u64>(stage: &Stage) -> Verdict {
    const ATTACKERS: usize = 20;

    let (victim, addr) = stage.victim::<Patient<IDLE_MS>>(attack::config(11));
    let watch = stage.watch::<Patient<IDLE_MS>>(addr);
    let ends = stage.attack(async {
        let mut attackers = JoinSet::new();
        for number in 0..ATTACKERS {
            attackers.spawn(async move {
                let (mut reader, mut writer) = attack::dial(number, addr).await.into_split();
                let since = Instant::now();
                _ = writer.write_all(&[0, 0, 1, 0, 1, 2, 3]).await;
                let trickling = async {
                    for _ in 0..200 {
                        sleep(IDLE / 8).await;
                        if number.is_multiple_of(2) {
                            _ = writer.write_all(b"t").await;
                        }
                    }
                };
                let mut sink = tokio::io::sink();
                tokio::select! {
                    _ = tokio::io::copy(&mut reader, &mut sink) => Some(since.elapsed()),
                    () = trickling => None,
                    () = sleep(2 * (IDLE + TOLERANCE)) => None,
                }
            });
        }
        attackers.join_all().await
    });
    let mut longest = Duration::ZERO;
    for end in ends {
        let lasted = end.ok_or("a connection was still there")?;
        longest = longest.max(lasted);
        ensure(lasted >= IDLE - Duration::from_millis(5) && lasted <= IDLE + TOLERANCE, || {
            format!("ended after {lasted:?}")
        })?;
    }
    let idle_timeouts = victim.node().heuristics().idle_timeouts();
    ensure(idle_timeouts == ATTACKERS as u64, || format!("{idle_timeouts} idle timeouts of {ATTACKERS}"))?;
    watch.verdict(format_args!("{ATTACKERS} ended after {longest:.1?} at most"))
}

row!(row_11_frames_that_never_end_end_their_connections, unfinished::<IDLE_MS>, [
    "the idle timeout" off: unfinished::<0> => "a connection was still there",
]);

#[derive(Clone)]
struct Trusting;

impl Temper for Trusting {
    type Decoder = LengthDelimitedCodec;

    fn decoder() -> LengthDelimitedCodec {
        LengthDelimitedCodec::builder().max_frame_length(usize::MAX).new_codec()
    }
}

/// Peers that announce more than they may.
fn announcing<T: Temper>(stage: &Stage, announced: u32) -> Verdict {
    const ATTACKERS: usize = 100;
    const LIMIT: usize = 256 * 1024;

    let (victim, addr) = stage.victim::<T>(attack::config(12));
    let watch = stage.watch::<T>(addr);
    let before = heap::in_use();
    heap::forget_peak();
    let (mut streams, took) = stage
        .attack(async {
            let mut attackers = JoinSet::new();
            for number in 0..ATTACKERS {
                attackers.spawn(async move {
                    let mut stream = attack::dial(number, addr).await;
                    _ = stream.write_all(&announced.to_be_bytes()).await;
                    // It may be closed already.
                    _ = stream.write_all(&[7; 4 * 1024]).await;
                    stream
                });
            }
            let mut streams = attackers.join_all().await;
            let since = Instant::now();
            for stream in &mut streams {
                attack::closed_within(Duration::from_secs(2), stream).await?;
            }
            Some((streams, since.elapsed()))
        })
        .map_or_else(|| (Vec::new(), None), |(streams, took)| (streams, Some(took)));
    let each = heap::peak().saturating_sub(before) / ATTACKERS;
    ensure(each < LIMIT, || format!("{each} bytes of heap for each attacker"))?;
    let took = took.ok_or("an attacker is still connected")?;
    streams.clear();
    let ended = victim.on_disconnects();
    ensure(ended == ATTACKERS, || format!("{ended} ended"))?;
    watch.verdict(format_args!("{each} bytes of heap for each attacker, all closed after {took:.1?}"))
}

fn four_gigabytes(stage: &Stage) -> Verdict {
    announcing::<Calm>(stage, u32::MAX)
}

/// Sixteen megabytes, which the default limit refuses too, so that no machine runs out of memory.
fn trusted(stage: &Stage) -> Verdict {
    announcing::<Trusting>(stage, 16 * 1024 * 1024)
}

row!(row_12_headers_that_announce_too_much_cost_nothing, four_gigabytes, [
    "the limit of a frame" off: trusted => "bytes of heap for each attacker",
]);

/// Takes large messages in, and lets them go.
#[derive(Clone)]
struct Sparing<const HOARDS: bool>;

impl<const HOARDS: bool> Temper for Sparing<HOARDS> {
    type Decoder = Hoarding<HOARDS>;

    fn decoder() -> Self::Decoder {
        Hoarding { last: Bytes::new() }
    }

    async fn process(victim: &Victim<Self>, source: SocketAddr, message: BytesMut) {
        if message.len() < 1_000 {
            _ = victim.unicast_fast(source, message.freeze());
        }
    }
}

/// May hold on to the last message. It does not reserve anything, unlike the usual codec, which parts with a buffer that has
/// grown: what becomes of that is up to the node.
struct Hoarding<const HOARDS: bool> {
    last: Bytes,
}

impl<const HOARDS: bool> Decoder for Hoarding<HOARDS> {
    type Item = BytesMut;
    type Error = std::io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> std::io::Result<Option<BytesMut>> {
        let Some(header) = src.first_chunk() else { return Ok(None) };
        let length = u32::from_be_bytes(*header) as usize;
        if src.len() < 4 + length {
            return Ok(None);
        }
        src.advance(4);
        let message = src.split_to(length);
        if !HOARDS {
            return Ok(Some(message));
        }
        self.last = message.freeze();
        Ok(Some(BytesMut::from(&self.last[..])))
    }
}

/// A large message on each of many connections, which are idle afterwards.
fn large<const HOARDS: bool>(stage: &Stage) -> Verdict {
    const LARGE: usize = 1024 * 1024;
    const AT_A_TIME: usize = 16;
    // Some kilobytes: what the attacker has of it is in the same process. A buffer would be 64 KiB.
    const IDLE: usize = 16 * 1024;
    let connections = sized(100, 1_000);
    let (victim, addr) = stage.victim::<Sparing<HOARDS>>(attack::config(13));
    let without = heap::in_use();
    let mut streams = stage.attack(async {
        let mut streams = Vec::with_capacity(connections);
        for number in 0..connections {
            streams.push(attack::dial(number, addr).await);
        }
        streams
    });
    holds_within(Duration::from_secs(10), "all are connected", || victim.is_settled(connections))?;
    let each = || heap::in_use().saturating_sub(without) / connections;
    holds_within(Duration::from_secs(1), "an idle connection holds next to nothing", || each() < IDLE)?;
    let idle = each();
    let watch = stage.watch::<Sparing<HOARDS>>(addr);
    let processed = || victim.seen.processed.load(SeqCst);
    let bytes = || victim.node().stats().received().1 as usize;
    heap::forget_peak();
    stage.attack(async {
        let payload = vec![7; LARGE];
        for (number, stream) in streams.iter_mut().enumerate() {
            // All at once would be a gigabyte for two threads to read, behind which everybody waits, whoever reads it.
            while bytes() < number.saturating_sub(AT_A_TIME) * LARGE {
                sleep(Duration::from_millis(1)).await;
            }
            stream.write_all(&(LARGE as u32).to_be_bytes()).await.unwrap();
            stream.write_all(&payload).await.unwrap();
        }
    });
    holds_within(Duration::from_secs(20), "all are received", || bytes() >= connections * LARGE)?;
    ensure(processed() > connections, || "not all were processed".into())?;
    let peak = heap::peak().saturating_sub(watch.before.heap) / 1024;
    let verdict = watch.verdict(format_args!("{connections} messages of 1 MiB, {peak} KiB at the peak"))?;
    let afterwards = each();
    drop(streams);
    Ok(format!("{verdict}; {idle} bytes for each idle connection, {afterwards} afterwards"))
}

row!(row_13_large_messages_leave_no_memory_in_use, large::<false>, [
    "letting messages go" off: large::<true> => "not settled",
]);

/// What a victim that forwards everything has forwarded.
static FORWARDED: Mutex<Vec<BytesMut>> = Mutex::new(Vec::new());

#[derive(Clone)]
struct Flooded<const FORWARDS: bool>;

impl<const FORWARDS: bool> Temper for Flooded<FORWARDS> {
    frames!();

    async fn process(victim: &Victim<Self>, source: SocketAddr, message: BytesMut) {
        if !message.is_empty() {
            _ = victim.unicast_fast(source, message.freeze());
        } else if FORWARDS {
            FORWARDED.lock().unwrap().push(message);
        }
    }
}

/// As many empty frames as go through.
fn tiny<const FORWARDS: bool>(stage: &Stage) -> Verdict {
    const ATTACKERS: usize = 10;
    const FLAT: usize = 2 * 1024 * 1024;
    // A debug build has its hands full with a small part of what goes through.
    const PAUSE: Duration = Duration::from_millis(if cfg!(debug_assertions) { 300 } else { 0 });
    const PIECE: usize = if cfg!(debug_assertions) { 8 * 1024 } else { 16 * 1024 };

    let duration = Duration::from_millis(sized(2_000, 10_000) as u64);
    let (victim, addr) = stage.victim::<Flooded<FORWARDS>>(attack::config(14));
    let watch = stage.watch::<Flooded<FORWARDS>>(addr);
    let messages_before = victim.seen.processed.load(SeqCst);
    let peaks = stage.attack(async {
        let mut attackers = JoinSet::new();
        for number in 0..ATTACKERS {
            attackers.spawn(async move {
                let mut stream = attack::dial(number, addr).await;
                let frames = [0; PIECE];
                while stream.write_all(&frames).await.is_ok() {
                    sleep(PAUSE).await;
                }
            });
        }
        let mut peaks = [0; 2];
        for peak in &mut peaks {
            sleep(duration / 4).await;
            heap::forget_peak();
            sleep(duration / 4).await;
            *peak = heap::peak();
        }
        attackers.shutdown().await;
        peaks
    });
    let rate = (victim.seen.processed.load(SeqCst) - messages_before) as f64 / duration.as_secs_f64();
    FORWARDED.lock().unwrap().clear();
    ensure(rate > 10_000.0, || format!("no flood: {rate:.0} messages/s"))?;
    ensure(peaks[1] <= peaks[0] + FLAT / 8 && peaks[0] <= watch.before.heap + FLAT, || {
        format!("the heap is not flat: {} at rest, then {peaks:?}", watch.before.heap)
    })?;
    // What the OS holds of the flood is still to be processed: millions of frames, which a debug build takes a while for.
    let last = || victim.is_settled(1);
    let drained = holds_within(Duration::from_secs(60), "all of the flood is processed", last)?;
    let before = watch.before.heap;
    watch.verdict(format_args!("{rate:.0} messages/s, heap {before} at rest, then {peaks:?}, drained in {drained:.1?}"))
}

row!(row_14_a_flood_of_tiny_frames_does_not_grow_the_heap, tiny::<false>, [
    "bounded queues" off: tiny::<true> => "the heap is not flat",
]);
