//! Knows, on each thread, inside which hooks of which nodes the code runs that is being polled.
//!
//! A call into the node from inside one of its hooks must not wait for the task that it runs in. Only what is polled on
//! this stack counts: a task that a hook spawned is outside.

use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

/// How many nested hooks are told apart: a hook of one node that polls a hook of another, and so on.
const MAX_DEPTH: usize = 8;

/// One hook, or a task that runs hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Scope {
    /// Identifies the node.
    pub(crate) node: usize,
    /// Identifies the connection whose counted task this is; 0 if it is none.
    pub(crate) task_of: usize,
}

struct Stack {
    /// The outermost first.
    scopes: [Scope; MAX_DEPTH],
    /// How many there are; those beyond the array are not recorded.
    depth: usize,
}

thread_local! {
    static STACK: RefCell<Stack> =
        const { RefCell::new(Stack { scopes: [Scope { node: 0, task_of: 0 }; MAX_DEPTH], depth: 0 }) };
}

impl Stack {
    /// Beyond the depth that is recorded the answer is yes: returning early beats waiting for oneself.
    fn any(&self, is_sought: impl Fn(&Scope) -> bool) -> bool {
        self.depth > MAX_DEPTH || self.scopes[..self.depth].iter().any(is_sought)
    }
}

/// Leaves the scope when dropped, also by a panic.
struct Entered;

impl Entered {
    fn new(scope: Scope) -> Self {
        STACK.with_borrow_mut(|stack| {
            if let Some(place) = stack.scopes.get_mut(stack.depth) {
                *place = scope;
            }
            stack.depth += 1;
        });
        Self
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        STACK.with_borrow_mut(|stack| stack.depth -= 1);
    }
}

/// Whether the caller is polled by a hook of the node.
pub(crate) fn is_inside_node(node: usize) -> bool {
    STACK.with_borrow(|stack| stack.any(|scope| scope.node == node))
}

/// Whether the caller is polled by a counted task of the connection.
pub(crate) fn is_inside_task_of(connection: usize) -> bool {
    STACK.with_borrow(|stack| stack.any(|scope| scope.task_of == connection))
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
        let _entered = Entered::new(self.scope);
        Pin::new(&mut self.future).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::BoxFuture};

    use super::*;

    #[test]
    fn a_poll_is_inside_all_the_scopes_that_poll_it_and_no_others() {
        let inner = Scoped::new(
            Scope { node: 2, task_of: 0 },
            Box::pin(async { (is_inside_node(1), is_inside_node(2), is_inside_node(3), is_inside_task_of(7)) }),
        );
        let outer = Scoped::new(Scope { node: 1, task_of: 7 }, Box::pin(inner));
        assert_eq!(outer.now_or_never(), Some((true, true, false, true)));
        assert!(!is_inside_node(1));
    }

    #[test]
    fn too_deep_to_tell_counts_as_inside() {
        let mut future: BoxFuture<'static, bool> = Box::pin(async { is_inside_node(99) });
        for node in 1..=MAX_DEPTH + 1 {
            future = Box::pin(Scoped::new(Scope { node, task_of: 0 }, future));
        }
        assert_eq!(future.now_or_never(), Some(true));
        assert!(!is_inside_node(99));
    }
}
