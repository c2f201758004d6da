//! A thread-local stack of the hooks that the current poll is inside.
//!
//! A call into the node from inside one of its hooks must not wait for the task that it runs in. Only what is polled on
//! this stack counts: a task that a hook spawned is outside.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::Pin,
};

use crate::{connection::ConnId, panics::OnDrop};

/// How many nested hooks are told apart: a hook of one node that polls a hook of another, and so on.
const MAX_DEPTH: usize = 8;

/// One hook, or a task that runs hooks.
#[derive(Debug, Clone, Copy)]
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

/// Beyond the depth that is recorded the answer is yes: returning early beats waiting for oneself.
fn any(is_sought: impl Fn(&Scope) -> bool) -> bool {
    let depth = DEPTH.get();
    depth > MAX_DEPTH || SCOPES.with_borrow(|scopes| scopes[..depth].iter().any(is_sought))
}

/// Whether the caller is polled by a hook of the node.
pub(crate) fn is_in_hook_of(node: usize) -> bool {
    any(|scope| scope.node == node)
}

/// Whether the caller is polled by a counted task of the connection.
pub(crate) fn is_in_task_of(connection: ConnId) -> bool {
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
pub(crate) fn inherited<F: Future + Unpin>(mut future: F) -> impl Future<Output = F::Output> + Unpin {
    let (depth, scopes) = (DEPTH.get(), Box::new(SCOPES.with_borrow(|scopes| *scopes)));
    poll_fn(move |cx| {
        let (depth, scopes) = (DEPTH.replace(depth), SCOPES.replace(*scopes));
        let _put_back = OnDrop(|| {
            DEPTH.set(depth);
            SCOPES.set(scopes);
        });
        Pin::new(&mut future).poll(cx)
    })
}

/// Polls, marked with a scope.
pub(crate) fn poll_within<T>(scope: Scope, poll: impl FnOnce() -> T) -> T {
    let depth = DEPTH.get();
    SCOPES.with_borrow_mut(|scopes| {
        if let Some(place) = scopes.get_mut(depth) {
            *place = scope;
        }
    });
    DEPTH.set(depth + 1);
    let _left_also_by_a_panic = OnDrop(|| DEPTH.set(depth));
    poll()
}

/// A future that runs a hook of the node.
pub(crate) fn within_hook<F: Future + Unpin>(node: usize, mut future: F) -> impl Future<Output = F::Output> + Unpin {
    let scope = Scope { node, connection: None };
    poll_fn(move |cx| poll_within(scope, || Pin::new(&mut future).poll(cx)))
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::BoxFuture};

    use super::*;

    #[test]
    fn a_poll_is_inside_all_the_scopes_that_poll_it_and_no_others() {
        let peer = SocketAddr::from(([10, 0, 0, 1], 1));
        let own = ConnId::new();
        let inner = within_hook(
            2,
            Box::pin(async move {
                let known = (connection_with(1, peer), connection_with(2, peer));
                (is_in_hook_of(1), is_in_hook_of(2), is_in_hook_of(3), is_in_task_of(own), known)
            }),
        );
        let task = Scope { node: 1, connection: Some((own, peer)) };
        let outer = poll_within(task, || inner.now_or_never());
        assert_eq!(outer, Some((true, true, false, true, (Some(own), None))));
        assert!(!is_in_hook_of(1));
        assert_eq!(connection_with(1, peer), None);
    }

    #[test]
    fn too_deep_to_tell_counts_as_inside() {
        let mut future: BoxFuture<'static, bool> = Box::pin(async { is_in_hook_of(99) });
        for node in 1..=MAX_DEPTH + 1 {
            future = Box::pin(within_hook(node, future));
        }
        assert_eq!(future.now_or_never(), Some(true));
        assert!(!is_in_hook_of(99));
    }
}
