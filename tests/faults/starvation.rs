//! Row 6: the process has no more file descriptors.

use std::{
    io::Write,
    net::SocketAddr,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use pea2pea::Pea2Pea;
use tokio::{net::TcpListener, task::JoinSet, time::sleep};

use crate::{
    kit::{
        Verdict, attack, descriptors, ensure, sized,
        stage::{Stage, holds_within, victim_cpu},
        victim::Calm,
    },
    row,
};

const DIALLERS: usize = 100;

/// What the process has left when it is starved.
const SPARE: u64 = 8;

/// The matrix grants a second, on a machine that does nothing else.
const RELIEVED: Duration = Duration::from_secs(2);

/// Raises the limit again when it is told to: the process itself cannot start anything while it is starved.
struct Relief(std::process::Child);

impl Relief {
    fn prepared() -> Self {
        let limit = descriptors::limits().0;
        let script = format!("read _ && exec prlimit --pid {} --nofile={limit}:", std::process::id());
        Self(Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).spawn().unwrap())
    }

    fn come(mut self) {
        self.0.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

/// Starves the process, if asked to, while many dial; tells how many accepts failed, as the acceptor counts them.
fn starve(
    stage: &Stage,
    is_starved: bool,
    addr: SocketAddr,
    accept_errors: impl Fn() -> u64,
    num_accepted: impl Fn() -> usize,
) -> Verdict {
    let duration = Duration::from_millis(sized(1_500, 5_000) as u64);
    let accepted_before = num_accepted();
    let sockets: Vec<_> = stage.attack(async { (0..DIALLERS).map(attack::narrow_socket).collect() });
    let relief = Relief::prepared();
    let (cpu, errors) = (victim_cpu(), accept_errors());
    if is_starved {
        descriptors::set_soft_limit(stage.ledger().files as u64 + SPARE);
    }
    let since = Instant::now();
    let streams = stage.attack(async {
        let mut dials = JoinSet::new();
        for socket in sockets {
            dials.spawn(async move { socket.connect(addr).await.unwrap() });
        }
        let streams = dials.join_all().await;
        sleep(duration).await;
        streams
    });
    let (starved_for, accepted) = (since.elapsed(), num_accepted() - accepted_before);
    let errors = accept_errors() - errors;
    relief.come();
    let cpu = victim_cpu() - cpu;
    let relieved = holds_within(RELIEVED, "accepting again", || num_accepted() - accepted_before == DIALLERS)?;
    drop(streams);
    ensure(errors > 0 && accepted < DIALLERS, || format!("nothing was starved: {accepted} accepted"))?;
    let per_second = errors as f64 / starved_for.as_secs_f64();
    // The first one comes at once.
    ensure(errors <= 1 + (3.0 * starved_for.as_secs_f64()) as u64, || {
        format!("{per_second:.1} accept errors a second")
    })?;
    ensure(cpu < starved_for / 4, || format!("{cpu:?} of CPU in {starved_for:.1?}"))?;
    Ok(format!("{per_second:.1} accept errors/s, {cpu:?} of CPU in {starved_for:.1?}, relieved after {relieved:.1?}"))
}

fn node(stage: &Stage, is_starved: bool) -> Verdict {
    let (victim, addr) = stage.victim::<Calm>(attack::config(6));
    let watch = stage.watch::<Calm>(addr);
    let node = victim.node();
    let figures = starve(stage, is_starved, addr, || node.heuristics().accept_errors(), || victim.on_connects())?;
    watch.verdict(figures)
}

fn starved(stage: &Stage) -> Verdict {
    node(stage, true)
}

fn fed(stage: &Stage) -> Verdict {
    node(stage, false)
}

/// An accept loop that tries again at once.
fn eager(stage: &Stage) -> Verdict {
    let errors = Arc::new(AtomicU64::new(0));
    let (accepted, listening) = tokio::sync::watch::channel(0);
    let addr = stage.inside(async {
        let listener = TcpListener::bind("127.0.81.6:0").await.unwrap();
        let (addr, errors) = (listener.local_addr().unwrap(), Arc::clone(&errors));
        tokio::spawn(async move {
            let mut streams = Vec::new();
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        streams.push(stream);
                        accepted.send_replace(streams.len());
                    }
                    Err(_) => _ = errors.fetch_add(1, SeqCst),
                }
            }
        });
        addr
    });
    starve(stage, true, addr, || errors.load(SeqCst), || *listening.borrow())
}

row!(row_06_without_file_descriptors_accepting_waits_and_goes_on_afterwards, starved, [
    "a lack of descriptors" off: fed => "nothing was starved",
    "the pause after an error" off: eager => "accept errors a second",
]);
