//! What the workers, the nodes and the watch share.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::{
    last_words::Words,
    peer::Peer,
    plan::Kind,
    tally::{Event, Tally},
};

pub const WORKERS: usize = 24;
/// The most extra workers of a burst.
pub const EXTRA_WORKERS: usize = 16;
/// The most nodes in the pool.
pub const NODES: usize = 32;

/// The nodes in the first places of the pool are not shut down before the end, so that what grows in a node shows.
pub const VETERANS: usize = 4;

/// The most faults that are kept: the first ones tell the story.
const MAX_FAULTS: usize = 20;

pub struct World {
    pub seed: u64,
    pub began: Instant,
    pub tally: Tally,
    pool: [Mutex<Option<Peer>>; NODES],
    /// Tells the workers to end.
    stopping: AtomicBool,
    faults: Mutex<Vec<String>>,
    next_node: AtomicU32,
    next_connection: AtomicU64,
    /// How many peers there are, in the pool or not.
    pub peers: AtomicUsize,
    pub progress: [Progress; WORKERS + EXTRA_WORKERS],
    /// Last words that nobody has decided about yet.
    pub words: Words,
    /// Threads that call from outside of the runtime.
    pub threads: Mutex<Vec<JoinHandle<()>>>,
    /// How many workers have fed the digest, and what it is.
    pub digest: Mutex<(usize, u64)>,
}

impl World {
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            seed,
            began: Instant::now(),
            tally: Tally::default(),
            pool: Default::default(),
            stopping: AtomicBool::new(false),
            faults: Mutex::default(),
            next_node: AtomicU32::new(0),
            next_connection: AtomicU64::new(1),
            peers: AtomicUsize::new(0),
            progress: std::array::from_fn(|_| Progress::default()),
            words: Words::default(),
            threads: Mutex::default(),
            digest: Mutex::default(),
        })
    }

    pub fn count(&self, event: Event) {
        self.tally.add(event, 1);
    }

    /// Reports that a promise was broken.
    pub fn fault(&self, what: impl Into<String>) {
        let mut faults = self.faults.lock().unwrap();
        if faults.len() < MAX_FAULTS {
            faults.push(format!("[{:.3} s] {}", self.began.elapsed().as_secs_f64(), what.into()));
        }
    }

    pub fn check<T>(&self, result: Result<T, String>) -> Option<T> {
        result.map_err(|what| self.fault(what)).ok()
    }

    pub fn faults(&self) -> Vec<String> {
        self.faults.lock().unwrap().clone()
    }

    pub fn stop(&self) {
        self.stopping.store(true, Relaxed);
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    pub fn new_node_number(&self) -> u32 {
        self.next_node.fetch_add(1, Relaxed)
    }

    pub fn new_connection_number(&self) -> u64 {
        self.next_connection.fetch_add(1, Relaxed)
    }

    // --- the pool ---

    pub fn is_vacant(&self, place: usize) -> bool {
        self.pool[place % NODES].lock().unwrap().is_none()
    }

    /// Puts a node into a place; gives it back if that is taken.
    pub fn put(&self, place: usize, peer: Peer) -> Option<Peer> {
        let mut place = self.pool[place % NODES].lock().unwrap();
        if place.is_some() {
            return Some(peer);
        }
        *place = Some(peer);
        None
    }

    /// Takes this very node out of the pool, unless somebody else has.
    pub fn take(&self, peer: &Peer) -> Option<Peer> {
        self.pool.iter().find_map(|place| place.lock().unwrap().take_if(|other| other.is_same(peer)))
    }

    /// The node in a place, or in the next one that has one.
    pub fn find(&self, first: usize) -> Option<Peer> {
        (0..NODES).find_map(|offset| self.pool[(first + offset) % NODES].lock().unwrap().clone())
    }

    /// The next node other than this one that listens, and where.
    pub fn find_listening(&self, first: usize, other_than: &Peer) -> Option<(Peer, SocketAddr)> {
        (0..NODES).find_map(|offset| {
            let peer = self.pool[(first + offset) % NODES].lock().unwrap().clone()?;
            let addr = peer.listening_addr()?;
            (!peer.is_same(other_than)).then_some((peer, addr))
        })
    }

    pub fn take_all(&self) -> impl Iterator<Item = Peer> {
        self.pool.iter().filter_map(|place| place.lock().unwrap().take())
    }

    pub fn all(&self) -> impl Iterator<Item = Peer> {
        self.pool.iter().filter_map(|place| place.lock().unwrap().clone())
    }
}

/// One of a few addresses of the loopback interface: elsewhere than on Linux, there is one.
pub fn loopback(number: usize) -> IpAddr {
    let last = if cfg!(target_os = "linux") { (number % 4) as u8 + 1 } else { 1 };
    Ipv4Addr::new(127, 0, 0, last).into()
}

/// What a worker is doing, to be seen by the watch.
#[derive(Default)]
pub struct Progress {
    /// When the action began, in milliseconds since the beginning, plus 1; 0: there is none.
    since: AtomicU64,
    kind: AtomicU8,
    done: AtomicU64,
}

impl Progress {
    pub fn begin(&self, world: &World, kind: Kind) {
        self.kind.store(kind as u8, Relaxed);
        self.since.store(world.began.elapsed().as_millis() as u64 + 1, Relaxed);
    }

    pub fn end(&self) {
        self.since.store(0, Relaxed);
        self.done.fetch_add(1, Relaxed);
    }

    pub fn done(&self) -> u64 {
        self.done.load(Relaxed)
    }

    /// The action under way and its age.
    pub fn action(&self, world: &World) -> Option<(Kind, Duration)> {
        let since = self.since.load(Relaxed).checked_sub(1)?;
        let age = world.began.elapsed().saturating_sub(Duration::from_millis(since));
        Some((Kind::ALL[usize::from(self.kind.load(Relaxed))].0, age))
    }
}
