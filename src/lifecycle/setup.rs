//! From a dial or an accepted socket to a live connection.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::future::{BoxFuture, Either, select};
use tokio::{
    net::{TcpSocket, TcpStream},
    runtime::Handle,
    sync::OwnedSemaphorePermit,
    task::{AbortHandle, yield_now},
    time::timeout,
};
use tracing::{debug, error_span};

use super::{
    report_panic, spawn_counted,
    tasks::{ConnectionTask, Ender, after_on_connect, after_reading, after_writing},
};
use crate::{
    connection::{Connection, ConnectionInfo, ConnectionSide, DisconnectOrigin, meter::Meter},
    error,
    hooks::{HandshakeHook, HookSet, OnConnectHook},
    inside,
    kernel::Kernel,
    live_connection::{LiveConnection, ReadSide, WriteSide},
    outbound::writer::Written,
    panics::{catch, caught},
    registry::{Refusal, Reservation, waiting::Outlook},
    transport::{self, WriteHalf},
    waiting::{bound, wait_until, within},
};

/// Dials an address and sets the connection up.
pub(crate) async fn dial(kernel: &Arc<Kernel>, addr: SocketAddr, socket: Option<TcpSocket>) -> io::Result<()> {
    let result = try_dial(kernel, addr, socket).await;
    if let Err(error) = &result {
        debug!(parent: &kernel.span, %addr, error = error::describe(error), "could not connect");
    }
    result
}

async fn try_dial(kernel: &Arc<Kernel>, addr: SocketAddr, socket: Option<TcpSocket>) -> io::Result<()> {
    if Handle::try_current().is_err() {
        return Err(error::no_runtime("a dial"));
    }
    if kernel.listener.is_at(addr) {
        return Err(error::self_connect(addr));
    }
    let refused = |refusal| refusal_error(kernel, addr, refusal);
    kernel.registry.check_dial(addr).map_err(refused)?;
    let Ok(_permit) = kernel.setups.try_acquire() else {
        kernel.heuristics().connect_budget_rejections.increment();
        return Err(error::setup_budget(addr, kernel.config.max_connecting));
    };
    let reservation = kernel.registry.reserve(addr).map_err(refused)?;
    let setup = async {
        let stream = dial_tcp(kernel, addr, socket).await?;
        set_up(kernel, reservation, stream, ConnectionSide::Responder).await
    };
    until_closed(kernel, setup).await
}

async fn dial_tcp(kernel: &Kernel, addr: SocketAddr, socket: Option<TcpSocket>) -> io::Result<TcpStream> {
    let limit_ms = kernel.config.connection_timeout_ms;
    let stream = timeout(Duration::from_millis(limit_ms.into()), transport::connect(addr, socket))
        .await
        .map_err(|_| error::dial_timeout(addr, limit_ms))??;
    // Once TCP is connected, no failing socket call is the dial's failure any more: the peer may be gone already.
    match (stream.local_addr(), stream.peer_addr()) {
        (Ok(local), Ok(peer)) if local == peer => Err(error::self_connect(addr)),
        _ => Ok(stream),
    }
}

/// How long an accepted connection without a slot gives way to the tasks that may be about to end one: a turn of each, also
/// on a busy machine.
const MAX_WAIT_FOR_TURN: Duration = Duration::from_millis(25);

/// How long an accepted connection waits for the release of one that is ending.
const MAX_WAIT_FOR_RELEASE: Duration = Duration::from_secs(1);

/// Sets an accepted connection up, in a task of its own.
pub(super) fn accept(kernel: &Arc<Kernel>, stream: TcpStream, addr: SocketAddr, permit: OwnedSemaphorePermit) {
    match kernel.registry.reserve(addr) {
        Ok(reservation) => {
            spawn_counted(kernel, None, Box::pin(set_up_accepted(Arc::clone(kernel), reservation, stream, permit)));
        }
        Err(Refusal::Closed) => refuse(kernel, addr, Refusal::Closed),
        Err(refusal) => {
            drop(permit);
            spawn_counted(kernel, None, Box::pin(set_up_after_release(Arc::clone(kernel), refusal, stream, addr)));
        }
    }
}

async fn set_up_accepted(
    kernel: Arc<Kernel>,
    reservation: Reservation<LiveConnection>,
    stream: TcpStream,
    permit: OwnedSemaphorePermit,
) {
    let _permit = permit;
    let addr = reservation.addr();
    let setup = set_up(&kernel, reservation, stream, ConnectionSide::Initiator);
    if let Err(error) = until_closed(&kernel, setup).await {
        debug!(parent: &kernel.span, %addr, error = error::describe(&error), "could not set an accepted connection up");
    }
}

/// Sets an accepted connection up that was refused, if an earlier one of its peer is ending: who hangs up and dials again at
/// once must not be refused for what we have not finished. It waits without a permit, and one for each IP address at most.
async fn set_up_after_release(kernel: Arc<Kernel>, refused: Refusal, stream: TcpStream, addr: SocketAddr) {
    let mut place = kernel.registry.queue_up(addr);
    if place.is_none() {
        // Whoever has the place may be about to leave it.
        yield_now().await;
        place = kernel.registry.queue_up(addr);
    }
    let Some(place) = place else { return refuse(&kernel, addr, refused) };
    let reserved = async {
        let mut has_given_way = false;
        loop {
            match place.outlook() {
                // The end of the earlier stream came in before this connection, but its reader may not have had its turn yet.
                Outlook::Refused(_) if !has_given_way => {
                    has_given_way = true;
                    _ = timeout(MAX_WAIT_FOR_TURN, place.changed().notified()).await;
                }
                Outlook::Refused(refusal) => return Err(refusal),
                Outlook::Ending => place.changed().notified().await,
                Outlook::Vacant => {
                    let Ok(permit) = Arc::clone(&kernel.setups).acquire_owned().await else {
                        return Err(Refusal::Closed);
                    };
                    // Somebody else may have been faster; then what is left is asked anew.
                    if let Ok(reservation) = kernel.registry.reserve(addr) {
                        return Ok((reservation, permit));
                    }
                }
            }
        }
    };
    let in_time = async { Ok(timeout(MAX_WAIT_FOR_RELEASE, reserved).await.unwrap_or(Err(refused))) };
    let reserved = until_closed(&kernel, in_time).await.unwrap_or(Err(Refusal::Closed));
    drop(place);
    match reserved {
        Ok((reservation, permit)) => Box::pin(set_up_accepted(kernel, reservation, stream, permit)).await,
        Err(refusal) => refuse(&kernel, addr, refusal),
    }
}

/// Says that an accepted connection gets no slot.
fn refuse(kernel: &Kernel, addr: SocketAddr, refusal: Refusal) {
    if refusal != Refusal::Closed {
        kernel.heuristics().inbound_connections_rejected.increment();
    }
    let error = refusal_error(kernel, addr, refusal);
    debug!(parent: &kernel.span, %addr, %error, "refused a connection");
}

fn refusal_error(kernel: &Kernel, addr: SocketAddr, refusal: Refusal) -> io::Error {
    match refusal {
        Refusal::Closed => error::shutting_down(),
        Refusal::Occupied => error::already_exists(addr),
        Refusal::IpLimit(ip) => error::ip_limit(addr, ip, kernel.config.max_connections_per_ip),
        Refusal::NodeLimit => error::node_limit(addr, kernel.config.max_connections),
    }
}

/// Ends a setup when the node closes.
async fn until_closed<T>(kernel: &Kernel, setup: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let closed = wait_until(kernel.registry.changed(), || kernel.registry.is_closed());
    match select(pin!(closed), pin!(setup)).await {
        Either::Left(((), _)) => Err(error::shutting_down()),
        Either::Right((result, _)) => result,
    }
}

async fn set_up(
    kernel: &Arc<Kernel>,
    reservation: Reservation<LiveConnection>,
    stream: TcpStream,
    peer_side: ConnectionSide,
) -> io::Result<()> {
    let addr = reservation.addr();
    let span = error_span!(parent: &kernel.span, "connection", %addr, peer = ?peer_side);
    let mut connection = Connection::new(ConnectionInfo::new(reservation.id(), addr, peer_side, span), stream);
    let mut hooks = kernel.hooks.current();
    if let Some(handshake) = &hooks.handshake {
        connection = shake_hands(kernel, Arc::clone(handshake), connection).await?;
    }
    let on_connect = hooks.on_connect.take();
    go_live(kernel, reservation, move || attach(kernel, hooks, connection), |live| begin(kernel, on_connect, live))?;
    Ok(())
}

async fn shake_hands(kernel: &Kernel, hook: Arc<dyn HandshakeHook>, connection: Connection) -> io::Result<Connection> {
    let info = connection.info().clone();
    let (addr, limit_ms) = (info.addr(), hook.timeout_ms());
    let handshake = inside::within_hook(kernel.identity(), Box::pin(caught(move || hook.perform(connection))));
    match within(bound(limit_ms), handshake).await {
        None => {
            kernel.heuristics().handshake_timeouts.increment();
            Err(error::handshake_timeout(addr, limit_ms))
        }
        Some(Err(panicked)) => Err(report_panic(kernel, "perform_handshake", &info, &panicked)),
        Some(Ok(result)) => {
            let connection = result?;
            if connection.info().id() == info.id() { Ok(connection) } else { Err(error::foreign_connection(addr)) }
        }
    }
}

/// Makes a connection live: attaches its protocols, lists it, and begins its tasks. Nothing here awaits: between the instant
/// at which it is listed and the one at which its tasks and `on_connect` are scheduled, nothing can be cancelled.
pub(super) fn go_live(
    kernel: &Kernel,
    reservation: Reservation<LiveConnection>,
    attach: impl FnOnce() -> io::Result<Arc<LiveConnection>>,
    begin: impl FnOnce(&Arc<LiveConnection>),
) -> io::Result<Arc<LiveConnection>> {
    // Whoever ends the node waits for the codecs and the tasks, also for those that do not exist yet.
    let _starting = kernel.tasks.present();
    if kernel.registry.is_closed() {
        return Err(error::shutting_down());
    }
    let live = attach()?;
    // So does, once it is listed, whoever ends the connection.
    let info = live.info().clone();
    let _starting_own = info.tasks().present();
    reservation.establish(Arc::clone(&live)).map_err(|_closed| error::shutting_down())?;
    begin(&live);
    debug!(parent: info.span(), "live");
    Ok(live)
}

/// Calls the codecs, and gives each loop its half of the stream.
fn attach(kernel: &Arc<Kernel>, mut hooks: HookSet, connection: Connection) -> io::Result<Arc<LiveConnection>> {
    let info = connection.info().clone();
    let (addr, own_side) = (info.addr(), !info.side());
    let (read, write) = match connection.split() {
        Some((read, write)) => (Some(read), Some(write)),
        None if hooks.reading.is_some() || hooks.writing.is_some() => return Err(error::stream_not_returned(addr)),
        None => (None, None),
    };
    let meter = || Meter::new(Arc::clone(&kernel.traffic), info.clone());
    let codec_panicked = |hook: &'static str| {
        let info = info.clone();
        move |panicked| report_panic(kernel, hook, &info, &panicked)
    };
    let reader = hooks.reading.take().map(|hook| catch(|| hook.prepare(addr, own_side, meter())));
    let reader = reader.transpose().map_err(codec_panicked("Reading::codec"))?;
    let writer = hooks.writing.take().map(|hook| catch(|| hook.prepare(addr, own_side, meter())));
    let writer = writer.transpose().map_err(codec_panicked("Writing::codec"))?;

    let is_wrapped = write.as_ref().is_some_and(WriteHalf::is_wrapped);
    let (outbox, run_writer) = writer.unzip();
    let read = match (read, reader) {
        (Some(half), Some(run)) => ReadSide::Ready(run(half, outbox.clone())),
        (Some(half), None) => ReadSide::Unread(half),
        (None, _) => ReadSide::Gone,
    };
    let write = match (write, run_writer) {
        (Some(half), Some(run)) => WriteSide::Ready(Box::new((half, run))),
        (Some(half), None) => WriteSide::Unwritten(Box::new(half)),
        (None, _) => WriteSide::Gone,
    };
    Ok(Arc::new(LiveConnection::new(info, outbox, is_wrapped, Handle::current(), read, write)))
}

/// Begins `on_connect`, which starts the reader; without it, the reader.
fn begin(kernel: &Arc<Kernel>, on_connect: Option<Arc<dyn OnConnectHook>>, live: &Arc<LiveConnection>) {
    let Some(hook) = on_connect else { return start_reader(kernel, live) };
    live.start_on_connect(|| {
        let is_abortable = hook.is_abortable();
        let ender = Ender::new(kernel, live, DisconnectOrigin::OnConnectAbort);
        let run = run_on_connect(hook, live.info().addr(), Arc::clone(kernel), Arc::downgrade(live));
        let task = ConnectionTask::new(run, ender, after_on_connect);
        if is_abortable {
            return Some(spawn_counted(kernel, Some(live.info().clone()), task));
        }
        Handle::current().spawn(inside::within_hook(kernel.identity(), task));
        None
    });
}

/// Runs `on_connect`, after it has started the reader: a task that spawns one other wakes no other thread for it, while of
/// two that are spawned together one goes to another thread, which costs more than all of the setup.
fn run_on_connect(
    hook: Arc<dyn OnConnectHook>,
    addr: SocketAddr,
    kernel: Arc<Kernel>,
    live: Weak<LiveConnection>,
) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        if let Some(live) = live.upgrade() {
            start_reader(&kernel, &live);
        }
        drop((kernel, live));
        hook.on_connect(addr).await;
    })
}

fn start_reader(kernel: &Arc<Kernel>, live: &Arc<LiveConnection>) {
    let _starting = (kernel.tasks.present(), live.info().tasks().present());
    live.start_reader(|reader| {
        let ender = Ender::new(kernel, live, DisconnectOrigin::Reading);
        spawn_counted(kernel, Some(live.info().clone()), ConnectionTask::new(reader, ender, after_reading))
    });
}

/// Starts the writer of a connection, for the first message that is sent: many connections never send one, and a task costs
/// memory and time.
pub(super) fn start_writer(kernel: &Arc<Kernel>, live: &Arc<LiveConnection>) {
    start_writer_by(kernel, live, |task| {
        let _context = live.runtime().enter();
        spawn_counted(kernel, Some(live.info().clone()), task)
    });
}

/// The same with the caller's way to spawn.
pub(super) fn start_writer_by(
    kernel: &Arc<Kernel>,
    live: &Arc<LiveConnection>,
    spawn: impl FnOnce(ConnectionTask<Written<WriteHalf>>) -> AbortHandle,
) {
    // Whoever ends the connection meanwhile waits for a task that it cannot abort yet.
    let _starting = (kernel.tasks.present(), live.info().tasks().present());
    live.start_writer(|half, run| {
        spawn(ConnectionTask::new(run(half), Ender::new(kernel, live, DisconnectOrigin::Writing), after_writing))
    });
}
