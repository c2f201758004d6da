//! A reader that writes what `process_message` sends, in a race with other senders, the writer and the end.

use std::{
    io::ErrorKind,
    sync::{Arc, atomic::Ordering},
};

use shuttle::{future::block_on, thread};

use super::{
    Sight, below, explore,
    sending::{Traffic, written_by},
    stage::{Remains, Stage, addr},
    wire::{Mood, Peer, ReplyWire, give_way},
};
use crate::{meter::Meter, outbox::Answering};

/// What `process_message` sends is written by the reader or by the writer, whoever else sends, stalls or ends the
/// connection meanwhile: once each, in order, and before a graceful end is over.
#[test]
fn replies_are_lost_by_no_end_and_overtake_nothing() {
    static BY_READER: Sight = Sight::new("the reader writes a reply");
    static LEFT: Sight = Sight::new("the reader leaves a reply to the writer");
    static TAKEN_OVER: Sight = Sight::new("somebody else has woken the writer for a reply");
    static CLOSED: Sight = Sight::new("the reader finds the connection closed");

    fn scene() {
        let stage = Stage::new(1, 1, 1);
        let peer = Peer::new(if below(3) == 0 { Mood::Stalling } else { Mood::Reading });
        let link = stage.live(addr(1), &peer);
        let remains = Remains::of(&link, &peer);
        let traffic = Traffic::new(&stage, &peer, false);
        let reader = {
            let (traffic, peer) = (traffic.clone(), peer.clone());
            let wire_meter = Meter::new(Arc::clone(&stage.kernel.traffic), link.info().clone());
            thread::spawn(move || {
                let wire = ReplyWire::new(&peer, wire_meter);
                let outbox = link.outbox().expect("made with one");
                let (mut sent, mut is_closed) = (Vec::new(), false);
                let mut numbers = (0..4 + below(3) as u8).peekable();
                while numbers.peek().is_some() && !is_closed {
                    let answering = Answering::begin(Some(outbox), false);
                    for number in numbers.by_ref().take(1 + below(3)) {
                        // Most without a receipt, so that several are written together.
                        let outcome = match below(4) {
                            0 => traffic.send((0, number)),
                            _ => traffic.stage.push(addr(1), (0, number), None).map(|()| None),
                        };
                        match outcome {
                            Ok(receipt) => sent.push(((0, number), receipt)),
                            Err(ErrorKind::QuotaExceeded) => {}
                            Err(ErrorKind::BrokenPipe | ErrorKind::NotConnected) => is_closed = true,
                            Err(error) => panic!("{error}"),
                        }
                        give_way();
                    }
                    let has_replies = answering.take_signals().has_replies;
                    drop(answering);
                    if has_replies && below(4) == 0 {
                        outbox.hand_over_replies();
                    } else if has_replies {
                        let counts = || [&wire.tried, &wire.written].map(|count| count.load(Ordering::Relaxed));
                        let before = counts();
                        outbox.write_replies(&wire);
                        let [tried, written] = [0, 1].map(|which| counts()[which] > before[which]);
                        BY_READER.seen_if(written);
                        LEFT.seen_if(tried && !written);
                        TAKEN_OVER.seen_if(!tried);
                    }
                    give_way();
                }
                CLOSED.seen_if(is_closed);
                sent
            })
        };
        let others = {
            let traffic = traffic.clone();
            thread::spawn(move || traffic.send_all(1, below(4) as u8).0)
        };
        let reads_on = {
            let peer = peer.clone();
            thread::spawn(move || {
                for _ in 0..below(4) {
                    thread::yield_now();
                }
                peer.set_mood(Mood::Reading);
            })
        };
        let closer = (below(2) == 0).then(|| {
            let stage = stage.clone();
            thread::spawn(move || {
                for _ in 0..below(6) {
                    thread::yield_now();
                }
                assert!(stage.disconnect(addr(1)));
            })
        });
        let sent = [reader.join().unwrap(), others.join().unwrap()];
        reads_on.join().unwrap();
        if let Some(closer) = closer {
            closer.join().unwrap();
        }
        let mut accepted = Vec::new();
        for sent in sent {
            accepted.push(sent.iter().map(|((_, number), _)| *number).collect::<Vec<_>>());
            for (message, receipt) in sent {
                let Some(receipt) = receipt else { continue };
                let outcome = block_on(receipt);
                assert!(matches!(outcome, Ok(Ok(()))), "{message:?} came to {outcome:?}");
            }
        }
        let counted = || stage.kernel.traffic.stats.sent();
        stage.end();
        for (sender, accepted) in (0..).zip(&accepted) {
            assert_eq!(&written_by(&peer, sender), accepted, "once each, in order");
        }
        let messages = accepted.concat().len() as u64;
        assert_eq!(counted(), (messages, 2 * messages));
        assert!(!peer.is_torn());
        remains.check();
    }

    explore("replies", &[&BY_READER, &LEFT, &TAKEN_OVER, &CLOSED], scene);
}
