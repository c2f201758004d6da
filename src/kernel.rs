//! What the clones of a node share: one owner per resource, and the few queries that combine them.

use std::{
    fmt,
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
    connection::{ConnectionInfo, meter::NodeTraffic},
    counting::{heuristics::Heuristics, log_budget::LogBudget},
    hooks::Hooks,
    inside,
    listener::Listener,
    live_connection::LiveConnection,
    registry::{Registry, SlotLimits},
    waiting::TaskCount,
};

/// The most errors about panics of user code that a node logs in one second.
const PANIC_LINES: u32 = 5;

/// The inside of a node.
pub(crate) struct Kernel {
    /// As validated, with a name.
    pub(crate) config: Config,
    /// The span of the node's log lines, and the parent of its connections' spans.
    pub(crate) span: Span,
    /// Shared with the meters of all connections.
    pub(crate) traffic: Arc<NodeTraffic>,
    /// The connections, with their limits.
    pub(crate) registry: Arc<Registry<LiveConnection>>,
    /// One permit per setup in flight.
    pub(crate) setups: Arc<Semaphore>,
    /// The enabled protocols.
    pub(crate) hooks: Hooks,
    /// The listening socket's state.
    pub(crate) listener: Listener,
    /// The node's tasks, other than those a user keeps from ending (`on_connect` that is not abortable).
    pub(crate) tasks: TaskCount,
    /// How many sockets of connections that are over stay open until the peer has closed.
    pub(crate) farewells: TaskCount,
    /// The tasks that finish a shutdown which was begun inside a hook.
    pub(crate) finishers: TaskCount,
    /// Of panics of user code.
    pub(crate) panic_log: LogBudget,
}

impl Kernel {
    pub(crate) fn new(config: Config) -> Self {
        static NEXT_NAME: AtomicUsize = AtomicUsize::new(0);

        let mut config = config.validated();
        // Relaxed: nothing is published with the number.
        let next = || NEXT_NAME.fetch_add(1, Ordering::Relaxed).to_string();
        let name = config.name.get_or_insert_with(next);
        let limits = SlotLimits { node: config.max_connections, per_ip: config.max_connections_per_ip };
        let registry = Arc::new(Registry::<LiveConnection>::new(limits));
        let connections = Arc::downgrade(&registry);
        let end_of_stream = move |info: &ConnectionInfo| {
            if let Some(connections) = connections.upgrade() {
                connections.end_of_stream(info.addr(), info.id());
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
            farewells: TaskCount::default(),
            finishers: TaskCount::default(),
            panic_log: LogBudget::new(PANIC_LINES),
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
    pub(crate) fn connection_at(&self, addr: SocketAddr) -> Option<Arc<LiveConnection>> {
        self.visit_connection_at(addr, Arc::clone)
    }

    /// Tells whether an address means a connection to the caller.
    pub(crate) fn is_connected(&self, addr: SocketAddr) -> bool {
        self.visit_connection_at(addr, |_| ()).is_some()
    }

    #[inline]
    fn visit_connection_at<R>(&self, addr: SocketAddr, visitor: impl FnOnce(&Arc<LiveConnection>) -> R) -> Option<R> {
        let own = inside::connection_with(self.identity(), addr);
        let is_meant = |live: &LiveConnection| own.is_none_or(|own| own == live.info().id());
        self.registry.visit(addr, |live| is_meant(live).then(|| visitor(live))).flatten()
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").field("name", &self.name()).field("config", &self.config).finish_non_exhaustive()
    }
}
