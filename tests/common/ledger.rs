//! The leak ledger: after each integration test tasks, threads, file descriptors and heap are what they were before it.
//!
//! `#[tokio::test(crate = "ledger")]` leads a test through here: the attribute builds its runtime with the `runtime::Builder`
//! of the crate that it is given, and takes this module for one. A plain `#[test]` calls [`check`].
//!
//! - Tasks: when the body of a test has returned, its nodes ([`nodes`]) are shut down, and then no task of its runtime may
//!   be left. That is checked in each run.
//! - Threads, file descriptors and heap belong to the process: they are compared, the heap to the byte, when the test has the
//!   process to itself, which `LEAK_LEDGER=1` says. `tests/ledger.rs` runs each test of each binary in that way:
//!   `cargo test --test ledger -- --ignored --nocapture`. What a process allocates once and keeps is allocated before
//!   the ledger is opened ([`warm_up`]), and what this thread keeps for reuse is taken from it before each of the two looks
//!   ([`empty_caches`]). The runtime of the test is built and dropped in between.

#![allow(dead_code, unreachable_pub, unused_imports, reason = "each test file uses the part it needs")]

use std::{
    env, fs,
    future::Future,
    io, mem,
    net::SocketAddr,
    panic::catch_unwind,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use pea2pea::{
    Config, ConnectionSide, Node, Pea2Pea,
    protocols::{Reading, Writing},
};
pub use tokio::pin;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    runtime::Handle,
    sync::Notify,
};
use tokio_util::{
    bytes::{Bytes, BytesMut},
    codec::Decoder,
};
use tracing::subscriber::NoSubscriber;

use crate::{
    common::{
        DELIBERATE, PATIENCE,
        actor::{Actor, Script, Unhurried, silent},
        in_time, keep_deliberate_panics_quiet, local_config,
        nodes::Nodes,
        wait_until, wire,
    },
    hook,
};

#[path = "heap.rs"]
pub mod heap;

/// Printed when everything is as before.
pub const BALANCED: &str = "the ledger is balanced";

/// How long something may take to be gone: what does not leak takes next to nothing.
const SETTLING_TIME: Duration = PATIENCE.checked_div(10).unwrap();

/// Where `#[tokio::test]` looks for it.
pub mod runtime {
    pub use super::Builder;
}

/// What `#[tokio::test]` calls of tokio's builder.
#[derive(Debug)]
pub struct Builder {
    builder: tokio::runtime::Builder,
    nodes: Nodes,
}

impl Builder {
    pub fn new_current_thread() -> Self {
        Self::of(tokio::runtime::Builder::new_current_thread())
    }

    pub fn new_multi_thread() -> Self {
        Self::of(tokio::runtime::Builder::new_multi_thread())
    }

    fn of(mut builder: tokio::runtime::Builder) -> Self {
        let nodes = Nodes::default();
        let listed = nodes.clone();
        builder.on_thread_start(move || listed.enter());
        Self { builder, nodes }
    }

    pub fn worker_threads(mut self, threads: usize) -> Self {
        self.builder.worker_threads(threads);
        self
    }

    pub fn start_paused(mut self, start_paused: bool) -> Self {
        self.builder.start_paused(start_paused);
        self
    }

    pub fn enable_all(mut self) -> Self {
        self.builder.enable_all();
        self
    }

    /// The runtime itself is built when the ledger is open.
    pub fn build(self) -> io::Result<Runtime> {
        Ok(Runtime(self))
    }
}

/// What `#[tokio::test]` calls of tokio's runtime.
#[derive(Debug)]
pub struct Runtime(Builder);

impl Runtime {
    /// Runs the body of a test, and checks what is left of it.
    pub fn block_on<F: Future>(self, body: F) -> F::Output {
        let Builder { mut builder, nodes } = self.0;
        check(|| {
            let runtime = builder.build().unwrap();
            nodes.enter();
            let output = runtime.block_on(async {
                let output = body.await;
                shut_down(&nodes).await;
                assert_no_task_is_left(&nodes).await;
                output
            });
            Nodes::leave();
            output
        })
    }
}

/// Shuts down the nodes that the test has made, whatever state it has left them in.
async fn shut_down(nodes: &Nodes) {
    let nodes = nodes.take();
    in_time("the shutdown of the test's nodes", join_all(nodes.iter().map(|node| node.shut_down()))).await;
}

async fn assert_no_task_is_left(nodes: &Nodes) {
    if nodes.has_orphan() {
        return;
    }
    let (metrics, ended) = (Handle::current().metrics(), Instant::now());
    while metrics.num_alive_tasks() > 0 {
        assert!(ended.elapsed() < SETTLING_TIME, "the test has left {} tasks", metrics.num_alive_tasks());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Runs the body of a test without a runtime of the ledger's, or with its own, and checks what is left of it.
pub fn check<T>(body: impl FnOnce() -> T) -> T {
    if env::var_os("LEAK_LEDGER").is_none() {
        return body();
    }
    let threads = num_threads();
    warm_up();
    empty_caches();
    // A thread that has been joined is still listed for a moment.
    wait_for("the ends of the warm-up's threads", || num_threads() <= threads);
    let before = InUse::now();
    let output = body();
    empty_caches();
    before.assert_is_restored();
    output
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < SETTLING_TIME, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// What the process has in use.
#[derive(Debug)]
struct InUse {
    threads: usize,
    files: Vec<String>,
    heap: usize,
}

impl InUse {
    fn now() -> Self {
        let files = open_files();
        // With the list of files, which is kept.
        Self { threads: num_threads(), files, heap: heap::in_use() }
    }

    fn assert_is_restored(&self) {
        let ended = Instant::now();
        loop {
            let (heap, threads, files) = (heap::in_use(), num_threads(), open_files());
            if (heap, threads, &files) == (self.heap, self.threads, &self.files) {
                return println!("{BALANCED}");
            }
            assert!(
                ended.elapsed() < SETTLING_TIME,
                "the test has left {} bytes of heap, {} threads, {} files: {:?}",
                heap.wrapping_sub(self.heap).cast_signed(),
                threads.wrapping_sub(self.threads).cast_signed(),
                files.len().wrapping_sub(self.files.len()).cast_signed(),
                files.iter().filter(|file| !self.files.contains(file)).collect::<Vec<_>>(),
            );
            drop(files);
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn num_threads() -> usize {
    fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

/// What the file descriptors stand for, this look at them included. Only Linux shows that; elsewhere heap and tasks have to do.
fn open_files() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return Vec::new() };
    let links = entries.map(|entry| fs::read_link(entry.unwrap().path()));
    let mut files: Vec<_> = links.map(|link| link.unwrap().display().to_string()).collect();
    files.sort_unstable();
    files
}

// --- what a process allocates once ---

/// More than any test has: the table of `parking_lot` grows with the number of threads that wait, and keeps its former selves.
const THREADS: usize = 32;

/// Has the process allocate what it allocates once and keeps.
fn warm_up() {
    keep_deliberate_panics_quiet();
    catch_unwind(|| panic!("{DELIBERATE}")).unwrap_err();
    wire::make_noise();
    park_threads();
    for builder in [tokio::runtime::Builder::new_current_thread, tokio::runtime::Builder::new_multi_thread] {
        builder().worker_threads(2).enable_all().build().unwrap().block_on(async {
            for is_wrapped in [false, true] {
                lives_of_nodes(is_wrapped).await;
            }
            tokio::task::spawn_blocking(|| ()).await.unwrap();
        });
    }
}

fn park_threads() {
    let (waiting, all) = (parking_lot::Mutex::new(0), parking_lot::Condvar::new());
    let wait = || {
        let mut waiting = waiting.lock();
        *waiting += 1;
        all.notify_all();
        all.wait_while(&mut waiting, |waiting| *waiting < THREADS);
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(wait)).collect();
        // Left to itself the scope waits for what they do, not for their ends.
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

/// Two nodes with all five protocols meet, exchange messages, and part.
async fn lives_of_nodes(is_wrapped: bool) {
    let script = || Script::<Unhurried> {
        handshake: hook!(|actor, mut conn| async move {
            use pea2pea::protocols::Handshake;
            let mut stream = actor.take_stream(&mut conn);
            stream.write_u8(1).await?;
            stream.read_u8().await?;
            if is_wrapped {
                let (reader, writer) = stream.into_split();
                actor.return_stream(&mut conn, tokio::io::join(reader, writer));
            } else {
                actor.return_stream(&mut conn, stream);
            }
            Ok(conn)
        }),
        process: silent(),
        on_connect: silent(),
        on_disconnect: silent(),
        writes: true,
        ..Default::default()
    };
    let (acceptor, dialler) = (Actor::new(named(), script()).await, Actor::new(named(), script()).await);
    let addr = acceptor.node().toggle_listener().await.unwrap().unwrap();
    dialler.node().connect(addr).await.unwrap();
    let back = acceptor.only_peer().await;
    for size in [0, 10, 100_000] {
        acceptor.unicast(back, Bytes::from(vec![0; size])).unwrap().await.unwrap().unwrap();
        dialler.unicast(addr, Bytes::from(vec![0; size])).unwrap().await.unwrap().unwrap();
    }
    wait_until("all are received", || (dialler.received(), acceptor.received()) == (3, 3)).await;
    assert!(dialler.node().disconnect(addr).await);
    for node in [dialler.node(), acceptor.node()] {
        node.shut_down().await;
    }
}

// --- what a thread keeps for reuse ---

/// Takes from this thread, and from the process, what they keep for reuse and what depends on who has used it last.
fn empty_caches() {
    // The list of subscribers loses those that are no more when one is added.
    tracing::subscriber::with_default(NoSubscriber::new(), || ());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let thief = Thief { node: Node::new(named()), has_stolen: Arc::default() };
        thief.enable_reading().await;
        let addr = thief.node.toggle_listener().await.unwrap().unwrap();
        let mut peer = tokio::net::TcpStream::connect(addr).await.unwrap();
        peer.write_u8(1).await.unwrap();
        in_time("the theft", thief.has_stolen.notified()).await;
        thief.node.shut_down().await;
    });
}

/// A node that reads, as all do, into the spare buffer of the thread, does not give it back, and reads no more.
#[derive(Clone)]
struct Thief {
    node: Node,
    has_stolen: Arc<Notify>,
}

impl Pea2Pea for Thief {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Reading for Thief {
    type Message = ();
    type Codec = Self;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self {
        self.clone()
    }

    async fn process_message(&self, _source: SocketAddr, (): ()) {}
}

impl Decoder for Thief {
    type Item = ();
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<()>> {
        drop(mem::take(src));
        self.has_stolen.notify_one();
        Err(io::ErrorKind::Other.into())
    }
}

/// The configuration of a node that takes no number: nodes without a name are numbered.
fn named() -> Config {
    Config { name: Some("of the ledger".into()), ..local_config() }
}
