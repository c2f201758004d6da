//! A duel: a handshake in which order and timing matter.
//!
//! Shows what a `Handshake` can do beyond an exchange of versions: it is a whole protocol over the bare stream, before
//! the connection is live and before anything is framed. Both sides
//!
//! 1. name a number of paces, and take the larger one,
//! 2. walk: one byte for each pace, in step; anything else instead of it is cheating, and the handshake refuses the
//!    peer,
//! 3. turn, and wait until the other one has turned: who never does runs into `Handshake::TIMEOUT_MS`,
//! 4. fire as fast as they can: who is hit first says so and has lost.
//!
//! An honest duel ends with a connection, whoever won; a refused or forgotten one leaves nothing at either end.
//!
//! Run it with
//!
//! ```text
//! cargo run --example duel
//! ```
//!
//! You will see (the dots are the paces):
//!
//! ```text
//! alice is quick, bob is slow
//!   10 paces .......... turn!
//!   alice won, bob lost
//!   alice has a connection
//!
//! the other way round: bob dials
//!   10 paces .......... turn!
//!   bob lost, alice won
//!   bob has a connection
//!
//! mallory fires while both are still walking
//!   8 paces .. bang!
//!   alice has no connection: 127.0.0.1:38653 fired at pace 3 of 8
//!
//! rip never turns round, and alice does not wait for ever
//!   7 paces ....... turn!
//!   alice has no connection: the handshake with 127.0.0.1:42813 took longer than Handshake::TIMEOUT_MS, which is 2500
//!
//! verified: 2 duels with a winner, 1 cheat refused, 1 sleeper timed out
//! ```

#[path = "common/mod.rs"]
mod common;

use std::{
    fmt,
    io::{self, Write},
    net::SocketAddr,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use common::Colour;
use pea2pea::{Config, Connection, ConnectionSide, Node, Pea2Pea, protocols::Handshake};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = async {
        let quick = Style { paces: 7, reaction: QUICK, ..Style::default() };
        let slow = Style { paces: 10, reaction: SLOW, ..Style::default() };
        let cheat = Style { paces: 8, reaction: QUICK, fires_at: Some(3), ..Style::default() };
        let sleeper = Style { paces: 4, reaction: SLOW, never_turns: true, ..Style::default() };

        println!("{}", Colour::Cyan.paint("alice is quick, bob is slow"));
        let duel = Duel::fight(("alice", quick), ("bob", slow)).await?;
        duel.require(Some(Verdict::Won), Some(Verdict::Lost))?;
        duel.require_connection(Ok(()))?;

        println!("{}", Colour::Cyan.paint("\nthe other way round: bob dials"));
        let duel = Duel::fight(("bob", slow), ("alice", quick)).await?;
        duel.require(Some(Verdict::Lost), Some(Verdict::Won))?;
        duel.require_connection(Ok(()))?;

        println!("{}", Colour::Cyan.paint("\nmallory fires while both are still walking"));
        let duel = Duel::fight(("alice", quick), ("mallory", cheat)).await?;
        duel.require(None, None)?;
        duel.require_connection(Err(io::ErrorKind::InvalidData))?;

        println!("{}", Colour::Cyan.paint("\nrip never turns round, and alice does not wait for ever"));
        let duel = Duel::fight(("alice", quick), ("rip", sleeper)).await?;
        duel.require(None, None)?;
        duel.require_connection(Err(io::ErrorKind::TimedOut))?;
        require(duel.num_timeouts == 1, "a handshake timeout was counted")?;

        println!("\n{}", Colour::Green.paint("verified: 2 duels with a winner, 1 cheat refused, 1 sleeper timed out"));
        Ok(())
    };
    common::exit(outcome.await)
}

/// What is left of a duel, after both nodes have been shut down.
struct Duel {
    /// What the dial gave.
    dial: io::Result<()>,
    /// How the two saw it: first the one who dialled.
    verdicts: [Option<Verdict>; 2],
    num_connected: [usize; 2],
    /// Of the one who dialled.
    num_timeouts: u64,
}

impl Duel {
    /// Lets the first one dial the second one.
    async fn fight(challenger: (&'static str, Style), challenged: (&'static str, Style)) -> io::Result<Self> {
        let first = Duellist::<USUAL_TIMEOUT_MS>::start(challenger).await;
        let second = Duellist::<PATIENT_TIMEOUT_MS>::start(challenged).await;
        let duel = tokio::select! {
            duel = Self::between(&first, &second) => duel,
            () = common::ctrl_c() => Err(io::Error::other("interrupted")),
        };
        first.node.shut_down().await;
        second.node.shut_down().await;
        duel
    }

    async fn between(first: &Duellist<USUAL_TIMEOUT_MS>, second: &Duellist<PATIENT_TIMEOUT_MS>) -> io::Result<Self> {
        let listening = second.node.toggle_listener().await?;
        let addr = listening.ok_or_else(|| io::Error::other("the listener was switched off"))?;
        let dial = in_time("the end of the duel", first.node.connect(addr)).await?;
        // The second one's setup is over a little earlier or later than the first one's.
        in_time("the end at the other side", async {
            while second.node.num_connecting() > 0 || second.node.num_connected() != usize::from(dial.is_ok()) {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await?;
        let verdicts = [first.verdict(), second.verdict()];
        if let [Some(one), Some(other)] = verdicts {
            println!("  {} {one}, {} {other}", first.name(), second.name());
        }
        match &dial {
            Ok(()) => println!("  {} has a connection", first.name()),
            Err(error) => println!("  {} has no connection: {error}", first.name()),
        }
        Ok(Self {
            dial,
            verdicts,
            num_connected: [first.node.num_connected(), second.node.num_connected()],
            num_timeouts: first.node.heuristics().handshake_timeouts(),
        })
    }

    fn require(&self, first: Option<Verdict>, second: Option<Verdict>) -> io::Result<()> {
        require(self.verdicts == [first, second], &format!("the verdicts are {first:?} and {second:?}"))
    }

    fn require_connection(&self, expected: Result<(), io::ErrorKind>) -> io::Result<()> {
        let given = self.dial.as_ref().map_err(io::Error::kind);
        require(given.copied() == expected, &format!("the dial gives {expected:?}"))?;
        let ends = usize::from(expected.is_ok());
        require(self.num_connected == [ends, ends], &format!("each has {ends} connections"))
    }
}

/// How somebody duels.
#[derive(Clone, Copy, Default)]
struct Style {
    /// How many paces to propose.
    paces: u8,
    /// The time from the turn to the shot.
    reaction: Duration,
    /// The pace at which a cheat fires.
    fires_at: Option<u8>,
    never_turns: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Verdict {
    Won,
    Lost,
    /// Both fired before either was hit.
    BothHit,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Won => "won",
            Self::Lost => "lost",
            Self::BothHit => "fired and was hit",
        })
    }
}

/// A node, with the time that it gives a handshake: a constant of the type, as all settings of the protocols are.
#[derive(Clone)]
struct Duellist<const TIMEOUT_MS: u64> {
    node: Node,
    style: Style,
    verdict: Arc<Mutex<Option<Verdict>>>,
}

impl<const TIMEOUT_MS: u64> Duellist<TIMEOUT_MS> {
    async fn start((name, style): (&'static str, Style)) -> Self {
        let node = Node::new(Config {
            name: Some(name.to_owned()),
            listener_addr: Some(([127, 0, 0, 1], 0).into()),
            ..Default::default()
        });
        let duellist = Self { node, style, verdict: Arc::default() };
        duellist.enable_handshake().await;
        duellist
    }

    /// The whole protocol; the same at both ends.
    async fn duel(&self, stream: &mut TcpStream, peer: SocketAddr, is_watched: bool) -> io::Result<Verdict> {
        stream.write_u8(self.style.paces).await?;
        let paces = stream.read_u8().await?.max(self.style.paces);
        if is_watched {
            print!("  {paces} paces ");
        }

        for pace in 1..=paces {
            sleep(pace_time()).await;
            let step = if self.style.fires_at == Some(pace) { FIRE } else { PACE };
            stream.write_u8(step).await?;
            let theirs = stream.read_u8().await?;
            if theirs != PACE {
                if is_watched {
                    println!(" {}", if theirs == FIRE { "bang!" } else { "stop!" });
                }
                // Whoever waits there learns that it is over.
                stream.write_u8(REFUSED).await?;
                let cheat = format!("{peer} {} at pace {pace} of {paces}", name_of(theirs));
                return Err(io::Error::new(io::ErrorKind::InvalidData, cheat));
            }
            if is_watched {
                print!(".");
                // Dots that are not shown change nothing.
                let _ = io::stdout().flush();
            }
        }
        if is_watched {
            println!(" turn!");
        }

        if self.style.never_turns {
            // Until the other one has gone home.
            loop {
                stream.read_u8().await?;
            }
        }
        stream.write_u8(TURN).await?;
        expect(stream, peer, TURN).await?;

        tokio::select! {
            shot = stream.read_u8() => match shot? {
                FIRE => {
                    stream.write_u8(HIT).await?;
                    Ok(Verdict::Lost)
                }
                other => Err(against_the_rules(peer, other)),
            },
            () = sleep(self.style.reaction) => {
                stream.write_u8(FIRE).await?;
                match stream.read_u8().await? {
                    HIT => Ok(Verdict::Won),
                    FIRE => Ok(Verdict::BothHit),
                    other => Err(against_the_rules(peer, other)),
                }
            }
        }
    }

    fn verdict(&self) -> Option<Verdict> {
        *self.verdict.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name(&self) -> &str {
        self.node.name()
    }
}

impl<const TIMEOUT_MS: u64> Pea2Pea for Duellist<TIMEOUT_MS> {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl<const TIMEOUT_MS: u64> Handshake for Duellist<TIMEOUT_MS> {
    const TIMEOUT_MS: u64 = TIMEOUT_MS;

    async fn perform_handshake(&self, mut conn: Connection) -> io::Result<Connection> {
        let peer = conn.addr();
        // The one who dialled tells how it goes: its peer is the `Responder`.
        let is_watched = conn.side() == ConnectionSide::Responder;
        let stream = self.borrow_stream(&mut conn);
        // A shot must not wait for the acknowledgement of the pace before it.
        stream.set_nodelay(true)?;

        let verdict = self.duel(stream, peer, is_watched).await?;
        *self.verdict.lock().unwrap_or_else(PoisonError::into_inner) = Some(verdict);
        Ok(conn)
    }
}

const PACE: u8 = b'.';
const TURN: u8 = b'T';
const FIRE: u8 = b'*';
const HIT: u8 = b'x';
const REFUSED: u8 = b'!';

async fn expect(stream: &mut TcpStream, peer: SocketAddr, expected: u8) -> io::Result<()> {
    match stream.read_u8().await? {
        byte if byte == expected => Ok(()),
        other => Err(against_the_rules(peer, other)),
    }
}

fn against_the_rules(peer: SocketAddr, byte: u8) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{peer} {} against the rules", name_of(byte)))
}

fn name_of(byte: u8) -> &'static str {
    match byte {
        PACE => "walked",
        TURN => "turned",
        FIRE => "fired",
        HIT => "fell",
        REFUSED => "refused",
        _ => "did something unknown",
    }
}

async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> io::Result<T> {
    timeout(PATIENCE, work).await.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("{what} did not come")))
}

fn require(holds: bool, claim: &str) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::Error::other(format!("this does not hold: {claim}"))) }
}

fn pace_time() -> Duration {
    Duration::from_millis(if common::is_short() { 5 } else { 100 })
}

/// The time from the turn to the shot, so different that a busy machine does not change who wins.
const QUICK: Duration = Duration::from_millis(40);
const SLOW: Duration = Duration::from_millis(700);

/// Long enough for the longest walk and the slowest shot.
const USUAL_TIMEOUT_MS: u64 = 2_500;

/// Longer than that: so it is always the same one of the two who gives up, and the story is the same each time.
const PATIENT_TIMEOUT_MS: u64 = 8_000;

/// How long a duel may take: more than the timeout of the handshake.
const PATIENCE: Duration = Duration::from_secs(10);
