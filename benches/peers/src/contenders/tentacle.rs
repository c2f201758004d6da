//! tentacle, by its examples: a service with one protocol, here with a handle per session, which is how its documentation
//! keeps connections from waiting for each other. Not encrypted (`HandshakeType::Noop`); windows at their defaults.
//!
//! It holds no sender back, and ends a session for which too much is waiting: a sender has to look after that itself. It does not
//! see what still is in the channels, which may be 128 messages each, so the limit of 24 MiB is raised.

use std::{io, sync::Arc, time::Instant};

use socket2::SockRef;
use tentacle::{
    ProtocolId, async_trait,
    builder::{MetaBuilder, ServiceBuilder},
    context::{ProtocolContextMutRef, ServiceContext, SessionContext},
    multiaddr::Multiaddr,
    secio::SecioKeyPair,
    service::{HandshakeType, ProtocolHandle, ServiceAsyncControl, ServiceEvent, TargetProtocol, TcpSocket},
    traits::{ServiceHandle, SessionProtocol},
};
use tokio::{
    sync::{
        Mutex,
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    },
    task::yield_now,
};
use tokio_util::bytes::Bytes;

use crate::workloads::{
    cpu, heap,
    rally::Rally,
    tally::Tally,
    workload::{
        Answered, Contender, IDLE_TRAFFIC, IDLE_TRAFFIC_SIZE, Sample, Workload, micros, on_workers, percentile, seated,
    },
};

pub const CONTENDER: Contender = Contender { name: "tentacle", run };

fn run(workload: &Workload, workers: usize) -> Option<Sample> {
    Some(match *workload {
        Workload::OneWay { size, messages } => on_workers(workers, one_way(size, messages)),
        Workload::PingPong { size, round_trips, answered } => {
            on_workers(workers, ping_pong(size, round_trips, answered))
        }
        Workload::Churn { connections } => on_workers(workers, churn(connections)),
        Workload::IdlePairs { pairs } => on_workers(workers, idle(pairs)),
        Workload::FanIn { senders, size, messages_each } => on_workers(workers, fan_in(senders, size, messages_each)),
        Workload::FanOut { receivers, size, messages_each, sender } => {
            seated(workers, sender, fan_out(receivers, size, messages_each))
        }
        _ => return None,
    })
}

/// A session as the one end has it, and as the other.
type Ends = (SessionContext, SessionContext);

/// A service that listens.
struct Node {
    control: ServiceAsyncControl,
    addr: Multiaddr,
    shared: Arc<Shared>,
    opened: Mutex<UnboundedReceiver<SessionContext>>,
    closed: Mutex<UnboundedReceiver<()>>,
}

/// What the callbacks know.
struct Shared {
    duty: Duty,
    opened: UnboundedSender<SessionContext>,
    closed: UnboundedSender<()>,
}

/// What is done with a message.
enum Duty {
    Count(Tally),
    Echo,
    Tell(UnboundedSender<()>),
    Rally(Rally),
}

impl Node {
    async fn new(duty: Duty) -> Self {
        let (opens, opened) = unbounded_channel();
        let (closes, closed) = unbounded_channel();
        let shared = Arc::new(Shared { duty, opened: opens, closed: closes });
        let session = Arc::clone(&shared);
        let protocol = MetaBuilder::new()
            .id(PROTOCOL)
            .session_handle(move || ProtocolHandle::Callback(Box::new(Session(Arc::clone(&session)))))
            .build();
        let mut service = ServiceBuilder::default()
            .insert_protocol(protocol)
            .handshake_type(HandshakeType::<SecioKeyPair>::Noop)
            .tcp_config(|socket: TcpSocket, _| with_nodelay(socket))
            .set_send_buffer_size(END_OF_PATIENCE)
            .forever(true)
            .build(Sessions(Arc::clone(&shared)));
        let control = service.control().clone();
        let addr = service.listen("/ip4/127.0.0.1/tcp/0".parse().expect("an address")).await.expect("a listener");
        tokio::spawn(async move { service.run().await });
        Self { control, addr, shared, opened: Mutex::new(opened), closed: Mutex::new(closed) }
    }

    async fn counting() -> Self {
        Self::new(Duty::Count(Tally::default())).await
    }

    fn tally(&self) -> &Tally {
        match &self.shared.duty {
            Duty::Count(tally) => tally,
            _ => panic!("this node does not count"),
        }
    }

    /// Connects; returns the session at this end and at the other.
    async fn connect(&self, to: &Self) -> Ends {
        self.control.dial(to.addr.clone(), TargetProtocol::All).await.expect("a running service");
        (self.next_opened().await, to.next_opened().await)
    }

    async fn next_opened(&self) -> SessionContext {
        self.opened.lock().await.recv().await.expect("a running service")
    }

    async fn next_closed(&self) {
        self.closed.lock().await.recv().await.expect("a running service");
    }

    async fn send_all(&self, to: &SessionContext, payload: &Bytes, messages: u64) {
        for _ in 0..messages {
            while to.pending_data_size() > MOST_WAITING {
                assert!(!to.closed(), "the session is gone");
                yield_now().await;
            }
            self.control.send_message_to(to.id, PROTOCOL, payload.clone()).await.expect("a session");
        }
    }
}

/// Accepted sockets have it from the listening one.
fn with_nodelay(socket: TcpSocket) -> io::Result<TcpSocket> {
    SockRef::from(&socket).set_tcp_nodelay(true)?;
    Ok(socket)
}

/// Hears of sessions that end.
struct Sessions(Arc<Shared>);

#[async_trait]
impl ServiceHandle for Sessions {
    async fn handle_event(&mut self, _: &mut ServiceContext, event: ServiceEvent) {
        if let ServiceEvent::SessionClose { .. } = event {
            // Nobody may be interested.
            _ = self.0.closed.send(());
        }
    }
}

/// The protocol on one session.
struct Session(Arc<Shared>);

#[async_trait]
impl SessionProtocol for Session {
    async fn connected(&mut self, context: ProtocolContextMutRef<'_>, _: &str) {
        // Nobody may be interested.
        _ = self.0.opened.send(context.session.clone());
    }

    async fn received(&mut self, context: ProtocolContextMutRef<'_>, message: Bytes) {
        let goes_back = match &self.0.duty {
            Duty::Count(tally) => {
                tally.add();
                false
            }
            Duty::Echo => true,
            Duty::Tell(arrived) => {
                _ = arrived.send(());
                false
            }
            Duty::Rally(rally) => rally.score(),
        };
        if goes_back {
            context.send_message(message).await.expect("a session");
        }
    }
}

async fn one_way(size: usize, messages: u64) -> Sample {
    let payload = Bytes::from(vec![7; size]);
    let (near, far) = (Node::new(Duty::Echo).await, Node::counting().await);
    let (to, _) = near.connect(&far).await;
    let mut sample = Vec::new();
    for messages in [messages.div_ceil(10), messages] {
        far.tally().expect(messages);
        let (start, cpu) = (Instant::now(), cpu::Stopwatch::start());
        near.send_all(&to, &payload, messages).await;
        far.tally().reached().await;
        sample = vec![messages as f64 / start.elapsed().as_secs_f64(), cpu.micros_per(messages)];
    }
    sample
}

async fn ping_pong(size: usize, round_trips: usize, answered: Answered) -> Sample {
    let payload = Bytes::from(vec![7; size]);
    let warm_up = round_trips.div_ceil(10);
    let far = Node::new(Duty::Echo).await;
    let mut times = match answered {
        Answered::InPlace => {
            let near = Node::new(Duty::Rally(Rally::new(warm_up + round_trips))).await;
            let (to, _) = near.connect(&far).await;
            near.send_all(&to, &payload, 1).await;
            let Duty::Rally(rally) = &near.shared.duty else { unreachable!("it was just made so") };
            rally.times(warm_up).await
        }
        Answered::ByTask => {
            let (arrived, mut arrivals) = unbounded_channel();
            let near = Node::new(Duty::Tell(arrived)).await;
            let (to, _) = near.connect(&far).await;
            let mut times = Vec::with_capacity(round_trips);
            for trip in 0..warm_up + round_trips {
                let start = Instant::now();
                near.send_all(&to, &payload, 1).await;
                arrivals.recv().await.expect("an echo");
                if trip >= warm_up {
                    times.push(micros(start.elapsed()));
                }
            }
            times
        }
    };
    vec![percentile(&mut times, 0.5), percentile(&mut times, 0.99)]
}

async fn churn(connections: usize) -> Sample {
    let (near, far) = (Node::counting().await, Node::counting().await);
    let mut sample = Vec::new();
    for connections in [connections.div_ceil(10), connections] {
        let (start, cpu) = (Instant::now(), cpu::Stopwatch::start());
        for _ in 0..connections {
            near.control.dial(far.addr.clone(), TargetProtocol::All).await.expect("a running service");
            let session = near.next_opened().await;
            near.control.disconnect(session.id).await.expect("a running service");
            near.next_closed().await;
        }
        sample = vec![connections as f64 / start.elapsed().as_secs_f64(), cpu.micros_per(connections as u64)];
    }
    sample
}

async fn idle(pairs: usize) -> Sample {
    heap::start_counting();
    let hub = Node::counting().await;
    let mut nodes = Vec::with_capacity(pairs);
    for _ in 0..pairs {
        nodes.push(Node::counting().await);
    }
    let mut sessions = Vec::with_capacity(pairs);
    connect_all(&nodes, &hub, &mut sessions).await;
    exchange(&nodes, &hub, &sessions).await;
    for (node, (near, _)) in nodes.iter().zip(&sessions) {
        node.control.disconnect(near.id).await.expect("a running service");
        node.next_closed().await;
        hub.next_closed().await;
    }
    sessions.clear();
    let base = heap::settled().await;
    connect_all(&nodes, &hub, &mut sessions).await;
    let before = heap::settled().await;
    exchange(&nodes, &hub, &sessions).await;
    let after = heap::settled().await;
    [before, after].map(|bytes| (bytes - base) as f64 / pairs as f64).to_vec()
}

async fn connect_all(nodes: &[Node], hub: &Node, sessions: &mut Vec<Ends>) {
    for node in nodes {
        sessions.push(node.connect(hub).await);
    }
}

async fn exchange(nodes: &[Node], hub: &Node, sessions: &[Ends]) {
    let payload = Bytes::from_static(&[7; IDLE_TRAFFIC_SIZE]);
    for (node, (near, far)) in nodes.iter().zip(sessions) {
        hub.tally().expect(IDLE_TRAFFIC);
        node.tally().expect(IDLE_TRAFFIC);
        node.send_all(near, &payload, IDLE_TRAFFIC).await;
        hub.send_all(far, &payload, IDLE_TRAFFIC).await;
        hub.tally().reached().await;
        node.tally().reached().await;
    }
}

async fn fan_in(senders: usize, size: usize, messages_each: u64) -> Sample {
    let payload = Bytes::from(vec![7; size]);
    let hub = Node::counting().await;
    let mut nodes = Vec::with_capacity(senders);
    for _ in 0..senders {
        let node = Node::counting().await;
        let (to, _) = node.connect(&hub).await;
        nodes.push((Arc::new(node), to));
    }
    let mut sample = Vec::new();
    for messages_each in [messages_each.div_ceil(10), messages_each] {
        let messages = messages_each * senders as u64;
        hub.tally().expect(messages);
        let (start, cpu) = (Instant::now(), cpu::Stopwatch::start());
        for (node, to) in nodes.clone() {
            let payload = payload.clone();
            tokio::spawn(async move { node.send_all(&to, &payload, messages_each).await });
        }
        hub.tally().reached().await;
        sample = vec![messages as f64 / start.elapsed().as_secs_f64(), cpu.micros_per(messages)];
    }
    sample
}

async fn fan_out(receivers: usize, size: usize, messages_each: u64) -> Sample {
    let payload = Bytes::from(vec![7; size]);
    let hub = Node::counting().await;
    let mut nodes = Vec::with_capacity(receivers);
    for _ in 0..receivers {
        let node = Node::counting().await;
        let (to, _) = hub.connect(&node).await;
        nodes.push((node, to));
    }
    let mut sample = Vec::new();
    for messages_each in [messages_each.div_ceil(10), messages_each] {
        nodes.iter().for_each(|(node, _)| node.tally().expect(messages_each));
        let (start, cpu) = (Instant::now(), cpu::Stopwatch::start());
        for _ in 0..messages_each {
            for (_, to) in &nodes {
                hub.send_all(to, &payload, 1).await;
            }
        }
        for (node, _) in &nodes {
            node.tally().reached().await;
        }
        let messages = messages_each * receivers as u64;
        sample = vec![messages as f64 / start.elapsed().as_secs_f64(), cpu.micros_per(messages)];
    }
    sample
}

const PROTOCOL: ProtocolId = ProtocolId::new(1);

/// So many bytes wait for a session, beside those in channels: enough to keep it busy.
const MOST_WAITING: usize = 4 << 20;

/// With so many bytes waiting, a session ends: more than the channels hold of the largest messages.
const END_OF_PATIENCE: usize = 512 << 20;
