//! One run from the start of the workers to the last byte that is given back.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{
    runtime::{Builder, Runtime},
    task::JoinHandle,
};

use crate::{
    crew, heap, last_words, outside,
    tally::Event,
    watch::{self, Maxima, Watch, eprintln_live, mebibytes},
    world::{Progress, WORKERS, World},
};

/// The bound of everything that is waited for at the end.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many bytes may be left when the runtime is gone: the tables that `parking_lot` makes for the process when threads
/// first wait for each other.
const HEAP_TOLERANCE: usize = 4 * 1024;

/// How many bytes an old node may hold that has no connections: itself, and the ledger and the tables of both, which do not
/// shrink.
const VETERAN_MEMORY: usize = 16 * 1024;
/// The buffers that each thread keeps, and as much again.
const SPARE_BUFFERS: usize = 2 * 64 * 1024;

/// A run with so many pairs sees everything happen at least once, or it is not the run that it claims to be.
const TELLING_PAIRS: u64 = 25_000;

pub fn random_seed() -> u64 {
    // Short enough to be typed.
    RandomState::new().hash_one(0) % 1_000_000_000
}

/// Runs for a while, or until Ctrl-C.
///
/// # Panics
/// If a promise was broken; the message tells which, and how to do it again.
pub fn run(seed: u64, runtime_limit: Option<Duration>, is_real: bool) {
    let (heap_before, fds_before) = (heap::in_use(), watch::fds());
    let world = World::new(seed);
    let runtime = Builder::new_multi_thread().worker_threads(num_threads()).enable_all().build().expect("a runtime");
    let heap_at_start = heap::in_use();
    let (maxima, elapsed) = work(&world, &runtime, runtime_limit, is_real);
    if world.faults().is_empty() {
        tidy_up(&world, &runtime, heap_at_start, is_real);
    }
    if world.faults().is_empty() {
        drop(runtime);
        check_counts(&world);
    } else {
        // A deadlock would keep an orderly end from coming.
        runtime.shutdown_background();
    }
    if is_real {
        summarise(&world, maxima, elapsed);
    }
    let faults = world.faults();
    assert!(faults.is_empty(), "with CHAOS_SEED={seed}, these promises were broken:\n  {}\n", faults.join("\n  "));
    drop(Arc::into_inner(world).expect("nobody else knows the world"));
    drop(faults);
    let (heap_after, fds_after) = (heap::in_use(), watch::fds());
    if is_real {
        eprintln_live(&format!(
            "heap: {heap_before} bytes before, {heap_after} after; fds: {fds_before:?}, {fds_after:?}\n"
        ));
        assert!(heap_after <= heap_before + HEAP_TOLERANCE, "{} bytes were not given back", heap_after - heap_before);
        assert_eq!(fds_after, fds_before, "file descriptors");
    }
}

/// As many as there are cores, within limits: two race already, and the tolerance is for few.
fn num_threads() -> usize {
    thread::available_parallelism().map_or(2, usize::from).clamp(2, 4)
}

fn work(world: &Arc<World>, runtime: &Runtime, limit: Option<Duration>, is_real: bool) -> (Maxima, Duration) {
    let began = Instant::now();
    let is_interrupted = Arc::new(AtomicBool::new(false));
    let mut watch = Watch::new(world, runtime.handle().clone(), limit, is_real);
    let crew = runtime.block_on(async { crew::start(world) });
    let interrupt = limit.is_none().then(|| runtime.spawn(note_interrupt(Arc::clone(&is_interrupted))));
    watch.run(|| limit.is_some_and(|limit| began.elapsed() >= limit) || is_interrupted.load(Relaxed));
    let elapsed = began.elapsed();
    world.stop();
    if let Some(interrupt) = interrupt {
        interrupt.abort();
    }
    wait_for(world, "the workers end", || crew.iter().all(JoinHandle::is_finished));
    (watch.maxima, elapsed)
}

async fn note_interrupt(is_interrupted: Arc<AtomicBool>) {
    if tokio::signal::ctrl_c().await.is_ok() {
        is_interrupted.store(true, Relaxed);
    }
}

fn wait_for(world: &World, what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        if Instant::now() > deadline {
            return world.fault(format!("waited in vain: {what}"));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Shuts all nodes down; then nothing may be left of them.
fn tidy_up(world: &World, runtime: &Runtime, heap_at_start: usize, is_real: bool) {
    let (veterans, others): (Vec<_>, Vec<_>) = world.take_all().partition(|peer| peer.is_veteran);
    let spawned = world.tally.of(Event::Spawned);
    let num_veterans = veterans.len();
    for peer in others {
        runtime.spawn(peer.end());
    }
    for peer in &veterans {
        let peer = peer.clone();
        runtime.spawn(async move { peer.prove_capacity().await });
    }
    wait_for(world, "the nodes shut down", || world.tally.of(Event::ShutDown) + num_veterans as u64 == spawned);
    wait_for(world, "the veterans are idle", || runtime.metrics().num_alive_tasks() == 0);
    world.words.sweep(world, true);
    outside::join(world, true);
    let kept = heap::in_use().saturating_sub(heap_at_start);
    if is_real {
        eprintln_live(&format!("{num_veterans} old nodes without connections hold {kept} bytes\n"));
    }
    if is_real && kept > num_veterans * VETERAN_MEMORY + num_threads() * SPARE_BUFFERS {
        world.fault(format!("{num_veterans} nodes without connections hold {kept} bytes"));
    }
    for peer in veterans {
        runtime.spawn(peer.end());
    }
    wait_for(world, "the veterans shut down", || world.tally.of(Event::ShutDown) == spawned);
    wait_for(world, "the nodes' hooks are dropped", || world.peers.load(Relaxed) == 0);
    wait_for(world, "the tasks end", || runtime.metrics().num_alive_tasks() == 0);
}

fn check_counts(world: &World) {
    watch::check_panics(world);
    let of = |event| world.tally.of(event);
    let endings = [
        Event::EndedByOnConnect,
        Event::EndedByReading,
        Event::EndedByShutdown,
        Event::EndedByUser,
        Event::EndedByWriting,
    ];
    let ended: u64 = endings.into_iter().map(of).sum();
    for (one, other, what) in [
        (of(Event::Spawned), of(Event::ShutDown), "nodes were spawned, and shut down"),
        (
            of(Event::OnConnect) + of(Event::OnConnectVanished),
            of(Event::OnDisconnect),
            "on_connect have begun or gone with their runtimes, and on_disconnect have begun",
        ),
        (of(Event::OnConnect), of(Event::Pair), "on_connect have begun, and are paired"),
        (of(Event::OnDisconnect), ended, "on_disconnect have begun, and have an origin"),
    ] {
        if one != other {
            world.fault(format!("{one} and {other}: {what}"));
        }
    }
    last_words::check_share(world);
    if of(Event::Pair) >= TELLING_PAIRS {
        for (event, text) in Event::ALL {
            if of(*event) == 0 {
                world.fault(format!("this never happened, so the test shows little: {text}"));
            }
        }
    }
}

fn summarise(world: &World, maxima: Maxima, elapsed: Duration) {
    let seconds = elapsed.as_secs_f64();
    let mut text = format!("--- chaos: {seconds:.1} s\n");
    for (event, name) in Event::ALL {
        text += &format!("{:>12}  {name}\n", world.tally.of(*event));
    }
    let of = |event| world.tally.of(event);
    let actions: u64 = world.progress.iter().map(Progress::done).sum();
    let (digested, digest) = *world.digest.lock().unwrap();
    text += &format!(
        "pairs of on_connect and on_disconnect: {}, {:.0} per second, {} in the slowest second\n\
         {actions} actions; {} nodes spawned; {} messages processed; peak heap: {:.2} MiB\n\
         most at once: {} nodes, {} tasks, {} fds; longest tick: {:?}, sleep of it: {:?}\n\
         the first {} actions of {digested} of {WORKERS} workers: {digest:016x}; CHAOS_SEED={}\n",
        of(Event::Pair),
        of(Event::Pair) as f64 / seconds,
        maxima.slowest_second.unwrap_or(0),
        of(Event::Spawned),
        of(Event::Processed),
        mebibytes(heap::peak()),
        maxima.peers,
        maxima.tasks,
        maxima.fds,
        maxima.tick,
        maxima.sleep,
        crew::DIGESTED,
        world.seed,
    );
    eprintln_live(&text);
}
