//! RPC: calls and answers over one connection.
//!
//! Shows how to build request/response on messages: each call carries a correlation id, so many
//! calls are under way at once and their answers may come in any order; a call has a timeout;
//! a call that is dropped, by its timeout or otherwise, is cancelled at the server; an error of the
//! far end is an error of the call; and when the connection ends, its calls fail at once instead of
//! waiting for their timeout. Both ends are the same kind of node: either could call the other.
//!
//! Run it with
//!
//! ```text
//! cargo run --example rpc
//! ```
//!
//! You will see, with other times:
//!
//! ```text
//! 50 calls at once, the last is answered first, each with its own answer: 201ms instead of 5.1s
//! an error of the far end is an error of the call: the far end says "7 / 0 is not a number"
//! a method that is not there: the far end says "there is no fly"
//! a call of 60 s with a timeout of 50 ms: no answer in time, after 50ms; the server stopped working on it
//! one call more than 64 at once is refused: the far end says "too many calls at once"
//! all 64 were dropped, and the server stopped working on them
//! 20 calls of 60 s failed within 653µs of the end of the connection: there is no connection (any more)
//! in the end, no call waits and the server works on none
//! ```

mod common;

use std::{
    collections::HashMap,
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::{Buf, BufMut, BytesMut};
use futures_util::future::join_all;
use parking_lot::Mutex;
use pea2pea::{
    Config, Connection, ConnectionSide, DisconnectOrigin, Node, Pea2Pea,
    protocols::{Handshake, OnDisconnect, Reading, Writing},
};
use tokio::{
    sync::oneshot,
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};
use tokio_util::codec::{Decoder, Encoder, LengthDelimitedCodec};

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let (client, server) = (Rpc::start("client").await, Rpc::start("server").await);
    let outcome = tokio::select! {
        outcome = story(&client, &server) => outcome,
        () = common::ctrl_c() => Err(io::Error::other("interrupted")),
    };
    client.node.shut_down().await;
    server.node.shut_down().await;
    common::exit(outcome)
}

async fn story(client: &Rpc, server: &Rpc) -> io::Result<()> {
    let addr = server.node.toggle_listener().await?.ok_or_else(|| io::Error::other("the listener went off"))?;
    client.node.connect(addr).await?;

    // The later a call is made, the sooner it is answered.
    let begun = Instant::now();
    let naps = (1..=50).rev().map(|n| 4 * n);
    let answers = join_all(naps.clone().map(|ms| client.call(addr, format!("nap {ms}"), MINUTE))).await;
    let took = begun.elapsed();
    require(answers.into_iter().eq(naps.clone().map(|ms| Ok(format!("slept {ms} ms")))), "each call gets its answer")?;
    let sum = Duration::from_millis(naps.sum());
    require(took < sum, "the calls are under way together")?;
    println!("50 calls at once, the last is answered first, each with its own answer: {took:.0?} instead of {sum:.1?}");

    let failure = failure_of(client.call(addr, "divide 7 0", MINUTE).await)?;
    require(failure == Failure::Remote("7 / 0 is not a number".to_owned()), "its error is the error of the call")?;
    println!("an error of the far end is an error of the call: {failure}");
    let failure = failure_of(client.call(addr, "fly", MINUTE).await)?;
    println!("a method that is not there: {failure}");

    let begun = Instant::now();
    let failure = failure_of(client.call(addr, "nap 60000", Duration::from_millis(50)).await)?;
    require(failure == Failure::TimedOut, "a call waits as long as it may")?;
    let took = begun.elapsed();
    until("the server stops working", || server.num_working() == 0).await?;
    println!("a call of 60 s with a timeout of 50 ms: {failure}, after {took:.0?}; the server stopped working on it");

    let mut calls = minute_long_calls(client, addr, MAX_WORKING);
    until("the server is busy", || server.num_working() == MAX_WORKING).await?;
    let failure = failure_of(client.call(addr, "divide 7 1", MINUTE).await)?;
    println!("one call more than {MAX_WORKING} at once is refused: {failure}");
    calls.abort_all();
    until("the server stops working", || server.num_working() == 0).await?;
    println!("all {MAX_WORKING} were dropped, and the server stopped working on them");

    let calls = minute_long_calls(client, addr, 20);
    until("the server is busy", || server.num_working() == 20).await?;
    let begun = Instant::now();
    for client_addr in server.node.connected_addrs() {
        server.node.disconnect(client_addr).await;
    }
    let failures = timeout(PATIENCE, calls.join_all()).await?;
    let took = begun.elapsed();
    require(failures.iter().all(|answer| *answer == Err(Failure::Ended)), "calls end with their connection")?;
    println!("20 calls of 60 s failed within {took:.0?} of the end of the connection: {}", Failure::Ended);
    let failure = failure_of(client.call(addr, "divide 7 1", MINUTE).await)?;
    require(failure == Failure::Ended, "without a connection there is no call")?;

    require(client.num_waiting() + server.num_working() == 0, "nothing is left behind")?;
    println!("in the end, no call waits and the server works on none");
    Ok(())
}

/// A node that calls others, and answers their calls.
#[derive(Clone)]
struct Rpc {
    node: Node,
    next_id: Arc<AtomicU64>,
    sessions: Arc<Mutex<HashMap<SocketAddr, Session>>>,
}

/// What goes on over one connection. Dropping it fails the calls that wait, and stops the work for the other side.
#[derive(Default)]
struct Session {
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
    working: HashMap<u64, AbortHandle>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.working.values().for_each(AbortHandle::abort);
    }
}

type Answer = Result<String, String>;

/// Why a call gave nothing.
#[derive(Debug, PartialEq)]
enum Failure {
    Remote(String),
    TimedOut,
    Ended,
    NotSent(io::ErrorKind),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remote(reason) => write!(f, "the far end says {reason:?}"),
            Self::TimedOut => f.write_str("no answer in time"),
            Self::Ended => f.write_str("there is no connection (any more)"),
            Self::NotSent(kind) => write!(f, "the call could not be sent: {kind}"),
        }
    }
}

impl Rpc {
    async fn start(name: &str) -> Self {
        let node = Node::new(Config {
            name: Some(name.to_owned()),
            listener_addr: Some(([127, 0, 0, 1], 0).into()),
            ..Default::default()
        });
        let rpc = Self { node, next_id: Arc::default(), sessions: Arc::default() };
        rpc.enable_handshake().await;
        rpc.enable_reading().await;
        rpc.enable_writing().await;
        rpc.enable_on_disconnect().await;
        rpc
    }

    /// Calls the node at the other end of a connection. To cancel the call, drop this future.
    async fn call(&self, addr: SocketAddr, request: impl Into<String>, limit: Duration) -> Result<String, Failure> {
        let id = self.next_id.fetch_add(1, Relaxed);
        let (sender, answer) = oneshot::channel();
        self.sessions.lock().get_mut(&addr).ok_or(Failure::Ended)?.waiting.insert(id, sender);
        // From here on, whichever way this future ends, the guard forgets the call, and cancels it if it was not answered.
        let _call = OpenCall { rpc: self, addr, id };

        self.unicast_fast(addr, Wire::Call { id, request: request.into() })
            .map_err(|error| Failure::NotSent(error.kind()))?;
        match timeout(limit, answer).await {
            Ok(Ok(answer)) => answer.map_err(Failure::Remote),
            Ok(Err(_)) => Err(Failure::Ended),
            Err(_) => Err(Failure::TimedOut),
        }
    }

    /// What a server does for those who call it.
    async fn perform(&self, request: &str) -> Answer {
        let words: Vec<_> = request.split(' ').collect();
        let number = |word: &str| word.parse().map_err(|_| format!("{word} is not a number"));
        match words[..] {
            ["nap", ms] => {
                sleep(Duration::from_millis(number(ms)?)).await;
                Ok(format!("slept {ms} ms"))
            }
            ["divide", a, b] => match number(a)?.checked_div(number(b)?) {
                Some(quotient) => Ok(quotient.to_string()),
                None => Err(format!("{a} / {b} is not a number")),
            },
            _ => Err(format!("there is no {request}")),
        }
    }

    /// Begins the work on a call. It is a task of its own, so that the next call can be read, and can overtake this one.
    fn begin(&self, addr: SocketAddr, id: u64, request: String) {
        let mut sessions = self.sessions.lock();
        let Some(session) = sessions.get_mut(&addr) else { return };
        if session.working.len() == MAX_WORKING || session.working.contains_key(&id) {
            let answer = Err("too many calls at once".to_owned());
            drop(self.unicast_fast(addr, Wire::Answer { id, answer }));
            return;
        }
        let rpc = self.clone();
        let work = tokio::spawn(async move {
            let answer = rpc.perform(&request).await;
            if let Some(session) = rpc.sessions.lock().get_mut(&addr) {
                session.working.remove(&id);
            }
            // A caller that lets its answers pile up does not get all of them.
            drop(rpc.unicast_fast(addr, Wire::Answer { id, answer }));
        });
        // The task may be done with its work by now, but waits for the lock.
        session.working.insert(id, work.abort_handle());
    }

    fn num_working(&self) -> usize {
        self.sessions.lock().values().map(|session| session.working.len()).sum()
    }

    fn num_waiting(&self) -> usize {
        self.sessions.lock().values().map(|session| session.waiting.len()).sum()
    }
}

struct OpenCall<'a> {
    rpc: &'a Rpc,
    addr: SocketAddr,
    id: u64,
}

impl Drop for OpenCall<'_> {
    fn drop(&mut self) {
        let waited = match self.rpc.sessions.lock().get_mut(&self.addr) {
            Some(session) => session.waiting.remove(&self.id),
            None => None,
        };
        if waited.is_some() {
            drop(self.rpc.unicast_fast(self.addr, Wire::Cancel { id: self.id }));
        }
    }
}

impl Pea2Pea for Rpc {
    fn node(&self) -> &Node {
        &self.node
    }
}

/// Says nothing to the other side, but opens the session before the first call can be made or arrive.
impl Handshake for Rpc {
    async fn perform_handshake(&self, conn: Connection) -> io::Result<Connection> {
        self.sessions.lock().insert(conn.addr(), Session::default());
        Ok(conn)
    }
}

/// Ends the session: at once when the connection ends, whoever ended it.
impl OnDisconnect for Rpc {
    async fn on_disconnect(&self, addr: SocketAddr, _origin: DisconnectOrigin) {
        let session = self.sessions.lock().remove(&addr);
        drop(session);
    }
}

impl Reading for Rpc {
    type Message = Wire;
    type Codec = WireCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        WireCodec::default()
    }

    async fn process_message(&self, source: SocketAddr, message: Wire) {
        match message {
            Wire::Call { id, request } => self.begin(source, id, request),
            Wire::Answer { id, answer } => {
                let waiting = self.sessions.lock().get_mut(&source).and_then(|session| session.waiting.remove(&id));
                // Nobody waits for the answer to a call that was given up.
                if let Some(waiting) = waiting {
                    let _ = waiting.send(answer);
                }
            }
            Wire::Cancel { id } => {
                let work = self.sessions.lock().get_mut(&source).and_then(|session| session.working.remove(&id));
                if let Some(work) = work {
                    work.abort();
                }
            }
        }
    }
}

impl Writing for Rpc {
    /// Calls and answers are small and come in bursts.
    const MESSAGE_QUEUE_DEPTH: usize = 1024;
    type Message = Wire;
    type Codec = WireCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        WireCodec::default()
    }
}

enum Wire {
    Call { id: u64, request: String },
    Answer { id: u64, answer: Answer },
    Cancel { id: u64 },
}

/// On the wire: the length, the id, the kind, and text.
struct WireCodec(LengthDelimitedCodec);

impl Default for WireCodec {
    fn default() -> Self {
        Self(LengthDelimitedCodec::builder().max_frame_length(64 * 1024).new_codec())
    }
}

impl Decoder for WireCodec {
    type Item = Wire;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<Wire>> {
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, "not a message of this protocol");
        let Some(mut frame) = self.0.decode(src)? else { return Ok(None) };
        let id = frame.try_get_u64().map_err(|_| invalid())?;
        let kind = frame.try_get_u8().map_err(|_| invalid())?;
        let text = String::from_utf8(frame.into()).map_err(|_| invalid())?;
        match kind {
            CALL => Ok(Some(Wire::Call { id, request: text })),
            ANSWER => Ok(Some(Wire::Answer { id, answer: Ok(text) })),
            ERROR => Ok(Some(Wire::Answer { id, answer: Err(text) })),
            CANCEL => Ok(Some(Wire::Cancel { id })),
            _ => Err(invalid()),
        }
    }
}

impl Encoder<Wire> for WireCodec {
    type Error = io::Error;

    fn encode(&mut self, message: Wire, dst: &mut BytesMut) -> io::Result<()> {
        let (id, kind, text) = match message {
            Wire::Call { id, request } => (id, CALL, request),
            Wire::Answer { id, answer: Ok(text) } => (id, ANSWER, text),
            Wire::Answer { id, answer: Err(text) } => (id, ERROR, text),
            Wire::Cancel { id } => (id, CANCEL, String::new()),
        };
        let mut frame = BytesMut::with_capacity(9 + text.len());
        frame.put_u64(id);
        frame.put_u8(kind);
        frame.put_slice(text.as_bytes());
        self.0.encode(frame.freeze(), dst)
    }
}

fn minute_long_calls(client: &Rpc, addr: SocketAddr, count: usize) -> JoinSet<Result<String, Failure>> {
    (0..count)
        .map(|_| {
            let client = client.clone();
            async move { client.call(addr, "nap 60000", 2 * MINUTE).await }
        })
        .collect()
}

fn failure_of(answer: Result<String, Failure>) -> io::Result<Failure> {
    match answer {
        Ok(answer) => Err(io::Error::other(format!("this was to fail, but gave {answer:?}"))),
        Err(failure) => Ok(failure),
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) -> io::Result<()> {
    let wait = async {
        while !holds() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, wait).await.map_err(|_| io::Error::other(format!("this did not happen: {what}")))
}

fn require(holds: bool, claim: &str) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::Error::other(format!("this does not hold: {claim}"))) }
}

const CALL: u8 = 0;
const ANSWER: u8 = 1;
const ERROR: u8 = 2;
const CANCEL: u8 = 3;
/// How much a server works for one connection at a time.
const MAX_WORKING: usize = 64;
const MINUTE: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(10);
