//! The vocabulary of the table: what a peer does, what it attacks, and what is to be seen of it.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use pea2pea::DisconnectOrigin;

/// The deadline that is short where a row is about it.
pub const SHORT: Duration = Duration::from_millis(SHORT_MS);
pub const SHORT_MS: u64 = 250;

/// One step of a peer; a peer that has been turned away skips all steps that need the victim.
#[derive(Debug, Clone)]
pub enum Step {
    Send(Vec<u8>),
    /// Sends byte by byte, with a pause after each.
    Trickle(Vec<u8>, Duration),
    /// Sends the same bytes so many times.
    Flood(Vec<u8>, usize),
    /// Sends the same bytes until the socket takes no more.
    SendUntilBlocked(Vec<u8>),
    /// Sends the greeting and waits for the answer; it may be turned away.
    TryGreet,
    /// Reads exactly these bytes.
    Expect(Vec<u8>),
    /// Reads exactly these bytes and then a clean end, not a reset.
    ExpectEof(Vec<u8>),
    /// Reads exactly these bytes and then the end, whatever comes behind it.
    ExpectEnd(Vec<u8>),
    /// Reads until the victim ends or resets the connection.
    ReadUntilEnd,
    /// Reads at most so many bytes at a time, with a pause after each, until the victim ends the connection.
    ReadSlowly(usize, Duration),
    /// Sends back whatever comes, until the victim ends the connection.
    Mirror,
    ShutWr,
    ShutRd,
    /// Closes with `SO_LINGER` 0.
    Reset,
    /// Keeps the socket open and does nothing with it, until the verdict is in.
    Hold,
    /// The same, but reads at most so many bytes at a time, with a pause after each.
    HoldAndRead(usize, Duration),
}

/// How a peer and the victim meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meeting {
    /// The peer dials the victim.
    Dials,
    /// The victim is made to dial the peer.
    IsDialled,
    /// The victim is made to dial the peer, and is then dialled back from that very address.
    IsDialledAndDialsBack,
    /// The victim is made to dial the peer, which never accepts, and whose backlog is full.
    IsABlackHole,
    /// The victim is made to dial a port of the peer on which nobody listens.
    Refuses,
    /// The victim is made to dial its own port at this address; `None`: its own address as it is bound.
    IsTheVictim(Option<IpAddr>),
}

/// What a peer waits for before it begins.
#[derive(Debug, Clone, Copy)]
pub enum After {
    Nothing,
    /// So many live connections.
    Live(usize),
    /// So many connections being set up.
    Pending(usize),
}

/// One thread with one socket, or with many that do each step in turn.
#[derive(Debug, Clone)]
pub struct Peer {
    pub meeting: Meeting,
    pub script: Vec<Step>,
    /// How many sockets do each step.
    pub crowd: usize,
    /// How often all of it is done, each time with new sockets.
    pub rounds: usize,
    /// Where the sockets are bound, one after the other and then again from the first.
    pub sources: Vec<IpAddr>,
    /// Whether every round uses the port of the first one.
    pub keeps_port: bool,
    /// Whether the receive buffers are as small as they get.
    pub is_tight: bool,
    pub after: After,
}

pub fn meets(meeting: Meeting, script: impl Into<Vec<Step>>) -> Peer {
    Peer {
        meeting,
        script: script.into(),
        crowd: 1,
        rounds: 1,
        sources: Vec::new(),
        keeps_port: false,
        is_tight: false,
        after: After::Nothing,
    }
}

pub fn dials(script: impl Into<Vec<Step>>) -> Peer {
    meets(Meeting::Dials, script)
}

pub fn is_dialled(script: impl Into<Vec<Step>>) -> Peer {
    meets(Meeting::IsDialled, script)
}

impl Peer {
    pub fn crowd(self, crowd: usize) -> Self {
        Self { crowd, ..self }
    }

    pub fn rounds(self, rounds: usize) -> Self {
        Self { rounds, ..self }
    }

    pub fn at(self, source: &str) -> Self {
        Self { sources: vec![source.parse().unwrap()], ..self }
    }

    /// Each socket of the crowd has an address of its own.
    pub fn everywhere(self) -> Self {
        let source = |number: usize| Ipv4Addr::new(127, 1, (number / 250) as u8, (number % 250 + 1) as u8).into();
        Self { sources: (0..self.crowd).map(source).collect(), ..self }
    }

    pub fn at_one_port(self) -> Self {
        Self { keeps_port: true, ..self.at("127.0.0.1") }
    }

    pub fn tight(self) -> Self {
        Self { is_tight: true, ..self }
    }

    pub fn after(self, after: After) -> Self {
        Self { after, ..self }
    }
}

/// Which of the victim's clocks is short; the others are out of the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clocks {
    Patient,
    ShortHandshake,
    ShortIdle,
    ShortFlush,
}

/// What is attacked; see `victim.rs`.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    pub clocks: Clocks,
    pub listens_at: &'static str,
    pub max_connections: u16,
    pub max_connections_per_ip: u16,
    pub max_connecting: u16,
    pub max_frame: usize,
    /// Whether an ending waits until a newcomer has been rejected.
    pub lingers: bool,
    /// Whether the first `on_connect` waits until somebody else is live at its address, and panics then.
    pub haunts: bool,
}

/// All limits are out of the way.
pub const PATIENT: Setting = Setting {
    clocks: Clocks::Patient,
    listens_at: "127.0.0.1:0",
    max_connections: 1_000,
    max_connections_per_ip: 1_000,
    max_connecting: 1_000,
    max_frame: MAX_FRAME,
    lingers: false,
    haunts: false,
};
pub const SHORT_HANDSHAKE: Setting = Setting { clocks: Clocks::ShortHandshake, ..PATIENT };
pub const SHORT_IDLE: Setting = Setting { clocks: Clocks::ShortIdle, ..PATIENT };
pub const SHORT_FLUSH: Setting = Setting { clocks: Clocks::ShortFlush, ..PATIENT };

/// The largest payload that the victim decodes.
pub const MAX_FRAME: usize = 64 * 1024;

/// What stands between a row and the end that it would have otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defence {
    HandshakeDeadline,
    IdleTimeout,
    WriteTimeout,
    FrameLimit,
    NodeLimit,
    IpLimit,
    SetupLimit,
}

impl Setting {
    /// The same victim with one defence switched off.
    pub fn without(self, defence: Defence) -> Self {
        match defence {
            Defence::HandshakeDeadline | Defence::IdleTimeout | Defence::WriteTimeout => {
                Self { clocks: Clocks::Patient, ..self }
            }
            Defence::FrameLimit => Self { max_frame: 8_000_000, ..self },
            Defence::NodeLimit => Self { max_connections: PATIENT.max_connections, ..self },
            Defence::IpLimit => Self { max_connections_per_ip: PATIENT.max_connections_per_ip, ..self },
            Defence::SetupLimit => Self { max_connecting: PATIENT.max_connecting, ..self },
        }
    }
}

/// What the owner of the victim does once all peers hold or are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    Watches,
    Disconnects,
    ShutsDown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    Is(u64),
    AtMost(u64),
}

impl Count {
    pub fn admits(self, actual: u64) -> bool {
        match self {
            Self::Is(expected) => actual == expected,
            Self::AtMost(most) => actual <= most,
        }
    }
}

/// The ends of connections that went live, by origin.
#[derive(Debug, Clone, Copy)]
pub enum Ends {
    Are(&'static [(DisconnectOrigin, usize)]),
    /// Any of these origins, at most so many in all.
    Among(&'static [DisconnectOrigin], usize),
}

/// What the victim's owner sees of an attack, when it is over; connections that are not mentioned did not go live.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    pub ends: Ends,
    /// Handshakes that began.
    pub handshakes: Count,
    /// Complete messages.
    pub received: Count,
    /// As in `Heuristics`, like the next four.
    pub rejected: Count,
    pub handshake_timeouts: u64,
    pub idle_timeouts: u64,
    pub write_timeouts: u64,
    pub budget_rejections: u64,
    /// Lines above `DEBUG`.
    pub logged: Count,
    /// How many of the victim's own dials succeed.
    pub dials_succeed: usize,
    /// What kinds of errors the others have.
    pub dials_fail: &'static [ErrorKind],
}

/// So many handshakes began, and that is all.
pub const fn handshakes(count: u64) -> Seen {
    Seen {
        ends: Ends::Are(&[]),
        handshakes: Count::Is(count),
        received: Count::Is(0),
        rejected: Count::Is(0),
        handshake_timeouts: 0,
        idle_timeouts: 0,
        write_timeouts: 0,
        budget_rejections: 0,
        logged: Count::Is(0),
        dials_succeed: 0,
        dials_fail: &[],
    }
}

/// One connection went live and ended like this, after so many messages.
pub const fn lives_until(end: &'static [(DisconnectOrigin, usize)], received: u64) -> Seen {
    Seen { ends: Ends::Are(end), received: Count::Is(received), ..handshakes(1) }
}

/// One row of the table.
#[derive(Debug, Clone)]
pub struct Row {
    pub peers: Vec<Peer>,
    pub victim: Setting,
    pub owner: Owner,
    /// Live connections while the peers hold.
    pub live: usize,
    /// Connections being set up while the peers hold.
    pub pending: usize,
    pub seen: Seen,
    /// What is seen takes at least this long.
    pub not_before: Duration,
    /// What has to be switched off for the row not to hold.
    pub defence: Option<Defence>,
}

pub fn attack(peers: impl Into<Vec<Peer>>, seen: Seen) -> Row {
    Row {
        peers: peers.into(),
        victim: PATIENT,
        owner: Owner::Watches,
        live: 0,
        pending: 0,
        seen,
        not_before: Duration::ZERO,
        defence: None,
    }
}

impl Row {
    pub fn on(self, victim: Setting) -> Self {
        Self { victim, ..self }
    }

    /// What is seen is due to the defence; it takes so long to act.
    pub fn thanks_to(self, defence: Defence, not_before: Duration) -> Self {
        Self { defence: Some(defence), not_before, ..self }
    }

    pub fn not_before(self, not_before: Duration) -> Self {
        Self { not_before, ..self }
    }

    pub fn held_live(self, live: usize) -> Self {
        Self { live, ..self }
    }

    pub fn held_pending(self, pending: usize) -> Self {
        Self { pending, ..self }
    }

    pub fn owner(self, owner: Owner) -> Self {
        Self { owner, ..self }
    }
}

/// Rows by name, each a test of its own; `all` lists them for the canaries.
macro_rules! rows {
    ($($(#[$about:meta])* $name:ident => $row:expr;)+) => {
        pub fn all() -> Vec<(&'static str, crate::row::Row)> {
            vec![$((stringify!($name), $row)),+]
        }

        $(
            $(#[$about])*
            #[test]
            fn $name() {
                crate::verdict::assert_holds(&$row);
            }
        )+
    };
}
pub(crate) use rows;
