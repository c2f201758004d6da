//! File transfer: a large file in chunks, with a progress bar, which goes on where it was cut.
//!
//! Shows how receipts bound what a sender holds: it has at most 8 chunks of 64 KiB under way, reads the next one from the
//! disk only when the oldest has its receipt, and so holds 512 KiB of a file of any length; a receiver that stands still
//! makes it stand still, too. The receiver writes into a part file, and begins each connection with the place where it
//! stands. The name of the file comes from the other side, so all that could lead out of the directory is taken off it.
//!
//! ```text
//! cargo run --example file_transfer                             # both ends, and a cut in the middle
//! cargo run --example file_transfer -- send FILE [ADDRESS]      # serves it to everybody who asks, until Ctrl-C
//! cargo run --example file_transfer -- receive DIR ADDRESS      # tries again when the connection is cut
//! ```
//!
//! Without arguments you will see, with other times and figures (in a terminal there is a bar instead of the lines with the
//! percentages):
//!
//! ```text
//! large.bin, 128.0 MiB, CRC-32 2a45b238, is offered
//! 127.0.0.1:49728 asks for what lies behind 0.0 MiB
//!     25%, 121 MiB/s
//! the receiver stands still at 42.7 MiB: so does the sender, with 8 chunks under way; 6.2 MiB are in the system's buffers
//! 127.0.0.1:49728 does not get more: Broken pipe (os error 32)
//! the connection is cut: 42.7 MiB are on the receiver's disk
//! 127.0.0.1:49732 asks for what lies behind 42.7 MiB
//!     50%, 176 MiB/s
//!     75%, 257 MiB/s
//!     100%, 294 MiB/s
//! 127.0.0.1:49732 has the file, and it is the right one
//! over another connection, only the rest was sent: 85.3 MiB
//! verified: the CRC-32 is the same, and so is each byte
//! verified: the sender never had more than 8 chunks, 512 KiB, of it under way
//! 127.0.0.1:35954 asks for what lies behind 0.0 MiB
//!     100%, 0 MiB/s
//! 127.0.0.1:35954 has the file, and it is the right one
//! verified: a file by the name of "..\\../../from/.\u{1b}[31mevil:\0.bin" ends as "__31mevil__.bin"
//! ```
//!
//! The CRC-32 finds what accidents do to a file. It is no proof against somebody who changes it on purpose: for that, a
//! cryptographic hash has to come by another way than the file does (and an encrypted connection: see the examples for TLS
//! and Noise).

mod common;

use std::{
    collections::{HashSet, VecDeque},
    env,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read, Seek, SeekFrom, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use common::Colour;
use parking_lot::Mutex;
use pea2pea::{
    Config, ConnectionSide, DisconnectOrigin, Node, Pea2Pea,
    protocols::{OnConnect, OnDisconnect, Reading, Writing},
};
use tokio::{
    net::TcpSocket,
    sync::{mpsc, oneshot, watch},
    task::block_in_place,
    time::{sleep, timeout},
};
use tokio_util::codec::{Decoder, Encoder, LengthDelimitedCodec};

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    common::exit(match words[..] {
        [] => demonstrate().await,
        ["send", file] => send(file, "0.0.0.0:0").await,
        ["send", file, addr] => send(file, addr).await,
        ["receive", dir, addr] => receive(dir, addr).await,
        _ => Err(io::Error::new(
            ErrorKind::InvalidInput,
            "either nothing, or send FILE [ADDRESS], or receive DIR ADDRESS",
        )),
    })
}

async fn send(file: &str, addr: &str) -> io::Result<()> {
    let sender = Sender::start(Path::new(file), None, parsed(addr)?).await?;
    let outcome = async {
        let addr = sender.listen().await?;
        let Source { name, len, crc, .. } = &*sender.source;
        println!("{name}, {}, CRC-32 {crc:08x}, is offered at {addr}; Ctrl-C ends that", mib(*len));
        common::ctrl_c().await;
        println!("\nno longer offered");
        Ok(())
    };
    let outcome = outcome.await;
    sender.node.shut_down().await;
    outcome
}

async fn receive(dir: &str, addr: &str) -> io::Result<()> {
    let addr = parsed(addr)?;
    let (receiver, mut events) = Receiver::start(Path::new(dir), u64::MAX).await?;
    let work = async {
        let mut attempts = 0;
        loop {
            let outcome = match receiver.node.connect(addr).await {
                Ok(()) => next(&mut events).await?,
                Err(error) => Outcome::Cut(format!("{addr}: {error}")),
            };
            match outcome {
                Outcome::Complete(path) => {
                    say(format_args!("{} is complete, and its CRC-32 is right", path.display()));
                    return Ok(());
                }
                Outcome::Failed(error) => return Err(error),
                Outcome::Cut(reason) if attempts < 30 => say(format_args!("{reason}; trying again in a second")),
                Outcome::Cut(reason) => return Err(io::Error::other(reason)),
            }
            attempts += 1;
            sleep(Duration::from_secs(1)).await;
        }
    };
    let outcome = tokio::select! {
        outcome = work => outcome,
        () = common::ctrl_c() => {
            println!("\nthe part that is here is kept: the same command goes on from there");
            Ok(())
        }
    };
    receiver.node.shut_down().await;
    outcome
}

/// Both ends in one process, in a directory for the time being.
async fn demonstrate() -> io::Result<()> {
    let dir = env::temp_dir().join(format!("file_transfer-{}", std::process::id()));
    let [from, to] = ["from", "to"].map(|end| dir.join(end));
    for dir in [&from, &to] {
        fs::create_dir_all(dir)?;
    }
    let outcome = tokio::select! {
        outcome = story(&from, &to) => outcome,
        () = common::ctrl_c() => Err(io::Error::other("interrupted")),
    };
    fs::remove_dir_all(&dir)?;
    outcome
}

async fn story(from: &Path, to: &Path) -> io::Result<()> {
    require(crc32(0, b"123456789") == 0xCBF4_3926, "the CRC-32 is the one that everybody else computes")?;
    let len = if common::is_short() { 40 } else { 128 } << 20;
    let original = from.join("large.bin");
    block_in_place(|| write_noise(&original, len))?;

    let sender = Sender::start(&original, None, LOOPBACK).await?;
    // This receiver stands still after the first third.
    let (receiver, mut events) = Receiver::start(to, len / 3).await?;
    let outcome = async {
        let addr = sender.listen().await?;
        println!("large.bin, {}, CRC-32 {:08x}, is offered", mib(len), sender.source.crc);
        // Little room in the system's buffers, so that the sender soon feels that the receiver stands still.
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(1 << 20)?;
        receiver.node.connect_using_socket(addr, socket).await?;
        let ahead = sender.until_it_stands_still(|| receiver.have(), len / 3).await?;
        println!(
            "the receiver stands still at {}: so does the sender, with {WINDOW} chunks under way; {} are in the system's buffers",
            mib(receiver.have()),
            mib(ahead)
        );

        receiver.node.disconnect(addr).await;
        let stands_at = receiver.have();
        require(matches!(next(&mut events).await?, Outcome::Cut(_)), "the connection was cut")?;
        println!("the connection is cut: {} are on the receiver's disk", mib(stands_at));
        require(0 < stands_at && stands_at < len, "a part is on the disk")?;

        sender.until_nobody_is_served().await?;
        let sent_before = sender.flow.sent.load(Relaxed);
        receiver.gate.send_replace(u64::MAX);
        receiver.node.connect(addr).await?;
        let path = match in_time(next(&mut events)).await? {
            Outcome::Complete(path) => path,
            Outcome::Failed(error) => return Err(error),
            Outcome::Cut(reason) => return Err(io::Error::other(reason)),
        };
        let resent = sender.flow.sent.load(Relaxed) - sent_before;
        require(resent == len - stands_at, "only what was missing is sent")?;
        println!("over another connection, only the rest was sent: {}", mib(resent));
        require(path == to.join("large.bin"), "it has its name")?;
        require(block_in_place(|| same_bytes(&original, &path))?, "both files hold the same bytes")?;
        println!("verified: the CRC-32 is the same, and so is each byte");
        let most = sender.flow.most.load(Relaxed);
        require(most == WINDOW, "the window is used, and kept")?;
        println!(
            "verified: the sender never had more than {most} chunks, {} KiB, of it under way",
            most * CHUNK / 1024
        );
        Ok(())
    };
    let outcome = outcome.await;
    receiver.node.shut_down().await;
    sender.node.shut_down().await;
    outcome?;
    offer_an_evil_name(from, to).await
}

/// A sender that would like its file to be somewhere else than in the receiver's directory.
async fn offer_an_evil_name(from: &Path, to: &Path) -> io::Result<()> {
    for name in ["", ".", "..", "/", "\\", "a/..", " . "] {
        require(safe_name(name).is_none(), &format!("{name:?} names no file"))?;
    }
    let file = from.join("small.bin");
    fs::write(&file, b"small")?;
    let sender = Sender::start(&file, Some("..\\../../from/.\u{1b}[31mevil:\0.bin"), LOOPBACK).await?;
    let (receiver, mut events) = Receiver::start(to, u64::MAX).await?;
    let outcome = async {
        receiver.node.connect(sender.listen().await?).await?;
        in_time(next(&mut events)).await
    };
    let outcome = outcome.await;
    receiver.node.shut_down().await;
    sender.node.shut_down().await;
    let Outcome::Complete(path) = outcome? else { return Err(io::Error::other("the file did not come")) };
    require(path.parent() == Some(to), "it is where the receiver wanted it")?;
    println!(
        "verified: a file by the name of {:?} ends as {:?}",
        sender.source.name,
        path.file_name().unwrap_or_default()
    );
    Ok(())
}

/// Offers one file to everybody who connects.
#[derive(Clone)]
struct Sender {
    node: Node,
    source: Arc<Source>,
    flow: Arc<Flow>,
    serving: Arc<Mutex<HashSet<SocketAddr>>>,
}

struct Source {
    path: PathBuf,
    name: String,
    len: u64,
    crc: u32,
}

/// What the sender has under way, and has handed to the system.
#[derive(Default)]
struct Flow {
    under_way: AtomicUsize,
    most: AtomicUsize,
    sent: AtomicU64,
}

impl Sender {
    async fn start(path: &Path, name: Option<&str>, listener_addr: SocketAddr) -> io::Result<Self> {
        let (len, crc) = block_in_place(|| digest(&mut File::open(path)?))
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        let own_name = path.file_name().unwrap_or_default().to_string_lossy();
        let source =
            Source { path: path.to_owned(), name: name.map_or_else(|| own_name.into_owned(), str::to_owned), len, crc };
        let node =
            Node::new(Config { listener_addr: Some(listener_addr), max_connections_per_ip: 4, ..Default::default() });
        let sender = Self { node, source: Arc::new(source), flow: Arc::default(), serving: Arc::default() };
        sender.enable_reading().await;
        sender.enable_writing().await;
        sender.enable_on_connect().await;
        Ok(sender)
    }

    async fn listen(&self) -> io::Result<SocketAddr> {
        self.node.toggle_listener().await?.ok_or_else(|| io::Error::other("the listener was switched off"))
    }

    /// Sends what lies behind the first `from` bytes, a few chunks at a time.
    async fn send_from(&self, addr: SocketAddr, from: u64) -> io::Result<()> {
        let mut file = File::open(&self.source.path)?;
        file.seek(SeekFrom::Start(from))?;
        let mut offset = from;
        let mut window = Window { flow: &self.flow, receipts: VecDeque::with_capacity(WINDOW) };
        loop {
            if window.receipts.len() == WINDOW {
                window.wait_for_oldest().await?;
            }
            let data = block_in_place(|| read_chunk(&mut file))?;
            if data.is_empty() {
                break;
            }
            let len = data.len() as u64;
            window.add(self.unicast(addr, Wire::Chunk { offset, data })?, len);
            offset += len;
        }
        while !window.receipts.is_empty() {
            window.wait_for_oldest().await?;
        }
        Ok(())
    }

    /// Until the receiver stands still, and the sender therefore, too: its window is full, and nothing moves. Returns how far
    /// it is ahead.
    async fn until_it_stands_still(&self, have: impl Fn() -> u64, stops_at: u64) -> io::Result<u64> {
        let still = async {
            let mut before = (u64::MAX, Instant::now());
            loop {
                let (have, sent) = (have(), self.flow.sent.load(Relaxed));
                let full = self.flow.under_way.load(Relaxed) == WINDOW;
                if have < stops_at || sent <= have || sent != before.0 || !full {
                    before = (sent, Instant::now());
                } else if before.1.elapsed() > Duration::from_millis(300) {
                    return sent - have;
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, still).await.map_err(|_| io::Error::other("nothing makes the sender stand still"))
    }
}

impl Sender {
    /// Until the end of a connection has ended the sending, too.
    async fn until_nobody_is_served(&self) -> io::Result<()> {
        let ended = async {
            while !self.serving.lock().is_empty() {
                sleep(Duration::from_millis(1)).await;
            }
            Ok(())
        };
        in_time(ended).await
    }
}

/// The chunks that are under way: what the node's memory holds of the file.
struct Window<'a> {
    flow: &'a Flow,
    receipts: VecDeque<(oneshot::Receiver<io::Result<()>>, u64)>,
}

impl Window<'_> {
    fn add(&mut self, receipt: oneshot::Receiver<io::Result<()>>, len: u64) {
        self.receipts.push_back((receipt, len));
        let under_way = self.flow.under_way.fetch_add(1, Relaxed) + 1;
        self.flow.most.fetch_max(under_way, Relaxed);
    }

    /// The receipt comes when the system has taken the chunk; the chunks leave in the order in which they were sent.
    async fn wait_for_oldest(&mut self) -> io::Result<()> {
        let Some((receipt, len)) = self.receipts.front_mut() else { return Ok(()) };
        receipt.await.map_err(|_| io::Error::from(ErrorKind::ConnectionAborted))??;
        self.flow.sent.fetch_add(*len, Relaxed);
        self.flow.under_way.fetch_sub(1, Relaxed);
        self.receipts.pop_front();
        Ok(())
    }
}

impl Drop for Window<'_> {
    fn drop(&mut self) {
        self.flow.under_way.fetch_sub(self.receipts.len(), Relaxed);
    }
}

impl Pea2Pea for Sender {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl OnConnect for Sender {
    async fn on_connect(&self, addr: SocketAddr) {
        let Source { name, len, crc, .. } = &*self.source;
        // Fails if the receiver is gone already.
        _ = self.unicast_fast(addr, Wire::Offer { name: name.clone(), len: *len, crc: *crc });
    }
}

impl Reading for Sender {
    type Message = Wire;
    type Codec = WireCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        WireCodec::new(64)
    }

    async fn process_message(&self, source: SocketAddr, message: Wire) {
        match message {
            // A task of its own, so that what the receiver says meanwhile is read.
            Wire::Want { from } if from <= self.source.len && self.serving.lock().insert(source) => {
                say(format_args!("{source} asks for what lies behind {}", mib(from)));
                let sender = self.clone();
                tokio::spawn(async move {
                    if let Err(error) = sender.send_from(source, from).await {
                        say(format_args!("{source} does not get more: {error}"));
                    }
                    sender.serving.lock().remove(&source);
                });
            }
            Wire::Have { .. } => {}
            Wire::Done { right: true } => say(format_args!("{source} has the file, and it is the right one")),
            Wire::Done { right: false } => say(format_args!("{source} has another file, by its CRC-32")),
            _ => {
                self.node.disconnect(source).await;
            }
        }
    }
}

impl Writing for Sender {
    const MESSAGE_QUEUE_DEPTH: usize = WINDOW + 1;

    type Message = Wire;
    type Codec = WireCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        WireCodec::new(LONGEST_FRAME)
    }
}

/// Takes the file that the sender offers.
#[derive(Clone)]
struct Receiver {
    node: Node,
    dir: Arc<Path>,
    download: Arc<Mutex<Option<Download>>>,
    /// From this many bytes on, it stands still: the demonstration's brake.
    gate: Arc<watch::Sender<u64>>,
    outcomes: mpsc::UnboundedSender<Outcome>,
}

type Outcomes = mpsc::UnboundedReceiver<Outcome>;

enum Outcome {
    Complete(PathBuf),
    Failed(io::Error),
    Cut(String),
}

struct Download {
    file: File,
    part: PathBuf,
    path: PathBuf,
    len: u64,
    crc: u32,
    have: u64,
    progress: Progress,
}

impl Download {
    /// The part file holds the beginning of the file with this length and this CRC-32, and of no other.
    fn begin(dir: &Path, name: &str, len: u64, crc: u32) -> io::Result<Self> {
        let name = safe_name(name).ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "the file has no name"))?;
        let (path, part) = (dir.join(&name), dir.join(format!("{name}.{len}.{crc:08x}.part")));
        if path.try_exists()? {
            return Err(io::Error::new(ErrorKind::AlreadyExists, format!("{} is already there", path.display())));
        }
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(&part)?;
        let have = file.seek(SeekFrom::End(0))?;
        if have > len {
            return Err(io::Error::other(format!("{} is longer than the file", part.display())));
        }
        Ok(Self { file, part, path, len, crc, have, progress: Progress::new(have, len) })
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let end = offset.checked_add(data.len() as u64);
        if offset != self.have || end.is_none_or(|end| end > self.len) {
            return Err(io::Error::new(ErrorKind::InvalidData, "this is not the next piece of the file"));
        }
        self.file.write_all(data)?;
        self.have += data.len() as u64;
        self.progress.show(self.have);
        Ok(())
    }

    /// Looks at all of the file, also at what came before a cut.
    fn finish(&mut self) -> io::Result<()> {
        self.file.sync_all()?;
        self.file.rewind()?;
        if digest(&mut self.file)? != (self.len, self.crc) {
            // It cannot be told where it is wrong.
            fs::remove_file(&self.part)?;
            return Err(io::Error::new(ErrorKind::InvalidData, "the CRC-32 is another: the part file is removed"));
        }
        fs::rename(&self.part, &self.path)
    }
}

impl Receiver {
    async fn start(dir: &Path, gate: u64) -> io::Result<(Self, Outcomes)> {
        if !dir.is_dir() {
            return Err(io::Error::new(ErrorKind::NotADirectory, format!("{} is not a directory", dir.display())));
        }
        let (outcomes, receiver) = mpsc::unbounded_channel();
        let node = Node::new(Config { listener_addr: None, ..Default::default() });
        let gate = Arc::new(watch::Sender::new(gate));
        let this = Self { node, dir: dir.into(), download: Arc::default(), gate, outcomes };
        this.enable_reading().await;
        this.enable_writing().await;
        this.enable_on_disconnect().await;
        Ok((this, receiver))
    }

    /// How much of the file is on the disk.
    fn have(&self) -> u64 {
        self.download.lock().as_ref().map_or(0, |download| download.have)
    }

    fn take(&self, source: SocketAddr, message: Wire) -> io::Result<()> {
        let mut slot = self.download.lock();
        let reply = match message {
            Wire::Offer { name, len, crc } => {
                let have = slot.insert(Download::begin(&self.dir, &name, len, crc)?).have;
                Wire::Want { from: have }
            }
            Wire::Chunk { offset, data } => {
                let download = slot.as_mut().ok_or_else(|| io::Error::other("a piece of what?"))?;
                download.write(offset, &data)?;
                Wire::Have { bytes: download.have }
            }
            _ => return Err(io::Error::new(ErrorKind::InvalidData, "a sender does not say that")),
        };
        // `Have` only tells the sender that somebody is there: if there is no room for it, it need not be said.
        _ = self.unicast_fast(source, reply);
        if let Some(mut download) = slot.take_if(|download| download.have == download.len) {
            let finished = download.finish();
            self.unicast_fast(source, Wire::Done { right: finished.is_ok() })?;
            finished?;
            self.tell(Outcome::Complete(download.path));
        }
        Ok(())
    }

    fn tell(&self, outcome: Outcome) {
        // Fails when nobody wants to know any more.
        _ = self.outcomes.send(outcome);
    }
}

impl Pea2Pea for Receiver {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Reading for Receiver {
    /// Chunks that are read, but not on the disk yet; beyond them, the sender feels that the disk is slow.
    const MESSAGE_QUEUE_DEPTH: usize = 4;

    type Message = Wire;
    type Codec = WireCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        WireCodec::new(LONGEST_FRAME)
    }

    async fn process_message(&self, source: SocketAddr, message: Wire) {
        let have = self.have();
        // Fails if the gate is gone, which it is not.
        _ = self.gate.subscribe().wait_for(|limit| have < *limit).await;
        if let Err(error) = block_in_place(|| self.take(source, message)) {
            self.tell(Outcome::Failed(error));
            self.node.disconnect(source).await;
        }
    }
}

impl Writing for Receiver {
    type Message = Wire;
    type Codec = WireCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        WireCodec::new(64)
    }
}

impl OnDisconnect for Receiver {
    async fn on_disconnect(&self, addr: SocketAddr, _origin: DisconnectOrigin) {
        self.tell(Outcome::Cut(format!("the connection to {addr} has ended")));
    }
}

enum Wire {
    /// The sender's first words.
    Offer {
        name: String,
        len: u64,
        crc: u32,
    },
    /// The receiver's answer: where it stands.
    Want {
        from: u64,
    },
    Chunk {
        offset: u64,
        data: Bytes,
    },
    Have {
        bytes: u64,
    },
    Done {
        right: bool,
    },
}

/// Each message behind its length; the first byte tells its kind.
struct WireCodec(LengthDelimitedCodec);

impl WireCodec {
    fn new(longest: usize) -> Self {
        Self(LengthDelimitedCodec::builder().max_frame_length(longest).new_codec())
    }

    fn parse(mut frame: Bytes) -> Option<Wire> {
        Some(match frame.try_get_u8().ok()? {
            OFFER => {
                let (len, crc) = (frame.try_get_u64().ok()?, frame.try_get_u32().ok()?);
                Wire::Offer { name: String::from_utf8_lossy(&frame).into_owned(), len, crc }
            }
            WANT => Wire::Want { from: frame.try_get_u64().ok()? },
            CHUNK_OF_FILE => Wire::Chunk { offset: frame.try_get_u64().ok()?, data: frame },
            HAVE => Wire::Have { bytes: frame.try_get_u64().ok()? },
            DONE => Wire::Done { right: frame.try_get_u8().ok()? == 1 },
            _ => return None,
        })
    }
}

impl Decoder for WireCodec {
    type Item = Wire;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<Wire>> {
        let Some(frame) = self.0.decode(src)? else { return Ok(None) };
        let invalid = || io::Error::new(ErrorKind::InvalidData, "not a message of this protocol");
        Self::parse(frame.freeze()).ok_or_else(invalid).map(Some)
    }
}

impl Encoder<Wire> for WireCodec {
    type Error = io::Error;

    fn encode(&mut self, message: Wire, dst: &mut BytesMut) -> io::Result<()> {
        let mut frame = BytesMut::new();
        match message {
            Wire::Offer { name, len, crc } => {
                frame.put_u8(OFFER);
                frame.put_u64(len);
                frame.put_u32(crc);
                frame.put_slice(name.as_bytes());
            }
            Wire::Want { from } => {
                frame.put_u8(WANT);
                frame.put_u64(from);
            }
            Wire::Chunk { offset, data } => {
                frame.reserve(9 + data.len());
                frame.put_u8(CHUNK_OF_FILE);
                frame.put_u64(offset);
                frame.put_slice(&data);
            }
            Wire::Have { bytes } => {
                frame.put_u8(HAVE);
                frame.put_u64(bytes);
            }
            Wire::Done { right } => frame.put_slice(&[DONE, right.into()]),
        }
        self.0.encode(frame.freeze(), dst)
    }
}

/// The last part of a name that somebody else chose, with nothing in it that a path, a terminal or a system could take for
/// more than a name; `None` if nothing is left of it.
fn safe_name(name: &str) -> Option<String> {
    let last = name.rsplit(['/', '\\']).next()?;
    let plain = |c: char| if c.is_alphanumeric() || " ._-+()".contains(c) { c } else { '_' };
    let name: String = last.chars().map(plain).take(60).collect();
    let name = name.trim_matches(['.', ' ']);
    (!name.is_empty()).then(|| name.to_owned())
}

/// A bar in a terminal, and elsewhere a line for each quarter.
struct Progress {
    begun: Instant,
    from: u64,
    len: u64,
    shown: u64,
}

impl Progress {
    fn new(from: u64, len: u64) -> Self {
        Self { begun: Instant::now(), from, len, shown: from * 4 / len.max(1) }
    }

    fn show(&mut self, have: u64) {
        let steps = if common::is_colourful() { 200 } else { 4 };
        let step = have * steps / self.len.max(1);
        if step == self.shown {
            return;
        }
        self.shown = step;
        let percent = have * 100 / self.len.max(1);
        let speed = (have - self.from) as f64 / self.begun.elapsed().as_secs_f64() / f64::from(1 << 20);
        if common::is_colourful() {
            let done = "#".repeat(percent as usize / 2);
            print!("\r\x1b[K[{}] {percent}% {speed:.0} MiB/s ", Colour::Green.paint(format_args!("{done:.<50}")));
            // A bar that is not shown at once is shown with the next step.
            _ = io::stdout().flush();
        } else {
            println!("    {percent}%, {speed:.0} MiB/s");
        }
    }
}

/// A line of its own, also where a progress bar stands.
fn say(line: std::fmt::Arguments<'_>) {
    println!("{}{line}", if common::is_colourful() { "\r\x1b[K" } else { "" });
}

fn read_chunk(file: &mut File) -> io::Result<Bytes> {
    let mut chunk = Vec::with_capacity(CHUNK);
    file.take(CHUNK as u64).read_to_end(&mut chunk)?;
    Ok(chunk.into())
}

/// Length and CRC-32 of what is left of a file.
fn digest(file: &mut File) -> io::Result<(u64, u32)> {
    let (mut len, mut crc) = (0, 0);
    loop {
        let chunk = read_chunk(file)?;
        if chunk.is_empty() {
            return Ok((len, crc));
        }
        len += chunk.len() as u64;
        crc = crc32(crc, &chunk);
    }
}

/// The CRC-32 of gzip, PNG and Ethernet, of `data` behind what has the CRC-32 `before`.
fn crc32(before: u32, data: &[u8]) -> u32 {
    !data.iter().fold(!before, |crc, byte| (crc >> 8) ^ CRC_TABLE[usize::from(crc as u8 ^ byte)])
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        let mut crc = n as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { 0xEDB8_8320 ^ (crc >> 1) } else { crc >> 1 };
            bit += 1;
        }
        table[n] = crc;
        n += 1;
    }
    table
};

/// A file in which no two pieces are alike.
fn write_noise(path: &Path, len: u64) -> io::Result<()> {
    let mut file = io::BufWriter::new(File::create(path)?);
    let mut state = 1u64;
    for _ in 0..len / 8 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        file.write_all(&state.to_be_bytes())?;
    }
    file.flush()
}

fn same_bytes(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    loop {
        let (piece, other_piece) = (read_chunk(&mut one)?, read_chunk(&mut other)?);
        if piece != other_piece || piece.is_empty() {
            return Ok(piece == other_piece);
        }
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn parsed(addr: &str) -> io::Result<SocketAddr> {
    addr.parse()
        .map_err(|_| io::Error::new(ErrorKind::InvalidInput, format!("{addr} is not an address like 1.2.3.4:5")))
}

async fn next(outcomes: &mut Outcomes) -> io::Result<Outcome> {
    outcomes.recv().await.ok_or_else(|| io::Error::other("the receiver is gone"))
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(PATIENCE, work).await.map_err(|_| io::Error::new(ErrorKind::TimedOut, "nothing happens any more"))?
}

fn require(holds: bool, claim: &str) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::Error::other(format!("this does not hold: {claim}"))) }
}

const OFFER: u8 = 0;
const WANT: u8 = 1;
const CHUNK_OF_FILE: u8 = 2;
const HAVE: u8 = 3;
const DONE: u8 = 4;

const CHUNK: usize = 64 * 1024;
const LONGEST_FRAME: usize = 9 + CHUNK;
/// How many chunks wait for their receipts at a time.
const WINDOW: usize = 8;
const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
/// How long anything may take in the demonstration.
const PATIENCE: Duration = Duration::from_secs(20);
