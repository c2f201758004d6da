//! Explores schedules: runs small scenes of the registry, the live connections, the outboxes and their endings many thousand times,
//! each time with another interleaving of all their threads and tasks, and checks what must hold in every one of them.
//!
//! The scenes run real code, from `disconnect` and `shut_down` down to the write loop. Made up are the streams, the dials
//! (a permit, a reservation and a live connection, without a socket), and the spawning: each task of a connection is a task of
//! shuttle. Bounds of time never run out, so whatever waits for ever is found as a deadlock.
//!
//! A thread gives way where it takes or releases a lock of [`crate::sync`], uses an atomic of it, or awaits. Each use of
//! what tokio and `task` share between threads (oneshots, `Notify`, the semaphore, the counts of tasks) is one step, memory
//! is sequentially consistent, and all threads have the thread-locals of one, but for those of [`crate::sync`].
//!
//! `SCHEDULES=n` sets how many schedules of a scene each of the two schedulers draws; `SCHEDULE=s` repeats the one that a
//! failure has printed.

use std::{
    cell::Cell,
    env,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use shuttle::{
    Config, Runner,
    rand::Rng,
    scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler},
};
use tokio::runtime::{Builder, Runtime};

mod endings;
mod holding;
mod limits;
mod sending;
mod stage;
mod wire;

/// How many schedules each scheduler draws of a scene, if nothing else is asked for.
const SCHEDULES: usize = 3_000;

/// How often the second scheduler preempts a thread that could go on: few preemptions in the right places find most races.
const PREEMPTIONS: usize = 3;

/// Enough for the deepest stack of a scene in a debug build.
const STACK: usize = 256 * 1024;

thread_local! {
    /// Lends its clock and its abort handles. Nothing drives it but [`drive`], so its time stands still. Leaked: at the end
    /// of a thread, the leashes that a failed scene leaves have no shuttle any more.
    static RUNTIME: &'static Runtime = match Builder::new_current_thread().enable_time().start_paused(true).build() {
        Ok(runtime) => Box::leak(Box::new(runtime)),
        Err(error) => panic!("no runtime: {error}"),
    };
}

/// Something that has to happen in some schedule, so that a scene cannot pass because nothing happens in it.
struct Sight {
    /// What it is.
    name: &'static str,
    /// How often it was seen.
    count: AtomicUsize,
}

impl Sight {
    const fn new(name: &'static str) -> Self {
        Self { name, count: AtomicUsize::new(0) }
    }

    /// Not a point where another thread may go on.
    fn seen_if(&self, is_seen: bool) {
        self.count.fetch_add(usize::from(is_seen), Ordering::Relaxed);
    }
}

/// Runs a scene under both schedulers; all the sights must be seen.
fn explore(name: &'static str, sights: &[&Sight], scene: fn()) {
    RUNTIME.with(|runtime| {
        let _entered = runtime.enter();
        if let Ok(schedule) = env::var("SCHEDULE") {
            run(name, ReplayScheduler::new_from_encoded(schedule.trim()), scene);
            return;
        }
        let schedules = env::var("SCHEDULES").map_or(SCHEDULES, |number| number.parse().expect("SCHEDULES: a number"));
        let at_random = run(name, RandomScheduler::new(schedules), scene);
        let with_few_preemptions = run(name, PctScheduler::new(PREEMPTIONS, schedules), scene);
        println!("{name}: {schedules} schedules at random in {at_random:.1?}, as many with few preemptions in {with_few_preemptions:.1?}");
        for Sight { name, count } in sights {
            let count = count.load(Ordering::Relaxed);
            println!("    seen {count} times: {name}");
            assert!(count > 0 || schedules < SCHEDULES, "never seen: {name}");
        }
    });
}

/// Says which schedule failed.
struct Progress {
    scene: &'static str,
    schedules: Arc<AtomicUsize>,
}

impl Drop for Progress {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: schedule {} failed", self.scene, self.schedules.load(Ordering::Relaxed));
        }
    }
}

fn run(name: &'static str, scheduler: impl Scheduler + 'static, scene: fn()) -> Duration {
    let mut config = Config::new();
    config.stack_size = STACK;
    config.silence_warnings = true;
    let schedules = Arc::new(AtomicUsize::new(0));
    let _progress = Progress { scene: name, schedules: Arc::clone(&schedules) };
    let began = Instant::now();
    Runner::new(scheduler, config).run(move || {
        schedules.fetch_add(1, Ordering::Relaxed);
        scene();
    });
    began.elapsed()
}

thread_local! {
    /// Whether the runtime is being driven: what it polls may give way to another of shuttle's threads, all of which are one
    /// thread of the OS.
    static IS_DRIVEN: Cell<bool> = const { Cell::new(false) };
}

/// Lets the runtime drop what has been aborted, and poll what has been spawned, unless somebody does already.
fn drive() {
    struct Driving;

    impl Drop for Driving {
        fn drop(&mut self) {
            IS_DRIVEN.set(false);
        }
    }

    if !IS_DRIVEN.replace(true) {
        let _driving = Driving;
        RUNTIME.with(|runtime| runtime.block_on(tokio::task::yield_now()));
    }
}

/// A number below the bound; another one in each schedule.
fn below(bound: usize) -> usize {
    shuttle::rand::thread_rng().gen_range(0..bound)
}
