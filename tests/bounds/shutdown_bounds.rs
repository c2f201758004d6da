//! `shut_down`: how long it takes at most, what it does not wait for, and what it leaves.

use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{self, Duration},
};

use pea2pea::{Config, Node, Pea2Pea, ShuttingDown, protocols::Writing};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::Semaphore,
    task::yield_now,
    time::{Instant, sleep},
};
use tokio_util::bytes::Bytes;

use crate::{
    common::{
        actor::{Actor, Script, Tuning, Unhurried, hanging, silent},
        in_time, local_config, local_node, poll_times,
        setups::{Gated, assert_vacant, end_of, raw_peer, settled},
        wait_until,
        wire::{dialled_narrow, frame},
    },
    hook, ledger,
};

/// The flush and the dropping of tasks may take a second each, beside the longest OnDisconnect; the rest is the timer's.
const FLUSH_AND_TASKS: Duration = Duration::from_millis(2_010);

#[derive(Clone)]
struct Brief;

impl Tuning for Brief {
    const ABORTABLE: bool = true;
    const ON_DISCONNECT_MS: u64 = 3_000;
}

const LONGEST: Duration = Duration::from_millis(3_000).saturating_add(FLUSH_AND_TASKS);

/// How long some hooks block their thread.
const BLOCKED: Duration = Duration::from_millis(300);

/// How long a shutdown takes, by the paused clock: exact on a busy machine too.
async fn duration_of_shut_down(node: &Node) -> Duration {
    tokio::time::pause();
    let begin = Instant::now();
    in_time("shut_down", node.shut_down()).await;
    let took = begin.elapsed();
    tokio::time::resume();
    assert_vacant(node);
    took
}

/// A script in which everything hangs but the setup.
fn stuck() -> Script<Brief> {
    Script { process: hanging(), on_connect: hanging(), on_disconnect: hanging(), writes: true, ..Default::default() }
}

// --- the bound ---

#[tokio::test(crate = "ledger")]
async fn hooks_that_hang_and_peers_that_do_not_read_keep_a_shutdown_no_longer_than_its_bound() {
    let actor = Actor::<Brief>::dialling(stuck()).await;
    let narrow = dialled_narrow(actor.node()).await;
    actor.unicast_fast(narrow.addr, Bytes::from(vec![0; 1 << 20])).unwrap();
    let mut peers = Vec::new();
    for _ in 0..3 {
        let (listener, addr) = raw_peer().await;
        actor.node().connect(addr).await.unwrap();
        let mut peer = listener.accept().await.unwrap().0;
        peer.write_all(&frame(b"x").repeat(3)).await.unwrap();
        peers.push(peer);
    }
    wait_until("all hang", || (actor.received(), actor.begun_on_connect()) == (3, 4)).await;
    let took = duration_of_shut_down(actor.node()).await;
    assert!((Duration::from_millis(3_000)..LONGEST).contains(&took), "{took:?}");
    assert_eq!(actor.begun_on_disconnect(), 4);
}

#[tokio::test(crate = "ledger")]
async fn a_disconnect_that_nobody_polls_any_more_keeps_a_shutdown_no_longer_than_its_bound() {
    for polls in [0, 1, 2, 5] {
        let actor = Actor::<Brief>::dialling(stuck()).await;
        let ((_first, first), (_second, second)) = (raw_peer().await, raw_peer().await);
        actor.node().connect(first).await.unwrap();
        actor.node().connect(second).await.unwrap();
        let mut disconnect = Box::pin(actor.node().disconnect(first));
        assert!(poll_times(disconnect.as_mut(), polls).await.is_none());
        let took = duration_of_shut_down(actor.node()).await;
        assert!(took < LONGEST, "{polls}: {took:?}");
        // It has been overtaken; polled again, it ends, and takes nothing from anybody.
        in_time("disconnect", disconnect).await;
        assert_vacant(actor.node());
        assert_eq!(actor.begun_on_disconnect(), 2);
    }
}

#[derive(Clone)]
struct Unbounded;

impl Tuning for Unbounded {
    const ON_DISCONNECT_MS: u64 = u64::MAX;
}

#[tokio::test(crate = "ledger")]
async fn a_hook_without_a_bound_is_waited_for_by_the_shutdown_that_polls_it() {
    let actor = Actor::<Unbounded>::dialling(Script {
        on_disconnect: hook!(|_actor, _addr, _origin| sleep(Duration::from_secs(20))),
        ..Default::default()
    })
    .await;
    let (_peer, addr) = raw_peer().await;
    actor.node().connect(addr).await.unwrap();
    let took = duration_of_shut_down(actor.node()).await;
    assert!((Duration::from_secs(20)..Duration::from_secs(23)).contains(&took), "{took:?}");
}

#[tokio::test(crate = "ledger")]
async fn a_hook_without_a_bound_that_nobody_polls_any_more_does_not_keep_a_shutdown() {
    let actor = Actor::<Unbounded>::dialling(Script { on_disconnect: hanging(), ..Default::default() }).await;
    let (_peer, addr) = raw_peer().await;
    actor.node().connect(addr).await.unwrap();
    let mut disconnect = Box::pin(actor.node().disconnect(addr));
    assert!(poll_times(disconnect.as_mut(), 1).await.is_none());
    let took = duration_of_shut_down(actor.node()).await;
    assert!(took < LONGEST, "{took:?}");
    drop(disconnect);
    assert_eq!(actor.begun_on_disconnect(), 1);
}

#[tokio::test(crate = "ledger")]
async fn a_connect_that_nobody_polls_any_more_is_not_waited_for() {
    for polls in [0, 1, 2, 5, 10] {
        let gated = Gated::new(local_config()).await;
        let (_peer, addr) = raw_peer().await;
        let mut connect = Box::pin(gated.node().connect(addr));
        assert!(poll_times(connect.as_mut(), polls).await.is_none());
        let took = duration_of_shut_down(gated.node()).await;
        assert!(took < Duration::from_millis(10), "{polls}: {took:?}");
        assert!(ShuttingDown::caused(&in_time("connect", connect).await.unwrap_err()));
        assert_vacant(gated.node());
    }
}

#[tokio::test(crate = "ledger")]
async fn a_toggle_that_nobody_polls_any_more_keeps_a_shutdown_no_longer_than_its_bound() {
    for polls in [1, 2] {
        let node = local_node();
        let addr = node.toggle_listener().await.unwrap().unwrap();
        let mut toggle = Box::pin(node.toggle_listener());
        if poll_times(toggle.as_mut(), polls).await.is_some() {
            break;
        }
        let took = duration_of_shut_down(&node).await;
        assert!(took < FLUSH_AND_TASKS, "{took:?}");
        assert!(TcpListener::bind(addr).is_ok());
        drop(toggle);
    }
}

#[tokio::test(crate = "ledger")]
async fn connections_end_side_by_side() {
    let (actor, addr) = Actor::<Unhurried>::listening(Script {
        on_disconnect: hook!(|_actor, _addr, _origin| sleep(Duration::from_millis(300))),
        ..Default::default()
    })
    .await;
    let mut peers = Vec::new();
    for _ in 0..100 {
        peers.push(TcpStream::connect(addr).await.unwrap());
    }
    settled(actor.node(), 100).await;
    let took = duration_of_shut_down(actor.node()).await;
    assert!((Duration::from_millis(300)..Duration::from_millis(400)).contains(&took), "{took:?}");
    assert_eq!(actor.begun_on_disconnect(), 100);
}

#[tokio::test(crate = "ledger")]
async fn a_hook_that_blocks_its_thread_prolongs_a_shutdown_by_no_more_than_itself() {
    let (actor, addr) = Actor::<Unhurried>::listening(Script {
        on_disconnect: hook!(|_actor, _addr, _origin| async { thread::sleep(BLOCKED) }),
        ..Default::default()
    })
    .await;
    let _peer = TcpStream::connect(addr).await.unwrap();
    settled(actor.node(), 1).await;
    let begin = time::Instant::now();
    in_time("shut_down", actor.node().shut_down()).await;
    // Nothing else has to wait here.
    assert!(begin.elapsed() < BLOCKED + Duration::from_millis(900), "{:?}", begin.elapsed());
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 2)]
async fn a_process_message_that_blocks_another_thread_is_waited_for() {
    let (begun, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (actor, addr) = Actor::<Unhurried>::listening(Script {
        process: {
            let (begun, ended) = (Arc::clone(&begun), Arc::clone(&ended));
            hook!(|_actor, _source, _message| {
                let (begun, ended) = (Arc::clone(&begun), Arc::clone(&ended));
                async move {
                    begun.store(true, Ordering::SeqCst);
                    thread::sleep(BLOCKED);
                    ended.store(true, Ordering::SeqCst);
                }
            })
        },
        on_disconnect: silent(),
        ..Default::default()
    })
    .await;
    let mut peer = TcpStream::connect(addr).await.unwrap();
    peer.write_all(&frame(b"x")).await.unwrap();
    wait_until("it blocks", || begun.load(Ordering::SeqCst)).await;
    let begin = time::Instant::now();
    in_time("shut_down", actor.node().shut_down()).await;
    assert!(begin.elapsed() < BLOCKED + Duration::from_millis(900), "{:?}", begin.elapsed());
    assert!(ended.load(Ordering::SeqCst), "the task was running, and less than a second");
    assert_eq!((actor.node().num_connected(), actor.begun_on_disconnect()), (0, 1));
}

// --- setups ---

/// Is waiting for as long as it exists.
struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test(crate = "ledger")]
async fn setups_in_flight_are_stopped() {
    let waiting = Arc::new(AtomicUsize::new(0));
    let num_waiting = || waiting.load(Ordering::SeqCst);
    let script = Script::<Unhurried> {
        handshake: {
            let waiting = Arc::clone(&waiting);
            hook!(|_actor, conn| {
                let waiting = Waiting::new(&waiting);
                async move {
                    std::future::pending::<()>().await;
                    drop(waiting);
                    Ok(conn)
                }
            })
        },
        on_connect: silent(),
        on_disconnect: silent(),
        ..Default::default()
    };
    let actor = Actor::new(Config { max_connecting: 4, ..local_config() }, script).await;
    let addr = actor.node().toggle_listener().await.unwrap().unwrap();
    let ((_first, first), (_second, second)) = (raw_peer().await, raw_peer().await);
    let dials = [first, second].map(|addr| {
        let node = actor.node().clone();
        tokio::spawn(async move { node.connect(addr).await })
    });
    wait_until("two dials are in their handshakes", || num_waiting() == 2).await;
    // The last two wait for a permit, one of them being accepted already.
    let mut peers = Vec::new();
    for _ in 0..4 {
        peers.push(TcpStream::connect(addr).await.unwrap());
    }
    wait_until("two accepted ones too", || num_waiting() == 4).await;
    assert_eq!(actor.node().num_connecting(), 4);
    let took = duration_of_shut_down(actor.node()).await;
    assert!(took < Duration::from_millis(10), "{took:?}");
    for dial in dials {
        assert!(ShuttingDown::caused(&in_time("the dial", dial).await.unwrap().unwrap_err()));
    }
    assert_eq!(num_waiting(), 0);
    for peer in &mut peers {
        end_of(peer).await;
    }
    assert_eq!(actor.node().heuristics().inbound_connections_rejected(), 0);
    assert_eq!((actor.begun_on_connect(), actor.begun_on_disconnect()), (0, 0));
}

/// Dials in and out of the node without a pause until the gate is shut, and for a while after it.
async fn nothing_goes_live_after_the_gate_is_shut() {
    let gate = Arc::new(Semaphore::new(0));
    let (actor, addr) = Actor::<Unhurried>::listening(Script {
        handshake: hook!(|_actor, conn| async move {
            yield_now().await;
            Ok(conn)
        }),
        on_connect: silent(),
        on_disconnect: {
            let gate = Arc::clone(&gate);
            hook!(|_actor, _addr, _origin| {
                let gate = Arc::clone(&gate);
                async move { gate.acquire().await.unwrap().forget() }
            })
        },
        ..Default::default()
    })
    .await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut dials = Vec::new();
    for is_ours in [true, false, true, false] {
        let (node, stop) = (actor.node().clone(), Arc::clone(&stop));
        dials.push(tokio::spawn(async move {
            let (mut peers, mut streams) = (Vec::new(), Vec::new());
            while !stop.load(Ordering::SeqCst) {
                // A dial that is refused at once has not waited for anything.
                yield_now().await;
                // The process has only so many file descriptors.
                if peers.len() + streams.len() == 60 {
                    continue;
                }
                if is_ours {
                    let (listener, peer_addr) = raw_peer().await;
                    match node.connect(peer_addr).await {
                        Ok(()) => peers.push(listener),
                        Err(error) => assert!(ShuttingDown::caused(&error), "{error}"),
                    }
                } else {
                    streams.extend(TcpStream::connect(addr).await);
                }
            }
        }));
    }
    wait_until("some are live", || actor.node().num_connected() >= 10).await;
    let mut shut_down = Box::pin(actor.node().shut_down());
    assert!(poll_times(shut_down.as_mut(), 1).await.is_none());
    // No slot is released before the gate opens, so a connection that went live now would raise the number.
    let live = actor.node().num_connected();
    for _ in 0..100 {
        yield_now().await;
        assert_eq!((actor.node().num_connected(), actor.node().num_connecting()), (live, 0));
    }
    assert_eq!(actor.begun_on_disconnect(), live);
    stop.store(true, Ordering::SeqCst);
    gate.add_permits(live);
    in_time("shut_down", shut_down).await;
    for dial in dials {
        in_time("the dials", dial).await.unwrap();
    }
    wait_until("each has its on_connect", || actor.begun_on_connect() == live).await;
    assert_vacant(actor.node());
    assert_eq!(actor.begun_on_disconnect(), live);
}

#[tokio::test(crate = "ledger")]
async fn no_connection_goes_live_after_a_shutdown_has_begun() {
    nothing_goes_live_after_the_gate_is_shut().await;
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 3)]
async fn no_connection_goes_live_after_a_shutdown_has_begun_on_many_threads() {
    for _ in 0..10 {
        nothing_goes_live_after_the_gate_is_shut().await;
    }
}
