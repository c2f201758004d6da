//! `leak-free`: after an ending nothing of the connection is left, after a shutdown nothing of the node: to the byte of the
//! heap, the file descriptor and the task.

mod common;
#[path = "common/ledger.rs"]
mod ledger;

use std::{
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use common::{
    DELIBERATE, PATIENCE,
    actor::{Actor, Script, Tuning, Unhurried, silent},
    in_time, keep_deliberate_panics_quiet,
    nodes::unlist,
    poll_times,
    setups::raw_peer,
    wait_until,
};
use ledger::{heap::in_use_by_thread, runtime::Builder};
use pea2pea::{Pea2Pea, protocols::Writing};
use tokio::{
    net::TcpStream,
    runtime::Handle,
    task::yield_now,
    time::{sleep, timeout},
};
use tokio_util::bytes::Bytes;

// --- the ledger ---

/// What is in use, of the heap by this thread: each test runs on one thread, with its runtime.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Ledger {
    heap: isize,
    files: usize,
    tasks: usize,
}

impl Ledger {
    fn read() -> Self {
        // Only Linux shows its file descriptors in this way; elsewhere heap and tasks have to do.
        let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        Self { heap: in_use_by_thread(), files, tasks: Handle::current().metrics().num_alive_tasks() }
    }

    /// Reads it when nothing has moved for some turns of the runtime and its I/O driver.
    async fn at_rest() -> Self {
        let (mut last, mut turns) = (Self::read(), 0);
        while turns < 20 {
            sleep(std::time::Duration::from_millis(1)).await;
            let now = Self::read();
            turns = if now == last { turns + 1 } else { 0 };
            last = now;
        }
        last
    }

    /// Waits until all is as it was.
    async fn is_restored(self, what: &str, cycle: usize) {
        let restored = async {
            while Self::read() != self {
                // The driver lets go of closed sockets on its next turn.
                yield_now().await;
            }
        };
        if timeout(PATIENCE / 10, restored).await.is_err() {
            panic!("{what}, cycle {cycle}: {:?} is in use, {self:?} was", Self::read());
        }
    }
}

/// Waits for a condition without a pause, within the bound of the cycle.
async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        yield_now().await;
    }
}

/// File descriptors belong to the whole process, so the tests of this file take turns.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

const WARM_UP: usize = 32;

/// Lets many tasks yield in one turn. The runtime keeps the room that it needs for them, and on a busy machine more tasks of a cycle
/// meet in a turn than in the cycles before.
async fn yield_at_once() {
    let tasks: Vec<_> = (0..64).map(|_| tokio::spawn(yield_now())).collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// Checks that a cycle, once it is warm, leaves everything as it was, each time.
fn leaves_nothing<S>(
    what: &str,
    cycles: usize,
    start_paused: bool,
    scene: impl AsyncFnOnce() -> S,
    cycle: impl AsyncFn(&S, usize),
) {
    let _turn = turn();
    keep_deliberate_panics_quiet();
    let runtime = Builder::new_current_thread().enable_all().start_paused(start_paused).build().unwrap();
    runtime.block_on(async {
        yield_at_once().await;
        let scene = scene().await;
        for number in 0..WARM_UP {
            in_time("a cycle", cycle(&scene, number)).await;
        }
        let before = Ledger::at_rest().await;
        for number in WARM_UP..WARM_UP + cycles {
            in_time("a cycle", cycle(&scene, number)).await;
            before.is_restored(what, number).await;
        }
    });
}

// --- connections ---

#[derive(Clone)]
struct Idle;

impl Tuning for Idle {
    const IDLE_MS: u64 = 10;
    const ON_DISCONNECT_MS: u64 = 10;
}

/// A dialling and a listening actor.
struct Pair<T: Tuning = Unhurried> {
    dialler: Actor<T>,
    acceptor: Actor<T>,
    addr: SocketAddr,
}

fn full<T: Tuning>() -> Script<T> {
    Script {
        handshake: hook!(|actor, mut conn| async move {
            use pea2pea::protocols::Handshake;
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let stream = actor.borrow_stream(&mut conn);
            stream.write_u8(1).await?;
            stream.read_u8().await?;
            Ok(conn)
        }),
        process: silent(),
        on_connect: silent(),
        on_disconnect: silent(),
        writes: true,
        ..Default::default()
    }
}

impl<T: Tuning> Pair<T> {
    async fn of(dialler: Script<T>, acceptor: Script<T>) -> Self {
        let (acceptor, addr) = Actor::listening(acceptor).await;
        Self { dialler: Actor::dialling(dialler).await, acceptor, addr }
    }

    async fn full() -> Self {
        Self::of(full(), full()).await
    }

    async fn connect(&self) -> SocketAddr {
        self.dialler.node().connect(self.addr).await.unwrap();
        until(|| self.acceptor.node().num_connected() == 1).await;
        self.acceptor.node().connected_addrs()[0]
    }

    async fn exchange(&self, back: SocketAddr) {
        let before = self.dialler.received() + self.acceptor.received();
        for size in [0, 10, 20_000] {
            self.acceptor.unicast_fast(back, Bytes::from(vec![0; size])).unwrap();
            let receipt = self.dialler.unicast(self.addr, Bytes::from(vec![0; size])).unwrap();
            receipt.await.unwrap().unwrap();
        }
        until(|| self.dialler.received() + self.acceptor.received() == before + 6).await;
    }

    async fn ended(&self) {
        for node in [self.dialler.node(), self.acceptor.node()] {
            until(|| (node.num_connected(), node.num_connecting()) == (0, 0)).await;
        }
    }
}

#[test]
fn connections_that_either_end_disconnects_leave_nothing() {
    leaves_nothing("disconnect", 600, false, Pair::<Unhurried>::full, async |pair, number| {
        let back = pair.connect().await;
        pair.exchange(back).await;
        let ended = if number % 2 == 0 {
            pair.dialler.node().disconnect(pair.addr).await
        } else {
            pair.acceptor.node().disconnect(back).await
        };
        assert!(ended);
        pair.ended().await;
    });
}

#[test]
fn thousands_of_brief_connections_leave_nothing() {
    let bare =
        async || Pair::<Unhurried>::of(Script::default(), Script { process: silent(), ..Default::default() }).await;
    leaves_nothing("brief connections", 30, false, bare, async |pair, _| {
        for _ in 0..100 {
            pair.dialler.node().connect(pair.addr).await.unwrap();
            assert!(pair.dialler.node().disconnect(pair.addr).await);
        }
        pair.ended().await;
    });
}

#[test]
#[expect(deprecated, reason = "it is lossy, and has to do what it promises all the same")]
fn several_connections_at_once_leave_nothing() {
    leaves_nothing("ten at once", 60, false, Pair::<Unhurried>::full, async |pair, _| {
        let mut peers = Vec::with_capacity(10);
        for _ in 0..10 {
            let (listener, addr) = raw_peer().await;
            let dial = async { pair.dialler.node().connect(addr).await };
            let accept = async {
                use tokio::io::AsyncWriteExt;
                let mut peer = listener.accept().await.unwrap().0;
                peer.write_u8(1).await.unwrap();
                peer
            };
            let (dialled, peer) = tokio::join!(dial, accept);
            dialled.unwrap();
            peers.push((peer, addr));
        }
        pair.dialler.broadcast(Bytes::from_static(b"to all")).unwrap();
        for (number, (mut peer, addr)) in peers.into_iter().enumerate() {
            match number % 2 {
                0 => drop(peer),
                // The peer closes in return, for which the end waits.
                _ => {
                    use tokio::io::AsyncReadExt;
                    let closes = async move { peer.read_to_end(&mut Vec::new()).await.is_ok() };
                    assert_eq!(tokio::join!(pair.dialler.node().disconnect(addr), closes), (true, true));
                }
            }
        }
        pair.ended().await;
    });
}

#[test]
fn handshakes_that_fail_leave_nothing() {
    let scene = async || {
        let failing = |way: usize| {
            let count = AtomicUsize::new(way);
            Script::<Unhurried> {
                handshake: hook!(|_actor, _conn| {
                    let way = count.fetch_add(1, Ordering::SeqCst);
                    async move {
                        yield_now().await;
                        match way % 3 {
                            0 => Err(io::Error::other("no")),
                            1 => panic!("{DELIBERATE}"),
                            _ => Err(io::ErrorKind::PermissionDenied.into()),
                        }
                    }
                }),
                ..full()
            }
        };
        Pair::of(failing(0), failing(1)).await
    };
    leaves_nothing("failed handshakes", 300, false, scene, async |pair, _| {
        pair.dialler.node().connect(pair.addr).await.unwrap_err();
        pair.ended().await;
    });
}

#[test]
fn dropped_connects_leave_nothing() {
    leaves_nothing("dropped connects", 300, false, Pair::<Unhurried>::full, async |pair, number| {
        _ = poll_times(pin!(pair.dialler.node().connect(pair.addr)), 1 + number % 12).await;
        _ = pair.dialler.node().disconnect(pair.addr).await;
        pair.ended().await;
    });
}

#[test]
fn dropped_disconnects_leave_nothing() {
    let scene = async || {
        let slow = || Script::<Unhurried> {
            on_disconnect: hook!(|_actor, _addr, _origin| async {
                for _ in 0..3 {
                    yield_now().await;
                }
            }),
            ..full()
        };
        Pair::of(slow(), slow()).await
    };
    leaves_nothing("dropped disconnects", 300, false, scene, async |pair, number| {
        let back = pair.connect().await;
        pair.acceptor.unicast_fast(back, Bytes::from_static(b"queued")).unwrap();
        _ = poll_times(pin!(pair.acceptor.node().disconnect(back)), 1 + number % 8).await;
        pair.ended().await;
    });
}

#[test]
fn timeouts_leave_nothing() {
    let scene = async || {
        let hanging = || Script::<Idle> { on_disconnect: common::actor::hanging(), ..full() };
        Pair::of(hanging(), hanging()).await
    };
    // The clock is the test's: the idle timeout and that of on_disconnect are met in each cycle.
    leaves_nothing("idle timeouts", 300, true, scene, async |pair, _| {
        pair.dialler.node().connect(pair.addr).await.unwrap();
        wait_until("the end", || pair.dialler.node().num_connected() + pair.acceptor.node().num_connected() == 0).await;
        pair.ended().await;
    });
}

#[test]
fn panicking_hooks_leave_nothing() {
    let scene = async || {
        let panicking = || {
            let count = Arc::new(AtomicUsize::new(0));
            let [processing, connecting, encoding, ending] = std::array::from_fn(|_| Arc::clone(&count));
            let is_due = |count: &AtomicUsize, way| count.load(Ordering::SeqCst) % 4 == way;
            Script::<Unhurried> {
                process: hook!(|_actor, _source, _message| {
                    let panics = is_due(&processing, 0);
                    async move { assert!(!panics, "{DELIBERATE}") }
                }),
                on_connect: hook!(|_actor, _addr| {
                    let panics = is_due(&connecting, 1);
                    async move { assert!(!panics, "{DELIBERATE}") }
                }),
                encode: Some(Box::new(move |_| {
                    assert!(!is_due(&encoding, 2), "{DELIBERATE}");
                    Ok(())
                })),
                on_disconnect: hook!(|_actor, _addr, _origin| {
                    let panics = ending.fetch_add(1, Ordering::SeqCst) % 4 == 3;
                    async move { assert!(!panics, "{DELIBERATE}") }
                }),
                ..full()
            }
        };
        Pair::of(panicking(), panicking()).await
    };
    leaves_nothing("panics", 300, false, scene, async |pair, _| {
        pair.dialler.node().connect(pair.addr).await.unwrap();
        for _ in 0..3 {
            _ = pair.dialler.unicast(pair.addr, Bytes::from_static(b"x"));
            yield_now().await;
        }
        until(|| pair.acceptor.begun_on_connect() == pair.dialler.begun_on_connect()).await;
        pair.dialler.node().disconnect(pair.addr).await;
        pair.ended().await;
    });
}

// --- nodes ---

#[test]
fn the_lives_of_whole_nodes_leave_nothing() {
    leaves_nothing(
        "node lives",
        200,
        false,
        async || (),
        async |(), number| {
            let pair = Pair::<Unhurried>::full().await;
            let _stranger = TcpStream::connect(pair.addr).await.unwrap();
            let back = pair.connect().await;
            pair.exchange(back).await;
            match number % 3 {
                0 => pair.dialler.node().shut_down().await,
                1 => _ = poll_times(pin!(pair.acceptor.node().shut_down()), 2).await,
                _ => _ = pair.dialler.node().disconnect(pair.addr).await,
            }
            pair.acceptor.node().shut_down().await;
            pair.dialler.node().shut_down().await;
            for actor in [pair.acceptor, pair.dialler] {
                // The hooks are gone, and with them all that kept the node alive.
                assert_eq!(Arc::strong_count(&actor.begun), 1);
            }
            unlist();
        },
    );
}
