//! What the two ends say to each other.

use std::io::{self, ErrorKind};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder, LengthDelimitedCodec};

pub(crate) enum Wire {
    /// The sender's first words.
    Offer {
        name: String,
        len: u64,
        crc: u32,
    },
    /// The receiver's answer: where it stands.
    Want {
        from: u64,
    },
    Chunk {
        offset: u64,
        data: Bytes,
    },
    Have {
        bytes: u64,
    },
    /// All has come, and is the right file, or is not.
    Done {
        right: bool,
    },
    /// The answer to `Done`, if the file is the right one.
    Known,
}

/// Each message behind its length; the first byte tells its kind.
pub(crate) struct WireCodec(LengthDelimitedCodec);

impl WireCodec {
    pub(crate) fn new(longest: usize) -> Self {
        Self(LengthDelimitedCodec::builder().max_frame_length(longest).new_codec())
    }

    fn parse(mut frame: Bytes) -> Option<Wire> {
        Some(match frame.try_get_u8().ok()? {
            OFFER => {
                let (len, crc) = (frame.try_get_u64().ok()?, frame.try_get_u32().ok()?);
                Wire::Offer { name: String::from_utf8_lossy(&frame).into_owned(), len, crc }
            }
            WANT => Wire::Want { from: frame.try_get_u64().ok()? },
            CHUNK_OF_FILE => Wire::Chunk { offset: frame.try_get_u64().ok()?, data: frame },
            HAVE => Wire::Have { bytes: frame.try_get_u64().ok()? },
            KNOWN => Wire::Known,
            DONE => Wire::Done { right: frame.try_get_u8().ok()? == 1 },
            _ => return None,
        })
    }
}

impl Decoder for WireCodec {
    type Item = Wire;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<Wire>> {
        let Some(frame) = self.0.decode(src)? else { return Ok(None) };
        let invalid = || io::Error::new(ErrorKind::InvalidData, "not a message of this protocol");
        Self::parse(frame.freeze()).ok_or_else(invalid).map(Some)
    }
}

impl Encoder<Wire> for WireCodec {
    type Error = io::Error;

    fn encode(&mut self, message: Wire, dst: &mut BytesMut) -> io::Result<()> {
        let mut frame = BytesMut::new();
        match message {
            Wire::Offer { name, len, crc } => {
                frame.put_u8(OFFER);
                frame.put_u64(len);
                frame.put_u32(crc);
                frame.put_slice(name.as_bytes());
            }
            Wire::Want { from } => {
                frame.put_u8(WANT);
                frame.put_u64(from);
            }
            Wire::Chunk { offset, data } => {
                frame.reserve(9 + data.len());
                frame.put_u8(CHUNK_OF_FILE);
                frame.put_u64(offset);
                frame.put_slice(&data);
            }
            Wire::Have { bytes } => {
                frame.put_u8(HAVE);
                frame.put_u64(bytes);
            }
            Wire::Known => frame.put_u8(KNOWN),
            Wire::Done { right } => frame.put_slice(&[DONE, right.into()]),
        }
        self.0.encode(frame.freeze(), dst)
    }
}

const OFFER: u8 = 0;
const WANT: u8 = 1;
const CHUNK_OF_FILE: u8 = 2;
const HAVE: u8 = 3;
const DONE: u8 = 4;
const KNOWN: u8 = 5;

pub(crate) const CHUNK: usize = 64 * 1024;
pub(crate) const LONGEST_FRAME: usize = 9 + CHUNK;
