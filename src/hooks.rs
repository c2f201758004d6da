//! The type-erased twins of the five protocol traits, and the place where a node keeps those that are enabled.
//!
//! Protocols are hooks, not services: nothing here runs by itself. Taking the hooks out at the end of a shutdown is what
//! breaks the reference cycle user's struct -> node -> hook -> user's struct.

use std::{io, net::SocketAddr, sync::Arc};

use futures_util::future::BoxFuture;
use parking_lot::RwLock;

use crate::{
    connection::{Connection, ConnectionSide, DisconnectOrigin, meter::Meter},
    inbound::reader::ReadEnd,
    outbound::{AnyOutbox, writer::Written},
    transport::{ReadHalf, WriteHalf},
};

pub(crate) trait HandshakeHook: Send + Sync {
    fn timeout_ms(&self) -> u64;
    fn perform(self: Arc<Self>, connection: Connection) -> BoxFuture<'static, io::Result<Connection>>;
}

/// Runs a read loop to its end, beside the outbox of the same connection.
pub(crate) type RunReader = Box<dyn FnOnce(ReadHalf, Option<Arc<dyn AnyOutbox>>) -> BoxFuture<'static, ReadEnd> + Send>;

/// Runs a write loop to its end.
pub(crate) type RunWriter = Box<dyn FnOnce(WriteHalf) -> BoxFuture<'static, Written<WriteHalf>> + Send>;

pub(crate) trait ReadingHook: Send + Sync {
    /// Calls the user's `codec`.
    fn prepare(&self, addr: SocketAddr, own_side: ConnectionSide, meter: Meter) -> RunReader;
}

pub(crate) trait WritingHook: Send + Sync {
    /// Calls the user's `codec`. Returns where messages are queued, and what writes them.
    fn prepare(&self, addr: SocketAddr, own_side: ConnectionSide, meter: Meter) -> (Arc<dyn AnyOutbox>, RunWriter);
}

pub(crate) trait OnConnectHook: Send + Sync {
    fn is_abortable(&self) -> bool;
    fn on_connect(self: Arc<Self>, addr: SocketAddr) -> BoxFuture<'static, ()>;
}

pub(crate) trait OnDisconnectHook: Send + Sync {
    fn timeout_ms(&self) -> u64;
    fn on_disconnect(self: Arc<Self>, addr: SocketAddr, origin: DisconnectOrigin) -> BoxFuture<'static, ()>;
}

/// The hooks of the protocols that are enabled.
#[derive(Default, Clone)]
pub(crate) struct HookSet {
    /// Before a connection is live.
    pub(crate) handshake: Option<Arc<dyn HandshakeHook>>,
    /// Receives.
    pub(crate) reading: Option<Arc<dyn ReadingHook>>,
    /// Sends.
    pub(crate) writing: Option<Arc<dyn WritingHook>>,
    /// When a connection has gone live.
    pub(crate) on_connect: Option<Arc<dyn OnConnectHook>>,
    /// When a connection ends.
    pub(crate) on_disconnect: Option<Arc<dyn OnDisconnectHook>>,
}

/// A node's hooks, until the node has shut down.
#[derive(Default)]
pub(crate) struct Hooks {
    /// Written by `enable_*` and by the end of a shutdown only.
    set: RwLock<HookSet>,
}

impl Hooks {
    /// Returns the hooks that are enabled now.
    pub(crate) fn current(&self) -> HookSet {
        self.set.read().clone()
    }

    pub(crate) fn on_disconnect(&self) -> Option<Arc<dyn OnDisconnectHook>> {
        self.set.read().on_disconnect.clone()
    }

    pub(crate) fn is_writing_enabled(&self) -> bool {
        self.set.read().writing.is_some()
    }

    /// Enables one protocol, unless `is_closed` says, under the lock, that it is too late.
    ///
    /// # Panics
    /// If the protocol is enabled already.
    pub(crate) fn enable<H: ?Sized>(
        &self,
        protocol: &str,
        hook: Arc<H>,
        slot: impl FnOnce(&mut HookSet) -> &mut Option<Arc<H>>,
        is_closed: impl FnOnce() -> bool,
    ) {
        let mut set = self.set.write();
        if is_closed() {
            drop(set);
            // `hook` is the user's struct: dropped after the lock.
            return;
        }
        let slot = slot(&mut set);
        let is_first = slot.is_none();
        if is_first {
            *slot = Some(hook);
            return;
        }
        drop(set);
        panic!("enable_{protocol}: {protocol} is enabled on this node already");
    }

    /// Takes all hooks out, so that they are dropped after the lock.
    pub(crate) fn take(&self) -> HookSet {
        std::mem::take(&mut *self.set.write())
    }
}
