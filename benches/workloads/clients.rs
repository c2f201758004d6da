//! Clients that are the same for every contender, on a thread of their own: what differs is the server.

use std::{
    io::Write,
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt, future};
use tokio::{
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
    runtime::{Builder, Runtime},
};
use tokio_util::{
    bytes::Bytes,
    codec::{FramedRead, FramedWrite, LengthDelimitedCodec},
};

use super::{
    cpu, raw,
    served::{ASKS, Served, TELLS},
    workload::{Sample, micros, percentile},
};

/// A few busy connections, alone on one server and among many on another; the two take turns.
///
/// A busy client sends a window of messages and waits for the answers.
pub fn crowd(serve: impl Fn() -> Served, few: usize, many: usize, busy: usize, messages: usize) -> Sample {
    let here = client_runtime();
    let servers = [few, many].map(|live| {
        let served = serve();
        let clients: Vec<Client> = (0..busy).map(|_| here.block_on(Client::connect(served.addr))).collect();
        let idle = idle_connections(&served, busy, live);
        (served, clients, idle)
    });
    let mut servers = servers;

    let (mut times, mut costs) = ([const { Vec::new() }; 2], [const { Vec::new() }; 2]);
    for turn in 0..=TURNS {
        for (which, (_, clients, _)) in servers.iter_mut().enumerate() {
            let windows = messages.div_ceil(TURNS * busy * WINDOW);
            let sent = (windows * busy * WINDOW) as u64;
            let (start, cpu) = (Instant::now(), cpu::Stopwatch::start());
            here.block_on(future::join_all(clients.iter_mut().map(|client| client.ask_in_windows(windows))));
            let (time, cost) = (micros(start.elapsed()) / sent as f64, cpu.micros_per(sent));
            // The first turn warms up.
            if turn > 0 {
                times[which].push(time);
                costs[which].push(cost);
            }
        }
    }
    for (served, clients, idle) in servers {
        drop((clients, idle));
        served.stop();
    }
    let growth = |[few, many]: &[Vec<f64>; 2]| {
        percentile(&mut few.iter().zip(many).map(|(few, many)| many / few).collect::<Vec<_>>(), 0.5)
    };
    let (by_time, by_cost) = (growth(&times), growth(&costs));
    let [mut few, mut many] = times;
    vec![percentile(&mut few, 0.5), percentile(&mut many, 0.5), by_time, by_cost]
}

/// Honest peers that ask one thing at a time, without and with a peer that sends all it can beside them.
pub fn fairness(serve: impl Fn() -> Served, honest: usize, requests_each: usize) -> Sample {
    let served = serve();
    let here = client_runtime();
    let mut clients: Vec<Client> = (0..honest).map(|_| here.block_on(Client::connect(served.addr))).collect();
    let mut replies = |requests_each| {
        let asking = clients.iter_mut().map(|client| client.ask_at_leisure(requests_each));
        here.block_on(future::join_all(asking)).concat()
    };

    replies(requests_each.div_ceil(10));
    let mut calm = replies(requests_each);
    let flood = Flood::start(served.addr);
    replies(requests_each.div_ceil(10));
    let mut flooded = replies(requests_each);
    flood.stop();

    drop(clients);
    served.stop();
    let (calm, flooded_p50) = (percentile(&mut calm, 0.99), percentile(&mut flooded, 0.5));
    let flooded = percentile(&mut flooded, 0.99);
    vec![calm, flooded_p50, flooded, flooded / calm]
}

/// One busy or honest client.
struct Client {
    frames: FramedRead<OwnedReadHalf, LengthDelimitedCodec>,
    sink: FramedWrite<OwnedWriteHalf, LengthDelimitedCodec>,
}

impl Client {
    async fn connect(addr: SocketAddr) -> Self {
        let stream = tokio::net::TcpStream::connect(addr).await.expect("a server");
        stream.set_nodelay(true).expect("a socket that takes options");
        let (read_half, write_half) = stream.into_split();
        Self { frames: raw::reader(read_half), sink: raw::writer(write_half) }
    }

    async fn ask_in_windows(&mut self, windows: usize) {
        for _ in 0..windows {
            for _ in 0..WINDOW {
                self.sink.feed(QUESTION).await.expect("a server");
            }
            SinkExt::<Bytes>::flush(&mut self.sink).await.expect("a server");
            for _ in 0..WINDOW {
                self.frames.next().await.expect("an answer").expect("whole frames");
            }
        }
    }

    /// Pauses between the requests, so that it never is the load itself; returns the microseconds of each.
    async fn ask_at_leisure(&mut self, requests: usize) -> Vec<f64> {
        let mut times = Vec::with_capacity(requests);
        for _ in 0..requests {
            let start = Instant::now();
            self.sink.send(QUESTION).await.expect("a server");
            self.frames.next().await.expect("an answer").expect("whole frames");
            times.push(micros(start.elapsed()));
            tokio::time::sleep(LEISURE).await;
        }
        times
    }
}

/// A thread that sends small messages without end.
struct Flood {
    /// Tells it to end.
    enough: Arc<AtomicBool>,
    /// The thread.
    flooding: thread::JoinHandle<()>,
}

impl Flood {
    fn start(addr: SocketAddr) -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&enough);
        let mut frame = 16_u32.to_be_bytes().to_vec();
        frame.extend([TELLS; 16]);
        let flooding = thread::spawn(move || {
            let mut stream = TcpStream::connect(addr).expect("a server");
            // Whoever does not read it must not keep this thread from its end.
            stream.set_write_timeout(Some(Duration::from_millis(200))).expect("a socket that takes options");
            let waves = frame.repeat((64 << 10) / frame.len());
            let mut at = 0;
            while !told.load(Relaxed) {
                match stream.write(&waves[at..]) {
                    Ok(written) => at = (at + written) % waves.len(),
                    Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "the flood is cut off"),
                }
            }
        });
        Self { enough, flooding }
    }

    fn stop(self) {
        self.enough.store(true, Relaxed);
        self.flooding.join().expect("a flood that does not fail");
    }
}

/// Connects until so many are live, in steps that no accept queue overflows from.
fn idle_connections(served: &Served, busy: usize, live: usize) -> Vec<TcpStream> {
    let idle = (busy..live).map(|made| {
        if made % 64 == 0 {
            wait_for(served, made);
        }
        TcpStream::connect(served.addr).expect("a server")
    });
    let idle = idle.collect();
    wait_for(served, live);
    idle
}

fn wait_for(served: &Served, live: usize) {
    let deadline = Instant::now() + PATIENCE;
    while (served.num_connected)() < live {
        assert!(Instant::now() < deadline, "{} of {live} connections are live", (served.num_connected)());
        thread::sleep(Duration::from_millis(1));
    }
}

fn client_runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// What is asked.
const QUESTION: Bytes = Bytes::from_static(&[ASKS; 64]);

/// How many messages a busy client has under way.
const WINDOW: usize = 16;

/// How often the two servers of a crowd take turns.
const TURNS: usize = 10;

/// The pause of an honest client.
const LEISURE: Duration = Duration::from_millis(1);

/// The bound of every wait for connections.
const PATIENCE: Duration = Duration::from_secs(60);
