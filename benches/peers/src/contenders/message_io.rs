//! message-io, by its README: `node::split`, `Transport::FramedTcp`, work done in the callback.
//!
//! It has threads of its own instead of a runtime, one per node for the network; the number of workers does not reach it. A
//! send does not queue but writes, and spins while the socket is full.

use std::{
    fs,
    net::SocketAddr,
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use message_io::{
    network::{Endpoint, NetEvent, SendStatus, Transport},
    node::{self, NodeHandler, NodeTask},
};
use nix::sys::socket::{setsockopt, sockopt::TcpNoDelay};

use crate::workloads::{
    cpu, heap,
    workload::{Answered, Contender, IDLE_TRAFFIC, IDLE_TRAFFIC_SIZE, Sample, Workload, micros, percentile},
};

pub const CONTENDER: Contender = Contender { name: "message-io", run };

fn run(workload: &Workload, _: usize) -> Option<Sample> {
    Some(match *workload {
        Workload::OneWay { size, messages } => one_way(size, messages),
        Workload::PingPong { size, round_trips, answered } => ping_pong(size, round_trips, answered),
        Workload::Churn { connections } => churn(connections),
        Workload::IdlePairs { pairs } => idle(pairs),
        Workload::FanIn { senders, size, messages_each } => fan_in(senders, size, messages_each),
        Workload::FanOut { receivers, size, messages_each, .. } => fan_out(receivers, size, messages_each),
        _ => return None,
    })
}

/// A node that listens.
struct Node {
    handler: NodeHandler<()>,
    addr: SocketAddr,
    connected: Receiver<Endpoint>,
    accepted: Receiver<Endpoint>,
    gone: Receiver<Endpoint>,
    /// Joined when it is dropped, so after the handler has stopped it.
    _task: NodeTask,
}

impl Node {
    fn new(mut on_message: impl FnMut(&NodeHandler<()>, Endpoint, &[u8]) + Send + 'static) -> Self {
        let (handler, listener) = node::split::<()>();
        let (_, addr) = handler.network().listen(Transport::FramedTcp, "127.0.0.1:0").expect("a port");
        let (connects, connected) = channel();
        let (accepts, accepted) = channel();
        let (goes, gone) = channel();
        let own = handler.clone();
        // The receivers are gone when nobody asks any more.
        let task = listener.for_each_async(move |event| match event.network() {
            NetEvent::Connected(endpoint, established) => {
                assert!(established, "a listener");
                _ = connects.send(endpoint);
            }
            NetEvent::Accepted(endpoint, _) => _ = accepts.send(endpoint),
            NetEvent::Message(endpoint, data) => on_message(&own, endpoint, data),
            NetEvent::Disconnected(endpoint) => _ = goes.send(endpoint),
        });
        Self { handler, addr, connected, accepted, gone, _task: task }
    }

    /// A node that counts what it gets, and reports when it has had so many, and so many more.
    fn counting(goals: [u64; 2]) -> (Self, Receiver<()>) {
        let (reached, marks) = channel();
        let mut count = 0;
        let count_one = move |_: &NodeHandler<()>, _: Endpoint, _: &[u8]| {
            count += 1;
            if count == goals[0] || count == goals[0] + goals[1] {
                _ = reached.send(());
            }
        };
        (Self::new(count_one), marks)
    }

    /// Connects, but does not wait for the other end.
    fn dial(&self, to: &Self) -> Endpoint {
        self.handler.network().connect(Transport::FramedTcp, to.addr).expect("a socket");
        self.connected.recv().expect("a running node")
    }

    /// Connects; returns this end's way to the other one, and the other end's way back.
    fn connect(&self, to: &Self) -> (Endpoint, Endpoint) {
        (self.dial(to), to.accepted.recv().expect("a running node"))
    }

    fn send_all(&self, to: Endpoint, payload: &[u8], messages: u64) {
        for _ in 0..messages {
            send(&self.handler, to, payload);
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.handler.stop();
    }
}

fn send(handler: &NodeHandler<()>, to: Endpoint, payload: &[u8]) {
    assert_eq!(handler.network().send(to, payload), SendStatus::Sent);
}

/// Sets what the crate has no setting for, on every socket that this process has by now: the crate writes a message in two pieces, and the second
/// one would wait for the peer's delayed acknowledgement.
fn set_nodelay() {
    for entry in fs::read_dir("/proc/self/fd").expect("Linux") {
        let name = entry.expect("an entry").file_name();
        let descriptor = name.to_str().and_then(|name| name.parse().ok()).expect("a number");
        // Refused by what is no TCP socket.
        _ = setsockopt(descriptor, TcpNoDelay, &true);
    }
}

fn rate(messages: u64, work: impl FnOnce()) -> Sample {
    let (start, cpu) = (Instant::now(), cpu::Stopwatch::start());
    work();
    vec![messages as f64 / start.elapsed().as_secs_f64(), cpu.micros_per(messages)]
}

fn one_way(size: usize, messages: u64) -> Sample {
    let payload = vec![7; size];
    let warm_up = messages.div_ceil(10);
    let (far, marks) = Node::counting([warm_up, messages]);
    let near = Node::new(|_, _, _| {});
    let (to, _) = near.connect(&far);
    set_nodelay();
    near.send_all(to, &payload, warm_up);
    marks.recv().expect("a receiver");
    rate(messages, || {
        near.send_all(to, &payload, messages);
        marks.recv().expect("a receiver");
    })
}

fn ping_pong(size: usize, round_trips: usize, answered: Answered) -> Sample {
    let payload = vec![7; size];
    let warm_up = round_trips.div_ceil(10);
    let far = Node::new(send);
    let (arrived, arrivals) = channel();
    let mut times = match answered {
        Answered::InPlace => {
            let mut left = warm_up + round_trips;
            let mut times = Vec::with_capacity(left);
            let mut start = Instant::now();
            let near = Node::new(move |handler, from, data| {
                times.push(micros(start.elapsed()));
                left -= 1;
                start = Instant::now();
                match left {
                    0 => _ = arrived.send(times.split_off(warm_up)),
                    _ => send(handler, from, data),
                }
            });
            let (to, _) = near.connect(&far);
            set_nodelay();
            send(&near.handler, to, &payload);
            arrivals.recv().expect("an echo")
        }
        Answered::ByTask => {
            let near = Node::new(move |_, _, _| _ = arrived.send(Vec::new()));
            let (to, _) = near.connect(&far);
            set_nodelay();
            let round_trip = |_| {
                let start = Instant::now();
                send(&near.handler, to, &payload);
                arrivals.recv().expect("an echo");
                micros(start.elapsed())
            };
            (0..warm_up + round_trips).map(round_trip).skip(warm_up).collect()
        }
    };
    vec![percentile(&mut times, 0.5), percentile(&mut times, 0.99)]
}

fn churn(connections: usize) -> Sample {
    let (near, far) = (Node::new(|_, _, _| {}), Node::new(|_, _, _| {}));
    let connect_and_end = || {
        let endpoint = near.dial(&far);
        near.handler.network().remove(endpoint.resource_id());
    };
    (0..connections.div_ceil(10)).for_each(|_| connect_and_end());
    rate(connections as u64, || (0..connections).for_each(|_| connect_and_end()))
}

fn idle(pairs: usize) -> Sample {
    heap::start_counting();
    let (near, far) = (Node::new(|_, _, _| {}), Node::new(|_, _, _| {}));
    let mut ends = Vec::with_capacity(pairs);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let settled = || runtime.block_on(heap::settled());

    let mut connect_all = || {
        ends.clear();
        ends.extend((0..pairs).map(|_| near.connect(&far)));
        set_nodelay();
        ends.clone()
    };
    let exchange = |ends: &[(Endpoint, Endpoint)]| {
        for (to_far, to_near) in ends {
            near.send_all(*to_far, &[7; IDLE_TRAFFIC_SIZE], IDLE_TRAFFIC);
            far.send_all(*to_near, &[7; IDLE_TRAFFIC_SIZE], IDLE_TRAFFIC);
        }
    };
    let first = connect_all();
    exchange(&first);
    for (to_far, _) in first {
        near.handler.network().remove(to_far.resource_id());
        far.gone.recv().expect("a running node");
    }
    let base = settled();
    let second = connect_all();
    let before = settled();
    exchange(&second);
    let after = settled();
    // What the harness keeps of it is not the crate's.
    let kept = (pairs * size_of::<(Endpoint, Endpoint)>()) as i64;
    [before, after].map(|bytes| (bytes - base - kept) as f64 / pairs as f64).to_vec()
}

fn fan_in(senders: usize, size: usize, messages_each: u64) -> Sample {
    let payload = vec![7; size];
    let warm_up = messages_each.div_ceil(10);
    let messages = messages_each * senders as u64;
    let (hub, marks) = Node::counting([warm_up * senders as u64, messages]);
    let nodes: Vec<(Node, Endpoint)> = (0..senders)
        .map(|_| {
            let node = Node::new(|_, _, _| {});
            let (to, _) = node.connect(&hub);
            (node, to)
        })
        .collect();
    set_nodelay();
    nodes.iter().for_each(|(node, to)| node.send_all(*to, &payload, warm_up));
    marks.recv().expect("a receiver");
    thread::scope(|threads| {
        rate(messages, || {
            for (node, to) in &nodes {
                let handler = &node.handler;
                let payload = &payload;
                threads.spawn(move || (0..messages_each).for_each(|_| send(handler, *to, payload)));
            }
            marks.recv().expect("a receiver");
        })
    })
}

fn fan_out(receivers: usize, size: usize, messages_each: u64) -> Sample {
    let payload = vec![7; size];
    let warm_up = messages_each.div_ceil(10);
    let hub = Node::new(|_, _, _| {});
    let nodes: Vec<_> = (0..receivers)
        .map(|_| {
            let (node, marks) = Node::counting([warm_up, messages_each]);
            let (to, _) = hub.connect(&node);
            (node, marks, to)
        })
        .collect();
    set_nodelay();
    let send_all = |messages_each| {
        for _ in 0..messages_each {
            nodes.iter().for_each(|(_, _, to)| send(&hub.handler, *to, &payload));
        }
        nodes.iter().for_each(|(_, marks, _)| marks.recv_timeout(Duration::from_secs(60)).expect("a receiver"));
    };
    send_all(warm_up);
    rate(messages_each * receivers as u64, || send_all(messages_each))
}
