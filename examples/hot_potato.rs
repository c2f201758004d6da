//! Hot potato: eight players in a full mesh throw a potato; in whose hands it explodes is out, and the last one wins.
//!
//! Shows a token that travels over a `Topology::Mesh`: whoever has it picks one of its peers and sends it there, so the
//! connections alone make sure that nobody else has it. Players who are out shut their node down, and the mesh shrinks.
//! A referee, who sees every catch and every throw, verifies that the potato is never in two pairs of hands, that no
//! throw gets lost, and that none is caught twice.
//!
//! Run it with
//!
//! ```text
//! cargo run --example hot_potato
//! ```
//!
//! In a terminal, one line shows who holds the potato; elsewhere, and with `EXAMPLE_SHORT=1`, each catch is a line:
//!
//! ```text
//! 8 players, 56 ends of connections
//! round 1: the fuse lasts for 20 throws
//!       0   ada  bob  carol  dan  eve  frank [GRACE] heidi
//!       1   ada  bob  carol  dan [EVE] frank  grace  heidi
//! (and so on)
//!      20   ada  bob  carol  dan  eve  frank  grace [HEIDI]
//! BOOM! heidi is out
//! (six more rounds)
//! grace wins
//! verified: 152 throws, each caught exactly once; the potato was never in two pairs of hands
//!     ada   held it  31 times
//! (and so on)
//! ```
//!
//! Exit code 0 means that there was a winner, and that the referee had nothing to say.

#[path = "common/mod.rs"]
mod common;

use std::{
    io::{self, IsTerminal, Write},
    net::SocketAddr,
    process::ExitCode,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use common::Colour;
use pea2pea::{
    Config, ConnectionSide, Node, Pea2Pea, Topology, connect_nodes,
    protocols::{Reading, Writing},
};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::codec::LengthDelimitedCodec;

#[tokio::main]
async fn main() -> ExitCode {
    let (explosion, mut explosions) = mpsc::unbounded_channel();
    let referee = Arc::new(Mutex::new(Referee::default()));
    let mut players = Vec::new();
    for number in 0..NAMES.len() {
        players.push(Player::start(number, Arc::clone(&referee), explosion.clone()).await);
    }

    let outcome = tokio::select! {
        outcome = play(&players, &mut explosions) => outcome,
        () = common::ctrl_c() => {
            println!("\nthe potato is put down; nobody wins");
            Ok(())
        }
    };
    for player in &players {
        player.node.shut_down().await;
    }
    common::exit(outcome)
}

async fn play(players: &[Player], explosions: &mut mpsc::UnboundedReceiver<usize>) -> io::Result<()> {
    for player in players {
        player.node.toggle_listener().await?;
    }
    connect_nodes(players, Topology::Mesh).await?;
    println!("{} players, {} ends of connections", players.len(), wait_for_mesh(players).await?);

    let mut dice = Dice(if common::is_short() { 1 } else { u64::from(std::process::id()) });
    let mut alive = players.to_vec();
    let mut throws = 0;
    for round in 1.. {
        let fuse = 10 + dice.below(if common::is_short() { 30 } else { 15 }) as u32;
        let first = &alive[dice.below(alive.len())];
        throws += fuse;
        println!("round {round}: the fuse lasts for {fuse} throws");
        first.catch(Potato { throw: 0, fuse }).await;

        let loser = in_time("an explosion", explosions.recv())
            .await?
            .ok_or_else(|| io::Error::other("all the players are gone"))?;
        first.referee().check()?;
        if io::stdout().is_terminal() {
            println!();
        }
        println!("{} {} is out", Colour::Red.paint("BOOM!"), players[loser].name());
        first.referee().is_out[loser] = true;
        players[loser].node.shut_down().await;
        alive.retain(|player| player.number != loser);
        // Else a survivor could throw the next potato to somebody who has just left.
        wait_for_mesh(&alive).await?;
        if alive.len() == 1 {
            break;
        }
    }

    let referee = players[0].referee();
    println!("{}", Colour::Green.paint(format_args!("{} wins", alive[0].name())));
    require(referee.catches == throws + NAMES.len() as u32 - 1, "there are as many catches as throws and first grips")?;
    println!("verified: {throws} throws, each caught exactly once; the potato was never in two pairs of hands");
    for (player, catches) in players.iter().zip(referee.catches_of) {
        println!("    {:5} held it {catches:3} times", player.name());
    }
    Ok(())
}

/// Waits until each player is connected with each other one, and with nobody else; returns the number of ends.
async fn wait_for_mesh(players: &[Player]) -> io::Result<usize> {
    in_time("the mesh", async {
        while players.iter().any(|player| player.node.num_connected() != players.len() - 1) {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await?;
    Ok(Topology::Mesh.num_expected_connections(players.len()))
}

/// What is thrown: one message.
#[derive(Clone, Copy)]
struct Potato {
    /// How often it has been thrown in this round.
    throw: u32,
    /// The throw after which it explodes.
    fuse: u32,
}

/// A node in the mesh.
#[derive(Clone)]
struct Player {
    node: Node,
    number: usize,
    referee: Arc<Mutex<Referee>>,
    /// Where a player reports that the potato has exploded in its hands.
    explosion: mpsc::UnboundedSender<usize>,
}

impl Player {
    async fn start(number: usize, referee: Arc<Mutex<Referee>>, explosion: mpsc::UnboundedSender<usize>) -> Self {
        let node = Node::new(Config {
            name: Some(NAMES[number].to_owned()),
            listener_addr: Some(([127, 0, 0, 1], 0).into()),
            // All the players live on this host.
            max_connections_per_ip: NAMES.len() as u16,
            ..Default::default()
        });
        let player = Self { node, number, referee, explosion };
        player.enable_reading().await;
        player.enable_writing().await;
        player
    }

    /// Holds the potato for a moment, and gets rid of it.
    async fn catch(&self, potato: Potato) {
        self.referee().caught(self.number, potato);
        if !common::is_short() {
            sleep(GRIP).await;
        }

        // The referee has to know before the potato can be seen anywhere else.
        self.referee().thrown(self.number);
        if potato.throw == potato.fuse {
            // The receiver is there until the end of the game.
            let _ = self.explosion.send(self.number);
            return;
        }
        let peers = self.node.connected_addrs();
        let mut dice = Dice(u64::from(potato.throw) << 32 | self.number as u64 ^ u64::from(potato.fuse) << 16);
        let mut message = BytesMut::with_capacity(8);
        message.put_u32(potato.throw + 1);
        message.put_u32(potato.fuse);
        let sent = match peers.is_empty() {
            true => Err(io::ErrorKind::NotConnected.into()),
            false => self.unicast_fast(peers[dice.below(peers.len())], message.freeze()),
        };
        if let Err(error) = sent {
            self.referee().objection = Some(format!("{} could not throw: {error}", self.name()));
        }
    }

    fn name(&self) -> &str {
        self.node.name()
    }

    fn referee(&self) -> MutexGuard<'_, Referee> {
        self.referee.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pea2Pea for Player {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Reading for Player {
    type Message = BytesMut;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        LengthDelimitedCodec::new()
    }

    async fn process_message(&self, _source: SocketAddr, mut message: Self::Message) {
        if message.len() == 8 {
            self.catch(Potato { throw: message.get_u32(), fuse: message.get_u32() }).await;
        }
    }
}

impl Writing for Player {
    type Message = Bytes;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        LengthDelimitedCodec::new()
    }
}

/// Sees every catch and every throw, at the moment it happens; the players do not need it to play.
#[derive(Default)]
struct Referee {
    holder: Option<usize>,
    /// The number of the throw that was caught last, in this round.
    last: Option<Potato>,
    catches: u32,
    catches_of: [u32; NAMES.len()],
    is_out: [bool; NAMES.len()],
    objection: Option<String>,
}

impl Referee {
    fn caught(&mut self, player: usize, potato: Potato) {
        let expected = self.last.map_or(0, |last| if last.throw == last.fuse { 0 } else { last.throw + 1 });
        if self.is_out[player] {
            self.objection = Some(format!("{} caught it, who is out", NAMES[player]));
        } else if let Some(holder) = self.holder {
            self.objection = Some(format!("{} caught what {} still holds", NAMES[player], NAMES[holder]));
        } else if potato.throw != expected {
            self.objection = Some(format!("throw {} was caught instead of throw {expected}", potato.throw));
        }
        self.holder = Some(player);
        self.last = Some(potato);
        self.catches += 1;
        self.catches_of[player] += 1;
        self.show(player, potato.throw);
    }

    fn thrown(&mut self, player: usize) {
        if self.holder != Some(player) {
            self.objection = Some(format!("{} threw what it did not hold", NAMES[player]));
        }
        self.holder = None;
    }

    fn check(&self) -> io::Result<()> {
        match &self.objection {
            None => Ok(()),
            Some(objection) => Err(io::Error::other(format!("the referee: {objection}"))),
        }
    }

    /// Shows who holds the potato: in a line that changes if this is a terminal, in a line of its own otherwise.
    fn show(&self, holder: usize, throw: u32) {
        let mut row = String::new();
        for (player, name) in NAMES.into_iter().enumerate() {
            row += &match () {
                () if player == holder => Colour::Red.paint(format_args!("[{}]", name.to_uppercase())),
                () if self.is_out[player] => Colour::Grey.paint(format_args!(" {} ", "-".repeat(name.len()))),
                () => Colour::of(player).paint(format_args!(" {name} ")),
            };
        }
        let (live, end) = if io::stdout().is_terminal() { ("\r", "") } else { ("", "\n") };
        print!("{live}    {throw:3}  {row}{end}");
        // A picture that is not shown changes nothing.
        let _ = io::stdout().flush();
    }
}

/// Random enough for a game (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mix = self.0;
        mix = (mix ^ (mix >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mix = (mix ^ (mix >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mix ^ (mix >> 31)) % sides as u64) as usize
    }
}

async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> io::Result<T> {
    timeout(PATIENCE, work).await.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("{what} did not come")))
}

fn require(holds: bool, claim: &str) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::Error::other(format!("this does not hold: {claim}"))) }
}

const NAMES: [&str; 8] = ["ada", "bob", "carol", "dan", "eve", "frank", "grace", "heidi"];

/// How long a player holds the potato, when somebody watches.
const GRIP: Duration = Duration::from_millis(120);

/// How long a round, or the mesh, may take; the longest fuse burns for 3 seconds.
const PATIENCE: Duration = Duration::from_secs(20);
