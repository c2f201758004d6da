//! Knows, on each thread, inside which hooks of which nodes the code runs that is being polled.
//!
//! A call into the node from inside one of its hooks must not wait for the task that it runs in. Only what is polled on
//! this stack counts: a task that a hook spawned is outside.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use crate::connection::ConnId;

/// How many nested hooks are told apart: a hook of one node that polls a hook of another, and so on.
const MAX_DEPTH: usize = 8;

/// One hook, or a task that runs hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Scope {
    /// Identifies the node.
    pub(crate) node: usize,
    /// The identity and the peer of the connection whose counted task this is, if it is one.
    pub(crate) connection: Option<(ConnId, SocketAddr)>,
}

/// Fills the places that are not used.
const OUTSIDE: Scope = Scope { node: 0, connection: None };

thread_local! {
    /// How many scopes there are; those beyond the array are not recorded.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    /// The outermost first.
    static SCOPES: RefCell<[Scope; MAX_DEPTH]> = const { RefCell::new([OUTSIDE; MAX_DEPTH]) };
}

/// Leaves the scope when dropped, also by a panic.
struct Entered;

impl Entered {
    #[inline]
    fn new(scope: Scope) -> Self {
        let depth = DEPTH.get();
        SCOPES.with_borrow_mut(|scopes| {
            if let Some(place) = scopes.get_mut(depth) {
                *place = scope;
            }
        });
        DEPTH.set(depth + 1);
        Self
    }
}

impl Drop for Entered {
    #[inline]
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

/// Beyond the depth that is recorded the answer is yes: returning early beats waiting for oneself.
fn any(is_sought: impl Fn(&Scope) -> bool) -> bool {
    let depth = DEPTH.get();
    depth > MAX_DEPTH || SCOPES.with_borrow(|scopes| scopes[..depth].iter().any(is_sought))
}

/// Whether the caller is polled by a hook of the node.
pub(crate) fn is_inside_node(node: usize) -> bool {
    any(|scope| scope.node == node)
}

/// Whether the caller is polled by a counted task of the connection.
pub(crate) fn is_inside_task_of(connection: ConnId) -> bool {
    any(|scope| scope.connection.is_some_and(|(id, _)| id == connection))
}

/// The identity of the connection with this peer whose task polls the caller. That is the only one that the address means
/// there: the connection may have ended, and another one may have the address now.
#[inline]
pub(crate) fn connection_with(node: usize, peer: SocketAddr) -> Option<ConnId> {
    // Most senders are in no hook, and every send asks.
    if DEPTH.get() == 0 { None } else { innermost_with(node, peer) }
}

fn innermost_with(node: usize, peer: SocketAddr) -> Option<ConnId> {
    let own = |scope: &&Scope| scope.node == node && scope.connection.is_some_and(|(_, addr)| addr == peer);
    SCOPES.with_borrow(|scopes| {
        let scope = scopes[..DEPTH.get().min(MAX_DEPTH)].iter().rev().find(own)?;
        scope.connection.map(|(id, _)| id)
    })
}

/// How many hooks, and tasks that run hooks, may poll each other on one stack before an ending that they begin gets a stack
/// of its own.
const MAX_NESTING: usize = 4;

/// Whether another hook should not be polled on this stack.
pub(crate) fn is_deep() -> bool {
    DEPTH.get() > MAX_NESTING
}

/// A future that is inside the hooks that it was made in, wherever it is polled.
pub(crate) struct Inheriting<F> {
    /// How many scopes there are.
    depth: usize,
    /// Those that are recorded.
    scopes: Box<[Scope; MAX_DEPTH]>,
    /// What is polled.
    future: F,
}

impl<F: Future + Unpin> Inheriting<F> {
    pub(crate) fn new(future: F) -> Self {
        Self { depth: DEPTH.get(), scopes: Box::new(SCOPES.with_borrow(|scopes| *scopes)), future }
    }
}

impl<F: Future + Unpin> Future for Inheriting<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let _replaced = Replaced::new(self.depth, &self.scopes);
        Pin::new(&mut self.future).poll(cx)
    }
}

/// Puts the scopes back that were there, also after a panic.
struct Replaced {
    /// How many there were.
    depth: usize,
    /// Those that were recorded.
    scopes: [Scope; MAX_DEPTH],
}

impl Replaced {
    fn new(depth: usize, scopes: &[Scope; MAX_DEPTH]) -> Self {
        Self { depth: DEPTH.replace(depth), scopes: SCOPES.replace(*scopes) }
    }
}

impl Drop for Replaced {
    fn drop(&mut self) {
        DEPTH.set(self.depth);
        SCOPES.set(self.scopes);
    }
}

/// Polls, marked with a scope.
pub(crate) fn poll_within<T>(scope: Scope, poll: impl FnOnce() -> T) -> T {
    let _entered = Entered::new(scope);
    poll()
}

/// A future that runs hooks; each poll is marked with its scope.
pub(crate) struct Scoped<F> {
    /// What each poll is marked with.
    scope: Scope,
    /// What runs hooks.
    future: F,
}

impl<F: Future + Unpin> Scoped<F> {
    pub(crate) fn new(scope: Scope, future: F) -> Self {
        Self { scope, future }
    }
}

impl<F: Future + Unpin> Future for Scoped<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        poll_within(self.scope, || Pin::new(&mut self.future).poll(cx))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::BoxFuture};

    use super::*;

    fn hook(node: usize) -> Scope {
        Scope { node, ..Scope::default() }
    }

    #[test]
    fn a_poll_is_inside_all_the_scopes_that_poll_it_and_no_others() {
        let peer = SocketAddr::from(([10, 0, 0, 1], 1));
        let own = ConnId::new();
        let inner = Scoped::new(
            hook(2),
            Box::pin(async move {
                let known = (connection_with(1, peer), connection_with(2, peer));
                (is_inside_node(1), is_inside_node(2), is_inside_node(3), is_inside_task_of(own), known)
            }),
        );
        let outer = Scoped::new(Scope { node: 1, connection: Some((own, peer)) }, Box::pin(inner));
        assert_eq!(outer.now_or_never(), Some((true, true, false, true, (Some(own), None))));
        assert!(!is_inside_node(1));
        assert_eq!(connection_with(1, peer), None);
    }

    #[test]
    fn too_deep_to_tell_counts_as_inside() {
        let mut future: BoxFuture<'static, bool> = Box::pin(async { is_inside_node(99) });
        for node in 1..=MAX_DEPTH + 1 {
            future = Box::pin(Scoped::new(hook(node), future));
        }
        assert_eq!(future.now_or_never(), Some(true));
        assert!(!is_inside_node(99));
    }
}
