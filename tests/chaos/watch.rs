//! The watch: looks at everything while the workers work, from a thread of its own, so that it sees a deadlock too.

use std::{
    collections::HashMap,
    io::{IsTerminal, Write, stderr},
    sync::atomic::Ordering::Relaxed,
    thread,
    time::{Duration, Instant},
};

use tokio::runtime::Handle;

use crate::{
    heap, outside, panics,
    peer::{MAX_CONNECTIONS, Peer},
    strangers::MAX_KEPT,
    tally::Event,
    world::{EXTRA_WORKERS, NODES, WORKERS, World},
};

const TICK: Duration = Duration::from_millis(20);

/// The greatest age of an action.
const MAX_ACTION_TIME: Duration = Duration::from_secs(30);
/// Within this time, some connection has had both its hooks called.
const MAX_IDLE_TIME: Duration = Duration::from_secs(10);

const MAX_HEAP: usize = 20 * 1024 * 1024;
/// Nodes in the pool, and those that each worker is just shutting down.
const MAX_PEERS: usize = NODES + WORKERS + EXTRA_WORKERS;
/// A socket for each connection and the listener, one or two for each setup, the kept ones, and the runtimes'.
const MAX_FDS: usize = MAX_PEERS * (MAX_CONNECTIONS as usize + 3) + (WORKERS + EXTRA_WORKERS) * (MAX_KEPT + 2 + 8) + 16;
/// Three tasks for each connection, one for each listener and setup, and the workers with whoever sends for more.
const MAX_TASKS: usize = MAX_PEERS * (MAX_CONNECTIONS as usize * 4 + 1) + WORKERS + EXTRA_WORKERS + 2;

/// How often a reading of two numbers, one after the other, must show too many to be believed.
const CONFIRMATIONS: usize = 16;

/// Checks that a node keeps its limits.
pub fn sample(peer: &Peer) {
    let (node, config, world) = (&peer.node, peer.node.config(), &peer.world);
    world.count(Event::Samples);
    let (connected, connecting) = (node.num_connected(), node.num_connecting());
    let [max, max_connecting, max_per_ip] =
        [config.max_connections, config.max_connecting, config.max_connections_per_ip].map(usize::from);
    if connected > max || connecting > max_connecting {
        world.fault(format!("{connected} connections and {connecting} setups, with {config:?}"));
    }
    if connected + connecting >= max {
        world.count(Event::AtLimit);
    }
    // The two numbers are not read in one instant: a connection may go from one to the other in between. Once is no proof.
    if (0..CONFIRMATIONS).all(|_| node.num_connecting() + node.num_connected() > max) {
        world.fault(format!("{connected} + {connecting} connections, with {config:?}"));
    }
    let mut per_ip = HashMap::new();
    for addr in node.connected_addrs() {
        *per_ip.entry(addr.ip()).or_insert(0) += 1;
    }
    if per_ip.values().any(|count| *count > max_per_ip) {
        world.fault(format!("connections per address: {per_ip:?}, with {config:?}"));
    }
}

/// The file descriptors of this process.
pub fn fds() -> Option<usize> {
    // One of them reads the directory.
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count() - 1)
}

/// The extreme values seen.
#[derive(Debug, Default, Clone, Copy)]
pub struct Maxima {
    pub fds: usize,
    pub tasks: usize,
    pub peers: usize,
    /// How long a turn of the watch took: more than a second shows a machine that stood still, and every bound with it.
    pub tick: Duration,
    /// How long its sleep alone took: a tick that is longer than that was held up by somebody here.
    pub sleep: Duration,
    /// How few connections had both their hooks called within a second: no phase is idle.
    pub slowest_second: Option<u64>,
}

/// Reports the panics that nobody wanted.
pub fn check_panics(world: &World) {
    for what in panics::take_unwanted() {
        world.fault(format!("a panic that nobody wanted: {what}"));
    }
}

pub struct Watch<'a> {
    world: &'a World,
    runtime: Handle,
    base_fds: usize,
    pub maxima: Maxima,
    growth: Growth,
    /// For each worker, and for the pairs: the number, and when it last grew.
    last_change: Vec<(u64, Instant)>,
    last_status: (Instant, Vec<u64>),
    /// When the last full second ended, and how many pairs there were.
    last_second: (Instant, u64),
    shows_status: bool,
}

impl<'a> Watch<'a> {
    pub fn new(world: &'a World, runtime: Handle, planned: Option<Duration>, shows_status: bool) -> Self {
        let now = Instant::now();
        Self {
            world,
            runtime,
            base_fds: fds().unwrap_or(0),
            maxima: Maxima::default(),
            growth: Growth::new(planned),
            last_change: vec![(0, now); WORKERS + 1],
            last_status: (now, STATUS.iter().map(|_| 0).collect()),
            last_second: (now, 0),
            shows_status,
        }
    }

    /// Watches until it is time to stop, or until something is wrong.
    pub fn run(&mut self, mut is_over: impl FnMut() -> bool) {
        let mut ticks = 0_u64;
        let mut last_tick = Instant::now();
        while !is_over() {
            let fell_asleep = Instant::now();
            thread::sleep(TICK);
            ticks += 1;
            let now = Instant::now();
            self.maxima.sleep = self.maxima.sleep.max(now - fell_asleep);
            self.maxima.tick = self.maxima.tick.max(now - std::mem::replace(&mut last_tick, now));
            for peer in self.world.all() {
                sample(&peer);
            }
            self.check_progress();
            self.world.words.sweep(self.world, false);
            outside::join(self.world, false);
            if ticks.is_multiple_of(5) {
                self.check_ceilings();
            }
            if self.shows_status && self.last_status.0.elapsed() >= status_interval() {
                self.show_status();
            }
            if !self.world.faults().is_empty() {
                return;
            }
        }
        if self.shows_status {
            self.show_status();
            eprintln_live("\n");
        }
    }

    fn check_progress(&mut self) {
        let world = self.world;
        check_panics(world);
        let now = Instant::now();
        let pairs = world.tally.of(Event::Pair);
        let (second, before) = self.last_second;
        if now - second >= Duration::from_secs(1) {
            let slowest = self.maxima.slowest_second.unwrap_or(u64::MAX);
            self.maxima.slowest_second = Some(slowest.min(pairs - before));
            self.last_second = (now, pairs);
        }
        for (lane, progress) in world.progress.iter().enumerate() {
            if let Some((kind, age)) = progress.action(world).filter(|(_, age)| *age > MAX_ACTION_TIME) {
                world.fault(format!("worker {lane} is busy with {kind:?} for {age:?}"));
            }
        }
        let done = world.progress[..WORKERS].iter().map(|progress| progress.done());
        for ((last, since), value) in self.last_change.iter_mut().zip(done.chain([pairs])) {
            if *last != value {
                (*last, *since) = (value, now);
            } else if now - *since > MAX_ACTION_TIME {
                world.fault(format!("a worker has done nothing for {MAX_ACTION_TIME:?}"));
            }
        }
        if self.last_change.last().is_some_and(|(_, since)| now - *since > MAX_IDLE_TIME) {
            world.fault(format!("no connection has come and gone in {MAX_IDLE_TIME:?}"));
        }
    }

    fn check_ceilings(&mut self) {
        let maxima = &mut self.maxima;
        maxima.tasks = maxima.tasks.max(self.runtime.metrics().num_alive_tasks());
        maxima.fds = maxima.fds.max(fds().unwrap_or(0).saturating_sub(self.base_fds));
        maxima.peers = maxima.peers.max(self.world.peers.load(Relaxed));
        if maxima.tasks > MAX_TASKS || maxima.fds > MAX_FDS {
            self.world.fault(format!("too many tasks or file descriptors: {maxima:?}"));
        }
        if heap::peak() > MAX_HEAP {
            self.world.fault(format!("{} bytes were in use at once", heap::peak()));
        }
        if let Some(what) = self.growth.note(heap::in_use()) {
            self.world.fault(what);
        }
    }

    fn show_status(&mut self) {
        let now = Instant::now();
        let seconds = (now - self.last_status.0).as_secs_f64();
        let values: Vec<u64> = STATUS.iter().map(|(event, _)| self.world.tally.of(*event)).collect();
        let rates: Vec<String> = (STATUS.iter().zip(&values).zip(&self.last_status.1))
            .map(|(((_, name), value), last)| format!("{:.0} {name}/s", (value - last) as f64 / seconds))
            .collect();
        let line = format!(
            "[{:>5.0} s] {} pairs | {} | {} nodes, {} tasks, {} fds | heap {:.1} MiB, peak {:.1}",
            self.world.began.elapsed().as_secs_f64(),
            self.world.tally.of(Event::Pair),
            rates.join(", "),
            self.world.peers.load(Relaxed),
            self.runtime.metrics().num_alive_tasks(),
            fds().unwrap_or(0),
            mebibytes(heap::in_use()),
            mebibytes(heap::peak()),
        );
        eprintln_live(&if stderr().is_terminal() { format!("\r\x1b[K{line}") } else { format!("{line}\n") });
        self.last_status = (now, values);
    }
}

const STATUS: &[(Event, &str)] =
    &[(Event::Pair, "pairs"), (Event::Dialled, "dials"), (Event::Processed, "messages"), (Event::Spawned, "nodes")];

/// On a terminal the line is rewritten; elsewhere there are fewer.
fn status_interval() -> Duration {
    Duration::from_secs(if stderr().is_terminal() { 1 } else { 5 })
}

/// Past the test harness, which would keep it until the end.
pub fn eprintln_live(text: &str) {
    _ = stderr().write_all(text.as_bytes());
}

pub fn mebibytes(bytes: usize) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

/// Compares the heap of later windows of time with that of the first one.
struct Growth {
    window: Duration,
    began: Instant,
    sum: f64,
    count: f64,
    /// The mean of the first full window, after the one in which all begins.
    first: Option<f64>,
    is_settled: bool,
}

impl Growth {
    fn new(planned: Option<Duration>) -> Self {
        let most = Duration::from_secs(120);
        let window = planned.map_or(most, |planned| (planned / 4).min(most));
        Self { window, began: Instant::now(), sum: 0.0, count: 0.0, first: None, is_settled: false }
    }

    fn note(&mut self, in_use: usize) -> Option<String> {
        self.sum += in_use as f64;
        self.count += 1.0;
        if self.began.elapsed() < self.window {
            return None;
        }
        let mean = self.sum / self.count;
        (self.began, self.sum, self.count) = (Instant::now(), 0.0, 0.0);
        if !std::mem::replace(&mut self.is_settled, true) {
            return None;
        }
        let first = *self.first.get_or_insert(mean);
        (mean > first * 2.0 + 1_048_576.0)
            .then(|| format!("the heap grows: {first:.0} bytes on average, then {mean:.0}"))
    }
}
