//! Acting when a connection ends.

use std::{future::Future, net::SocketAddr, sync::Arc};

use futures_util::future::BoxFuture;

use super::Adapter;
use crate::{Pea2Pea, connections::DisconnectOrigin, hooks::OnDisconnectHook};

/// Acts when a connection ends, while it is still listed.
///
/// Begins exactly once for each connection that went live, before the connection is removed. [`Writing`](super::Writing)
/// still works in it, and what it sends is flushed, unless the origin is
/// [`DisconnectOrigin::Writing`]. A panic is logged, and the ending goes on.
///
/// ```
/// # use std::net::SocketAddr;
/// # use pea2pea::{DisconnectOrigin, Node, Pea2Pea, protocols::OnDisconnect};
/// # #[derive(Clone)] struct MyNode(Node);
/// # impl Pea2Pea for MyNode { fn node(&self) -> &Node { &self.0 } }
/// impl OnDisconnect for MyNode {
///     async fn on_disconnect(&self, addr: SocketAddr, origin: DisconnectOrigin) {
///         println!("{} loses {addr} because of {origin:?}", self.node().name());
///     }
/// }
/// ```
pub trait OnDisconnect: Pea2Pea
where
    Self: Clone + Send + Sync + 'static,
{
    /// How long the hook may take, in milliseconds, before it is dropped and the ending goes on; `u64::MAX` means for
    /// ever (but a [`shut_down`](crate::Node::shut_down) waits for a hook that somebody else's call began for at most 3
    /// seconds then), 0 means as far as it gets without waiting. Default: 3,000.
    const TIMEOUT_MS: u64 = 3_000;

    /// Runs once for each connection that ends; `origin` tells what ended it.
    ///
    /// # Cancel safety
    /// Dropped at an await when its time is up, or when the call that ends the connection is dropped.
    fn on_disconnect(&self, addr: SocketAddr, origin: DisconnectOrigin) -> impl Future<Output = ()> + Send;

    /// Enables the protocol for the connections that end from now on; does nothing if the node is shutting down.
    ///
    /// # Panics
    /// If `OnDisconnect` is enabled on the node already.
    fn enable_on_disconnect(&self) -> impl Future<Output = ()> + Send {
        async move {
            let kernel = self.node().kernel();
            let hook: Arc<dyn OnDisconnectHook> = Adapter::of(self);
            kernel.hooks.enable("on_disconnect", hook, |set| &mut set.on_disconnect, || kernel.registry.is_closed());
        }
    }
}

impl<T: OnDisconnect + Clone + Send + Sync + 'static> OnDisconnectHook for Adapter<T> {
    fn timeout_ms(&self) -> u64 {
        T::TIMEOUT_MS
    }

    fn on_disconnect(self: Arc<Self>, addr: SocketAddr, origin: DisconnectOrigin) -> BoxFuture<'static, ()> {
        Box::pin(async move { self.0.on_disconnect(addr, origin).await })
    }
}
