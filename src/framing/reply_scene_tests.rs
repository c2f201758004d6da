//! An outbox whose writer is at rest, and a scripted stream for both it and the reader: for the tests of replies.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, ReadBuf},
    runtime::{Builder, Runtime},
};
use tokio_util::codec::{Decoder, Encoder};

use super::{
    ReadStream,
    read::{ReadEnd, ReadSettings, Reader},
    write::{Writer, Written},
    write_tests::{Message, PATIENT, Sent, Sink, TestEncoder},
};
use crate::outbox::{Outbox, Queued};

static SETTINGS: ReadSettings = ReadSettings { depth: 100, backpressure: true, buffer_size: 1_024, idle_timeout: None };

/// Tells how long it is kept.
struct Watched(#[expect(dead_code, reason = "counted")] Arc<()>);

impl Encoder<Message> for Watched {
    type Error = io::Error;

    fn encode(&mut self, message: Message, dst: &mut BytesMut) -> io::Result<()> {
        TestEncoder.encode(message, dst)
    }
}

/// A message is a byte.
pub(super) struct Bytewise;

impl Decoder for Bytewise {
    type Item = u8;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<u8>> {
        Ok(src.try_get_u8().ok())
    }
}

/// Brings so many messages, and then nothing more for now.
pub(super) struct Line {
    pub(super) incoming: usize,
    /// How many of them it brings at once.
    pub(super) at_once: usize,
    /// What has been written, by whomever.
    pub(super) taken: Arc<Mutex<Vec<u8>>>,
    /// How many bytes more it takes from the reader at once; none fails it.
    pub(super) room: Option<usize>,
    /// How often the reader has written.
    pub(super) writes: Arc<AtomicUsize>,
    /// Happens when it does.
    pub(super) meanwhile: fn(&Outbox<Message>),
    pub(super) outbox: Arc<Outbox<Message>>,
}

impl AsyncRead for Line {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.incoming == 0 {
            return Poll::Pending;
        }
        let count = self.at_once.min(self.incoming);
        self.incoming -= count;
        buf.put_slice(&vec![b'?'; count]);
        Poll::Ready(Ok(()))
    }
}

impl ReadStream for Line {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        (self.meanwhile)(&self.outbox);
        let room = self.room.ok_or(io::ErrorKind::ConnectionReset)?;
        if room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = bytes.len().min(room);
        self.taken.lock().unwrap().extend_from_slice(&bytes[..count]);
        Ok(count)
    }
}

#[derive(Default)]
pub(super) struct Bell(pub(super) AtomicBool);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// An outbox whose writer has parked, and a stream for both of them and the reader.
pub(super) struct Scene {
    pub(super) outbox: Arc<Outbox<Message>>,
    pub(super) writer: Pin<Box<dyn Future<Output = Written<Sink>>>>,
    pub(super) bell: Arc<Bell>,
    pub(super) sent: Sent,
    pub(super) taken: Arc<Mutex<Vec<u8>>>,
    pub(super) writes: Arc<AtomicUsize>,
    /// Two with the encoder's.
    pub(super) encoder: Arc<()>,
    /// Lends its timers.
    pub(super) runtime: Runtime,
}

impl Scene {
    /// The writer has written one byte.
    pub(super) fn new() -> Self {
        Self::with_sink(Sink::taking_all)
    }

    pub(super) fn with_sink(sink: impl FnOnce(&Arc<Mutex<Vec<u8>>>) -> Sink) -> Self {
        let (encoder, taken, sent) = (Arc::default(), Arc::default(), Sent::default());
        let outbox = Arc::new(Outbox::new(Watched(Arc::clone(&encoder)), &PATIENT));
        assert_eq!(outbox.push(text("!"), None), Ok(Queued::First));
        let writer = Box::pin(Writer::new(sink(&taken), Arc::clone(&outbox), sent.clone()).run());
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let (bell, writes) = (Arc::default(), Arc::default());
        let mut scene = Self { outbox, writer, bell, sent, taken, writes, encoder, runtime };
        scene.bell.0.store(true, Ordering::Relaxed);
        assert!(scene.poll_writer().is_none());
        assert_eq!(scene.written(), "!");
        scene
    }

    pub(super) fn line(&self, incoming: usize, room: Option<usize>) -> Line {
        let (taken, writes, outbox) = (Arc::clone(&self.taken), Arc::clone(&self.writes), Arc::clone(&self.outbox));
        Line { incoming, at_once: 1, taken, room, writes, meanwhile: |_| {}, outbox }
    }

    /// Reads and processes until there is nothing more to do.
    pub(super) fn read<F: Future<Output = ()>>(&self, line: Line, mut process: impl FnMut() -> F) -> Option<ReadEnd> {
        let mut reader = self.reader(line);
        let _context = self.runtime.enter();
        let mut run = std::pin::pin!(reader.run(|_| process()));
        match run.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => None,
            Poll::Ready(end) => Some(end),
        }
    }

    pub(super) fn reader(&self, line: Line) -> Reader<Line, Bytewise, Sent> {
        let reader = Reader::new(line, Bytewise, &SETTINGS, self.sent.clone());
        reader.with_outbox(Some(Arc::clone(&self.outbox) as _), true)
    }

    pub(super) fn poll_writer(&mut self) -> Option<Written<Sink>> {
        if !self.is_writer_woken() {
            return None;
        }
        self.bell.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&self.bell));
        let _context = self.runtime.enter();
        match self.writer.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Pending => None,
            Poll::Ready(written) => Some(written),
        }
    }

    pub(super) fn is_writer_woken(&self) -> bool {
        self.bell.0.load(Ordering::Relaxed)
    }

    pub(super) fn written(&self) -> String {
        String::from_utf8(self.taken.lock().unwrap().clone()).unwrap()
    }

    /// How often the reader has written.
    pub(super) fn writes(&self) -> usize {
        self.writes.load(Ordering::Relaxed)
    }

    /// Checks what has been written and counted; the byte of the beginning is left out.
    #[track_caller]
    pub(super) fn assert_sent(&self, messages: usize, bytes: &str) {
        assert_eq!(self.written(), format!("!{bytes}"));
        assert_eq!(self.sent.get(), (messages + 1, bytes.len() + 1));
    }
}

pub(super) fn text(text: &str) -> Message {
    Message::Bytes(text.into())
}

pub(super) const ALL: Option<usize> = Some(usize::MAX);
