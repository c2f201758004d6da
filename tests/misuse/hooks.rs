//! Every hook misbehaves in every way: at most its own connection ends, and the node goes on.

use std::{
    fmt::Debug,
    io,
    net::SocketAddr,
    panic::panic_any,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Poll,
    thread,
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use pea2pea::{Config, Node, Pea2Pea, ShuttingDown, protocols::Writing};
use tokio::sync::Semaphore;
use tokio_util::bytes::Bytes;

use crate::{
    common::{
        DELIBERATE,
        actor::{Actor, Hook, Script, Tuning, Unhurried, silent},
        in_time, keep_deliberate_panics_quiet, local_config,
        setups::settled,
        wait_until,
    },
    hook, ledger,
};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Site {
    Handshake,
    ReadingCodec,
    WritingCodec,
    Decode,
    Encode,
    Process,
    OnConnect,
    OnDisconnect,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Misuse {
    Panic,
    /// Before there is a future.
    PanicEarly,
    /// When the future is dropped, which does not end by itself.
    PanicInDrop,
    /// When the future is dropped, which has ended.
    PanicWhenDone,
    /// With a payload whose drop panics too.
    PanicWithBomb,
    Error,
    Hang,
    Disconnect,
    Connect,
    ShutDown,
    ToggleListener,
    Broadcast,
}

use Misuse::*;

/// What can be done by a hook that returns a future.
const OF_FUTURES: [Misuse; 11] = [
    Panic,
    PanicEarly,
    PanicInDrop,
    PanicWhenDone,
    PanicWithBomb,
    Hang,
    Disconnect,
    Connect,
    ShutDown,
    ToggleListener,
    Broadcast,
];

/// What can be done by a hook that returns a value.
const OF_CALLS: [Misuse; 8] = [Panic, PanicWithBomb, Hang, Disconnect, Connect, ShutDown, ToggleListener, Broadcast];

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("{DELIBERATE}");
    }
}

/// The timeouts of hooks that hang.
#[derive(Clone)]
struct Brief<const ABORTABLE: bool>;

impl<const ABORTABLE: bool> Tuning for Brief<ABORTABLE> {
    const ABORTABLE: bool = ABORTABLE;
    const HANDSHAKE_MS: u64 = 100;
    const ON_DISCONNECT_MS: u64 = 100;
}

/// One way of misbehaving, on the next occasion after it has been armed.
struct Fault {
    misuse: Misuse,
    is_armed: AtomicBool,
    /// How many calls have been told whether they are the one to go wrong.
    asked: AtomicUsize,
    has_happened: AtomicBool,
    /// A peer to dial.
    spare: SocketAddr,
    /// Held by each future that is calling the node.
    calling: Arc<()>,
    /// Closed when nothing has to hang any longer.
    hanging: Semaphore,
}

impl Fault {
    fn strikes(&self) -> bool {
        let strikes = self.is_armed.swap(false, Ordering::SeqCst);
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.has_happened.fetch_or(strikes, Ordering::SeqCst);
        strikes
    }

    #[expect(deprecated, reason = "it is lossy, and has to do what it promises all the same")]
    fn call_node<T: Tuning>(&self, actor: Actor<T>, addr: SocketAddr) -> BoxFuture<'static, ()> {
        let (misuse, spare, calling) = (self.misuse, self.spare, Arc::clone(&self.calling));
        Box::pin(async move {
            let _calling = calling;
            match misuse {
                Disconnect => _ = actor.node().disconnect(addr).await,
                ShutDown => actor.node().shut_down().await,
                Broadcast => _ = actor.broadcast(Bytes::from_static(b"to all")),
                Connect => {
                    _ = actor.node().connect(addr).await;
                    _ = actor.node().connect(spare).await;
                }
                ToggleListener => {
                    _ = actor.node().toggle_listener().await;
                    _ = actor.node().toggle_listener().await;
                }
                _ => unreachable!("{misuse:?} is no call"),
            }
        })
    }

    /// Misbehaves in a future.
    fn future<T: Tuning>(self: Arc<Self>, actor: Actor<T>, addr: SocketAddr) -> BoxFuture<'static, io::Result<()>> {
        let calling = Arc::clone(&self.calling);
        if !self.strikes() {
            return Box::pin(async { Ok(()) });
        }
        match self.misuse {
            PanicEarly => panic!("{DELIBERATE}"),
            PanicInDrop => {
                let bomb = Bomb;
                Box::pin(async move {
                    let _kept = bomb;
                    self.hang().await
                })
            }
            PanicWhenDone => {
                let bomb = Bomb;
                Box::pin(std::future::poll_fn(move |_| {
                    let _kept = &bomb;
                    Poll::Ready(Ok(()))
                }))
            }
            Hang => Box::pin(async move { self.hang().await }),
            _ => Box::pin(async move {
                let _calling = calling;
                tokio::task::yield_now().await;
                match self.misuse {
                    Panic => panic!("{DELIBERATE}"),
                    PanicWithBomb => panic_any(Bomb),
                    Error => return Err(io::ErrorKind::PermissionDenied.into()),
                    _ => self.call_node(actor, addr).await,
                }
                Ok(())
            }),
        }
    }

    async fn hang(&self) -> io::Result<()> {
        self.hanging.acquire().await.expect_err("there is no permit");
        Ok(())
    }

    /// Misbehaves in a call.
    fn call<T: Tuning>(&self, actor: Actor<T>, addr: SocketAddr) -> io::Result<()> {
        let _calling = Arc::clone(&self.calling);
        if !self.strikes() {
            return Ok(());
        }
        match self.misuse {
            Panic => panic!("{DELIBERATE}"),
            PanicWithBomb => panic_any(Bomb),
            Error => return Err(io::ErrorKind::PermissionDenied.into()),
            Hang => thread::sleep(Duration::from_millis(20)),
            _ => {
                // As far as it gets at once, and then in full beside the hook.
                _ = self.call_node(actor.clone(), addr).now_or_never();
                tokio::spawn(self.call_node(actor, addr));
            }
        }
        Ok(())
    }
}

/// A script that misbehaves at one place.
fn misbehaving<T: Tuning>(site: Site, fault: &Arc<Fault>) -> Script<T> {
    let at = |place| (place == site).then(|| Arc::clone(fault));
    // Without a fault, the protocols do what they are for.
    fn future<T: Tuning>(
        fault: Option<Arc<Fault>>,
        actor: Actor<T>,
        addr: SocketAddr,
    ) -> BoxFuture<'static, io::Result<()>> {
        fault.map_or_else(|| Box::pin(async { Ok(()) }) as _, |fault| fault.future(actor, addr))
    }
    fn call<T: Tuning>(fault: Option<Arc<Fault>>) -> Hook<(Actor<T>, SocketAddr), io::Result<()>> {
        fault.map(|fault| Box::new(move |(actor, addr)| fault.call(actor, addr)) as _)
    }
    fn codec<T: Tuning>(fault: Option<Arc<Fault>>) -> Hook<(Actor<T>, SocketAddr), ()> {
        fault.map(|fault| Box::new(move |(actor, addr)| fault.call(actor, addr).unwrap()) as _)
    }
    let [shaking, processing, connecting, ending] =
        [Site::Handshake, Site::Process, Site::OnConnect, Site::OnDisconnect].map(at);
    Script {
        handshake: hook!(|actor, conn| {
            let misbehaving = future(shaking.clone(), actor, conn.addr());
            async move { misbehaving.await.map(|()| conn) }
        }),
        process: hook!(|actor, source, _message| future(processing.clone(), actor, source).map(drop)),
        on_connect: hook!(|actor, addr| future(connecting.clone(), actor, addr).map(drop)),
        on_disconnect: hook!(|actor, addr, _origin| future(ending.clone(), actor, addr).map(drop)),
        writes: true,
        reading_codec: codec(at(Site::ReadingCodec)),
        writing_codec: codec(at(Site::WritingCodec)),
        decode: call(at(Site::Decode)),
        encode: call(at(Site::Encode)),
    }
}

fn peer_script() -> Script<Unhurried> {
    Script { process: silent(), writes: true, ..Default::default() }
}

/// The address of the peer that is not among the known ones.
fn unknown(node: &Node, known: &[SocketAddr]) -> Option<SocketAddr> {
    node.connected_addrs().into_iter().find(|addr| !known.contains(addr))
}

/// Both ends send a message, and both get it.
async fn exchange<A: Tuning, B: Tuning>(a: &Actor<A>, to_b: SocketAddr, b: &Actor<B>, to_a: SocketAddr) {
    let before = (a.received(), b.received());
    a.unicast_fast(to_b, Bytes::new()).unwrap();
    b.unicast_fast(to_a, Bytes::new()).unwrap();
    wait_until("an exchange", || a.received() > before.0 && b.received() > before.1).await;
}

async fn row<T: Tuning>(site: Site, misuse: Misuse, is_dialled: bool) {
    println!("{site:?}: {misuse:?}, {}", if is_dialled { "dialled" } else { "accepted" });
    let (spare, spare_addr) = Actor::listening(peer_script()).await;
    let (victim, victim_addr) = Actor::listening(peer_script()).await;
    let bystander = Actor::dialling(peer_script()).await;
    let fault = Arc::new(Fault {
        misuse,
        is_armed: AtomicBool::new(false),
        asked: AtomicUsize::new(0),
        has_happened: AtomicBool::new(false),
        spare: spare_addr,
        calling: Arc::default(),
        hanging: Semaphore::new(0),
    });
    // No more than are needed in the end: a slot that is not given back shows.
    let config = Config { max_connections_per_ip: 3, max_connecting: 2, ..local_config() };
    let faulty = Actor::<T>::new(config, misbehaving(site, &fault)).await;
    let addr = faulty.node().toggle_listener().await.unwrap().unwrap();
    bystander.node().connect(addr).await.unwrap();
    let bystander_addr = faulty.only_peer().await;
    wait_until("the bystander's on_connect", || faulty.begun_on_connect() == 1).await;

    let may_fire_early = !matches!(site, Site::Decode | Site::Encode | Site::Process | Site::OnDisconnect);
    if may_fire_early {
        // A hook that has begun may not have asked yet.
        wait_until("the bystander's call has been let go", || fault.asked.load(Ordering::SeqCst) == 1).await;
    }
    fault.is_armed.store(may_fire_early, Ordering::SeqCst);
    let dialled = if is_dialled {
        in_time("a dial", faulty.node().connect(victim_addr)).await
    } else {
        in_time("a dial", victim.node().connect(addr)).await
    };
    if may_fire_early {
        if is_dialled {
            check_result(site, misuse, dialled);
        }
    } else {
        dialled.unwrap();
        wait_until("the victim is live", || faulty.node().num_connected() == 2 && victim.node().num_connected() == 1)
            .await;
        let to_victim = unknown(faulty.node(), &[bystander_addr]).unwrap();
        let to_faulty = unknown(victim.node(), &[]).unwrap();
        fault.is_armed.store(true, Ordering::SeqCst);
        match site {
            Site::Encode => _ = faulty.unicast(to_victim, Bytes::new()).unwrap(),
            Site::OnDisconnect => assert!(in_time("disconnect", faulty.node().disconnect(to_victim)).await),
            _ => victim.unicast_fast(to_faulty, Bytes::new()).unwrap(),
        }
    }
    wait_until("the misuse has happened", || fault.has_happened.load(Ordering::SeqCst)).await;
    wait_until("its calls have returned", || Arc::strong_count(&fault.calling) == 1).await;

    if misuse == ShutDown {
        in_time("shut_down", faulty.node().shut_down()).await;
        assert_eq!((faulty.node().num_connected(), faulty.node().num_connecting()), (0, 0));
        let error = in_time("a dial", faulty.node().connect(spare_addr)).await.unwrap_err();
        assert!(ShuttingDown::caused(&error), "{error}");
    } else {
        goes_on(&faulty, &bystander, bystander_addr, &fault).await;
    }
    // An on_connect that is not abortable may begin after the end of its connection.
    let begun = || (faulty.begun_on_connect(), faulty.begun_on_disconnect());
    wait_until("as many on_connect as on_disconnect", || begun().0 == begun().1).await;
    // What is not abortable would hang for ever.
    fault.hanging.close();
    drop(spare);
}

/// Checks what the dial says to whom it was the setup's fault.
fn check_result(site: Site, misuse: Misuse, result: io::Result<()>) {
    match (site, misuse) {
        (Site::OnConnect, _) => assert!(result.is_ok() || misuse == ShutDown),
        (_, Panic | PanicEarly | PanicWhenDone | PanicWithBomb) => {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::Other);
            let hook = if site == Site::Handshake { "perform_handshake" } else { "codec" };
            assert!(error.to_string().contains(hook), "{error}");
        }
        (_, Error) => assert_eq!(result.unwrap_err().kind(), io::ErrorKind::PermissionDenied),
        (Site::Handshake, Hang | PanicInDrop) => assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut),
        (_, ShutDown) => assert!(ShuttingDown::caused(&result.unwrap_err())),
        _ => result.unwrap(),
    }
}

/// Checks that the node does all that it did before the misuse.
async fn goes_on<T: Tuning>(faulty: &Actor<T>, bystander: &Actor, bystander_addr: SocketAddr, fault: &Fault) {
    wait_until("no setup is left", || faulty.node().num_connecting() == 0).await;
    if fault.misuse == Connect {
        wait_until("the spare is dialled", || faulty.node().is_connected(fault.spare)).await;
    }
    let addr = match faulty.node().listening_addr().await {
        Ok(addr) => addr,
        // Several toggles, some of them dropped, may have left it off.
        Err(_) => in_time("toggle", faulty.node().toggle_listener()).await.unwrap().expect("it is on now"),
    };
    let bystanders_view = unknown(bystander.node(), &[]).expect("the bystander's connection is not concerned");
    exchange(faulty, bystander_addr, bystander, bystanders_view).await;

    // Whether the victim's connection has ended by itself or not, it can be ended in time.
    for other in faulty.node().connected_addrs() {
        if other != bystander_addr {
            in_time("disconnect", faulty.node().disconnect(other)).await;
        }
    }
    settled(faulty.node(), 1).await;
    let mut known = vec![bystander_addr];
    for _ in 0..2 {
        let fresh = Actor::dialling(peer_script()).await;
        in_time("a fresh dial", fresh.node().connect(addr)).await.unwrap();
        wait_until("it is live", || unknown(faulty.node(), &known).is_some()).await;
        known.extend(unknown(faulty.node(), &known));
        exchange(faulty, *known.last().unwrap(), &fresh, addr).await;
    }
    let infos = faulty.node().connection_infos();
    assert_eq!((faulty.node().num_connected(), infos.len(), faulty.node().num_connecting()), (3, 3, 0));
    in_time("shut_down", faulty.node().shut_down()).await;
    assert_eq!((faulty.node().num_connected(), faulty.node().num_connecting()), (0, 0));
}

async fn table<T: Tuning>(site: Site, misuses: impl IntoIterator<Item = Misuse>) {
    keep_deliberate_panics_quiet();
    for misuse in misuses {
        for is_dialled in [false, true] {
            row::<T>(site, misuse, is_dialled).await;
        }
    }
}

macro_rules! tables {
    ($($name:ident: $tuning:ty, $site:ident, $misuses:expr;)*) => { $(
        #[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 3)]
        async fn $name() {
            table::<$tuning>(Site::$site, $misuses).await;
        }
    )* };
}

tables! {
    a_misused_handshake_ends_at_most_its_setup: Brief<false>, Handshake, OF_FUTURES.into_iter().chain([Error]);
    a_misused_reading_codec_ends_at_most_its_setup: Brief<false>, ReadingCodec, OF_CALLS;
    a_misused_writing_codec_ends_at_most_its_setup: Brief<false>, WritingCodec, OF_CALLS;
    a_misused_decoder_ends_at_most_its_connection: Brief<false>, Decode, OF_CALLS.into_iter().chain([Error]);
    a_misused_encoder_ends_at_most_its_connection: Brief<false>, Encode, OF_CALLS.into_iter().chain([Error]);
    a_misused_process_message_ends_at_most_its_connection: Brief<false>, Process, OF_FUTURES;
    a_misused_on_connect_ends_at_most_its_connection: Brief<false>, OnConnect, OF_FUTURES;
    a_misused_abortable_on_connect_ends_at_most_its_connection: Brief<true>, OnConnect, OF_FUTURES;
    a_misused_on_disconnect_ends_at_most_its_connection: Brief<false>, OnDisconnect, OF_FUTURES;
}
