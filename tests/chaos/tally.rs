//! What has happened so far, counted.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! events {
    ($($name:ident: $text:literal,)*) => {
        /// Something that is counted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Event {
            $(#[doc = $text] $name,)*
        }

        impl Event {
            pub const ALL: &[(Self, &str)] = &[$((Self::$name, $text)),*];
        }
    };
}

events! {
    Spawned: "nodes spawned",
    ShutDown: "nodes shut down",
    OnConnect: "on_connect begun",
    OnDisconnect: "on_disconnect begun",
    Pair: "pairs of both",
    Encoded: "messages encoded",
    Decoded: "messages decoded",
    Processed: "messages processed",
    Dialled: "dials that succeeded",
    DialRefusedByLimit: "dials refused by a limit",
    DialRefusedAsDuplicate: "dials refused as duplicates",
    DialRefusedByClosing: "dials refused by a shutdown",
    DialOfItself: "dials of a node's own address",
    DialTimedOut: "dials out of time",
    DialFailed: "dials that failed otherwise",
    Disconnected: "disconnects that ended a connection",
    NotDisconnected: "disconnects that did not",
    EndedByReading: "endings by Reading",
    EndedByWriting: "endings by Writing",
    EndedByUser: "endings by disconnect",
    EndedByShutdown: "endings by shut_down",
    EndedByOnConnect: "endings by on_connect",
    Listening: "listeners switched on again",
    NotListening: "listeners switched off",
    Queued: "messages queued",
    QueueFull: "messages refused by a full queue",
    NotQueued: "messages refused otherwise",
    Broadcast: "broadcasts",
    ReceiptConfirmed: "receipts that confirmed",
    ReceiptFailed: "receipts that told of an error",
    ReceiptGone: "receipts of connections that went away",
    Replied: "replies queued",
    NotReplied: "replies refused while others send, or after the end",
    Relayed: "messages passed on",
    RelayedToAll: "messages passed on to all",
    Computed: "messages that took long to process",
    LastWord: "last words confirmed",
    LastWordOfAnother: "last words on connections that another call ended",
    LastWordLate: "last words whose farewell took too long",
    LastWordAbandoned: "last words to an end that ended by itself",
    LastWordUnheard: "last words to an end that never lived, or not any more",
    LastWordKept: "last words reconciled",
    LastWordBothWays: "of these, while the other end talked on",
    ShutDownWithWords: "shut_downs with last words",
    DisconnectedOutside: "disconnects outside of a runtime",
    RuntimeVanished: "runtimes dropped with a live connection",
    OnConnectVanished: "on_connect that went with their runtime",
    CancelledConnect: "connects cancelled",
    CancelledDisconnect: "disconnects cancelled",
    CancelledShutDown: "shut_downs cancelled",
    CancelledToggle: "toggles cancelled",
    InboundRejected: "connections rejected by a limit",
    BudgetRejected: "dials refused by the setup budget",
    HandshakeTimedOut: "handshakes out of time",
    WriteTimedOut: "flushes out of time",
    IdleTimedOut: "idle timeouts",
    Wrapped: "streams wrapped by a handshake",
    StreamKept: "streams not given back by a handshake",
    HandshakeFailed: "handshakes failed on purpose",
    HandshakeHung: "handshakes hung on purpose",
    PanickedInHandshake: "panics in perform_handshake",
    PanickedInReadingCodec: "panics in Reading::codec",
    PanickedInWritingCodec: "panics in Writing::codec",
    PanickedInDecode: "panics in decode",
    PanickedInEncode: "panics in encode",
    PanickedInProcess: "panics in process_message",
    PanickedInOnConnect: "panics in on_connect",
    PanickedInOnDisconnect: "panics in on_disconnect",
    DecodeFailed: "decode errors on purpose",
    EncodeFailed: "encode errors on purpose",
    ProcessHung: "messages processed without end",
    OnDisconnectHung: "on_disconnect without end",
    DialledInHook: "connects inside hooks",
    DisconnectedInHook: "disconnects inside hooks",
    ShutDownInHook: "shut_downs inside hooks",
    StrangerDialled: "raw sockets that dialled",
    StrangerAccepted: "raw sockets that were dialled",
    StrangerReset: "raw sockets that were reset",
    StrangerHalfClosed: "raw sockets that were half-closed",
    StrangerKept: "raw sockets kept open in silence",
    StrangerLied: "raw sockets that sent garbage or half a frame",
    StrangerSpoke: "raw sockets that greeted",
    StrangerFlooded: "raw sockets that are flooded and never read",
    StrangerPipelined: "raw sockets that sent all their requests at once",
    StrangerAnswered: "of these, raw sockets that got all their answers",
    StrangerLastWord: "raw sockets that closed behind a last word",
    StrangerLastWordKept: "of these, last words reconciled",
    Burst: "bursts of extra workers",
    Samples: "samples of a node's limits",
    AtLimit: "samples of a node at its limit",
}

/// A counter for each event.
#[derive(Debug)]
pub struct Tally(Vec<AtomicU64>);

impl Default for Tally {
    fn default() -> Self {
        Self(Event::ALL.iter().map(|_| AtomicU64::new(0)).collect())
    }
}

impl Tally {
    pub fn add(&self, event: Event, times: u64) {
        self.0[event as usize].fetch_add(times, Relaxed);
    }

    pub fn of(&self, event: Event) -> u64 {
        self.0[event as usize].load(Relaxed)
    }
}
