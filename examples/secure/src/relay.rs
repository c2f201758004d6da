//! Somebody in the middle: hands on what two ends say to each other, writes it down, and meddles when told to.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// A relay to one address.
pub struct Relay {
    /// Where to dial instead.
    pub addr: SocketAddr,
    middle: Arc<Middle>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Middle {
    recording: Mutex<Vec<u8>>,
    flips: AtomicBool,
    /// Changes when the streams are to be cut.
    cuts: watch::Sender<()>,
}

impl Relay {
    pub async fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let addr = listener.local_addr()?;
        let middle = Arc::<Middle>::default();
        let shared = Arc::clone(&middle);
        let accepting = tokio::spawn(async move {
            while let Ok((dialler, _)) = listener.accept().await {
                let Ok(target) = TcpStream::connect(target).await else { continue };
                relay(dialler, target, Arc::clone(&shared));
            }
        });
        Ok(Self { addr, middle, accepting })
    }

    /// Everything that has passed so far, in both directions.
    pub fn recording(&self) -> Vec<u8> {
        self.middle.recording.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Flips a bit of what passes next.
    pub fn flip_a_bit(&self) {
        self.middle.flips.store(true, Relaxed);
    }

    /// Ends the stream in both directions, as politely as the two ends themselves would.
    pub fn cut(&self) {
        self.middle.cuts.send_replace(());
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

fn relay(dialler: TcpStream, target: TcpStream, middle: Arc<Middle>) {
    let (from_dialler, to_dialler) = dialler.into_split();
    let (from_target, to_target) = target.into_split();
    for (from, to) in [(from_dialler, to_target), (from_target, to_dialler)] {
        let middle = Arc::clone(&middle);
        let mut cuts = middle.cuts.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                _ = cuts.changed() => {}
                () = pump(from, to, &middle) => {}
            }
        });
    }
}

/// Goes on until one of the ends does not.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, middle: &Middle) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let piece = &mut buffer[..count];
        if middle.flips.swap(false, Relaxed) {
            piece[count / 2] ^= 1;
        }
        middle.recording.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(piece);
        if to.write_all(piece).await.is_err() {
            return;
        }
    }
    // Dropping the half says that nothing more will come.
}
