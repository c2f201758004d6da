//! Metrics: what a node counts, for Prometheus.
//!
//! Shows where the figures of a node come from (`stats`, `heuristics`, `num_connected`), and that the
//! kernel carries any protocol over TCP: the endpoint is a second node, whose `Reading` understands the
//! requests of HTTP/1.1, whose `Writing` sends the responses, and whose limits and idle timeout keep
//! strangers in check. Metrics say a lot about a network, so keep the endpoint on an address that only the
//! scraper reaches.
//!
//! ```text
//! cargo run --example metrics                     # serves at 127.0.0.1:9184 until Ctrl-C
//! cargo run --example metrics -- 127.0.0.1:9999
//! curl http://127.0.0.1:9184/metrics
//! ```
//!
//! For Prometheus, add to `scrape_configs`:
//!
//! ```text
//! - job_name: pea2pea
//!   static_configs: [{ targets: ["127.0.0.1:9184"] }]
//! ```
//!
//! The beginning of what `curl -i` shows:
//!
//! ```text
//! HTTP/1.1 200 OK
//! Content-Type: text/plain; version=0.0.4; charset=utf-8
//! Content-Length: 2297
//!
//! # HELP pea2pea_connections Live connections.
//! # TYPE pea2pea_connections gauge
//! pea2pea_connections{node="ada"} 1
//! pea2pea_connections{node="bob"} 1
//! # HELP pea2pea_connecting Connections being set up.
//! # TYPE pea2pea_connecting gauge
//! pea2pea_connecting{node="ada"} 0
//! pea2pea_connecting{node="bob"} 0
//! # HELP pea2pea_messages_sent_total Messages sent.
//! # TYPE pea2pea_messages_sent_total counter
//! pea2pea_messages_sent_total{node="ada"} 0
//! ```

mod common;

use std::{fmt::Write as _, io, net::SocketAddr, time::Duration};

use bytes::{Bytes, BytesMut};
use common::Colour;
use pea2pea::{
    Config, ConnectionSide, Node, Pea2Pea,
    protocols::{Reading, Writing},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{interval, sleep, timeout},
};
use tokio_util::codec::{BytesCodec, Decoder, LengthDelimitedCodec};

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9184".to_owned());
    let addr = if common::is_short() { "127.0.0.1:0".to_owned() } else { addr };
    common::exit(match addr.parse() {
        Ok(addr) => run(addr).await,
        Err(_) => Err(io::Error::other("usage: metrics [ADDR:PORT]")),
    })
}

async fn run(addr: SocketAddr) -> io::Result<()> {
    let (ada, bob) = (Member::start("ada").await, Member::start("bob").await);
    let exporter = Exporter::new(addr, vec![ada.node.clone(), bob.node.clone()]);
    let outcome = tokio::select! {
        outcome = serve(&ada, &bob, &exporter) => outcome,
        () = common::ctrl_c() => Ok(()),
    };
    for node in [&ada.node, &bob.node, &exporter.node] {
        node.shut_down().await;
    }
    if !common::is_short() {
        println!("{}", Colour::Grey.paint("no more metrics"));
    }
    outcome
}

async fn serve(ada: &Member, bob: &Member, exporter: &Exporter) -> io::Result<()> {
    let missing = || io::Error::other("a listener went off");
    let ada_addr = ada.node.toggle_listener().await?.ok_or_else(missing)?;
    bob.node.connect(ada_addr).await?;
    exporter.enable_reading().await;
    exporter.enable_writing().await;
    let addr = exporter.node.toggle_listener().await?.ok_or_else(missing)?;
    if common::is_short() {
        return verify(ada, bob, ada_addr, exporter, addr).await;
    }

    println!("serving at {}; Ctrl-C ends", Colour::Cyan.paint(format_args!("http://{addr}/metrics")));
    // Something to count.
    let mut pace = interval(Duration::from_millis(100));
    loop {
        pace.tick().await;
        bob.unicast_fast(ada_addr, Bytes::from_static(b"hello"))?;
    }
}

/// The figures of all the nodes, in the text format of Prometheus, version 0.0.4.
fn exposition(nodes: &[Node]) -> String {
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, value: &dyn Fn(&Node) -> u64| {
        let _ = writeln!(text, "# HELP pea2pea_{name} {help}\n# TYPE pea2pea_{name} {kind}");
        for node in nodes {
            let _ = writeln!(text, "pea2pea_{name}{{node=\"{}\"}} {}", escaped(node.name()), value(node));
        }
    };
    metric("connections", "gauge", "Live connections.", &|node| node.num_connected() as u64);
    metric("connecting", "gauge", "Connections being set up.", &|node| node.num_connecting() as u64);
    metric("messages_sent_total", "counter", "Messages sent.", &|node| node.stats().sent().0);
    metric("bytes_sent_total", "counter", "Bytes sent, framing included.", &|node| node.stats().sent().1);
    metric("messages_received_total", "counter", "Messages received.", &|node| node.stats().received().0);
    metric("bytes_received_total", "counter", "Bytes received, framing included.", &|node| node.stats().received().1);
    metric("inbound_rejected_total", "counter", "Inbound connections refused by a limit.", &|node| {
        node.heuristics().inbound_connections_rejected()
    });
    metric("accept_errors_total", "counter", "Accepts that failed for lack of resources.", &|node| {
        node.heuristics().accept_errors()
    });
    metric("dials_refused_total", "counter", "Own dials beyond the budget of setups.", &|node| {
        node.heuristics().connect_budget_rejections()
    });
    metric("handshake_timeouts_total", "counter", "Handshakes that took too long.", &|node| {
        node.heuristics().handshake_timeouts()
    });
    metric("idle_timeouts_total", "counter", "Connections ended for silence.", &|node| {
        node.heuristics().idle_timeouts()
    });
    metric("write_timeouts_total", "counter", "Connections ended because the peer took no data.", &|node| {
        node.heuristics().write_timeouts()
    });
    text
}

/// A label's value may not hold these three as they are.
fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The node that speaks HTTP.
#[derive(Clone)]
struct Exporter {
    node: Node,
    watched: Vec<Node>,
}

impl Exporter {
    fn new(addr: SocketAddr, watched: Vec<Node>) -> Self {
        let node = Node::new(Config {
            name: Some("metrics".to_owned()),
            listener_addr: Some(addr),
            max_connections: 16,
            max_connections_per_ip: 16,
            ..Default::default()
        });
        Self { node, watched }
    }

    fn respond(&self, request: &Request) -> Bytes {
        let (status, body) = match request {
            Request { method, path, .. } if method == "GET" && path == "/metrics" => {
                ("200 OK", exposition(&self.watched))
            }
            Request { method, path, .. } if method == "GET" && path == "/" => ("200 OK", "see /metrics\n".to_owned()),
            Request { method, .. } if method == "GET" => ("404 Not Found", "there is only /metrics\n".to_owned()),
            _ => ("405 Method Not Allowed\r\nAllow: GET", "only GET\n".to_owned()),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        Bytes::from(head + &body)
    }
}

impl Pea2Pea for Exporter {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Reading for Exporter {
    /// Longer than the usual interval between two scrapes, so that a scraper can keep its connection.
    const IDLE_TIMEOUT_MS: u64 = 90_000;
    type Message = Request;
    type Codec = RequestCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        RequestCodec
    }

    async fn process_message(&self, source: SocketAddr, request: Request) {
        // With its receipt awaited, a response is out before the next request is looked at.
        if let Ok(receipt) = self.unicast(source, self.respond(&request)) {
            let _ = receipt.await;
        }
        if request.is_last {
            self.node.disconnect(source).await;
        }
    }
}

impl Writing for Exporter {
    type Message = Bytes;
    type Codec = BytesCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        BytesCodec::new()
    }
}

struct Request {
    method: String,
    path: String,
    /// Whether the other side wants the connection to end after the response.
    is_last: bool,
}

/// Understands requests without a body. Whatever else comes is an error, and an error ends the connection.
struct RequestCodec;

impl Decoder for RequestCodec {
    type Item = Request;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<Request>> {
        let invalid = |text| io::Error::new(io::ErrorKind::InvalidData, text);
        let Some(end) = src.windows(4).position(|window| window == b"\r\n\r\n") else {
            // Nobody may make this node keep an endless head.
            return if src.len() > MAX_HEAD { Err(invalid("too long for a request")) } else { Ok(None) };
        };
        let head = src.split_to(end + 4);
        let line = head[..].split(|byte| *byte == b'\r').next().unwrap_or_default();
        let line = std::str::from_utf8(line).map_err(|_| invalid("not a request"))?;
        match line.split(' ').collect::<Vec<_>>()[..] {
            [method, target, version @ ("HTTP/1.1" | "HTTP/1.0")] => {
                let path = target.split('?').next().unwrap_or_default().to_owned();
                let asks_for_end =
                    String::from_utf8_lossy(&head).to_ascii_lowercase().contains("\r\nconnection: close");
                Ok(Some(Request { method: method.to_owned(), path, is_last: asks_for_end || version == "HTTP/1.0" }))
            }
            _ => Err(invalid("not a request")),
        }
    }
}

/// A node whose traffic is counted.
#[derive(Clone)]
struct Member {
    node: Node,
}

impl Member {
    async fn start(name: &str) -> Self {
        let member = Self {
            node: Node::new(Config {
                name: Some(name.to_owned()),
                listener_addr: Some(([127, 0, 0, 1], 0).into()),
                ..Default::default()
            }),
        };
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
    /// The traffic is one-way.
    const IDLE_TIMEOUT_MS: u64 = 0;
    type Message = BytesMut;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        LengthDelimitedCodec::builder().max_frame_length(1024).new_codec()
    }

    async fn process_message(&self, _source: SocketAddr, _message: BytesMut) {}
}

impl Writing for Member {
    type Message = Bytes;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        LengthDelimitedCodec::builder().max_frame_length(1024).new_codec()
    }
}

/// The short mode: scrapes over plain sockets, and compares with what the nodes say themselves.
async fn verify(
    ada: &Member,
    bob: &Member,
    ada_addr: SocketAddr,
    exporter: &Exporter,
    addr: SocketAddr,
) -> io::Result<()> {
    send(bob, ada, ada_addr, 25).await?;
    let mut scraper = TcpStream::connect(addr).await?;
    let first = ask(&mut scraper, "GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n").await?;
    require(first.starts_with("HTTP/1.1 200 OK\r\n"), "a scrape succeeds")?;
    require(first.contains("Content-Type: text/plain; version=0.0.4"), "Prometheus knows the format")?;
    let (_, text) = first.split_once("\r\n\r\n").unwrap_or_default();
    let samples = text.lines().filter(|line| !line.starts_with('#')).count();
    require(text == exposition(&exporter.watched), "the body is whole, and says what the nodes say")?;
    // 25 messages of 5 bytes, each behind a length of 4 bytes.
    for line in [
        "# TYPE pea2pea_messages_received_total counter",
        "pea2pea_messages_received_total{node=\"ada\"} 25",
        "pea2pea_bytes_received_total{node=\"ada\"} 225",
        "pea2pea_messages_sent_total{node=\"bob\"} 25",
        "pea2pea_connections{node=\"bob\"} 1",
    ] {
        require(text.lines().any(|found| found == line), line)?;
    }
    println!("{samples} samples scraped; ada received 25 messages of 225 bytes, and so do her metrics say");

    send(bob, ada, ada_addr, 5).await?;
    let second = ask(&mut scraper, "GET /metrics?x=1 HTTP/1.1\r\nConnection: keep-alive\r\n\r\n").await?;
    require(second.contains("\npea2pea_messages_received_total{node=\"ada\"} 30\n"), "counters go on")?;
    println!("5 messages later, over the same connection: 30");

    let missing = ask(&mut scraper, "GET /secrets HTTP/1.1\r\n\r\n").await?;
    require(missing.starts_with("HTTP/1.1 404 "), "there is nothing else")?;
    let refused = ask(&mut scraper, "DELETE /metrics HTTP/1.1\r\nConnection: close\r\n\r\n").await?;
    require(refused.starts_with("HTTP/1.1 405 "), "nothing can be changed")?;
    require(timeout(PATIENCE, scraper.read_u8()).await?.is_err(), "the connection ends when the scraper says so")?;
    println!("another path is a 404, another method a 405, and the connection ends when the scraper wants it to");

    for garbage in ["\x16\x03\x01 hello\r\n\r\n".to_owned(), "x".repeat(2 * MAX_HEAD)] {
        let mut stranger = TcpStream::connect(addr).await?;
        stranger.write_all(garbage.as_bytes()).await?;
        require(timeout(PATIENCE, stranger.read_u8()).await?.is_err(), "garbage is hung up on")?;
    }
    println!("what is no request, or too long for one, is hung up on");
    Ok(())
}

async fn send(from: &Member, to: &Member, addr: SocketAddr, count: u64) -> io::Result<()> {
    let before = to.node.stats().received().0;
    for _ in 0..count {
        from.unicast_fast(addr, Bytes::from_static(b"hello"))?;
    }
    let arrival = async {
        while to.node.stats().received().0 < before + count || from.node.stats().sent().0 < before + count {
            sleep(Duration::from_millis(1)).await;
        }
    };
    Ok(timeout(PATIENCE, arrival).await?)
}

/// Sends one request and reads its response: the head, and as much as the head says.
async fn ask(scraper: &mut TcpStream, request: &str) -> io::Result<String> {
    let read = async {
        scraper.write_all(request.as_bytes()).await?;
        let mut response = String::new();
        while !response.ends_with("\r\n\r\n") {
            response.push(scraper.read_u8().await?.into());
        }
        let length = response.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let length = length.and_then(|length| length.parse().ok()).unwrap_or_default();
        let mut body = vec![0; length];
        scraper.read_exact(&mut body).await?;
        Ok(response + &String::from_utf8_lossy(&body))
    };
    timeout(PATIENCE, read).await?
}

fn require(holds: bool, claim: &str) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::Error::other(format!("this does not hold: {claim}"))) }
}

/// In bytes, of a request up to its empty line.
const MAX_HEAD: usize = 8 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);
