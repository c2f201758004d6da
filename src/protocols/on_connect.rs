//! Acting when a connection has gone live.

use std::{future::Future, net::SocketAddr, sync::Arc};

use futures_util::future::BoxFuture;

use super::Adapter;
use crate::{Pea2Pea, hooks::OnConnectHook};

/// Acts when a connection has gone live, beside its reading and writing.
///
/// A panic ends the connection, with origin [`OnConnectAbort`](crate::DisconnectOrigin::OnConnectAbort).
///
/// ```
/// # use std::net::SocketAddr;
/// # use pea2pea::{Node, Pea2Pea, protocols::OnConnect};
/// # #[derive(Clone)] struct MyNode(Node);
/// # impl Pea2Pea for MyNode { fn node(&self) -> &Node { &self.0 } }
/// impl OnConnect for MyNode {
///     async fn on_connect(&self, addr: SocketAddr) {
///         println!("{} met {addr}", self.node().name());
///     }
/// }
/// ```
pub trait OnConnect: Pea2Pea
where
    Self: Clone + Send + Sync + 'static,
{
    /// Whether the hook is dropped when the connection ends. If not, it runs to its end whatever happens to the
    /// connection, and is never skipped for one that went live; `shut_down` does not wait for it. Default: `true`.
    const ABORTABLE: bool = true;

    /// Runs once for each connection, in a task of its own, after the connection has gone live.
    ///
    /// # Cancel safety
    /// If it is abortable, it is dropped at an await, or before its first poll, when the connection ends.
    fn on_connect(&self, addr: SocketAddr) -> impl Future<Output = ()> + Send;

    /// Enables the protocol for the connections that are set up from now on; does nothing if the node is shutting down.
    ///
    /// # Panics
    /// If `OnConnect` is enabled on the node already.
    fn enable_on_connect(&self) -> impl Future<Output = ()> + Send {
        async move {
            let kernel = self.node().kernel();
            let hook: Arc<dyn OnConnectHook> = Adapter::of(self);
            kernel.hooks.enable("on_connect", hook, |set| &mut set.on_connect, || kernel.registry.is_closed());
        }
    }
}

impl<T: OnConnect + Clone + Send + Sync + 'static> OnConnectHook for Adapter<T> {
    fn is_abortable(&self) -> bool {
        T::ABORTABLE
    }

    fn on_connect(self: Arc<Self>, addr: SocketAddr) -> BoxFuture<'static, ()> {
        Box::pin(async move { self.0.on_connect(addr).await })
    }
}
