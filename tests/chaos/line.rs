//! What is known of one end of a connection from its handshake on.

use std::{
    net::SocketAddr,
    sync::atomic::{
        AtomicBool, AtomicU32, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};

use pea2pea::DisconnectOrigin;

use crate::{frames::Speaker, outside, peer::Peer};

/// What the two directions of a live connection have in common.
#[derive(Debug)]
pub struct Line {
    /// This connection, and no other of this test.
    pub number: u64,
    pub addr: SocketAddr,
    /// Who is at the other end.
    pub peer: Speaker,
    /// Whether its runtime will go away before the node does.
    pub is_foreign: bool,
    /// How many of the peer's messages have begun to be processed.
    pub processed: AtomicU64,
    pub is_processing: AtomicBool,
    /// How many messages have been encoded and decoded.
    pub encoded: AtomicU64,
    pub decoded: AtomicU64,
    /// How many messages `process_message` has tried to send back, and the last one of them that was taken.
    pub replies: AtomicU32,
    pub last_reply: AtomicU32,
    /// How many other messages somebody has tried to send.
    pub other_sends: AtomicU64,
    /// Whether a hook or a codec has made this end end, or not listen.
    is_spoiled: AtomicBool,
    /// What was counted when it began.
    before: Counts,
}

/// What a node counts that tells of a connection's end, or of its messages, without telling of which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counts {
    idle_timeouts: u64,
    write_timeouts: u64,
    broadcasts: u64,
}

impl Counts {
    fn of(peer: &Peer) -> Self {
        let heuristics = peer.node.heuristics();
        Self {
            idle_timeouts: heuristics.idle_timeouts(),
            write_timeouts: heuristics.write_timeouts(),
            broadcasts: peer.broadcasts.load(SeqCst),
        }
    }
}

impl Line {
    pub fn new(peer: &Peer, number: u64, addr: SocketAddr, other: Speaker) -> Self {
        Self {
            number,
            addr,
            peer: other,
            is_foreign: outside::is_foreign(),
            processed: AtomicU64::new(0),
            is_processing: AtomicBool::new(false),
            encoded: AtomicU64::new(0),
            decoded: AtomicU64::new(0),
            replies: AtomicU32::new(0),
            last_reply: AtomicU32::new(0),
            other_sends: AtomicU64::new(0),
            is_spoiled: AtomicBool::new(false),
            before: Counts::of(peer),
        }
    }

    /// To be called before a hook or a codec does something that ends the connection, or keeps messages from being processed.
    pub fn spoil(&self) {
        self.is_spoiled.store(true, Relaxed);
    }

    /// Whether this end ended, for such a reason, because the other one did: then all that arrived was processed before.
    ///
    /// A timeout of the node's while this connection lived may have been its own.
    pub fn has_followed(&self, peer: &Peer, origin: DisconnectOrigin) -> bool {
        let now = Counts::of(peer);
        let is_own = match origin {
            DisconnectOrigin::Reading | DisconnectOrigin::Writing => {
                now.idle_timeouts != self.before.idle_timeouts || now.write_timeouts != self.before.write_timeouts
            }
            DisconnectOrigin::OnConnectAbort | DisconnectOrigin::Shutdown | DisconnectOrigin::User => true,
        };
        !is_own && !self.is_foreign && !self.is_spoiled.load(Relaxed)
    }

    /// Whether nobody but `process_message` has sent anything.
    pub fn is_undisturbed(&self, peer: &Peer) -> bool {
        self.other_sends.load(SeqCst) == 0 && Counts::of(peer).broadcasts == self.before.broadcasts
    }
}
