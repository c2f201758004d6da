//! Endings that race: for the claim, with a successor at the same address, and with their own cancellation.

use std::{future::poll_fn, pin::pin, task::Poll};

use shuttle::{future::block_on, thread};

use super::{
    Sight, below, drive, explore,
    stage::{Remains, Stage, addr, driven},
    wire::{Mood, Peer},
};
use crate::{
    connection::DisconnectOrigin,
    inside::{self, Scope},
    registry::Refusal,
};

/// Two calls of `disconnect`, the end of the input and a shutdown race, while somebody dials the address again.
#[test]
fn a_connection_ends_once_for_one_reason_and_its_successor_by_its_own() {
    static BY_USER: Sight = Sight::new("`disconnect` wins");
    static BY_PEER: Sight = Sight::new("the end of the input wins");
    static BY_SHUTDOWN: Sight = Sight::new("the shutdown wins");
    static SUCCEEDED: Sight = Sight::new("the successor lives beyond the race");
    static BOTH: Sight = Sight::new("each `disconnect` ends one of the two");

    fn scene() {
        let stage = Stage::new(2, 2, 2);
        let peers = [Peer::default(), Peer::default()];
        let first = stage.live(addr(1), &peers[0]);
        let remains = Remains::of(&first, &peers[0]);
        let end_of_input = stage.end_of_input(&first);
        drop(first);

        let disconnects = [0, below(40)].map(|delay| {
            let stage = stage.clone();
            thread::spawn(move || {
                for _ in 0..delay {
                    thread::yield_now();
                }
                let has_ended = stage.disconnect(addr(1));
                stage.check();
                has_ended
            })
        });
        let own_end = thread::spawn(move || block_on(end_of_input));
        let redial = {
            let (stage, peer) = (stage.clone(), peers[1].clone());
            thread::spawn(move || {
                let mut reservation = stage.reserve(addr(1));
                for _ in 0..5 {
                    if !matches!(reservation, Err(Refusal::Occupied)) {
                        break;
                    }
                    thread::yield_now();
                    reservation = stage.reserve(addr(1));
                }
                let live = stage.go_live(reservation?, &peer)?;
                Ok::<_, Refusal>(Remains::of(&live, &peer))
            })
        };
        let with_shutdown = below(3) == 0;
        let shutdown = with_shutdown.then(|| {
            let stage = stage.clone();
            thread::spawn(move || stage.shut_down())
        });
        let by_users = disconnects.into_iter().map(|thread| usize::from(thread.join().unwrap())).sum::<usize>();
        own_end.join().unwrap();
        let successor = redial.join().unwrap();
        if let Some(shutdown) = shutdown {
            shutdown.join().unwrap();
        }

        let before_the_end = stage.endings();
        let live = 1 + usize::from(successor.is_ok()) - before_the_end.len();
        assert_eq!(stage.kernel.registry.counts().live, live, "once each: {before_the_end:?}");
        SUCCEEDED.seen_if(live == 1 && successor.is_ok());
        stage.end();
        remains.check();
        if let Ok(remains) = &successor {
            remains.check();
        }
        let endings = stage.endings();
        assert_eq!(endings.len(), 1 + usize::from(successor.is_ok()), "once each: {endings:?}");
        let count = |sought| endings.iter().filter(|origin| **origin == sought).count();
        assert_eq!(count(DisconnectOrigin::User), by_users, "each `true` is one ending: {endings:?}");
        if let Some(of_successor) = endings.get(1) {
            assert_ne!(*of_successor, DisconnectOrigin::Reading, "the input that ended was the predecessor's");
        }
        BY_USER.seen_if(endings[0] == DisconnectOrigin::User);
        BY_PEER.seen_if(endings[0] == DisconnectOrigin::Reading);
        BY_SHUTDOWN.seen_if(with_shutdown && before_the_end.first() == Some(&DisconnectOrigin::Shutdown));
        BOTH.seen_if(by_users == 2);
    }

    explore("endings", &[&BY_USER, &BY_PEER, &BY_SHUTDOWN, &SUCCEEDED, &BOTH], scene);
}

/// A hook that disconnects its own peer means its own connection, also when that one ends under its hands and its address
/// is dialled again.
#[test]
fn a_disconnect_from_a_task_of_a_connection_never_ends_the_successor() {
    static SUCCEEDED: Sight = Sight::new("there is a successor");
    static OWN: Sight = Sight::new("the connection is ended by its own hook");

    fn scene() {
        let stage = Stage::new(2, 2, 2);
        let peers = [Peer::default(), Peer::default()];
        let first = stage.live(addr(1), &peers[0]);
        let end_of_input = stage.end_of_input(&first);
        let own = (first.info().id(), addr(1));
        drop(first);

        let inside = {
            let stage = stage.clone();
            thread::spawn(move || {
                let scope = Scope { node: stage.kernel.identity(), connection: Some(own) };
                let mut disconnect = Box::pin(driven(super::super::disconnect(&stage.kernel, addr(1))));
                // The others in this scene ask for no scope while this one is marked.
                block_on(poll_fn(|cx| inside::poll_within(scope, || disconnect.as_mut().poll(cx))))
            })
        };
        let own_end = thread::spawn(move || block_on(end_of_input));
        let redial = {
            let (stage, peer) = (stage.clone(), peers[1].clone());
            thread::spawn(move || {
                for _ in 0..3 {
                    if let Ok(reservation) = stage.reserve(addr(1)) {
                        return stage.go_live(reservation, &peer).ok();
                    }
                    thread::yield_now();
                }
                None
            })
        };
        let by_itself = inside.join().unwrap();
        own_end.join().unwrap();
        let successor = redial.join().unwrap();

        let endings = stage.endings();
        let expected = if by_itself { DisconnectOrigin::User } else { DisconnectOrigin::Reading };
        assert_eq!(endings, [expected], "the successor is untouched");
        assert_eq!(stage.kernel.registry.counts().live, usize::from(successor.is_some()));
        OWN.seen_if(by_itself);
        SUCCEEDED.seen_if(successor.is_some());
        drop(successor);
        stage.end();
        assert!(peers[0].is_closed());
    }

    explore("a disconnect from inside", &[&SUCCEEDED, &OWN], scene);
}

/// An ending that is dropped at any of its awaits, with a peer that takes nothing, has released the slot, stopped the
/// writer and resolved the receipts.
#[test]
fn a_cancelled_ending_releases_everything_at_once() {
    static CANCELLED: Sight = Sight::new("the ending is dropped before its end");
    static LATE: Sight = Sight::new("the ending is dropped while the writer waits for the peer");
    static UNBEGUN: Sight = Sight::new("the ending is dropped before it has begun");
    static WOKEN: Sight = Sight::new("the peer reads on and everything is flushed");

    fn scene() {
        let stage = Stage::new(1, 1, 1);
        let peer = Peer::new(Mood::Stalling);
        let live = stage.live(addr(1), &peer);
        let remains = Remains::of(&live, &peer);
        drop(live);
        let sender = {
            let stage = stage.clone();
            thread::spawn(move || (0..3).map(|number| (number, stage.send(addr(1), (0, number)))).collect::<Vec<_>>())
        };
        let cancelled = {
            let (stage, peer, polls) = (stage.clone(), peer.clone(), below(5));
            thread::spawn(move || {
                let mut ending = Box::pin(super::super::disconnect(&stage.kernel, addr(1)));
                let mut result = None;
                for _ in 0..polls {
                    let mut once = pin!(poll_fn(|cx| Poll::Ready(ending.as_mut().poll(cx))));
                    if let Poll::Ready(has_ended) = block_on(once.as_mut()) {
                        result = Some(has_ended);
                        break;
                    }
                    thread::yield_now();
                }
                LATE.seen_if(result.is_none() && polls > 0 && peer.keeps_waiting());
                drop(ending);
                drive();
                if result.is_none() && polls > 0 {
                    // The slot is free already: the only one that there is.
                    drop(stage.reserve(addr(1)).expect("the slot has been released"));
                }
                CANCELLED.seen_if(result.is_none() && polls > 0);
                UNBEGUN.seen_if(polls == 0);
                (result, polls)
            })
        };
        let awake = {
            let (peer, wakes) = (peer.clone(), below(2) == 0);
            thread::spawn(move || {
                if wakes {
                    thread::yield_now();
                    peer.set_mood(Mood::Reading);
                }
            })
        };
        let (result, polls) = cancelled.join().unwrap();
        let sent = sender.join().unwrap();
        awake.join().unwrap();
        assert_ne!(result, Some(false), "nobody else ends it");
        assert_eq!(stage.kernel.registry.counts().live, usize::from(polls == 0));
        if polls == 0 {
            // A graceful end waits for the peer.
            peer.set_mood(Mood::Reading);
        }
        stage.end();
        remains.check();
        assert_eq!(stage.endings().len(), 1);
        let mut all_flushed = true;
        for (number, receipt) in sent {
            let Ok(receipt) = receipt else { continue };
            // One that is never resolved would be a deadlock.
            let is_confirmed = matches!(block_on(receipt), Ok(Ok(())));
            all_flushed &= is_confirmed;
            assert!(!is_confirmed || peer.messages().contains(&(0, number)), "confirmed, and never written");
        }
        WOKEN.seen_if(all_flushed && !peer.messages().is_empty());
    }

    explore("cancelled endings", &[&CANCELLED, &LATE, &UNBEGUN, &WOKEN], scene);
}
