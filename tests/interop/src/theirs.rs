//! A node of rust-libp2p, put together as its users do it: TCP, Noise, Yamux, ping and identify.

use std::{fmt::Debug, time::Duration};

use futures_util::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol, SwarmBuilder, identify,
    identity::Keypair,
    multiaddr::Protocol,
    noise, ping,
    swarm::{DialError, NetworkBehaviour, Swarm, SwarmEvent, dial_opts::DialOpts},
    tcp, yamux,
};
use libp2p_stream::{Control, OpenStreamError};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use crate::{
    in_time,
    log::{Log, Pen, log},
};

#[derive(NetworkBehaviour)]
struct Behaviour {
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    streams: libp2p_stream::Behaviour,
}

/// What a node of rust-libp2p tells; all else that it tells is of no interest here.
#[derive(Debug)]
pub enum Seen {
    Connected(PeerId),
    /// The cause is none if the end was asked for.
    Disconnected(PeerId, Option<String>),
    /// A connection to it came to nothing.
    Refused(String),
    Pinged(PeerId, Duration),
    PingFailed(PeerId, String),
    Identified(PeerId, Box<identify::Info>),
    IdentifyFailed(PeerId, String),
}

enum Command {
    Dial(Multiaddr, oneshot::Sender<Result<PeerId, DialError>>),
    Disconnect(PeerId),
}

pub struct Theirs {
    pub peer_id: PeerId,
    pub multiaddr: Multiaddr,
    log: Log<Seen>,
    commands: mpsc::UnboundedSender<Command>,
    streams: Control,
    task: JoinHandle<()>,
}

impl Theirs {
    /// Starts a node that listens, and pings every peer all the time.
    pub async fn start() -> Self {
        Self::start_with(BETWEEN_PINGS).await
    }

    /// Starts a node that listens, and pings each peer once.
    pub async fn start_quiet() -> Self {
        Self::start_with(crate::PATIENCE).await
    }

    async fn start_with(between_pings: Duration) -> Self {
        let mut swarm = SwarmBuilder::with_existing_identity(Keypair::generate_ed25519())
            .with_tokio()
            .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
            .expect("Noise can be set up")
            .with_behaviour(|keypair| Behaviour {
                identify: identify::Behaviour::new(
                    identify::Config::new(PROTOCOL_VERSION.to_owned(), keypair.public())
                        .with_agent_version(Self::AGENT.to_owned()),
                ),
                ping: ping::Behaviour::new(
                    ping::Config::new().with_interval(between_pings).with_timeout(crate::PATIENCE),
                ),
                streams: libp2p_stream::Behaviour::new(),
            })
            .expect("a behaviour cannot fail")
            .with_swarm_config(|config| config.with_idle_connection_timeout(crate::PATIENCE))
            .build();
        swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().expect("a multiaddr")).expect("their node listens");
        let addr = in_time("their listener", async {
            loop {
                if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                    return address;
                }
            }
        })
        .await;

        let peer_id = *swarm.local_peer_id();
        let streams = swarm.behaviour().streams.new_control();
        let (pen, log) = log();
        let (commands, orders) = mpsc::unbounded_channel();
        let task = tokio::spawn(drive(swarm, orders, pen));
        Self { peer_id, multiaddr: addr.with(Protocol::P2p(peer_id)), log, commands, streams, task }
    }

    pub const AGENT: &str = "theirs/1";

    /// Connects to a peer.
    pub async fn meet(&self, multiaddr: &Multiaddr) -> Result<PeerId, DialError> {
        let (reply, outcome) = oneshot::channel();
        self.order(Command::Dial(multiaddr.clone(), reply));
        in_time("their dial", outcome).await.expect("their node is still there")
    }

    pub fn disconnect(&self, peer: PeerId) {
        self.order(Command::Disconnect(peer));
    }

    /// Opens a substream.
    pub async fn open(&self, peer: PeerId, protocol: &'static str) -> Result<Stream, OpenStreamError> {
        let mut streams = self.streams.clone();
        in_time("their substream", streams.open_stream(peer, StreamProtocol::new(protocol))).await
    }

    /// Waits until one of the events is what is wanted.
    pub async fn saw<P>(&self, what: &str, pick: impl Fn(&Seen) -> Option<P>) -> P {
        self.log.wait_for(what, |entries| entries.iter().find_map(&pick)).await
    }

    /// Waits for the round-trip times of so many pings of a peer, none of which may have failed.
    pub async fn pinged(&self, wanted: PeerId, times: usize) -> Vec<Duration> {
        let outcome = self.log.wait_for("their pings", |entries| {
            let mut round_trips = Vec::new();
            for entry in entries {
                match entry {
                    Seen::Pinged(peer, round_trip) if *peer == wanted => round_trips.push(*round_trip),
                    Seen::PingFailed(peer, error) if *peer == wanted => return Some(Err(error.clone())),
                    _ => {}
                }
            }
            (round_trips.len() >= times).then_some(Ok(round_trips))
        });
        outcome.await.expect("their pings are answered")
    }

    /// Waits for what a peer says of itself.
    pub async fn identified(&self, wanted: PeerId) -> identify::Info {
        self.saw("what we say of ourselves", |seen| match seen {
            Seen::Identified(peer, info) if *peer == wanted => Some(Ok((**info).clone())),
            Seen::IdentifyFailed(peer, error) if *peer == wanted => Some(Err(error.clone())),
            _ => None,
        })
        .await
        .expect("they understand what we say of ourselves")
    }

    /// Waits until a peer is connected.
    pub async fn met(&self, wanted: PeerId) {
        self.saw("our connection", |seen| matches!(seen, Seen::Connected(peer) if *peer == wanted).then_some(())).await;
    }

    /// Waits until a connection has ended, and returns the cause.
    pub async fn lost(&self, wanted: PeerId) -> Option<String> {
        self.saw("the end of our connection", |seen| match seen {
            Seen::Disconnected(peer, cause) if *peer == wanted => Some(cause.clone()),
            _ => None,
        })
        .await
    }

    fn order(&self, command: Command) {
        assert!(self.commands.send(command).is_ok(), "their node is still there");
    }
}

impl Drop for Theirs {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn drive(mut swarm: Swarm<Behaviour>, mut orders: mpsc::UnboundedReceiver<Command>, pen: Pen<Seen>) {
    let mut dial: Option<oneshot::Sender<Result<PeerId, DialError>>> = None;
    loop {
        tokio::select! {
            Some(order) = orders.recv() => match order {
                Command::Dial(multiaddr, reply) => match swarm.dial(from_a_new_port(multiaddr)) {
                    Ok(()) => dial = Some(reply),
                    Err(error) => drop(reply.send(Err(error))),
                },
                Command::Disconnect(peer) => drop(swarm.disconnect_peer_id(peer)),
            },
            event = swarm.select_next_some() => match event {
                SwarmEvent::OutgoingConnectionError { error, .. } => {
                    pen.write(Seen::Refused(error.to_string()));
                    if let Some(reply) = dial.take() {
                        drop(reply.send(Err(error)));
                    }
                }
                SwarmEvent::ConnectionEstablished { peer_id, endpoint, .. } => {
                    pen.write(Seen::Connected(peer_id));
                    if endpoint.is_dialer() && let Some(reply) = dial.take() {
                        drop(reply.send(Ok(peer_id)));
                    }
                }
                SwarmEvent::IncomingConnectionError { error, .. } => pen.write(Seen::Refused(text(&error))),
                SwarmEvent::ConnectionClosed { peer_id, cause, .. } => {
                    pen.write(Seen::Disconnected(peer_id, cause.map(|cause| text(&cause))));
                }
                SwarmEvent::Behaviour(event) => note(event, &pen),
                _ => {}
            },
        }
    }
}

/// By default, rust-libp2p dials from the port that it listens on, and fails if somebody on the host happens to use that one
/// as well.
fn from_a_new_port(multiaddr: Multiaddr) -> DialOpts {
    match multiaddr.iter().last() {
        Some(Protocol::P2p(peer)) => DialOpts::peer_id(peer).addresses(vec![multiaddr]).allocate_new_port().build(),
        _ => DialOpts::unknown_peer_id().address(multiaddr).allocate_new_port().build(),
    }
}

fn note(event: BehaviourEvent, pen: &Pen<Seen>) {
    match event {
        BehaviourEvent::Ping(ping::Event { peer, result: Ok(round_trip), .. }) => {
            pen.write(Seen::Pinged(peer, round_trip));
        }
        BehaviourEvent::Ping(ping::Event { peer, result: Err(error), .. }) => {
            pen.write(Seen::PingFailed(peer, text(&error)));
        }
        BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
            pen.write(Seen::Identified(peer_id, Box::new(info)));
        }
        BehaviourEvent::Identify(identify::Event::Error { peer_id, error, .. }) => {
            pen.write(Seen::IdentifyFailed(peer_id, text(&error)));
        }
        BehaviourEvent::Identify(_) => {}
        BehaviourEvent::Streams(()) => {}
    }
}

fn text(error: &impl Debug) -> String {
    format!("{error:?}")
}

pub(crate) const PROTOCOL_VERSION: &str = "theirs-and-ours/1";

/// Short, so that several come in the time of a test.
const BETWEEN_PINGS: Duration = Duration::from_millis(20);
