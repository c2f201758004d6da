//! C10k: one node that serves 10,000 clients at once.
//!
//! Shows that one process holds that many connections, and what each of them takes. This process listens; it starts
//! itself again as a second one, which has 10,000 nodes that dial (a node has one connection to an address). Each
//! client says hello and is answered, so each of the connections is seen to work in both directions.
//!
//! Run it with
//!
//! ```text
//! cargo run --release --example c10k
//! cargo run --release --example c10k -- 5000
//! ```
//!
//! You will see, with a progress bar in a terminal:
//!
//! ```text
//! one process listens, another one dials 10000 times
//! [##############################] 10000/10000 connected
//! 10000 connections after 3.0 s
//! [##############################] 10000/10000 answered
//! verified: 10000 of 10000 clients said hello and were answered
//! that took 1020 ms
//! memory per connection here: 2111 bytes
//! the same after the hellos: 2616 bytes
//! memory per client there, a node with its connection: 3948 bytes
//! verified: all clients have gone, and 0 connections are left
//! the other process has ended
//! ```
//!
//! Ctrl-C ends both processes, after they have shut down all their nodes.
//!
//! Each end of a connection takes a file descriptor. If `ulimit -n` allows too few of them, the example says which
//! number to set. The memory is the growth of `VmRSS` in `/proc/self/status`, divided by the number of connections (for
//! the other process, of clients): a bit more than the heap in use, and without the system's socket buffers.

#[path = "common/mod.rs"]
mod common;

use std::{
    env, fs,
    io::{self, BufRead, BufReader, IsTerminal, Write},
    net::SocketAddr,
    process::{Child, ChildStdin, Command, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use common::Colour;
use pea2pea::{
    Config, ConnectionSide, Node, Pea2Pea,
    protocols::{Reading, Writing},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::codec::LengthDelimitedCodec;

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let outcome = match &args[..] {
        [] if common::is_short() => listen(500).await,
        [] => listen(10_000).await,
        [clients] => match clients.parse() {
            Ok(clients @ 1..=60_000) => listen(clients).await,
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "there are 1 to 60,000 clients")),
        },
        [addr, clients] => match (addr.parse(), clients.parse()) {
            (Ok(addr), Ok(clients)) => dial(addr, clients).await,
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "an address and a number")),
        },
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "the only argument is the number of clients")),
    };
    common::exit(outcome)
}

// ---- the process that listens ----

async fn listen(clients: u16) -> io::Result<()> {
    let needed = usize::from(clients) + 100;
    if let Some(limit) = descriptor_limit().filter(|limit| *limit < needed) {
        let advice =
            format!("set it with `ulimit -n {needed}`, or try fewer clients: `-- {}`", limit.saturating_sub(100));
        return Err(io::Error::other(format!("a process may have {limit} file descriptors, too few: {advice}")));
    }

    let server = Member::start(clients, true).await;
    let outcome = async {
        let listening = server.node.toggle_listener().await?;
        let addr = listening.ok_or_else(|| io::Error::other("the listener was switched off"))?;
        let mut dialling = Dialling::start(addr, clients)?;
        tokio::select! {
            outcome = serve(&server, clients.into(), &mut dialling) => outcome?,
            () = common::ctrl_c() => println!("\nCtrl-C: both processes shut down their nodes"),
        }
        dialling.end().await
    };
    let outcome = outcome.await;
    server.node.shut_down().await;
    outcome
}

async fn serve(server: &Member, clients: usize, dialling: &mut Dialling) -> io::Result<()> {
    println!("one process listens, another one dials {clients} times");
    let before = resident();
    let begun = Instant::now();

    let seconds = |since: Instant| since.elapsed().as_secs_f64();
    dialling.order("dial")?;
    progress("connected", clients, dialling, || server.node.num_connected()).await?;
    println!("{} connections after {:.1} s", clients, seconds(begun));
    let connected = resident();

    dialling.order("hello")?;
    let greeted = Instant::now();
    progress("answered", clients, dialling, || server.answered.load(Relaxed)).await?;
    let answers = dialling.answer().await?;
    require(answers == clients.to_string(), &format!("{clients} clients have an answer; it is {answers}"))?;
    println!(
        "{}",
        Colour::Green.paint(format_args!("verified: {clients} of {clients} clients said hello and were answered"))
    );
    println!("that took {:.0} ms", seconds(greeted) * 1e3);
    let talked = resident();
    require(server.node.num_connected() == clients, "no connection was lost")?;

    dialling.order("memory")?;
    let theirs = dialling.answer().await?;
    if let (Some(before), Some(connected), Some(talked)) = (before, connected, talked) {
        println!("memory per connection here: {} bytes", connected.saturating_sub(before) / clients);
        println!("the same after the hellos: {} bytes", talked.saturating_sub(before) / clients);
        println!("memory per client there, a node with its connection: {theirs} bytes");
    }

    dialling.order("end")?;
    let left = dialling.answer().await?;
    require(left == "0", "the clients have no connection left")?;
    in_time("the last end", async {
        while server.node.num_connected() > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await?;
    println!("verified: all clients have gone, and 0 connections are left");
    Ok(())
}

/// The other process, which ends when there are no more orders: so it does with this one.
struct Dialling {
    child: Child,
    orders: Option<ChildStdin>,
    answers: mpsc::UnboundedReceiver<String>,
}

impl Dialling {
    fn start(addr: SocketAddr, clients: u16) -> io::Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.args([addr.to_string(), clients.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        // A terminal's Ctrl-C is for this process only.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn()?;
        let (sender, answers) = mpsc::unbounded_channel();
        let orders = child.stdin.take();
        let stdout = child.stdout.take().ok_or_else(|| io::Error::other("a process without pipes"))?;
        // A thread, because a pipe cannot be read with a time limit; it ends with the other process.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Ok(Self { child, orders, answers })
    }

    fn order(&mut self, order: &str) -> io::Result<()> {
        match &mut self.orders {
            Some(orders) => writeln!(orders, "{order}"),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    async fn answer(&mut self) -> io::Result<String> {
        let answer = in_time("an answer of the other process", self.answers.recv()).await?;
        answer.ok_or_else(|| io::Error::other("the other process has ended; its message is above"))
    }

    /// Without further orders it shuts down its nodes and ends.
    async fn end(&mut self) -> io::Result<()> {
        self.orders = None;
        // Its last words are no longer of interest, only that there are no more.
        in_time("the end of the other process", async { while self.answers.recv().await.is_some() {} }).await?;
        require(self.child.wait()?.success(), "the other process has shut down its nodes")?;
        println!("the other process has ended");
        Ok(())
    }
}

impl Drop for Dialling {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Shows progress until a number is reached; gives up when it has not moved for long.
async fn progress(
    what: &str,
    target: usize,
    dialling: &mut Dialling,
    mut reached: impl FnMut() -> usize,
) -> io::Result<()> {
    let (is_live, mut last, mut moved) = (io::stdout().is_terminal(), 0, Instant::now());
    loop {
        let now = reached();
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
        let has_ended = dialling.child.try_wait()?.is_some();
        require(!has_ended, "the other process goes on; its message is above")?;
        require(moved.elapsed() < PATIENCE, &format!("{target} are {what}; there are {now}"))?;
        sleep(Duration::from_millis(50)).await;
    }
}

// ---- the process that dials ----

async fn dial(addr: SocketAddr, count: u16) -> io::Result<()> {
    let (sender, mut orders) = mpsc::unbounded_channel();
    let (reads_on, no_more_orders) = oneshot::channel::<()>();
    // No task: reading cannot be cancelled, and a runtime waits for its blocking tasks.
    thread::spawn(move || {
        let mut line = String::new();
        while io::stdin().read_line(&mut line).is_ok_and(|read| read > 0) {
            if sender.send(std::mem::take(&mut line)).is_err() {
                break;
            }
        }
        drop(reads_on);
    });

    let before = resident();
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(Member::start(1, false).await);
    }
    let outcome = tokio::select! {
        outcome = obey(addr, &clients, before, &mut orders) => outcome,
        // Also in the middle of an order: the process that listens has gone, or wants this one to end.
        _ = no_more_orders => Ok(()),
    };
    shut_down(&clients).await;
    outcome
}

async fn obey(
    addr: SocketAddr,
    clients: &[Member],
    before: Option<usize>,
    orders: &mut mpsc::UnboundedReceiver<String>,
) -> io::Result<()> {
    while let Some(order) = orders.recv().await {
        match order.trim() {
            "dial" => dial_all(addr, clients).await?,
            "hello" => {
                for client in clients {
                    client.unicast_fast(addr, Bytes::from_static(b"hello"))?;
                }
                let answered = || clients.iter().map(|client| client.answered.load(Relaxed)).sum::<usize>();
                in_time("the last answer", async {
                    while answered() < clients.len() {
                        sleep(Duration::from_millis(10)).await;
                    }
                })
                .await?;
                println!("{}", answered());
            }
            "memory" => {
                let grown = before.zip(resident()).map_or(0, |(before, now)| now.saturating_sub(before));
                println!("{}", grown / clients.len());
            }
            _ => {
                shut_down(clients).await;
                println!("{}", clients.iter().map(|client| client.node.num_connected()).sum::<usize>());
            }
        }
    }
    Ok(())
}

/// Dials a few at a time: so the listener's backlog is long enough.
async fn dial_all(addr: SocketAddr, clients: &[Member]) -> io::Result<()> {
    let mut dials = JoinSet::new();
    for some in clients.chunks(clients.len().div_ceil(DIALS_AT_ONCE)) {
        let some = some.to_vec();
        dials.spawn(async move {
            for client in some {
                client.node.connect(addr).await?;
            }
            Ok::<_, io::Error>(())
        });
    }
    while let Some(dialled) = dials.join_next().await {
        dialled.map_err(io::Error::other)??;
    }
    Ok(())
}

async fn shut_down(clients: &[Member]) {
    let mut ends = JoinSet::new();
    for client in clients {
        let node = client.node.clone();
        ends.spawn(async move { node.shut_down().await });
    }
    ends.join_all().await;
}

/// The server, or one of its clients.
#[derive(Clone)]
struct Member {
    node: Node,
    is_server: bool,
    /// How many hellos were answered, by the server or to a client.
    answered: Arc<AtomicUsize>,
}

impl Member {
    async fn start(max_connections: u16, is_server: bool) -> Self {
        let node = Node::new(Config {
            listener_addr: is_server.then_some(([127, 0, 0, 1], 0).into()),
            listener_backlog: 1_024,
            max_connections,
            max_connections_per_ip: max_connections,
            max_connecting: max_connections.min(1_000),
            connection_timeout_ms: 30_000,
            ..Default::default()
        });
        let member = Self { node, is_server, answered: Arc::default() };
        member.enable_reading().await;
        member.enable_writing().await;
        member
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
        if self.is_server && self.unicast_fast(source, Bytes::from_static(b"welcome")).is_err() {
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

// ---- what the system says ----

/// How many file descriptors a process may have; `None` where there is no `/proc`.
fn descriptor_limit() -> Option<usize> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The resident memory of this process, in bytes.
fn resident() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()? * 1_024)
}

async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> io::Result<T> {
    timeout(PATIENCE, work).await.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("{what} did not come")))
}

fn require(holds: bool, claim: &str) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::Error::other(format!("this does not hold: {claim}"))) }
}

const BAR: usize = 30;
const DIALS_AT_ONCE: usize = 64;

/// Without a new connection or message for this long, none will come.
const PATIENCE: Duration = Duration::from_secs(30);
