//! The rows of each question, with counts that take about a second (full) or a fraction of it (quick) per run.

use std::fs;

use super::{
    settings::Settings,
    workload::{Answered, Seat, Workload},
};

/// One-way messages per second, and the CPU time of each.
pub fn throughput(settings: &Settings) -> Vec<Workload> {
    let sizes = [(16, 2_000_000), (256, 1_500_000), (4 << 10, 250_000), (64 << 10, 25_000), (1 << 20, 1_500)];
    let one_way = |(size, messages)| Workload::OneWay { size, messages: count(settings, messages, 3) };
    sizes.map(one_way).to_vec()
}

/// How long one message takes, and how long others take beside a flood.
pub fn latency(settings: &Settings) -> Vec<Workload> {
    let round_trips = count(settings, 30_000, 3) as usize;
    vec![
        Workload::PingPong { size: 64, round_trips, answered: Answered::InPlace },
        Workload::PingPong { size: 64, round_trips, answered: Answered::ByTask },
        Workload::Relay { nodes: 50, size: 64, journeys: count(settings, 2_000, 3) as usize },
        Workload::Fairness { honest: 20, requests_each: count(settings, 1_000, 5) as usize },
    ]
}

/// What a connection and a node cost to set up and to end.
pub fn setup(settings: &Settings) -> Vec<Workload> {
    vec![
        Workload::Churn { connections: count(settings, 4_000, 3) as usize },
        Workload::UpDown { nodes: count(settings, 4_000, 3) as usize },
    ]
}

/// What is held by connections and nodes that do nothing.
pub fn memory(_: &Settings) -> Vec<Workload> {
    vec![Workload::IdlePairs { pairs: 200 }, Workload::IdleNodes { nodes: 50 }]
}

/// Many to one, and one to many.
pub fn fan(settings: &Settings) -> Vec<Workload> {
    let messages_each = count(settings, 6_000, 3);
    let fan_out = |sender| Workload::FanOut { receivers: 100, size: 1 << 10, messages_each: messages_each / 2, sender };
    vec![Workload::FanIn { senders: 50, size: 1 << 10, messages_each }, fan_out(Seat::Worker), fan_out(Seat::Main)]
}

/// What a message costs among many live connections.
pub fn scale(settings: &Settings) -> Vec<Workload> {
    let many = most_connections().min(8_000);
    vec![Workload::Crowd { few: 10, many, busy: 10, messages: count(settings, 1_000_000, 4) as usize }]
}

/// All rows, in the order of the questions.
pub fn everything(settings: &Settings) -> Vec<Workload> {
    [throughput, latency, setup, memory, fan, scale].iter().flat_map(|question| question(settings)).collect()
}

fn count(settings: &Settings, full: u64, quick_divisor: u64) -> u64 {
    if settings.quick { full / quick_divisor } else { full }
}

/// Returns how many connections this process may have with both ends in it.
fn most_connections() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    // What every system grants, where it cannot be asked.
    soft.unwrap_or(1_024).saturating_sub(RESERVED_FILES) / 2
}

/// Files that are no ends of the connections: the listeners, the runtimes' own, and what the shell leaves open.
const RESERVED_FILES: usize = 500;
