//! The honest pair: a peer that sends the victim a message every 10 ms, and wants it back soon.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

const INTERVAL: Duration = Duration::from_millis(10);
/// The matrix's bound, for a release build; a debug build needs several times the CPU for the same attack.
const LONGEST_REPLY: Duration = Duration::from_millis(if cfg!(debug_assertions) { 1_000 } else { 250 });
const MAX_REPLIES: usize = 100_000;

/// How long it waits for a reply before it calls the connection broken.
const BROKEN: Duration = Duration::from_secs(10);

pub struct Bystander {
    is_done: Arc<AtomicBool>,
    thread: JoinHandle<(Vec<Duration>, io::Result<()>)>,
    /// Keeps to the same times without talking to anybody: how late the machine itself makes a thread.
    control: JoinHandle<Vec<Duration>>,
    pub addr: SocketAddr,
}

impl Bystander {
    /// Begins to echo over a connection of its own; returns when the first reply has come.
    pub fn over(stream: TcpStream) -> Self {
        let addr = stream.local_addr().unwrap();
        stream.set_nonblocking(false).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(BROKEN)).unwrap();
        let is_done = Arc::new(AtomicBool::new(false));
        let (begun, first_reply) = std::sync::mpsc::channel();
        let echoing = {
            let is_done = Arc::clone(&is_done);
            move || {
                let mut latencies = Vec::with_capacity(MAX_REPLIES);
                let result = echo(stream, &is_done, |latency| {
                    if latencies.is_empty() {
                        _ = begun.send(());
                    }
                    if latencies.len() < MAX_REPLIES {
                        latencies.push(latency);
                    }
                });
                (latencies, result)
            }
        };
        let thread = thread::Builder::new().name("bystander".into()).spawn(echoing).unwrap();
        _ = first_reply.recv();
        let control = {
            let is_done = Arc::clone(&is_done);
            let mut latencies = Vec::with_capacity(MAX_REPLIES);
            thread::spawn(move || {
                let mut due = Instant::now();
                while !is_done.load(Ordering::Relaxed) {
                    due += INTERVAL;
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    if latencies.len() < MAX_REPLIES {
                        latencies.push(due.elapsed());
                    }
                }
                latencies
            })
        };
        Self { is_done, thread, control, addr }
    }

    /// Ends; tells the latency that 99 of 100 replies kept to, if that is a good one for a machine that was as late as this.
    pub fn finish(self) -> Result<Duration, String> {
        self.is_done.store(true, Ordering::Relaxed);
        let (latencies, result) = self.thread.join().map_err(|_| "the bystander panicked")?;
        let control = p99(self.control.join().map_err(|_| "the control panicked")?);
        result.map_err(|error| format!("the bystander's connection broke: {error}"))?;
        let replies = latencies.len();
        let p99 = p99(latencies);
        match p99 <= LONGEST_REPLY + control {
            true => Ok(p99),
            false => {
                Err(format!("the bystander's replies took {p99:?} at p99 of {replies}, a thread alone {control:?}"))
            }
        }
    }
}

fn p99(mut latencies: Vec<Duration>) -> Duration {
    latencies.sort_unstable();
    latencies.get(latencies.len() * 99 / 100).or(latencies.last()).copied().unwrap_or_default()
}

/// A reply is late from the moment at which its message was due, so that a stall counts for all that it kept from being sent.
fn echo(mut stream: TcpStream, is_done: &AtomicBool, mut note: impl FnMut(Duration)) -> io::Result<()> {
    let mut due = Instant::now();
    let mut number = 0_u64;
    while !is_done.load(Ordering::Relaxed) {
        let mut message = [0; 12];
        message[..4].copy_from_slice(&8_u32.to_be_bytes());
        message[4..].copy_from_slice(&number.to_be_bytes());
        stream.write_all(&message)?;
        // What the victim tells everybody is of another length.
        let mut reply = read_frame(&mut stream)?;
        while reply.len() != 8 {
            reply = read_frame(&mut stream)?;
        }
        if reply != message[4..] {
            return Err(io::Error::other("the reply is not the message"));
        }
        note(due.elapsed());
        due += INTERVAL;
        number += 1;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

fn read_frame(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut payload = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut payload)?;
    Ok(payload)
}
