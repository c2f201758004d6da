//! The telephone game: a sentence is whispered down a line of nodes, and a sound gets lost at each hop.
//!
//! Shows how a node hands a message on: the nodes stand in a `Topology::Line`, and each of them knows its successor as
//! the peer that it dialled itself (`ConnectionSide::Responder`). At the end of each round, what the last player heard
//! is compared with what the chain of all the mishearings gives.
//!
//! Run it with
//!
//! ```text
//! cargo run --example telephone_game
//! cargo run --example telephone_game -- "your own sentence"
//! ```
//!
//! Each run goes wrong in another way (with `EXAMPLE_SHORT=1`, always in the same one). You will see, in colour and one
//! line at a time:
//!
//! ```text
//! 9 players stand in a line, with 16 ends of connections
//! ada   thinks of   "peter piper picked a peck of pickled peppers"
//! bob   understands "peter piper picked a pekk of pickled peppers" (c became k)
//! carol understands "peter piper picged a pekk of pickled peppers" (k became g)
//! dan   understands "peter piper picged a pekk of picklid peppers" (e became i)
//! (the next four)
//! ivan  understands "betir pipel picged a pekk op picklid pippers" (e became i)
//! verified: after 8 hops it is exactly "betir pipel picged a pekk op picklid pippers"
//! (two more sentences)
//! all 9 players have hung up
//! ```
//!
//! Exit code 0 means that every player heard exactly what the one before whispered.

#[path = "common/mod.rs"]
mod common;

use std::{env, io, net::SocketAddr, process::ExitCode, time::Duration};

use bytes::{Bytes, BytesMut};
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
    let (heard_by, mut heard) = mpsc::unbounded_channel();
    let seed = if common::is_short() { 7 } else { u64::from(std::process::id()) };
    let mut line = Vec::new();
    for (number, name) in NAMES.into_iter().enumerate() {
        line.push(Player::start(number, name, seed, heard_by.clone()).await);
    }

    let outcome = play(&line, &mut heard).await;
    for player in &line {
        player.node.shut_down().await;
    }
    common::exit(outcome)
}

async fn play(line: &[Player], heard: &mut mpsc::UnboundedReceiver<Whisper>) -> io::Result<()> {
    for player in line {
        player.node.toggle_listener().await?;
    }
    connect_nodes(line, Topology::Line).await?;
    let expected = Topology::Line.num_expected_connections(line.len());
    // A dial is over when the dialling end is live; the other one may need a moment longer.
    in_time("the line", async {
        while line.iter().map(|player| player.node.num_connected()).sum::<usize>() < expected {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await?;
    println!("{} players stand in a line, with {expected} ends of connections", line.len());

    let own: Vec<String> = env::args().skip(1).collect();
    if own.is_empty() {
        for sentence in SENTENCES {
            round(line, heard, sentence).await?;
        }
    } else {
        round(line, heard, &own.join(" ")).await?;
    }

    for player in line {
        player.node.shut_down().await;
        require(player.node.num_connected() == 0, "nobody holds a line any more")?;
    }
    println!("all {} players have hung up", line.len());
    Ok(())
}

/// Whispers one sentence down the line; fails unless each player hears what the one before made of it.
async fn round(line: &[Player], heard: &mut mpsc::UnboundedReceiver<Whisper>, sentence: &str) -> io::Result<()> {
    println!("{} thinks of   {:?}", line[0].label(), sentence);
    line[0].whisper(sentence)?;

    let mut before = sentence.to_owned();
    for listener in &line[1..] {
        let Whisper { listener: number, text } =
            in_time("a whisper", heard.recv()).await?.ok_or_else(|| io::Error::other("all the players are gone"))?;
        require(number == listener.number, "the players are reached in the order in which they stand")?;
        println!("{} understands {}", listener.label(), show_change(&before, &text));
        before = text;
    }

    // The speakers are all but the last one; each of them garbles once.
    let chain = line[..line.len() - 1]
        .iter()
        .fold(sentence.to_owned(), |text, speaker| garble(&text, speaker.seed, speaker.number));
    require(before == chain, "the end of the line heard what the chain of mishearings gives")?;
    let hops = line.len() - 1;
    println!("{}", Colour::Green.paint(format_args!("verified: after {hops} hops it is exactly {chain:?}\n")));
    Ok(())
}

/// A node in the line.
#[derive(Clone)]
struct Player {
    node: Node,
    number: usize,
    /// Decides, together with the number, which sound this player gets wrong.
    seed: u64,
    /// Where the audience learns what this player has heard.
    heard_by: mpsc::UnboundedSender<Whisper>,
}

/// What a player has heard.
struct Whisper {
    listener: usize,
    text: String,
}

impl Player {
    async fn start(number: usize, name: &str, seed: u64, heard_by: mpsc::UnboundedSender<Whisper>) -> Self {
        let node = Node::new(Config {
            name: Some(name.to_owned()),
            listener_addr: Some(([127, 0, 0, 1], 0).into()),
            // Both neighbours live on this host.
            max_connections_per_ip: 2,
            ..Default::default()
        });
        let player = Self { node, number, seed, heard_by };
        player.enable_reading().await;
        player.enable_writing().await;
        player
    }

    /// The neighbour to whisper to: the peer that was dialled, and so the `Responder`. The last player has none.
    fn successor(&self) -> Option<SocketAddr> {
        let infos = self.node.connection_infos();
        infos.values().find(|info| info.side() == ConnectionSide::Responder).map(|info| info.addr())
    }

    fn whisper(&self, text: &str) -> io::Result<()> {
        match self.successor() {
            Some(addr) => self.unicast_fast(addr, Bytes::from(garble(text, self.seed, self.number))),
            None => Ok(()),
        }
    }

    fn label(&self) -> String {
        Colour::of(self.number).paint(format_args!("{:5}", self.node.name()))
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

    async fn process_message(&self, _source: SocketAddr, message: Self::Message) {
        let text = String::from_utf8_lossy(&message).into_owned();
        // Tells the audience before the next player can: so the reports come in the order of the line.
        let _ = self.heard_by.send(Whisper { listener: self.number, text: text.clone() });
        if !common::is_short() {
            sleep(THINKING).await;
        }
        if let Err(error) = self.whisper(&text) {
            eprintln!("{} cannot whisper: {error}", self.label());
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

/// Replaces one sound by one that is easily taken for it. The same text, seed and player give the same result.
fn garble(text: &str, seed: u64, player: usize) -> String {
    let mut letters: Vec<char> = text.chars().collect();
    let audible: Vec<usize> = (0..letters.len()).filter(|&place| misheard(letters[place]).is_some()).collect();
    if audible.is_empty() {
        return text.to_owned();
    }
    // Any mixture of the two does: neighbours are to get different sounds wrong.
    let mix = (seed ^ ((player as u64 + 1) << 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
    let place = audible[(mix % audible.len() as u64) as usize];
    if let Some(sound) = misheard(letters[place]) {
        letters[place] = sound;
    }
    letters.into_iter().collect()
}

/// What a sound is taken for; `None` for what is never misheard.
fn misheard(sound: char) -> Option<char> {
    SIMILAR.iter().find(|(said, _)| *said == sound).map(|(_, understood)| *understood)
}

/// The text with the letter that has changed in red.
fn show_change(before: &str, after: &str) -> String {
    let changed = before.chars().zip(after.chars()).enumerate().find(|(_, (said, understood))| said != understood);
    let Some((place, (said, understood))) = changed else { return format!("{after:?}") };
    let head: String = after.chars().take(place).collect();
    let tail: String = after.chars().skip(place + 1).collect();
    format!("\"{head}{}{tail}\" ({said} became {understood})", Colour::Red.paint(understood))
}

async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> io::Result<T> {
    timeout(PATIENCE, work).await.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("{what} did not come")))
}

fn require(holds: bool, claim: &str) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::Error::other(format!("this does not hold: {claim}"))) }
}

const NAMES: [&str; 9] = ["ada", "bob", "carol", "dan", "eve", "frank", "grace", "heidi", "ivan"];

const SENTENCES: [&str; 3] = [
    "peter piper picked a peck of pickled peppers",
    "meet me at noon behind the old lighthouse",
    "the packets are late but none of them is lost",
];

/// Pairs of sounds: what is said, and what is understood.
const SIMILAR: [(char, char); 20] = [
    ('a', 'e'),
    ('e', 'i'),
    ('i', 'o'),
    ('o', 'u'),
    ('u', 'a'),
    ('p', 'b'),
    ('b', 'v'),
    ('v', 'f'),
    ('f', 'p'),
    ('c', 'k'),
    ('k', 'g'),
    ('g', 'c'),
    ('l', 'r'),
    ('r', 'l'),
    ('m', 'n'),
    ('n', 'm'),
    ('s', 'z'),
    ('z', 's'),
    ('t', 'd'),
    ('d', 't'),
];

/// How long a player takes to pass a whisper on, when somebody watches.
const THINKING: Duration = Duration::from_millis(250);

/// How long any single step may take; it takes a few milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
