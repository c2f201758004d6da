//! Senders that race with the writer and with the end of their connection.

use std::{
    io::{self, ErrorKind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use shuttle::{future::block_on, thread};
use tokio::sync::oneshot::Receiver;

use super::{
    Sight, below, explore,
    stage::{Remains, SETTINGS, Stage, addr},
    wire::{Message, Mood, Peer, give_way},
};
use crate::outbound::crowding;

/// One that has a receipt fills a batch; of those without, which are two bytes and weigh three, four begin before the half
/// batch is full that the writer adds to its eight bytes.
const MOST_IN_A_BATCH: usize = 4;

/// Beside the queue, there are the batch that is being written and the one that waits.
const MOST_UNWRITTEN: usize = SETTINGS.depth + 2 * MOST_IN_A_BATCH;

/// The same if all have receipts.
const MOST_UNWRITTEN_WITH_RECEIPTS: usize = SETTINGS.depth + 2;

pub(super) type Sent = Vec<(Message, Option<Receiver<io::Result<()>>>)>;

/// What a scene's senders have in common.
#[derive(Clone)]
pub(super) struct Traffic {
    pub(super) stage: Stage,
    peer: Peer,
    /// How many messages have been accepted.
    accepted: Arc<AtomicUsize>,
    /// Whether all ask for receipts.
    with_receipts: bool,
}

impl Traffic {
    pub(super) fn new(stage: &Stage, peer: &Peer, with_receipts: bool) -> Self {
        Self { stage: stage.clone(), peer: peer.clone(), accepted: Arc::default(), with_receipts }
    }

    pub(super) fn send(&self, message: Message) -> Result<Option<Receiver<io::Result<()>>>, ErrorKind> {
        if self.with_receipts || message.1 % 2 == 0 {
            self.stage.send(addr(1), message).map(Some)
        } else {
            self.stage.push(addr(1), message, None).map(|()| None)
        }
    }

    /// Sends until all is accepted or the connection ends; tells what was accepted, and how often there was no room.
    pub(super) fn send_all(&self, sender: u8, count: u8) -> (Sent, usize) {
        let most = if self.with_receipts { MOST_UNWRITTEN_WITH_RECEIPTS } else { MOST_UNWRITTEN };
        let (mut sent, mut refused) = (Vec::new(), 0);
        // Some send from a `process_message`, which encodes ahead on any connection.
        let _processing = (below(3) == 0).then(|| crowding::begin_processing(false));
        for number in 0..count {
            loop {
                match self.send((sender, number)) {
                    Ok(receipt) => {
                        let accepted = self.accepted.fetch_add(1, Ordering::Relaxed) + 1;
                        let unwritten = accepted.saturating_sub(self.peer.messages().len());
                        assert!(unwritten <= most, "{unwritten} messages are not written");
                        sent.push(((sender, number), receipt));
                        break;
                    }
                    Err(ErrorKind::QuotaExceeded) => {
                        refused += 1;
                        thread::yield_now();
                    }
                    Err(ErrorKind::BrokenPipe | ErrorKind::NotConnected) => return (sent, refused),
                    Err(error) => panic!("{error}"),
                }
            }
        }
        (sent, refused)
    }
}

/// What was written of one sender, as numbers.
pub(super) fn written_by(peer: &Peer, sender: u8) -> Vec<u8> {
    peer.messages().into_iter().filter(|message| message.0 == sender).map(|message| message.1).collect()
}

/// Whatever was accepted before a graceful end is written once, in the order of its sender, and confirmed, also by a peer
/// that stalls for a while and with senders that encode.
#[test]
fn a_graceful_end_loses_nothing_that_was_accepted() {
    static FULL: Sight = Sight::new("a sender finds no room");
    static CLOSED: Sight = Sight::new("a sender finds the connection closed");
    static ALL: Sight = Sight::new("everything is accepted");
    static STALLED: Sight = Sight::new("the writer waits for the peer");
    static AHEAD: Sight = Sight::new("a sender encodes ahead");

    fn scene() {
        let stage = Stage::new(1, 1, 1);
        let peer = Peer::new(if below(2) == 0 { Mood::Reading } else { Mood::Stalling });
        let live = stage.live(addr(1), &peer);
        let remains = Remains::of(&live, &peer);
        drop(live);
        let traffic = Traffic::new(&stage, &peer, below(2) == 0);
        let count = 2 + below(4) as u8;
        let senders: Vec<_> = (0..2)
            .map(|sender| {
                let traffic = traffic.clone();
                let named = thread::Builder::new().name(format!("sender {sender}"));
                let sender = named.spawn(move || {
                    let (sent, refused) = traffic.send_all(sender, count);
                    FULL.seen_if(refused > 0);
                    sent
                });
                sender.unwrap()
            })
            .collect();
        let reads_on = {
            let peer = peer.clone();
            thread::spawn(move || {
                for _ in 0..below(4) {
                    thread::yield_now();
                }
                STALLED.seen_if(peer.keeps_waiting());
                peer.set_mood(Mood::Reading);
            })
        };
        let closer = (below(2) == 0).then(|| {
            let stage = stage.clone();
            thread::spawn(move || {
                for _ in 0..below(4) {
                    thread::yield_now();
                }
                assert!(stage.disconnect(addr(1)));
                stage.check();
            })
        });
        let sent: Vec<_> = senders.into_iter().map(|sender| sender.join().unwrap()).collect();
        reads_on.join().unwrap();
        if let Some(closer) = closer {
            closer.join().unwrap();
        }
        let mut accepted = Vec::new();
        for sent in sent {
            accepted.push(sent.iter().map(|((_, number), _)| *number).collect::<Vec<_>>());
            CLOSED.seen_if(sent.len() < usize::from(count));
            ALL.seen_if(sent.len() == usize::from(count));
            for (message, receipt) in sent {
                let Some(receipt) = receipt else { continue };
                // One that is never resolved would be a deadlock: a wake-up was lost.
                let outcome = block_on(receipt);
                assert!(matches!(outcome, Ok(Ok(()))), "{message:?} came to {outcome:?}");
            }
        }
        stage.end();
        for (sender, accepted) in (0..).zip(&accepted) {
            assert_eq!(&written_by(&peer, sender), accepted, "once each, in order");
        }
        assert!(!peer.is_torn());
        remains.check();
        assert!(peer.is_shut(), "the peer is told that nothing more comes");
        assert_eq!(stage.writers.load(Ordering::Relaxed), usize::from(!accepted.concat().is_empty()));
        AHEAD.seen_if(stage.encoded_by_senders.load(Ordering::Relaxed) > 0);
    }

    explore("a graceful end", &[&FULL, &CLOSED, &ALL, &STALLED, &AHEAD], scene);
}

/// When the stream fails under the writer, every receipt resolves, none says more than what was written, and what follows
/// the first that was lost is lost too.
#[test]
fn a_failing_stream_confirms_nothing_that_was_not_written() {
    static FAILED: Sight = Sight::new("a receipt says that its batch failed");
    static GONE: Sight = Sight::new("a receipt says that the connection went away");
    static CONFIRMED: Sight = Sight::new("something is confirmed before the failure");

    fn scene() {
        let stage = Stage::new(1, 1, 1);
        let peer = Peer::default();
        let live = stage.live(addr(1), &peer);
        let remains = Remains::of(&live, &peer);
        drop(live);
        let traffic = Traffic::new(&stage, &peer, true);
        let senders: Vec<_> = (0..2)
            .map(|sender| {
                let traffic = traffic.clone();
                thread::spawn(move || traffic.send_all(sender, 3).0)
            })
            .collect();
        let resets = {
            let peer = peer.clone();
            thread::spawn(move || {
                for _ in 0..below(3) {
                    thread::yield_now();
                }
                peer.set_mood(Mood::Resetting);
            })
        };
        let with_disconnect = below(3) == 0;
        let closer = with_disconnect.then(|| {
            let stage = stage.clone();
            thread::spawn(move || stage.disconnect(addr(1)))
        });
        let sent: Vec<_> = senders.into_iter().map(|sender| sender.join().unwrap()).collect();
        resets.join().unwrap();
        if let Some(closer) = closer {
            closer.join().unwrap();
        }
        for (sender, sent) in (0..).zip(sent) {
            let written = written_by(&peer, sender);
            assert!(written.is_sorted() && written.len() <= sent.len());
            let mut is_lost = false;
            for (index, (message, receipt)) in sent.into_iter().enumerate() {
                let outcome = block_on(receipt.expect("all have receipts"));
                let is_confirmed = matches!(outcome, Ok(Ok(())));
                assert!(!is_confirmed || !is_lost, "{message:?} is confirmed behind one that is lost");
                assert!(!is_confirmed || written.get(index) == Some(&message.1), "{message:?} was never written");
                is_lost |= !is_confirmed;
                CONFIRMED.seen_if(is_confirmed);
                FAILED.seen_if(matches!(outcome, Ok(Err(_))));
                GONE.seen_if(outcome.is_err());
            }
        }
        stage.end();
        remains.check();
        assert_eq!(stage.endings().len(), 1);
    }

    explore("a failing stream", &[&FAILED, &GONE, &CONFIRMED], scene);
}

/// The first message, from whoever of several senders it comes, starts the one writer, also when the connection is being
/// ended meanwhile; then nothing that was accepted is lost by a graceful end, and nothing is confirmed falsely by an
/// abrupt one.
#[test]
fn the_first_message_starts_the_one_writer_or_is_told_of_the_end() {
    static STARTED: Sight = Sight::new("the writer is started");
    static NEVER: Sight = Sight::new("the writer is never started, and nothing was accepted");
    static TOO_LATE: Sight = Sight::new("an accepted first message comes too late for its writer, and fails");
    static RACED: Sight = Sight::new("some are accepted and some come too late");

    fn scene() {
        let stage = Stage::new(1, 1, 1);
        let peer = Peer::default();
        let live = stage.live(addr(1), &peer);
        let remains = Remains::of(&live, &peer);
        let end_of_input = stage.end_of_input(&live);
        let ending = below(3);
        let senders: Vec<_> = (0..3)
            .map(|sender| {
                let stage = stage.clone();
                thread::spawn(move || stage.send(addr(1), (sender, 0)))
            })
            .collect();
        let closer = {
            let stage = stage.clone();
            thread::spawn(move || match ending {
                0 => assert!(stage.disconnect(addr(1))),
                1 => block_on(end_of_input),
                // As the drop of an ending does that was cancelled.
                _ => {
                    let claim = stage.kernel.registry.claim(addr(1), live.info().id(), crate::DisconnectOrigin::User);
                    live.stop();
                    drop((claim, live));
                    super::drive();
                }
            })
        };
        let sent: Vec<_> = senders.into_iter().map(|sender| sender.join().unwrap()).collect();
        closer.join().unwrap();
        let writers = stage.writers.load(Ordering::Relaxed);
        let accepted = sent.iter().filter(|sent| sent.is_ok()).count();
        for (sender, receipt) in (0..).zip(sent) {
            let Ok(receipt) = receipt else { continue };
            let is_confirmed = matches!(block_on(receipt), Ok(Ok(())));
            let is_written = !written_by(&peer, sender).is_empty();
            assert!(is_written || !is_confirmed, "confirmed, and never written");
            assert!(is_confirmed || ending == 2, "lost by a graceful end");
        }
        stage.end();
        remains.check();
        assert!(writers <= 1 && (writers == 1 || accepted == 0 || ending == 2), "{writers} writers");
        STARTED.seen_if(writers == 1);
        NEVER.seen_if(accepted == 0);
        TOO_LATE.seen_if(writers == 0 && accepted > 0);
        RACED.seen_if(accepted == 1 || accepted == 2);
        give_way();
    }

    explore("the first message", &[&STARTED, &NEVER, &TOO_LATE, &RACED], scene);
}

/// A sender that waits for each of its receipts always finds room, whatever another one does that drops them unresolved.
#[test]
fn a_receipt_that_resolves_has_freed_its_place_and_all_earlier_ones() {
    static DROPPED: Sight = Sight::new("a receipt is dropped before it is resolved");
    static PARKED: Sight = Sight::new("the queue is full exactly at its depth");

    fn scene() {
        let stage = Stage::new(1, 1, 1);
        let peer = Peer::default();
        let live = stage.live(addr(1), &peer);
        let remains = Remains::of(&live, &peer);
        drop(live);
        let patient = {
            let stage = stage.clone();
            thread::spawn(move || {
                for number in 0..3 {
                    let receipt = stage.send(addr(1), (0, number)).expect("there is room");
                    assert!(matches!(block_on(receipt), Ok(Ok(()))));
                }
            })
        };
        // Has two places at most: the one whose receipt it drops, and the one that it waits for.
        let hasty = {
            let stage = stage.clone();
            thread::spawn(move || {
                for number in 0..2 {
                    let mut dropped = stage.send(addr(1), (1, 2 * number)).expect("there is room");
                    DROPPED.seen_if(dropped.try_recv().is_err());
                    drop(dropped);
                    let receipt = stage.send(addr(1), (1, 2 * number + 1)).expect("there is room");
                    assert!(matches!(block_on(receipt), Ok(Ok(()))));
                }
            })
        };
        patient.join().unwrap();
        hasty.join().unwrap();
        assert_eq!(written_by(&peer, 0), [0, 1, 2]);
        assert_eq!(written_by(&peer, 1), [0, 1, 2, 3]);

        // All places are there again: one message keeps the writer waiting, and the queue takes its depth.
        peer.set_mood(Mood::Stalling);
        let mut receipts = vec![stage.send(addr(1), (2, 0)).expect("there is room")];
        while !peer.keeps_waiting() {
            thread::yield_now();
        }
        for number in 0..SETTINGS.depth {
            receipts.push(stage.send(addr(1), (3, number as u8)).expect("there is room"));
        }
        assert_eq!(stage.send(addr(1), (4, 0)).err(), Some(ErrorKind::QuotaExceeded));
        PARKED.seen_if(true);
        peer.set_mood(Mood::Reading);
        for receipt in receipts {
            assert!(matches!(block_on(receipt), Ok(Ok(()))));
        }
        stage.end();
        remains.check();
    }

    explore("places", &[&DROPPED, &PARKED], scene);
}
