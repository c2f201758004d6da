//! The frames of the victim's small protocol, and what its peers can do to those who decode and encode them.

use std::io;

use tokio_util::{
    bytes::{Bytes, BytesMut},
    codec::{Decoder, Encoder, LengthDelimitedCodec},
};

use crate::common::DELIBERATE;

/// Length-delimited frames; some of them have consequences.
pub struct Obedient {
    frames: LengthDelimitedCodec,
    /// What it yields for ever, once it was told so.
    spell: Option<Option<BytesMut>>,
}

impl Obedient {
    pub fn new(max_frame: usize) -> Self {
        Self { frames: LengthDelimitedCodec::builder().max_frame_length(max_frame).new_codec(), spell: None }
    }
}

impl Decoder for Obedient {
    type Item = BytesMut;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<BytesMut>> {
        if self.spell.is_none() {
            let Some(message) = self.frames.decode(src)? else { return Ok(None) };
            match message.first() {
                Some(b'P') => panic!("{DELIBERATE}"),
                Some(b'F') => return Err(io::Error::other(DELIBERATE)),
                Some(b'W') => self.spell = Some(Some(BytesMut::from("i"))),
                Some(b'N') => self.spell = Some(None),
                _ => return Ok(Some(message)),
            }
        }
        Ok(self.spell.clone().flatten())
    }
}

impl Encoder<Bytes> for Obedient {
    type Error = io::Error;

    fn encode(&mut self, message: Bytes, dst: &mut BytesMut) -> io::Result<()> {
        match message.first() {
            Some(b'y') => panic!("{DELIBERATE}"),
            Some(b'z') => Err(io::Error::other(DELIBERATE)),
            _ => self.frames.encode(message, dst),
        }
    }
}
