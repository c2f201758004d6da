//! The rights to a slot: whoever holds one may change it, and dropping one gives the slot back.

use std::{net::SocketAddr, sync::Arc};

use super::{Phase, Refusal, Registry, Slot, State};
use crate::connection::{ConnId, DisconnectOrigin};

/// The right to a slot whose connection is being set up; dropping it gives the slot back.
#[derive(Debug)]
pub(crate) struct Reservation<C> {
    /// Where the slot is.
    pub(super) registry: Arc<Registry<C>>,
    /// Whose slot it is.
    pub(super) addr: SocketAddr,
    /// The connection that is set up.
    pub(super) id: ConnId,
}

impl<C> Reservation<C> {
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn id(&self) -> ConnId {
        self.id
    }

    /// Makes the connection live and visible, unless the registry was closed in the meantime.
    pub(crate) fn establish(self, connection: Arc<C>) -> Result<(), Refusal> {
        let mut state = self.registry.state.lock();
        let State { slots, counts, .. } = &mut *state;
        match slots.get_mut(&self.addr) {
            Some(Slot { id, phase: phase @ Phase::Connecting }) if *id == self.id => {
                *phase = Phase::Live(connection);
                counts.pending -= 1;
                counts.live += 1;
                drop(state);
                Ok(())
            }
            // Only closing the registry takes a slot from its reservation.
            _ => {
                drop(state);
                drop(connection);
                Err(Refusal::Closed)
            }
        }
    }
}

impl<C> Drop for Reservation<C> {
    fn drop(&mut self) {
        // After `establish` the slot is no longer `Connecting`, and this does nothing.
        self.registry.release(self.addr, self.id, |phase| matches!(phase, Phase::Connecting));
    }
}

/// The exclusive right to end a connection; dropping it gives the slot back.
#[derive(Debug)]
pub(crate) struct Teardown<C> {
    /// Where the slot is.
    pub(super) registry: Arc<Registry<C>>,
    /// Whose slot it is.
    pub(super) addr: SocketAddr,
    /// Which connection ends.
    pub(super) id: ConnId,
    /// Its shared part.
    pub(super) connection: Arc<C>,
    /// What ended it.
    pub(super) origin: DisconnectOrigin,
}

impl<C> Teardown<C> {
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn origin(&self) -> DisconnectOrigin {
        self.origin
    }

    pub(crate) fn connection(&self) -> &C {
        &self.connection
    }
}

impl<C> Drop for Teardown<C> {
    fn drop(&mut self) {
        self.registry.release(self.addr, self.id, |phase| matches!(phase, Phase::Closing(_)));
    }
}
