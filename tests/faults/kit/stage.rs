//! Where a row takes place: a runtime for the victim, another for those who attack it, and the watch over both.

use std::{
    fmt::Display,
    future::Future,
    net::SocketAddr,
    time::{Duration, Instant},
};

use pea2pea::{Config, Pea2Pea};
use tokio::{
    io::AsyncWriteExt,
    runtime::{Builder, Runtime},
    task::JoinHandle,
};
use tracing::Level;

use super::{
    Verdict, attack,
    bystander::Bystander,
    ensure, isolation,
    ledger::Ledger,
    logs::Mark,
    victim::{Temper, Victim},
};
use crate::common::setups::dial_from;

/// The matrix's bound on lines at WARN or above within a second.
const MAX_WARNINGS: u32 = 10;

/// The clock ticks of `/proc/self/task/*/stat`.
const TICK: Duration = Duration::from_millis(10);

const VICTIM: &str = "victim";

pub struct Stage {
    victims: Option<Runtime>,
    attackers: Option<Runtime>,
}

impl Stage {
    pub fn new() -> Self {
        let runtime = |name, threads| {
            Builder::new_multi_thread().worker_threads(threads).thread_name(name).enable_all().build().unwrap()
        };
        Self { victims: Some(runtime(VICTIM, 2)), attackers: Some(runtime("attacker", 1)) }
    }

    fn victims(&self) -> &Runtime {
        self.victims.as_ref().expect("present until the end")
    }

    /// Makes a victim that listens.
    pub fn victim<T: Temper>(&self, config: Config) -> (Victim<T>, SocketAddr) {
        self.inside(async {
            let victim = Victim::new(config).await;
            let addr = victim.node().toggle_listener().await.unwrap().unwrap();
            (victim, addr)
        })
    }

    /// Runs what a victim does itself.
    pub fn inside<F: Future>(&self, future: F) -> F::Output {
        self.victims().block_on(future)
    }

    /// Lets a victim do something beside what follows.
    pub fn beside<F: Future<Output: Send + 'static> + Send + 'static>(&self, future: F) -> JoinHandle<F::Output> {
        self.victims().spawn(future)
    }

    fn attackers(&self) -> &Runtime {
        self.attackers.as_ref().expect("present until the end")
    }

    /// Runs an attack.
    pub fn attack<F: Future>(&self, future: F) -> F::Output {
        self.attackers().block_on(future)
    }

    /// Lets an attacker do something beside what follows.
    pub fn attack_beside<F: Future<Output: Send + 'static> + Send + 'static>(
        &self,
        future: F,
    ) -> JoinHandle<F::Output> {
        self.attackers().spawn(future)
    }

    pub fn ledger(&self) -> Ledger {
        Ledger::read(self.victims().handle())
    }

    /// Begins to watch; what is in use now is what has to be in use at the end.
    pub fn watch<T: Temper>(&self, addr: SocketAddr) -> Watch<'_> {
        let stream = self.attack(async {
            let mut stream = dial_from(attack::BYSTANDER, addr).await.unwrap();
            stream.write_all(T::GREETING.unwrap_or_default()).await.unwrap();
            stream.into_std().unwrap()
        });
        self.watch_over::<T>(stream)
    }

    /// [`watch`](Self::watch), with the bystander's connection given.
    pub fn watch_over<T: Temper>(&self, stream: std::net::TcpStream) -> Watch<'_> {
        let bystander = Bystander::over(stream, T::DEPTH);
        let before = Ledger::at_rest(self.victims().handle());
        Watch { stage: self, before, bystander, since: Mark::now(), level: Level::WARN }
    }
}

impl Drop for Stage {
    /// A victim without its defence may never come to an end.
    fn drop(&mut self) {
        for runtime in [self.victims.take(), self.attackers.take()].into_iter().flatten() {
            runtime.shutdown_background();
        }
    }
}

/// The side conditions of every row.
pub struct Watch<'a> {
    stage: &'a Stage,
    pub before: Ledger,
    bystander: Bystander,
    since: Mark,
    /// Lines at it or above are limited.
    pub level: Level,
}

impl Watch<'_> {
    /// Called when the attack has stopped: everything is as before soon, and nobody else was harmed.
    pub fn verdict(self, figures: impl Display) -> Verdict {
        let settled = self.before.wait_until_restored(self.stage.victims().handle())?;
        self.verdict_without_ledger(format_args!("{figures}; settled in {settled:.1?}"))
    }

    /// For an end at which not all is as before.
    pub fn verdict_without_ledger(self, figures: impl Display) -> Verdict {
        let latency = self.bystander.finish()?;
        let lines = self.since.busiest_second(self.level);
        ensure(lines <= MAX_WARNINGS, || format!("{lines} lines within a second at {} or above", self.level))?;
        let panics = isolation::unwanted_panics();
        ensure(panics == 0, || format!("{panics} panics that nobody wanted"))?;
        Ok(format!("{figures}; bystander {latency}; at most {lines} lines/s"))
    }
}

/// The CPU time that the victim's threads have used.
pub fn victim_cpu() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok());
    let ticks = stats.filter(|stat| stat.contains(&format!("({VICTIM})"))).map(|stat| {
        let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        after_name.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<u32>().ok()).sum::<u32>()
    });
    TICK * ticks.sum::<u32>()
}

/// Waits until the condition holds; tells how long it took, or that it took longer than the bound.
pub fn holds_within(bound: Duration, what: &str, mut condition: impl FnMut() -> bool) -> Result<Duration, String> {
    let since = Instant::now();
    while !condition() {
        ensure(since.elapsed() <= bound, || format!("not within {bound:?}: {what}"))?;
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(since.elapsed())
}
