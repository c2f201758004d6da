//! What the nodes say to each other.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder, LengthDelimitedCodec};

use crate::peer::BUCKET;

/// What one node knows of another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Contact {
    pub(crate) id: u64,
    /// Where it listens.
    pub(crate) addr: SocketAddr,
}

#[derive(Debug)]
pub(crate) enum Question {
    FindNode { target: u64 },
    FindValue { key: u64 },
    Store { key: u64, value: Bytes },
}

#[derive(Debug, PartialEq)]
pub(crate) enum Answer {
    Contacts(Vec<Contact>),
    Value(Bytes),
    Stored,
}

#[derive(Debug)]
pub(crate) enum Wire {
    Question { number: u64, from: Contact, question: Question },
    Answer { number: u64, answer: Answer },
}

/// Each message behind its length; a number that belongs to the question, its kind, and what the kind needs.
#[derive(Default)]
pub(crate) struct WireCodec(LengthDelimitedCodec);

impl WireCodec {
    fn parse(mut frame: Bytes) -> Option<Wire> {
        let number = frame.try_get_u64().ok()?;
        let kind = frame.try_get_u8().ok()?;
        if matches!(kind, CONTACTS | VALUE | STORED) {
            let answer = match kind {
                CONTACTS => {
                    let mut contacts = Vec::new();
                    while frame.has_remaining() && contacts.len() < BUCKET {
                        contacts.push(Self::parse_contact(&mut frame)?);
                    }
                    Answer::Contacts(contacts)
                }
                VALUE => Answer::Value(frame),
                _ => Answer::Stored,
            };
            return Some(Wire::Answer { number, answer });
        }
        let from = Self::parse_contact(&mut frame)?;
        let id = frame.try_get_u64().ok()?;
        let question = match kind {
            FIND_NODE => Question::FindNode { target: id },
            FIND_VALUE => Question::FindValue { key: id },
            STORE => Question::Store { key: id, value: frame },
            _ => return None,
        };
        Some(Wire::Question { number, from, question })
    }

    fn parse_contact(frame: &mut Bytes) -> Option<Contact> {
        let id = frame.try_get_u64().ok()?;
        let ip = IpAddr::V6(Ipv6Addr::from_bits(frame.try_get_u128().ok()?)).to_canonical();
        Some(Contact { id, addr: (ip, frame.try_get_u16().ok()?).into() })
    }

    fn put_contact(frame: &mut BytesMut, Contact { id, addr }: Contact) {
        let ip = match addr.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        frame.put_u64(id);
        frame.put_u128(ip.to_bits());
        frame.put_u16(addr.port());
    }
}

impl Decoder for WireCodec {
    type Item = Wire;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<Wire>> {
        let Some(frame) = self.0.decode(src)? else { return Ok(None) };
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, "not a message of this protocol");
        Self::parse(frame.freeze()).ok_or_else(invalid).map(Some)
    }
}

impl Encoder<Wire> for WireCodec {
    type Error = io::Error;

    fn encode(&mut self, message: Wire, dst: &mut BytesMut) -> io::Result<()> {
        let mut frame = BytesMut::new();
        match message {
            Wire::Question { number, from, question } => {
                let (kind, id, value) = match question {
                    Question::FindNode { target } => (FIND_NODE, target, Bytes::new()),
                    Question::FindValue { key } => (FIND_VALUE, key, Bytes::new()),
                    Question::Store { key, value } => (STORE, key, value),
                };
                frame.put_u64(number);
                frame.put_u8(kind);
                Self::put_contact(&mut frame, from);
                frame.put_u64(id);
                frame.put_slice(&value);
            }
            Wire::Answer { number, answer } => {
                frame.put_u64(number);
                match answer {
                    Answer::Contacts(contacts) => {
                        frame.put_u8(CONTACTS);
                        contacts.into_iter().for_each(|contact| Self::put_contact(&mut frame, contact));
                    }
                    Answer::Value(value) => {
                        frame.put_u8(VALUE);
                        frame.put_slice(&value);
                    }
                    Answer::Stored => frame.put_u8(STORED),
                }
            }
        }
        self.0.encode(frame.freeze(), dst)
    }
}

const FIND_NODE: u8 = 0;
const FIND_VALUE: u8 = 1;
const STORE: u8 = 2;
const CONTACTS: u8 = 3;
const VALUE: u8 = 4;
const STORED: u8 = 5;
