//! Rows 17 to 19 and 22: peers that do not read, or hardly, or only as long as they like.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use pea2pea::{DisconnectOrigin, Pea2Pea, protocols::Writing};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::bytes::Bytes;

use crate::{
    frames,
    kit::{
        Verdict, attack, ensure, heap, sized,
        stage::{Stage, Watch, holds_within, victim_cpu},
        victim::{Calm, LONG_MS, Temper, Victim},
    },
    row,
};

const FLUSH_MS: u64 = 1_000;
const FLUSH: Duration = Duration::from_millis(FLUSH_MS);
/// The matrix grants a fifth, of a machine that does nothing else.
const TOLERANCE: Duration = Duration::from_millis(FLUSH_MS / 5 + 400);
const DEPTH: usize = 8;

/// When connections ended for want of writing. There is one row in each process.
static ENDS: Mutex<Vec<(SocketAddr, Instant)>> = Mutex::new(Vec::new());

#[derive(Clone)]
struct Writer<const FLUSH_MS: u64>;

impl<const FLUSH_MS: u64> Temper for Writer<FLUSH_MS> {
    const FLUSH_MS: u64 = FLUSH_MS;
    const DEPTH: usize = DEPTH;

    frames!();

    async fn ending(_: &Victim<Self>, addr: SocketAddr, origin: DisconnectOrigin) {
        if origin == DisconnectOrigin::Writing {
            ENDS.lock().unwrap().push((addr, Instant::now()));
        }
    }
}

/// Connects peers with small buffers; returns them with what the victim calls them.
fn narrow_peers<T: Temper>(
    stage: &Stage,
    victim: &Victim<T>,
    addr: SocketAddr,
    count: usize,
) -> Result<Vec<(TcpStream, SocketAddr)>, String> {
    let peers = stage.attack(async {
        let mut peers = Vec::with_capacity(count);
        for number in 0..count {
            let stream = attack::narrow_socket(number).connect(addr).await.unwrap();
            let own = stream.local_addr().unwrap();
            peers.push((stream, own));
        }
        peers
    });
    holds_within(Duration::from_secs(10), "all are connected", || {
        peers.iter().all(|(_, own)| victim.node().is_connected(*own))
    })?;
    Ok(peers)
}

/// Peers that never read, to which more and more is sent.
fn unread<const FLUSH_MS: u64>(stage: &Stage) -> Verdict {
    const PEERS: usize = 100;
    const SIZE: usize = 16 * 1024;
    // The queue, a batch that is written and one that waits.
    const CAP: usize = DEPTH * SIZE + 2 * 256 * 1024;
    let least_offer = sized(128, 1_024) << 20;

    ENDS.lock().unwrap().reserve(PEERS);
    let (victim, addr) = stage.victim::<Writer<FLUSH_MS>>(attack::config(17));
    let watch = stage.watch::<Writer<FLUSH_MS>>(addr);
    let peers = narrow_peers(stage, &victim, addr, PEERS)?;
    heap::forget_peak();
    let bound = FLUSH + TOLERANCE;
    // What the OS takes at first, it takes; the time counts since it took something last, for each peer.
    let mut progress: Vec<_> = peers.iter().map(|(_, peer)| (*peer, 0, Instant::now())).collect();
    let (mut last_progress, mut stalled_since) = (Instant::now(), None);
    let shared = Bytes::from(vec![7; SIZE]);
    let offered = stage.inside(async {
        let (mut offered, mut ticks) = (0_usize, interval(Duration::from_millis(10)));
        // On a busy machine a round takes longer than a tick. The next one does not follow at once: a row of them would keep the
        // bystander waiting, and not the peers that never read.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while victim.on_disconnects() < PEERS && last_progress.elapsed() < bound {
            ticks.tick().await;
            for (peer, sent, since) in &mut progress {
                let info = victim.node().connection_info(*peer);
                let now_sent = info.map_or(*sent, |info| info.stats().sent().1);
                if now_sent != *sent {
                    (*sent, *since, last_progress, stalled_since) = (now_sent, Instant::now(), Instant::now(), None);
                }
                // The queue is full most of the time; what it takes has memory of its own.
                if victim.unicast_fast(*peer, Bytes::from(vec![7; SIZE])).is_err() {
                    _ = (0..9).map(|_| victim.unicast_fast(*peer, shared.clone())).all(|refused| refused.is_err());
                    offered += 9 * SIZE;
                }
                offered += SIZE;
            }
            if stalled_since.is_none() && last_progress.elapsed() > FLUSH / 4 {
                stalled_since = Some((victim_cpu(), Instant::now()));
            }
        }
        offered
    });
    let (cpu, stalled_for) =
        stalled_since.map_or_else(Default::default, |(cpu, since)| (victim_cpu() - cpu, since.elapsed()));
    let ended = victim.on_disconnects();
    let held = heap::peak().saturating_sub(watch.before.heap) / PEERS;
    drop(peers);
    ensure(held <= CAP, || format!("{held} bytes are held for each peer, of {CAP} at most"))?;
    ensure(ended == PEERS, || format!("{ended} of {PEERS} ended within {bound:?}"))?;
    ensure(offered >= least_offer, || format!("only {offered} bytes were offered"))?;
    let mut longest = Duration::ZERO;
    for (addr, end) in ENDS.lock().unwrap().iter() {
        let (.., since) = progress.iter().find(|(peer, ..)| peer == addr).ok_or("a stranger ended")?;
        let lasted = end.saturating_duration_since(*since);
        longest = longest.max(lasted);
        ensure(lasted >= FLUSH.mul_f32(0.8) && lasted <= bound, || format!("one ended after {lasted:?}"))?;
    }
    let write_timeouts = victim.node().heuristics().write_timeouts();
    ensure(write_timeouts == PEERS as u64, || format!("{write_timeouts} write timeouts of {PEERS}"))?;
    // A tenth in the matrix, of a release build.
    let most = stalled_for.mul_f32(if cfg!(debug_assertions) { 0.3 } else { 0.1 });
    ensure(cpu <= most, || format!("{cpu:?} of CPU in {stalled_for:.1?}"))?;
    watch.verdict(format_args!(
        "{} MiB offered, {held} bytes held for each, each ended after {longest:.1?} at most, {cpu:?} of CPU in {stalled_for:.1?}",
        offered >> 20
    ))
}

row!(row_17_peers_that_never_read_are_given_up_and_cost_a_queue_each, unread::<FLUSH_MS>, [
    "the flush timeout" off: unread::<LONG_MS> => "0 of 100 ended",
]);

/// A peer that reads a kilobyte a second.
fn trickle<const FLUSH_MS: u64>(stage: &Stage) -> Verdict {
    let (victim, addr) = stage.victim::<Writer<FLUSH_MS>>(attack::config(18));
    let watch = stage.watch::<Writer<FLUSH_MS>>(addr);
    let (mut stream, own) = narrow_peers(stage, &victim, addr, 1)?.remove(0);
    let reading = stage.attack_beside(async move {
        let mut piece = [0; 256];
        while stream.read(&mut piece).await.is_ok_and(|count| count > 0) {
            sleep(Duration::from_millis(250)).await;
        }
    });
    // Large enough that the OS has soon taken all that it takes.
    let message = Bytes::from(vec![7; 32 * 1024]);
    let since = Instant::now();
    let (oldest, sent) = stage.inside(async {
        let (mut waiting, mut oldest, mut sent) = (VecDeque::new(), Duration::ZERO, 0);
        let mut ticks = interval(Duration::from_millis(2));
        while victim.node().is_connected(own) && since.elapsed() < 4 * FLUSH {
            ticks.tick().await;
            if let Ok(receipt) = victim.unicast(own, message.clone()) {
                waiting.push_back((Instant::now(), receipt));
                sent += 1;
            }
            while let Some((queued, receipt)) = waiting.front_mut() {
                oldest = oldest.max(queued.elapsed());
                if matches!(receipt.try_recv(), Err(tokio::sync::oneshot::error::TryRecvError::Empty)) {
                    break;
                }
                waiting.pop_front();
            }
        }
        (oldest, sent)
    });
    let is_connected = victim.node().is_connected(own);
    reading.abort();
    ensure(oldest <= 2 * FLUSH + TOLERANCE, || format!("a message has waited for {oldest:?}"))?;
    ensure(oldest >= FLUSH / 2 && sent > DEPTH, || format!("nothing had to wait: {oldest:?}, {sent} sent"))?;
    ensure(!is_connected, || "it is still connected".into())?;
    watch.verdict(format_args!("{sent} sent, the oldest waited for {oldest:.1?}, ended after {:.1?}", since.elapsed()))
}

row!(row_18_nothing_waits_long_for_a_peer_that_hardly_reads, trickle::<FLUSH_MS>, [
    "the flush timeout" off: trickle::<LONG_MS> => "a message has waited",
]);

/// Sends small messages at once: an echo that follows a broadcast would wait for the bystander's delayed acknowledgement,
/// 40 ms, and what waits for the echo is late as well.
#[derive(Clone)]
struct Prompt;

impl Temper for Prompt {
    /// Nothing is said, but the handshake is where a socket can be had.
    const GREETING: Option<&'static [u8]> = Some(b"");

    frames!();

    async fn shake_hands(_: &Victim<Self>, _: SocketAddr, stream: &mut TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)
    }
}

/// How a victim tells everybody something.
#[derive(Clone, Copy, PartialEq)]
enum Fan {
    Broadcast,
    /// What a fan-out must not be.
    OneAfterTheOther,
}

/// Sends until neither the OS nor the queue takes any more.
fn fill<T: Temper>(stage: &Stage, victim: &Victim<T>, addr: SocketAddr) -> Result<(), String> {
    let message = Bytes::from(vec![7; 64 * 1024]);
    let mut last_taken = Instant::now();
    holds_within(Duration::from_secs(20), "nothing more is taken", || {
        if stage.inside(async { victim.unicast_fast(addr, message.clone()) }).is_ok() {
            last_taken = Instant::now();
        }
        last_taken.elapsed() > Duration::from_millis(100)
    })
    .map(drop)
}

/// How many messages were delivered and told, whether the stalled peer's queue is full, and the watch.
type Fanned<'a> = Result<(usize, usize, Option<bool>, Watch<'a>), String>;

/// How many messages 49 peers get while the fiftieth reads, or does not.
#[expect(deprecated, reason = "it is lossy, and has to do what it promises all the same")]
fn fan_out(stage: &Stage, fan: Fan, is_one_stalled: bool, duration: Duration) -> Fanned<'_> {
    const PEERS: usize = 50;
    let (victim, addr) = stage.victim::<Prompt>(attack::config(if is_one_stalled { 19 } else { 20 }));
    let watch = stage.watch::<Prompt>(addr);
    let mut peers = narrow_peers(stage, &victim, addr, PEERS)?;
    let addrs: Vec<_> = peers.iter().map(|(_, own)| *own).collect();
    let stalled = is_one_stalled.then(|| peers.remove(PEERS / 2));
    let delivered = Arc::new(AtomicUsize::new(0));
    let readers: JoinSet<()> = stage.attack(async {
        let mut readers = JoinSet::new();
        for (mut stream, _) in peers.into_iter().take(PEERS - 1) {
            let delivered = Arc::clone(&delivered);
            readers.spawn(async move {
                let mut buffer = vec![0; 16 * 1024];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    delivered.fetch_add(count, SeqCst);
                }
            });
        }
        readers
    });
    if let Some((_, own)) = &stalled {
        fill(stage, &victim, *own)?;
    }
    let message = Bytes::from(vec![7; 4 * 1024]);
    let told = stage.inside(async {
        let (mut told, mut ticks) = (0, interval(Duration::from_millis(10)));
        let telling = async {
            loop {
                ticks.tick().await;
                told += 1;
                if fan == Fan::Broadcast {
                    victim.broadcast(message.clone()).unwrap();
                    continue;
                }
                for peer in &addrs {
                    let receipt = loop {
                        match victim.unicast(*peer, message.clone()) {
                            Ok(receipt) => break receipt,
                            Err(_) => sleep(Duration::from_millis(1)).await,
                        }
                    };
                    _ = receipt.await;
                }
            }
        };
        _ = timeout(duration, telling).await;
        told
    });
    let refused = stalled.as_ref().map(|(_, own)| victim.unicast_fast(*own, message.clone()).is_err());
    if fan == Fan::Broadcast {
        // What is on its way counts too; the comparison afterwards tells whether enough has arrived.
        let all = told * (PEERS - 1) * (message.len() + 4);
        _ = holds_within(Duration::from_secs(5), "all arrive", || delivered.load(SeqCst) >= all);
    }
    let delivered = delivered.load(SeqCst) / (message.len() + 4);
    drop((stalled, readers));
    Ok((delivered, told, refused, watch))
}

fn one_stalled(stage: &Stage, fan: Fan) -> Verdict {
    let duration = Duration::from_millis(sized(1_500, 10_000) as u64);
    let (without, _, _, watch) = fan_out(stage, fan, false, duration)?;
    watch.verdict("")?;
    let (with, told, is_refused, watch) = fan_out(stage, fan, true, duration)?;
    ensure(with * 100 >= without * 95, || format!("{with} delivered instead of {without}"))?;
    ensure(is_refused == Some(true), || format!("nothing stalled, {told} told"))?;
    watch.verdict(format_args!("{with} delivered to 49 beside a stalled one, {without} without it"))
}

fn broadcasting(stage: &Stage) -> Verdict {
    one_stalled(stage, Fan::Broadcast)
}

fn one_after_the_other(stage: &Stage) -> Verdict {
    one_stalled(stage, Fan::OneAfterTheOther)
}

row!(row_19_a_peer_that_stalls_does_not_hold_up_the_others, broadcasting, [
    "independence of the peers" off: one_after_the_other => "delivered instead of",
]);

/// When a message counts as confirmed.
#[derive(Clone, Copy, PartialEq)]
enum Confirmed {
    ByItsReceipt,
    /// What must not count.
    ByBeingQueued,
}

/// Peers that close their side while a lot is queued for them. Some read it all, some nothing.
fn half_closed(stage: &Stage, confirmed: Confirmed) -> Verdict {
    const PEERS: usize = 20;
    const SIZE: usize = 64 * 1024;
    const MESSAGES: usize = 64;
    // What the OS may have taken from us and not given to a peer with a tiny buffer.
    const IN_THE_OS: usize = 3 * 1024 * 1024;

    let (victim, addr) = stage.victim::<Calm>(attack::config(22));
    let watch = stage.watch::<Calm>(addr);
    let peers = narrow_peers(stage, &victim, addr, PEERS)?;
    let mut figures = [0; 3];
    let mut fates = Vec::new();
    let is_done = Arc::new(AtomicBool::new(false));
    for (number, (mut stream, own)) in peers.into_iter().enumerate() {
        let queue = || victim.unicast(own, Bytes::from(vec![7; SIZE]));
        let receipts: Vec<_> = stage.inside(async { (0..MESSAGES).map_while(|_| queue().ok()).collect() });
        let is_reading = number % 2 == 0;
        let is_done = Arc::clone(&is_done);
        stage.attack(stream.shutdown()).unwrap();
        let reading = stage.attack_beside(async move {
            let mut received = 0;
            if is_reading {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    received += count;
                }
            }
            while !is_reading && !is_done.load(SeqCst) {
                sleep(Duration::from_millis(5)).await;
            }
            received
        });
        fates.push((is_reading, receipts, reading));
    }
    holds_within(Duration::from_secs(10), "the bystander alone", || victim.is_settled(1))?;
    is_done.store(true, SeqCst);
    for (is_reading, receipts, reading) in fates {
        let queued = receipts.len();
        let mut flushed = 0;
        for receipt in receipts {
            // The batch that was being written goes with the writer's task, which the runtime drops after the release.
            match stage.attack(async { timeout(Duration::from_secs(10), receipt).await }) {
                Ok(Ok(Ok(()))) => flushed += 1,
                Err(_elapsed) => return Err("a receipt hangs".into()),
                Ok(Ok(Err(_)) | Err(_)) => figures[1] += 1,
            }
        }
        let confirmed = if confirmed == Confirmed::ByItsReceipt { flushed } else { queued };
        let received = stage.attack(reading).unwrap();
        let held_by_os = if is_reading { 0 } else { IN_THE_OS };
        ensure(confirmed * (SIZE + 4) <= received + held_by_os, || {
            format!("{confirmed} messages are confirmed, {received} bytes were received")
        })?;
        figures[0] += flushed;
        figures[2] += queued;
    }
    let [flushed, failed, queued] = figures;
    ensure(failed > 0 && flushed > 0, || format!("{flushed} flushed, {failed} failed"))?;
    watch.verdict(format_args!("of {queued} messages {flushed} were confirmed and {failed} reported as failed"))
}

fn by_receipts(stage: &Stage) -> Verdict {
    half_closed(stage, Confirmed::ByItsReceipt)
}

fn by_hope(stage: &Stage) -> Verdict {
    half_closed(stage, Confirmed::ByBeingQueued)
}

row!(row_22_a_peer_that_closes_its_side_gets_its_messages_or_we_learn_that_it_does_not, by_receipts, [
    "receipts" off: by_hope => "messages are confirmed",
]);
