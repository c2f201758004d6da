//! A dense mesh: 200 nodes, each connected with each other one, that is 19,900 connections with 39,800 ends.
//!
//! Shows what a node and an end of a connection cost, and that a broadcast from everybody to everybody arrives. Each
//! end takes a file descriptor; so the nodes are spread over as many processes as the limit of this system asks for (at
//! least two, so that the mesh is one between processes too). The program starts itself again for them; they get
//! orders, a line each, and answer with a line.
//!
//! Run it with
//!
//! ```text
//! cargo run --release --example dense_mesh
//! cargo run --release --example dense_mesh -- 50
//! ```
//!
//! where the number is that of the nodes. You will see:
//!
//! ```text
//! 200 nodes in 3 processes; 19900 connections, 39800 ends
//! connected in 2.6 s
//! each node told all others in 1207 ms: 39800 messages
//! verified: each node heard each other one exactly once
//! verified: all nodes are shut down, and 0 connections are left
//! memory per node that listens: 3338 bytes
//! memory per end of a connection: 2091 bytes
//! the same after the broadcast: 2587 bytes
//! the 3 processes have ended
//! ```
//!
//! Ctrl-C ends all the processes, after they have shut down their nodes.
//!
//! The memory is what `/proc/self/status` has as `VmRSS`, of all the processes together, divided by the number of nodes
//! or ends. So it is a bit more than the heap in use: it has what the allocator holds back, and the runtime's share.
//! The system's socket buffers are not in it. Where there is no `/proc`, there is no figure.
//!
//! Exit code 0 means that each node heard each other one exactly once, and that nothing was left at the end.

#[path = "common/mod.rs"]
mod common;

use std::{
    env, fs,
    io::{self, BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, ChildStdin, Command, ExitCode, Stdio},
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use common::Colour;
use futures_util::future::join_all;
use pea2pea::{
    Config, ConnectionSide, Node, Pea2Pea, Topology,
    protocols::{Reading, Writing},
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::codec::LengthDelimitedCodec;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    common::exit(match &args[..] {
        [] => start(if common::is_short() { 20 } else { 200 }),
        [nodes] => number(nodes).and_then(start),
        [all, first, count] => obey(all, first, count),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "the only argument is the number of nodes")),
    })
}

// ---- the first process ----

fn start(nodes: usize) -> io::Result<()> {
    require((2..=1_000).contains(&nodes), "there are 2 to 1,000 nodes")?;
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut workers = Vec::new();
        let outcome = tokio::select! {
            outcome = conduct(nodes, &mut workers) => outcome,
            () = common::ctrl_c() => {
                println!("\nCtrl-C: all the processes shut down their nodes");
                Ok(())
            }
        };
        outcome?;
        end(&mut workers).await?;
        println!("the {} processes have ended", workers.len());
        Ok(())
    })
}

async fn conduct(nodes: usize, workers: &mut Vec<Worker>) -> io::Result<()> {
    let ends = Topology::Mesh.num_expected_connections(nodes);
    // Each node has an end of each connection and a listener; each process needs some more.
    let room = descriptor_limit().unwrap_or(1_024).saturating_sub(100);
    require(room > nodes, "one node's connections fit into a process: raise the limit with `ulimit -n 20000`")?;
    let processes = nodes.div_ceil(room / nodes).max(2);
    let per_process = nodes.div_ceil(processes);
    for first in (0..nodes).step_by(per_process) {
        workers.push(Worker::start(nodes, first, per_process.min(nodes - first))?);
    }
    println!("{nodes} nodes in {} processes; {} connections, {ends} ends", workers.len(), ends / 2);

    let bare = measure(workers).await?;
    let mut addrs = Vec::new();
    for worker in &mut *workers {
        addrs.push(worker.ask("listen").await?);
    }
    let listening = measure(workers).await?;

    let begun = Instant::now();
    for worker in &mut *workers {
        worker.ask(&format!("connect {}", addrs.join(" "))).await?;
    }
    wait_for("connected", ends, async || sum(workers, "connected").await).await?;
    println!("connected in {:.1} s", begun.elapsed().as_secs_f64());
    let connected = measure(workers).await?;

    let begun = Instant::now();
    for worker in &mut *workers {
        worker.ask("broadcast").await?;
    }
    wait_for("heard", ends, async || sum(workers, "heard").await).await?;
    println!("each node told all others in {:.0} ms: {ends} messages", begun.elapsed().as_secs_f64() * 1e3);
    let talked = measure(workers).await?;

    require(sum(workers, "correct").await? == nodes, "each node heard each other one exactly once")?;
    require(sum(workers, "connected").await? == ends, "no connection was lost")?;
    println!("{}", Colour::Green.paint("verified: each node heard each other one exactly once"));
    require(sum(workers, "end").await? == 0, "nothing is left after the shutdown")?;
    println!("verified: all nodes are shut down, and 0 connections are left");

    match (bare, listening, connected, talked) {
        (Some(bare), Some(listening), Some(connected), Some(talked)) => {
            let per = |now: usize, before: usize, things: usize| now.saturating_sub(before) / things;
            println!("memory per node that listens: {} bytes", per(listening, bare, nodes));
            println!("memory per end of a connection: {} bytes", per(connected, listening, ends));
            println!("the same after the broadcast: {} bytes", per(talked, listening, ends));
        }
        _ => println!("memory: this system has no /proc/self/status"),
    }
    Ok(())
}

/// One of the other processes, as the first one sees it. It ends when there are no more orders: so it does with this one.
struct Worker {
    child: Child,
    orders: Option<ChildStdin>,
    answers: mpsc::UnboundedReceiver<String>,
}

impl Worker {
    fn start(all: usize, first: usize, count: usize) -> io::Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.args([all, first, count].map(|number| number.to_string()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
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

    async fn ask(&mut self, order: &str) -> io::Result<String> {
        match &mut self.orders {
            Some(orders) => writeln!(orders, "{order}")?,
            None => return Err(io::ErrorKind::BrokenPipe.into()),
        }
        let answer = in_time("an answer of one of the processes", self.answers.recv()).await?;
        answer.ok_or_else(|| io::Error::other("one of the processes has ended; its message is above"))
    }
}

/// Without further orders, a process shuts down its nodes and ends.
async fn end(workers: &mut [Worker]) -> io::Result<()> {
    // In their order: each dials only those behind it, so that none dials where nobody listens any more.
    for worker in workers {
        worker.orders = None;
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

async fn sum(workers: &mut [Worker], what: &str) -> io::Result<usize> {
    let mut sum = 0;
    for worker in workers {
        sum += number::<usize>(&worker.ask(what).await?)?;
    }
    Ok(sum)
}

/// The resident memory of all the processes, in bytes.
async fn measure(workers: &mut [Worker]) -> io::Result<Option<usize>> {
    let mut sum = Some(0);
    for worker in workers {
        let kilobytes = worker.ask("memory").await?.parse::<usize>().ok();
        sum = sum.zip(kilobytes).map(|(sum, kilobytes)| sum + kilobytes * 1_024);
    }
    Ok(sum)
}

/// Waits until a number is reached; gives up when it has not moved for long.
async fn wait_for(what: &str, target: usize, mut reached: impl AsyncFnMut() -> io::Result<usize>) -> io::Result<()> {
    let (mut last, mut moved) = (0, Instant::now());
    loop {
        let now = reached().await?;
        if now >= target {
            return Ok(());
        }
        if now != last {
            (last, moved) = (now, Instant::now());
        }
        require(moved.elapsed() < PATIENCE, &format!("{target} are {what}; there are {now}"))?;
        sleep(Duration::from_millis(20)).await;
    }
}

// ---- the other processes ----

#[expect(deprecated, reason = "one message fits into every queue: nobody misses it")]
fn obey(all: &str, first: &str, count: &str) -> io::Result<()> {
    let (all, first, count): (usize, usize, usize) = (number(all)?, number(first)?, number(count)?);
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    let (mut members, mut dials) = (Vec::<Member>::new(), JoinSet::new());
    // One node that comes and goes: what only the first one costs is not to be counted.
    for passing in runtime.block_on(start_all(all, first, 1))? {
        runtime.block_on(passing.node.shut_down());
    }
    for line in io::stdin().lock().lines() {
        let line = line?;
        let (order, arguments) = line.split_once(' ').unwrap_or((&line, ""));
        let total = |count: fn(&Member) -> usize| members.iter().map(count).sum::<usize>().to_string();
        let answer = match order {
            "listen" => {
                members = runtime.block_on(start_all(all, first, count))?;
                runtime.block_on(addrs(&members))?
            }
            "connect" => {
                dials = connect_all(&runtime, &members, arguments)?;
                String::new()
            }
            "broadcast" => {
                for member in &members {
                    member.broadcast(Bytes::copy_from_slice(&(member.number as u32).to_be_bytes()))?;
                }
                String::new()
            }
            "connected" => total(|member| member.node.num_connected()),
            "heard" => total(|member| member.heard.iter().map(|times| times.load(Relaxed) as usize).sum()),
            "correct" => total(|member| usize::from(member.heard_everybody_once())),
            "memory" => resident_kilobytes().unwrap_or_default(),
            "end" => {
                runtime.block_on(shut_down(&members));
                total(|member| member.node.num_connected())
            }
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("no such order: {order}"))),
        };
        println!("{answer}");
    }
    // The first process wants this one to end, or has gone.
    runtime.block_on(async {
        dials.shutdown().await;
        shut_down(&members).await;
    });
    Ok(())
}

async fn shut_down(members: &[Member]) {
    join_all(members.iter().map(|member| member.node.shut_down())).await;
}

async fn start_all(all: usize, first: usize, count: usize) -> io::Result<Vec<Member>> {
    let mut members = Vec::new();
    for number in first..first + count {
        let member = Member::start(number, all).await;
        member.node.toggle_listener().await?;
        members.push(member);
    }
    Ok(members)
}

async fn addrs(members: &[Member]) -> io::Result<String> {
    let mut addrs = Vec::new();
    for member in members {
        addrs.push(member.node.listening_addr().await?.to_string());
    }
    Ok(addrs.join(" "))
}

/// Lets each node of this process dial all those with a higher number, one after another.
fn connect_all(runtime: &Runtime, members: &[Member], addrs: &str) -> io::Result<JoinSet<()>> {
    let mut dials = JoinSet::new();
    let addrs: Vec<SocketAddr> = addrs.split(' ').map(number).collect::<io::Result<_>>()?;
    for member in members {
        let (member, addrs) = (member.clone(), addrs[member.number + 1..].to_vec());
        let dial_all = async move {
            for addr in addrs {
                if let Err(error) = member.node.connect(addr).await {
                    // The first process sees that a connection is missing.
                    eprintln!("node {} cannot connect to {addr}: {error}", member.number);
                }
            }
        };
        dials.spawn_on(dial_all, runtime.handle());
    }
    Ok(dials)
}

/// One node of the mesh.
#[derive(Clone)]
struct Member {
    node: Node,
    number: usize,
    /// How often each of the nodes was heard.
    heard: Arc<[AtomicU32]>,
}

impl Member {
    async fn start(number: usize, all: usize) -> Self {
        let node = Node::new(Config {
            listener_addr: Some(([127, 0, 0, 1], 0).into()),
            listener_backlog: 1_024,
            max_connections: all as u16,
            max_connections_per_ip: all as u16,
            max_connecting: all as u16,
            // All of this happens at once, on one machine.
            connection_timeout_ms: 30_000,
            ..Default::default()
        });
        let member = Self { node, number, heard: (0..all).map(|_| AtomicU32::new(0)).collect() };
        member.enable_reading().await;
        member.enable_writing().await;
        member
    }

    fn heard_everybody_once(&self) -> bool {
        let expected = |other| u32::from(other != self.number);
        self.heard.iter().enumerate().all(|(other, times)| times.load(Relaxed) == expected(other))
    }
}

impl Pea2Pea for Member {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Reading for Member {
    /// Most of the connections are silent for most of the time.
    const IDLE_TIMEOUT_MS: u64 = 0;

    type Message = BytesMut;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        LengthDelimitedCodec::new()
    }

    async fn process_message(&self, source: SocketAddr, mut message: Self::Message) {
        let speaker = if message.len() == 4 { message.get_u32() as usize } else { usize::MAX };
        match self.heard.get(speaker) {
            Some(times) => _ = times.fetch_add(1, Relaxed),
            None => eprintln!("{source} sent what nobody says"),
        }
    }
}

impl Writing for Member {
    type Message = Bytes;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        LengthDelimitedCodec::new()
    }
}

// ---- what the system says ----

/// How many file descriptors a process may have.
fn descriptor_limit() -> Option<usize> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(usize::MAX),
        limit => limit.parse().ok(),
    }
}

fn resident_kilobytes() -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().to_owned())
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

/// Without a new connection or message for this long, none will come.
const PATIENCE: Duration = Duration::from_secs(30);
