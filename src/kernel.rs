//! What the clones of a node share: one owner per resource, and the few queries that combine them.

use std::{
    any::Any,
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::Semaphore;
use tracing::{Span, error_span};

use crate::{
    config::Config,
    connection::ConnectionInfo,
    error,
    heuristics::Heuristics,
    hooks::Hooks,
    lifecycle,
    link::Link,
    listener::Listener,
    log_budget::LogBudget,
    meter::NodeTraffic,
    outbox::{AnyOutbox, Outbox, Placed, PushError, Queued},
    press::{Item, Receipt},
    registry::{Registry, SlotLimits},
    scope,
    task::TaskCount,
};

/// The inside of a node.
pub(crate) struct Kernel {
    /// As validated, with a name.
    pub(crate) config: Config,
    /// The span of the node's log lines, and the parent of its connections' spans.
    pub(crate) span: Span,
    /// Shared with the meters of all connections.
    pub(crate) traffic: Arc<NodeTraffic>,
    /// The connections, with their limits.
    pub(crate) registry: Arc<Registry<Link>>,
    /// One permit per setup in flight.
    pub(crate) setups: Arc<Semaphore>,
    /// The enabled protocols.
    pub(crate) hooks: Hooks,
    /// The listening socket's state.
    pub(crate) listener: Listener,
    /// The node's tasks, other than those a user keeps from ending (`on_connect` that is not abortable).
    pub(crate) tasks: TaskCount,
    /// How many sockets of connections that are over stay open until the peer has closed.
    pub(crate) farewells: AtomicUsize,
    /// The tasks that finish a shutdown which was begun inside a hook.
    pub(crate) finishers: TaskCount,
    /// Of panics of user code.
    pub(crate) panic_log: LogBudget,
}

impl Kernel {
    pub(crate) fn new(config: Config) -> Self {
        static NEXT_NAME: AtomicUsize = AtomicUsize::new(0);

        let mut config = config.validated();
        let next = || NEXT_NAME.fetch_add(1, Ordering::Relaxed).to_string();
        let name = config.name.get_or_insert_with(next);
        let limits = SlotLimits { node: config.max_connections, per_ip: config.max_connections_per_ip };
        let registry = Arc::new(Registry::<Link>::new(limits));
        let connections = Arc::downgrade(&registry);
        let end_of_stream = move |info: &ConnectionInfo| {
            if let Some(connections) = connections.upgrade() {
                connections.end_of_stream(info.addr(), |link| link.info().is_same(info));
            }
        };
        Self {
            span: error_span!("node", name),
            traffic: Arc::new(NodeTraffic::new(end_of_stream)),
            registry,
            setups: Arc::new(Semaphore::new(usize::from(config.max_connecting))),
            hooks: Hooks::default(),
            listener: Listener::default(),
            tasks: TaskCount::default(),
            farewells: AtomicUsize::new(0),
            finishers: TaskCount::default(),
            panic_log: LogBudget::default(),
            config,
        }
    }

    /// What went wrong.
    pub(crate) fn heuristics(&self) -> &Heuristics {
        &self.traffic.heuristics
    }

    /// The given name, or a number.
    pub(crate) fn name(&self) -> &str {
        let Some(name) = &self.config.name else { unreachable!("a node that was given no name has a number") };
        name
    }

    /// A number that no other node has while this one exists.
    pub(crate) fn identity(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// The connection that an address means to the caller: to a task of a connection with this peer only that very one, and
    /// not its successor.
    #[inline]
    pub(crate) fn connection_at(&self, addr: SocketAddr) -> Option<Arc<Link>> {
        self.visit_connection_at(addr, Arc::clone)
    }

    /// Tells whether an address means a connection to the caller.
    pub(crate) fn is_connected(&self, addr: SocketAddr) -> bool {
        self.visit_connection_at(addr, |_| ()).is_some()
    }

    #[inline]
    fn visit_connection_at<R>(&self, addr: SocketAddr, visitor: impl FnOnce(&Arc<Link>) -> R) -> Option<R> {
        let own = scope::connection_with(self.identity(), addr);
        let is_meant = |link: &Link| own.is_none_or(|own| own == link.info().identity());
        self.registry.visit(addr, |link| is_meant(link).then(|| visitor(link))).flatten()
    }

    /// Queues a message for one peer.
    pub(crate) fn send<M: Send + 'static>(
        self: &Arc<Self>,
        addr: SocketAddr,
        message: M,
        receipt: Option<Receipt>,
    ) -> io::Result<()> {
        let mut item = Some(Item { message, receipt });
        let own = scope::connection_with(self.identity(), addr);
        // Most messages are only queued, and to hold the link for that would cost as much again.
        let reached = self.registry.visit(addr, |link| {
            if own.is_some_and(|own| own != link.info().identity()) {
                return Reached::Nobody;
            }
            let Some(outbox) = link.outbox() else { return Reached::OlderThanWriting };
            let Some(outbox) = typed::<M>(outbox) else { return Reached::OtherType };
            match outbox.place(&mut item, false) {
                Placed::Queued => Reached::Queue,
                placed => Reached::Link(Arc::clone(link), placed),
            }
        });
        let (link, placed) = match reached {
            Some(Reached::Queue) => return Ok(()),
            Some(Reached::Link(link, placed)) => (link, placed),
            Some(Reached::OtherType) => return Err(error::writing_unsupported()),
            Some(Reached::OlderThanWriting) => {
                return Err(self.why_nobody_writes().unwrap_or_else(|| error::older_than_writing(addr)));
            }
            Some(Reached::Nobody) | None => {
                return Err(self.why_nobody_writes().unwrap_or_else(|| error::not_connected(addr)));
            }
        };
        let Some(outbox) = link.outbox().and_then(typed::<M>) else { unreachable!("seen under the lock") };
        match outbox.follow_up(placed, item) {
            Ok(Queued::Expected) => Ok(()),
            Ok(Queued::First) => {
                lifecycle::start_writer(self, &link);
                Ok(())
            }
            Err(PushError::Full) => Err(error::queue_full(addr, outbox.settings().depth)),
            Err(PushError::Closed) => Err(error::writer_gone(addr)),
        }
    }

    /// Queues a clone of a message for every peer; tells which peers do not get it, and why.
    pub(crate) fn send_to_all<M: Clone + Send + 'static>(
        self: &Arc<Self>,
        message: &M,
        mut skipped: impl FnMut(SocketAddr, &'static str),
    ) -> io::Result<()> {
        if let Some(error) = self.why_nobody_writes() {
            return Err(error);
        }
        for (addr, link) in self.registry.all() {
            let Some(outbox) = link.outbox() else {
                skipped(addr, "Writing was enabled after this connection was set up");
                continue;
            };
            match typed::<M>(outbox).ok_or_else(error::writing_unsupported)?.push(message.clone(), None) {
                Ok(Queued::Expected) => {}
                Ok(Queued::First) => lifecycle::start_writer(self, &link),
                Err(PushError::Full) => skipped(addr, "its queue is full"),
                Err(PushError::Closed) => skipped(addr, "the connection is ending"),
            }
        }
        Ok(())
    }

    /// The error of a send that does not depend on the peer.
    fn why_nobody_writes(&self) -> Option<io::Error> {
        // Asked in this order: a shutdown closes the registry before it takes the hooks.
        let is_enabled = self.hooks.is_writing_enabled();
        match (is_enabled, self.registry.is_closed()) {
            (true, _) => None,
            (false, true) => Some(error::no_peers_after_shutdown()),
            (false, false) => Some(error::writing_unsupported()),
        }
    }
}

/// How far a message has got under the registry's lock. What is to be dropped, woken or encoded waits for its release.
enum Reached<M> {
    /// It is queued, and that is all.
    Queue,
    /// The rest is to be done.
    Link(Arc<Link>, Placed<M>),
    /// The connection is not the one that the sender means.
    Nobody,
    /// The connection has no outbox.
    OlderThanWriting,
    /// Writing was enabled with another type of messages.
    OtherType,
}

/// The messages of Writing must be of the type that is being sent.
fn typed<M: Send + 'static>(outbox: &dyn AnyOutbox) -> Option<&Outbox<M>> {
    (outbox as &dyn Any).downcast_ref()
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").field("name", &self.name()).field("config", &self.config).finish_non_exhaustive()
    }
}
