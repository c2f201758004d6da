//! Noise on the kernel's own read and write loops: the handshake on the bare stream, and a cipher in each codec.
//!
//! A pair of static keys is who somebody is. The pattern XX tells each side the other's key and proves it; with a secret
//! that both have been given before (`XXpsk3`), also who does not know the secret stays outside. What encrypts and what
//! decrypts share nothing, so the two directions of a connection never wait for each other.

mod cipher;
mod codec;
mod sessions;
#[cfg(test)]
mod tests;

use std::{fmt, io};

use pea2pea::ConnectionSide;
use snow::{Builder, HandshakeState};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::invalid;
use cipher::Cipher;
pub use codec::{Ending, MAX_MESSAGE, Opener, Outgoing, Sealer, Wire};
pub use sessions::Sessions;

/// A long-lived pair of keys.
pub struct Identity {
    private: Vec<u8>,
    public: PublicKey,
}

impl Identity {
    /// Makes a new one.
    pub fn generate() -> io::Result<Self> {
        let keys = builder(PATTERN)?.generate_keypair().map_err(io::Error::other)?;
        Ok(Self { private: keys.private, public: PublicKey::from_slice(&keys.public)? })
    }

    /// The half that others may know.
    pub fn public(&self) -> PublicKey {
        self.public
    }
}

/// Who somebody is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    fn from_slice(key: &[u8]) -> io::Result<Self> {
        key.try_into().map(Self).map_err(|_| invalid("a key has 32 bytes"))
    }

    /// The bytes of the key.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    /// As much of it as people compare.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A secret that all members have been given.
pub type SharedSecret = [u8; 32];

/// What a handshake leaves: who the other side is, and a codec for each direction.
pub struct Session {
    /// The other side.
    pub peer: PublicKey,
    /// The encoder.
    pub sealer: Sealer,
    /// The decoder.
    pub opener: Opener,
}

/// Runs the handshake over the bare stream.
///
/// `is_trusted` is asked for the other side's key as soon as that is proven: before the dialler shows its own key, and before
/// the listener says that the dialler is welcome. Only that last word tells a dialler that it was let in.
///
/// # Errors
/// `PermissionDenied` if the key is not trusted, `InvalidData` if something does not decrypt (another secret, another protocol,
/// somebody in the middle), or what the stream says.
pub async fn secure(
    stream: &mut TcpStream,
    own_side: ConnectionSide,
    identity: &Identity,
    secret: Option<&SharedSecret>,
    is_trusted: impl Fn(&PublicKey) -> bool,
) -> io::Result<Session> {
    let mut builder = builder(if secret.is_some() { PATTERN_WITH_SECRET } else { PATTERN })?
        .local_private_key(&identity.private)
        .and_then(|builder| builder.prologue(PROLOGUE))
        .map_err(io::Error::other)?;
    if let Some(secret) = secret {
        builder = builder.psk(SECRET_MODIFIER, secret).map_err(io::Error::other)?;
    }

    let check = |state: &HandshakeState| {
        let peer = PublicKey::from_slice(state.get_remote_static().ok_or_else(|| invalid("the peer has no key"))?)?;
        match is_trusted(&peer) {
            true => Ok(peer),
            false => {
                let reason = format!("the key {peer} is not trusted");
                Err(io::Error::new(io::ErrorKind::PermissionDenied, reason))
            }
        }
    };

    match own_side {
        ConnectionSide::Initiator => {
            let mut state = builder.build_initiator().map_err(io::Error::other)?;
            send(stream, &mut state).await?;
            receive(stream, &mut state).await?;
            let peer = check(&state)?;
            send(stream, &mut state).await?;
            let (to_listener, to_dialler) = state.dangerously_get_raw_split();
            let mut inbound = Cipher::new(&to_dialler)?;
            inbound.open(&mut receive_bytes(stream).await.map_err(not_let_in)?)?;
            Ok(Session::new(peer, Cipher::new(&to_listener)?, inbound))
        }
        ConnectionSide::Responder => {
            let mut state = builder.build_responder().map_err(io::Error::other)?;
            receive(stream, &mut state).await?;
            send(stream, &mut state).await?;
            receive(stream, &mut state).await?;
            let peer = check(&state)?;
            let (to_listener, to_dialler) = state.dangerously_get_raw_split();
            let mut outbound = Cipher::new(&to_dialler)?;
            send_bytes(stream, &outbound.seal(&mut [])?).await?;
            Ok(Session::new(peer, outbound, Cipher::new(&to_listener)?))
        }
    }
}

impl Session {
    fn new(peer: PublicKey, outbound: Cipher, inbound: Cipher) -> Self {
        Self { peer, sealer: Sealer::new(outbound), opener: Opener::new(inbound) }
    }
}

async fn send(stream: &mut TcpStream, state: &mut HandshakeState) -> io::Result<()> {
    let mut message = [0; MAX_HANDSHAKE_MESSAGE];
    let length = state.write_message(&[], &mut message).map_err(io::Error::other)?;
    send_bytes(stream, &message[..length]).await
}

async fn receive(stream: &mut TcpStream, state: &mut HandshakeState) -> io::Result<()> {
    let message = receive_bytes(stream).await?;
    let mut payload = [0; MAX_HANDSHAKE_MESSAGE];
    match state.read_message(&message, &mut payload) {
        Ok(_) => Ok(()),
        Err(error) => Err(invalid(format!("the handshake fails: {error}"))),
    }
}

async fn send_bytes(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await
}

/// Reads exactly one message: what comes behind it belongs to the codec.
async fn receive_bytes(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > MAX_HANDSHAKE_MESSAGE {
        return Err(invalid(format!("a handshake message of {length} bytes: the peer speaks something else")));
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

fn not_let_in(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
            io::Error::new(io::ErrorKind::PermissionDenied, "the listener did not let us in")
        }
        _ => error,
    }
}

fn builder(pattern: &str) -> io::Result<Builder<'static>> {
    pattern.parse().map(Builder::new).map_err(io::Error::other)
}

const PATTERN: &str = "Noise_XX_25519_AESGCM_SHA256";
const PATTERN_WITH_SECRET: &str = "Noise_XXpsk3_25519_AESGCM_SHA256";

/// The secret is mixed in with the third message, which is what the 3 in the pattern's name means.
const SECRET_MODIFIER: u8 = 3;

/// Both sides have to mean the same protocol.
const PROLOGUE: &[u8] = b"pea2pea noise example 1";

/// No message of these patterns is longer than 96 bytes.
const MAX_HANDSHAKE_MESSAGE: usize = 128;
