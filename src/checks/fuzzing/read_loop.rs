//! The read loop under any chunking, any decoder, and any behaviour of what processes the messages.

use std::{
    future::{Future, poll_fn},
    io,
    panic::resume_unwind,
    pin::{Pin, pin},
    sync::{Arc, LazyLock},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, ReadBuf},
    task::coop,
    time::{Instant, Sleep, sleep},
};

use super::{
    bell::Bell,
    input::Input,
    scripted_decoder::{Counts, Ledger, Message, ScriptedDecoder, Shared},
};
use crate::inbound::reader::{DRAIN_TIME, ReadEnd, ReadSettings, Reader};

/// Longer than everything that a script waits for; nobody waits for it, as the clock is a paused one.
const FOREVER: Duration = Duration::from_secs(24 * 3_600);

const DEPTHS: [usize; 5] = [1, 2, 3, 8, 64];
const BUFFER_SIZES: [usize; 6] = [64 * 1024, 1, 16, 1_000, 8 * 1024, 300_000];
const IDLE_TIMEOUTS: [Option<u64>; 4] = [None, Some(1), Some(1_000), Some(60_000)];

/// Every combination of settings; the loops want them for ever.
static SETTINGS: LazyLock<Vec<ReadSettings>> = LazyLock::new(|| {
    let mut all = Vec::new();
    for buffer_size in BUFFER_SIZES {
        for depth in DEPTHS {
            for idle_timeout in IDLE_TIMEOUTS.map(|timeout| timeout.map(Duration::from_millis)) {
                let with = |backpressure| ReadSettings { depth, backpressure, buffer_size, idle_timeout };
                all.extend([true, false].map(with));
            }
        }
    }
    all
});

/// What a stream does when it is read.
#[derive(Debug)]
enum Step {
    Bytes(Vec<u8>),
    /// Is ready in the next turn.
    Pending,
    /// Is ready after so many milliseconds.
    Wait(u64),
    Fail(io::ErrorKind),
    Eof,
    /// Has nothing more, for ever.
    Silence,
    /// Somebody ends the connection.
    End,
}

impl Step {
    fn choose(input: &mut Input<'_>) -> Self {
        match input.below(16) {
            0..6 => {
                let count = 1 + input.below(24);
                Self::Bytes(input.bytes(count).to_vec())
            }
            6 | 7 => {
                let (count, size) = (input.below(64), input.below(40));
                let frame = [&[0, size as u8][..], &vec![7; size]].concat();
                Self::Bytes(frame.repeat(count))
            }
            8 => Self::Bytes(vec![input.byte(); 64 * input.below(256)]),
            9 => {
                let size = input.byte();
                let present = (64 * usize::from(size)).saturating_sub(input.below(2));
                Self::Bytes([&[16, size][..], &vec![size; present]].concat())
            }
            10 => Self::Bytes(vec![input.byte()]),
            11 | 12 => Self::Pending,
            13 | 14 => Self::Wait(input.pick(&[1, 0, 500, 999, 1_000, 2_999, 59_999, 61_000])),
            _ => match input.below(16) {
                0 => Self::Fail(io::ErrorKind::ConnectionReset),
                1 => Self::Silence,
                2 => Self::Eof,
                3 => Self::End,
                _ => Self::Pending,
            },
        }
    }
}

/// A stream that does what its steps say.
struct Source {
    ledger: Shared,
    /// The last one first.
    steps: Vec<Step>,
    /// Whether it asks for the task's cooperation budget, as a socket does.
    uses_budget: bool,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for Source {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let shared = Arc::clone(&self.ledger);
        let mut ledger = shared.lock();
        assert!(!ledger.is_over && ledger.eof_at.is_none(), "a read after the end");
        assert!(!ledger.is_decodable, "a read before the decoder wants more");
        assert!(!ledger.settings.backpressure || !ledger.is_full(), "a read while the queue is full");
        assert!(buf.remaining() > 0, "a read of nothing would look like the end");
        ledger.check_capacity(buf.remaining());
        if self.uses_budget {
            ready!(coop::poll_proceed(cx)).made_progress();
        }
        if let Some(waiting) = &mut self.waiting {
            ready!(pin!(coop::unconstrained(waiting.as_mut())).poll(cx));
            self.waiting = None;
        }
        loop {
            ledger.events += 1;
            match self.steps.pop() {
                Some(Step::Bytes(bytes)) if bytes.is_empty() => continue,
                Some(Step::Bytes(mut bytes)) => {
                    let rest = bytes.split_off(bytes.len().min(buf.remaining()));
                    if !rest.is_empty() {
                        self.steps.push(Step::Bytes(rest));
                    }
                    buf.put_slice(&bytes);
                    ledger.fresh.extend_from_slice(&bytes);
                    ledger.stalls = 0;
                }
                Some(Step::Pending) => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Some(Step::Wait(millis)) => {
                    let mut waiting = Box::pin(sleep(Duration::from_millis(millis)));
                    if pin!(coop::unconstrained(waiting.as_mut())).poll(cx).is_pending() {
                        self.waiting = Some(waiting);
                        return Poll::Pending;
                    }
                    continue;
                }
                Some(Step::Fail(kind)) => {
                    ledger.failure = Some(kind);
                    ledger.failed_at = Some(Instant::now());
                    ledger.is_over = true;
                    return Poll::Ready(Err(kind.into()));
                }
                Some(Step::End) => {
                    ledger.has_ended = true;
                    continue;
                }
                Some(Step::Silence) => {
                    ledger.events -= 1;
                    self.steps.push(Step::Silence);
                    return Poll::Pending;
                }
                Some(Step::Eof) | None => ledger.eof_at = Some(Instant::now()),
            }
            ledger.is_decodable = true;
            // Of what arrives after the end of the connection nothing may be used.
            ledger.is_over |= ledger.has_ended;
            return Poll::Ready(Ok(()));
        }
    }
}

/// What the processing of a message does.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Plan {
    /// Is pending so often, each time ready in the next turn.
    Yields(usize),
    Sleeps(u64),
    Forever,
    PanicsWhenCalled,
    PanicsWhenPolled,
    /// Panics when its future is dropped, ready or not.
    PanicsWhenDropped {
        is_ready: bool,
    },
    /// Ends the connection.
    Ends,
}

impl Plan {
    fn choose(input: &mut Input<'_>) -> Self {
        match input.below(16) {
            0..4 => Self::Yields(0),
            4..8 => Self::Yields(input.below(16)),
            8..11 => Self::Sleeps(input.pick(&[1, 500, 2_999, 3_001, 60_000])),
            11 => Self::Forever,
            12 => match input.below(8) {
                0 => Self::PanicsWhenCalled,
                1 => Self::PanicsWhenPolled,
                2 => Self::PanicsWhenDropped { is_ready: true },
                3 => Self::PanicsWhenDropped { is_ready: false },
                4 => Self::Ends,
                more => Self::Yields(more),
            },
            _ => Self::Yields(0),
        }
    }
}

/// The future that processes a message.
struct Processing {
    ledger: Shared,
    plan: Plan,
    sleep: Option<Pin<Box<Sleep>>>,
    is_done: bool,
}

impl Future for Processing {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        assert!(!self.is_done, "polled after its end");
        match self.plan {
            Plan::Yields(0) | Plan::PanicsWhenDropped { is_ready: true } => {}
            Plan::Yields(count) => {
                self.plan = Plan::Yields(count - 1);
                self.ledger.lock().events += 1;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Plan::Sleeps(millis) => {
                let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep(Duration::from_millis(millis))));
                ready!(sleep.as_mut().poll(cx));
            }
            Plan::Forever | Plan::PanicsWhenDropped { is_ready: false } => return Poll::Pending,
            Plan::PanicsWhenPolled => self.panic(),
            Plan::Ends => self.ledger.lock().has_ended = true,
            Plan::PanicsWhenCalled => unreachable!("it has panicked"),
        }
        self.is_done = true;
        self.ledger.lock().is_processing = false;
        Poll::Ready(())
    }
}

impl Processing {
    fn panic(&self) -> ! {
        self.ledger.lock().has_process_panicked = true;
        resume_unwind(Box::new("a scripted process panics"));
    }
}

impl Drop for Processing {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        match self.plan {
            Plan::PanicsWhenDropped { is_ready: true } if self.is_done => self.panic(),
            // Whoever drops it before its end has a reason already.
            Plan::PanicsWhenDropped { .. } => resume_unwind(Box::new("a scripted process panics when it is dropped")),
            _ => {}
        }
    }
}

/// Begins to process a message, as its plan says.
fn process(ledger: &Shared, plan: Plan, mut message: Message, kept: &mut Vec<Message>) -> Processing {
    message.is_processed = true;
    let mut entry = ledger.lock();
    assert!(!std::mem::replace(&mut entry.is_processing, true), "two messages are processed at once");
    assert!(entry.counted.0 > message.number, "a message is counted before it is processed");
    let is_next = if entry.settings.backpressure {
        entry.started == message.number
    } else {
        kept.last().is_none_or(|last| last.number < message.number)
    };
    assert!(is_next, "message {} is processed out of its order", message.number);
    assert!(entry.bodies[message.number] == message.body, "a message is what it was when it was decoded");
    entry.started += 1;
    entry.events += 2;
    drop(entry);
    kept.push(message);
    let processing = Processing { ledger: Arc::clone(ledger), plan, sleep: None, is_done: false };
    if plan == Plan::PanicsWhenCalled {
        processing.panic();
    }
    processing
}

/// Does what the bytes say; wants a runtime of one thread whose clock is paused.
///
/// # Panics
/// If the read loop breaks one of its promises.
pub async fn check_read_loop(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let settings = &SETTINGS[input.below(SETTINGS.len())];
    let ledger = Arc::new(Mutex::new(Ledger::new(settings)));
    let flags = input.byte();
    let decoder = ScriptedDecoder::new(Arc::clone(&ledger), &mut input);
    let plans = input.below(24);
    let mut plans: Vec<_> = std::iter::repeat_with(|| Plan::choose(&mut input)).take(plans).collect();
    // Turns before which the whole process is held up, and for how long.
    let delays: Vec<_> = (0..flags >> 6).map(|_| (input.below(64), input.pick(&[1, 900, 1_500, 70_000]))).collect();
    let mut steps = Vec::new();
    while !input.is_empty() {
        steps.push(Step::choose(&mut input));
    }
    steps.push(if flags & 2 != 0 { Step::Silence } else { Step::Eof });
    steps.reverse();
    let source = Source { ledger: Arc::clone(&ledger), steps, uses_budget: flags & 1 != 0, waiting: None };

    let mut kept = Vec::new();
    let mut reader = Reader::new(source, decoder, settings, Counts(Arc::clone(&ledger)));
    let run = reader.run(|message| process(&ledger, plans.pop().unwrap_or(Plan::Yields(0)), message, &mut kept));
    let end = drive(run, &ledger, &delays).await;
    let entry = ledger.lock();
    match end {
        Some(end) => check_end(&end, &entry),
        None => check_wait(&entry),
    }
    entry.check_counts();
    drop(entry);

    let queued = ledger.lock().queued();
    drop(reader);
    let entry = ledger.lock();
    assert_eq!(entry.unprocessed, queued, "what was given up is counted");
    assert_eq!((entry.started, entry.queued()), (kept.len(), 0), "each message was processed or dropped, once");
    for message in &kept {
        assert!(entry.bodies[message.number] == message.body, "a message that is kept stays what it was");
    }
    drop(entry);
    drop(kept);
    assert_eq!(Arc::strong_count(&ledger), 1, "something of the reader is left");
}

/// Polls the loop whenever it has been woken; `None` if it waits for ever.
async fn drive(run: impl Future<Output = ReadEnd>, ledger: &Shared, delays: &[(usize, u64)]) -> Option<ReadEnd> {
    let bell = Arc::<Bell>::default();
    let waker = Waker::from(Arc::clone(&bell));
    let (mut run, mut limit) = (pin!(run), pin!(sleep(FOREVER)));
    let mut turns = 0;
    bell.ring();
    loop {
        for (_, millis) in delays.iter().filter(|(turn, _)| *turn == turns) {
            sleep(Duration::from_millis(*millis)).await;
        }
        let woken = poll_fn(|cx| {
            bell.listen(cx.waker());
            if bell.has_rung() { Poll::Ready(true) } else { limit.as_mut().poll(cx).map(|()| false) }
        });
        if !woken.await {
            return None;
        }
        bell.take();
        turns += 1;
        let bound = 64 + 4 * ledger.lock().events;
        assert!(turns <= bound, "{turns} turns with reasons for {bound}");
        if let Poll::Ready(end) = run.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(end);
        }
        // The next turn has a budget of its own.
        tokio::task::yield_now().await;
    }
}

fn check_end(end: &ReadEnd, ledger: &Ledger) {
    let mut may_leave_messages = ledger.has_ended || ledger.is_processing;
    match end {
        ReadEnd::Eof => {
            let drained = ledger.eof_at.map(|since| since.elapsed());
            may_leave_messages = drained >= Some(DRAIN_TIME) && ledger.is_processing;
            assert!(ledger.eof_at.is_some() && (ledger.is_exhausted || may_leave_messages), "after {drained:?}");
        }
        ReadEnd::Io(error) | ReadEnd::Truncated(error) | ReadEnd::Decoding(error) => {
            assert_eq!(Some(error.kind()), ledger.failure);
            assert!(!matches!(end, ReadEnd::Truncated(_)) || ledger.eof_at.is_some(), "{end:?}");
            assert!(!matches!(end, ReadEnd::Io(_)) || ledger.failed_at.is_some(), "{end:?}");
            if !matches!(end, ReadEnd::Decoding(_)) {
                let drained = ledger.eof_at.or(ledger.failed_at).map(|since| since.elapsed());
                may_leave_messages = drained >= Some(DRAIN_TIME) && ledger.is_processing;
            }
        }
        ReadEnd::Idle => {
            let waited = ledger.complete_at.elapsed();
            assert!(ledger.settings.idle_timeout.is_some_and(|timeout| timeout <= waited), "after {waited:?}");
        }
        ReadEnd::DecoderPanicked(panicked) => assert!(ledger.has_decoder_panicked, "{panicked:?}"),
        ReadEnd::ProcessPanicked(panicked) => {
            assert!(ledger.has_process_panicked, "{panicked:?}");
            may_leave_messages = true;
        }
        ReadEnd::Stopped => assert!(ledger.has_ended),
    }
    if !ledger.has_ended {
        assert_eq!(matches!(end, ReadEnd::ProcessPanicked(_)), ledger.has_process_panicked, "{end:?}");
        if !ledger.has_process_panicked {
            assert_eq!(matches!(end, ReadEnd::DecoderPanicked(_)), ledger.has_decoder_panicked, "{end:?}");
            let has_failed = matches!(end, ReadEnd::Io(_) | ReadEnd::Truncated(_) | ReadEnd::Decoding(_));
            assert_eq!(has_failed, ledger.failure.is_some(), "{end:?}");
        }
    }
    assert!(may_leave_messages || ledger.queued() == 0, "{} messages are left at {end:?}", ledger.queued());
}

/// Checks that the loop has a good reason for waiting for ever.
fn check_wait(ledger: &Ledger) {
    if ledger.has_ended {
        // Whoever ended the connection stops the task.
        return;
    }
    let is_over = ledger.is_over || ledger.eof_at.is_some() || ledger.has_process_panicked;
    assert!(!is_over, "the loop waits, and there is nothing to wait for");
    let is_full = ledger.is_full() && ledger.settings.backpressure;
    assert!(ledger.is_processing || ledger.queued() == 0, "the loop waits, and there are messages to process");
    assert!(
        (is_full && ledger.is_processing) || ledger.settings.idle_timeout.is_none(),
        "the loop has no time to wait"
    );
    assert!(is_full || !ledger.is_decodable, "the loop waits, and there are bytes to decode");
}
