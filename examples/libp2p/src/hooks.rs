//! The five protocols of the kernel, each a part of what libp2p asks for.

use std::{io, net::SocketAddr, time::Duration};

use bytes::{Bytes, BytesMut};
use libp2p_identity::PeerId;
use multistream_select::{NegotiationError, Version, dialer_select_proto, listener_select_proto};
use pea2pea::{
    Connection, ConnectionSide, DisconnectOrigin, Pea2Pea,
    protocols::{Handshake, OnConnect, OnDisconnect, Reading, Writing},
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::{codec::Decoder, compat::TokioAsyncReadCompatExt};

use crate::{
    Event, Libp2p, Peer, invalid, noise,
    noise::{Opener, Sealer},
    session::{self, Command, End, Seed},
    stream::NoiseStream,
};

/// Agrees on Noise, runs it, checks who the peer is, and agrees on Yamux: a connection that is live speaks libp2p.
impl Handshake for Libp2p {
    const TIMEOUT_MS: u64 = 10_000;

    async fn perform_handshake(&self, mut conn: Connection) -> io::Result<Connection> {
        let (addr, own_side) = (conn.addr(), !conn.side());
        let upgraded = self.upgrade(&mut conn, own_side).await;
        let peer = upgraded.inspect_err(|error| {
            self.report(Event::Refused { addr, reason: error.to_string() });
        })?;
        // No await from here until the connection is live: the entry can be left over by a shutdown only.
        self.peers().insert(addr, peer);
        Ok(conn)
    }
}

impl Libp2p {
    async fn upgrade(&self, conn: &mut Connection, own_side: ConnectionSide) -> io::Result<Peer> {
        let addr = conn.addr();
        let tcp = self.borrow_stream(conn);
        tcp.set_nodelay(true)?;

        agree((&mut *tcp).compat(), own_side, "/noise").await?;
        let (key, mut sealer, mut opener) = noise::secure(tcp, own_side, self.identity()).await?;
        let id = key.to_peer_id();
        if own_side == ConnectionSide::Initiator {
            self.check_who_it_is(addr, id)?;
        }
        let mut stream = NoiseStream::new(tcp, &mut sealer, &mut opener);
        agree(&mut stream, own_side, "/yamux/1.0.0").await?;

        let early = stream.into_early_data();
        // A single message may wait here: behind it, the kernel's queue and then TCP make the peer wait.
        let (session, inbound) = mpsc::channel(1);
        let (control, commands) = mpsc::channel(8);
        Ok(Peer {
            id,
            control,
            decoder: Some(Inbox { opener, session }),
            encoder: Some(sealer),
            seed: Some(Seed { own_side, early, inbound, commands }),
        })
    }

    fn check_who_it_is(&self, addr: SocketAddr, id: PeerId) -> io::Result<()> {
        match self.expected(addr) {
            Some(expected) if expected != id => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("{addr} is not {expected}: it has proved to be {id}"),
            )),
            _ => Ok(()),
        }
    }
}

/// multistream-select for one protocol: the side that dialled proposes it.
pub(crate) async fn agree<S>(stream: S, own_side: ConnectionSide, protocol: &'static str) -> io::Result<()>
where
    S: futures_util::io::AsyncRead + futures_util::io::AsyncWrite + Unpin,
{
    let outcome = match own_side {
        ConnectionSide::Initiator => dialer_select_proto(stream, [protocol], Version::V1).await,
        ConnectionSide::Responder => listener_select_proto(stream, [protocol]).await,
    };
    match outcome {
        Ok(_) => Ok(()),
        Err(NegotiationError::Failed) => Err(invalid(match own_side {
            ConnectionSide::Initiator => format!("the peer does not speak {protocol}"),
            ConnectionSide::Responder => format!("the peer left without asking for {protocol}"),
        })),
        Err(NegotiationError::ProtocolError(error)) => {
            let error = io::Error::from(error);
            Err(io::Error::new(error.kind(), format!("no agreement on {protocol}: {error}")))
        }
    }
}

/// A decrypted message, and where it goes to.
///
/// A decoder belongs to one connection, an address to one after another: with the way to the session coming from the
/// decoder, nothing that was read from one connection can get into its successor.
pub struct Delivery {
    plaintext: Bytes,
    session: mpsc::Sender<Bytes>,
}

pub struct Inbox {
    opener: Opener,
    session: mpsc::Sender<Bytes>,
}

impl Decoder for Inbox {
    type Item = Delivery;
    type Error = io::Error;

    fn decode(&mut self, input: &mut BytesMut) -> io::Result<Option<Delivery>> {
        let plaintext = self.opener.decode(input)?;
        Ok(plaintext.map(|plaintext| Delivery { plaintext, session: self.session.clone() }))
    }
}

/// What the kernel reads are Noise messages.
impl Reading for Libp2p {
    /// A message has up to 64 KiB.
    const MESSAGE_QUEUE_DEPTH: usize = 4;

    type Message = Delivery;
    type Codec = Inbox;

    fn codec(&self, addr: SocketAddr, _: ConnectionSide) -> Inbox {
        let mut peers = self.peers();
        peers.get_mut(&addr).and_then(|peer| peer.decoder.take()).expect("the handshake has left a decoder")
    }

    async fn process_message(&self, _: SocketAddr, message: Delivery) {
        // Fails once the session is over, and then the connection is about to end as well.
        let _ = message.session.send(message.plaintext).await;
    }
}

/// What the kernel writes are Noise messages.
impl Writing for Libp2p {
    /// The session has no more than one on its way.
    const MESSAGE_QUEUE_DEPTH: usize = 1;

    type Message = Bytes;
    type Codec = Sealer;

    fn codec(&self, addr: SocketAddr, _: ConnectionSide) -> Sealer {
        let mut peers = self.peers();
        peers.get_mut(&addr).and_then(|peer| peer.encoder.take()).expect("the handshake has left an encoder")
    }
}

/// Runs the session: it may be dropped when the connection ends.
impl OnConnect for Libp2p {
    async fn on_connect(&self, addr: SocketAddr) {
        let seed = self.peers().get_mut(&addr).and_then(|peer| Some((peer.id, peer.seed.take()?)));
        let Some((peer, seed)) = seed else { return };
        self.report(Event::Connected { addr, peer });

        match session::run(self, addr, seed).await {
            // By our own `on_disconnect`, so the ending is under way.
            End::Closed => return,
            // Its socket follows, and that is an ending with its true origin.
            End::ClosedByPeer => tokio::time::sleep(TIME_TO_LEAVE).await,
            // Perhaps because a write was refused: then the connection ends by itself, when what the peer had sent is read.
            End::Failed(error) => {
                self.report(Event::Failed { addr, peer, reason: error.to_string() });
                tokio::time::sleep(TIME_TO_LEAVE).await;
            }
        }
        self.node().disconnect(addr).await;
    }
}

/// Lets the session say goodbye; the kernel flushes it.
impl OnDisconnect for Libp2p {
    const TIMEOUT_MS: u64 = 1_000;

    async fn on_disconnect(&self, addr: SocketAddr, origin: DisconnectOrigin) {
        let Some(Peer { id, control, .. }) = self.peers().remove(&addr) else { return };
        if matches!(origin, DisconnectOrigin::User | DisconnectOrigin::Shutdown) {
            let (done, is_done) = oneshot::channel();
            // Fails if the session is over, and then nobody is left to say goodbye.
            if control.send(Command::Close(done)).await.is_ok() {
                let _ = is_done.await;
            }
        }
        self.report(Event::Disconnected { addr, peer: id, origin });
    }
}

/// How long a peer that has said goodbye, or whose session has failed, may keep its socket.
const TIME_TO_LEAVE: Duration = Duration::from_secs(1);
