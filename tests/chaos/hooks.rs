//! The five protocols of the nodes: they keep the ledger, and misbehave now and then.

use std::{
    future::pending,
    io::{
        self,
        ErrorKind::{QuotaExceeded, WouldBlock},
    },
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use pea2pea::{
    Connection, ConnectionSide, DisconnectOrigin,
    protocols::{Handshake, OnConnect, OnDisconnect, Reading, Writing},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::yield_now,
    time::sleep,
};

use crate::{
    actions::judge_dial,
    frames::{Check, GREETING_SIZE, Incoming, MAX_PAYLOAD, Outgoing, Speaker, Stamp},
    last_words::Ended,
    line::Line,
    outside,
    panics::{self, INTENDED},
    peer::Peer,
    tally::Event,
    world::World,
    wrapper::Wrapper,
};

/// The bound of a batch, and of a farewell.
pub const WRITE_TIMEOUT: Duration = Duration::from_millis(80);

/// Far more than the write timeout, and what the OS takes, allow.
const FLOOD_STEPS: usize = 2_000;

impl Peer {
    fn panic(&self, event: Event) -> ! {
        self.world.count(event);
        panics::on_purpose(self.roll(3))
    }

    /// Calls back into the node from inside a hook, now and then.
    async fn call_back(&self, addr: SocketAddr) {
        match self.roll(400) {
            0..4 => {
                self.world.count(Event::DisconnectedInHook);
                let is_done = self.node.disconnect(addr).await;
                self.note_disconnect(is_done);
            }
            4..8 => {
                if let Some((_, other)) = self.world.find_listening(self.roll(1_000) as usize, self) {
                    self.world.count(Event::DialledInHook);
                    judge_dial(self, self.dial(other, None).await);
                }
            }
            8..12 => sleep(Duration::from_millis(self.roll(5))).await,
            12 if !self.is_veteran => {
                self.world.count(Event::ShutDownInHook);
                self.set_closing();
                self.node.shut_down().await;
            }
            _ => {}
        }
    }

    /// Sends to a peer that does not read, until the connection ends of it.
    async fn flood(&self, addr: SocketAddr) {
        for _ in 0..FLOOD_STEPS {
            match self.send_from_hook(addr, Some(MAX_PAYLOAD)) {
                Ok(()) => yield_now().await,
                Err(error) if matches!(error.kind(), QuotaExceeded | WouldBlock) => {
                    sleep(Duration::from_millis(1)).await
                }
                Err(_) => return,
            }
        }
    }

    fn note_pair(&self, event: Event, paired: Result<bool, String>) {
        self.world.count(event);
        if self.world.check(paired) == Some(true) {
            self.world.count(Event::Pair);
        }
    }
}

/// A handshake; if it is dropped before its end, the setup has failed.
struct Setup<'a> {
    peer: &'a Peer,
    addr: SocketAddr,
    number: u64,
    is_greeted: bool,
}

impl<'a> Setup<'a> {
    fn begin(peer: &'a Peer, conn: &Connection) -> Self {
        let (addr, number) = (conn.addr(), peer.world.new_connection_number());
        peer.world.check(peer.ledger().begin(addr, number, conn.stats().clone()));
        Self { peer, addr, number, is_greeted: false }
    }

    fn greet(mut self, other: Speaker) {
        self.is_greeted = true;
        let line = Line::new(self.peer, self.number, self.addr, other);
        self.peer.world.check(self.peer.ledger().greet(self.addr, line));
    }
}

impl Drop for Setup<'_> {
    fn drop(&mut self) {
        if !self.is_greeted {
            self.peer.world.check(self.peer.ledger().abandon(self.addr, self.number));
        }
    }
}

impl Handshake for Peer {
    const TIMEOUT_MS: u64 = 500;

    async fn perform_handshake(&self, mut conn: Connection) -> io::Result<Connection> {
        let setup = Setup::begin(self, &conn);
        let fate = self.roll(2_000);
        match fate {
            0..4 => self.panic(Event::PanickedInHandshake),
            4..8 => {
                self.world.count(Event::HandshakeFailed);
                return Err(io::Error::other(INTENDED));
            }
            8..10 => {
                self.world.count(Event::HandshakeHung);
                pending::<()>().await;
            }
            _ => {}
        }
        let stream = self.borrow_stream(&mut conn);
        let own = Speaker { node: self.number, connection: setup.number };
        stream.write_all(&own.greeting()).await?;
        let mut greeting = [0; GREETING_SIZE];
        stream.read_exact(&mut greeting).await?;
        let other = Speaker::from_greeting(&greeting).ok_or(io::ErrorKind::InvalidData)?;
        match fate {
            10..14 => {
                // The setup fails after this: without the stream, nothing can be attached.
                self.world.count(Event::StreamKept);
                drop(self.take_stream(&mut conn));
                return Ok(conn);
            }
            14..100 => {
                let stream = self.take_stream(&mut conn);
                self.return_stream(&mut conn, stream);
            }
            100..200 => {
                self.world.count(Event::Wrapped);
                let stream = self.take_stream(&mut conn);
                self.return_stream(&mut conn, Wrapper(stream));
            }
            _ => {}
        }
        setup.greet(other);
        Ok(conn)
    }
}

impl Peer {
    /// A codec panics: the setup fails, as does the ledger's, first.
    fn panic_in_codec(&self, addr: SocketAddr, event: Event) -> ! {
        let mut ledger = self.ledger();
        if let Some(number) = ledger.number(addr) {
            self.world.check(ledger.abandon(addr, number));
        }
        drop(ledger);
        self.panic(event)
    }

    fn attached(&self, line: Result<Arc<Line>, String>) -> Arc<Line> {
        self.world.check(line).unwrap_or_else(|| panics::on_purpose(1))
    }
}

impl Reading for Peer {
    const MESSAGE_QUEUE_DEPTH: usize = 16;
    const IDLE_TIMEOUT_MS: u64 = 250;

    type Message = Incoming;
    type Codec = Check;

    fn codec(&self, addr: SocketAddr, _side: ConnectionSide) -> Check {
        if self.roll(1_000) == 0 {
            self.panic_in_codec(addr, Event::PanickedInReadingCodec);
        }
        let line = self.ledger().attach_decoder(addr);
        Check::new(self, self.attached(line))
    }

    async fn process_message(&self, source: SocketAddr, message: Incoming) {
        let _turn = Turn::begin(self, source, &message);
        self.fulfil(&message);
        match self.roll(4_000) {
            0..3 => {
                message.line.spoil();
                self.panic(Event::PanickedInProcess);
            }
            3..6 => {
                message.line.spoil();
                self.world.count(Event::ProcessHung);
                pending::<()>().await;
            }
            6..300 => _ = self.send_from_hook(source, None),
            300..400 => sleep(Duration::from_millis(1)).await,
            400..1_000 => yield_now().await,
            1_000..1_400 => self.call_back(source).await,
            _ => {}
        }
    }
}

/// A message that is being processed: they come one at a time, in order.
struct Turn<'a>(&'a Line);

impl<'a> Turn<'a> {
    fn begin(peer: &Peer, source: SocketAddr, message: &'a Incoming) -> Self {
        let line = &*message.line;
        peer.world.count(Event::Processed);
        let is_alone = !line.is_processing.swap(true, SeqCst);
        let is_next = line.processed.fetch_add(1, SeqCst) == u64::from(message.number());
        if !is_alone || !is_next || source != line.addr {
            let number = message.number();
            peer.world
                .fault(format!("message {number} of {source}: is alone: {is_alone}, is next: {is_next}, {line:?}"));
        }
        Self(line)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.is_processing.store(false, SeqCst);
    }
}

impl Writing for Peer {
    const MESSAGE_QUEUE_DEPTH: usize = 16;
    const INITIAL_BUFFER_SIZE: usize = 16 * 1024;
    const TIMEOUT_MS: u64 = WRITE_TIMEOUT.as_millis() as u64;

    type Message = Outgoing;
    type Codec = Stamp;

    fn codec(&self, addr: SocketAddr, _side: ConnectionSide) -> Stamp {
        if self.roll(1_000) == 0 {
            self.panic_in_codec(addr, Event::PanickedInWritingCodec);
        }
        let line = self.ledger().attach_encoder(addr);
        Stamp::new(self, self.attached(line))
    }
}

/// A hook that must run to its end.
struct ToTheEnd<'a>(Option<&'a World>);

impl Drop for ToTheEnd<'_> {
    fn drop(&mut self) {
        if let Some(world) = self.0 {
            world.fault("on_connect, not abortable, was cut short");
        }
    }
}

impl OnConnect for Peer {
    const ABORTABLE: bool = false;

    async fn on_connect(&self, addr: SocketAddr) {
        let begun = self.ledger().on_connect(addr, outside::is_foreign());
        let line = begun.as_ref().ok().and_then(|(_, line)| line.clone());
        self.note_pair(Event::OnConnect, begun.map(|(paired, _)| paired));
        let mut to_the_end = ToTheEnd((!outside::is_foreign()).then_some(&*self.world));
        match self.roll(2_000) {
            0..4 => {
                to_the_end.0 = None;
                self.panic(Event::PanickedInOnConnect);
            }
            4..300 => _ = self.send_from_hook(addr, None),
            300..340 => sleep(Duration::from_millis(self.roll(20))).await,
            340..500 => self.call_back(addr).await,
            _ => {}
        }
        if line.is_some_and(|line| line.peer.wants_flood()) {
            self.flood(addr).await;
        }
        to_the_end.0 = None;
    }
}

impl OnDisconnect for Peer {
    const TIMEOUT_MS: u64 = 300;

    async fn on_disconnect(&self, addr: SocketAddr, origin: DisconnectOrigin) {
        // Still listed; except that a shutdown need not wait longer than its bound for a disconnect that nobody polls.
        let info = self.node.connection_info(addr);
        let paired = match &info {
            None if !self.is_closing() => Err(format!("on_disconnect of {addr}, which is not listed")),
            _ => self.ledger().on_disconnect(addr, info.as_ref().map(|info| info.stats())),
        };
        let line = paired.as_ref().ok().and_then(|(_, line)| line.clone());
        self.note_pair(Event::OnDisconnect, paired.map(|(paired, _)| paired));
        self.note_end(origin);
        if let Some(line) = line {
            Ended::note(line.number);
            self.world.words.note_end(&self.world, &line, line.has_followed(self, origin));
        }
        match self.roll(2_000) {
            0..4 => self.panic(Event::PanickedInOnDisconnect),
            4..6 => {
                self.world.count(Event::OnDisconnectHung);
                pending::<()>().await;
            }
            6..300 => _ = self.send_from_hook(addr, None),
            300..340 => sleep(Duration::from_millis(self.roll(20))).await,
            340..500 => self.call_back(addr).await,
            _ => {}
        }
    }
}
