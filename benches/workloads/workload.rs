//! What the contenders do, and which figures come out of it.

use std::{fmt, future::Future, time::Duration};

use tokio::runtime::{Builder, Runtime};

/// One thing to do, with its counts. The sizes are bytes of payload.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Workload {
    /// One sender queues messages as fast as the connection takes them; one receiver counts them.
    OneWay { size: usize, messages: u64 },
    /// One message goes back and forth.
    PingPong { size: usize, round_trips: usize, answered: Answered },
    /// One connection after another is made and ended.
    Churn { connections: usize },
    /// Connections that do nothing, before and after some traffic.
    IdlePairs { pairs: usize },
    /// Nodes that listen, with five protocols and no connection.
    IdleNodes { nodes: usize },
    /// Many send to one.
    FanIn { senders: usize, size: usize, messages_each: u64 },
    /// One sends to many.
    FanOut { receivers: usize, size: usize, messages_each: u64, sender: Seat },
    /// A message is handed along a line of nodes.
    Relay { nodes: usize, size: usize, journeys: usize },
    /// A node is made, gets five protocols and a listener, and is shut down.
    UpDown { nodes: usize },
    /// A few connections are busy while others only exist.
    Crowd { few: usize, many: usize, busy: usize, messages: usize },
    /// Honest peers ask and wait for the answer while another one floods the node.
    Fairness { honest: usize, requests_each: usize },
}

/// Who goes on when the answer to a ping has come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Answered {
    /// The code that was handed the message.
    InPlace,
    /// Another task, which has been waiting for it.
    ByTask,
}

/// Where a sender runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Seat {
    /// As a task of the runtime.
    Worker,
    /// In the `block_on` of the main thread, as `main` under `#[tokio::main]` does.
    Main,
}

/// The figures of one run, in the order of [`Workload::figures`]; NaN for what could not be measured here.
pub type Sample = Vec<f64>;

/// One figure of a workload: a row of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// What it is.
    pub name: String,
    /// What it is counted in.
    pub unit: &'static str,
    /// Whether more of it is better.
    pub more_is_better: bool,
}

/// Something that can be given workloads.
#[derive(Clone, Copy, Debug)]
pub struct Contender {
    /// The name in the tables.
    pub name: &'static str,
    /// Runs a workload on so many worker threads; `None` for what the contender does not do.
    pub run: fn(&Workload, usize) -> Option<Sample>,
}

impl Workload {
    /// Returns the figures that a run gives.
    pub fn figures(&self) -> Vec<Figure> {
        let more = |name: &str, unit| Figure { name: format!("{self}{name}"), unit, more_is_better: true };
        let less = |name: &str, unit| Figure { name: format!("{self}{name}"), unit, more_is_better: false };
        match *self {
            Self::OneWay { .. } => vec![more("", "messages/s"), less(": CPU per message", "µs")],
            Self::PingPong { .. } => vec![less(": p50", "µs"), less(": p99", "µs")],
            Self::Churn { .. } => vec![more("", "connections/s"), less(": CPU per connection", "µs")],
            Self::IdlePairs { .. } => {
                vec![less(", before traffic", "bytes"), less(", after traffic", "bytes")]
            }
            Self::IdleNodes { .. } => vec![less("", "bytes")],
            Self::FanIn { .. } | Self::FanOut { .. } => {
                vec![more("", "messages/s"), less(": CPU per message", "µs")]
            }
            Self::Relay { .. } => vec![less("", "µs")],
            Self::UpDown { .. } => vec![less("", "µs")],
            Self::Crowd { few, many, .. } => vec![
                less(&format!(", {few} live"), "µs"),
                less(&format!(", {many} live"), "µs"),
                less(&format!(", {few} -> {many} live: growth"), "x"),
                less(&format!(", {few} -> {many} live: growth of CPU"), "x"),
            ],
            Self::Fairness { .. } => vec![
                less(": calm p99", "µs"),
                less(": flooded p50", "µs"),
                less(": flooded p99", "µs"),
                less(": p99, flooded / calm", "x"),
            ],
        }
    }

    /// Returns whether what is measured is memory: the same in every round, and blind to how busy the machine is.
    pub fn is_memory(&self) -> bool {
        matches!(self, Self::IdlePairs { .. } | Self::IdleNodes { .. })
    }

    /// Bounds a run: no contender takes this long on a machine that works.
    pub const TIME_LIMIT: Duration = Duration::from_secs(120);
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::OneWay { size, .. } => write!(f, "one-way {}", Bytes(size)),
            Self::PingPong { size, answered: Answered::InPlace, .. } => write!(f, "ping-pong {}", Bytes(size)),
            Self::PingPong { size, answered: Answered::ByTask, .. } => {
                write!(f, "ping-pong {}, awaited by a task", Bytes(size))
            }
            Self::Churn { .. } => write!(f, "connect + disconnect"),
            Self::IdlePairs { .. } => write!(f, "heap per idle pair"),
            Self::IdleNodes { .. } => write!(f, "heap per listening node"),
            Self::FanIn { senders, size, .. } => write!(f, "fan-in {senders} -> 1, {}", Bytes(size)),
            Self::FanOut { receivers, size, sender: Seat::Worker, .. } => {
                write!(f, "fan-out 1 -> {receivers}, {}", Bytes(size))
            }
            Self::FanOut { receivers, size, sender: Seat::Main, .. } => {
                write!(f, "fan-out 1 -> {receivers}, {}, from main", Bytes(size))
            }
            Self::Relay { nodes, .. } => write!(f, "relay along {nodes} nodes, per hop"),
            Self::UpDown { .. } => write!(f, "node up + down"),
            Self::Crowd { .. } => write!(f, "time per message"),
            Self::Fairness { honest, .. } => write!(f, "reply to one of {honest}"),
        }
    }
}

/// A size as people write it.
struct Bytes(usize);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            size if size >= 1 << 20 => write!(f, "{} MiB", size >> 20),
            size if size >= 1 << 10 => write!(f, "{} KiB", size >> 10),
            size => write!(f, "{size} B"),
        }
    }
}

/// Makes the runtime of a contender.
pub fn runtime(workers: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(workers).enable_all().build().expect("a runtime")
}

/// Runs a future as a task of a new runtime, so that it runs on a worker thread and not beside them.
pub fn on_workers<F>(workers: usize, future: F) -> F::Output
where
    F: Future<Output: Send> + Send + 'static,
{
    seated(workers, Seat::Worker, future)
}

/// Runs a future on a new runtime, in the given place.
pub fn seated<F>(workers: usize, seat: Seat, future: F) -> F::Output
where
    F: Future<Output: Send> + Send + 'static,
{
    let runtime = runtime(workers);
    match seat {
        Seat::Main => runtime.block_on(future),
        Seat::Worker => {
            let task = runtime.spawn(future);
            runtime.block_on(task).expect("the workload does not panic")
        }
    }
}

/// Returns the value below which the given share of the values lies.
pub fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * share).round() as usize]
}

pub fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// The traffic that an idle pair sees, in either direction: enough to have used every buffer.
pub const IDLE_TRAFFIC: u64 = 50;

/// The size of a message of that traffic.
pub const IDLE_TRAFFIC_SIZE: usize = 1_000;

/// Of every listener: an accept loop that a busy machine holds up must not cost a dial the second until the next try.
pub const BACKLOG: u32 = 4_096;
