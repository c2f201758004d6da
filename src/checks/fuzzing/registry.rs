//! Any sequence of operations on the registry beside a reference model that is too simple to be wrong; invariants
//! `conserved`, `limited`, `no-stranger` and `monotonic-close` are checked after every step.

use std::{
    collections::{BTreeMap, HashMap},
    net::{SocketAddr, SocketAddrV6},
    sync::Arc,
};

use futures_util::FutureExt;

use super::input::Input;
use crate::{
    connection::{ConnId, DisconnectOrigin},
    host::Host,
    registry::{
        Counts, Refusal, Registry, Reservation, SlotLimits, Teardown,
        waiting::{Outlook, Place},
    },
};

/// The first of the ports that only the probes use.
const PROBE_PORT: u16 = 1_000;

/// A connection: its number is its identity.
#[derive(Debug, PartialEq)]
struct Fake(u64);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    Connecting,
    Live(u64),
    Draining(u64),
    Closing(u64),
}

impl Phase {
    fn is_ending(self) -> bool {
        matches!(self, Self::Draining(_) | Self::Closing(_))
    }
}

struct Model {
    limits: SlotLimits,
    closed: bool,
    slots: BTreeMap<SocketAddr, Phase>,
}

impl Model {
    fn of_ip(&self, ip: Host) -> usize {
        self.slots.keys().filter(|other| Host::of(**other) == ip).count()
    }

    fn refusal(&self, addr: SocketAddr) -> Option<Refusal> {
        let ip = Host::of(addr);
        if self.closed {
            Some(Refusal::Closed)
        } else if self.slots.contains_key(&addr) {
            Some(Refusal::Occupied)
        } else if self.of_ip(ip) >= usize::from(self.limits.per_ip) {
            Some(Refusal::IpLimit(ip))
        } else if self.slots.len() >= usize::from(self.limits.node) {
            Some(Refusal::NodeLimit)
        } else {
            None
        }
    }

    fn outlook(&self, addr: SocketAddr) -> Outlook {
        let is_own = |other: &SocketAddr| Host::of(*other) == Host::of(addr);
        let is_ending = match self.refusal(addr) {
            None => return Outlook::Vacant,
            Some(Refusal::Closed) => false,
            Some(Refusal::Occupied) => self.slots[&addr].is_ending(),
            Some(_) => self.slots.iter().any(|(other, phase)| is_own(other) && phase.is_ending()),
        };
        match self.refusal(addr) {
            Some(refusal) if !is_ending => Outlook::Refused(refusal),
            _ => Outlook::Ending,
        }
    }

    fn is_drained(&self) -> bool {
        self.closed && self.slots.is_empty()
    }

    fn check_dial(&self, addr: SocketAddr) -> Result<(), Refusal> {
        match self.slots.get(&addr) {
            _ if self.closed => Err(Refusal::Closed),
            None | Some(Phase::Connecting) => Ok(()),
            Some(Phase::Live(_) | Phase::Draining(_) | Phase::Closing(_)) => Err(Refusal::Occupied),
        }
    }
}

/// Names the step of a walk that panics.
struct Step(usize);

impl Drop for Step {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the registry and the model disagree at step {}", self.0);
        }
    }
}

struct Walk<'a> {
    input: Input<'a>,
    registry: Arc<Registry<Fake>>,
    model: Model,
    reservations: Vec<Reservation<Fake>>,
    teardowns: Vec<(SocketAddr, u64, Teardown<Fake>)>,
    /// Who waits, and whether there is something to be told.
    places: Vec<(SocketAddr, Place<Fake>, bool)>,
    /// Every connection that ever went live, the dead among them.
    connections: HashMap<u64, (SocketAddr, ConnId, Arc<Fake>)>,
    next: u64,
}

/// Runs the operations that the bytes choose.
///
/// # Panics
/// If the registry does not do what the model does.
pub fn check_registry(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let limits = SlotLimits { node: 1 + input.below(8) as u16, per_ip: 1 + input.below(4) as u16 };
    let mut walk = Walk {
        input,
        registry: Arc::new(Registry::new(limits)),
        model: Model { limits, closed: false, slots: BTreeMap::new() },
        reservations: Vec::new(),
        teardowns: Vec::new(),
        places: Vec::new(),
        connections: HashMap::new(),
        next: 0,
    };
    let mut steps = Step(0);
    while !walk.input.is_empty() {
        walk.step();
        walk.check();
        steps.0 += 1;
    }
    walk.probe();
    walk.reservations.clear();
    walk.teardowns.clear();
    walk.places.clear();
    walk.model.slots.retain(|_, phase| matches!(phase, Phase::Live(_) | Phase::Draining(_)));
    walk.check();
    walk.probe();
    let registry = Arc::downgrade(&walk.registry);
    drop(walk);
    assert!(registry.upgrade().is_none(), "a registry without guards is gone");
}

/// An address with any port: of two IPv4 hosts, one of them in both forms, and of one link-local address on two links.
fn addr_of(host: usize, port: u16) -> SocketAddr {
    let ip: [u16; 8] = match host {
        0 => return ([10, 0, 0, 1], port).into(),
        1 => return ([10, 0, 0, 2], port).into(),
        2 => [0, 0, 0, 0, 0, 0xffff, 0x0a00, 0x0001],
        _ => [0xfe80, 0, 0, 0, 0, 0, 0, 1],
    };
    let scope = if host < 3 { 0 } else { host as u32 };
    SocketAddrV6::new(ip.into(), port, 0, scope).into()
}

const HOSTS: usize = 5;

impl Walk<'_> {
    fn addr(&mut self) -> SocketAddr {
        let choice = self.input.below(3 * HOSTS);
        addr_of(choice / 3, 1 + (choice % 3) as u16)
    }

    fn step(&mut self) {
        let registry = Arc::clone(&self.registry);
        let mut change = Box::pin(registry.changed().notified());
        change.as_mut().enable();
        let was_drained = self.model.is_drained();
        let mut is_change = false;
        match self.input.below(100) {
            0..29 => self.reserve(),
            29..37 => self.drop_reservation(),
            37..55 => self.establish(),
            55..62 => self.claim_any(),
            62..70 => self.claim_one(),
            70..76 => self.end_stream(),
            76..83 => self.queue_up(),
            83..87 => self.drop_place(),
            87..95 => self.drop_teardown(),
            95 if self.input.below(4) == 0 => {
                self.close();
                is_change = true;
            }
            96 | 97 => {
                is_change = self.model.closed;
                self.evict();
            }
            _ => self.probe(),
        }
        is_change |= self.model.is_drained() && !was_drained;
        assert_eq!(
            change.now_or_never().is_some(),
            is_change,
            "whoever waits for a change is told of it, and of no other"
        );
    }

    fn reserve(&mut self) {
        let addr = self.addr();
        let result = self.registry.reserve(addr);
        assert_eq!(result.as_ref().err().copied(), self.model.refusal(addr), "reserve {addr}");
        if let Ok(reservation) = result {
            assert_eq!(reservation.addr(), addr);
            self.model.slots.insert(addr, Phase::Connecting);
            self.reservations.push(reservation);
        }
    }

    fn take_reservation(&mut self) -> Option<Reservation<Fake>> {
        let place = self.input.below(self.reservations.len().max(1));
        (place < self.reservations.len()).then(|| self.reservations.swap_remove(place))
    }

    fn drop_reservation(&mut self) {
        let Some(reservation) = self.take_reservation() else { return };
        // A void reservation has no slot any more, and a closed registry gives its address to nobody else.
        if self.model.slots.get(&reservation.addr()) == Some(&Phase::Connecting) {
            self.model.slots.remove(&reservation.addr());
            self.tell(reservation.addr());
        }
    }

    /// A slot of the address's host has begun to end or was released.
    fn tell(&mut self, addr: SocketAddr) {
        for (waiting, _, is_told) in &mut self.places {
            *is_told |= Host::of(*waiting) == Host::of(addr);
        }
    }

    /// The peer of one certain connection, which may have died long ago, closes its side.
    fn end_stream(&mut self) {
        let Some((number, addr, id)) = self.any_connection() else { return };
        self.registry.end_of_stream(addr, id);
        if self.model.slots.get(&addr) == Some(&Phase::Live(number)) {
            self.model.slots.insert(addr, Phase::Draining(number));
            self.tell(addr);
        }
    }

    fn queue_up(&mut self) {
        let (addr, model) = (self.addr(), &self.model);
        let is_taken = self.places.iter().any(|(other, ..)| Host::of(*other) == Host::of(addr));
        let is_full = model.slots.len() >= usize::from(model.limits.node) && model.of_ip(Host::of(addr)) == 0;
        let place = self.registry.queue_up(addr);
        assert_eq!(place.is_some(), !(model.closed || is_taken || is_full), "a place for {addr}");
        self.places.extend(place.map(|place| (addr, place, false)));
    }

    fn drop_place(&mut self) {
        let place = self.input.below(self.places.len().max(1));
        if place < self.places.len() {
            self.places.swap_remove(place);
        }
    }

    fn establish(&mut self) {
        let Some(reservation) = self.take_reservation() else { return };
        let (addr, id, number) = (reservation.addr(), reservation.id(), self.next);
        self.next += 1;
        let connection = Arc::new(Fake(number));
        let result = reservation.establish(Arc::clone(&connection));
        assert_eq!(result, if self.model.closed { Err(Refusal::Closed) } else { Ok(()) }, "establish {addr}");
        self.connections.insert(number, (addr, id, connection));
        if result.is_ok() {
            self.model.slots.insert(addr, Phase::Live(number));
        }
    }

    /// Claims whatever is live at an address.
    fn claim_any(&mut self) {
        let addr = self.addr();
        let (Some(Phase::Live(number)) | Some(Phase::Draining(number))) = self.model.slots.get(&addr) else { return };
        let number = *number;
        let (_, id, _) = self.connections[&number];
        let claim = self.registry.claim(addr, id, DisconnectOrigin::User);
        assert_eq!(claim.as_ref().map(|claim| claim.connection().0), Some(number), "claim {addr}");
        if let Some(claim) = claim {
            self.keep_claim(addr, number, claim, DisconnectOrigin::User);
        }
    }

    fn any_connection(&mut self) -> Option<(u64, SocketAddr, ConnId)> {
        let range = usize::try_from(self.next).unwrap_or(usize::MAX).clamp(1, 256);
        let number = self.next.saturating_sub(1 + self.input.below(range) as u64);
        self.connections.get(&number).map(|&(addr, id, _)| (number, addr, id))
    }

    /// Claims one certain connection, which may have died long ago and have a successor at its address.
    fn claim_one(&mut self) {
        let Some((number, addr, id)) = self.any_connection() else { return };
        let claim = self.registry.claim(addr, id, DisconnectOrigin::Reading);
        let phase = self.model.slots.get(&addr);
        let is_live = phase == Some(&Phase::Live(number)) || phase == Some(&Phase::Draining(number));
        assert_eq!(claim.is_some(), is_live, "claim {number} at {addr}");
        if let Some(claim) = claim {
            self.keep_claim(addr, number, claim, DisconnectOrigin::Reading);
        }
    }

    fn keep_claim(&mut self, addr: SocketAddr, number: u64, claim: Teardown<Fake>, origin: DisconnectOrigin) {
        assert_eq!((claim.addr(), claim.origin(), claim.connection()), (addr, origin, &Fake(number)));
        let before = self.model.slots.insert(addr, Phase::Closing(number));
        if before == Some(Phase::Live(number)) {
            // The end of the whole registry is told in another way.
            if origin != DisconnectOrigin::Shutdown {
                self.tell(addr);
            }
        } else {
            assert_eq!(before, Some(Phase::Draining(number)));
        }
        self.teardowns.push((addr, number, claim));
    }

    fn drop_teardown(&mut self) {
        let place = self.input.below(self.teardowns.len().max(1));
        if place < self.teardowns.len() {
            let (addr, number, claim) = self.teardowns.swap_remove(place);
            drop(claim);
            if self.model.slots.get(&addr) == Some(&Phase::Closing(number)) {
                self.model.slots.remove(&addr);
                self.tell(addr);
            }
        }
    }

    fn close(&mut self) {
        let claims = self.registry.close();
        self.model.closed = true;
        self.model.slots.retain(|_, phase| *phase != Phase::Connecting);
        let is_live = |phase: &&Phase| matches!(phase, Phase::Live(_) | Phase::Draining(_));
        assert_eq!(claims.len(), self.model.slots.values().filter(is_live).count());
        for claim in claims {
            let (addr, number) = (claim.addr(), claim.connection().0);
            self.keep_claim(addr, number, claim, DisconnectOrigin::Shutdown);
        }
    }

    fn evict(&mut self) {
        if self.model.closed {
            assert_eq!(self.registry.evict_all().len(), self.model.slots.len());
            self.model.slots.clear();
        }
    }

    /// Takes every slot that is left, to see that it is neither one more nor one less than the limits say.
    fn probe(&mut self) {
        for host in 0..HOSTS {
            let ip = Host::of(addr_of(host, 1));
            let left_of_ip = usize::from(self.model.limits.per_ip) - self.model.of_ip(ip);
            let left = usize::from(self.model.limits.node) - self.model.slots.len();
            let refusal = match () {
                () if self.model.closed => Refusal::Closed,
                () if left_of_ip <= left => Refusal::IpLimit(ip),
                () => Refusal::NodeLimit,
            };
            let mut probes = Vec::new();
            let refused = loop {
                match self.registry.reserve(addr_of(host, PROBE_PORT + probes.len() as u16)) {
                    Ok(probe) => probes.push(probe),
                    Err(refusal) => break refusal,
                }
            };
            assert_eq!((probes.len(), refused), (if self.model.closed { 0 } else { left.min(left_of_ip) }, refusal));
            if !probes.is_empty() {
                self.tell(addr_of(host, 1));
            }
        }
    }

    fn check(&mut self) {
        for (addr, place, is_told) in &mut self.places {
            assert_eq!(place.outlook(), self.model.outlook(*addr), "the outlook of {addr}");
            assert_eq!(place.changed().notified().now_or_never().is_some(), std::mem::take(is_told), "told of {addr}");
        }
        #[cfg(test)]
        self.registry.assert_conserved();
        let pending = self.model.slots.values().filter(|phase| **phase == Phase::Connecting).count();
        assert_eq!(self.registry.counts(), Counts { pending, live: self.model.slots.len() - pending });
        assert_eq!(self.registry.is_closed(), self.model.closed);
        assert_eq!(self.registry.is_closed_and_empty(), self.model.is_drained());
        let mut listed: Vec<_> = self.registry.all().into_iter().map(|(addr, fake)| (addr, fake.0)).collect();
        listed.sort_unstable();
        let connected = |(addr, phase): (&SocketAddr, &Phase)| match phase {
            Phase::Connecting => None,
            Phase::Live(number) | Phase::Draining(number) | Phase::Closing(number) => Some((*addr, *number)),
        };
        let expected: Vec<_> = self.model.slots.iter().filter_map(connected).collect();
        assert_eq!(listed, expected);
        for addr in (0..HOSTS).flat_map(|host| (1..=3).map(move |port| addr_of(host, port))) {
            let phase = self.model.slots.get(&addr);
            let is_connecting = phase == Some(&Phase::Connecting);
            assert_eq!(self.registry.is_connecting(addr), is_connecting);
            assert_eq!(self.registry.check_dial(addr), self.model.check_dial(addr));
            let number = expected.iter().find(|(other, _)| *other == addr).map(|(_, number)| *number);
            assert_eq!(self.registry.visit(addr, |fake| fake.0), number);
        }
        self.check_owners();
    }

    /// Each connection is held by its slot and by the claim of its end, and by nothing else.
    fn check_owners(&self) {
        for (number, (_, _, connection)) in &self.connections {
            let is_listed = |phase: &&Phase| matches!(phase, Phase::Live(own) | Phase::Draining(own) | Phase::Closing(own) if own == number);
            let slots = self.model.slots.values().filter(is_listed).count();
            let claims = self.teardowns.iter().filter(|(_, own, _)| own == number).count();
            assert_eq!(Arc::strong_count(connection), 1 + slots + claims, "the owners of connection {number}");
        }
    }
}
