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
    error,
    heuristics::Heuristics,
    hooks::Hooks,
    lifecycle,
    link::Link,
    listener::Listener,
    log_budget::LogBudget,
    meter::NodeTraffic,
    outbox::{AnyOutbox, Outbox, PushError, Queued},
    press::Receipt,
    registry::{Registry, SlotLimits},
    scope,
    task::TaskCount,
};

/// The inside of a node.
pub(crate) struct Kernel {
    /// As validated.
    pub(crate) config: Config,
    /// The given name, or a number.
    pub(crate) name: String,
    /// The span of the node's log lines, and the parent of its connections' spans.
    pub(crate) span: Span,
    /// Shared with the meters of all connections.
    pub(crate) traffic: Arc<NodeTraffic>,
    /// What went wrong.
    pub(crate) heuristics: Heuristics,
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
    /// The tasks that finish a shutdown which was begun inside a hook.
    pub(crate) finishers: TaskCount,
    /// Of panics of user code.
    pub(crate) panic_log: LogBudget,
}

impl Kernel {
    pub(crate) fn new(config: Config) -> Self {
        static NEXT_NAME: AtomicUsize = AtomicUsize::new(0);

        let config = config.validated();
        let name = config.name.clone().unwrap_or_else(|| NEXT_NAME.fetch_add(1, Ordering::Relaxed).to_string());
        let limits = SlotLimits { node: config.max_connections, per_ip: config.max_connections_per_ip };
        Self {
            span: error_span!("node", name),
            name,
            traffic: Arc::default(),
            heuristics: Heuristics::default(),
            registry: Arc::new(Registry::new(limits)),
            setups: Arc::new(Semaphore::new(usize::from(config.max_connecting))),
            hooks: Hooks::default(),
            listener: Listener::default(),
            tasks: TaskCount::default(),
            finishers: TaskCount::default(),
            panic_log: LogBudget::default(),
            config,
        }
    }

    /// A number that no other node has while this one exists.
    pub(crate) fn identity(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// The connection that an address means to the caller: to a task of a connection with this peer only that very one, and
    /// not its successor.
    #[inline]
    pub(crate) fn connection_at(&self, addr: SocketAddr) -> Option<Arc<Link>> {
        let link = self.registry.get(addr)?;
        match scope::connection_with(self.identity(), addr) {
            Some(own) if own != link.info().identity() => None,
            _ => Some(link),
        }
    }

    /// Queues a message for one peer.
    pub(crate) fn send<M: Send + 'static>(
        self: &Arc<Self>,
        addr: SocketAddr,
        message: M,
        receipt: Option<Receipt>,
    ) -> io::Result<()> {
        let link = self.connection_at(addr);
        // A connection that is older than Writing has no outbox.
        let Some((link, outbox)) = link.as_ref().and_then(|link| Some((link, link.outbox()?))) else {
            return Err(self.why_nobody_writes().unwrap_or_else(|| error::not_connected(addr)));
        };
        let outbox = typed::<M>(outbox)?;
        match outbox.push(message, receipt) {
            Ok(Queued::Expected) => Ok(()),
            Ok(Queued::First) => {
                lifecycle::start_writer(self, link);
                Ok(())
            }
            Err(PushError::Full) => Err(error::queue_full(addr, outbox.settings().depth)),
            Err(PushError::Closed) => Err(error::writer_gone(addr)),
        }
    }

    /// Queues a clone of a message for every peer; tells which peers do not get it.
    pub(crate) fn send_to_all<M: Clone + Send + 'static>(
        self: &Arc<Self>,
        message: &M,
        mut refused: impl FnMut(SocketAddr, PushError),
    ) -> io::Result<()> {
        if let Some(error) = self.why_nobody_writes() {
            return Err(error);
        }
        for (addr, link) in self.registry.all() {
            let Some(outbox) = link.outbox() else { continue };
            match typed::<M>(outbox)?.push(message.clone(), None) {
                Ok(Queued::Expected) => {}
                Ok(Queued::First) => lifecycle::start_writer(self, &link),
                Err(error) => refused(addr, error),
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

/// The messages of Writing must be of the type that is being sent.
fn typed<M: Send + 'static>(outbox: &dyn AnyOutbox) -> io::Result<&Outbox<M>> {
    (outbox as &dyn Any).downcast_ref().ok_or_else(error::writing_unsupported)
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").field("name", &self.name).field("config", &self.config).finish_non_exhaustive()
    }
}
