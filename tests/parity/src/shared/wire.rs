//! The wire format of all scenarios: four length bytes, then the payload. Some payloads make the codec misbehave.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

const HEADER: usize = 4;

/// The codec reports an error when it meets this payload.
pub(crate) const ERROR: &[u8] = b"!error";
/// The codec panics when it meets this payload.
pub(crate) const PANIC: &[u8] = b"!panic";
/// The encoder turns this payload into no bytes at all.
pub(crate) const NOTHING: &[u8] = b"!nothing";

/// Frames of a big-endian length and a payload.
#[derive(Clone, Copy, Default)]
pub(crate) struct Frames;

impl Decoder for Frames {
    type Item = Bytes;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<Bytes>> {
        let Some(header) = src.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let end = HEADER + u32::from_be_bytes(*header) as usize;
        if src.len() < end {
            return Ok(None);
        }
        let frame = src.split_to(end).freeze().slice(HEADER..);
        match &frame[..] {
            ERROR => Err(io::Error::new(io::ErrorKind::InvalidData, "a frame that must not be")),
            PANIC => panic!("the decoder was told to panic"),
            _ => Ok(Some(frame)),
        }
    }
}

impl Encoder<Bytes> for Frames {
    type Error = io::Error;

    fn encode(&mut self, payload: Bytes, dst: &mut BytesMut) -> io::Result<()> {
        match &payload[..] {
            ERROR => Err(io::Error::new(io::ErrorKind::InvalidInput, "a message that must not be")),
            PANIC => panic!("the encoder was told to panic"),
            NOTHING => Ok(()),
            _ => {
                dst.put_u32(u32::try_from(payload.len()).expect("the payload is small"));
                dst.put(payload);
                Ok(())
            }
        }
    }
}

/// The bytes of one frame, for raw peers.
pub(crate) fn frame(payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).expect("the payload is small").to_be_bytes().to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

/// The bytes of several frames in a row.
pub(crate) fn frames<'a>(payloads: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
    payloads.into_iter().flat_map(|payload| frame(payload.as_bytes())).collect()
}

/// The payloads of all complete frames in `bytes`, as text.
pub(crate) fn payloads(bytes: &[u8]) -> Vec<String> {
    let mut buffer = BytesMut::from(bytes);
    let mut payloads = Vec::new();
    while let Ok(Some(payload)) = Frames.decode(&mut buffer) {
        payloads.push(String::from_utf8_lossy(&payload).into_owned());
    }
    payloads
}
