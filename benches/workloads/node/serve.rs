//! A node that answers.

use super::{Duty, Peer};
use crate::workloads::{served::Served, workload::runtime};

pub fn serve(workers: usize) -> Served {
    let runtime = runtime(workers);
    let peer = runtime.block_on(Peer::new(Duty::Answer));
    let addr = runtime.block_on(peer.listen());
    let node = peer.node.clone();
    Served {
        addr,
        runtime,
        num_connected: Box::new(move || node.num_connected()),
        stop: Box::pin(async move { peer.node.shut_down().await }),
    }
}
