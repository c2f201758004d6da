//! Many nodes: to one, from one, in a line.

use std::{sync::OnceLock, time::Instant};

use tokio::sync::mpsc;
use tokio_util::bytes::Bytes;

use super::{Duty, Peer};
use crate::workloads::{
    cpu,
    workload::{Sample, micros},
};

pub async fn fan_in(senders: usize, size: usize, messages_each: u64) -> Sample {
    let payload = Bytes::from(vec![7; size]);
    let hub = Peer::counting().await;
    let addr = hub.listen().await;
    let mut peers = Vec::with_capacity(senders);
    for _ in 0..senders {
        let peer = Peer::counting().await;
        peer.connect(&hub, addr).await;
        peers.push(peer);
    }

    let warm_up = messages_each.div_ceil(10);
    hub.tally().expect(warm_up * senders as u64);
    for peer in &peers {
        peer.send_all(addr, &payload, warm_up).await;
    }
    hub.tally().reached().await;

    let messages = messages_each * senders as u64;
    hub.tally().expect(messages);
    let (start, cpu) = (Instant::now(), cpu::Stopwatch::start());
    for peer in peers.clone() {
        let payload = payload.clone();
        tokio::spawn(async move { peer.send_all(addr, &payload, messages_each).await });
    }
    hub.tally().reached().await;
    let sample = vec![messages as f64 / start.elapsed().as_secs_f64(), cpu.micros_per(messages)];
    peers.push(hub);
    shut_down(peers).await;
    sample
}

/// Queues one message to each receiver in turn.
pub async fn fan_out(receivers: usize, size: usize, messages_each: u64) -> Sample {
    let payload = Bytes::from(vec![7; size]);
    let hub = Peer::counting().await;
    let (mut peers, mut addrs) = (Vec::with_capacity(receivers + 1), Vec::with_capacity(receivers));
    for _ in 0..receivers {
        let peer = Peer::counting().await;
        let addr = peer.listen().await;
        hub.connect(&peer, addr).await;
        peers.push(peer);
        addrs.push(addr);
    }
    let mut sample = Vec::new();
    for messages_each in [messages_each.div_ceil(10), messages_each] {
        peers.iter().for_each(|peer| peer.tally().expect(messages_each));
        let (start, cpu) = (Instant::now(), cpu::Stopwatch::start());
        for _ in 0..messages_each {
            for addr in &addrs {
                hub.send(*addr, &payload).await;
            }
        }
        for peer in &peers {
            peer.tally().reached().await;
        }
        let messages = messages_each * receivers as u64;
        sample = vec![messages as f64 / start.elapsed().as_secs_f64(), cpu.micros_per(messages)];
    }
    peers.push(hub);
    shut_down(peers).await;
    sample
}

pub async fn relay(nodes: usize, size: usize, journeys: usize) -> Sample {
    let payload = Bytes::from(vec![7; size]);
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let mut next = Peer::new(Duty::Tell(arrived)).await;
    let mut line = vec![next.clone()];
    let mut addr = next.listen().await;
    for _ in 1..nodes {
        let peer = Peer::new(Duty::Forward(OnceLock::from(addr))).await;
        peer.connect(&next, addr).await;
        line.push(peer.clone());
        if line.len() < nodes {
            addr = peer.listen().await;
        }
        next = peer;
    }

    let first = next;
    let warm_up = journeys.div_ceil(10);
    let mut start = Instant::now();
    for journey in 0..warm_up + journeys {
        if journey == warm_up {
            start = Instant::now();
        }
        first.send(addr, &payload).await;
        arrivals.recv().await.expect("a line");
    }
    let sample = vec![micros(start.elapsed()) / (journeys * (nodes - 1)) as f64];
    shut_down(line).await;
    sample
}

async fn shut_down(peers: Vec<Peer>) {
    for peer in peers {
        peer.node.shut_down().await;
    }
}
