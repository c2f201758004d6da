//! What a node sends: on behalf of workers, from its hooks, and back to whoever asks for it.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::Ordering::{Relaxed, SeqCst},
    },
    time::{Duration, Instant},
};

use pea2pea::protocols::Writing;
use tokio::sync::oneshot;

use crate::{
    common::wire::Random,
    frames::{Incoming, MAX_PAYLOAD, Outgoing, REPLY_LANE, Trap, Wish},
    last_words::Word,
    line::Line,
    peer::Peer,
    tally::Event,
};

/// The lane of messages that hooks send, one after another.
const HOOK_LANE: u8 = u8::MAX;
/// Added to a worker's lane for its broadcasts, which not every peer gets.
const BROADCAST_LANE: u8 = 128;

/// The most replies to one message.
const MOST_REPLIES: u8 = 3;

pub type Receipt = oneshot::Receiver<io::Result<()>>;

/// Mostly a few bytes, sometimes kilobytes.
fn any_size(dice: &mut Random) -> usize {
    match dice.below(500) {
        0 => MAX_PAYLOAD,
        1..10 => dice.below(8_192),
        _ => dice.below(200),
    }
}

pub fn any_reply(dice: &mut Random) -> Wish {
    Wish::Reply(1 + dice.below(MOST_REPLIES.into()) as u8)
}

fn any_wish(dice: &mut Random) -> Wish {
    match dice.below(200) {
        0..16 => any_reply(dice),
        16..20 => Wish::Relay,
        20 => Wish::Broadcast,
        21..24 => Wish::Compute(10 + dice.below(190) as u8),
        _ => Wish::Nothing,
    }
}

impl Peer {
    /// One in a thousand cannot be encoded.
    fn message(&self, lane: u8, serial: u32, previous: u32, dice: &mut Random) -> Outgoing {
        let trap = match dice.below(2_000) {
            0 => Some(Trap::Panic),
            1 => Some(Trap::Fail),
            _ => None,
        };
        Outgoing { trap, ..Outgoing::new(lane, serial, previous, any_size(dice)) }
    }

    /// The next serial number of a worker's lane, and the last one that the connection has accepted from it.
    fn next_serial(&self, lane: usize, addr: SocketAddr) -> (u32, u32) {
        let serial = self.serials[lane].fetch_add(1, Relaxed) + 1;
        let mut ledger = self.ledger();
        if let Some(line) = ledger.line(addr) {
            line.other_sends.fetch_add(1, SeqCst);
        }
        (serial, ledger.last_sent(addr, lane as u8).unwrap_or(0))
    }

    /// Sends a message of a worker, with or without a receipt. Nobody else may use its lane.
    pub fn send(
        &self,
        lane: usize,
        addr: SocketAddr,
        size: Option<usize>,
        dice: &mut Random,
    ) -> io::Result<Option<Receipt>> {
        let (serial, previous) = self.next_serial(lane, addr);
        let wants_receipt = dice.below(2) == 0;
        let mut message = self.message(lane as u8, serial, previous, dice);
        message.size = size.unwrap_or(message.size);
        message.wish = any_wish(dice);
        self.send_from_lane(addr, message, wants_receipt)
    }

    /// Sends a small message of a worker that asks for something.
    pub fn ask(&self, lane: usize, addr: SocketAddr, wish: Wish) -> io::Result<()> {
        let (serial, previous) = self.next_serial(lane, addr);
        let message = Outgoing { wish, ..Outgoing::new(lane as u8, serial, previous, 8) };
        self.send_from_lane(addr, message, false).map(drop)
    }

    /// Sends a last word of a worker.
    pub fn send_last_word(
        &self,
        lane: usize,
        addr: SocketAddr,
        dice: &mut Random,
    ) -> io::Result<(Arc<Word>, Option<Receipt>)> {
        let (serial, previous) = self.next_serial(lane, addr);
        let word = Arc::new(Word::new(lane as u8, serial));
        let mut message = Outgoing::new(lane as u8, serial, previous, any_size(dice));
        (message.wish, message.word) = (Wish::LastWord, Some(Arc::clone(&word)));
        Ok((word, self.send_from_lane(addr, message, true)?))
    }

    fn send_from_lane(&self, addr: SocketAddr, message: Outgoing, wants_receipt: bool) -> io::Result<Option<Receipt>> {
        let (lane, serial) = (message.lane, message.serial);
        let sent = if wants_receipt {
            self.unicast(addr, message).map(Some)
        } else {
            self.unicast_fast(addr, message).map(|()| None)
        };
        if sent.is_ok() {
            self.ledger().note_sent(addr, lane, serial);
        }
        self.judge_send(sent)
    }

    /// Sends a message of a hook, unless another hook is just sending one.
    pub fn send_from_hook(&self, addr: SocketAddr, size: Option<usize>) -> io::Result<()> {
        let Ok(mut serial) = self.hook_serial.try_lock() else { return Err(io::ErrorKind::WouldBlock.into()) };
        *serial += 1;
        if let Some(line) = self.ledger().line(addr) {
            line.other_sends.fetch_add(1, SeqCst);
        }
        let mut message = self.message(HOOK_LANE, *serial, 0, &mut Random::new(self.roll(usize::MAX)));
        message.size = size.unwrap_or(message.size);
        let sent = self.unicast_fast(addr, message);
        drop(serial);
        self.judge_send(sent)
    }

    /// Sends a message of a worker to all peers.
    #[expect(deprecated, reason = "it is lossy, and has to do what it promises all the same")]
    pub fn send_to_all(&self, lane: usize, dice: &mut Random) {
        let serial = self.serials[lane].fetch_add(1, Relaxed) + 1;
        let mut message = self.message(BROADCAST_LANE + lane as u8, serial, 0, dice);
        message.wish = any_wish(dice);
        self.broadcasts.fetch_add(1, SeqCst);
        if self.judge_send(self.broadcast(message)).is_ok() {
            self.world.count(Event::Broadcast);
        }
    }

    /// Does what a message that is being processed asks for.
    #[expect(deprecated, reason = "as above")]
    pub fn fulfil(&self, message: &Incoming) {
        let (line, header) = (&message.line, message.header);
        match header.wish {
            Wish::Nothing => {}
            Wish::Reply(count) => (0..count.min(MOST_REPLIES)).for_each(|_| self.reply(line)),
            Wish::Relay => {
                let others = self.node.connected_addrs();
                let other = others.get(self.roll(others.len().max(1)) as usize);
                if other.is_some_and(|other| *other != line.addr && self.send_from_hook(*other, None).is_ok()) {
                    self.world.count(Event::Relayed);
                }
            }
            Wish::Broadcast => {
                let Ok(mut serial) = self.hook_serial.try_lock() else { return };
                *serial += 1;
                self.broadcasts.fetch_add(1, SeqCst);
                let sent = self.broadcast(Outgoing::new(HOOK_LANE, *serial, 0, 8));
                drop(serial);
                if self.judge_send(sent).is_ok() {
                    self.world.count(Event::RelayedToAll);
                }
            }
            Wish::Compute(tens) => {
                self.world.count(Event::Computed);
                let until = Instant::now() + Duration::from_micros(10 * u64::from(tens));
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
            }
            Wish::LastWord => self.world.words.note_processed(line, header.lane, header.serial),
        }
    }

    /// Sends a message back while one is being processed: if nobody else sends, there is room for it.
    fn reply(&self, line: &Line) {
        let dice = &mut Random::new(self.roll(usize::MAX));
        let serial = line.replies.fetch_add(1, Relaxed) + 1;
        let message = Outgoing::new(REPLY_LANE, serial, line.last_reply.load(Relaxed), any_size(dice));
        let sent = match dice.below(4) {
            0 => self.unicast(line.addr, message).map(drop),
            _ => self.unicast_fast(line.addr, message),
        };
        match self.judge_send(sent) {
            Ok(()) => {
                line.last_reply.store(serial, Relaxed);
                self.world.count(Event::Replied);
            }
            Err(error) if error.kind() == io::ErrorKind::QuotaExceeded && line.is_undisturbed(self) => {
                self.world.fault(format!("reply {serial} was refused, and nobody else sends: {error}, {line:?}"));
            }
            Err(_) => self.world.count(Event::NotReplied),
        }
    }

    fn judge_send<T>(&self, sent: io::Result<T>) -> io::Result<T> {
        match &sent {
            Ok(_) => self.world.count(Event::Queued),
            Err(error) if error.kind() == io::ErrorKind::QuotaExceeded => self.world.count(Event::QueueFull),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotConnected | io::ErrorKind::BrokenPipe) => {
                self.world.count(Event::NotQueued);
            }
            Err(error) => self.world.fault(format!("a send failed: {error:?}")),
        }
        sent
    }
}
