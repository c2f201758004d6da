//! The five protocols: what a user implements on a struct of its own, each only where it is needed.
//!
//! Each has an `enable_*` method, to be called once on a node, before the connections that are to have the protocol. All
//! work from the connection's setup on: [`Handshake`] before it is live, [`Reading`], [`Writing`] and [`OnConnect`] while
//! it is, [`OnDisconnect`] when it ends. The protocols of one node may be implemented by different types.

use std::sync::Arc;

use crate::panics::Disposed;

mod handshake;
mod on_connect;
mod on_disconnect;
mod reading;
mod writing;

pub use handshake::Handshake;
pub use on_connect::OnConnect;
pub use on_disconnect::OnDisconnect;
pub use reading::Reading;
pub use writing::Writing;

/// The capacity that an `INITIAL_BUFFER_SIZE` of 0 stands for, and the least size at which a batch is flushed.
const MIN_BUFFER_SIZE: usize = 8 * 1024;

/// The largest capacity taken at once.
const MAX_BUFFER_SIZE: usize = 64 * 1024 * 1024;

/// A user's struct as a hook of its node. Whoever drops the last hook is safe from a drop that panics.
struct Adapter<T>(Disposed<T>);

impl<T: Clone> Adapter<T> {
    fn of(user: &T) -> Arc<Self> {
        Arc::new(Self(Disposed::new(user.clone())))
    }
}
