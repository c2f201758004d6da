//! A reader that waits for room, a reader that finishes after a write has failed, and an ending that is handed to a task.

use std::{future::poll_fn, io::ErrorKind};

use futures_util::FutureExt;
use shuttle::{future::block_on, thread};

use super::{
    Sight, below, drive, explore,
    sending::Traffic,
    stage::{Remains, Stage, addr},
    wire::{Mood, Peer, give_way},
};
use crate::{
    connection::DisconnectOrigin,
    inside::{self, Scope},
};

/// A reader that waits until its queue is less than half full goes on when that is so, or when nothing is queued any more,
/// whoever makes the room: a wake-up that is lost would be a deadlock.
#[test]
fn a_reader_that_waits_for_room_goes_on() {
    static WAITED: Sight = Sight::new("the reader waits for room");
    static HAD_ROOM: Sight = Sight::new("the reader finds room");
    static CLOSED: Sight = Sight::new("the connection is ended while the reader waits");

    fn scene() {
        let stage = Stage::new(1, 1, 1);
        let peer = Peer::new(if below(2) == 0 { Mood::Stalling } else { Mood::Reading });
        let live = stage.live(addr(1), &peer);
        let remains = Remains::of(&live, &peer);
        let traffic = Traffic::new(&stage, &peer, false);
        let reader = {
            let stage = stage.clone();
            thread::spawn(move || {
                let outbox = live.outbox().expect("made with one");
                for number in 0..4 {
                    let is_closed = stage.push(addr(1), (0, number), None) == Err(ErrorKind::NotConnected);
                    let mut has_waited = false;
                    block_on(poll_fn(|cx| {
                        let room = outbox.poll_room(cx);
                        has_waited |= room.is_pending();
                        room
                    }));
                    WAITED.seen_if(has_waited);
                    HAD_ROOM.seen_if(!has_waited);
                    CLOSED.seen_if(has_waited && live.info().has_ended());
                    if is_closed {
                        break;
                    }
                    give_way();
                }
            })
        };
        let others = {
            let traffic = traffic.clone();
            thread::spawn(move || drop(traffic.send_all(1, below(4) as u8)))
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
        for _ in 0..below(4) {
            thread::yield_now();
        }
        peer.set_mood(Mood::Reading);
        reader.join().unwrap();
        others.join().unwrap();
        if let Some(closer) = closer {
            closer.join().unwrap();
        }
        stage.end();
        remains.check();
    }

    explore("a reader waits for room", &[&WAITED, &HAD_ROOM, &CLOSED], scene);
}

/// A write fails while the reader finishes: the connection ends once, by whoever has noticed first, the receipt resolves,
/// and neither waits for the other for ever.
#[test]
fn a_failed_write_waits_for_the_reader_and_no_longer() {
    static BY_WRITER: Sight = Sight::new("the writer ends the connection");
    static LEFT: Sight = Sight::new("the reader leaves the end to the writer");
    static BY_READER: Sight = Sight::new("the reader ends the connection");
    static BY_USER: Sight = Sight::new("`disconnect` ends the connection");

    fn scene() {
        let stage = Stage::new(1, 1, 1);
        let peer = Peer::new(Mood::Resetting);
        let reservation = stage.reserve(addr(1)).expect("there is room");
        let live =
            stage.go_live_as(reservation, |id, addr| stage.connection_with_reader(id, addr, &peer)).expect("open");
        let info = live.info().clone();
        let end_of_input = stage.end_of_input(&live);
        drop(live);
        let sender = {
            let stage = stage.clone();
            thread::spawn(move || stage.send(addr(1), (0, 0)))
        };
        let reader = {
            let info = info.clone();
            thread::spawn(move || {
                let _task = info.tasks().present();
                for _ in 0..below(12) {
                    thread::yield_now();
                }
                block_on(end_of_input);
            })
        };
        let closer = (below(3) == 0).then(|| {
            let stage = stage.clone();
            thread::spawn(move || stage.disconnect(addr(1)))
        });
        let receipt = sender.join().unwrap();
        reader.join().unwrap();
        if let Some(closer) = closer {
            closer.join().unwrap();
        }
        if let Ok(receipt) = receipt {
            assert!(!matches!(block_on(receipt), Ok(Ok(()))), "nothing was taken");
        }
        stage.end();
        let endings = stage.endings();
        assert_eq!(endings.len(), 1, "once: {endings:?}");
        BY_WRITER.seen_if(endings[0] == DisconnectOrigin::Writing);
        LEFT.seen_if(endings[0] == DisconnectOrigin::Writing && info.is_reader_done());
        BY_READER.seen_if(endings[0] == DisconnectOrigin::Reading);
        BY_USER.seen_if(endings[0] == DisconnectOrigin::User);
        assert!(peer.is_closed());
    }

    explore("a failed write", &[&BY_WRITER, &LEFT, &BY_READER, &BY_USER], scene);
}

/// An ending that is begun deep inside of other hooks is handed to a task: it ends once, its caller is told the truth, and
/// it stops with its caller.
#[test]
fn an_ending_that_is_handed_over_ends_once_and_stops_with_its_caller() {
    static BY_TASK: Sight = Sight::new("the task ends the connection");
    static BY_PEER: Sight = Sight::new("the end of the input comes first");
    static CANCELLED: Sight = Sight::new("the caller is dropped before it is told");

    fn scene() {
        let stage = Stage::new(1, 1, 1);
        let peer = Peer::default();
        let live = stage.live(addr(1), &peer);
        let remains = Remains::of(&live, &peer);
        let end_of_input = stage.end_of_input(&live);
        drop(live);
        let caller = {
            let (stage, polls) = (stage.clone(), if below(2) == 0 { usize::MAX } else { 1 + below(3) });
            thread::spawn(move || {
                let mut ending = Box::pin(super::super::disconnect(&stage.kernel, addr(1)));
                let mut is_over = None;
                for _ in 0..polls.min(1_000) {
                    // Inside of more hooks than may share a stack. Nobody else in this scene asks for scopes.
                    let polled = deep(|| {
                        // The first poll decides, and gives way to nobody who would be inside too.
                        ending.as_mut().now_or_never()
                    });
                    drive();
                    if polled.is_some() {
                        is_over = polled;
                        break;
                    }
                    thread::yield_now();
                }
                drop(ending);
                drive();
                is_over
            })
        };
        let own_end = thread::spawn(move || block_on(end_of_input));
        let told = caller.join().unwrap();
        own_end.join().unwrap();
        stage.end();
        let endings = stage.endings();
        assert_eq!(endings.len(), 1, "once: {endings:?}");
        match told {
            Some(true) => assert_eq!(endings, [DisconnectOrigin::User]),
            Some(false) => assert_ne!(endings, [DisconnectOrigin::User]),
            None => CANCELLED.seen_if(true),
        }
        BY_TASK.seen_if(told == Some(true));
        BY_PEER.seen_if(told == Some(false));
        remains.check();
    }

    explore("an ending that is handed over", &[&BY_TASK, &BY_PEER, &CANCELLED], scene);
}

/// Runs inside of so many hooks that another one gets a stack of its own.
fn deep<T>(run: impl FnOnce() -> T) -> T {
    let scope = Scope { node: usize::MAX, connection: None };
    let mut run = Some(run);
    let mut innermost = || run.take().map(|run| run());
    let mut nested: Box<dyn FnMut() -> Option<T> + '_> = Box::new(&mut innermost);
    for _ in 0..6 {
        nested = Box::new(move || inside::poll_within(scope, &mut nested));
    }
    nested().expect("run once")
}
