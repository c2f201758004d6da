//! The write loop and the outbox under any pattern of partial writes, any encoder, and any order of what senders do.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{Arc, LazyLock},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::AsyncWrite,
    task::coop,
    time::{Instant, Sleep, sleep},
};

use super::{
    bell::Bell,
    input::Input,
    scripted_encoder::{EncoderFailure, Ledger, Manner, Message, Receipt, ScriptedEncoder, Shared, close, offer},
};
use crate::{
    counting::Observer,
    outbound::{
        AnyOutbox, Outbox, PushError, Queued, WriteSettings, WriteStream, crowding,
        encoder::WriteError,
        writer::{Writer, Written},
    },
};

/// Longer than everything that a script waits for; nobody waits for it, as the clock is a paused one.
const FOREVER: Duration = Duration::from_secs(24 * 3_600);

const DEPTHS: [usize; 4] = [1, 2, 8, 64];
const FLUSHES: [usize; 3] = [8 * 1024, 64 * 1024, 1024 * 1024];
const TIMEOUTS: [Option<u64>; 4] = [None, Some(0), Some(1_000), Some(10_000)];

/// Every combination of settings; the loops want them for ever.
static SETTINGS: LazyLock<Vec<WriteSettings>> = LazyLock::new(|| {
    let timeouts = TIMEOUTS.map(|timeout| timeout.map(Duration::from_millis));
    let mut all = Vec::new();
    for depth in DEPTHS {
        for flush_at in FLUSHES {
            all.extend(timeouts.map(|timeout| WriteSettings { depth, flush_at, timeout }));
        }
    }
    all
});

/// What a stream does when it is asked for something.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Takes so many bytes; or is flushed.
    Take(usize),
    /// Is ready in the next turn.
    Pending,
    /// Is ready after so many milliseconds.
    Wait(u64),
    /// Takes no bytes; or is flushed.
    Zero,
    Fail(io::ErrorKind),
    /// Is never ready again.
    Stuck,
}

impl Step {
    fn choose(input: &mut Input<'_>) -> Self {
        match input.below(16) {
            0..3 => Self::Take(1 + input.below(40)),
            3..5 => Self::Take(1 + 256 * input.below(256)),
            5..8 => Self::Take(usize::MAX),
            8..11 => Self::Pending,
            11..14 => Self::Wait(input.pick(&[0, 1, 400, 999, 1_000, 3_000, 9_999, 60_000])),
            14 => Self::Take(1),
            _ => match input.below(8) {
                0 => Self::Zero,
                1 => Self::Fail(io::ErrorKind::ConnectionReset),
                2 => Self::Fail(io::ErrorKind::Other),
                3 => Self::Stuck,
                _ => Self::Pending,
            },
        }
    }
}

/// A stream that does what its steps say, and takes everything after the last one.
struct Sink {
    ledger: Shared,
    writes: Vec<Step>,
    flushes: Vec<Step>,
    /// Whether it asks for the task's cooperation budget, as a socket does.
    uses_budget: bool,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Sink {
    /// The next step, once it is due.
    fn poll_step(&mut self, cx: &mut Context<'_>, of_flushes: bool) -> Poll<Step> {
        let step = self.poll_due(cx, of_flushes);
        let mut ledger = self.ledger.lock();
        assert_eq!(ledger.stream_failure, None, "nothing is asked of a stream that has failed");
        if step.is_pending() {
            ledger.waiting_since.get_or_insert_with(Instant::now);
        }
        step
    }

    fn poll_due(&mut self, cx: &mut Context<'_>, of_flushes: bool) -> Poll<Step> {
        if self.uses_budget {
            ready!(coop::poll_proceed(cx)).made_progress();
        }
        if let Some(waiting) = &mut self.waiting {
            // Without budget the timer would not listen, and the stream would be blocked for another reason.
            ready!(pin!(coop::unconstrained(waiting.as_mut())).poll(cx));
            self.waiting = None;
            self.ledger.lock().asked += 1;
            return Poll::Ready(Step::Take(usize::MAX));
        }
        let steps = if of_flushes { &mut self.flushes } else { &mut self.writes };
        let step = steps.pop().unwrap_or(Step::Take(usize::MAX));
        self.ledger.lock().asked += usize::from(!matches!(step, Step::Stuck));
        match step {
            Step::Pending => cx.waker().wake_by_ref(),
            Step::Wait(millis) => {
                let mut waiting = Box::pin(sleep(Duration::from_millis(millis)));
                if pin!(coop::unconstrained(waiting.as_mut())).poll(cx).is_ready() {
                    cx.waker().wake_by_ref();
                }
                self.waiting = Some(waiting);
            }
            Step::Stuck => steps.push(Step::Stuck),
            Step::Take(_) | Step::Zero | Step::Fail(_) => return Poll::Ready(step),
        }
        self.ledger.lock().is_blocked = true;
        Poll::Pending
    }
}

impl WriteStream for Sink {}

impl AsyncWrite for Sink {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        assert!(!buf.is_empty(), "an empty write");
        let step = ready!(self.poll_step(cx, false));
        let mut ledger = self.ledger.lock();
        let is_next = ledger.encoded[ledger.taken..].starts_with(buf);
        assert!(is_next, "what is written is what was encoded, from where the last write ended");
        let count = match step {
            Step::Take(count) => count.min(buf.len()),
            Step::Fail(kind) => {
                ledger.stream_failure = Some(kind);
                return Poll::Ready(Err(kind.into()));
            }
            _ => {
                ledger.stream_failure = Some(io::ErrorKind::WriteZero);
                0
            }
        };
        ledger.take(count);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let step = ready!(self.poll_step(cx, true));
        let mut ledger = self.ledger.lock();
        if let Step::Fail(kind) = step {
            ledger.stream_failure = Some(kind);
            return Poll::Ready(Err(kind.into()));
        }
        ledger.flushed = ledger.taken;
        ledger.waiting_since = None;
        ledger.is_blocked = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        unreachable!("whoever runs the loop shuts the stream");
    }
}

struct Counts(Shared);

impl Observer for Counts {
    fn has_ended(&self) -> bool {
        false
    }

    fn received(&self, _: usize, _: usize) {
        unreachable!("a writer receives nothing");
    }

    fn dropped(&self, _: usize) {
        unreachable!("a writer drops nothing");
    }

    fn unprocessed(&self, _: usize) {
        unreachable!("a writer has nothing to process");
    }

    fn sent(&self, messages: usize, bytes: usize) {
        self.0.lock().count(messages, bytes);
    }

    fn unsent(&self, messages: usize, bytes: usize) {
        self.0.lock().uncount(messages, bytes);
    }
}

/// The writer, polled by hand.
struct Driver {
    ledger: Shared,
    outbox: Arc<Outbox<Message>>,
    settings: &'static WriteSettings,
    /// Until the first message starts the writer.
    sink: Option<Sink>,
    writer: Option<Pin<Box<dyn Future<Output = Written<Sink>>>>>,
    bell: Arc<Bell>,
    waker: Waker,
    turns: usize,
    /// Whether a message has found the queue full, and the writer has been polled since.
    may_stream: bool,
}

/// Does what the bytes say; wants a runtime of one thread whose clock is paused.
///
/// # Panics
/// If the write loop breaks one of its promises.
pub async fn check_write_loop(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut driver = Driver::new(&mut input);
    while !input.is_empty() {
        driver.act(&mut input).await;
        driver.ledger.lock().look();
    }
    driver.end().await;
}

impl Driver {
    fn new(input: &mut Input<'_>) -> Self {
        let settings = &SETTINGS[input.below(SETTINGS.len())];
        let flags = input.byte();
        let mut steps = |most| -> Vec<Step> {
            let count = input.below(most);
            std::iter::repeat_with(|| Step::choose(input)).take(count).collect()
        };
        let (writes, flushes) = (steps(24), steps(6));
        let ledger = Arc::new(Mutex::new(Ledger::new()));
        let outbox = Arc::new_cyclic(|outbox| {
            let (ledger, outbox) = (Arc::clone(&ledger), outbox.clone());
            Outbox::new(ScriptedEncoder { ledger, outbox, is_explosive: flags & 2 != 0 }, settings)
        });
        let sink = Sink { ledger: Arc::clone(&ledger), writes, flushes, uses_budget: flags & 1 != 0, waiting: None };
        let bell = Arc::<Bell>::default();
        let waker = Waker::from(Arc::clone(&bell));
        let (sink, writer) = (Some(sink), None);
        Self { ledger, outbox, settings, sink, writer, bell, waker, turns: 0, may_stream: false }
    }

    async fn act(&mut self, input: &mut Input<'_>) {
        match input.below(32) {
            0..16 => self.offer(Manner::choose(input), input.below(4)),
            16..20 => {
                let (manner, flags) = (Manner::choose(input), input.below(4));
                for _ in 0..input.below(80) {
                    self.offer(manner, flags);
                }
            }
            20..26 => {
                for _ in 0..=input.below(4) {
                    self.turn().await;
                }
            }
            26 => self.send_from_a_message(input),
            27 => self.pass(Duration::from_millis(input.pick(&[0, 1, 500, 1_000, 20_000]))).await,
            28 => sleep(Duration::from_millis(input.pick(&[1, 900, 1_500, 70_000]))).await,
            29 => {
                let mut ledger = self.ledger.lock();
                let place = input.below(ledger.receipts.len().clamp(1, 256));
                if let Some(receipt) = ledger.receipts.get_mut(place) {
                    *receipt = Receipt::None;
                }
            }
            30 if input.below(4) == 0 => close(&self.ledger, &self.outbox, input.below(2) == 1),
            31 if input.below(16) == 0 => self.cancel(),
            _ => self.turn().await,
        }
    }

    fn offer(&mut self, manner: Manner, flags: usize) {
        let ledger = self.ledger.lock();
        let (queued, has_failed, is_first) = (ledger.queued(), ledger.failure.is_some(), ledger.offers == 0);
        drop(ledger);
        let result = offer(&self.ledger, &self.outbox, manner, flags & 1 != 0, flags & 2 != 0);
        let has_failed = has_failed || self.ledger.lock().failure.is_some();
        match result {
            Ok(Queued::First) => {
                let Some(sink) = self.sink.take() else { unreachable!("only one message is the first") };
                let writer = Writer::new(sink, Arc::clone(&self.outbox), Counts(Arc::clone(&self.ledger)));
                self.writer = Some(Box::pin(writer.run()));
                self.bell.ring();
            }
            Ok(Queued::Expected) => assert!(!is_first, "the first message starts the writer"),
            Err(PushError::Full) => assert!(queued >= self.settings.depth || has_failed, "full with {queued} messages"),
            Err(PushError::Closed) => {}
        }
        if queued >= self.settings.depth {
            // A batch that fails takes with it what was queued.
            let may_take = self.may_stream || has_failed;
            assert!(result.is_err() || may_take, "{queued} messages are queued, and another one is taken");
            self.ledger.lock().was_full = true;
        }
        let queued = self.ledger.lock().queued();
        assert!(queued <= self.settings.depth || has_failed, "{queued} messages are queued");
    }

    /// Sends as `process_message` does: what there is no room for is encoded ahead.
    fn send_from_a_message(&mut self, input: &mut Input<'_>) {
        let _processing = crowding::begin_processing(false);
        let may_stream = std::mem::replace(&mut self.may_stream, true);
        for _ in 0..=input.below(4) {
            self.offer(Manner::choose(input), input.below(4));
        }
        self.may_stream = may_stream;
    }

    /// Polls the writer if it has been woken.
    fn poll(&mut self) {
        if !self.bell.take() {
            return;
        }
        let Some(writer) = &mut self.writer else { return };
        self.turns += 1;
        let ledger = self.ledger.lock();
        let bound = 64 + 8 * (ledger.offers + ledger.asked);
        assert!(self.turns <= bound, "{} turns for {} offers and {} calls", self.turns, ledger.offers, ledger.asked);
        drop(ledger);
        let polled = writer.as_mut().poll(&mut Context::from_waker(&self.waker));
        self.may_stream |= self.ledger.lock().was_full;
        if let Poll::Ready(written) = polled {
            self.writer = None;
            self.check_end(written);
        }
    }

    /// Lets the writer have a turn, and those that have given way come back.
    async fn turn(&mut self) {
        self.poll();
        tokio::task::yield_now().await;
    }

    /// Lets time pass in which the writer runs whenever it wants to.
    async fn pass(&mut self, duration: Duration) {
        let mut end = pin!(sleep(duration));
        poll_fn(|cx| {
            self.bell.listen(cx.waker());
            self.poll();
            if self.bell.has_rung() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if self.writer.is_none() { Poll::Ready(()) } else { pin!(coop::unconstrained(end.as_mut())).poll(cx) }
        })
        .await;
    }

    fn cancel(&mut self) {
        if let Some(writer) = self.writer.take() {
            drop(writer);
            assert!(self.outbox.is_writer_gone());
            self.ledger.lock().is_closed = true;
        }
    }

    fn check_end(&self, written: Written<Sink>) {
        let Written { end, presence } = written;
        let mut ledger = self.ledger.lock();
        match end {
            Ok(()) => {
                assert!(ledger.is_closed, "finished, and nobody asked for it");
                assert_eq!(ledger.stream_failure, None, "finished, and the stream has failed");
                if !ledger.is_abandoned {
                    assert_eq!(ledger.failure, None, "finished, and the encoder has failed");
                    assert_eq!((ledger.queued(), ledger.counted), (0, ledger.receipts.len()), "all is sent");
                    assert_eq!((ledger.taken, ledger.flushed), (ledger.encoded.len(), ledger.encoded.len()));
                }
            }
            Err(failed) => {
                let kind = failed.cause.to_error().kind();
                match &failed.cause {
                    WriteError::TimedOut => {
                        let waited = ledger.waiting_since.map(|since| since.elapsed());
                        assert!(ledger.is_blocked, "timed out on a stream that was ready");
                        assert!(waited >= self.settings.timeout && self.settings.timeout.is_some(), "after {waited:?}");
                        assert_eq!(kind, io::ErrorKind::TimedOut);
                    }
                    WriteError::Panicked(panicked) => {
                        assert_eq!(ledger.failure, Some(EncoderFailure::Panic), "{panicked:?}");
                    }
                    WriteError::Io(_) => assert_eq!(Some(kind), ledger.stream_failure),
                    WriteError::Encode(_) => {
                        assert_eq!((ledger.failure, kind), (Some(EncoderFailure::Error), io::ErrorKind::InvalidInput));
                    }
                }
                ledger.look();
                drop(ledger);
                failed.report();
                ledger = self.ledger.lock();
                ledger.look();
                match ledger.receipts.get(ledger.first_unflushed()) {
                    Some(Receipt::Failed(told)) => assert_eq!(*told, kind, "the batch is told why it failed"),
                    Some(Receipt::None) => {}
                    other => assert!(ledger.is_abandoned, "a batch failed, and its first message is {other:?}"),
                }
            }
        }
        ledger.is_closed = true;
        drop(ledger);
        drop(presence);
        assert!(self.outbox.is_writer_gone());
    }

    /// Finishes the outbox, or finds a good reason why that takes for ever.
    async fn end(mut self) {
        close(&self.ledger, &self.outbox, false);
        self.pass(FOREVER).await;
        if self.writer.is_some() {
            let ledger = self.ledger.lock();
            let is_patient = self.settings.timeout.is_none();
            assert!(ledger.is_blocked && is_patient, "the writer neither ends nor waits for the stream");
            drop(ledger);
            self.cancel();
        }
        close(&self.ledger, &self.outbox, true);
        let Self { ledger, outbox, sink, bell: _, .. } = self;
        assert_eq!(Arc::strong_count(&outbox), 1, "the writer is gone, and somebody has its outbox");
        drop((outbox, sink));
        let mut ledger = ledger.lock();
        ledger.look();
        for (number, receipt) in ledger.receipts.iter().enumerate() {
            assert!(!matches!(receipt, Receipt::Waiting(_)), "the receipt of message {number} never resolves");
            if number < ledger.first_unflushed() {
                assert!(
                    matches!(receipt, Receipt::Confirmed | Receipt::None),
                    "message {number} was sent: {receipt:?}"
                );
            }
        }
        assert_eq!(Arc::strong_count(&ledger.alive), 1, "messages are left");
    }
}
