//! `/ipfs/id/1.0.0`: the side that accepts the substream says who it is and ends it.

use std::io;

use futures_util::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p_identity::PublicKey;
use multiaddr::Multiaddr;
use prost::Message;

use crate::{Substream, invalid};

pub const IDENTIFY: &str = "/ipfs/id/1.0.0";

/// What a peer says about itself, and about us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    pub public_key: PublicKey,
    /// The name and version of the software.
    pub agent: String,
    /// The family of protocols, usually `ipfs/0.1.0`.
    pub protocol_version: String,
    pub protocols: Vec<String>,
    pub listen_addrs: Vec<Multiaddr>,
    /// The address under which the peer sees us.
    pub observed_addr: Option<Multiaddr>,
}

impl Info {
    pub(crate) async fn send(self, mut stream: impl AsyncWrite + Unpin) -> io::Result<()> {
        let message = Identify {
            public_key: Some(self.public_key.encode_protobuf()),
            listen_addrs: self.listen_addrs.iter().map(Multiaddr::to_vec).collect(),
            protocols: self.protocols,
            observed_addr: self.observed_addr.map(|addr| addr.to_vec()),
            protocol_version: Some(self.protocol_version),
            agent_version: Some(self.agent),
        };
        stream.write_all(&message.encode_length_delimited_to_vec()).await?;
        stream.close().await
    }

    pub(crate) async fn receive(stream: Substream) -> io::Result<Self> {
        let mut bytes = Vec::new();
        stream.take(MAX_SIZE).read_to_end(&mut bytes).await?;
        let mut message = Identify::default();
        let mut rest = &bytes[..];
        // Some send what does not fit into 4 KiB as a second message.
        while !rest.is_empty() {
            message
                .merge_length_delimited(&mut rest)
                .map_err(|error| invalid(format!("what the peer says of itself is garbled: {error}")))?;
        }

        let public_key = PublicKey::try_decode_protobuf(&message.public_key.unwrap_or_default())
            .map_err(|error| invalid(format!("the peer's public key cannot be used: {error}")))?;
        Ok(Self {
            public_key,
            agent: message.agent_version.unwrap_or_default(),
            protocol_version: message.protocol_version.unwrap_or_default(),
            protocols: message.protocols,
            // There are more kinds of addresses than this crate knows.
            listen_addrs: message.listen_addrs.into_iter().filter_map(|addr| addr.try_into().ok()).collect(),
            observed_addr: message.observed_addr.and_then(|addr| addr.try_into().ok()),
        })
    }
}

/// libp2p's message, without the signed record of addresses.
#[derive(Message)]
struct Identify {
    #[prost(bytes = "vec", optional, tag = "1")]
    public_key: Option<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    listen_addrs: Vec<Vec<u8>>,
    #[prost(string, repeated, tag = "3")]
    protocols: Vec<String>,
    #[prost(bytes = "vec", optional, tag = "4")]
    observed_addr: Option<Vec<u8>>,
    #[prost(string, optional, tag = "5")]
    protocol_version: Option<String>,
    #[prost(string, optional, tag = "6")]
    agent_version: Option<String>,
}

/// rust-libp2p sends and takes 4 KiB at most; others are more talkative. What is longer is cut, and so garbled.
const MAX_SIZE: u64 = 16 * 1024;
