//! C100k: 100,000 connections on one port, served by several processes.
//!
//! Shows `Config::reuse_listener_port`: any number of processes listen on the same port (`SO_REUSEPORT`), and the
//! system spreads the connections over them. One process alone could not have so many: a node holds at most 65,535
//! connections, and a process rarely may have as many file descriptors. The clients are nodes in as many other
//! processes; so that the ports at their side suffice, they dial from several addresses of the loopback network,
//! 127.0.X.Y (`connect_using_socket`). The first process holds no connection: it starts the others, gives them orders,
//! a line each, and sums up their answers.
//!
//! Run it, on Linux, with
//!
//! ```text
//! cargo run --release --example c100k
//! cargo run --release --example c100k -- 30000
//! ```
//!
//! You will see, with a progress bar in a terminal:
//!
//! ```text
//! 6 processes listen on port 42167, 6 others dial 100000 times
//! [##############################] 100000/100000 connected
//! 100000 connections after 27.0 s, 3704 per second
//! the system gave the listening processes 16556 + 16692 + 16682 + 16643 + 16700 + 16727 of them
//! [##############################] 100000/100000 answered
//! verified: 100000 of 100000 hellos were answered, in 9.4 s
//! memory per connection at the listening side: 2088 bytes
//! the same after the hellos: 2604 bytes
//! memory per client, a node with its connection: 3888 bytes
//! [##############################] 100000/100000 shut down
//! [##############################] 6/6 shut down
//! verified: all nodes are shut down, and 0 connections are left
//! the 12 processes have ended
//! ```
//!
//! (two busy cores, without --release). Ctrl-C ends all the processes, after they have shut down their nodes. The number of processes follows from `ulimit -n`, here 20,000; a low one makes
//! many. It takes about 2 GB of memory, the system's part included, for about a minute. The figures are the growth of
//! `VmRSS` in `/proc/self/status` of the processes: a bit more than the heap in use, and without the system's part.

#[path = "common/mod.rs"]
mod common;

use std::{
    env, fs,
    io::{self, BufRead, BufReader, IsTerminal, Write},
    net::{Ipv4Addr, SocketAddr},
    process::{Child, ChildStdin, Command, ExitCode, Stdio},
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use common::Colour;
use futures_util::future::join_all;
use pea2pea::{
    Config, ConnectionSide, Node, Pea2Pea, ShuttingDown,
    protocols::{Reading, Writing},
};
use tokio::{
    net::TcpSocket,
    runtime::{Builder, Runtime},
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::codec::LengthDelimitedCodec;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    common::exit(match &args[..] {
        [] => start(if common::is_short() { 2_000 } else { 100_000 }),
        [connections] => number(connections).and_then(start),
        [role, port, index, count] => obey(role, port, index, count),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "the only argument is the number of connections")),
    })
}

// ---- the first process ----

fn start(connections: usize) -> io::Result<()> {
    require(connections > 0, "there are connections")?;
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let (mut listening, mut dialling) = (Vec::new(), Vec::new());
        let outcome = tokio::select! {
            outcome = conduct(connections, &mut listening, &mut dialling) => outcome,
            () = common::ctrl_c() => {
                println!("\nCtrl-C: all the processes shut down their nodes");
                Ok(())
            }
        };
        outcome?;
        // The clients first, so that none of them dials where nobody listens any more.
        end(&mut dialling).await?;
        end(&mut listening).await?;
        println!("the {} processes have ended", listening.len() + dialling.len());
        Ok(())
    })
}

async fn conduct(connections: usize, listening: &mut Vec<Worker>, dialling: &mut Vec<Worker>) -> io::Result<()> {
    let per_process = connections_per_process()?.min(connections.div_ceil(2));
    let groups = connections.div_ceil(per_process);
    require(groups <= MAX_GROUPS, "that many processes suffice: set more file descriptors with `ulimit -n 20000`")?;

    // The first one gets any free port, the others the same one.
    let mut port = "0".to_owned();
    for index in 0..groups {
        listening.push(Worker::start(["listen", &port, &index.to_string(), "0"])?);
        port = listening[index].answer().await?;
    }
    for index in 0..groups {
        // The remainder is spread over the first ones.
        let share = connections / groups + usize::from(index < connections % groups);
        dialling.push(Worker::start(["dial", &port, &index.to_string(), &share.to_string()])?);
        dialling[index].answer().await?;
    }
    println!("{groups} processes listen on port {port}, {groups} others dial {connections} times");
    let before = [sum(listening, "memory").await?, sum(dialling, "memory").await?];

    let begun = Instant::now();
    sum(dialling, "dial").await?;
    let connected = async || Ok(sum(listening, "connected").await?.min(sum(dialling, "connected").await?));
    progress("connected", connections, connected).await?;
    let seconds = begun.elapsed().as_secs_f64();
    println!("{connections} connections after {seconds:.1} s, {:.0} per second", connections as f64 / seconds);
    let mut shares = Vec::new();
    for worker in &mut *listening {
        shares.push(worker.ask("connected").await?.to_string());
    }
    println!("the system gave the listening processes {} of them", shares.join(" + "));
    let connected = [sum(listening, "memory").await?, sum(dialling, "memory").await?];

    let greeted = Instant::now();
    sum(dialling, "hello").await?;
    progress("answered", connections, async || sum(dialling, "answered").await).await?;
    require(sum(listening, "answered").await? == connections, "there was one hello per connection")?;
    let all = Colour::Green.paint(format_args!("verified: {connections} of {connections} hellos were answered"));
    println!("{all}, in {:.1} s", greeted.elapsed().as_secs_f64());
    let talked = [sum(listening, "memory").await?, sum(dialling, "memory").await?];
    require(sum(listening, "connected").await? == connections, "no connection was lost")?;

    if connected[0] > 0 {
        let per = |after: usize, before: usize| after.saturating_sub(before) / connections;
        println!("memory per connection at the listening side: {} bytes", per(connected[0], before[0]));
        println!("the same after the hellos: {} bytes", per(talked[0], before[0]));
        println!("memory per client, a node with its connection: {} bytes", per(talked[1], before[1]));
    }

    sum(dialling, "end").await?;
    progress("shut down", connections, async || sum(dialling, "ended").await).await?;
    require(sum(dialling, "connected").await? == 0, "the clients have no connection left")?;
    let begun = Instant::now();
    while sum(listening, "connected").await? > 0 {
        require(begun.elapsed() < PATIENCE, "the listening side notices that the clients have gone")?;
        sleep(Duration::from_millis(20)).await;
    }
    sum(listening, "end").await?;
    progress("shut down", groups, async || sum(listening, "ended").await).await?;
    println!("verified: all nodes are shut down, and 0 connections are left");
    Ok(())
}

/// How many connections a process may hold, with some room: the system does not spread them evenly.
fn connections_per_process() -> io::Result<usize> {
    let limits = fs::read_to_string("/proc/self/limits")?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap_or_default();
    let limit = line.split_whitespace().next().and_then(|limit| limit.parse::<usize>().ok()).unwrap_or(usize::MAX);
    require(limit >= 500, "a process may have 500 file descriptors: set more with `ulimit -n 20000`")?;
    Ok((limit - 200).min(50_000) / 10 * 9)
}

/// One of the other processes, as the first one sees it. It ends when there are no more orders: so it does with this one.
struct Worker {
    child: Child,
    orders: Option<ChildStdin>,
    answers: mpsc::UnboundedReceiver<String>,
}

impl Worker {
    fn start(args: [&str; 4]) -> io::Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        // A terminal's Ctrl-C is for the first process only.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn()?;
        let (orders, answers) = (child.stdin.take(), child.stdout.take());
        let answers = answers.ok_or_else(|| io::Error::other("a process without pipes"))?;
        let (answer, received) = mpsc::unbounded_channel();
        // A thread, because a pipe cannot be read with a time limit.
        thread::spawn(move || {
            for line in BufReader::new(answers).lines().map_while(Result::ok) {
                if answer.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, orders, answers: received })
    }

    async fn ask(&mut self, order: &str) -> io::Result<usize> {
        self.order(order)?;
        number(&self.answer().await?)
    }

    fn order(&mut self, order: &str) -> io::Result<()> {
        match &mut self.orders {
            Some(orders) => writeln!(orders, "{order}"),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    async fn answer(&mut self) -> io::Result<String> {
        let answer = in_time("an answer of one of the processes", self.answers.recv()).await?;
        answer.ok_or_else(|| io::Error::other("one of the processes has ended; its message is above"))
    }
}

/// Without further orders, processes shut down their nodes and end.
async fn end(workers: &mut [Worker]) -> io::Result<()> {
    for worker in &mut *workers {
        worker.orders = None;
    }
    for worker in workers {
        // An answer that nobody waits for any more may still come.
        in_time("the end of the other processes", async { while worker.answers.recv().await.is_some() {} }).await?;
        require(worker.child.wait()?.success(), "the other processes have shut down their nodes")?;
    }
    Ok(())
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Gives an order to some processes at once; returns the sum of their answers.
async fn sum(workers: &mut [Worker], order: &str) -> io::Result<usize> {
    for worker in &mut *workers {
        worker.order(order)?;
    }
    let mut sum = 0;
    for worker in workers {
        sum += number::<usize>(&worker.answer().await?)?;
    }
    Ok(sum)
}

/// Shows progress until a number is reached; gives up when it has not moved for long.
async fn progress(what: &str, target: usize, mut reached: impl AsyncFnMut() -> io::Result<usize>) -> io::Result<()> {
    let (is_live, mut last, mut moved) = (io::stdout().is_terminal(), 0, Instant::now());
    loop {
        let now = reached().await?;
        if now != last {
            (last, moved) = (now, Instant::now());
        }
        if is_live || now >= target {
            let filled = (BAR * now / target).min(BAR);
            let bar = format!("[{}{}]", "#".repeat(filled), ".".repeat(BAR - filled));
            print!("{}{} {now}/{target} {what} ", if is_live { "\r" } else { "" }, Colour::Cyan.paint(bar));
            io::stdout().flush()?;
        }
        if now >= target {
            println!();
            return Ok(());
        }
        require(moved.elapsed() < PATIENCE, &format!("{target} are {what}; there are {now}"))?;
        sleep(Duration::from_millis(50)).await;
    }
}

// ---- the other processes ----

/// Is a listening process with one node, or a dialling one with a node per connection.
fn obey(role: &str, port: &str, index: &str, count: &str) -> io::Result<()> {
    let (port, index, count): (u16, u8, usize) = (number(port)?, number(index)?, number(count)?);
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    let mut members = match role {
        "listen" => vec![runtime.block_on(Member::listen(port))?],
        "dial" => Vec::new(),
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("no such role: {role}"))),
    };
    let addr = match members.first() {
        Some(server) => runtime.block_on(server.node.listening_addr())?,
        None => ([127, 0, 0, 1], port).into(),
    };
    println!("{}", addr.port());
    let ended = Arc::new(AtomicUsize::new(0));

    for order in io::stdin().lock().lines() {
        let total = |count: fn(&Member) -> usize| members.iter().map(count).sum();
        let answer: usize = match order?.as_str() {
            "dial" => {
                for _ in 0..count {
                    members.push(runtime.block_on(Member::start(None)));
                }
                dial_all(&runtime, &members, addr, index);
                0
            }
            "hello" => {
                for client in &members {
                    client.unicast_fast(addr, Bytes::from_static(b"hello"))?;
                }
                0
            }
            "connected" => total(|member| member.node.num_connected()),
            "answered" => total(|member| member.answered.load(Relaxed)),
            "memory" => resident().unwrap_or(0),
            "end" => {
                for member in &members {
                    let (node, ended) = (member.node.clone(), Arc::clone(&ended));
                    runtime.spawn(async move {
                        node.shut_down().await;
                        ended.fetch_add(1, Relaxed);
                    });
                }
                0
            }
            "ended" => ended.load(Relaxed),
            order => return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("no such order: {order}"))),
        };
        println!("{answer}");
    }
    // The first process wants this one to end, or has gone.
    runtime.block_on(join_all(members.iter().map(|member| member.node.shut_down())));
    Ok(())
}

/// Lets each of the clients dial, a few at a time: so the listeners' backlogs are long enough.
fn dial_all(runtime: &Runtime, clients: &[Member], addr: SocketAddr, index: u8) {
    let lanes = clients.len().div_ceil(DIALS_AT_ONCE);
    for (lane, some) in clients.chunks(lanes).enumerate() {
        let some = some.to_vec();
        runtime.spawn(async move {
            for (number, client) in some.into_iter().enumerate() {
                // No two processes have an address in common, and an address has about 28,000 ports.
                let host = 1 + (lane * lanes + number) / CLIENTS_PER_ADDR;
                let own = Ipv4Addr::new(127, 0, 1 + index, host as u8);
                match client.dial(own, addr).await {
                    Ok(()) => {}
                    Err(error) if ShuttingDown::caused(&error) => break,
                    // The first process sees that a connection is missing.
                    Err(error) => eprintln!("{own} cannot connect to {addr}: {error}"),
                }
            }
        });
    }
}

/// A node that serves, or one of the clients.
#[derive(Clone)]
struct Member {
    node: Node,
    /// How many hellos were answered, by a server or to a client.
    answered: Arc<AtomicUsize>,
}

impl Member {
    async fn listen(port: u16) -> io::Result<Self> {
        let server = Self::start(Some(([127, 0, 0, 1], port).into())).await;
        server.node.toggle_listener().await?;
        Ok(server)
    }

    async fn start(listener_addr: Option<SocketAddr>) -> Self {
        let max_connections = if listener_addr.is_some() { u16::MAX } else { 1 };
        let node = Node::new(Config {
            listener_addr,
            reuse_listener_port: true,
            listener_backlog: 4_096,
            max_connections,
            max_connections_per_ip: max_connections,
            max_connecting: 1_000,
            // All of this happens at once, on one machine.
            connection_timeout_ms: 60_000,
            ..Default::default()
        });
        let member = Self { node, answered: Arc::default() };
        member.enable_reading().await;
        member.enable_writing().await;
        member
    }

    async fn dial(&self, own: Ipv4Addr, addr: SocketAddr) -> io::Result<()> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((own, 0).into())?;
        self.node.connect_using_socket(addr, socket).await
    }

    fn is_server(&self) -> bool {
        self.node.config().listener_addr.is_some()
    }
}

impl Pea2Pea for Member {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Reading for Member {
    /// To be silent is no reason to go.
    const IDLE_TIMEOUT_MS: u64 = 0;

    type Message = BytesMut;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        LengthDelimitedCodec::new()
    }

    async fn process_message(&self, source: SocketAddr, _message: Self::Message) {
        if self.is_server() && self.unicast_fast(source, Bytes::from_static(b"welcome")).is_err() {
            // Not counted, so it is missed.
            return;
        }
        self.answered.fetch_add(1, Relaxed);
    }
}

impl Writing for Member {
    type Message = Bytes;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        LengthDelimitedCodec::new()
    }
}

/// The resident memory of this process, in bytes.
fn resident() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()? * 1_024)
}

fn number<T: FromStr>(text: &str) -> io::Result<T> {
    text.parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("not understood: {text:?}")))
}

async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> io::Result<T> {
    timeout(PATIENCE, work).await.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("{what} did not come")))
}

fn require(holds: bool, claim: &str) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::Error::other(format!("this does not hold: {claim}"))) }
}

const BAR: usize = 30;

/// Numbers of processes fit into a byte of an address.
const MAX_GROUPS: usize = 200;

/// In one dialling process.
const DIALS_AT_ONCE: usize = 32;

/// Well below the number of ports that the system gives out.
const CLIENTS_PER_ADDR: usize = 10_000;

/// Without a new connection, message or answer for this long, none will come.
const PATIENCE: Duration = Duration::from_secs(30);
