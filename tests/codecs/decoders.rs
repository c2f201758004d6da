//! Decoders: whatever they do, it ends their own connection at most, and what they decoded before is processed.

use std::{
    io,
    marker::PhantomData,
    net::SocketAddr,
    time::{Duration, Instant},
};

use pea2pea::{
    ConnectionSide, DisconnectOrigin, Node, Pea2Pea,
    protocols::{OnDisconnect, Reading},
};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_util::{
    bytes::{Buf, BytesMut},
    codec::Decoder,
};

use crate::{
    common::{
        self, Events, in_time, local_node,
        reader::Reader,
        wait_until,
        wire::{dialled_raw, frame},
    },
    ledger,
};

/// A decoder that can be made for a test.
trait TestDecoder: Decoder<Item = u8, Error = io::Error> + Default + Send + 'static {
    const DEPTH: usize = 64;
}

/// Reads with a test decoder, and notes what happens.
struct Subject<D> {
    node: Node,
    processed: Events<u8>,
    ends: Events<DisconnectOrigin>,
    decoder: PhantomData<fn() -> D>,
}

impl<D> Clone for Subject<D> {
    fn clone(&self) -> Self {
        Self {
            node: self.node.clone(),
            processed: self.processed.clone(),
            ends: self.ends.clone(),
            decoder: PhantomData,
        }
    }
}

impl<D: TestDecoder> Subject<D> {
    async fn new() -> Self {
        let subject =
            Self { node: local_node(), processed: Events::default(), ends: Events::default(), decoder: PhantomData };
        subject.enable_reading().await;
        subject.enable_on_disconnect().await;
        subject
    }

    async fn ended(&self) {
        self.ends.wait_for(DisconnectOrigin::Reading).await;
        wait_until("the connection is gone", || self.node.num_connected() == 0).await;
    }
}

impl<D> Pea2Pea for Subject<D> {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl<D: TestDecoder> Reading for Subject<D> {
    const MESSAGE_QUEUE_DEPTH: usize = D::DEPTH;
    const IDLE_TIMEOUT_MS: u64 = 0;

    type Message = u8;
    type Codec = D;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> D {
        D::default()
    }

    async fn process_message(&self, _source: SocketAddr, message: u8) {
        self.processed.push(message);
        if message == STUCK {
            std::future::pending().await
        }
    }
}

impl<D: TestDecoder> OnDisconnect for Subject<D> {
    async fn on_disconnect(&self, _addr: SocketAddr, origin: DisconnectOrigin) {
        self.ends.push(origin);
    }
}

/// A message that is never done.
const STUCK: u8 = b'S';

// --- misbehaviour ---

/// Decodes single bytes: digits and letters are messages; `!` is an error, `*` a panic, `=` puts another buffer in the place
/// of the given one, `~` stalls `STALLS` times, `.` waits for ever.
#[derive(Default)]
struct Wild<const STALLS: u32> {
    stalls: u32,
}

impl<const STALLS: u32> TestDecoder for Wild<STALLS> {}

impl<const STALLS: u32> Decoder for Wild<STALLS> {
    type Item = u8;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<u8>> {
        match src.first() {
            None | Some(b'.') => return Ok(None),
            Some(b'!') => return Err(io::Error::other("no")),
            Some(b'*') => panic!("{}", common::DELIBERATE),
            Some(b'~') if self.stalls < STALLS => {
                self.stalls += 1;
                return Ok(Some(b'~'));
            }
            Some(b'=') => *src = BytesMut::from(&[b"another buffer, longer than this one: ", &src[1..]].concat()[..]),
            Some(_) => {}
        }
        self.stalls = 0;
        Ok(Some(src.get_u8()))
    }
}

async fn processed_by<const STALLS: u32>(input: &[u8]) -> (Subject<Wild<STALLS>>, TcpStream) {
    common::keep_deliberate_panics_quiet();
    let subject = Subject::new().await;
    let (mut peer, _) = dialled_raw(&subject.node).await;
    peer.write_all(input).await.unwrap();
    (subject, peer)
}

#[tokio::test(crate = "ledger")]
async fn what_was_decoded_before_an_error_or_a_panic_of_the_decoder_is_processed() {
    for input in [b"abc!def", b"abc*def"] {
        let (subject, _peer) = processed_by::<0>(input).await;
        subject.ended().await;
        assert_eq!(subject.processed.all(), b"abc");
        assert_eq!(subject.node.stats().received(), (3, 3));
    }
}

#[tokio::test(crate = "ledger")]
async fn an_error_of_the_decoder_does_not_wait_for_a_message_that_is_stuck() {
    for input in [b"aSb!", b"aSb*"] {
        let (subject, _peer) = processed_by::<0>(input).await;
        let began = Instant::now();
        subject.ended().await;
        assert!(began.elapsed() < Duration::from_millis(2_500), "{:?}", began.elapsed());
        assert_eq!(subject.processed.all(), b"aS");
    }
}

#[tokio::test(crate = "ledger")]
async fn a_decoder_may_replace_the_buffer() {
    let (subject, mut peer) = processed_by::<0>(b"ab=cd").await;
    wait_until("all are processed", || subject.processed.all().ends_with(b"cd")).await;
    assert_eq!(subject.processed.all(), b"abanother buffer, longer than this one: cd");
    peer.write_all(b"ef").await.unwrap();
    wait_until("reading goes on", || subject.processed.all().ends_with(b"cdef")).await;
    assert_eq!(subject.ends.all(), []);
}

#[tokio::test(crate = "ledger")]
async fn ten_thousand_messages_in_a_row_may_consume_nothing() {
    // The byte itself is one more message, which consumes it.
    let (subject, mut peer) = processed_by::<10_000>(b"a~b").await;
    wait_until("all are processed", || subject.processed.len() == 10_003).await;
    peer.write_all(b"~c").await.unwrap();
    wait_until("the count began anew", || subject.processed.len() == 20_005).await;
    assert_eq!(subject.ends.all(), []);
    assert_eq!(subject.node.stats().received(), (20_005, 5));
}

#[tokio::test(crate = "ledger")]
async fn consuming_a_byte_begins_a_new_row() {
    let (subject, _peer) = processed_by::<6_000>(b"~~~b").await;
    wait_until("all are processed", || subject.processed.len() == 18_004).await;
    assert_eq!(subject.ends.all(), []);
}

/// Yields 6,000 messages whenever bytes have come, and consumes none.
#[derive(Default)]
struct Hoarder {
    seen: usize,
    left: u32,
}

impl TestDecoder for Hoarder {}

impl Decoder for Hoarder {
    type Item = u8;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<u8>> {
        if src.len() > self.seen {
            (self.seen, self.left) = (src.len(), 6_000);
        }
        self.left = self.left.saturating_sub(1);
        Ok((self.left > 0).then_some(b'h'))
    }
}

#[tokio::test(crate = "ledger")]
async fn new_bytes_begin_a_new_row() {
    let subject = Subject::<Hoarder>::new().await;
    let (mut peer, _) = dialled_raw(&subject.node).await;
    for row in 1..=3 {
        peer.write_all(b"!").await.unwrap();
        wait_until("all are processed", || subject.processed.len() == row * 5_999).await;
    }
    assert_eq!(subject.ends.all(), []);
    assert_eq!(subject.node.stats().received(), (3 * 5_999, 0));
}

#[tokio::test(crate = "ledger")]
async fn a_decoder_that_consumes_nothing_for_ever_is_an_error() {
    let (subject, _peer) = processed_by::<{ u32::MAX }>(b"a~b").await;
    subject.ended().await;
    assert!((10_000..=10_010).contains(&subject.processed.count(&b'~')), "{}", subject.processed.len());
    assert_eq!(subject.processed.count(&b'b'), 0);
}

#[tokio::test(crate = "ledger")]
async fn a_decoder_that_never_yields_gets_all_bytes_and_an_incomplete_end() {
    let (subject, mut peer) = processed_by::<0>(b"ab.").await;
    peer.write_all(&[b'.'; 300_000]).await.unwrap();
    wait_until("two are processed", || subject.processed.all() == b"ab").await;
    assert_eq!(subject.ends.all(), []);
    // `decode_eof` as tokio-util provides it: bytes left over are an error.
    drop(peer);
    subject.ended().await;
    assert_eq!(subject.node.stats().received(), (2, 2));
}

#[tokio::test(crate = "ledger")]
async fn an_incomplete_frame_at_the_end_waits_for_a_message_that_is_stuck_as_long_as_a_clean_end_does() {
    let (subject, peer) = processed_by::<0>(b"aS.").await;
    wait_until("the message is stuck", || subject.processed.all() == b"aS").await;
    let began = Instant::now();
    drop(peer);
    subject.ended().await;
    assert!(began.elapsed() >= Duration::from_millis(2_900), "{:?}", began.elapsed());
}

/// Lines whose last one need not be terminated; the first byte of each is the message.
#[derive(Default)]
struct Lines<const DEPTH: usize>;

impl<const DEPTH: usize> TestDecoder for Lines<DEPTH> {
    const DEPTH: usize = DEPTH;
}

impl<const DEPTH: usize> Decoder for Lines<DEPTH> {
    type Item = u8;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<u8>> {
        let Some(end) = src.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
        Ok(src.split_to(end + 1).first().copied())
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> io::Result<Option<u8>> {
        Ok(src.split().first().copied())
    }
}

#[tokio::test(crate = "ledger")]
async fn the_last_message_of_decode_eof_is_processed_too() {
    let subject = Subject::<Lines<1>>::new().await;
    let (mut peer, _) = dialled_raw(&subject.node).await;
    peer.write_all(b"a\nb\nc").await.unwrap();
    drop(peer);
    subject.ended().await;
    assert_eq!(subject.processed.all(), b"abc");
    assert_eq!(subject.node.stats().received(), (3, 5));
}

/// Tells how long a connection lives on after the peer has closed it behind a stuck message and half a line.
async fn time_of_drain<const DEPTH: usize>() -> Duration {
    let subject = Subject::<Lines<DEPTH>>::new().await;
    let (mut peer, _) = dialled_raw(&subject.node).await;
    peer.write_all(b"S\nx").await.unwrap();
    wait_until("the message is stuck", || subject.processed.all() == [STUCK]).await;
    let closed = Instant::now();
    drop(peer);
    subject.ended().await;
    closed.elapsed()
}

#[tokio::test(crate = "ledger")]
async fn the_drain_has_its_limit_also_when_the_last_message_fills_the_queue() {
    let (with_room, filled) = tokio::join!(time_of_drain::<64>(), time_of_drain::<1>());
    for time in [with_room, filled] {
        assert!((Duration::from_secs(3)..Duration::from_secs(20)).contains(&time), "{time:?}");
    }
}

// --- buffer sizes ---

async fn assert_any_message_fits<const BUFFER: usize>() {
    let reader = Reader::<64, true, 0, BUFFER>::quick().await;
    let (mut peer, _) = dialled_raw(&reader.node).await;
    let sizes = [1, 2, 15, 16, 17, 63, 64, 65, 1_000, 8_192, 70_000, 300_000, 1];
    let stream: Vec<_> = sizes.iter().flat_map(|size| frame(&vec![*size as u8; *size])).collect();
    for bytes in stream.chunks(50_000) {
        in_time("the reader takes them", peer.write_all(bytes)).await.unwrap();
    }
    reader.received(sizes.len() as u64).await;
    wait_until("all are processed", || reader.noted.len() == 2 * sizes.len()).await;
    assert_eq!(reader.begun(), sizes.map(|size| size as u8));
    assert_eq!(reader.node.stats().received().1, stream.len() as u64);
}

#[tokio::test(crate = "ledger")]
async fn any_initial_buffer_size_will_do() {
    assert_any_message_fits::<0>().await;
    assert_any_message_fits::<1>().await;
    assert_any_message_fits::<16>().await;
    assert_any_message_fits::<1_000_000>().await;
}
