//! Two nodes and one connection; and one node alone.

use std::{net::SocketAddr, time::Instant};

use tokio::sync::mpsc;
use tokio_util::bytes::Bytes;

use super::{Duty, Peer};
use crate::workloads::{
    cpu,
    rally::Rally,
    workload::{Answered, Sample, micros, percentile},
};

async fn connected(near: Duty, far: Duty) -> (Peer, Peer, SocketAddr) {
    let (near, far) = (Peer::new(near).await, Peer::new(far).await);
    let addr = far.listen().await;
    near.connect(&far, addr).await;
    (near, far, addr)
}

async fn shut_down(peers: [Peer; 2]) {
    for peer in peers {
        peer.node.shut_down().await;
    }
}

pub async fn one_way(size: usize, messages: u64) -> Sample {
    let (near, far, addr) = connected(Duty::Echo, Duty::Count(Default::default())).await;
    let payload = Bytes::from(vec![7; size]);
    let warm_up = messages.div_ceil(10);
    far.tally().expect(warm_up);
    near.send_all(addr, &payload, warm_up).await;
    far.tally().reached().await;

    far.tally().expect(messages);
    let (start, cpu) = (Instant::now(), cpu::Stopwatch::start());
    near.send_all(addr, &payload, messages).await;
    far.tally().reached().await;
    let sample = vec![messages as f64 / start.elapsed().as_secs_f64(), cpu.micros_per(messages)];
    shut_down([near, far]).await;
    sample
}

pub async fn ping_pong(size: usize, round_trips: usize, answered: Answered) -> Sample {
    let payload = Bytes::from(vec![7; size]);
    let warm_up = round_trips.div_ceil(10);
    let mut times = match answered {
        Answered::InPlace => {
            let rally = Duty::Rally(Rally::new(warm_up + round_trips));
            let (near, far, addr) = connected(rally, Duty::Echo).await;
            let Duty::Rally(rally) = &*near.duty else { unreachable!("it was just made so") };
            near.send(addr, &payload).await;
            let times = rally.times(warm_up).await;
            shut_down([near, far]).await;
            times
        }
        Answered::ByTask => {
            let (arrived, mut arrivals) = mpsc::unbounded_channel();
            let (near, far, addr) = connected(Duty::Tell(arrived), Duty::Echo).await;
            let mut times = Vec::with_capacity(round_trips);
            for trip in 0..warm_up + round_trips {
                let start = Instant::now();
                near.send(addr, &payload).await;
                arrivals.recv().await.expect("an echo");
                if trip >= warm_up {
                    times.push(micros(start.elapsed()));
                }
            }
            shut_down([near, far]).await;
            times
        }
    };
    vec![percentile(&mut times, 0.5), percentile(&mut times, 0.99)]
}

pub async fn churn(connections: usize) -> Sample {
    let (near, far) = (Peer::counting().await, Peer::counting().await);
    let addr = far.listen().await;
    let connect_and_end = async || {
        near.node.connect(addr).await.expect("a listener");
        assert!(near.node.disconnect(addr).await, "it was connected");
    };
    for _ in 0..connections.div_ceil(10) {
        connect_and_end().await;
    }
    let (start, cpu) = (Instant::now(), cpu::Stopwatch::start());
    for _ in 0..connections {
        connect_and_end().await;
    }
    let sample = vec![connections as f64 / start.elapsed().as_secs_f64(), cpu.micros_per(connections as u64)];
    shut_down([near, far]).await;
    sample
}

pub async fn up_down(nodes: usize) -> Sample {
    let up_and_down = async || {
        let peer = Peer::counting().await;
        peer.listen().await;
        peer.node.shut_down().await;
    };
    for _ in 0..nodes.div_ceil(10) {
        up_and_down().await;
    }
    let start = Instant::now();
    for _ in 0..nodes {
        up_and_down().await;
    }
    vec![micros(start.elapsed()) / nodes as f64]
}
