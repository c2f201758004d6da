//! A node without sockets: what the scenes play on.

use std::{
    future::{Future, pending, poll_fn},
    io::{self, ErrorKind},
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::future::{AbortHandle as Abort, Abortable, BoxFuture, Either, select};
use shuttle::future::block_on;
use tokio::{
    runtime::Handle,
    sync::oneshot::{self, Receiver},
};
use tracing::Span;

use super::{
    super::{
        sending::send_by,
        setup::{go_live, start_writer_by},
        shutdown::shut_down,
        tasks::{Ender, after_reading},
    },
    below, drive,
    wire::{Message, PairEncoder, Peer},
};
use crate::{
    ShuttingDown,
    config::Config,
    connection::{ConnId, ConnectionInfo, ConnectionSide, DisconnectOrigin, meter::Meter},
    hooks::{OnDisconnectHook, RunWriter, WritingHook},
    inbound::reader::ReadEnd,
    kernel::Kernel,
    live_connection::{LiveConnection, ReadSide, WriteSide},
    outbound::{AnyOutbox, Outbox, WriteSettings, encoder::ReceiptSender, writer::Writer},
    registry::{Counts, Refusal, Reservation},
    transport::Transport,
    waiting::wait_until,
};

/// Of every outbox: small, so that it is often full. A batch takes one message with a receipt, or a few without.
pub(super) static SETTINGS: WriteSettings = WriteSettings { depth: 3, flush_at: 8, timeout: None };

/// The usual peer.
pub(super) fn addr(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

/// Records all endings of a node.
#[derive(Default)]
struct Endings(Mutex<Vec<(SocketAddr, DisconnectOrigin)>>);

impl OnDisconnectHook for Endings {
    fn timeout_ms(&self) -> u64 {
        u64::MAX
    }

    fn on_disconnect(self: Arc<Self>, addr: SocketAddr, origin: DisconnectOrigin) -> BoxFuture<'static, ()> {
        // Nothing in here may be a point where another thread goes on: the scope of the hook belongs to all of shuttle's
        // threads, which are one thread of the OS. It may only be pending.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((addr, origin));
        Box::pin(shuttle::future::yield_now())
    }
}

/// Says that Writing is enabled; the connections of a stage are made without it.
struct IsEnabled;

impl WritingHook for IsEnabled {
    fn prepare(&self, _: SocketAddr, _: ConnectionSide, _: Meter) -> (Arc<dyn AnyOutbox>, RunWriter) {
        unreachable!("nothing is set up")
    }
}

/// A task of a connection, as the lifecycle counts it.
struct Counted {
    kernel: Arc<Kernel>,
    info: ConnectionInfo,
    /// Its drop takes off the leash.
    _alive: oneshot::Sender<()>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.info.tasks().leave();
        self.kernel.tasks.leave();
    }
}

/// Aborts a task of shuttle when it is dropped: what an abort handle of tokio's is for.
struct Leash(Abort);

impl Drop for Leash {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A node, and what has been seen of it.
#[derive(Clone)]
pub(super) struct Stage {
    pub(super) kernel: Arc<Kernel>,
    endings: Arc<Endings>,
    /// How many writers have been started.
    pub(super) writers: Arc<AtomicUsize>,
    /// How many messages were encoded in the course of a send.
    pub(super) encoded_by_senders: Arc<AtomicUsize>,
}

impl Stage {
    pub(super) fn new(max_connections: u16, max_connections_per_ip: u16, max_connecting: u16) -> Self {
        let name = Some("stage".to_owned());
        let config = Config { name, max_connections, max_connections_per_ip, max_connecting, ..Config::default() };
        let (kernel, endings) = (Arc::new(Kernel::new(config)), Arc::default());
        let hook = Arc::clone(&endings) as Arc<dyn OnDisconnectHook>;
        kernel.hooks.enable("on_disconnect", hook, |set| &mut set.on_disconnect, || false);
        kernel.hooks.enable("writing", Arc::new(IsEnabled) as Arc<dyn WritingHook>, |set| &mut set.writing, || false);
        Self { kernel, endings, writers: Arc::default(), encoded_by_senders: Arc::default() }
    }

    /// The endings that have begun.
    pub(super) fn endings(&self) -> Vec<DisconnectOrigin> {
        let endings = self.endings.0.lock().unwrap_or_else(PoisonError::into_inner);
        endings.iter().map(|(_, origin)| *origin).collect()
    }

    /// A dial that meets nothing but the registry.
    pub(super) fn reserve(&self, addr: SocketAddr) -> Result<Reservation<LiveConnection>, Refusal> {
        self.kernel.registry.check_dial(addr)?;
        let reservation = self.kernel.registry.reserve(addr);
        self.check();
        reservation
    }

    /// A live connection with a made-up stream and without hooks.
    pub(super) fn connection(&self, id: ConnId, addr: SocketAddr, peer: &Peer) -> Arc<LiveConnection> {
        self.connection_with(id, addr, peer, None)
    }

    /// The same with a reader that is not started: what it does is up to the scene.
    pub(super) fn connection_with_reader(&self, id: ConnId, addr: SocketAddr, peer: &Peer) -> Arc<LiveConnection> {
        self.connection_with(id, addr, peer, Some(Box::pin(pending())))
    }

    fn connection_with(
        &self,
        id: ConnId,
        addr: SocketAddr,
        peer: &Peer,
        reader: Option<BoxFuture<'static, ReadEnd>>,
    ) -> Arc<LiveConnection> {
        let kernel = &self.kernel;
        let info = ConnectionInfo::new(id, addr, ConnectionSide::Responder, Span::none());
        let outbox = Arc::new(Outbox::<Message>::new(PairEncoder::new(&self.encoded_by_senders), &SETTINGS));
        let (queue, meter) = (Arc::clone(&outbox), Meter::new(Arc::clone(&kernel.traffic), info.clone()));
        let run = Box::new(move |half| Box::pin(Writer::new(half, queue, meter).run()) as _);
        let half = Transport::from_stream(peer.stream()).split().map(|(_, write)| write);
        let write = half.map_or(WriteSide::Gone, |half| WriteSide::Ready(Box::new((half, run))));
        let read = reader.map_or(ReadSide::Gone, ReadSide::Ready);
        // Only of a wrapped stream is the farewell of a writer that has nothing to write waited for.
        Arc::new(LiveConnection::new(info, Some(outbox), below(2) == 0, Handle::current(), read, write))
    }

    /// The end of a setup, with a made-up connection.
    pub(super) fn go_live(
        &self,
        reservation: Reservation<LiveConnection>,
        peer: &Peer,
    ) -> Result<Arc<LiveConnection>, Refusal> {
        self.go_live_as(reservation, |id, addr| self.connection(id, addr, peer))
    }

    /// The same with a connection of the caller's making.
    pub(super) fn go_live_as(
        &self,
        reservation: Reservation<LiveConnection>,
        make: impl FnOnce(ConnId, SocketAddr) -> Arc<LiveConnection>,
    ) -> Result<Arc<LiveConnection>, Refusal> {
        let (id, addr) = (reservation.id(), reservation.addr());
        let live = go_live(&self.kernel, reservation, || Ok(make(id, addr)), |_| self.check());
        live.map_err(|error| {
            assert!(error.get_ref().is_some_and(|inner| inner.is::<ShuttingDown>()), "{error}");
            Refusal::Closed
        })
    }

    /// A live connection, in a registry that has room for it.
    pub(super) fn live(&self, addr: SocketAddr, peer: &Peer) -> Arc<LiveConnection> {
        let live = self.reserve(addr).and_then(|reservation| self.go_live(reservation, peer));
        live.unwrap_or_else(|refusal| panic!("refused: {refusal:?}"))
    }

    /// `unicast`.
    pub(super) fn send(&self, addr: SocketAddr, message: Message) -> Result<Receiver<io::Result<()>>, ErrorKind> {
        let (receipt, receiver) = oneshot::channel();
        self.push(addr, message, Some(receipt))?;
        Ok(receiver)
    }

    /// `unicast_fast` too.
    pub(super) fn push(
        &self,
        addr: SocketAddr,
        message: Message,
        receipt: Option<ReceiptSender>,
    ) -> Result<(), ErrorKind> {
        send_by(&self.kernel, addr, message, receipt, |live| self.start_writer(live)).map_err(|error| error.kind())
    }

    fn start_writer(&self, live: &Arc<LiveConnection>) {
        let kernel = &self.kernel;
        start_writer_by(kernel, live, |task| {
            self.writers.fetch_add(1, Ordering::Relaxed);
            kernel.tasks.enter();
            live.info().tasks().enter();
            let (alive, ended) = oneshot::channel();
            let counted = Counted { kernel: Arc::clone(kernel), info: live.info().clone(), _alive: alive };
            let (abort, registration) = Abort::new_pair();
            let task = Abortable::new(task, registration);
            drop(shuttle::future::spawn(async move {
                let _counted = counted;
                _ = task.await;
            }));
            let leash = Leash(abort);
            tokio::spawn(async move {
                let _leash = leash;
                _ = ended.await;
            })
            .abort_handle()
        });
    }

    /// What the reader does when the peer closes.
    pub(super) fn end_of_input(&self, live: &Arc<LiveConnection>) -> impl Future<Output = ()> + use<> {
        let following = after_reading(Ok(ReadEnd::Eof), Ender::new(&self.kernel, live, DisconnectOrigin::Reading));
        driven(following)
    }

    pub(super) fn disconnect(&self, addr: SocketAddr) -> bool {
        block_on(driven(super::super::disconnect(&self.kernel, addr)))
    }

    pub(super) fn shut_down(&self) {
        block_on(driven(shut_down(&self.kernel)));
    }

    /// What the setup of a connection does with its reservation, until it is live or the node closes; it may hang in its
    /// handshake, so that only closing ends it.
    pub(super) async fn set_up(&self, addr: SocketAddr, peer: &Peer, hangs: bool) -> Result<(), Refusal> {
        let registry = &self.kernel.registry;
        let reservation = self.reserve(addr)?;
        let closed = wait_until(registry.changed(), || registry.is_closed());
        let setup = async {
            if hangs {
                pending::<()>().await;
            }
            shuttle::future::yield_now().await;
            self.go_live(reservation, peer)
        };
        match select(pin!(closed), pin!(setup)).await {
            Either::Left(_) => Err(Refusal::Closed),
            Either::Right((live, _)) => live.map(drop),
        }
    }

    /// `conserved` and `limited`.
    pub(super) fn check(&self) {
        self.kernel.registry.assert_conserved();
    }

    /// Ends the node; then nothing may be left of it.
    pub(super) fn end(&self) {
        self.shut_down();
        self.check();
        assert_eq!(self.kernel.registry.counts(), Counts::default());
        assert!(self.kernel.registry.is_closed_and_empty());
        drive();
    }
}

/// A connection of which nothing may be left at the end of its scene.
pub(super) struct Remains {
    live: Weak<LiveConnection>,
    peer: Peer,
}

impl Remains {
    pub(super) fn of(live: &Arc<LiveConnection>, peer: &Peer) -> Self {
        Self { live: Arc::downgrade(live), peer: peer.clone() }
    }

    pub(super) fn check(&self) {
        assert!(self.live.upgrade().is_none(), "somebody has a live");
        assert!(self.peer.is_closed(), "the stream is open");
    }
}

/// Lets the runtime drop what a poll has aborted.
pub(super) fn driven<T>(future: impl Future<Output = T>) -> impl Future<Output = T> {
    let mut future = Box::pin(future);
    poll_fn(move |cx| {
        let polled = future.as_mut().poll(cx);
        drive();
        polled
    })
}
