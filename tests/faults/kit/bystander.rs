//! The honest pair: a peer that sends the victim a message every 10 ms, and wants it back soon.
//!
//! Another pair does the same without any victim, on two threads of its own: how late the machine itself makes a reply. The
//! bystander may be late by the matrix's bound beyond that.
//!
//! Messages go out when they are due, whether or not the reply to the last one is there. If each had to wait for it, replies
//! that take 30 ms would make every message later than the one before, by seconds in the end, though none takes longer.

use std::{
    fmt::{self, Display, Formatter},
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, channel, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

const INTERVAL: Duration = Duration::from_millis(10);
/// The matrix's bound, for a release build; a debug build needs several times the CPU for the same attack.
const LONGEST_REPLY: Duration = Duration::from_millis(if cfg!(debug_assertions) { 1_000 } else { 250 });
const MAX_REPLIES: usize = 100_000;

/// How many messages may be on their way: as many as fall due within the matrix's bound.
const MAX_UNDERWAY: usize = 25;

/// How long it waits for a reply before it calls the connection broken.
const BROKEN: Duration = Duration::from_secs(10);

pub struct Bystander {
    is_done: Arc<AtomicBool>,
    pair: Echoing,
    /// The one that meets no victim.
    control: Echoing,
    pub addr: SocketAddr,
}

/// How late the replies were, and how it ended.
type Echoing = JoinHandle<(Vec<Duration>, io::Result<()>)>;

/// The latency that 99 of 100 replies kept to.
#[derive(Debug, Clone, Copy)]
pub struct Latency {
    p99: Duration,
    /// That of the pair without a victim.
    control: Duration,
    replies: usize,
}

impl Display for Latency {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { p99, control, replies } = self;
        write!(f, "{p99:.1?} at p99 of {replies}, without a victim {control:.1?}")
    }
}

impl Bystander {
    /// Begins to echo over a connection of its own, with no more on its way than the victim has room for; returns when the
    /// first reply has come.
    pub fn over(stream: TcpStream, depth: usize) -> Self {
        let addr = stream.local_addr().unwrap();
        let is_done = Arc::new(AtomicBool::new(false));
        let underway = depth.min(MAX_UNDERWAY);
        let pair = begin("bystander", stream, underway, &is_done);
        let control = begin("control", dial_echo(), underway, &is_done);
        Self { is_done, pair, control, addr }
    }

    /// Ends; tells how late the replies were, if that is not too late.
    pub fn finish(self) -> Result<Latency, String> {
        self.is_done.store(true, Ordering::Relaxed);
        let (latencies, result) = self.pair.join().map_err(|_| "the bystander panicked")?;
        let (control, _) = self.control.join().map_err(|_| "the control panicked")?;
        result.map_err(|error| format!("the bystander's connection broke: {error}"))?;
        let latency = Latency { replies: latencies.len(), p99: p99(latencies), control: p99(control) };
        match latency.p99 <= LONGEST_REPLY + latency.control {
            true => Ok(latency),
            false => Err(format!("the bystander's replies took {latency}")),
        }
    }
}

fn p99(mut latencies: Vec<Duration>) -> Duration {
    latencies.sort_unstable();
    latencies.get(latencies.len() * 99 / 100).or(latencies.last()).copied().unwrap_or_default()
}

/// Starts a peer that echoes; returns when the first reply has come.
fn begin(name: &str, stream: TcpStream, underway: usize, is_done: &Arc<AtomicBool>) -> Echoing {
    stream.set_nonblocking(false).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(BROKEN)).unwrap();
    let stream = Arc::new(stream);
    // The reader holds the moment at which the next reply's message was due.
    let (dues, due) = sync_channel(underway - 1);
    let (begun, first_reply) = channel();
    let spawn = |name: String| thread::Builder::new().name(name);
    let sender = {
        let (stream, is_done) = (Arc::clone(&stream), Arc::clone(is_done));
        spawn(format!("{name} sends")).spawn(move || send(&stream, &dues, &is_done)).unwrap()
    };
    let reading = move || {
        let mut latencies = Vec::with_capacity(MAX_REPLIES);
        let result = read(&stream, &due, |latency| {
            if latencies.is_empty() {
                _ = begun.send(());
            }
            if latencies.len() < MAX_REPLIES {
                latencies.push(latency);
            }
        });
        drop(due);
        _ = stream.shutdown(Shutdown::Both);
        _ = sender.join();
        (latencies, result)
    };
    let reader = spawn(name.into()).spawn(reading).unwrap();
    _ = first_reply.recv();
    reader
}

/// Dials a thread that sends back what it gets.
fn dial_echo() -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    accepted.set_nodelay(true).unwrap();
    thread::spawn(move || {
        let mut message = [0; 12];
        while accepted.read_exact(&mut message).and_then(|()| accepted.write_all(&message)).is_ok() {}
    });
    stream
}

/// Sends a message whenever one is due, as long as its replies are read; what cannot be sent has no reply either.
fn send(mut stream: &TcpStream, dues: &SyncSender<Instant>, is_done: &AtomicBool) {
    let mut due = Instant::now();
    for number in 0_u64.. {
        if is_done.load(Ordering::Relaxed) || dues.send(due).is_err() {
            return;
        }
        let mut message = [0; 12];
        message[..4].copy_from_slice(&8_u32.to_be_bytes());
        message[4..].copy_from_slice(&number.to_be_bytes());
        if stream.write_all(&message).is_err() {
            return;
        }
        due += INTERVAL;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

/// A reply is late from the moment at which its message was due, so that a stall counts for all that it kept from being sent.
fn read(mut stream: &TcpStream, dues: &Receiver<Instant>, mut note: impl FnMut(Duration)) -> io::Result<()> {
    for (number, due) in (0_u64..).zip(dues) {
        // What the victim tells everybody is of another length.
        let mut reply = read_frame(&mut stream)?;
        while reply.len() != 8 {
            reply = read_frame(&mut stream)?;
        }
        if reply != number.to_be_bytes() {
            return Err(io::Error::other("the reply is not the message"));
        }
        note(due.elapsed());
    }
    Ok(())
}

fn read_frame(stream: &mut &TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut payload = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut payload)?;
    Ok(payload)
}
