//! From the handshake, which makes a session, to `codec()` and `on_disconnect`, which need it: they all know the address.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Opener, PublicKey, Sealer, Session, Wire};

/// The sessions of a node, from handshake to disconnect.
#[derive(Clone, Default)]
pub struct Sessions(Arc<Mutex<HashMap<SocketAddr, Entry>>>);

struct Entry {
    peer: PublicKey,
    outbound: Arc<Wire>,
    inbound: Arc<Wire>,
    sealer: Option<Sealer>,
    opener: Option<Opener>,
}

/// What is known of a session.
#[derive(Debug, Clone)]
pub struct Known {
    pub peer: PublicKey,
    pub outbound: Arc<Wire>,
    pub inbound: Arc<Wire>,
}

impl Sessions {
    /// To be the last thing that a handshake does: the codecs are asked for before anything else can fail.
    pub fn begin(&self, addr: SocketAddr, session: Session) {
        let Session { peer, sealer, opener } = session;
        let (outbound, inbound) = (Arc::clone(sealer.wire()), Arc::clone(opener.wire()));
        let entry = Entry { peer, outbound, inbound, sealer: Some(sealer), opener: Some(opener) };
        self.lock().insert(addr, entry);
    }

    /// The encoder of the session, once. Without a handshake there is none, and the setup fails by this panic.
    pub fn sealer(&self, addr: SocketAddr) -> Sealer {
        self.lock().get_mut(&addr).and_then(|entry| entry.sealer.take()).expect("the handshake has been done")
    }

    /// The decoder of the session, once, as for the encoder.
    pub fn opener(&self, addr: SocketAddr) -> Opener {
        self.lock().get_mut(&addr).and_then(|entry| entry.opener.take()).expect("the handshake has been done")
    }

    /// # Errors
    /// `NotConnected` if there is no session with this address.
    pub fn get(&self, addr: SocketAddr) -> io::Result<Known> {
        let sessions = self.lock();
        let entry = sessions.get(&addr).ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
        Ok(Known { peer: entry.peer, outbound: entry.outbound.clone(), inbound: entry.inbound.clone() })
    }

    /// Forgets the session; to be called by `on_disconnect`.
    pub fn end(&self, addr: SocketAddr) {
        self.lock().remove(&addr);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Entry>> {
        // No user code runs under this lock, and each change of the map is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
