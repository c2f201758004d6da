//! Connections and the runtimes that carry them: a runtime that goes away takes its connections along, in order, and a
//! thread without a runtime can end a connection.

use std::{
    future::{Future, ready},
    io::{ErrorKind, Read},
    net::{SocketAddr, TcpListener, TcpStream},
    pin::pin,
    sync::{Arc, Mutex, mpsc},
    task::{Context, Waker},
    thread,
    time::{Duration, Instant},
};

use pea2pea::{DisconnectOrigin, Pea2Pea, protocols::Writing};
use tokio::{
    net::TcpSocket,
    runtime::{Builder, Runtime},
    sync::oneshot::{self, error::TryRecvError},
};
use tokio_util::bytes::Bytes;

use crate::{
    common::{
        self, Events, PATIENCE,
        actor::{Actor, Script, Tuning, Unhurried, hanging, silent},
        block_on_outside, local_config, wait_until,
        wire::frame,
    },
    hook, ledger,
};

const HELLO: Bytes = Bytes::from_static(b"hello");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flavour {
    CurrentThread,
    MultiThread,
}

const FLAVOURS: [Flavour; 2] = [Flavour::CurrentThread, Flavour::MultiThread];

fn runtime(flavour: Flavour) -> Runtime {
    let mut builder = match flavour {
        Flavour::CurrentThread => Builder::new_current_thread(),
        Flavour::MultiThread => Builder::new_multi_thread(),
    };
    builder.worker_threads(2).enable_all().build().unwrap()
}

/// Keeps the ledger, when this thread has what the standard library keeps for each thread that waits at a channel.
fn check(body: impl FnOnce()) {
    let (sender, receiver) = mpsc::channel::<()>();
    receiver.recv_timeout(Duration::from_millis(1)).unwrap_err();
    drop(sender);
    ledger::check(body);
}

/// Waits without a runtime.
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// What an `on_disconnect` notes that would wait for ever.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Noted {
    Begun(DisconnectOrigin),
    Cut,
    Done,
}

/// Notes that a hook was not run to its end.
struct Guard(Option<Events<Noted>>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(events) = &self.0 {
            events.push(Noted::Cut);
        }
    }
}

/// An `on_disconnect` that waits for a timer, and notes how far it gets.
fn noting<T: Tuning>(
    events: &Events<Noted>,
    time: Duration,
) -> common::actor::AsyncHook<(Actor<T>, SocketAddr, DisconnectOrigin), ()> {
    let events = events.clone();
    hook!(|_, _, origin| {
        let events = events.clone();
        async move {
            events.push(Noted::Begun(origin));
            let mut guard = Guard(Some(events.clone()));
            tokio::time::sleep(time).await;
            events.push(Noted::Done);
            guard.0 = None;
        }
    })
}

/// The timer of a hook that is to be cut.
const NEVER: Duration = Duration::from_secs(3_600);

/// A place that can be dialled, without any runtime.
fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

fn accept(listener: &TcpListener) -> TcpStream {
    let peer = listener.accept().unwrap().0;
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    peer
}

/// A runtime with a connection of an actor that goes away with it.
struct Doomed<T: Tuning> {
    runtime: Runtime,
    actor: Actor<T>,
    events: Events<Noted>,
    listener: TcpListener,
    peer: TcpStream,
    addr: SocketAddr,
}

impl<T: Tuning> Doomed<T> {
    fn new(flavour: Flavour, script: Script<T>) -> Self {
        let (runtime, events, (listener, addr)) = (runtime(flavour), Events::default(), listener());
        let script = Script { on_disconnect: noting(&events, NEVER), ..script };
        let actor = runtime.block_on(async {
            let actor = Actor::new(local_config(), script).await;
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_send_buffer_size(16 * 1024).unwrap();
            actor.node().connect_using_socket(addr, socket).await.unwrap();
            actor
        });
        let peer = accept(&listener);
        Self { runtime, actor, events, listener, peer, addr }
    }

    /// Drops the runtime; the connection goes with it, and can be made again on another one.
    fn assert_ends_with_its_runtime(self, case: &str, origins: &[DisconnectOrigin]) {
        let Self { runtime, actor, events, listener, mut peer, addr } = self;
        drop(runtime);
        eventually(case, || events.contains(&Noted::Cut) && actor.node().num_connected() == 0);
        let [Noted::Begun(origin), Noted::Cut] = events.all()[..] else { panic!("{case}: {:?}", events.all()) };
        assert!(origins.contains(&origin), "{case}: {origin:?}");
        assert!(!actor.node().is_connected(addr) && actor.node().connected_addrs().is_empty());
        assert_eq!(actor.unicast_fast(addr, HELLO).map_err(|error| error.kind()), Err(unsent(&actor)), "{case}");
        _ = peer.read_to_end(&mut Vec::new());
        // On another runtime the address is free.
        self::runtime(Flavour::CurrentThread).block_on(async {
            actor.node().connect(addr).await.unwrap();
            let _peer = accept(&listener);
            assert!(actor.node().is_connected(addr));
            // The hook would wait for its timer.
            _ = common::poll_times(pin!(actor.node().disconnect(addr)), 1).await;
            actor.node().shut_down().await;
        });
        assert_eq!(actor.begun_on_disconnect(), 2, "{case}: one for each connection");
    }
}

/// What a send to nobody fails with.
fn unsent<T: Tuning>(actor: &Actor<T>) -> ErrorKind {
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    actor.unicast_fast(nobody, HELLO).unwrap_err().kind()
}

#[test]
fn a_connection_with_reading_ends_with_its_runtime() {
    check(|| {
        for flavour in FLAVOURS {
            let doomed = Doomed::<Unhurried>::new(flavour, Script { process: silent(), ..Script::default() });
            doomed.assert_ends_with_its_runtime(&format!("{flavour:?}"), &[DisconnectOrigin::Reading]);
        }
    });
}

#[test]
fn a_message_that_is_being_processed_is_dropped_with_its_runtime_and_the_connection_ends() {
    check(|| {
        for flavour in FLAVOURS {
            let doomed = Doomed::<Unhurried>::new(flavour, Script { process: hanging(), ..Script::default() });
            std::io::Write::write_all(&mut &doomed.peer, &frame(b"hello")).unwrap();
            doomed.runtime.block_on(wait_until("it is being processed", || doomed.actor.received() == 1));
            doomed.assert_ends_with_its_runtime(&format!("{flavour:?}"), &[DisconnectOrigin::Reading]);
        }
    });
}

/// The receipt of what the runtime was writing when it was dropped resolves, and so does that of what waited behind it.
fn assert_receipts_resolve_when_the_runtime_goes_away(flavour: Flavour, reads: bool) {
    let process = if reads { silent() } else { None };
    let doomed = Doomed::<Unhurried>::new(flavour, Script { process, writes: true, ..Script::default() });
    let send = |size| doomed.actor.unicast(doomed.addr, vec![0; size].into()).unwrap();
    let under_way = send(8_000_000);
    doomed.peer.set_nonblocking(true).unwrap();
    doomed.runtime.block_on(wait_until("the first bytes", || doomed.peer.peek(&mut [0; 1]).is_ok()));
    doomed.peer.set_nonblocking(false).unwrap();
    let behind = send(10);
    let case = format!("{flavour:?}, reads {reads}");
    doomed.assert_ends_with_its_runtime(&case, &[DisconnectOrigin::Reading, DisconnectOrigin::Writing]);
    for mut receipt in [under_way, behind] {
        assert_eq!(receipt.try_recv().map(drop), Err(TryRecvError::Closed), "{case}");
    }
}

#[test]
fn a_connection_with_writing_ends_with_its_runtime_and_its_receipts_resolve() {
    check(|| {
        for flavour in FLAVOURS {
            for reads in [false, true] {
                assert_receipts_resolve_when_the_runtime_goes_away(flavour, reads);
            }
        }
    });
}

#[derive(Clone)]
struct Abortable;

impl Tuning for Abortable {
    const ABORTABLE: bool = true;
}

fn assert_on_connect_takes_the_connection_along<T: Tuning>(flavour: Flavour) {
    let doomed = Doomed::<T>::new(flavour, Script { on_connect: hanging(), ..Script::default() });
    doomed.runtime.block_on(wait_until("on_connect has begun", || doomed.actor.begun_on_connect() == 1));
    let case = format!("{flavour:?}, abortable {}", T::ABORTABLE);
    doomed.assert_ends_with_its_runtime(&case, &[DisconnectOrigin::OnConnectAbort]);
}

#[test]
fn a_connection_with_nothing_but_an_on_connect_at_work_ends_with_its_runtime() {
    check(|| {
        for flavour in FLAVOURS {
            assert_on_connect_takes_the_connection_along::<Abortable>(flavour);
            assert_on_connect_takes_the_connection_along::<Unhurried>(flavour);
        }
    });
}

#[test]
fn a_connection_without_tasks_ends_with_the_first_message_after_its_runtime_is_gone() {
    check(|| {
        for flavour in FLAVOURS {
            let doomed = Doomed::<Unhurried>::new(flavour, Script { writes: true, ..Script::default() });
            let Doomed { runtime, actor, events, addr, .. } = doomed;
            drop(runtime);
            if let Ok(receipt) = actor.unicast(addr, HELLO) {
                block_on_outside(receipt).expect_err("nobody is there to write it");
            }
            eventually("the connection is gone", || actor.node().num_connected() == 0);
            assert_eq!(events.all(), [Noted::Begun(DisconnectOrigin::Writing), Noted::Cut], "{flavour:?}");
            self::runtime(Flavour::CurrentThread).block_on(actor.node().shut_down());
        }
    });
}

/// A dial is in its last poll when its runtime is shut down: what it starts then is dropped at once.
fn assert_a_connection_that_comes_too_late_ends(script: Script<Unhurried>, case: &str) {
    let (runtime, events, (listener, addr)) = (runtime(Flavour::MultiThread), Events::default(), listener());
    let ((enter, entered), (leave, left)) = (mpsc::channel(), mpsc::channel());
    let left = Mutex::new(left);
    let script = Script {
        handshake: hook!(|_, conn| {
            enter.send(()).unwrap();
            left.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            ready(Ok(conn))
        }),
        on_disconnect: noting(&events, NEVER),
        ..script
    };
    let actor = runtime.block_on(Actor::new(local_config(), script));
    let dialling = runtime.spawn({
        let node = actor.node().clone();
        async move { node.connect(addr).await }
    });
    let _peer = accept(&listener);
    entered.recv_timeout(PATIENCE).unwrap();
    let handle = runtime.handle().clone();
    runtime.shutdown_background();
    eventually("it takes no more tasks", || block_on_outside(handle.spawn(async {})).is_err());
    leave.send(()).unwrap();
    _ = block_on_outside(dialling);
    eventually(case, || events.contains(&Noted::Cut) && actor.node().num_connected() == 0);
    let noted = events.all();
    assert!(matches!(noted[..], [Noted::Begun(_), Noted::Cut]), "{case}: {noted:?}");
    self::runtime(Flavour::CurrentThread).block_on(actor.node().shut_down());
}

#[test]
fn a_connection_that_goes_live_while_its_runtime_is_shut_down_ends() {
    check(|| {
        let reading = || Script { process: silent(), ..Script::default() };
        assert_a_connection_that_comes_too_late_ends(reading(), "with Reading");
        let starting = || Script { on_connect: hanging(), ..Script::default() };
        assert_a_connection_that_comes_too_late_ends(starting(), "with OnConnect");
        assert_a_connection_that_comes_too_late_ends(Script { process: silent(), ..starting() }, "with both");
    });
}

// --- outside of every runtime ---

/// A runtime that a thread drives until this is dropped.
struct Driven {
    runtime: Arc<Runtime>,
    stop: Option<oneshot::Sender<()>>,
    driver: Option<thread::JoinHandle<()>>,
}

impl Driven {
    fn new(flavour: Flavour) -> Self {
        let (runtime, (stop, stopped)) = (Arc::new(runtime(flavour)), oneshot::channel());
        let driven = Arc::clone(&runtime);
        let driver = thread::spawn(move || _ = driven.block_on(stopped));
        Self { runtime, stop: Some(stop), driver: Some(driver) }
    }

    /// Runs it where the runtime is driven.
    fn run<F: Future<Output: Send + 'static> + Send + 'static>(&self, future: F) -> F::Output {
        let done = self.runtime.spawn(future);
        block_on_outside(done).unwrap()
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.driver.take().unwrap().join().unwrap();
    }
}

/// An actor with a connection; its hook waits for so long.
async fn connected(script: Script<Unhurried>, addr: SocketAddr) -> Actor {
    let actor = Actor::new(local_config(), script).await;
    actor.node().connect(addr).await.unwrap();
    actor
}

#[test]
fn outside_of_every_runtime_disconnect_runs_the_whole_ending_its_timers_included() {
    check(|| {
        for flavour in FLAVOURS {
            for reads in [false, true] {
                let (driven, events, (listener, addr)) = (Driven::new(flavour), Events::default(), listener());
                let process = if reads { silent() } else { None };
                let on_disconnect = noting(&events, Duration::from_millis(20));
                let script = Script { process, on_disconnect, writes: true, ..Script::default() };
                let actor = driven.run(connected(script, addr));
                let mut peer = accept(&listener);
                let receipt = actor.unicast(addr, HELLO).unwrap();
                assert!(block_on_outside(actor.node().disconnect(addr)), "{flavour:?}");
                assert_eq!(events.all(), [Noted::Begun(DisconnectOrigin::User), Noted::Done], "{flavour:?}");
                assert!(!actor.node().is_connected(addr));
                block_on_outside(receipt).unwrap().expect("it was flushed");
                let mut bytes = Vec::new();
                peer.read_to_end(&mut bytes).unwrap();
                assert_eq!(bytes, frame(&HELLO));
                assert!(!block_on_outside(actor.node().disconnect(addr)), "it is over");
                driven.run(async move { actor.node().shut_down().await });
            }
        }
    });
}

#[test]
fn outside_of_every_runtime_disconnect_begins_and_cuts_the_hook_if_nobody_drives_the_connections_runtime() {
    check(|| {
        for is_gone in [false, true] {
            for reads in [false, true] {
                let (runtime, events, (listener, addr)) =
                    (runtime(Flavour::CurrentThread), Events::default(), listener());
                let process = if reads && !is_gone { silent() } else { None };
                let script = Script { process, on_disconnect: noting(&events, NEVER), ..Script::default() };
                let actor = runtime.block_on(connected(script, addr));
                let _peer = accept(&listener);
                // A connection without tasks does not notice that its runtime is gone. The hook's timer panics then.
                let kept = (!is_gone).then_some(runtime);
                assert!(block_on_outside(actor.node().disconnect(addr)), "gone {is_gone}");
                assert_eq!(actor.begun_on_disconnect(), 1, "gone {is_gone}");
                assert_eq!(events.count(&Noted::Cut), 1, "gone {is_gone}: {:?}", events.all());
                assert!(!events.contains(&Noted::Done));
                assert!(!actor.node().is_connected(addr));
                assert!(!block_on_outside(actor.node().disconnect(addr)), "it is over");
                drop(kept);
                self::runtime(Flavour::CurrentThread).block_on(actor.node().shut_down());
                assert_eq!(actor.begun_on_disconnect(), 1);
            }
        }
    });
}

#[test]
fn an_end_outside_of_every_runtime_that_is_dropped_has_begun_its_hook_once() {
    check(|| {
        let (driven, events, (listener, addr)) = (Driven::new(Flavour::MultiThread), Events::default(), listener());
        let script = Script { on_disconnect: noting(&events, NEVER), process: silent(), ..Script::default() };
        let actor = driven.run(connected(script, addr));
        let _peer = accept(&listener);
        let mut ending = Box::pin(actor.node().disconnect(addr));
        assert!(ending.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert_eq!(events.all(), [Noted::Begun(DisconnectOrigin::User)]);
        drop(ending);
        assert_eq!(events.all(), [Noted::Begun(DisconnectOrigin::User), Noted::Cut]);
        assert!(!actor.node().is_connected(addr));
        driven.run(async move { actor.node().shut_down().await });
        assert_eq!(events.len(), 2);
    });
}
