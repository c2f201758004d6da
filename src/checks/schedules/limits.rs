//! Setups that race for slots, addresses and permits.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use shuttle::{future::block_on, thread};

use super::{
    Sight, below, explore,
    stage::{Stage, addr},
    wire::{Mood, Peer, give_way},
};
use crate::{
    connection::DisconnectOrigin,
    registry::{Counts, Refusal},
};

/// Of two dials to one address, an accept from its IP, and an accept from elsewhere, exactly the first of the address or
/// the IP, and the one from elsewhere, get a slot; a dial that fails midway leaves nothing.
#[test]
fn the_last_slot_and_an_address_go_to_exactly_one() {
    static SECOND_DIAL: Sight = Sight::new("the second dial wins");
    static ACCEPT: Sight = Sight::new("the accept wins");
    static FAILURE: Sight = Sight::new("a dial fails while others are refused for it");

    fn scene() {
        // Room for one connection of the first IP, and for two in all.
        let stage = Stage::new(2, 1, 2);
        let first_fails = below(4) == 0;
        let addrs = [addr(1), addr(1), addr(2), ([10, 0, 0, 2], 1).into()];
        let setups: Vec<_> = addrs
            .into_iter()
            .enumerate()
            .map(|(number, addr)| {
                let stage = stage.clone();
                thread::spawn(move || {
                    let reservation = stage.reserve(addr)?;
                    give_way();
                    if first_fails && number == 0 {
                        drop(reservation);
                        stage.check();
                        return Err(Refusal::Closed);
                    }
                    stage.go_live(reservation, &Peer::default())
                })
            })
            .collect();
        let observer = {
            let stage = stage.clone();
            thread::spawn(move || {
                for _ in 0..3 {
                    stage.check();
                    let Counts { pending, live } = stage.kernel.registry.counts();
                    assert!(pending + live <= 2);
                }
            })
        };
        let results: Vec<_> = setups.into_iter().map(|setup| setup.join().unwrap()).collect();
        observer.join().unwrap();

        let of_ip = results[..3].iter().filter(|result| result.is_ok()).count();
        assert!(of_ip == 1 || (first_fails && of_ip == 0), "{of_ip} of the IP won");
        // The node has a second slot, which nobody else may have.
        assert!(results[3].is_ok(), "refused from elsewhere: {:?}", results[3]);
        assert_eq!(stage.kernel.registry.counts(), Counts { pending: 0, live: 1 + of_ip });
        SECOND_DIAL.seen_if(results[1].is_ok());
        ACCEPT.seen_if(results[2].is_ok());
        FAILURE.seen_if(of_ip == 0);
        drop(results);
        stage.end();
        assert_eq!(stage.endings().len(), 1 + of_ip);
    }

    explore("the last slot", &[&SECOND_DIAL, &ACCEPT, &FAILURE], scene);
}

/// Never more setups are in flight than there are permits, every permit comes back, also from setups that a shutdown ends,
/// and nothing goes live after the shutdown has begun.
#[test]
fn permits_bound_the_setups_and_come_back_whatever_ends_them() {
    static LIVE: Sight = Sight::new("a connection goes live before the shutdown");
    static CUT: Sight = Sight::new("a setup is ended by the shutdown");
    static NO_PERMIT: Sight = Sight::new("a dial finds no permit");
    static HUNG: Sight = Sight::new("a setup that hangs is ended by the shutdown");
    static WAITED: Sight = Sight::new("an accept has to wait for its permit");

    fn scene() {
        let stage = Stage::new(4, 4, 2);
        let (in_flight, live, begun) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::default());
        let setups: Vec<_> = (1..=4)
            .map(|port| {
                let (stage, in_flight, live) = (stage.clone(), Arc::clone(&in_flight), Arc::clone(&live));
                let (is_dial, hangs) = (port <= 2, below(3) == 0);
                thread::spawn(move || {
                    let setups = &stage.kernel.setups;
                    let permit = match setups.try_acquire() {
                        Err(_) if is_dial => return NO_PERMIT.seen_if(true),
                        Err(_) => {
                            WAITED.seen_if(true);
                            block_on(setups.acquire()).unwrap()
                        }
                        Ok(permit) => permit,
                    };
                    assert!(in_flight.fetch_add(1, Ordering::Relaxed) < 2, "more setups than permits");
                    let result = block_on(stage.set_up(addr(port), &Peer::new(Mood::Reading), hangs));
                    HUNG.seen_if(hangs && result.is_err());
                    stage.check();
                    assert!(stage.kernel.registry.counts().pending <= 2);
                    in_flight.fetch_sub(1, Ordering::Relaxed);
                    drop(permit);
                    live.fetch_add(usize::from(result.is_ok()), Ordering::Relaxed);
                    CUT.seen_if(result.is_err());
                })
            })
            .collect();
        let shutdown = {
            let (stage, begun): (_, Arc<AtomicUsize>) = (stage.clone(), Arc::clone(&begun));
            thread::spawn(move || {
                give_way();
                begun.fetch_add(1, Ordering::Relaxed);
                stage.shut_down();
                assert_eq!(stage.kernel.registry.counts(), Counts::default());
                assert_eq!(stage.reserve(addr(9)).err(), Some(Refusal::Closed));
            })
        };
        for thread in setups {
            thread.join().unwrap();
        }
        shutdown.join().unwrap();
        assert_eq!(stage.kernel.setups.available_permits(), 2);
        assert_eq!(stage.kernel.registry.counts(), Counts::default());
        stage.end();
        let endings = stage.endings();
        assert_eq!(endings.len(), live.load(Ordering::Relaxed), "once for each that went live");
        assert!(endings.iter().all(|origin| *origin == DisconnectOrigin::Shutdown));
        LIVE.seen_if(!endings.is_empty());
    }

    explore("permits against a shutdown", &[&LIVE, &CUT, &HUNG, &NO_PERMIT, &WAITED], scene);
}
