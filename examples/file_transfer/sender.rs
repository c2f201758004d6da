//! Offers one file to everybody who connects, and sends what is asked for, a few chunks at a time.

use std::{
    collections::{HashSet, VecDeque},
    fs::File,
    io::{self, ErrorKind, Seek, SeekFrom},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use pea2pea::{
    Config, ConnectionSide, Node, Pea2Pea,
    protocols::{OnConnect, Reading, Writing},
};
use tokio::{sync::oneshot, task::block_in_place};

use crate::{
    digest::{digest, read_chunk},
    terminal::{mib, say},
    wire::{LONGEST_FRAME, Wire, WireCodec},
};

/// Offers one file to everybody who connects.
#[derive(Clone)]
pub(crate) struct Sender {
    pub(crate) node: Node,
    pub(crate) source: Arc<Source>,
    pub(crate) flow: Arc<Flow>,
    pub(crate) serving: Arc<Mutex<HashSet<SocketAddr>>>,
}

pub(crate) struct Source {
    path: PathBuf,
    pub(crate) name: String,
    pub(crate) len: u64,
    pub(crate) crc: u32,
}

/// What the sender has under way, and has handed to the system.
#[derive(Default)]
pub(crate) struct Flow {
    pub(crate) under_way: AtomicUsize,
    pub(crate) most: AtomicUsize,
    pub(crate) sent: AtomicU64,
}

impl Sender {
    pub(crate) async fn start(path: &Path, name: Option<&str>, listener_addr: SocketAddr) -> io::Result<Self> {
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

    pub(crate) async fn listen(&self) -> io::Result<SocketAddr> {
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
            Wire::Done { right: true } => {
                say(format_args!("{source} has the file, and it is the right one"));
                // Fails if the receiver is gone: then it asks again.
                _ = self.unicast_fast(source, Wire::Known);
            }
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

/// How many chunks wait for their receipts at a time.
pub(crate) const WINDOW: usize = 8;
