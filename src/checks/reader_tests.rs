//! The read loop under any chunking and any decoder, on scripted streams.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use futures_util::StreamExt;
use proptest::prelude::*;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::codec::{Decoder, FramedRead};

use super::reader::{ReadEnd, ReadSettings, Reader};
use crate::counting::Observer;

const SETTINGS: ReadSettings =
    ReadSettings { depth: 4, backpressure: true, buffer_size: 64 * 1024, idle_timeout: None };

/// What a scripted stream does at one read.
#[derive(Debug, Clone)]
enum Step {
    Bytes(Vec<u8>),
    Pending,
    Reset,
}

/// Ends after its last step.
struct Script(VecDeque<Step>);

impl AsyncRead for Script {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.0.pop_front() {
            Some(Step::Bytes(mut bytes)) => {
                let fits = bytes.len().min(buf.remaining());
                buf.put_slice(&bytes[..fits]);
                if fits < bytes.len() {
                    self.0.push_front(Step::Bytes(bytes.split_off(fits)));
                }
            }
            Some(Step::Pending) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(Step::Reset) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            None => {}
        }
        Poll::Ready(Ok(()))
    }
}

/// One call of a decoder: at the end of the stream or not, what it was shown, what it yielded.
type Call = (bool, Vec<u8>, Result<Option<Vec<u8>>, io::ErrorKind>);

/// Frames of a length byte and as many bytes; length 255 is an error. Records its calls.
#[derive(Clone, Default)]
struct Recorder {
    calls: Rc<RefCell<Vec<Call>>>,
    /// Takes the whole buffer away and puts a copy in its place.
    replaces_buffer: bool,
    /// Consumes the length byte before the frame is complete.
    eager: bool,
    /// The length consumed already.
    pending_length: Option<usize>,
}

impl Recorder {
    fn step(&mut self, src: &mut BytesMut) -> io::Result<Option<Vec<u8>>> {
        if self.replaces_buffer {
            *src = BytesMut::from(&src.split()[..]);
        }
        let length = match self.pending_length {
            Some(length) => length,
            None if src.is_empty() => return Ok(None),
            None if src[0] == 255 => return Err(io::ErrorKind::InvalidData.into()),
            None => {
                let length = usize::from(src[0]);
                if !self.eager && src.len() <= length {
                    return Ok(None);
                }
                drop(src.split_to(1));
                length
            }
        };
        if src.len() < length {
            self.pending_length = Some(length);
            return Ok(None);
        }
        self.pending_length = None;
        Ok(Some(src.split_to(length).to_vec()))
    }

    fn record(
        &mut self,
        eof: bool,
        src: &mut BytesMut,
        step: impl FnOnce(&mut Self, &mut BytesMut) -> io::Result<Option<Vec<u8>>>,
    ) -> io::Result<Option<Vec<u8>>> {
        let shown = src.to_vec();
        let result = step(self, src);
        let noted = result.as_ref().map(Clone::clone).map_err(io::Error::kind);
        self.calls.borrow_mut().push((eof, shown, noted));
        result
    }
}

impl Decoder for Recorder {
    type Item = Vec<u8>;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<Vec<u8>>> {
        self.record(false, src, Self::step)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> io::Result<Option<Vec<u8>>> {
        self.record(true, src, |decoder, src| match decoder.step(src)? {
            Some(frame) => Ok(Some(frame)),
            None if src.is_empty() && decoder.pending_length.is_none() => Ok(None),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        })
    }
}

/// Checks that a message is counted before it is processed.
#[derive(Clone, Default)]
struct Counts(std::sync::Arc<std::sync::Mutex<(usize, usize, usize)>>);

impl Observer for Counts {
    fn has_ended(&self) -> bool {
        false
    }

    fn received(&self, messages: usize, bytes: usize) {
        let mut counts = self.0.lock().unwrap();
        counts.0 += messages;
        counts.1 += bytes;
    }

    fn dropped(&self, messages: usize) {
        self.0.lock().unwrap().2 += messages;
    }

    fn unprocessed(&self, _: usize) {}

    fn sent(&self, _: usize, _: usize) {}

    fn unsent(&self, _: usize, _: usize) {}
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(future)
}

/// Runs the loop over a script; `pauses` tells for each message how often its processing is pending.
fn read_all(
    script: Vec<Step>,
    decoder: impl Decoder<Item = Vec<u8>, Error = io::Error>,
    settings: &'static ReadSettings,
    pauses: &[u8],
) -> (Vec<Vec<u8>>, ReadEnd, (usize, usize, usize)) {
    let counts = Counts::default();
    let processed = RefCell::new(Vec::new());
    let mut reader = Reader::new(Script(script.into()), decoder, settings, counts.clone());
    let process = |message| {
        let number = processed.borrow().len();
        processed.borrow_mut().push(message);
        assert!(counts.0.lock().unwrap().0 > number, "counted before it is processed");
        let pauses = pauses.get(number).copied().unwrap_or(0);
        async move {
            for _ in 0..pauses {
                tokio::task::yield_now().await;
            }
        }
    };
    let end = run(reader.run(process));
    let counts = *counts.0.lock().unwrap();
    (processed.into_inner(), end, counts)
}

/// What `FramedRead` makes of the same script.
fn framed(script: Vec<Step>, decoder: Recorder) -> (Vec<Vec<u8>>, Option<io::ErrorKind>) {
    run(async {
        let mut framed = FramedRead::with_capacity(Script(script.into()), decoder, 64 * 1024);
        let mut frames = Vec::new();
        while let Some(next) = framed.next().await {
            match next {
                Ok(frame) => frames.push(frame),
                Err(error) => return (frames, Some(error.kind())),
            }
        }
        (frames, None)
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let bytes = prop_oneof![
        // Short frames, cut anywhere.
        5 => prop::collection::vec(0_u8..6, 1..40),
        1 => prop::collection::vec(any::<u8>(), 1..300),
    ];
    let step = prop_oneof![8 => bytes.prop_map(Step::Bytes), 2 => Just(Step::Pending), 1 => Just(Step::Reset)];
    prop::collection::vec(step, 0..30)
}

proptest! {
    #[test]
    fn the_decoder_sees_what_it_sees_under_framed_read(
        script in steps(),
        replaces_buffer: bool,
        eager: bool,
        pauses in prop::collection::vec(0_u8..3, 0..20),
    ) {
        let ours = Recorder { replaces_buffer, eager, ..Recorder::default() };
        let theirs = Recorder { replaces_buffer, eager, ..Recorder::default() };
        let (our_calls, their_calls) = (Rc::clone(&ours.calls), Rc::clone(&theirs.calls));
        let (expected, error) = framed(script.clone(), theirs);
        let (processed, end, (messages, _, dropped)) = read_all(script, ours, &SETTINGS, &pauses);
        match (&end, error) {
            (ReadEnd::Eof, None) => {}
            (ReadEnd::Io(error) | ReadEnd::Truncated(error) | ReadEnd::Decoding(error), Some(kind)) => prop_assert_eq!(error.kind(), kind),
            other => prop_assert!(false, "{:?}", other),
        }
        // How much is read at once depends on the capacity of the buffer that a decoder puts in place.
        if !replaces_buffer {
            prop_assert_eq!(&*our_calls.borrow(), &*their_calls.borrow());
        }
        prop_assert_eq!((messages, dropped), (expected.len(), 0));
        // An error may cut short what is queued behind a pending process; a clean end may not.
        if error.is_none() || pauses.iter().all(|&pause| pause == 0) {
            prop_assert_eq!(processed, expected);
        } else {
            prop_assert_eq!(&processed[..], &expected[..processed.len()]);
        }
    }

    #[test]
    fn wire_bytes_are_those_of_complete_messages(lengths in prop::collection::vec(0_u8..100, 0..50), eager: bool, cut in 1_usize..70) {
        let wire: Vec<u8> = lengths.iter().flat_map(|&length| std::iter::once(length).chain((0..length).map(|_| 7))).collect();
        let script = wire.chunks(cut).map(|chunk| Step::Bytes(chunk.to_vec())).collect();
        let (processed, _, counts) = read_all(script, Recorder { eager, ..Recorder::default() }, &SETTINGS, &[]);
        prop_assert_eq!(processed.len(), lengths.len());
        prop_assert_eq!(counts, (lengths.len(), wire.len(), 0));
    }
}

/// Yields a message at each call, `count` times, without consuming anything but what it is told to.
struct Stalling {
    count: usize,
    consumes: usize,
}

impl Decoder for Stalling {
    type Item = Vec<u8>;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<Vec<u8>>> {
        if self.count == 0 {
            src.clear();
            return Ok(None);
        }
        self.count -= 1;
        drop(src.split_to(self.consumes.min(src.len())));
        Ok(Some(Vec::new()))
    }
}

#[test]
fn ten_thousand_messages_without_progress_are_allowed_and_one_more_is_not() {
    let script = || vec![Step::Bytes(vec![0; 3])];
    let (processed, end, _) = read_all(script(), Stalling { count: 10_000, consumes: 0 }, &SETTINGS, &[]);
    assert_eq!(processed.len(), 10_000);
    assert!(matches!(end, ReadEnd::Eof), "{end:?}");
    let (processed, end, _) = read_all(script(), Stalling { count: 10_001, consumes: 0 }, &SETTINGS, &[]);
    assert_eq!(processed.len(), 10_001);
    assert!(matches!(end, ReadEnd::Decoding(error) if error.kind() == io::ErrorKind::InvalidData));
}

#[test]
fn without_backpressure_what_does_not_fit_is_dropped_and_counted() {
    static DROPPING: ReadSettings =
        ReadSettings { depth: 3, backpressure: false, buffer_size: 64 * 1024, idle_timeout: None };
    let script = vec![Step::Bytes([1, 9].repeat(20))];
    let (processed, _, counts) = read_all(script, Recorder::default(), &DROPPING, &[]);
    assert_eq!(processed.len(), 3);
    assert_eq!(counts, (20, 40, 17));
}

#[test]
fn a_message_larger_than_the_buffer_arrives_whole_after_small_ones() {
    for buffer_size in [1, 16, 4_096, 64 * 1024] {
        let settings = Box::leak(Box::new(ReadSettings { buffer_size, ..SETTINGS }));
        let frames: Vec<Vec<u8>> = (0..40_usize).map(|i| vec![i as u8; (i * 7) % 250]).collect();
        let wire: Vec<u8> =
            frames.iter().flat_map(|frame| std::iter::once(frame.len() as u8).chain(frame.iter().copied())).collect();
        let (processed, end, _) = read_all(vec![Step::Bytes(wire)], Recorder::default(), settings, &[]);
        assert_eq!(processed, frames, "with a buffer of {buffer_size}");
        assert!(matches!(end, ReadEnd::Eof));
    }
}

#[test]
fn the_idle_time_runs_from_the_first_turn_even_one_without_budget() {
    static IDLE: ReadSettings = ReadSettings { idle_timeout: Some(Duration::from_secs(60)), ..SETTINGS };
    /// Never has anything, and asks for no budget.
    struct Silent;
    impl AsyncRead for Silent {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut reader = Reader::new(Silent, Recorder::default(), &IDLE, Counts::default());
        let mut idle = std::pin::pin!(reader.run(async |_| {}));
        while tokio::task::coop::has_budget_remaining() {
            tokio::task::coop::consume_budget().await;
        }
        let end = tokio::time::timeout(Duration::from_secs(600), &mut idle).await;
        assert!(matches!(end, Ok(ReadEnd::Idle)), "{end:?}");
    });
}

#[test]
fn bytes_that_a_held_up_thread_has_not_seen_yet_arrive_before_the_idle_timeout_ends_the_connection() {
    static IDLE: ReadSettings = ReadSettings { idle_timeout: Some(Duration::from_secs(60)), ..SETTINGS };
    /// Has bytes when the runtime has looked once more after the time was up.
    struct Unseen {
        deadline: tokio::time::Instant,
        asked_after: u32,
    }
    impl AsyncRead for Unseen {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            if tokio::time::Instant::now() < self.deadline {
                return Poll::Pending;
            }
            self.asked_after += 1;
            if self.asked_after != 2 {
                return Poll::Pending;
            }
            buf.put_slice(&[1, b'x']);
            Poll::Ready(Ok(()))
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let begun = tokio::time::Instant::now();
        let stream = Unseen { deadline: begun + Duration::from_secs(60), asked_after: 0 };
        let counts = Counts::default();
        let mut reader = Reader::new(stream, Recorder::default(), &IDLE, counts.clone());
        let end = tokio::time::timeout(Duration::from_secs(600), reader.run(async |_| {})).await;
        assert!(matches!(end, Ok(ReadEnd::Idle)), "{end:?}");
        assert!(begun.elapsed() >= Duration::from_secs(120), "the message began the time anew: {:?}", begun.elapsed());
    });
}

proptest! {
    #[test]
    fn whatever_stream_decoder_and_process_do_each_message_is_whole_in_order_and_counted(
        decisions in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        run(crate::fuzzing::check_read_loop(&decisions));
    }
}
