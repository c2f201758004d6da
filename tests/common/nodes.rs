//! The nodes that a test makes, listed so that the ledger can shut down at its end what the test has not.

use std::{
    cell::RefCell,
    mem,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use pea2pea::{Config, Node};

/// The nodes of one test; each thread of its runtime knows the list.
#[derive(Debug, Clone, Default)]
pub struct Nodes(Arc<List>);

#[derive(Debug, Default)]
struct List {
    nodes: Mutex<Vec<Node>>,
    has_orphan: AtomicBool,
}

thread_local! {
    static LISTED: RefCell<Option<Nodes>> = const { RefCell::new(None) };
}

impl Nodes {
    /// From here on the nodes that this thread makes are listed.
    pub fn enter(&self) {
        LISTED.set(Some(self.clone()));
    }

    pub fn leave() {
        LISTED.set(None);
    }

    pub fn take(&self) -> Vec<Node> {
        mem::take(&mut self.0.nodes.lock().unwrap())
    }

    /// Whether a node of the test lives on in tasks that nobody can end.
    pub fn has_orphan(&self) -> bool {
        self.0.has_orphan.load(Ordering::SeqCst)
    }
}

fn with_list(act: impl FnOnce(&List)) {
    LISTED.with_borrow(|nodes| {
        if let Some(nodes) = nodes {
            act(&nodes.0);
        }
    });
}

/// Makes a node, and lists it. A test about nodes without handles has to do without: the list has one.
pub fn listed(config: Config) -> Node {
    let node = Node::new(config);
    with_list(|list| list.nodes.lock().unwrap().push(node.clone()));
    node
}

/// Takes the nodes made so far off the list: for a test that shuts them down itself, and measures what is left.
pub fn unlist() {
    with_list(|list| drop(mem::take(&mut *list.nodes.lock().unwrap())));
}

/// Says that the test leaves a node that nobody has a handle of: its tasks end with the runtime only.
pub fn leave_orphan() {
    with_list(|list| list.has_orphan.store(true, Ordering::SeqCst));
}
