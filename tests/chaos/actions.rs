//! The actions of the workers. Each chooses its nodes from whatever is in the pool at that moment.

use std::{
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use pea2pea::ShuttingDown;
use tokio::{net::TcpSocket, task::yield_now, time::timeout};

use crate::{
    common::wire::Random,
    outside,
    panics::INTENDED,
    peer::Peer,
    plan::{Action, Kind},
    sends::Receipt,
    strangers::{self, Kept},
    tally::Event,
    watch,
    world::{NODES, VETERANS, World, loopback},
};

/// The bound for a receipt: a flush, an `on_disconnect` and a farewell take at most about two seconds.
const RECEIPT_TIME: Duration = Duration::from_secs(20);

/// The most messages that are sent in one go.
const MOST_STREAMED: usize = 200;

/// Polls a future so many times, whenever it is woken, and drops it then.
pub async fn cut_after<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Counts how a dial went; some errors are nobody's right.
pub fn judge_dial(peer: &Peer, result: io::Result<()>) -> bool {
    use io::ErrorKind::{
        AddrInUse, AddrNotAvailable, AlreadyExists, BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset,
        InvalidData, NotConnected, Other, QuotaExceeded, TimedOut, UnexpectedEof,
    };
    let Err(error) = result else {
        peer.world.count(Event::Dialled);
        return true;
    };
    let event = match error.kind() {
        Other if ShuttingDown::caused(&error) && peer.is_closing() => Event::DialRefusedByClosing,
        Other if error.to_string().contains(INTENDED) => Event::DialFailed,
        // A panic without a text, and a stream that the handshake kept: the message names the hook.
        Other if ["perform_handshake", "codec", "return_stream"].iter().any(|it| error.to_string().contains(it)) => {
            Event::DialFailed
        }
        AddrInUse => Event::DialOfItself,
        AlreadyExists => Event::DialRefusedAsDuplicate,
        QuotaExceeded => Event::DialRefusedByLimit,
        TimedOut => Event::DialTimedOut,
        AddrNotAvailable | BrokenPipe | ConnectionAborted | ConnectionRefused | ConnectionReset | InvalidData
        | NotConnected | UnexpectedEof => Event::DialFailed,
        _ => {
            peer.world.fault(format!("a dial failed: {error:?}"));
            return false;
        }
    };
    peer.world.count(event);
    false
}

pub struct Worker {
    pub world: Arc<World>,
    pub lane: usize,
    pub kept: Kept,
}

impl Worker {
    pub async fn perform(&mut self, action: Action) {
        let dice = &mut Random::new(action.seed);
        if action.kind == Kind::Spawn {
            return self.spawn(action, dice).await;
        }
        let Some(peer) = self.world.find(action.first) else { return };
        if peer.is_closing() && dice.below(2) == 0 {
            // Somebody has begun to shut it down.
            return self.bury(&peer).await;
        }
        match action.kind {
            Kind::Spawn => {}
            Kind::ShutDown => {
                if !peer.is_veteran {
                    self.bury(&peer).await;
                }
            }
            Kind::ShutDownCancelled => {
                if peer.is_veteran {
                    return;
                }
                peer.set_closing();
                if cut_after(dice.below(5), peer.node.shut_down()).await.is_none() {
                    self.world.count(Event::CancelledShutDown);
                }
                // It stays in the pool for a while, for others to find.
            }
            Kind::ToggleListener => {
                peer.toggle_listener().await;
                if peer.listening_addr().is_none() && dice.below(4) > 0 {
                    peer.toggle_listener().await;
                }
            }
            Kind::ToggleCancelled => {
                let toggle = peer.toggle_listener();
                if cut_after(dice.below(3), toggle).await.is_none() {
                    self.world.count(Event::CancelledToggle);
                }
                peer.learn_listening_addr().await;
            }
            Kind::Connect | Kind::ConnectCancelled | Kind::ConnectFrom | Kind::ConnectAndEnd => {
                if let Some((_, addr)) = self.world.find_listening(action.second, &peer) {
                    self.connect(action.kind, &peer, addr, dice).await;
                }
            }
            Kind::Disconnect => {
                if let Some(addr) = any_peer_of(&peer, dice) {
                    let is_done = peer.node.disconnect(addr).await;
                    peer.note_disconnect(is_done);
                }
            }
            Kind::DisconnectCancelled => {
                if let Some(addr) = any_peer_of(&peer, dice) {
                    match cut_after(dice.below(5), peer.node.disconnect(addr)).await {
                        Some(is_done) => peer.note_disconnect(is_done),
                        None => self.world.count(Event::CancelledDisconnect),
                    }
                }
            }
            Kind::Send | Kind::SendAndWait | Kind::SendMany => {
                if let Some(addr) = any_peer_of(&peer, dice) {
                    self.send(action.kind, &peer, addr, dice).await;
                }
            }
            Kind::Broadcast => peer.send_to_all(self.lane, dice),
            Kind::LastWords => {
                if let Some(addr) = any_peer_of(&peer, dice) {
                    self.say_last_word(&peer, addr, dice).await;
                }
            }
            Kind::LastWordsToAll => {
                if !peer.is_veteran {
                    self.say_last_words_to_all(&peer, dice).await;
                    self.bury(&peer).await;
                }
            }
            Kind::DialAndVanish => {
                if let Some((_, addr)) = self.world.find_listening(action.second, &peer) {
                    outside::dial_and_vanish(&peer, self.lane, addr, dice).await;
                }
            }
            Kind::DisconnectOutside => {
                if let Some(addr) = any_peer_of(&peer, dice) {
                    peer.note_disconnect(disconnect_outside(&peer, addr).await);
                }
            }
            Kind::Pipeline => {
                if let Some(addr) = peer.listening_addr() {
                    strangers::pipeline(&self.world, addr, dice).await;
                    strangers::close_on_answers(&self.world, addr, dice).await;
                }
            }
            Kind::Stranger => {
                if let Some(addr) = peer.listening_addr() {
                    strangers::dial(&self.world, addr, dice, &mut self.kept).await;
                }
            }
            Kind::StrangerListens => strangers::listen(&peer, dice, &mut self.kept).await,
            Kind::DialNobody => {
                let nobody = SocketAddr::new(loopback(dice.below(4)), 1 + dice.below(1_000) as u16);
                let addr = peer.listening_addr().filter(|_| dice.below(2) == 0).unwrap_or(nobody);
                judge_dial(&peer, peer.dial(addr, None).await);
            }
            Kind::Inspect => inspect(&peer),
        }
    }

    async fn spawn(&self, action: Action, dice: &mut Random) {
        if !self.world.is_vacant(action.first) {
            return;
        }
        let peer = Peer::spawn(&self.world, action.first % NODES < VETERANS, dice).await;
        if let Some(surplus) = self.world.put(action.first, peer) {
            surplus.end().await;
        }
    }

    async fn bury(&self, peer: &Peer) {
        if let Some(peer) = self.world.take(peer) {
            peer.end().await;
        }
    }

    async fn connect(&self, kind: Kind, peer: &Peer, addr: SocketAddr, dice: &mut Random) {
        match kind {
            Kind::ConnectCancelled => match cut_after(dice.below(8), peer.dial(addr, None)).await {
                Some(result) => _ = judge_dial(peer, result),
                None => self.world.count(Event::CancelledConnect),
            },
            Kind::ConnectFrom => match bound_socket(dice) {
                Ok(socket) => _ = judge_dial(peer, peer.dial(addr, Some(socket)).await),
                Err(error) => self.world.fault(format!("cannot bind a socket: {error}")),
            },
            _ => {
                let is_connected = judge_dial(peer, peer.dial(addr, None).await);
                if is_connected && kind == Kind::ConnectAndEnd {
                    for _ in 0..dice.below(4) {
                        _ = peer.send(self.lane, addr, None, dice);
                    }
                    let is_done = peer.node.disconnect(addr).await;
                    peer.note_disconnect(is_done);
                }
            }
        }
    }

    async fn send(&self, kind: Kind, peer: &Peer, addr: SocketAddr, dice: &mut Random) {
        if kind == Kind::SendMany {
            return self.stream(peer, addr, dice).await;
        }
        let mut receipt = None;
        for _ in 0..1 + dice.below(3) {
            let Ok(sent) = peer.send(self.lane, addr, None, dice) else { break };
            receipt = sent.or(receipt);
        }
        let (Some(receipt), Kind::SendAndWait) = (receipt, kind) else { return };
        if dice.below(6) == 0 {
            // Cut short, so that the message may go with its connection.
            match cut_after(1, peer.node.disconnect(addr)).await {
                Some(is_done) => peer.note_disconnect(is_done),
                None => self.world.count(Event::CancelledDisconnect),
            }
        }
        _ = self.await_receipt(receipt).await;
    }

    /// Sends more than the queue holds, of sizes with which a batch is full before the queue is empty.
    async fn stream(&self, peer: &Peer, addr: SocketAddr, dice: &mut Random) {
        let largest = 1 << (4 + dice.below(10));
        for _ in 0..MOST_STREAMED {
            match peer.send(self.lane, addr, Some(dice.below(largest)), dice) {
                Ok(_receipt) => {}
                Err(error) if error.kind() == io::ErrorKind::QuotaExceeded => yield_now().await,
                Err(_) => return,
            }
        }
    }

    /// Tells whether the receipt confirms.
    pub async fn await_receipt(&self, receipt: impl Future<Output = <Receipt as Future>::Output>) -> bool {
        let told = timeout(RECEIPT_TIME, receipt).await;
        match told {
            Ok(Ok(Ok(()))) => self.world.count(Event::ReceiptConfirmed),
            Ok(Ok(Err(_))) => self.world.count(Event::ReceiptFailed),
            Ok(Err(_)) => self.world.count(Event::ReceiptGone),
            Err(_) => self.world.fault("a receipt does not resolve"),
        }
        matches!(told, Ok(Ok(Ok(()))))
    }
}

/// Disconnects on a thread without a runtime.
pub async fn disconnect_outside(peer: &Peer, addr: SocketAddr) -> bool {
    peer.world.count(Event::DisconnectedOutside);
    let own = peer.clone();
    let is_done = outside::without_runtime(&peer.world, async move { own.node.disconnect(addr).await }).await;
    is_done.unwrap_or(false)
}

fn any_peer_of(peer: &Peer, dice: &mut Random) -> Option<SocketAddr> {
    let addrs = peer.node.connected_addrs();
    addrs.get(dice.below(addrs.len().max(1))).copied()
}

fn bound_socket(dice: &mut Random) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    if dice.below(2) == 0 {
        // Little goes in at once: messages are written and read in pieces.
        socket.set_send_buffer_size(4_096)?;
        socket.set_recv_buffer_size(4_096)?;
    }
    socket.bind(SocketAddr::new(loopback(dice.below(4)), 0))?;
    Ok(socket)
}

/// Calls everything that only tells, and looks at what it says.
fn inspect(peer: &Peer) {
    watch::sample(peer);
    for (addr, info) in peer.node.connection_infos() {
        if info.addr() != addr {
            peer.world.fault(format!("{info:?} is listed at {addr}"));
        }
        let _may_have_changed = (peer.node.is_connected(addr), peer.node.is_connecting(addr));
        let _any = (info.side(), info.stats().sent(), info.stats().received(), info.span().is_disabled());
    }
}
