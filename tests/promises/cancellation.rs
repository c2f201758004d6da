//! The cancellation sweep: each public future is polled k times and dropped, for every k until it completes. After each of
//! them the counts are right, the hooks are paired, nothing is left behind, and the next call succeeds.

use std::{
    future::poll_fn,
    io::{
        self,
        ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof},
    },
    net::SocketAddr,
    pin::Pin,
    task::Poll,
};

use pea2pea::{
    Config, Node, Pea2Pea, ShuttingDown, Topology, connect_nodes,
    protocols::{Handshake, OnConnect, OnDisconnect, Reading, Writing},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    runtime::{Handle, RuntimeFlavor},
    task::yield_now,
};
use tokio_util::bytes::Bytes;

use crate::{
    common::{
        actor::{Actor, Script, Unhurried},
        in_time, local_config,
        setups::{assert_vacant, settled},
        wait_until,
    },
    hook,
};

// --- the sweep ---

/// Polls a future when it is woken, as a runtime does, until it completes or has been polled so many times.
async fn polled<F: Future>(mut future: Pin<&mut F>, mut polls: usize) -> Option<F::Output> {
    if polls == 0 {
        return None;
    }
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => {
            polls -= 1;
            if polls == 0 { Poll::Ready(None) } else { Poll::Pending }
        }
    })
    .await
}

async fn yield_times(times: usize) {
    for _ in 0..times {
        yield_now().await;
    }
}

/// What became of a future.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    /// Dropped after so many polls.
    Dropped(usize),
    Completed,
}

/// Drops a future of a fresh scene after each number of polls, at once or held for a while, and checks what is left.
async fn sweep<S>(
    scene: impl AsyncFn() -> S,
    future: impl AsyncFn(&S),
    check: impl AsyncFn(S, Fate),
    least_awaits: usize,
) {
    let metrics = Handle::current().metrics();
    let tasks = metrics.num_alive_tasks();
    for is_held in [false, true] {
        for polls in 0.. {
            assert!(polls < 100, "it never completes");
            let scene = scene().await;
            let fate = {
                let mut future = Box::pin(future(&scene));
                let completed = in_time("the polls", polled(future.as_mut(), polls)).await.is_some();
                if is_held {
                    yield_times(20).await;
                }
                if completed { Fate::Completed } else { Fate::Dropped(polls) }
            };
            println!("{fate:?}, held: {is_held}");
            check(scene, fate).await;
            wait_until("all tasks have ended", || metrics.num_alive_tasks() == tasks).await;
            if fate == Fate::Completed {
                // On many threads, what it would have to wait for may have happened already.
                let is_sure = Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread;
                assert!(polls > least_awaits || !is_sure, "it has passed fewer awaits than it should: {polls} polls");
                break;
            }
        }
    }
}

// --- the scenes ---

/// A script each of whose hooks waits a few times.
fn slow() -> Script<Unhurried> {
    Script {
        handshake: hook!(|actor, mut conn| async move {
            yield_times(2).await;
            let stream = actor.borrow_stream(&mut conn);
            stream.write_u8(1).await?;
            stream.read_u8().await?;
            yield_times(1).await;
            Ok(conn)
        }),
        process: hook!(|_actor, _source, _message| yield_times(2)),
        on_connect: hook!(|_actor, _addr| yield_times(4)),
        on_disconnect: hook!(|actor, addr, _origin| async move {
            yield_times(3).await;
            _ = actor.unicast_fast(addr, Bytes::from_static(b"farewell"));
            yield_times(3).await;
        }),
        writes: true,
        ..Default::default()
    }
}

/// Two slow actors, the second of which listens. There is room for one connection: no slot or permit may be lost.
struct Pair {
    dialler: Actor,
    acceptor: Actor,
    addr: SocketAddr,
}

impl Pair {
    async fn new() -> Self {
        let tight = || Config { max_connections: 1, max_connections_per_ip: 1, max_connecting: 1, ..local_config() };
        let dialler = Actor::new(tight(), slow()).await;
        let acceptor = Actor::new(tight(), slow()).await;
        let addr = acceptor.node().toggle_listener().await.unwrap().unwrap();
        Self { dialler, acceptor, addr }
    }

    async fn connected() -> Self {
        let pair = Self::new().await;
        pair.connect().await;
        pair
    }

    async fn connect(&self) {
        let connecting = async {
            // The acceptor's only slot may still be with a connection whose end it has not noticed yet. Anything that the
            // dialler itself has to object to is of another kind.
            while let Err(error) = self.dialler.node().connect(self.addr).await {
                let kind = error.kind();
                assert!(matches!(kind, UnexpectedEof | ConnectionReset | BrokenPipe), "{error}");
                yield_now().await;
            }
        };
        in_time("connect", connecting).await;
        settled(self.acceptor.node(), 1).await;
    }

    /// Checks that both ends agree, that all works once more, and that every connection had its two hooks.
    #[expect(deprecated, reason = "it is lossy, and has to do what it promises all the same")]
    async fn assert_sound(self) {
        let Self { dialler, acceptor, addr } = &self;
        for actor in [dialler, acceptor] {
            let (live, listed) = (actor.node().num_connected(), actor.node().connected_addrs().len());
            assert!(live <= 1 && listed <= 1);
        }
        assert_eq!(dialler.node().num_connecting(), 0);
        if !dialler.node().is_connected(*addr) {
            assert_vacant(dialler.node());
            self.connect().await;
        }
        settled(acceptor.node(), 1).await;
        let before = (dialler.received(), acceptor.received());
        dialler.broadcast(Bytes::new()).unwrap();
        acceptor.broadcast(Bytes::new()).unwrap();
        wait_until("an exchange", || dialler.received() > before.0 && acceptor.received() > before.1).await;
        self.ends().await;
    }

    /// Checks what is left of both after they have shut down.
    async fn ends(self) {
        for actor in [&self.dialler, &self.acceptor] {
            in_time("shut_down", actor.node().shut_down()).await;
            assert_vacant(actor.node());
            let begun = || (actor.begun_on_connect(), actor.begun_on_disconnect());
            wait_until("the hooks are paired", || begun().0 == begun().1).await;
        }
    }
}

// --- the futures ---

async fn connect() {
    let dial = async |pair: &Pair| {
        in_time("connect", pair.dialler.node().connect(pair.addr)).await.unwrap();
    };
    sweep(Pair::new, dial, async |pair, _| pair.assert_sound().await, 4).await;
}

async fn connect_using_socket() {
    let dial = async |pair: &Pair| {
        let socket = TcpSocket::new_v4().unwrap();
        pair.dialler.node().connect_using_socket(pair.addr, socket).await.unwrap();
    };
    sweep(Pair::new, dial, async |pair, _| pair.assert_sound().await, 4).await;
}

/// A dial is dropped while the node that it dials shuts down.
async fn connect_to_a_node_that_shuts_down() {
    let dial = async |pair: &Pair| {
        let acceptor = pair.acceptor.node().clone();
        tokio::spawn(async move { acceptor.shut_down().await });
        // It depends on how far the shutdown is.
        _ = in_time("connect", pair.dialler.node().connect(pair.addr)).await;
    };
    let check = async |pair: Pair, _| {
        in_time("shut_down", pair.acceptor.node().shut_down()).await;
        assert_vacant(pair.acceptor.node());
        settled(pair.dialler.node(), 0).await;
        pair.ends().await;
    };
    sweep(Pair::new, dial, check, 2).await;
}

async fn disconnect() {
    let disconnect = async |pair: &Pair| {
        for _ in 0..3 {
            pair.dialler.unicast_fast(pair.addr, Bytes::from_static(b"queued")).unwrap();
        }
        assert!(pair.dialler.node().disconnect(pair.addr).await);
    };
    let check = async |pair: Pair, fate| {
        let node = pair.dialler.node();
        assert_eq!(node.is_connected(pair.addr), fate == Fate::Dropped(0));
        assert_eq!(pair.dialler.begun_on_disconnect(), usize::from(fate != Fate::Dropped(0)));
        assert_eq!(in_time("disconnect", node.disconnect(pair.addr)).await, fate == Fate::Dropped(0));
        settled(pair.acceptor.node(), 0).await;
        pair.assert_sound().await;
    };
    sweep(Pair::connected, disconnect, check, 3).await;
}

async fn disconnect_by_the_acceptor() {
    let disconnect = async |pair: &Pair| {
        assert!(pair.acceptor.node().disconnect(pair.acceptor.node().connected_addrs()[0]).await);
    };
    let check = async |pair: Pair, fate| {
        if fate != Fate::Dropped(0) {
            assert_vacant(pair.acceptor.node());
            settled(pair.dialler.node(), 0).await;
        }
        pair.assert_sound().await;
    };
    sweep(Pair::connected, disconnect, check, 3).await;
}

async fn shut_down() {
    let shut_down = async |pair: &Pair| pair.acceptor.node().shut_down().await;
    let check = async |pair: Pair, fate| {
        if fate == Fate::Dropped(0) {
            return pair.assert_sound().await;
        }
        // What it was ending is gone at once, and the gate is shut.
        assert_vacant(pair.acceptor.node());
        assert_eq!(pair.acceptor.begun_on_disconnect(), 1);
        let error = in_time("a dial", pair.acceptor.node().connect(pair.addr)).await.unwrap_err();
        assert!(ShuttingDown::caused(&error) || error.kind() == io::ErrorKind::AddrInUse, "{error}");
        in_time("a second shut_down", pair.acceptor.node().shut_down()).await;
        let refused = TcpStream::connect(pair.addr).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        pair.ends().await;
    };
    sweep(Pair::connected, shut_down, check, 3).await;
}

/// A shutdown is dropped while a setup and a disconnect are in flight too.
async fn shut_down_in_the_middle() {
    let scene = async || {
        let pair = Pair::connected().await;
        let node = pair.dialler.node().clone();
        let addr = pair.addr;
        tokio::spawn(async move { node.disconnect(addr).await });
        yield_now().await;
        pair
    };
    let shut_down = async |pair: &Pair| {
        tokio::join!(pair.dialler.node().shut_down(), pair.acceptor.node().shut_down());
    };
    sweep(scene, shut_down, async |pair, _| pair.ends().await, 3).await;
}

async fn toggle_on() {
    let scene = async || Actor::dialling(slow()).await;
    let toggle = async |actor: &Actor| _ = actor.node().toggle_listener().await.unwrap().unwrap();
    sweep(scene, toggle, async |actor, _| listens_when_told(actor).await, 0).await;
}

async fn toggle_off() {
    let scene = async || Actor::listening(slow()).await.0;
    let toggle = async |actor: &Actor| assert_eq!(actor.node().toggle_listener().await.unwrap(), None);
    let check = async |actor: Actor, fate| {
        if fate != Fate::Dropped(0) {
            // It does not wait for the task that accepts: begun is done.
            assert!(actor.node().listening_addr().await.is_err());
            assert!(in_time("toggle", actor.node().toggle_listener()).await.unwrap().is_some());
        }
        listens_when_told(actor).await;
    };
    sweep(scene, toggle, check, 0).await;
}

/// Two calls at once: the second finds what the first has done.
async fn toggle_behind_another() {
    let scene = async || Actor::listening(slow()).await.0;
    let toggles = async |actor: &Actor| {
        let (off, on) = tokio::join!(actor.node().toggle_listener(), actor.node().toggle_listener());
        assert!(off.unwrap().is_none() && on.unwrap().is_some());
    };
    sweep(scene, toggles, async |actor, _| listens_when_told(actor).await, 0).await;
}

/// Checks that listening can be switched on, after switching it off if need be, and that a dial then succeeds.
async fn listens_when_told(actor: Actor) {
    let mut toggled = None;
    for _ in 0..2 {
        if toggled.is_none() {
            toggled = in_time("toggle", actor.node().toggle_listener()).await.unwrap();
        }
    }
    let addr = toggled.expect("off, then on");
    assert_eq!(actor.node().listening_addr().await.unwrap(), addr);
    settled(actor.node(), 0).await;
    let dialler = Actor::dialling(slow()).await;
    in_time("connect", dialler.node().connect(addr)).await.unwrap();
    settled(actor.node(), 1).await;
    Pair { dialler, acceptor: actor, addr }.ends().await;
}

async fn listening_addr() {
    let scene = async || Actor::listening(slow()).await.0;
    let ask = async |actor: &Actor| _ = actor.node().listening_addr().await.unwrap();
    sweep(scene, ask, async |actor, _| listens_when_told(actor).await, 0).await;
}

async fn connect_nodes_in_a_mesh() {
    const NODES: usize = 3;

    let scene = async || {
        let mut actors = Vec::new();
        for _ in 0..NODES {
            actors.push(Actor::listening(slow()).await.0);
        }
        actors
    };
    let mesh = async |actors: &Vec<Actor>| connect_nodes(actors, Topology::Mesh).await.unwrap();
    let check = async |actors: Vec<Actor>, _| {
        let nodes: Vec<&Node> = actors.iter().map(Pea2Pea::node).collect();
        let mut missing = 0;
        for (from, to) in [(0, 1), (0, 2), (1, 2)] {
            let addr = nodes[to].listening_addr().await.unwrap();
            assert!(!nodes[from].is_connecting(addr));
            if !nodes[from].is_connected(addr) {
                missing += 1;
                in_time("the missing edge", nodes[from].connect(addr)).await.unwrap();
            }
        }
        assert!(missing <= NODES);
        for actor in &actors {
            settled(actor.node(), NODES - 1).await;
        }
        for actor in &actors {
            in_time("shut_down", actor.node().shut_down()).await;
            assert_vacant(actor.node());
        }
        for actor in &actors {
            let begun = || (actor.begun_on_connect(), actor.begun_on_disconnect());
            wait_until("the hooks are paired", || begun().0 == begun().1).await;
        }
    };
    sweep(scene, mesh, check, 12).await;
}

#[expect(deprecated, reason = "it is lossy, and has to do what it promises all the same")]
async fn enabling() {
    let scene = async || Actor::<Unhurried>::dialling(Script::default()).await;
    let enable = async |actor: &Actor| {
        actor.enable_handshake().await;
        actor.enable_reading().await;
        actor.enable_writing().await;
        actor.enable_on_connect().await;
        actor.enable_on_disconnect().await;
    };
    let check = async |actor: Actor, fate| {
        if fate == Fate::Dropped(0) {
            enable(&actor).await;
        }
        assert_eq!(actor.broadcast(Bytes::new()).map_err(|error| error.kind()), Ok(()));
        in_time("shut_down", actor.node().shut_down()).await;
    };
    sweep(scene, enable, check, 0).await;
}

macro_rules! sweeps {
    ($($future:ident)*) => {
        mod on_one_thread {
            $(#[tokio::test(crate = "crate::ledger")]
            async fn $future() {
                super::$future().await;
            })*
        }

        mod on_many_threads {
            $(#[tokio::test(crate = "crate::ledger", flavor = "multi_thread", worker_threads = 2)]
            async fn $future() {
                for _ in 0..3 {
                    super::$future().await;
                }
            })*
        }
    };
}

sweeps! {
    connect
    connect_using_socket
    connect_to_a_node_that_shuts_down
    disconnect
    disconnect_by_the_acceptor
    shut_down
    shut_down_in_the_middle
    toggle_on
    toggle_off
    toggle_behind_another
    listening_addr
    connect_nodes_in_a_mesh
    enabling
}
