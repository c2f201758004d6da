//! The one lock over connections: slots, counts, limits and the gate.
//!
//! Every transition of a connection's life is one method here and one critical section. Nothing in this file awaits,
//! does I/O, logs, or runs user code; what a transition displaces is moved out under the lock and dropped after it.
//!
//! ```text
//!                                                      +--end of stream--> Draining--+
//!                                                      |                             |
//! (vacant) --reserve--> Connecting --establish--> Live-+-----------claim-------------+--> Closing --release--> (vacant)
//!                           |                                                                 ^
//!                           +--any failure, panic, timeout, cancel----------------------------+--> (vacant)
//! ```
//!
//! A [`Reservation`] is the right to a `Connecting` slot, a [`Teardown`] the right to a `Closing` one. Dropping either
//! releases the slot, however the code that held it ended. Nothing else does, except for the end of the whole registry:
//! whoever holds a guard then may never be polled again. A [`Place`](waiting::Place) is the right to be told when the slots of an IP address
//! end; it takes none.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use tokio::sync::Notify;

use self::waiting::{Account, tell};
use crate::{
    addr_hash::AddrHash,
    connection::{ConnId, DisconnectOrigin},
    host::Host,
    sync::Mutex,
};

mod rights;
pub(crate) mod waiting;

pub(crate) use self::rights::{Reservation, Teardown};

/// Why an address gets no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The registry has been closed.
    Closed,
    /// The address has a slot.
    Occupied,
    /// The limit for this IP address is used up.
    IpLimit(Host),
    /// The limit of the node is used up.
    NodeLimit,
}

/// The most slots at any instant.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SlotLimits {
    /// In all.
    pub(crate) node: u16,
    /// With one IP address.
    pub(crate) per_ip: u16,
}

/// How many slots there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    /// Being set up.
    pub(crate) pending: usize,
    /// Live or closing.
    pub(crate) live: usize,
}

/// An address that is not vacant.
#[derive(Debug)]
struct Slot<C> {
    /// Whose it is; later ones at the same address have others.
    id: ConnId,
    /// How far its connection is.
    phase: Phase<C>,
}

/// The phases of a connection's life.
#[derive(Debug)]
enum Phase<C> {
    /// Being set up by whoever has the reservation.
    Connecting,
    /// In use.
    Live(Arc<C>),
    /// In use, but the peer has closed its side: it will soon be claimed.
    Draining(Arc<C>),
    /// Claimed by whoever has the teardown; still listed and counted.
    Closing(Arc<C>),
}

#[derive(Debug)]
struct State<C> {
    /// Whether the gate is shut; it never opens again.
    closed: bool,
    /// Every address that is not vacant.
    slots: HashMap<SocketAddr, Slot<C>, AddrHash>,
    /// The accounts of the IP addresses.
    per_ip: HashMap<Host, Account, AddrHash>,
    /// How many slots there are of each kind.
    counts: Counts,
}

/// The connections of one node, `C` being the shared part of one.
#[derive(Debug)]
pub(crate) struct Registry<C> {
    /// What `reserve` keeps to.
    limits: SlotLimits,
    /// The one lock over connections.
    state: Mutex<State<C>>,
    /// Woken when the registry is closed, and when it is closed and its last slot is released.
    changed: Notify,
}

impl<C> Registry<C> {
    pub(crate) fn new(limits: SlotLimits) -> Self {
        let state =
            State { closed: false, slots: HashMap::default(), per_ip: HashMap::default(), counts: Counts::default() };
        Self { limits, state: Mutex::new(state), changed: Notify::new() }
    }

    /// Tells whether a dial to the address is pointless: the gate is shut, or there is a connection. One that is only
    /// being set up may come to nothing, so it does not count here.
    pub(crate) fn check_dial(&self, addr: SocketAddr) -> Result<(), Refusal> {
        let state = self.state.lock();
        match state.slots.get(&addr) {
            _ if state.closed => Err(Refusal::Closed),
            Some(slot) if slot.phase.connection().is_some() => Err(Refusal::Occupied),
            _ => Ok(()),
        }
    }

    /// Takes a slot for a connection that is to be set up.
    pub(crate) fn reserve(self: &Arc<Self>, addr: SocketAddr) -> Result<Reservation<C>, Refusal> {
        let mut state = self.state.lock();
        if let Some(refusal) = state.refusal(addr, self.limits) {
            return Err(refusal);
        }
        let id = ConnId::new();
        state.slots.insert(addr, Slot { id, phase: Phase::Connecting });
        state.per_ip.entry(Host::of(addr)).or_default().slots += 1;
        state.counts.pending += 1;
        drop(state);
        Ok(Reservation { registry: Arc::clone(self), addr, id })
    }

    /// Whether the address has a connection whose end has not been claimed.
    pub(crate) fn is_claimable(&self, addr: SocketAddr) -> bool {
        let state = self.state.lock();
        // Closing claims all.
        !state.closed && state.slots.get(&addr).is_some_and(|slot| slot.phase.is_claimable())
    }

    /// Returns the addresses of the live and closing connections.
    pub(crate) fn addrs(&self) -> Vec<SocketAddr> {
        let state = self.state.lock();
        let mut addrs = Vec::with_capacity(state.counts.live);
        addrs.extend(state.slots.iter().filter(|(_, slot)| slot.phase.connection().is_some()).map(|(addr, _)| *addr));
        addrs
    }

    /// Claims the end of the connection, if it is live at the address.
    pub(crate) fn claim(
        self: &Arc<Self>,
        addr: SocketAddr,
        id: ConnId,
        origin: DisconnectOrigin,
    ) -> Option<Teardown<C>> {
        let mut state = self.state.lock();
        let State { slots, per_ip, .. } = &mut *state;
        let slot = slots.get_mut(&addr).filter(|slot| slot.id == id && slot.phase.is_claimable())?;
        let connection = Arc::clone(slot.phase.connection()?);
        let waiting = slot.begin_end(addr, per_ip, Phase::Closing(Arc::clone(&connection)));
        drop(state);
        tell(waiting);
        Some(Teardown { registry: Arc::clone(self), addr, id, connection, origin })
    }

    /// Notes that the peer of the connection has closed its side, if it is live at the address.
    pub(crate) fn end_of_stream(&self, addr: SocketAddr, id: ConnId) {
        let mut state = self.state.lock();
        let State { slots, per_ip, .. } = &mut *state;
        if let Some(slot) = slots.get_mut(&addr).filter(|slot| slot.id == id)
            && let Phase::Live(connection) = &slot.phase
        {
            let connection = Arc::clone(connection);
            let waiting = slot.begin_end(addr, per_ip, Phase::Draining(connection));
            drop(state);
            tell(waiting);
        }
    }

    /// Shuts the gate for ever, voids all reservations and claims all live connections. Later calls claim nothing.
    pub(crate) fn close(self: &Arc<Self>) -> Vec<Teardown<C>> {
        let mut claimed = Vec::new();
        let mut state = self.state.lock();
        state.closed = true;
        let State { slots, per_ip, counts, .. } = &mut *state;
        slots.retain(|addr, slot| {
            match &slot.phase {
                Phase::Connecting => {
                    counts.pending -= 1;
                    _ = slot.discharge(*addr, per_ip);
                    return false;
                }
                Phase::Live(connection) | Phase::Draining(connection) => {
                    let connection = Arc::clone(connection);
                    _ = slot.begin_end(*addr, per_ip, Phase::Closing(Arc::clone(&connection)));
                    claimed.push((*addr, slot.id, connection));
                }
                Phase::Closing(_) => {}
            }
            true
        });
        drop(state);
        self.changed.notify_waiters();
        let origin = DisconnectOrigin::Shutdown;
        let teardown = |(addr, id, connection)| Teardown { registry: Arc::clone(self), addr, id, connection, origin };
        claimed.into_iter().map(teardown).collect()
    }

    /// Releases every slot of a closed registry, whoever has claimed it.
    pub(crate) fn evict_all(&self) -> Vec<Arc<C>> {
        let mut state = self.state.lock();
        let accounts = std::mem::take(&mut state.per_ip);
        state.counts = Counts::default();
        let slots = std::mem::take(&mut state.slots);
        drop(state);
        drop(accounts);
        self.changed.notify_waiters();
        slots.into_values().filter_map(|slot| slot.phase.connection().cloned()).collect()
    }

    /// Runs a few instructions on the live or closing connection at the address: under the lock, so neither code of users
    /// nor anything that waits for more than the lock of an outbox.
    #[inline]
    pub(crate) fn visit<R>(&self, addr: SocketAddr, visitor: impl FnOnce(&Arc<C>) -> R) -> Option<R> {
        self.state.lock().slots.get(&addr)?.phase.connection().map(visitor)
    }

    /// Returns the live and closing connections.
    pub(crate) fn all(&self) -> Vec<(SocketAddr, Arc<C>)> {
        let state = self.state.lock();
        let mut all = Vec::with_capacity(state.counts.live);
        for (addr, slot) in &state.slots {
            if let Some(connection) = slot.phase.connection() {
                all.push((*addr, Arc::clone(connection)));
            }
        }
        all
    }

    pub(crate) fn is_connecting(&self, addr: SocketAddr) -> bool {
        matches!(self.state.lock().slots.get(&addr), Some(Slot { phase: Phase::Connecting, .. }))
    }

    pub(crate) fn counts(&self) -> Counts {
        self.state.lock().counts
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    pub(crate) fn is_closed_and_empty(&self) -> bool {
        let state = self.state.lock();
        state.closed && state.slots.is_empty()
    }

    /// Notified when the registry is closed, and when it is closed and its last slot is released.
    pub(crate) fn changed(&self) -> &Notify {
        &self.changed
    }

    /// Makes the address vacant if its slot is the connection's, in the phase that the caller's right is to.
    fn release(&self, addr: SocketAddr, id: ConnId, is_phase: fn(&Phase<C>) -> bool) {
        let mut state = self.state.lock();
        let State { closed, slots, per_ip, counts, .. } = &mut *state;
        if !slots.get(&addr).is_some_and(|slot| slot.id == id && is_phase(&slot.phase)) {
            return;
        }
        let Some(released) = slots.remove(&addr) else { return };
        match released.phase {
            Phase::Connecting => counts.pending -= 1,
            Phase::Live(_) | Phase::Draining(_) | Phase::Closing(_) => counts.live -= 1,
        }
        let waiting = released.discharge(addr, per_ip);
        let drained = *closed && slots.is_empty();
        drop(state);
        drop(released);
        tell(waiting);
        if drained {
            self.changed.notify_waiters();
        }
    }

    /// Checks invariant `conserved`: the counts equal what the slots say, and no limit is exceeded.
    #[cfg(test)]
    pub(crate) fn assert_conserved(&self) {
        let state = self.state.lock();
        let pending = state.slots.values().filter(|slot| slot.phase.connection().is_none()).count();
        assert_eq!(state.counts, Counts { pending, live: state.slots.len() - pending });
        let mut per_ip = HashMap::<_, _, AddrHash>::default();
        for (addr, slot) in &state.slots {
            let (slots, ending) = per_ip.entry(Host::of(*addr)).or_insert((0_u16, 0_u16));
            *slots += 1;
            *ending += u16::from(slot.is_ending());
        }
        for (ip, account) in &state.per_ip {
            assert_eq!(per_ip.remove(ip).unwrap_or_default(), (account.slots, account.ending));
            assert!(account.slots > 0 || account.waiting.is_some(), "an account of nobody");
            assert!(account.slots <= self.limits.per_ip);
        }
        assert!(per_ip.is_empty(), "slots without an account");
        assert!(state.slots.len() <= usize::from(self.limits.node));
    }
}

impl<C> State<C> {
    /// Why the address gets no slot now.
    fn refusal(&self, addr: SocketAddr, limits: SlotLimits) -> Option<Refusal> {
        let ip = Host::of(addr);
        if self.closed {
            Some(Refusal::Closed)
        } else if self.slots.contains_key(&addr) {
            Some(Refusal::Occupied)
        } else if self.per_ip.get(&ip).is_some_and(|account| account.slots >= limits.per_ip) {
            Some(Refusal::IpLimit(ip))
        } else if self.slots.len() >= usize::from(limits.node) {
            Some(Refusal::NodeLimit)
        } else {
            None
        }
    }
}

impl<C> Phase<C> {
    /// The live or closing connection.
    #[inline]
    fn connection(&self) -> Option<&Arc<C>> {
        match self {
            Self::Connecting => None,
            Self::Live(connection) | Self::Draining(connection) | Self::Closing(connection) => Some(connection),
        }
    }

    fn is_claimable(&self) -> bool {
        matches!(self, Self::Live(_) | Self::Draining(_))
    }
}

impl<C> Slot<C> {
    fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Draining(_) | Phase::Closing(_))
    }

    /// Goes on to a phase of the end; returns who waits for that.
    fn begin_end(
        &mut self,
        addr: SocketAddr,
        per_ip: &mut HashMap<Host, Account, AddrHash>,
        next: Phase<C>,
    ) -> Option<Arc<Notify>> {
        let was_ending = self.is_ending();
        self.phase = next;
        let account = per_ip.get_mut(&Host::of(addr)).filter(|_| !was_ending)?;
        account.ending += 1;
        account.waiting.clone()
    }

    /// Takes the slot off the account of its IP address; returns who waits for that.
    fn discharge(&self, addr: SocketAddr, per_ip: &mut HashMap<Host, Account, AddrHash>) -> Option<Arc<Notify>> {
        let ip = Host::of(addr);
        let account = per_ip.get_mut(&ip)?;
        account.slots -= 1;
        account.ending -= u16::from(self.is_ending());
        let waiting = account.waiting.clone();
        if account.slots == 0 && waiting.is_none() {
            per_ip.remove(&ip);
        }
        waiting
    }
}

#[cfg(test)]
#[path = "checks/registry_tests.rs"]
mod tests;
