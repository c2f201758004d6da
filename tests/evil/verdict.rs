//! Judges a row: plays its peers against a victim, and compares what is seen with what is to be seen.
//!
//! Besides that each row checks: limits hold in every sample and in every hook; `on_connect` and `on_disconnect` are paired;
//! within [`SETTLED`] after the attack no connection and no task is left of it; an honest peer is served afterwards;
//! `shut_down` leaves no task. (Descriptors belong to the process: see `ledger.rs`.)

use std::{
    fmt::{self, Display, Formatter},
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use pea2pea::{Node, Pea2Pea};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::{self, Handle},
    time::timeout,
};

use crate::{
    common::{PATIENCE, in_time, keep_deliberate_panics_quiet},
    interpreter::{Field, Stage, play},
    ledger::play_with_others,
    row::{Clocks, Ends, Meeting, Owner, Row, Seen},
    traces::LogLines,
    victim::{Clock, HELLO, Patient, ShortFlush, ShortHandshake, ShortIdle, Victim, WELCOME, say},
};

/// How long anything of an attack may be left after its end.
pub const SETTLED: Duration = Duration::from_secs(5);

/// How many looks in a row have to find what is held unchanged. Between two of them the victim, which runs on the same
/// thread, does all that it can do.
const STEADY: usize = 10;

/// Why a row does not hold.
#[derive(Debug)]
pub enum Complaint {
    /// What was seen is not what was to be seen, or not in time.
    Unmet(String),
    /// It was seen before the defence can have acted.
    TooEarly(Duration),
    /// A step of a peer did not go as the table says.
    Step(String),
    /// A limit was exceeded.
    Limit(String),
    /// Something is left.
    Left(String),
}

impl Display for Complaint {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unmet(what) => write!(f, "something else is seen: {what}"),
            Self::TooEarly(took) => write!(f, "it took only {took:?}"),
            Self::Step(what) => write!(f, "a peer could not do its part: {what}"),
            Self::Limit(what) => write!(f, "a limit was exceeded: {what}"),
            Self::Left(what) => write!(f, "something is left: {what}"),
        }
    }
}

pub fn assert_holds(row: &Row) {
    let _hold = play_with_others();
    if let Err(complaint) = judge(row, PATIENCE) {
        panic!("{complaint}");
    }
}

/// Judges a row; `patience` is how long to wait for what is to be seen.
pub fn judge(row: &Row, patience: Duration) -> Result<(), Complaint> {
    keep_deliberate_panics_quiet();
    let lines = LogLines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match row.victim.clocks {
        Clocks::Patient => runtime.block_on(trial::<Patient>(row, patience, lines)),
        Clocks::ShortHandshake => runtime.block_on(trial::<ShortHandshake>(row, patience, lines)),
        Clocks::ShortIdle => runtime.block_on(trial::<ShortIdle>(row, patience, lines)),
        Clocks::ShortFlush => runtime.block_on(trial::<ShortFlush>(row, patience, lines)),
    }
}

async fn trial<C: Clock>(row: &Row, patience: Duration, lines: LogLines) -> Result<(), Complaint> {
    let (victim, addr) = Victim::<C>::listening(row.victim).await;
    let dials = Dials::default();
    let field = Field::new(addr, dials.maker(victim.node()), {
        let node = victim.node().clone();
        move || (node.num_connected(), node.num_connecting())
    });
    let bench = Bench { row, victim, dials, lines, field: Arc::new(field), resting_tasks: alive_tasks() };
    let attack = bench.attack(patience).await;
    let judged = match attack {
        Ok(()) => bench.aftermath().await,
        Err(complaint) => Err(complaint),
    };
    in_time("shut_down", bench.victim.node().shut_down()).await;
    judged?;
    until("no task is left", SETTLED, || alive_tasks() == 0).await.map_err(Complaint::Left)
}

fn alive_tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// How the victim's own dials went; `None`: it succeeded.
#[derive(Debug, Clone, Default)]
struct Dials(Arc<Mutex<Vec<Option<ErrorKind>>>>);

impl Dials {
    fn maker(&self, node: &Node) -> impl Fn(SocketAddr) + Send + Sync + 'static {
        let (results, node, runtime) = (Arc::clone(&self.0), node.clone(), Handle::current());
        move |addr| {
            let (results, node) = (Arc::clone(&results), node.clone());
            runtime.spawn(async move {
                let result = node.connect(addr).await;
                results.lock().unwrap().push(result.err().map(|error| error.kind()));
            });
        }
    }

    fn are(&self, row: &Row) -> bool {
        let expected: usize =
            row.peers.iter().filter(|peer| peer.meeting != Meeting::Dials).map(|peer| peer.rounds).sum();
        let results = self.0.lock().unwrap();
        let failures: Vec<_> = results.iter().flatten().collect();
        results.len() == expected
            && expected - failures.len() == row.seen.dials_succeed
            && failures.iter().all(|kind| row.seen.dials_fail.contains(kind))
    }
}

struct Bench<'a, C> {
    row: &'a Row,
    victim: Victim<C>,
    dials: Dials,
    lines: LogLines,
    field: Arc<Field>,
    /// The tasks of a victim without connections.
    resting_tasks: usize,
}

impl<C: Clock> Bench<'_, C> {
    /// Plays the peers; on return none of them does anything any more.
    async fn attack(&self, patience: Duration) -> Result<(), Complaint> {
        let began = Instant::now();
        let mut peers = Vec::new();
        for peer in self.row.peers.clone() {
            let field = Arc::clone(&self.field);
            peers.push(thread::spawn(move || play(&peer, &field)));
        }
        let seen = self.see(patience).await;
        let took = began.elapsed();
        self.field.announce(if seen.is_ok() { Stage::Seen } else { Stage::GivenUp });
        if seen.is_err() {
            // Whoever waits for the victim need not wait any longer.
            in_time("shut_down", self.victim.node().shut_down()).await;
        }
        let all_done = || peers.iter().all(|peer| peer.is_finished());
        let done = until("the peers are done", 2 * PATIENCE, all_done).await;
        seen?;
        done.map_err(Complaint::Step)?;
        for peer in peers {
            peer.join().map_err(|_| Complaint::Step("a peer panicked".into()))?.map_err(Complaint::Step)?;
        }
        if took < self.row.not_before {
            return Err(Complaint::TooEarly(took));
        }
        Ok(())
    }

    /// Waits until all peers hold or are done and what is to be seen by then is seen; then has the owner do his part.
    async fn see(&self, patience: Duration) -> Result<(), Complaint> {
        let row = self.row;
        let is_over_soon = (row.live, row.pending) == (0, 0);
        let mut exceeded = None;
        let mut times_seen = 0;
        let is_seen = || {
            exceeded = exceeded.take().or_else(|| self.exceeded_limit());
            let arrived = self.field.arrived.load(Ordering::SeqCst) == row.peers.len();
            let is_as_expected = arrived
                && self.counts() == (row.live, row.pending)
                && self.has_counted(!is_over_soon)
                // A setup that is held may be that of a dial.
                && (row.pending > 0 || self.dials.are(row));
            times_seen = if is_as_expected { times_seen + 1 } else { 0 };
            times_seen > if is_over_soon { 0 } else { STEADY }
        };
        let seen = until("what is to be seen", patience, is_seen).await;
        if let Some(exceeded) = exceeded {
            return Err(Complaint::Limit(exceeded));
        }
        seen.map_err(|what| Complaint::Unmet(format!("{what}: {}", self.what_is_seen())))?;
        let kept_waiting = |_| Complaint::Left("the owner is kept waiting".into());
        timeout(SETTLED, self.owners_part()).await.map_err(kept_waiting)
    }

    async fn owners_part(&self) {
        let node = self.victim.node();
        match self.row.owner {
            Owner::Watches => {}
            Owner::Disconnects => {
                join_all(node.connected_addrs().into_iter().map(|addr| node.disconnect(addr))).await;
            }
            Owner::ShutsDown => node.shut_down().await,
        }
    }

    fn counts(&self) -> (usize, usize) {
        let node = self.victim.node();
        (node.num_connected(), node.num_connecting())
    }

    /// Compares all that is counted; while peers still hold, their connections have not ended yet.
    fn has_counted(&self, is_held: bool) -> bool {
        let Seen { ends, handshakes, received, rejected, handshake_timeouts, idle_timeouts, .. } = self.row.seen;
        let Seen { write_timeouts, budget_rejections, logged, .. } = self.row.seen;
        let (node, tally) = (self.victim.node(), self.victim.tally.lock().unwrap());
        let heuristics = node.heuristics();
        let ended = |origin| tally.ends.iter().filter(|(_, other)| *other == origin).count();
        let ends_are_right = match ends {
            Ends::Are(expected) => {
                expected.iter().all(|(origin, count)| ended(*origin) == *count)
                    && tally.ends.len() == expected.iter().map(|(_, count)| count).sum()
            }
            Ends::Among(origins, most) => {
                tally.ends.len() <= most && tally.ends.iter().all(|(_, origin)| origins.contains(origin))
            }
        };
        handshakes.admits(tally.handshakes)
            && rejected.admits(heuristics.inbound_connections_rejected())
            && received.admits(node.stats().received().0)
            && (is_held || ends_are_right)
            && heuristics.handshake_timeouts() == handshake_timeouts
            && heuristics.idle_timeouts() == idle_timeouts
            && heuristics.write_timeouts() == write_timeouts
            && heuristics.connect_budget_rejections() == budget_rejections
            && heuristics.accept_errors() == 0
            && logged.admits(self.lines.count())
    }

    fn exceeded_limit(&self) -> Option<String> {
        let (limits, tally, (live, pending)) = (self.row.victim, self.victim.tally.lock().unwrap(), self.counts());
        let of_one_ip = tally.most_places_of_one_ip;
        let is_kept = live.max(tally.most_places) <= limits.max_connections.into()
            && pending.max(tally.most_setups) <= limits.max_connecting.into()
            && of_one_ip <= limits.max_connections_per_ip.into();
        (!is_kept).then(|| format!("{live} live, {pending} pending, {tally:?}"))
    }

    fn what_is_seen(&self) -> String {
        let node = self.victim.node();
        format!(
            "(live, pending) {:?}, tasks {}, dials {:?}, received {:?}, log lines {}, arrived {}, {:?}, {:?}",
            self.counts(),
            alive_tasks(),
            self.dials.0.lock().unwrap(),
            node.stats().received(),
            self.lines.count(),
            self.field.arrived.load(Ordering::SeqCst),
            node.heuristics(),
            self.victim.tally.lock().unwrap(),
        )
    }

    /// Checks what an attack leaves, and that the victim still works.
    async fn aftermath(&self) -> Result<(), Complaint> {
        let has_shut_down = self.row.owner == Owner::ShutsDown;
        let tasks = if has_shut_down { 0 } else { self.resting_tasks };
        let is_settled =
            || self.counts() == (0, 0) && self.has_counted(false) && self.dials.are(self.row) && alive_tasks() == tasks;
        let settled = until("settled", SETTLED, is_settled).await;
        settled.map_err(|what| Complaint::Left(format!("{what}: {}", self.what_is_seen())))?;
        if let Some(exceeded) = self.exceeded_limit() {
            return Err(Complaint::Limit(exceeded));
        }
        if !has_shut_down {
            self.serves_an_honest_peer().await;
            let settled = until("settled after the honest peer", PATIENCE, || self.counts() == (0, 0)).await;
            settled.map_err(Complaint::Left)?;
        }
        let is_paired = || {
            let tally = self.victim.tally.lock().unwrap();
            tally.live == tally.ends.len() as u64
        };
        let paired = until("each on_connect has its on_disconnect", SETTLED, is_paired).await;
        paired.map_err(|what| Complaint::Left(format!("{what}: {}", self.what_is_seen())))
    }

    /// Tries again where the victim's clock was too short for this machine.
    async fn serves_an_honest_peer(&self) {
        let served = async { while exchange(self.field.victim).await.is_err() {} };
        in_time("an honest peer is served", served).await;
    }
}

async fn exchange(victim: SocketAddr) -> io::Result<()> {
    let loopback: IpAddr = if victim.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    let ip = if victim.ip().is_unspecified() { loopback } else { victim.ip() };
    let mut stream = TcpStream::connect((ip, victim.port())).await?;
    let request = say::echo("honest");
    stream.write_all(&[&HELLO[..], &request].concat()).await?;
    let expected = [&WELCOME[..], &request].concat();
    let mut answer = vec![0; expected.len()];
    stream.read_exact(&mut answer).await?;
    assert_eq!(answer, expected);
    stream.shutdown().await?;
    stream.read_to_end(&mut answer).await?;
    Ok(())
}

/// Waits for a condition; an error with its description if it does not come about in time.
async fn until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Result<(), String> {
    let began = Instant::now();
    while !condition() {
        if began.elapsed() > limit {
            return Err(format!("in vain: {what}"));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}
