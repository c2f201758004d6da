//! Rows 29 to 31: peers that flood with messages that cost something, and what becomes of everybody else's time.
//!
//! They have runtimes of their own, down to a single thread. The honest pair of the other rows is not there: what it would
//! show is the claim of row 31.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Mutex,
        mpsc::{Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use pea2pea::{DisconnectOrigin, Pea2Pea, protocols::Writing};
use tokio::runtime::Builder;
use tokio_util::bytes::{Bytes, BytesMut};

use crate::{
    frames,
    kit::{
        Verdict, attack, ensure, sized,
        stage::{Stage, holds_within},
        victim::{LONG_MS, Temper, Victim},
    },
    row,
};

/// A runtime of this many workers, 0 being the current thread.
const CURRENT_THREAD: usize = 0;

/// The size of a message of a flood; others cost nothing.
const FLOOD: usize = 4;

const TIMEOUT_MS: u64 = 2_000;

/// How connections ended. Each part of a row has a process of its own, and cells come one after the other.
static ENDS: Mutex<Vec<(SocketAddr, DisconnectOrigin)>> = Mutex::new(Vec::new());

/// Works for so many microseconds on each message of a flood.
#[derive(Clone)]
struct Laborious<const COST_US: u64, const IDLE_MS: u64, const FLUSH_MS: u64>;

impl<const COST_US: u64, const IDLE_MS: u64, const FLUSH_MS: u64> Temper for Laborious<COST_US, IDLE_MS, FLUSH_MS> {
    const IDLE_MS: u64 = IDLE_MS;
    const FLUSH_MS: u64 = FLUSH_MS;

    frames!();

    async fn process(_: &Victim<Self>, _: SocketAddr, message: BytesMut) {
        let (since, cost) = (Instant::now(), Duration::from_micros(COST_US));
        while message.len() == FLOOD && since.elapsed() < cost {
            std::hint::spin_loop();
        }
    }

    async fn ending(_: &Victim<Self>, addr: SocketAddr, origin: DisconnectOrigin) {
        ENDS.lock().unwrap().push((addr, origin));
    }
}

/// A victim on a runtime of its own, which ends with it.
struct Alone<T> {
    victim: Victim<T>,
    addr: SocketAddr,
    handle: tokio::runtime::Handle,
    end: tokio::sync::mpsc::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl<T: Temper> Alone<T> {
    fn on(workers: usize, last_byte: u8) -> Self {
        let (made, making) = channel();
        let (end, mut ended) = tokio::sync::mpsc::channel(1);
        let thread = thread::spawn(move || {
            let mut builder = match workers {
                CURRENT_THREAD => Builder::new_current_thread(),
                _ => Builder::new_multi_thread(),
            };
            let runtime = builder.worker_threads(workers.max(1)).enable_all().build().unwrap();
            runtime.block_on(async {
                let victim = Victim::<T>::new(attack::config(last_byte)).await;
                let addr = victim.node().toggle_listener().await.unwrap().unwrap();
                made.send((victim, addr, runtime.handle().clone())).unwrap();
                ended.recv().await;
            });
            runtime.shutdown_background();
        });
        let (victim, addr, handle) = making.recv().unwrap();
        Self { victim, addr, handle, end, thread }
    }

    /// Dials, and waits until the connection is live.
    fn dial(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).unwrap();
        let own = stream.local_addr().unwrap();
        holds_within(Duration::from_secs(30), "a connection", || self.victim.node().is_connected(own)).unwrap();
        stream
    }

    /// Floods from a thread, over connections of its own, until they end.
    fn flood(&self, peers: usize) {
        let streams: Vec<_> = (0..peers).map(|_| self.dial()).collect();
        for mut stream in streams {
            thread::spawn(move || {
                let chunk = [0, 0, 0, FLOOD as u8, 1, 2, 3, 4].repeat(4_096);
                while stream.write_all(&chunk).is_ok() {}
            });
        }
    }

    /// Ends it; a thread that cannot be ended because its turn goes on for ever stays behind, with the row's process.
    fn finish(self) {
        _ = self.end.blocking_send(());
        _ = holds_within(Duration::from_secs(5), "the end of the runtime", || self.thread.is_finished());
    }
}

// --- row 29 ---

/// How long a peer may be there, with one pardon for a late timer: what is generous beside floods is not "never".
const ENDED_WITHIN: Duration = Duration::from_secs(15);

fn one_timeout<const COST_US: u64, const IDLE_MS: u64, const FLUSH_MS: u64>(workers: usize, floods: usize) -> Verdict {
    ENDS.lock().unwrap().clear();
    let alone = Alone::<Laborious<COST_US, IDLE_MS, FLUSH_MS>>::on(workers, 29);
    let (silent, deaf) = (alone.dial(), alone.dial());
    let [silent_addr, deaf_addr] = [&silent, &deaf].map(|stream| stream.local_addr().unwrap());
    // The deaf one is not silent: only the flush can end it.
    thread::spawn({
        let mut deaf = deaf.try_clone().unwrap();
        move || {
            while deaf.write_all(&[0, 0, 0, 1, 9]).is_ok() {
                thread::sleep(Duration::from_millis(300));
            }
        }
    });
    thread::spawn({
        let victim = alone.victim.clone();
        move || {
            let chunk = Bytes::from_static(&[7; 64 * 1024]);
            while victim.node().is_connected(deaf_addr) {
                // What is refused comes again.
                _ = victim.unicast_fast(deaf_addr, chunk.clone());
                thread::sleep(Duration::from_millis(1));
            }
        }
    });
    alone.flood(floods);
    let end_of = |addr| ENDS.lock().unwrap().iter().find(|end| end.0 == addr).map(|end| end.1);
    let cell = format!("{workers} workers, {floods} floods of {COST_US} us");
    let idle = holds_within(ENDED_WITHIN, "the end of the silent peer", || end_of(silent_addr).is_some());
    // With a turn each 1.5 s, the system's own buffers take far longer to fill, and so long the peer takes what is sent.
    let fills = COST_US < 1_000_000;
    let flush = holds_within(ENDED_WITHIN, "the end of the deaf peer", || !fills || end_of(deaf_addr).is_some());
    alone.finish();
    let [idle, flush] = [idle, flush].map(|end| end.map_err(|reason| format!("{cell}: {reason}")));
    let (idle, flush) = (idle?, flush?);
    let origins = (end_of(silent_addr), end_of(deaf_addr).filter(|_| fills));
    ensure(origins == (Some(DisconnectOrigin::Reading), fills.then_some(DisconnectOrigin::Writing)), || {
        format!("{cell}: the ends came from {origins:?}")
    })?;
    Ok(format!("{cell}: silent after {idle:.1?}, deaf after {flush:.1?} more"))
}

fn beside_floods(_: &Stage) -> Verdict {
    let cells = [
        one_timeout::<600, TIMEOUT_MS, TIMEOUT_MS>(CURRENT_THREAD, 1)?,
        one_timeout::<300, TIMEOUT_MS, TIMEOUT_MS>(1, 4)?,
        one_timeout::<600, TIMEOUT_MS, TIMEOUT_MS>(2, 2)?,
    ];
    Ok(cells.join("; "))
}

fn beside_a_slow_message(_: &Stage) -> Verdict {
    one_timeout::<1_500_000, TIMEOUT_MS, TIMEOUT_MS>(CURRENT_THREAD, 1)
}

fn without_idle_timeout(_: &Stage) -> Verdict {
    one_timeout::<10, 0, TIMEOUT_MS>(2, 1)
}

fn without_flush_timeout(_: &Stage) -> Verdict {
    one_timeout::<10, TIMEOUT_MS, LONG_MS>(2, 1)
}

row!(row_29_beside_floods_silent_and_deaf_peers_end_by_their_timeouts, beside_floods, [
    "the idle timeout" off: without_idle_timeout => "the end of the silent peer",
    "the flush timeout" off: without_flush_timeout => "the end of the deaf peer",
]);

row!(row_29_beside_messages_of_1500_ms_silent_peers_end_by_their_timeout, beside_a_slow_message, [
    "the idle timeout" off: without_idle_timeout => "the end of the silent peer",
]);

// --- row 30 ---

/// In the hook, without a receipt.
const FAST: u8 = 0;
/// In the hook, with a receipt.
const CONFIRMED: u8 = 1;
/// From a task of its own, which nobody waits for.
const ELSEWHERE: u8 = 2;

/// Answers each message, in one of the ways.
#[derive(Clone)]
struct Answering<const WAY: u8>;

impl<const WAY: u8> Temper for Answering<WAY> {
    frames!();

    async fn process(victim: &Victim<Self>, source: SocketAddr, message: BytesMut) {
        let message = message.freeze();
        // What is refused is missed by the client.
        match WAY {
            FAST => _ = victim.unicast_fast(source, message),
            CONFIRMED => _ = victim.unicast(source, message),
            _ => {
                let victim = victim.clone();
                tokio::spawn(async move {
                    // Until all requests are there, whatever a turn is: then it is a burst like any other.
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    _ = victim.unicast_fast(source, message);
                });
            }
        }
    }
}

fn pipelined<const WAY: u8>(workers: usize) -> Verdict {
    const REQUESTS: usize = 1_000;

    let alone = Alone::<Answering<WAY>>::on(workers, 30);
    let mut stream = alone.dial();
    stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let request = |number: u32| [4_u32.to_be_bytes(), number.to_be_bytes()].concat();
    let requests: Vec<u8> = (0..REQUESTS as u32).flat_map(request).collect();
    stream.write_all(&requests).unwrap();
    let mut answers = vec![0; requests.len()];
    let mut count = 0;
    // A read of nothing waits too.
    while count < answers.len()
        && let Ok(more @ 1..) = stream.read(&mut answers[count..])
    {
        count += more;
    }
    alone.finish();
    let cell = format!("{workers} workers, way {WAY}");
    ensure(count == requests.len(), || format!("{cell}: {} of {REQUESTS} answers came", count / 8))?;
    ensure(answers == requests, || format!("{cell}: the answers are in another order"))?;
    Ok(cell)
}

fn all_answered(_: &Stage) -> Verdict {
    for workers in [CURRENT_THREAD, 1, 2, 4] {
        for _ in 0..sized(3, 50) {
            pipelined::<FAST>(workers)?;
            pipelined::<CONFIRMED>(workers)?;
        }
    }
    Ok("all were answered, on 0, 1, 2 and 4 workers".into())
}

fn answered_elsewhere(_: &Stage) -> Verdict {
    pipelined::<ELSEWHERE>(CURRENT_THREAD)
}

row!(row_30_each_of_a_thousand_pipelined_requests_is_answered, all_answered, [
    "answering inside of process_message" off: answered_elsewhere => "answers came",
]);

// --- row 31 ---

fn waits<const COST_US: u64>(_: &Stage) -> Verdict {
    /// Far above what a turn may take, and far below what turns of thousands of messages take.
    const LONGEST: Duration = Duration::from_secs(1);
    const FLOODS: usize = 16;

    let alone = Alone::<Laborious<COST_US, 0, LONG_MS>>::on(CURRENT_THREAD, 31);
    let (slept, sleeps): (Sender<Duration>, _) = channel();
    alone.flood(FLOODS);
    alone.handle.spawn(async move {
        loop {
            let since = Instant::now();
            tokio::time::sleep(Duration::from_millis(1)).await;
            if slept.send(since.elapsed()).is_err() {
                return;
            }
        }
    });
    let (since, duration) = (Instant::now(), Duration::from_millis(sized(4_000, 20_000) as u64));
    let (mut count, mut longest) = (0, Duration::ZERO);
    while since.elapsed() < duration {
        // One that is not over yet counts as well.
        match sleeps.recv_timeout(4 * LONGEST) {
            Ok(sleep) => (count, longest) = (count + 1, longest.max(sleep)),
            Err(_) => longest = longest.max(4 * LONGEST),
        }
    }
    let processed = alone.victim.node().stats().received().0;
    drop(sleeps);
    alone.finish();
    ensure(processed > FLOODS as u64, || format!("no flood: {processed} messages"))?;
    ensure(longest <= LONGEST, || {
        format!("a sleep of 1 ms took {longest:.1?} beside {FLOODS} floods of {COST_US} us")
    })?;
    Ok(format!("{count} sleeps of 1 ms took at most {longest:.1?} beside {FLOODS} floods of {COST_US} us"))
}

row!(row_31_beside_floods_other_tasks_get_their_turn_soon, waits::<100>, [
    "messages that take little time" off: waits::<200_000> => "a sleep of 1 ms took",
]);
