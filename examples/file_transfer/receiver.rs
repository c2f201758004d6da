//! Takes the file that a sender offers, into a part file, and goes on where that ends.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Seek, SeekFrom, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use pea2pea::{
    Config, ConnectionSide, DisconnectOrigin, Node, Pea2Pea,
    protocols::{OnDisconnect, Reading, Writing},
};
use tokio::{
    sync::{mpsc, watch},
    task::block_in_place,
};

use crate::{
    digest::digest,
    terminal::Progress,
    wire::{LONGEST_FRAME, Wire, WireCodec},
};

#[derive(Clone)]
pub(crate) struct Receiver {
    pub(crate) node: Node,
    dir: Arc<Path>,
    state: Arc<Mutex<State>>,
    /// From this many bytes on, it stands still: the demonstration's brake.
    pub(crate) gate: Arc<watch::Sender<u64>>,
    outcomes: mpsc::UnboundedSender<Outcome>,
}

pub(crate) type Outcomes = mpsc::UnboundedReceiver<Outcome>;

pub(crate) enum Outcome {
    Complete(PathBuf),
    Failed(io::Error),
    Cut(String),
}

/// How far it has come; connections come and go meanwhile.
#[derive(Default)]
enum State {
    /// Nothing was offered yet.
    #[default]
    Waiting,
    Taking(Download),
    /// All is here: the sender is told so until it says that it knows.
    Complete {
        path: PathBuf,
        len: u64,
        crc: u32,
    },
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
    pub(crate) async fn start(dir: &Path, gate: u64) -> io::Result<(Self, Outcomes)> {
        if !dir.is_dir() {
            return Err(io::Error::new(ErrorKind::NotADirectory, format!("{} is not a directory", dir.display())));
        }
        let (outcomes, receiver) = mpsc::unbounded_channel();
        let node = Node::new(Config { listener_addr: None, ..Default::default() });
        let gate = Arc::new(watch::Sender::new(gate));
        let this = Self { node, dir: dir.into(), state: Arc::default(), gate, outcomes };
        this.enable_reading().await;
        this.enable_writing().await;
        this.enable_on_disconnect().await;
        Ok((this, receiver))
    }

    /// How much of the file is on the disk.
    pub(crate) fn have(&self) -> u64 {
        match &*self.state.lock() {
            State::Waiting => 0,
            State::Taking(download) => download.have,
            State::Complete { len, .. } => *len,
        }
    }

    /// Where the file is, when all of it is.
    pub(crate) fn complete(&self) -> Option<PathBuf> {
        match &*self.state.lock() {
            State::Complete { path, .. } => Some(path.clone()),
            State::Waiting | State::Taking(_) => None,
        }
    }

    fn take(&self, source: SocketAddr, message: Wire) -> io::Result<()> {
        let mut state = self.state.lock();
        let reply = match (message, &mut *state) {
            // The connection before has ended without `Known`.
            (Wire::Offer { len, crc, .. }, State::Complete { len: own_len, crc: own_crc, .. })
                if (len, crc) == (*own_len, *own_crc) =>
            {
                Wire::Done { right: true }
            }
            // Whoever offers another file need not know about this one.
            (Wire::Known | Wire::Offer { .. }, State::Complete { path, .. }) => {
                self.tell(Outcome::Complete(path.clone()));
                return Ok(());
            }
            (Wire::Offer { name, len, crc }, State::Waiting | State::Taking(_)) => {
                let download = Download::begin(&self.dir, &name, len, crc)?;
                let reply = Wire::Want { from: download.have };
                *state = State::Taking(download);
                reply
            }
            (Wire::Chunk { offset, data }, State::Taking(download)) => {
                download.write(offset, &data)?;
                Wire::Have { bytes: download.have }
            }
            _ => return Err(io::Error::new(ErrorKind::InvalidData, "a sender does not say that now")),
        };
        // Fails when the connection ends, and then all goes on over another one. `Have` may find no room, and need not be said.
        _ = self.unicast_fast(source, reply);
        if let State::Taking(download) = &mut *state
            && download.have == download.len
        {
            if let Err(error) = download.finish() {
                _ = self.unicast_fast(source, Wire::Done { right: false });
                return Err(error);
            }
            *state = State::Complete { path: download.path.clone(), len: download.len, crc: download.crc };
            self.unicast_fast(source, Wire::Done { right: true })?;
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
            // When all is here already, only the sender does not know, and is told over another connection.
            if self.complete().is_none() {
                self.tell(Outcome::Failed(error));
            }
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

/// The last part of a name that somebody else chose, with nothing in it that a path, a terminal or a system could take for
/// more than a name; `None` if nothing is left of it.
pub(crate) fn safe_name(name: &str) -> Option<String> {
    let last = name.rsplit(['/', '\\']).next()?;
    let plain = |c: char| if c.is_alphanumeric() || " ._-+()".contains(c) { c } else { '_' };
    let name: String = last.chars().map(plain).take(60).collect();
    let name = name.trim_matches(['.', ' ']);
    (!name.is_empty()).then(|| name.to_owned())
}

pub(crate) async fn next(outcomes: &mut Outcomes) -> io::Result<Outcome> {
    outcomes.recv().await.ok_or_else(|| io::Error::other("the receiver is gone"))
}
