//! What decoders see, and codecs that do more than split frames.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio_util::codec::{Decoder, Encoder};

use super::{
    super::p2p::{ConnectionSide, DisconnectOrigin, Node, Pea2Pea, protocols::*},
    actor::config,
};
use crate::shared::{
    log::Log,
    observation::Observation,
    raw,
    timing::{eventually, settled},
};

/// How the decoder under test works.
#[derive(Clone, Copy, PartialEq)]
enum Style {
    /// One frame for each two bytes; what is left over at the end is an error.
    Pairs,
    /// The same, but the rest makes a last frame.
    PairsAndRest,
    /// Takes the buffer away with each frame and puts another in its place.
    Replacing,
    /// Each byte makes a frame twice: once without being consumed.
    Twice,
}

/// Logs each call that it gets.
struct Witness {
    log: Log,
    style: Style,
    is_repeated: bool,
}

impl Decoder for Witness {
    type Item = Bytes;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<Bytes>> {
        self.log.add(format!("decode {}", src.len()));
        match self.style {
            Style::Pairs | Style::PairsAndRest => Ok((src.len() >= 2).then(|| src.split_to(2).freeze())),
            Style::Replacing if src.len() >= 2 => {
                let mut all = std::mem::take(src);
                let frame = all.split_to(2).freeze();
                *src = BytesMut::from(&all[..]);
                Ok(Some(frame))
            }
            Style::Replacing => Ok(None),
            Style::Twice if src.is_empty() => Ok(None),
            Style::Twice => {
                self.is_repeated = !self.is_repeated;
                let frame = Bytes::copy_from_slice(&src[..1]);
                if !self.is_repeated {
                    drop(src.split_to(1));
                }
                Ok(Some(frame))
            }
        }
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> io::Result<Option<Bytes>> {
        self.log.add(format!("decode_eof {}", src.len()));
        match self.style {
            Style::PairsAndRest if src.is_empty() => Ok(None),
            Style::PairsAndRest => Ok(Some(src.split_to(src.len().min(2)).freeze())),
            _ if src.is_empty() => Ok(None),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

#[derive(Clone)]
struct Reader {
    node: Node,
    log: Log,
    style: Style,
}

impl Pea2Pea for Reader {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Reading for Reader {
    type Message = Bytes;
    type Codec = Witness;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Witness {
        Witness { log: self.log.clone(), style: self.style, is_repeated: false }
    }

    async fn process_message(&self, _source: SocketAddr, message: Bytes) {
        self.log.add(format!("got {}", String::from_utf8_lossy(&message)));
    }
}

impl OnDisconnect for Reader {
    async fn on_disconnect(&self, _addr: SocketAddr, origin: DisconnectOrigin) {
        self.log.add(format!("on_disconnect {origin:?}"));
    }
}

/// Sends the parts one after another, then closes; each part is decoded before the next is sent.
async fn decode(style: Style, parts: &[&str]) -> Observation {
    let mut seen = Observation::new();
    let reader = Reader { node: Node::new(config()), log: Log::default(), style };
    reader.enable_reading().await;
    reader.enable_on_disconnect().await;
    let addr = reader.node.toggle_listener().await.unwrap().unwrap();
    let mut peer = raw::dial(addr).await;
    peer.set_nodelay(true).unwrap();
    eventually("it is live", || reader.node.num_connected() == 1).await;
    seen.note("calls before there are bytes", settled(|| reader.log.count("decode")).await);
    for part in parts {
        let before = reader.log.count("decode");
        peer.write_all(part.as_bytes()).await.unwrap();
        eventually("the part was seen", || reader.log.count("decode") > before).await;
        settled(|| reader.log.count("")).await;
    }
    drop(peer);
    reader.log.wait_for("on_disconnect", 1).await;
    eventually("it is removed", || reader.node.num_connected() == 0).await;
    // processing runs beside decoding, so the two are told apart
    seen.note("calls", reader.log.after("decode"));
    seen.note("got", reader.log.after("got "));
    seen.note("origin", reader.log.after("on_disconnect "));
    seen.note("received", reader.node.stats().received());
    seen
}

pub(crate) async fn a_decoder_is_called_as_under_framed_read() -> Observation {
    decode(Style::Pairs, &["aabbcc", "d", "d", "ee"]).await
}

pub(crate) async fn a_decoder_with_leftovers_at_the_end() -> Observation {
    decode(Style::Pairs, &["aab"]).await
}

pub(crate) async fn a_decoder_may_make_frames_of_the_rest() -> Observation {
    decode(Style::PairsAndRest, &["aab"]).await
}

pub(crate) async fn a_decoder_that_never_got_bytes() -> Observation {
    decode(Style::Pairs, &[]).await
}

pub(crate) async fn a_decoder_may_replace_the_buffer() -> Observation {
    decode(Style::Replacing, &["aabbc", "cdd"]).await
}

pub(crate) async fn a_decoder_may_return_frames_without_consuming() -> Observation {
    decode(Style::Twice, &["xy", "z"]).await
}

/// Writes each message behind the number of messages before it, and remembers what buffer it found.
struct Counting {
    count: usize,
    log: Log,
}

impl Encoder<Bytes> for Counting {
    type Error = io::Error;

    fn encode(&mut self, message: Bytes, dst: &mut BytesMut) -> io::Result<()> {
        self.log.add("encode");
        dst.put_slice(format!("{}:", self.count).as_bytes());
        self.count += 1;
        dst.put(message);
        Ok(())
    }
}

#[derive(Clone)]
struct Writer {
    node: Node,
    log: Log,
    dropped: Arc<Mutex<Vec<&'static str>>>,
}

impl Pea2Pea for Writer {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Writing for Writer {
    type Message = Bytes;
    type Codec = Counting;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Counting {
        self.dropped.lock().unwrap().push("made");
        Counting { count: 0, log: self.log.clone() }
    }
}

pub(crate) async fn an_encoder_keeps_its_state_per_connection() -> Observation {
    let mut seen = Observation::new();
    let writer = Writer { node: Node::new(config()), log: Log::default(), dropped: Arc::default() };
    writer.enable_writing().await;
    for _ in 0..2 {
        let (listener, addr) = raw::listener().await;
        writer.node.connect(addr).await.unwrap();
        let mut peer = raw::accept(&listener).await;
        for message in ["a", "b", "c"] {
            writer.unicast(addr, message.into()).unwrap().await.unwrap().unwrap();
        }
        let bytes = raw::read_exactly(&mut peer, 9).await;
        seen.note("the peer got", String::from_utf8(bytes).unwrap());
    }
    seen.note("encoded", writer.log.count("encode"));
    seen.note("codecs", writer.dropped.lock().unwrap());
    seen
}
