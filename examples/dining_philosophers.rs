//! The dining philosophers: five nodes in a ring, one fork on each connection, and nobody starves.
//!
//! Shows how nodes agree without anyone in the middle. Neighbours share a fork, and one needs two forks to eat. A fork
//! is a message: who holds it can send it to the other end of the connection. The rules are those of Chandy and Misra:
//!
//! - Forks are dirty at first, and the one with the lower number of the two holds it.
//! - Who is hungry asks for the forks it lacks.
//! - Who is asked for a *dirty* fork and does not eat just now cleans it and sends it. A *clean* fork is kept until its
//!   holder has eaten, which makes it dirty; then it is sent to whoever has asked meanwhile.
//!
//! So whoever has just eaten gives way to whoever is hungry; waiting never goes round in a circle, and everybody eats.
//!
//! Run it with
//!
//! ```text
//! cargo run --example dining_philosophers
//! ```
//!
//! You will see a line for each change, coloured in a terminal:
//!
//! ```text
//! 5 philosophers, 5 forks, until everybody has had 8 meals
//! Plato      Hypatia    Laozi      Arendt     Confucius
//! .          .          hungry     .          .
//! .          .          EATS 1     .          .
//! .          .          EATS 1     .          hungry
//! .          .          EATS 1     .          EATS 1
//! hungry     .          EATS 1     .          EATS 1
//! hungry     .          .          .          EATS 1
//! hungry     .          .          hungry     EATS 1
//! hungry     hungry     .          hungry     EATS 1
//! (and so on)
//! verified: everybody ate at least 8 times
//! verified: no neighbours ate at the same time
//! verified: there are still 5 forks
//!     Plato      had 8 meals
//!     Hypatia    had 8 meals
//!     Laozi      had 8 meals
//!     Arendt     had 9 meals
//!     Confucius  had 8 meals
//! ```
//!
//! They go on until the last of them has eaten its number of meals. Verified at the end: that nobody ate beside an
//! eating neighbour, and that there are still as many forks as connections. Ctrl-C ends it sooner.

#[path = "common/mod.rs"]
mod common;

use std::{
    io,
    net::SocketAddr,
    process::ExitCode,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use common::Colour;
use pea2pea::{
    Config, ConnectionSide, Node, Pea2Pea, Topology, connect_nodes,
    protocols::{Reading, Writing},
};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::codec::LengthDelimitedCodec;

#[tokio::main]
async fn main() -> ExitCode {
    let room = Arc::new(Mutex::new(Room::default()));
    let mut philosophers = Vec::new();
    for number in 0..NAMES.len() {
        philosophers.push(Philosopher::start(number, Arc::clone(&room)).await);
    }

    let outcome = tokio::select! {
        outcome = dine(&philosophers) => outcome,
        () = common::ctrl_c() => {
            println!("\nthe restaurant closes");
            Ok(())
        }
    };
    for philosopher in &philosophers {
        philosopher.node.shut_down().await;
    }
    common::exit(outcome)
}

async fn dine(philosophers: &[Philosopher]) -> io::Result<()> {
    for philosopher in philosophers {
        philosopher.node.toggle_listener().await?;
    }
    connect_nodes(philosophers, Topology::Ring).await?;
    wait_until("the ring", || philosophers.iter().all(|philosopher| philosopher.node.num_connected() == 2)).await?;
    let count = philosophers.len();
    println!("{count} philosophers, {count} forks, until everybody has had {} meals", meals());
    println!("{}", NAMES.map(|name| format!("{name:11}")).concat().trim_end());

    // All of the table, before the first one can ask for anything.
    for philosopher in philosophers {
        philosopher.lay_table();
    }
    let mut lives = JoinSet::new();
    for philosopher in philosophers {
        lives.spawn(philosopher.clone().live());
    }
    let room = || philosophers[0].room();
    // Those who have had enough go on eating: if anybody could be starved, it would be now.
    wait_until("the last one's last meal", || {
        let room = room();
        room.fault.is_some() || room.meals.iter().all(|eaten| *eaten >= meals())
    })
    .await?;
    room().is_closing = true;
    in_time("the end of the dinner", async {
        while let Some(ended) = lives.join_next().await {
            ended.map_err(|error| io::Error::other(format!("a philosopher: {error}")))??;
        }
        Ok::<_, io::Error>(())
    })
    .await??;

    if let Some(fault) = room().fault.take() {
        return Err(io::Error::other(fault));
    }
    println!("{}", Colour::Green.paint(format_args!("verified: everybody ate at least {} times", meals())));
    println!("verified: no neighbours ate at the same time");
    // A last fork may be on its way.
    let forks = || philosophers.iter().flat_map(|one| one.seat().neighbours.clone()).filter(|one| one.has_fork).count();
    wait_until("the last fork", || forks() == count).await?;
    println!("verified: there are still {count} forks");
    for (name, eaten) in NAMES.iter().zip(room().meals) {
        println!("    {name:10} had {eaten} meals");
    }
    Ok(())
}

/// A node in the ring.
#[derive(Clone)]
struct Philosopher {
    node: Node,
    number: usize,
    /// What this philosopher knows of its two neighbours.
    seat: Arc<Mutex<Seat>>,
    /// Tells that a fork has come.
    fork_came: Arc<Notify>,
    /// Sees everybody; the philosophers do not need it to eat.
    room: Arc<Mutex<Room>>,
}

#[derive(Default)]
struct Seat {
    mood: Mood,
    neighbours: Vec<Neighbour>,
}

/// One end of a connection.
#[derive(Clone)]
struct Neighbour {
    addr: SocketAddr,
    has_fork: bool,
    is_dirty: bool,
    /// The right to ask for the fork: a token, too, which goes to the other end with the request.
    may_ask: bool,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Mood {
    #[default]
    Thinking,
    Hungry,
    Eating,
}

/// The two messages.
const REQUEST: &[u8] = b"request";
const FORK: &[u8] = b"fork";

impl Philosopher {
    async fn start(number: usize, room: Arc<Mutex<Room>>) -> Self {
        let node = Node::new(Config {
            name: Some(NAMES[number].to_owned()),
            listener_addr: Some(([127, 0, 0, 1], 0).into()),
            // Both neighbours live on this host.
            max_connections_per_ip: 2,
            ..Default::default()
        });
        let philosopher = Self { node, number, seat: Arc::default(), fork_came: Arc::default(), room };
        philosopher.enable_reading().await;
        philosopher.enable_writing().await;
        philosopher
    }

    /// Puts each fork, dirty, where the lower number is; the other end may ask for it.
    fn lay_table(&self) {
        for info in self.node.connection_infos().into_values() {
            // In a ring, everybody has dialled the next one.
            let neighbour = match info.side() {
                ConnectionSide::Responder => (self.number + 1) % NAMES.len(),
                ConnectionSide::Initiator => (self.number + NAMES.len() - 1) % NAMES.len(),
            };
            let has_fork = self.number < neighbour;
            let end = Neighbour { addr: info.addr(), has_fork, is_dirty: true, may_ask: !has_fork };
            self.seat().neighbours.push(end);
        }
    }

    /// Thinks, gets hungry, eats, and so on.
    async fn live(self) -> io::Result<()> {
        for meal in 0.. {
            self.change(Mood::Thinking);
            self.pass_time(meal).await;
            if self.room().is_closing {
                break;
            }

            self.change(Mood::Hungry);
            self.ask_for_forks()?;
            while !self.begin_to_eat() {
                self.fork_came.notified().await;
            }
            self.pass_time(meal + 1).await;
            self.finish_eating()?;
        }
        Ok(())
    }

    fn ask_for_forks(&self) -> io::Result<()> {
        for neighbour in &mut self.seat().neighbours {
            if !neighbour.has_fork && neighbour.may_ask {
                neighbour.may_ask = false;
                self.unicast_fast(neighbour.addr, Bytes::from_static(REQUEST))?;
            }
        }
        Ok(())
    }

    fn begin_to_eat(&self) -> bool {
        let mut seat = self.seat();
        let can_eat = seat.neighbours.iter().all(|neighbour| neighbour.has_fork);
        if can_eat {
            // Under the seat's lock: a request that comes now has to wait, even for a dirty fork.
            seat.mood = Mood::Eating;
            self.room().change(self.number, Mood::Eating);
        }
        can_eat
    }

    fn finish_eating(&self) -> io::Result<()> {
        let mut seat = self.seat();
        seat.mood = Mood::Thinking;
        // Before a fork can be at its other end.
        self.room().change(self.number, Mood::Thinking);
        for neighbour in &mut seat.neighbours {
            neighbour.is_dirty = true;
        }
        self.give_way(&mut seat)
    }

    /// Sends the forks that somebody has asked for, and that this philosopher has no right to keep.
    fn give_way(&self, seat: &mut Seat) -> io::Result<()> {
        let (eats, is_hungry) = (seat.mood == Mood::Eating, seat.mood == Mood::Hungry);
        for neighbour in &mut seat.neighbours {
            // The right to ask is here together with the fork: the other end has asked.
            if neighbour.has_fork && neighbour.may_ask && neighbour.is_dirty && !eats {
                neighbour.has_fork = false;
                self.unicast_fast(neighbour.addr, Bytes::from_static(FORK))?;
                if is_hungry {
                    neighbour.may_ask = false;
                    self.unicast_fast(neighbour.addr, Bytes::from_static(REQUEST))?;
                }
            }
        }
        Ok(())
    }

    /// Takes a message: a fork, which comes clean, or a request for one.
    fn take(&self, source: SocketAddr, message: &[u8]) -> io::Result<()> {
        let mut seat = self.seat();
        let neighbour = seat
            .neighbours
            .iter_mut()
            .find(|neighbour| neighbour.addr == source)
            .ok_or_else(|| io::Error::other(format!("{source} is no neighbour")))?;
        match message {
            FORK if !neighbour.has_fork => {
                neighbour.has_fork = true;
                neighbour.is_dirty = false;
                self.fork_came.notify_one();
            }
            REQUEST if !neighbour.may_ask => neighbour.may_ask = true,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "a message against the rules")),
        }
        self.give_way(&mut seat)
    }

    fn change(&self, mood: Mood) {
        let mut seat = self.seat();
        seat.mood = mood;
        self.room().change(self.number, mood);
    }

    /// Takes a while, each time another one, if somebody watches.
    async fn pass_time(&self, meal: u64) {
        if common::is_short() {
            return tokio::task::yield_now().await;
        }
        let mix = (meal * 5 + self.number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        sleep(Duration::from_millis(100 + mix % 300)).await;
    }

    fn seat(&self) -> MutexGuard<'_, Seat> {
        self.seat.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pea2Pea for Philosopher {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Reading for Philosopher {
    type Message = BytesMut;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        LengthDelimitedCodec::new()
    }

    async fn process_message(&self, source: SocketAddr, message: Self::Message) {
        if let Err(error) = self.take(source, &message) {
            self.room().fault = Some(format!("{}: {error}", NAMES[self.number]));
        }
    }
}

impl Writing for Philosopher {
    type Message = Bytes;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        LengthDelimitedCodec::new()
    }
}

/// What a guest at another table sees.
#[derive(Default)]
struct Room {
    moods: [Mood; NAMES.len()],
    meals: [u64; NAMES.len()],
    /// What must not have happened.
    fault: Option<String>,
    is_closing: bool,
}

impl Room {
    fn change(&mut self, number: usize, mood: Mood) {
        if self.moods[number] == mood {
            return;
        }
        self.moods[number] = mood;
        if mood == Mood::Eating {
            self.meals[number] += 1;
            for neighbour in [(number + 1) % NAMES.len(), (number + NAMES.len() - 1) % NAMES.len()] {
                if self.moods[neighbour] == Mood::Eating {
                    self.fault = Some(format!("{} and {} eat at once", NAMES[number], NAMES[neighbour]));
                }
            }
        }
        if !common::is_short() {
            self.show();
        }
    }

    fn show(&self) {
        let cells = self.moods.iter().zip(&self.meals).map(|(mood, meals)| match mood {
            Mood::Thinking => Colour::Grey.paint(format_args!("{:11}", ".")),
            Mood::Hungry => Colour::Yellow.paint(format_args!("{:11}", "hungry")),
            Mood::Eating => Colour::Green.paint(format_args!("{:11}", format!("EATS {meals}"))),
        });
        println!("{}", cells.collect::<String>().trim_end());
    }
}

async fn wait_until(what: &str, mut holds: impl FnMut() -> bool) -> io::Result<()> {
    in_time(what, async {
        while !holds() {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await
}

async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> io::Result<T> {
    timeout(PATIENCE, work).await.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("{what} did not come")))
}

/// How many meals everybody gets.
fn meals() -> u64 {
    if common::is_short() { 500 } else { 8 }
}

const NAMES: [&str; 5] = ["Plato", "Hypatia", "Laozi", "Arendt", "Confucius"];

/// How long the whole dinner may take.
const PATIENCE: Duration = Duration::from_secs(25);
