//! Random operations on the registry against a reference model that is too simple to be wrong; invariants `conserved`,
//! `limited`, `no-stranger` and `monotonic-close` are checked after every step.
//!
//! `REGISTRY_SEED=n cargo test registry` repeats the walk of a printed seed.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{Counts, Refusal, Registry, Reservation, SlotLimits, Teardown};
use crate::connection::DisconnectOrigin;

const LIMITS: SlotLimits = SlotLimits { node: 5, per_ip: 2 };
const WALKS: u64 = 300;
const STEPS: usize = 400;

/// A connection: its number is its identity.
#[derive(Debug, PartialEq)]
struct Fake(u64);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    Connecting,
    Live(u64),
    Closing(u64),
}

#[derive(Default)]
struct Model {
    closed: bool,
    slots: BTreeMap<SocketAddr, Phase>,
}

impl Model {
    fn refusal(&self, addr: SocketAddr) -> Option<Refusal> {
        let ip = addr.ip().to_canonical();
        let of_ip = self.slots.keys().filter(|other| other.ip().to_canonical() == ip).count();
        if self.closed {
            Some(Refusal::Closed)
        } else if self.slots.contains_key(&addr) {
            Some(Refusal::Occupied)
        } else if of_ip >= usize::from(LIMITS.per_ip) {
            Some(Refusal::IpLimit(ip))
        } else if self.slots.len() >= usize::from(LIMITS.node) {
            Some(Refusal::NodeLimit)
        } else {
            None
        }
    }
}

struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }
}

struct Walk {
    rng: Rng,
    registry: Arc<Registry<Fake>>,
    model: Model,
    reservations: Vec<Reservation<Fake>>,
    teardowns: Vec<(SocketAddr, u64, Teardown<Fake>)>,
    /// Every connection that ever went live, so that the dead are still at hand.
    connections: HashMap<u64, (SocketAddr, Arc<Fake>)>,
    next: u64,
}

impl Walk {
    fn addr(&mut self) -> SocketAddr {
        let ips: [IpAddr; 4] = ["10.0.0.1", "10.0.0.2", "::ffff:10.0.0.1", "2001:db8::1"].map(|ip| ip.parse().unwrap());
        SocketAddr::new(ips[self.rng.below(ips.len())], 1 + u16::try_from(self.rng.below(3)).unwrap())
    }

    fn step(&mut self) {
        match self.rng.below(100) {
            0..35 => self.reserve(),
            35..45 => self.drop_reservation(),
            45..65 => self.establish(),
            65..75 => self.claim_any(),
            75..85 => self.claim_one(),
            85..98 => self.drop_teardown(),
            98 if self.rng.below(4) == 0 => self.close(),
            _ => self.evict(),
        }
    }

    fn reserve(&mut self) {
        let addr = self.addr();
        let result = self.registry.reserve(addr);
        assert_eq!(result.as_ref().err().copied(), self.model.refusal(addr), "reserve {addr}");
        if let Ok(reservation) = result {
            self.model.slots.insert(addr, Phase::Connecting);
            self.reservations.push(reservation);
        }
    }

    fn take_reservation(&mut self) -> Option<Reservation<Fake>> {
        let place = self.rng.below(self.reservations.len().max(1));
        (place < self.reservations.len()).then(|| self.reservations.swap_remove(place))
    }

    fn drop_reservation(&mut self) {
        let Some(reservation) = self.take_reservation() else { return };
        // A void reservation has no slot any more, and a closed registry gives its address to nobody else.
        if self.model.slots.get(&reservation.addr()) == Some(&Phase::Connecting) {
            self.model.slots.remove(&reservation.addr());
        }
    }

    fn establish(&mut self) {
        let Some(reservation) = self.take_reservation() else { return };
        let (addr, number) = (reservation.addr(), self.next);
        self.next += 1;
        let connection = Arc::new(Fake(number));
        let result = reservation.establish(Arc::clone(&connection));
        assert_eq!(result.is_err(), self.model.closed, "establish {addr}");
        if result.is_ok() {
            self.connections.insert(number, (addr, connection));
            self.model.slots.insert(addr, Phase::Live(number));
        }
    }

    fn claim_any(&mut self) {
        let addr = self.addr();
        let claim = self.registry.claim(addr, None, DisconnectOrigin::User);
        let live = match self.model.slots.get(&addr) {
            Some(Phase::Live(number)) => Some(*number),
            _ => None,
        };
        assert_eq!(claim.as_ref().map(|claim| claim.connection().0), live, "claim {addr}");
        if let (Some(claim), Some(number)) = (claim, live) {
            self.model.slots.insert(addr, Phase::Closing(number));
            self.teardowns.push((addr, number, claim));
        }
    }

    /// Claims one certain connection, which may have died long ago and have a successor at its address.
    fn claim_one(&mut self) {
        if self.next == 0 {
            return;
        }
        let number = self.rng.below(usize::try_from(self.next).unwrap()) as u64;
        let Some((addr, connection)) = self.connections.get(&number).cloned() else { return };
        let claim = self.registry.claim(addr, Some(Arc::as_ptr(&connection)), DisconnectOrigin::Reading);
        let is_live = self.model.slots.get(&addr) == Some(&Phase::Live(number));
        assert_eq!(claim.is_some(), is_live, "claim {number} at {addr}");
        if let Some(claim) = claim {
            assert_eq!(claim.origin(), DisconnectOrigin::Reading);
            self.model.slots.insert(addr, Phase::Closing(number));
            self.teardowns.push((addr, number, claim));
        }
    }

    fn drop_teardown(&mut self) {
        let place = self.rng.below(self.teardowns.len().max(1));
        if place < self.teardowns.len() {
            let (addr, number, claim) = self.teardowns.swap_remove(place);
            drop(claim);
            if self.model.slots.get(&addr) == Some(&Phase::Closing(number)) {
                self.model.slots.remove(&addr);
            }
        }
    }

    fn close(&mut self) {
        let claims = self.registry.close();
        self.model.closed = true;
        self.model.slots.retain(|_, phase| *phase != Phase::Connecting);
        let live: Vec<_> = self.model.slots.iter().filter(|(_, phase)| matches!(phase, Phase::Live(_))).collect();
        assert_eq!(claims.len(), live.len());
        for claim in claims {
            let (addr, number) = (claim.addr(), claim.connection().0);
            assert_eq!(claim.origin(), DisconnectOrigin::Shutdown);
            assert_eq!(self.model.slots.insert(addr, Phase::Closing(number)), Some(Phase::Live(number)));
            self.teardowns.push((addr, number, claim));
        }
    }

    fn evict(&mut self) {
        if self.model.closed {
            assert_eq!(self.registry.evict_all().len(), self.model.slots.len());
            self.model.slots.clear();
        }
    }

    fn check(&self) {
        self.registry.assert_conserved();
        let pending = self.model.slots.values().filter(|phase| **phase == Phase::Connecting).count();
        assert_eq!(self.registry.counts(), Counts { pending, live: self.model.slots.len() - pending });
        assert_eq!(self.registry.is_closed(), self.model.closed);
        assert_eq!(self.registry.is_closed_and_empty(), self.model.closed && self.model.slots.is_empty());
        let mut listed: Vec<_> = self.registry.all().into_iter().map(|(addr, fake)| (addr, fake.0)).collect();
        listed.sort_unstable();
        let connected = |(addr, phase): (&SocketAddr, &Phase)| match phase {
            Phase::Connecting => None,
            Phase::Live(number) | Phase::Closing(number) => Some((*addr, *number)),
        };
        let expected: Vec<_> = self.model.slots.iter().filter_map(connected).collect();
        assert_eq!(listed, expected);
        for (addr, phase) in &self.model.slots {
            assert_eq!(self.registry.is_connecting(*addr), *phase == Phase::Connecting);
            assert_eq!(self.registry.is_connected(*addr), *phase != Phase::Connecting);
            let dialable = if self.model.closed {
                Err(Refusal::Closed)
            } else if *phase == Phase::Connecting {
                Ok(())
            } else {
                Err(Refusal::Occupied)
            };
            assert_eq!(self.registry.check_dial(*addr), dialable);
        }
    }
}

#[test]
fn random_walks_agree_with_the_model_at_every_step() {
    let given = std::env::var("REGISTRY_SEED").ok().map(|seed| seed.parse().expect("REGISTRY_SEED is a number"));
    let first: u64 = given.unwrap_or_else(|| {
        use std::hash::{BuildHasher, RandomState};
        RandomState::new().hash_one("registry") | 1
    });
    for walk_seed in (first..).take(if given.is_some() { 1 } else { usize::try_from(WALKS).unwrap() }) {
        let mut walk = Walk {
            rng: Rng(walk_seed | 1),
            registry: Arc::new(Registry::new(LIMITS)),
            model: Model::default(),
            reservations: Vec::new(),
            teardowns: Vec::new(),
            connections: HashMap::new(),
            next: 0,
        };
        for step in 0..STEPS {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                walk.step();
                walk.check();
            }));
            assert!(outcome.is_ok(), "REGISTRY_SEED={walk_seed} fails at step {step}");
        }
        drop(std::mem::take(&mut walk.reservations));
        drop(std::mem::take(&mut walk.teardowns));
        walk.registry.assert_conserved();
        let left = walk.model.slots.values().filter(|phase| matches!(phase, Phase::Live(_))).count();
        assert_eq!(walk.registry.counts(), Counts { pending: 0, live: left }, "only unclaimed connections stay");
    }
}

#[test]
fn whoever_waits_for_the_end_is_woken_by_the_last_release() {
    use futures_util::FutureExt;
    let registry = Arc::new(Registry::new(LIMITS));
    let addr = "10.0.0.1:1".parse().unwrap();
    registry.reserve(addr).unwrap().establish(Arc::new(Fake(0))).unwrap();
    let claims = registry.close();
    let mut drained = Box::pin(crate::task::wait_until(registry.changed(), || registry.is_closed_and_empty()));
    assert!(drained.as_mut().now_or_never().is_none());
    drop(claims);
    assert!(drained.now_or_never().is_some());
}
