//! Noise as libp2p uses it: the XX handshake, in which each side proves that its key belongs to its peer id, and the
//! messages after it.
//!
//! Owns the ciphers and the framing; the handshake is the only thing here that touches a stream.

use std::{io, sync::Arc};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use libp2p_identity::{Keypair, PeerId, PublicKey};
use pea2pea::ConnectionSide;
use prost::Message;
use snow::{Builder, HandshakeState, StatelessTransportState};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_util::codec::{Decoder, Encoder};

use crate::invalid;

const PATTERN: &str = "Noise_XX_25519_ChaChaPoly_SHA256";

/// What libp2p puts in front of the Noise key before it is signed, so that the signature is good for nothing else.
const SIGNATURE_DOMAIN: &[u8] = b"noise-libp2p-static-key:";

/// Each Noise message goes out behind its length, two bytes in network order.
const LENGTH: usize = 2;

/// What authenticates a message.
const TAG: usize = 16;

/// The most that a single Noise message can carry.
pub(crate) const MAX_PLAINTEXT: usize = u16::MAX as usize - TAG;

/// Who we are: the key pair behind the peer id, and a Noise key that it has signed.
pub(crate) struct Identity {
    keypair: Keypair,
    noise_key: Vec<u8>,
    /// The proof for the other side, ready to be sent.
    proof: Vec<u8>,
}

impl Identity {
    pub(crate) fn new(keypair: Keypair) -> io::Result<Self> {
        let noise = builder()?.generate_keypair().map_err(io::Error::other)?;
        let identity_sig = keypair.sign(&signed(&noise.public)).map_err(io::Error::other)?;
        let proof = Proof { identity_key: keypair.public().encode_protobuf(), identity_sig }.encode_to_vec();
        Ok(Self { keypair, noise_key: noise.private, proof })
    }

    pub(crate) fn peer_id(&self) -> PeerId {
        self.keypair.public().to_peer_id()
    }

    pub(crate) fn public_key(&self) -> PublicKey {
        self.keypair.public()
    }
}

/// libp2p's `NoiseHandshakePayload`.
#[derive(Message)]
struct Proof {
    #[prost(bytes = "vec", tag = "1")]
    identity_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    identity_sig: Vec<u8>,
}

impl Proof {
    /// The identity key of the peer, if it really signed the Noise key that the peer has just used.
    fn verify(encoded: &[u8], noise_key: &[u8]) -> io::Result<PublicKey> {
        let proof = Self::decode(encoded).map_err(|error| invalid(format!("the Noise payload is garbled: {error}")))?;
        let key = PublicKey::try_decode_protobuf(&proof.identity_key)
            .map_err(|error| invalid(format!("the peer's identity key cannot be used: {error}")))?;
        if key.verify(&signed(noise_key), &proof.identity_sig) {
            Ok(key)
        } else {
            Err(invalid("the peer's identity key did not sign its Noise key"))
        }
    }
}

/// Runs the XX handshake over the bare stream: three messages, of which the last two carry the proofs.
pub(crate) async fn secure(
    stream: &mut TcpStream,
    own_side: ConnectionSide,
    identity: &Identity,
) -> io::Result<(PublicKey, Sealer, Opener)> {
    let builder = builder()?.local_private_key(&identity.noise_key).map_err(io::Error::other)?;
    let (state, proof) = match own_side {
        ConnectionSide::Initiator => {
            let mut state = builder.build_initiator().map_err(io::Error::other)?;
            send(stream, &mut state, &[]).await?;
            let proof = receive(stream, &mut state).await?;
            send(stream, &mut state, &identity.proof).await?;
            (state, proof)
        }
        ConnectionSide::Responder => {
            let mut state = builder.build_responder().map_err(io::Error::other)?;
            receive(stream, &mut state).await?;
            send(stream, &mut state, &identity.proof).await?;
            let proof = receive(stream, &mut state).await?;
            (state, proof)
        }
    };
    let noise_key = state.get_remote_static().ok_or_else(|| invalid("the peer has no Noise key"))?;
    let key = Proof::verify(&proof, noise_key)?;

    let cipher = Arc::new(state.into_stateless_transport_mode().map_err(io::Error::other)?);
    Ok((key, Sealer { cipher: Arc::clone(&cipher), nonce: 0 }, Opener { cipher, nonce: 0 }))
}

/// Encrypts what leaves: an encoder, and so a codec for the kernel's write loop.
pub struct Sealer {
    cipher: Arc<StatelessTransportState>,
    nonce: u64,
}

impl Encoder<Bytes> for Sealer {
    type Error = io::Error;

    fn encode(&mut self, plaintext: Bytes, output: &mut BytesMut) -> io::Result<()> {
        let size = u16::try_from(plaintext.len() + TAG)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "too much for a single Noise message"))?;
        output.reserve(LENGTH + usize::from(size));
        output.put_u16(size);
        let begin = output.len();
        output.put_bytes(0, size.into());
        self.cipher.write_message(self.nonce, &plaintext, &mut output[begin..]).map_err(io::Error::other)?;
        self.nonce += 1;
        Ok(())
    }
}

/// Decrypts what arrives: a decoder. An error means that somebody has touched the message, and ends the connection.
pub struct Opener {
    cipher: Arc<StatelessTransportState>,
    nonce: u64,
}

impl Opener {
    /// How many bytes are missing until the message that `input` begins with is complete, as far as is known yet.
    pub(crate) fn missing(input: &[u8]) -> usize {
        let known = match input {
            [high, low, ..] => LENGTH + usize::from(u16::from_be_bytes([*high, *low])),
            _ => LENGTH,
        };
        known.saturating_sub(input.len())
    }
}

impl Decoder for Opener {
    type Item = Bytes;
    type Error = io::Error;

    fn decode(&mut self, input: &mut BytesMut) -> io::Result<Option<Bytes>> {
        let missing = Self::missing(input);
        if missing > 0 {
            input.reserve(missing);
            return Ok(None);
        }
        let size = input.get_u16().into();
        let message = input.split_to(size);
        let mut plaintext = BytesMut::zeroed(size.saturating_sub(TAG));
        self.cipher
            .read_message(self.nonce, &message, &mut plaintext)
            .map_err(|_| invalid("a Noise message was forged or damaged"))?;
        self.nonce += 1;
        Ok(Some(plaintext.freeze()))
    }
}

async fn send(stream: &mut TcpStream, state: &mut HandshakeState, payload: &[u8]) -> io::Result<()> {
    let mut message = vec![0; LENGTH + MAX_HANDSHAKE_MESSAGE];
    let size = state.write_message(payload, &mut message[LENGTH..]).map_err(io::Error::other)?;
    message.truncate(LENGTH + size);
    // Cannot be cut short: MAX_HANDSHAKE_MESSAGE fits into 16 bits.
    message[..LENGTH].copy_from_slice(&(size as u16).to_be_bytes());
    stream.write_all(&message).await
}

async fn receive(stream: &mut TcpStream, state: &mut HandshakeState) -> io::Result<Vec<u8>> {
    let size = usize::from(stream.read_u16().await?);
    if size > MAX_HANDSHAKE_MESSAGE {
        return Err(invalid(format!("{size} bytes are too many for a message of the Noise handshake")));
    }
    let mut message = vec![0; size];
    stream.read_exact(&mut message).await?;
    let mut payload = vec![0; size];
    let size = state
        .read_message(&message, &mut payload)
        .map_err(|error| invalid(format!("the Noise handshake failed: {error}")))?;
    payload.truncate(size);
    Ok(payload)
}

fn builder() -> io::Result<Builder<'static>> {
    Ok(Builder::new(PATTERN.parse().map_err(io::Error::other)?))
}

fn signed(noise_key: &[u8]) -> Vec<u8> {
    [SIGNATURE_DOMAIN, noise_key].concat()
}

/// Two keys, two tags and a proof take less than 250 bytes, with an RSA key and certificates' hashes less than this; a
/// stranger gets no more memory of us.
const MAX_HANDSHAKE_MESSAGE: usize = 4096;

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn proof_of(keypair: &Keypair, text: &[u8]) -> Vec<u8> {
        let identity_sig = keypair.sign(text).expect("a signature");
        Proof { identity_key: keypair.public().encode_protobuf(), identity_sig }.encode_to_vec()
    }

    #[test]
    fn only_a_signature_of_this_noise_key_is_a_proof() {
        let keypair = Keypair::generate_ed25519();
        let (noise_key, other_key) = ([1; 32], [2; 32]);
        let proof = proof_of(&keypair, &signed(&noise_key));
        assert_eq!(Proof::verify(&proof, &noise_key).expect("a proof"), keypair.public());
        assert!(Proof::verify(&proof, &other_key).is_err(), "a key that was not signed");
        assert!(Proof::verify(&proof_of(&keypair, &noise_key), &noise_key).is_err(), "without the domain");
        assert!(Proof::verify(&[], &noise_key).is_err(), "no proof at all");

        let stranger = Keypair::generate_ed25519().public().encode_protobuf();
        let mut stolen = Proof::decode(&proof[..]).expect("a proof");
        stolen.identity_key = stranger;
        assert!(Proof::verify(&stolen.encode_to_vec(), &noise_key).is_err(), "somebody else's signature");
    }

    #[tokio::test]
    async fn a_message_that_was_touched_is_refused() {
        let (mut sealer, mut opener) = secured().await;
        let mut wire = BytesMut::new();
        sealer.encode(Bytes::from_static(b"one"), &mut wire).expect("a message");
        let whole = wire.clone();
        assert_eq!(opener.decode(&mut wire).expect("untouched"), Some(Bytes::from_static(b"one")));

        assert!(opener.decode(&mut whole.clone()).is_err(), "the same message again");
        sealer.encode(Bytes::from_static(b"two"), &mut wire).expect("a message");
        let last = wire.len() - 1;
        wire[last] ^= 1;
        assert!(opener.decode(&mut wire).is_err(), "a bit has changed");
    }

    #[tokio::test]
    async fn a_message_too_short_for_its_tag_is_refused() {
        let (_, mut opener) = secured().await;
        assert!(opener.decode(&mut BytesMut::from(&[0, 0][..])).is_err());
        assert!(opener.decode(&mut BytesMut::from(&[0, 3, 1, 2, 3][..])).is_err());
    }

    #[tokio::test]
    async fn a_message_in_pieces_is_opened_when_it_is_whole() {
        let (mut sealer, mut opener) = secured().await;
        let mut wire = BytesMut::new();
        let plaintext = Bytes::from(vec![7; MAX_PLAINTEXT]);
        sealer.encode(plaintext.clone(), &mut wire).expect("a message");
        assert!(sealer.encode(Bytes::from(vec![7; MAX_PLAINTEXT + 1]), &mut wire).is_err(), "too much for one message");
        let mut arrived = BytesMut::new();
        for part in [1, 1, 1000] {
            arrived.extend_from_slice(&wire.split_to(part));
            assert_eq!(opener.decode(&mut arrived).expect("a part"), None);
        }
        arrived.extend_from_slice(&wire);
        assert_eq!(opener.decode(&mut arrived).expect("the whole"), Some(plaintext));
        assert!(arrived.is_empty());
    }

    /// What one side seals with and the other one opens with.
    async fn secured() -> (Sealer, Opener) {
        let (one, other) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        let (one, other) = (Identity::new(one).expect("an identity"), Identity::new(other).expect("an identity"));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let addr = listener.local_addr().expect("its address");
        let (dialled, accepted) = tokio::join!(TcpStream::connect(addr), listener.accept());
        let (mut dialled, mut accepted) = (dialled.expect("a stream"), accepted.expect("a stream").0);
        let (initiator, responder) = tokio::join!(
            secure(&mut dialled, ConnectionSide::Initiator, &one),
            secure(&mut accepted, ConnectionSide::Responder, &other),
        );
        let ((their_key, sealer, _), (our_key, _, opener)) = (initiator.expect("secured"), responder.expect("secured"));
        assert_eq!((our_key, their_key), (one.public_key(), other.public_key()));
        (sealer, opener)
    }
}
