//! Waiting for a slot: what there is of each IP address, and the one place of it from which a peer waits.
//!
//! Waiting takes no slot; whoever waits asks for it again, like anybody else.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::Notify;

use super::{Refusal, Registry, Slot, State};
use crate::host::Host;

/// What there is of one IP address; there is none for an address without slots for which nobody waits.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// How many slots.
    pub(super) slots: u16,
    /// How many of them are draining or closing.
    pub(super) ending: u16,
    /// Told when one of them begins to end, or is released.
    pub(super) waiting: Option<Arc<Notify>>,
}

/// What an address may hope for that has been refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outlook {
    /// There is a slot for it now.
    Vacant,
    /// There will be one when a connection that is ending has been released.
    Ending,
    /// Nothing.
    Refused(Refusal),
}

impl<C> Registry<C> {
    /// Takes the one place of an IP address from which a slot is waited for; `None` if it is taken, if there is nothing to wait
    /// for because the slots are all used up by others, or if the registry is closed.
    pub(crate) fn queue_up(self: &Arc<Self>, addr: SocketAddr) -> Option<Place<C>> {
        let changed = Arc::new(Notify::new());
        let mut state = self.state.lock();
        let ip = Host::of(addr);
        let is_used_up = state.slots.len() >= usize::from(self.limits.node);
        if state.closed || (is_used_up && !state.per_ip.contains_key(&ip)) {
            return None;
        }
        let account = state.per_ip.entry(ip).or_default();
        if account.waiting.is_some() {
            return None;
        }
        account.waiting = Some(Arc::clone(&changed));
        drop(state);
        Some(Place { registry: Arc::clone(self), addr, changed })
    }
}

impl<C> State<C> {
    /// Whether the end of a connection that is ending would lift the refusal.
    fn is_about_to_end(&self, addr: SocketAddr, refusal: Refusal) -> bool {
        match refusal {
            Refusal::Closed => false,
            Refusal::Occupied => self.slots.get(&addr).is_some_and(Slot::is_ending),
            // No count exceeds its limit, so that one slot less is enough.
            Refusal::IpLimit(_) | Refusal::NodeLimit => {
                self.per_ip.get(&Host::of(addr)).is_some_and(|account| account.ending > 0)
            }
        }
    }
}

/// The place of an IP address from which one of its peers waits for a slot; dropping it lets another one wait.
#[derive(Debug)]
pub(crate) struct Place<C> {
    /// Where it is.
    registry: Arc<Registry<C>>,
    /// Who waits.
    addr: SocketAddr,
    /// Told of each slot that begins to end or is released; it tells this place from a later one.
    changed: Arc<Notify>,
}

impl<C> Place<C> {
    /// Tells what the address may hope for now.
    pub(crate) fn outlook(&self) -> Outlook {
        let state = self.registry.state.lock();
        match state.refusal(self.addr, self.registry.limits) {
            None => Outlook::Vacant,
            Some(refusal) if state.is_about_to_end(self.addr, refusal) => Outlook::Ending,
            Some(refusal) => Outlook::Refused(refusal),
        }
    }

    /// Notified once for what has begun to end or was released since the last time; not of the end of the registry.
    pub(crate) fn changed(&self) -> &Notify {
        &self.changed
    }
}

impl<C> Drop for Place<C> {
    fn drop(&mut self) {
        let ip = Host::of(self.addr);
        let mut state = self.registry.state.lock();
        let own = |waiting: &mut Arc<Notify>| Arc::ptr_eq(waiting, &self.changed);
        let Some(account) = state.per_ip.get_mut(&ip) else { return };
        if account.waiting.take_if(own).is_some() && account.slots == 0 {
            state.per_ip.remove(&ip);
        }
    }
}

/// Tells whoever waits, once the lock is released.
pub(super) fn tell(waiting: Option<Arc<Notify>>) {
    if let Some(waiting) = waiting {
        waiting.notify_one();
    }
}
