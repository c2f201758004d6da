//! The made-up ends of a connection: messages with their encoder, and the stream that they go to.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::codec::Encoder;

use crate::sync::AtomicBool;

/// Odd, so that messages are torn.
const MOST_BYTES_AT_ONCE: usize = 3;

/// A point where another thread may go on.
pub(super) fn give_way() {
    AtomicBool::new(false).load(Ordering::SeqCst);
}

/// The sender and the number of a message.
pub(super) type Message = (u8, u8);

/// Two bytes a message. Counts what it encodes outside of a task, which is in the course of a send.
pub(super) struct PairEncoder {
    encoded_by_senders: Arc<AtomicUsize>,
}

impl PairEncoder {
    pub(super) fn new(encoded_by_senders: &Arc<AtomicUsize>) -> Self {
        Self { encoded_by_senders: Arc::clone(encoded_by_senders) }
    }
}

impl Encoder<Message> for PairEncoder {
    type Error = io::Error;

    fn encode(&mut self, (sender, number): Message, bytes: &mut BytesMut) -> io::Result<()> {
        give_way();
        // Senders are threads, which have names; tasks have none.
        let is_sender = shuttle::thread::current().name().is_some();
        self.encoded_by_senders.fetch_add(usize::from(is_sender), Ordering::Relaxed);
        bytes.put_slice(&[sender, number]);
        give_way();
        Ok(())
    }
}

/// What the peer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Mood {
    #[default]
    Reading,
    Stalling,
    Resetting,
}

#[derive(Debug, Default)]
struct Tape {
    mood: Mood,
    taken: Vec<u8>,
    /// Of the writer, while the peer stalls.
    waker: Option<Waker>,
    is_shut: bool,
    is_closed: bool,
}

/// The peer's view of a stream. Its lock is no point where another thread may go on.
#[derive(Debug, Clone, Default)]
pub(super) struct Peer(Arc<Mutex<Tape>>);

impl Peer {
    pub(super) fn new(mood: Mood) -> Self {
        let peer = Self::default();
        peer.tape().mood = mood;
        peer
    }

    fn tape(&self) -> MutexGuard<'_, Tape> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_mood(&self, mood: Mood) {
        give_way();
        let mut tape = self.tape();
        tape.mood = mood;
        if let Some(waker) = tape.waker.take() {
            waker.wake();
        }
    }

    /// What has arrived; the last message may be torn, and is left out.
    pub(super) fn messages(&self) -> Vec<Message> {
        self.tape().taken.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
    }

    pub(super) fn is_torn(&self) -> bool {
        self.tape().taken.len() % 2 == 1
    }

    /// Whether the writer waits for the peer.
    pub(super) fn keeps_waiting(&self) -> bool {
        self.tape().waker.is_some()
    }

    pub(super) fn is_shut(&self) -> bool {
        self.tape().is_shut
    }

    /// Whether the node has dropped the stream.
    pub(super) fn is_closed(&self) -> bool {
        self.tape().is_closed
    }

    pub(super) fn stream(&self) -> Wire {
        Wire(self.clone())
    }
}

/// The node's end of a stream.
pub(super) struct Wire(Peer);

impl Drop for Wire {
    fn drop(&mut self) {
        self.0.tape().is_closed = true;
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        give_way();
        let mut tape = self.0.tape();
        match tape.mood {
            Mood::Reading => {
                let count = buf.len().min(MOST_BYTES_AT_ONCE);
                tape.taken.extend_from_slice(&buf[..count]);
                Poll::Ready(Ok(count))
            }
            Mood::Stalling => {
                tape.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            Mood::Resetting => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        give_way();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        give_way();
        self.0.tape().is_shut = true;
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Wire {
    /// The peer sends nothing, and closes in return.
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.0.tape().is_shut { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}
