//! The order of the hooks, and the promises of OnConnect and OnDisconnect (`once`, `paired`).

use std::{
    collections::HashSet,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use pea2pea::{DisconnectOrigin, Node, Pea2Pea, protocols::Writing};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::{Barrier, Notify},
    time::Instant,
};
use tokio_util::bytes::Bytes;

use crate::{
    common::{
        DELIBERATE, Events,
        actor::{Actor, Hook, Script, Tuning, Unhurried, hanging, silent},
        in_time, keep_deliberate_panics_quiet, poll_times,
        setups::raw_peer,
        wait_until,
        wire::{Random, frame, new_seed},
    },
    hook, ledger,
};

// --- order ---

/// A script that notes each hook, and checks what the node says about the connection at that point.
fn noting_script(events: &Events<&'static str>) -> Script<Unhurried> {
    fn check(actor: &Actor, addr: SocketAddr, is_live: bool) {
        let (pending, live) = (actor.node().is_connecting(addr), actor.node().is_connected(addr));
        assert_eq!((pending, live), (!is_live, is_live), "of {addr}");
    }
    fn sync_note<O>(
        events: &Events<&'static str>,
        what: &'static str,
        is_live: bool,
        output: impl Fn() -> O + Send + Sync + 'static,
    ) -> Hook<(Actor, SocketAddr), O> {
        let events = events.clone();
        Some(Box::new(move |(actor, addr)| {
            check(&actor, addr, is_live);
            events.push(what);
            output()
        }))
    }
    let (shaken, processed, connected, ended) = (events.clone(), events.clone(), events.clone(), events.clone());
    Script {
        handshake: hook!(|actor, conn| {
            check(&actor, conn.addr(), false);
            shaken.push("handshake");
            async move { Ok(conn) }
        }),
        process: hook!(|actor, source, _message| {
            check(&actor, source, true);
            processed.push("process");
            async {}
        }),
        on_connect: hook!(|actor, addr| {
            check(&actor, addr, true);
            connected.push("on_connect");
            async {}
        }),
        on_disconnect: hook!(|actor, addr, _origin| {
            check(&actor, addr, true);
            ended.push("on_disconnect");
            async {}
        }),
        writes: true,
        reading_codec: sync_note(events, "read codec", false, || ()),
        writing_codec: sync_note(events, "write codec", false, || ()),
        decode: None,
        encode: sync_note(events, "encode", true, || Ok(())),
    }
}

#[tokio::test(crate = "ledger")]
async fn the_hooks_run_in_the_same_order_on_both_ends() {
    let (accepted, dialled) = (Events::default(), Events::default());
    let (acceptor, addr) = Actor::listening(noting_script(&accepted)).await;
    let dialler = Actor::dialling(noting_script(&dialled)).await;
    dialler.node().connect(addr).await.unwrap();
    accepted.wait_for("on_connect").await;
    dialled.wait_for("on_connect").await;

    let back = acceptor.only_peer().await;
    dialler.unicast_fast(addr, Bytes::new()).unwrap();
    accepted.wait_for("process").await;
    acceptor.unicast_fast(back, Bytes::new()).unwrap();
    dialled.wait_for("process").await;
    assert!(in_time("disconnect", dialler.node().disconnect(addr)).await);
    accepted.wait_for("on_disconnect").await;

    let setup = ["handshake", "read codec", "write codec", "on_connect"];
    assert_eq!(dialled.all(), [&setup[..], &["encode", "process", "on_disconnect"]].concat());
    assert_eq!(accepted.all(), [&setup[..], &["process", "encode", "on_disconnect"]].concat());
}

// --- OnConnect ---

/// Sets a flag when it is dropped.
struct Flagged(Arc<AtomicBool>);

impl Drop for Flagged {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[derive(Clone)]
struct Abortable;

impl Tuning for Abortable {
    const ABORTABLE: bool = true;
}

#[tokio::test(crate = "ledger")]
async fn an_abortable_on_connect_is_dropped_by_the_time_disconnect_returns() {
    let (begun, dropped) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    let (_peer, addr) = raw_peer().await;
    let dialler = Actor::<Abortable>::dialling(Script {
        on_connect: {
            let (begun, dropped) = (Arc::clone(&begun), Arc::clone(&dropped));
            hook!(|_actor, _addr| {
                let (begun, flagged) = (Arc::clone(&begun), Flagged(Arc::clone(&dropped)));
                async move {
                    begun.notify_one();
                    std::future::pending::<()>().await;
                    drop(flagged);
                }
            })
        },
        on_disconnect: silent(),
        ..Default::default()
    })
    .await;
    dialler.node().connect(addr).await.unwrap();
    in_time("on_connect begins", begun.notified()).await;
    assert!(!dropped.load(Ordering::SeqCst));
    assert!(in_time("disconnect", dialler.node().disconnect(addr)).await);
    assert!(dropped.load(Ordering::SeqCst));
}

/// Runs an on_connect that waits for the test, ends the connection, and only then lets the hook go on.
async fn finishes_after(ending: impl AsyncFnOnce(&Node, SocketAddr)) {
    let (begun, gate, finished) = (Arc::new(Notify::new()), Arc::new(Notify::new()), Events::default());
    let (_peer, addr) = raw_peer().await;
    let dialler = Actor::<Unhurried>::dialling(Script {
        on_connect: {
            let (begun, gate, finished) = (Arc::clone(&begun), Arc::clone(&gate), finished.clone());
            hook!(|_actor, addr| {
                let (begun, gate, finished) = (Arc::clone(&begun), Arc::clone(&gate), finished.clone());
                async move {
                    begun.notify_one();
                    gate.notified().await;
                    finished.push(addr);
                }
            })
        },
        ..Default::default()
    })
    .await;
    dialler.node().connect(addr).await.unwrap();
    in_time("on_connect begins", begun.notified()).await;
    in_time("the ending", ending(dialler.node(), addr)).await;
    assert!(!dialler.node().is_connected(addr));
    gate.notify_one();
    finished.wait_for(addr).await;
}

#[tokio::test(crate = "ledger")]
async fn an_unabortable_on_connect_runs_to_its_end_after_a_disconnect() {
    finishes_after(async |node, addr| assert!(node.disconnect(addr).await)).await;
}

#[tokio::test(crate = "ledger")]
async fn an_unabortable_on_connect_runs_to_its_end_after_a_shutdown() {
    finishes_after(async |node, _addr| node.shut_down().await).await;
}

async fn connect_and_disconnect_back_to_back() {
    const CONNECTIONS: usize = 500;

    let counting = || Script::<Unhurried> { on_connect: silent(), on_disconnect: silent(), ..Default::default() };
    let (acceptor, addr) = Actor::listening(Script { process: silent(), ..counting() }).await;
    let dialler = Actor::dialling(counting()).await;
    for _ in 0..CONNECTIONS {
        in_time("connect", dialler.node().connect(addr)).await.unwrap();
        assert!(in_time("disconnect", dialler.node().disconnect(addr)).await);
    }
    for actor in [&dialler, &acceptor] {
        wait_until("all have begun", || (actor.begun_on_connect(), actor.begun_on_disconnect()) >= (500, 500)).await;
        in_time("shut_down", actor.node().shut_down()).await;
        assert_eq!((actor.begun_on_connect(), actor.begun_on_disconnect()), (CONNECTIONS, CONNECTIONS));
    }
}

#[tokio::test(crate = "ledger")]
async fn every_connection_has_one_unabortable_on_connect_and_one_on_disconnect() {
    connect_and_disconnect_back_to_back().await;
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 2)]
async fn every_connection_has_one_unabortable_on_connect_and_one_on_disconnect_on_many_threads() {
    connect_and_disconnect_back_to_back().await;
}

// --- OnDisconnect ---

async fn yield_times(times: usize) {
    for _ in 0..times {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 4)]
async fn on_disconnect_begins_exactly_once_when_all_kinds_of_endings_race() {
    keep_deliberate_panics_quiet();
    let mut random = Random::new(new_seed());
    let mut winners = HashSet::new();
    for round in 0..150 {
        // Without some yields in front, the same contender would win each time.
        let [first, second, third, fourth] = std::array::from_fn(|_| random.below(4));
        let origins = Events::default();
        let start = Arc::new(Barrier::new(5));
        let (acceptor, addr) = Actor::<Unhurried>::listening(Script {
            process: hook!(|_actor, _source, _message| async { panic!("{DELIBERATE}") }),
            on_connect: {
                let start = Arc::clone(&start);
                hook!(|_actor, _addr| {
                    let start = Arc::clone(&start);
                    async move {
                        start.wait().await;
                        yield_times(first).await;
                        panic!("{DELIBERATE}");
                    }
                })
            },
            on_disconnect: {
                let origins = origins.clone();
                hook!(|_actor, _addr, origin| {
                    origins.push(origin);
                    tokio::task::yield_now()
                })
            },
            ..Default::default()
        })
        .await;
        let mut peer = TcpStream::connect(addr).await.unwrap();
        let back = acceptor.only_peer().await;
        let disconnecting = |yields| {
            let (node, start) = (acceptor.node().clone(), Arc::clone(&start));
            tokio::spawn(async move {
                start.wait().await;
                yield_times(yields).await;
                node.disconnect(back).await
            })
        };
        let disconnects = [disconnecting(second), disconnecting(third)];
        let shutdown = tokio::spawn({
            let (node, start) = (acceptor.node().clone(), Arc::clone(&start));
            async move {
                start.wait().await;
                yield_times(fourth).await;
                if round % 2 == 0 {
                    node.shut_down().await;
                }
            }
        });
        start.wait().await;
        // The message makes process_message panic, and the end of the stream comes right behind it.
        _ = peer.write_all(&frame(b"x")).await;
        drop(peer);

        let mut won = 0;
        for disconnect in disconnects {
            won += usize::from(in_time("disconnect", disconnect).await.unwrap());
        }
        in_time("shut_down", shutdown).await.unwrap();
        wait_until("the connection is gone", || acceptor.node().num_connected() == 0).await;
        in_time("shut_down", acceptor.node().shut_down()).await;
        assert_eq!(origins.len(), 1, "{:?}", origins.all());
        assert_eq!(origins.count(&DisconnectOrigin::User), won);
        winners.extend(origins.all());
    }
    assert!(winners.len() > 1, "there was no race: {winners:?}");
}

#[derive(Clone)]
struct BriefEndings;

impl Tuning for BriefEndings {
    const ON_DISCONNECT_MS: u64 = 700;
}

#[tokio::test(crate = "ledger")]
async fn a_hanging_on_disconnect_is_dropped_after_its_timeout_and_not_before() {
    let (_peer, addr) = raw_peer().await;
    let dialler = Actor::<BriefEndings>::dialling(Script { on_disconnect: hanging(), ..Default::default() }).await;
    dialler.node().connect(addr).await.unwrap();
    tokio::time::pause();
    let begin = Instant::now();
    assert!(in_time("disconnect", dialler.node().disconnect(addr)).await);
    let took = begin.elapsed();
    assert!((Duration::from_millis(700)..=Duration::from_millis(710)).contains(&took), "{took:?}");
    assert!(!dialler.node().is_connected(addr));
}

#[tokio::test(crate = "ledger")]
async fn a_dropped_disconnect_cuts_on_disconnect_short_and_removes_the_connection_at_once() {
    let (_peer, addr) = raw_peer().await;
    let dialler = Actor::<Unhurried>::dialling(Script { on_disconnect: hanging(), ..Default::default() }).await;
    dialler.node().connect(addr).await.unwrap();
    let mut disconnect = Box::pin(dialler.node().disconnect(addr));
    assert!(poll_times(disconnect.as_mut(), 1).await.is_none());
    assert_eq!((dialler.begun_on_disconnect(), dialler.node().num_connected()), (1, 1));
    drop(disconnect);
    assert_eq!(dialler.node().num_connected(), 0);
    assert_eq!(dialler.begun_on_disconnect(), 1);
}

#[tokio::test(crate = "ledger")]
async fn without_on_disconnect_a_connection_is_gone_after_the_first_poll_of_its_end() {
    let (_peer, addr) = raw_peer().await;
    let dialler = Actor::<Unhurried>::dialling(Script { process: silent(), writes: true, ..Default::default() }).await;
    dialler.node().connect(addr).await.unwrap();
    let mut disconnect = Box::pin(dialler.node().disconnect(addr));
    // It may still wait for the tasks to be dropped.
    _ = poll_times(disconnect.as_mut(), 1).await;
    assert_eq!(dialler.node().num_connected(), 0);
}

#[tokio::test(crate = "ledger")]
async fn a_disconnect_that_comes_too_late_does_not_wait() {
    let (_peer, addr) = raw_peer().await;
    let dialler = Actor::<Unhurried>::dialling(Script { on_disconnect: hanging(), ..Default::default() }).await;
    dialler.node().connect(addr).await.unwrap();
    let mut disconnect = Box::pin(dialler.node().disconnect(addr));
    assert!(poll_times(disconnect.as_mut(), 1).await.is_none());
    let late = Box::pin(dialler.node().disconnect(addr));
    assert_eq!(poll_times(pin!(late), 1).await, Some(false));
}
