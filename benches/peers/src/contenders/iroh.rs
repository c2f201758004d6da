//! iroh, by its documentation: an endpoint with the preset for no infrastructure (no relay, no address lookup), at one port of the
//! loopback interface, dialled by key and address; QUIC as iroh sets it up, so everything is encrypted. One stream per connection,
//! and on it the same framing as over a bare socket: a write waits for as long as the stream's window is full.

use std::time::Instant;

use iroh::{
    Endpoint, EndpointAddr,
    endpoint::{Connection, RecvStream, SendStream, presets},
};

use crate::workloads::{
    cpu, heap,
    raw::{many, pair},
    workload::{Contender, IDLE_TRAFFIC, IDLE_TRAFFIC_SIZE, Sample, Workload, on_workers, seated},
};

pub const CONTENDER: Contender = Contender { name: "iroh", run };

fn run(workload: &Workload, workers: usize) -> Option<Sample> {
    Some(match *workload {
        Workload::OneWay { size, messages } => on_workers(workers, async move {
            let (one, other) = (endpoint().await, endpoint().await);
            let ends = Ends::between(&one, &other).await;
            let ((_, near), (far, _)) = ends.streams;
            pair::one_way_over(near, far, size, messages).await
        }),
        Workload::PingPong { size, round_trips, answered } => on_workers(workers, async move {
            let (one, other) = (endpoint().await, endpoint().await);
            let ends = Ends::between(&one, &other).await;
            let (near, far) = ends.streams;
            pair::ping_pong_over(near, far, size, round_trips, answered).await
        }),
        Workload::Churn { connections } => on_workers(workers, churn(connections)),
        Workload::IdlePairs { pairs } => on_workers(workers, idle(pairs)),
        Workload::FanIn { senders, size, messages_each } => on_workers(workers, async move {
            let hub = endpoint().await;
            let (mut streams, mut kept) = (Vec::with_capacity(senders), Vec::with_capacity(senders));
            for _ in 0..senders {
                let near = endpoint().await;
                let ends = Ends::between(&near, &hub).await;
                let ((_, to_hub), (from_near, _)) = ends.streams;
                streams.push((to_hub, from_near));
                kept.push((near, ends.connections));
            }
            many::fan_in_over(streams, size, messages_each).await
        }),
        Workload::FanOut { receivers, size, messages_each, sender } => seated(workers, sender, async move {
            let hub = endpoint().await;
            let (mut streams, mut kept) = (Vec::with_capacity(receivers), Vec::with_capacity(receivers));
            for _ in 0..receivers {
                let far = endpoint().await;
                let ends = Ends::between(&hub, &far).await;
                let ((_, to_far), (from_hub, _)) = ends.streams;
                streams.push((to_far, from_hub));
                kept.push((far, ends.connections));
            }
            many::fan_out_over(streams, size, messages_each).await
        }),
        _ => return None,
    })
}

async fn endpoint() -> Endpoint {
    Endpoint::builder(presets::Minimal)
        .clear_ip_transports()
        .bind_addr("127.0.0.1:0")
        .expect("an address")
        .alpns(vec![ALPN.to_vec()])
        .bind()
        .await
        .expect("a socket")
}

fn addr_of(endpoint: &Endpoint) -> EndpointAddr {
    let [socket] = endpoint.bound_sockets()[..] else { panic!("one socket was asked for") };
    EndpointAddr::new(endpoint.id()).with_ip_addr(socket)
}

/// The near and the far end of a connection; it lasts for as long as they do.
async fn connect(near: &Endpoint, far: &Endpoint) -> (Connection, Connection) {
    let accepting = async { far.accept().await.expect("an open endpoint").await.expect("a connection") };
    let (dialled, accepted) = tokio::join!(near.connect(addr_of(far), ALPN), accepting);
    (dialled.expect("a connection"), accepted)
}

/// What one end reads from, and what it writes to.
type Halves = (RecvStream, SendStream);

/// Opens a stream over a connection; the other end learns of it by the first bytes.
async fn open(near: &Connection, far: &Connection) -> (Halves, Halves) {
    let (mut to_far, from_far) = near.open_bi().await.expect("a stream");
    to_far.write_all(b"!").await.expect("a stream");
    let (to_near, mut from_near) = far.accept_bi().await.expect("a stream");
    from_near.read_exact(&mut [0]).await.expect("a stream");
    ((from_far, to_far), (from_near, to_near))
}

/// Both ends of a connection and of the stream on it.
struct Ends {
    connections: (Connection, Connection),
    streams: (Halves, Halves),
}

impl Ends {
    async fn between(near: &Endpoint, far: &Endpoint) -> Self {
        let connections = connect(near, far).await;
        let streams = open(&connections.0, &connections.1).await;
        Self { connections, streams }
    }
}

async fn churn(connections: usize) -> Sample {
    let (near, far) = (endpoint().await, endpoint().await);
    let to = addr_of(&far);
    tokio::spawn(async move {
        while let Some(incoming) = far.accept().await {
            tokio::spawn(async move {
                // It may be closed before this end has it.
                if let Ok(connection) = incoming.await {
                    connection.closed().await;
                }
            });
        }
    });
    let mut sample = Vec::new();
    for connections in [connections.div_ceil(10), connections] {
        let (start, cpu) = (Instant::now(), cpu::Stopwatch::start());
        for _ in 0..connections {
            let connection = near.connect(to.clone(), ALPN).await.expect("a connection");
            connection.close(0_u8.into(), b"");
            connection.closed().await;
        }
        sample = vec![connections as f64 / start.elapsed().as_secs_f64(), cpu.micros_per(connections as u64)];
    }
    sample
}

/// Before traffic there is a connection, after it also the stream that the traffic went over.
async fn idle(pairs: usize) -> Sample {
    heap::start_counting();
    let hub = endpoint().await;
    let mut nodes = Vec::with_capacity(pairs);
    for _ in 0..pairs {
        nodes.push(endpoint().await);
    }
    let (mut connections, mut streams) = (Vec::with_capacity(pairs), Vec::with_capacity(pairs));
    connect_all(&nodes, &hub, &mut connections).await;
    talk(&connections, &mut streams).await;
    streams.clear();
    for (near, far) in connections.drain(..) {
        near.close(0_u8.into(), b"");
        far.closed().await;
    }
    let base = heap::settled().await;
    connect_all(&nodes, &hub, &mut connections).await;
    let before = heap::settled().await;
    talk(&connections, &mut streams).await;
    let after = heap::settled().await;
    [before, after].map(|bytes| (bytes - base) as f64 / pairs as f64).to_vec()
}

async fn connect_all(nodes: &[Endpoint], hub: &Endpoint, connections: &mut Vec<(Connection, Connection)>) {
    for node in nodes {
        connections.push(connect(node, hub).await);
    }
}

async fn talk(connections: &[(Connection, Connection)], streams: &mut Vec<(Halves, Halves)>) {
    for (near, far) in connections {
        let (mut near, mut far) = open(near, far).await;
        for _ in 0..IDLE_TRAFFIC {
            exchange(&mut near.1, &mut far.0).await;
            exchange(&mut far.1, &mut near.0).await;
        }
        streams.push((near, far));
    }
}

async fn exchange(from: &mut SendStream, to: &mut RecvStream) {
    from.write_all(&[7; IDLE_TRAFFIC_SIZE]).await.expect("a stream");
    to.read_exact(&mut [0; IDLE_TRAFFIC_SIZE]).await.expect("a stream");
}

const ALPN: &[u8] = b"benches";
