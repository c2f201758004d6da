//! Plays a peer's script with plain blocking sockets. It knows the victim by its address only.
//!
//! The runtime has two parts in this, neither of which touches a connection: dialling from a chosen address or with a
//! small buffer, which std cannot do, and setting `SO_LINGER`.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, LazyLock, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{net::TcpSocket, runtime::Runtime};

use crate::{
    common::PATIENCE,
    row::{After, Meeting, Peer, Step},
    victim::{HELLO, WELCOME},
};

/// The smallest that the system makes of it.
const TIGHT: u32 = 1;

/// How long a socket that takes nothing counts as one that will not.
const BLOCKED: Duration = Duration::from_millis(50);

/// What the peers of an attack have in common.
pub struct Field {
    /// Where the victim listens.
    pub victim: SocketAddr,
    /// Makes the victim dial.
    pub make_dial: Box<dyn Fn(SocketAddr) + Send + Sync>,
    /// How many connections of the victim are live, and how many are being set up.
    pub counts: Box<dyn Fn() -> (usize, usize) + Send + Sync>,
    /// How many peers hold or are done.
    pub arrived: AtomicUsize,
    /// The ports on which peers were dialled; kept so that nobody else gets them.
    pub listeners: Mutex<Vec<TcpListener>>,
    /// Where the judgement stands.
    stage: (Mutex<Stage>, Condvar),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stage {
    #[default]
    Watching,
    /// What was expected has been seen.
    Seen,
    /// It has not, and nothing is waited for any more.
    GivenUp,
}

impl Field {
    pub fn new(
        victim: SocketAddr,
        make_dial: impl Fn(SocketAddr) + Send + Sync + 'static,
        counts: impl Fn() -> (usize, usize) + Send + Sync + 'static,
    ) -> Self {
        Self {
            victim,
            make_dial: Box::new(make_dial),
            counts: Box::new(counts),
            arrived: AtomicUsize::new(0),
            listeners: Mutex::default(),
            stage: Default::default(),
        }
    }

    /// Ends [`Step::Hold`].
    pub fn announce(&self, stage: Stage) {
        *self.stage.0.lock().unwrap() = stage;
        self.stage.1.notify_all();
    }

    fn is_watching(&self) -> bool {
        *self.stage.0.lock().unwrap() == Stage::Watching
    }

    fn is_given_up(&self) -> bool {
        *self.stage.0.lock().unwrap() == Stage::GivenUp
    }

    fn hold(&self) {
        let (stage, changed) = &self.stage;
        drop(changed.wait_while(stage.lock().unwrap(), |stage| *stage == Stage::Watching).unwrap());
    }

    /// Waits for a condition; an error if the judge gives up first.
    fn wait_until(&self, what: &str, mut condition: impl FnMut() -> bool) -> Result<(), String> {
        while !condition() {
            if self.is_given_up() {
                return Err(format!("waited in vain: {what}"));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn arrive(&self) {
        self.arrived.fetch_add(1, Ordering::SeqCst);
    }
}

/// Plays a peer; an error is a step that did not go as the table says.
pub fn play(peer: &Peer, field: &Arc<Field>) -> Result<(), String> {
    let mut has_arrived = false;
    let played = play_rounds(peer, field, &mut has_arrived);
    if !has_arrived {
        field.arrive();
    }
    played
}

fn play_rounds(peer: &Peer, field: &Field, has_arrived: &mut bool) -> Result<(), String> {
    match peer.after {
        After::Nothing => {}
        After::Live(count) => field.wait_until("live connections", || (field.counts)().0 >= count)?,
        After::Pending(count) => field.wait_until("pending connections", || (field.counts)().1 >= count)?,
    }
    let mut port = 0;
    for _ in 0..peer.rounds {
        let mut sockets = open(peer, field, &mut port)?;
        for step in &peer.script {
            if matches!(step, Step::Hold | Step::HoldAndRead(..)) && !*has_arrived {
                *has_arrived = true;
                field.arrive();
            }
            for socket in &mut sockets {
                socket.take(step, field).map_err(|error| format!("{step:.60?}: {error}"))?;
            }
        }
    }
    Ok(())
}

fn open(peer: &Peer, field: &Field, port: &mut u16) -> Result<Vec<Socket>, String> {
    let dial = |source: Option<IpAddr>, port: &mut u16| {
        let from = source.map(|ip| SocketAddr::new(ip, *port));
        let stream = dial(from, field.victim, peer.is_tight).map_err(|error| format!("could not dial: {error}"))?;
        if peer.keeps_port {
            *port = stream.local_addr().map_err(|error| error.to_string())?.port();
        }
        Ok::<_, String>(stream)
    };
    let streams = match peer.meeting {
        Meeting::Dials => {
            let sources = (0..peer.crowd).map(|number| peer.sources.get(number % peer.sources.len().max(1)).copied());
            sources.map(|source| dial(source, port)).collect::<Result<Vec<_>, _>>()?
        }
        Meeting::IsDialled => vec![accept_from(field, listener(1_024)?)?],
        Meeting::IsDialledAndDialsBack => {
            let listener = listener(1_024)?;
            let own = listener.local_addr().unwrap();
            let accepted = accept_from(field, listener)?;
            vec![accepted, self::dial(Some(own), field.victim, false).map_err(|error| error.to_string())?]
        }
        Meeting::IsABlackHole => {
            let listener = listener(0)?;
            let addr = listener.local_addr().unwrap();
            // The first takes the only place, and the system drops what else would come.
            let filler = TcpStream::connect(addr).map_err(|error| error.to_string())?;
            (field.make_dial)(addr);
            field.listeners.lock().unwrap().push(listener);
            vec![filler]
        }
        Meeting::Refuses => {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
            (field.make_dial)(socket.local_addr().unwrap());
            // The port stays taken, without a listener, until the dial has been judged.
            field.arrive();
            field.hold();
            Vec::new()
        }
        Meeting::IsTheVictim(ip) => {
            (field.make_dial)(SocketAddr::new(ip.unwrap_or(field.victim.ip()), field.victim.port()));
            Vec::new()
        }
    };
    let socket = |stream: TcpStream| {
        // Some systems refuse all of this once the other end has reset the connection; nothing waits then either.
        _ = stream.set_nodelay(true);
        _ = stream.set_read_timeout(Some(PATIENCE));
        _ = stream.set_write_timeout(Some(PATIENCE));
        Socket { stream: Some(stream), is_turned_away: false }
    };
    Ok(streams.into_iter().map(socket).collect())
}

/// A listener whose port can be dialled from too.
fn listener(backlog: u32) -> Result<TcpListener, String> {
    let listen = || {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.set_reuseport(true)?;
        socket.bind("127.0.0.1:0".parse().unwrap())?;
        let _inside = DIALLER.enter();
        let listener = socket.listen(backlog)?.into_std()?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    listen().map_err(|error: io::Error| format!("could not listen: {error}"))
}

fn accept_from(field: &Field, listener: TcpListener) -> Result<TcpStream, String> {
    (field.make_dial)(listener.local_addr().unwrap());
    let mut accepted = None;
    field.wait_until("being dialled", || {
        accepted = listener.accept().ok();
        accepted.is_some()
    })?;
    field.listeners.lock().unwrap().push(listener);
    let (stream, _) = accepted.expect("waited for");
    stream.set_nonblocking(false).map_err(|error| error.to_string())?;
    Ok(stream)
}

static DIALLER: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_io().build().expect("a runtime")
});

fn dial(from: Option<SocketAddr>, victim: SocketAddr, is_tight: bool) -> io::Result<TcpStream> {
    let is_ipv4 = from.map_or(victim.is_ipv4(), |from| from.is_ipv4());
    let target = match victim.ip() {
        ip if !ip.is_unspecified() => victim,
        _ if is_ipv4 => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), victim.port()),
        _ => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), victim.port()),
    };
    if from.is_none() && !is_tight {
        return TcpStream::connect(target);
    }
    let socket = if is_ipv4 { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(from) = from {
        socket.set_reuseaddr(true)?;
        if from.port() != 0 {
            socket.set_reuseport(true)?;
        }
        socket.bind(from)?;
    }
    if is_tight {
        socket.set_recv_buffer_size(TIGHT)?;
    }
    let stream = DIALLER.block_on(socket.connect(target))?.into_std()?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}

struct Socket {
    /// `None` once it is closed.
    stream: Option<TcpStream>,
    /// Whether the victim has ended the connection before its turn.
    is_turned_away: bool,
}

impl Socket {
    fn take(&mut self, step: &Step, field: &Field) -> Result<(), String> {
        if matches!(step, Step::Hold) {
            field.hold();
            return Ok(());
        }
        let Some(stream) = self.stream.as_mut().filter(|_| !self.is_turned_away) else { return Ok(()) };
        let is_welcome = match step {
            Step::Send(bytes) => stream.write_all(bytes).is_ok(),
            Step::Trickle(bytes, pause) => bytes.iter().all(|byte| {
                let is_sent = stream.write_all(&[*byte]).is_ok();
                thread::sleep(*pause);
                is_sent && !field.is_given_up()
            }),
            Step::Flood(bytes, times) => (0..*times).all(|_| stream.write_all(bytes).is_ok()),
            Step::SendUntilBlocked(bytes) => send_until_blocked(stream, bytes),
            Step::TryGreet => {
                let mut answer = [0; WELCOME.len()];
                stream.write_all(&HELLO).and_then(|()| stream.read_exact(&mut answer)).is_ok() && answer == WELCOME
            }
            Step::Expect(expected) => {
                let mut bytes = vec![0; expected.len()];
                stream.read_exact(&mut bytes).map_err(|error| format!("did not come: {error}"))?;
                is_as_expected(&bytes, expected)?;
                true
            }
            Step::ExpectEof(expected) => {
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes).map_err(|error| format!("no clean end: {error}"))?;
                is_as_expected(&bytes, expected)?;
                // A reset that comes behind the end does not show in the reading.
                match stream.take_error() {
                    Ok(None) => true,
                    error => return Err(format!("no clean end: {error:?}")),
                }
            }
            Step::ExpectEnd(expected) => {
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes).map_err(|error| format!("no end: {error}"))?;
                is_as_expected(&bytes, expected)?;
                true
            }
            Step::ReadUntilEnd => {
                read_until_end(stream, 64 * 1024, Duration::ZERO, field, |_, _| {})?;
                true
            }
            Step::ReadSlowly(count, pause) => {
                read_until_end(stream, *count, *pause, field, |_, _| {})?;
                true
            }
            Step::Mirror => {
                read_until_end(stream, 64 * 1024, Duration::ZERO, field, |stream, bytes| _ = stream.write_all(bytes))?;
                true
            }
            Step::ShutWr => stream.shutdown(Shutdown::Write).is_ok(),
            Step::ShutRd => stream.shutdown(Shutdown::Read).is_ok(),
            Step::Reset => {
                if let Some(stream) = self.stream.take() {
                    TcpSocket::from_std_stream(stream).set_zero_linger().map_err(|error| error.to_string())?;
                }
                true
            }
            Step::HoldAndRead(count, pause) => {
                let mut buffer = vec![0; *count];
                while field.is_watching() {
                    _ = stream.read(&mut buffer);
                    thread::sleep(*pause);
                }
                true
            }
            Step::Hold => true,
        };
        self.is_turned_away = !is_welcome;
        Ok(())
    }
}

fn is_as_expected(bytes: &[u8], expected: &[u8]) -> Result<(), String> {
    if bytes == expected {
        return Ok(());
    }
    Err(format!("{} bytes came instead: {:.100}", bytes.len(), bytes.escape_ascii().to_string()))
}

/// Tells whether the socket is merely full.
fn send_until_blocked(stream: &mut TcpStream, bytes: &[u8]) -> bool {
    let mut at = 0;
    _ = stream.set_write_timeout(Some(BLOCKED));
    let error = loop {
        match stream.write(&bytes[at..]) {
            Ok(count) => at = (at + count) % bytes.len(),
            Err(error) => break error,
        }
    };
    _ = stream.set_write_timeout(Some(PATIENCE));
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Reads until the end, of whatever kind; an error if it does not come.
fn read_until_end(
    stream: &mut TcpStream,
    piece: usize,
    pause: Duration,
    field: &Field,
    mut got: impl FnMut(&mut TcpStream, &[u8]),
) -> Result<(), String> {
    let began = Instant::now();
    let mut buffer = vec![0; piece];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => got(stream, &buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err("there is no end to it".into());
            }
            Err(_) => return Ok(()),
        }
        if field.is_given_up() || began.elapsed() > PATIENCE {
            return Err("there is no end to it".into());
        }
        if !pause.is_zero() {
            thread::sleep(pause);
        }
    }
}
