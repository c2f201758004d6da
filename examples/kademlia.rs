//! Kademlia: a distributed hash table of 50 nodes, none of which knows all the others.
//!
//! Shows how a node finds what is stored somewhere with a few questions: nodes and keys have 64-bit ids, the distance of two
//! ids is their XOR, and a value is stored at the 5 nodes whose ids are the closest to its key. A node knows up to 5 others
//! for each length of a common prefix (its buckets), so it knows many that are near and a few that are far. A lookup asks
//! the closest ones that it knows, 3 at a time, and each answer names closer ones. The kernel's connections are dialled when
//! there is something to ask, and a node keeps no more than 8 of them: the one that was not used for longest has to go.
//!
//! ```text
//! cargo run --example kademlia
//! ```
//!
//! You will see, with other figures:
//!
//! ```text
//! 50 nodes joined, each by one other; now they know 7 to 22 of the others
//! 150 values are stored at 5 nodes each, after 775.1ms
//! a key that nobody stored is not found, after 7 nodes were asked
//! node 39 looks for "key 0", whose id begins with 0000000110110110:
//!     hop 1: 0110010100010010.. names 5 others
//!     hop 1: 0001011011110110.. names 5 others
//!     hop 1: 0100011011000111.. names 5 others
//!     hop 2: 0000100110011000.. has it
//! verified: each of the 150 keys is found from each of the 50 nodes, by 1.6 questions on average, in 9.8s
//!     0 hops:   750 lookups #####
//!     1 hops:  5415 lookups #####################################
//!     2 hops:  1332 lookups #########
//!     3 hops:     3 lookups #
//! 10 of the nodes are shut down, without a word to the others
//! verified: each of the 150 keys is found from each of the 40 nodes, by 1.6 questions on average, in 7.1s
//!     0 hops:   604 lookups ######
//!     1 hops:  4452 lookups ######################################
//!     2 hops:   942 lookups ########
//!     3 hops:     2 lookups #
//! verified: no node kept more than 8 connections for its own questions
//! ```
//!
//! What a real network needs besides: ids and keys by a cryptographic hash, a proof that a node owns its id, values that
//! expire and are stored anew when nodes come and go, and limits for what one node may ask.

mod common;

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use common::Colour;
use futures_util::{
    StreamExt,
    future::{join_all, try_join_all},
    stream::FuturesUnordered,
};
use parking_lot::Mutex;
use pea2pea::{
    Config, ConnectionSide, DisconnectOrigin, Node, Pea2Pea,
    protocols::{OnDisconnect, Reading, Writing},
};
use tokio::{
    sync::{Semaphore, oneshot},
    time::{sleep, timeout},
};
use tokio_util::codec::{Decoder, Encoder, LengthDelimitedCodec};

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let mut peers = Vec::new();
    for number in 0..NODES {
        peers.push(Peer::start(number).await);
    }
    let outcome = tokio::select! {
        outcome = story(&peers) => outcome,
        () = common::ctrl_c() => Err(io::Error::other("interrupted")),
    };
    join_all(peers.iter().map(|peer| peer.node.shut_down())).await;
    common::exit(outcome)
}

async fn story(peers: &[Peer]) -> io::Result<()> {
    let keys: Vec<_> = (0..if common::is_short() { 20 } else { 150 }).map(|n| format!("key {n}")).collect();

    let contacts = try_join_all(peers.iter().map(Peer::listen)).await?;
    for number in 1..NODES {
        // All that a newcomer knows is one of those who came before it.
        peers[number].join(contacts[number / 2]).await;
    }
    let known: Vec<_> = peers.iter().map(Peer::num_known).collect();
    let (least, most) = (known.iter().min().unwrap_or(&0), known.iter().max().unwrap_or(&0));
    println!("{NODES} nodes joined, each by one other; now they know {least} to {most} of the others");

    let begun = Instant::now();
    let stored =
        join_all(keys.iter().enumerate().map(|(n, key)| peers[n * 7 % NODES].store(key, format!("value of {key}"))));
    let copies = stored.await;
    require(copies.iter().all(|copies| *copies == BUCKET), "each value has all its copies")?;
    println!("{} values are stored at {BUCKET} nodes each, after {:.1?}", keys.len(), begun.elapsed());

    let nobody = peers[0].look_up(Peer::key("a key that nobody stored"), true).await;
    require(nobody.value.is_none(), "there is no such value")?;
    println!("a key that nobody stored is not found, after {} nodes were asked", nobody.trail.len());

    show_one(peers, &keys).await?;
    find_all(peers, &keys).await?;

    let (gone, left): (Vec<_>, Vec<_>) = peers.iter().cloned().partition(|peer| peer.number % 5 == 3);
    join_all(gone.iter().map(|peer| peer.node.shut_down())).await;
    println!("{} of the nodes are shut down, without a word to the others", gone.len());
    find_all(&left, &keys).await?;

    let most = peers.iter().map(|peer| peer.links.lock().most).max().unwrap_or(0);
    require((1..=MAX_LINKS).contains(&most), "a node keeps few connections")?;
    println!("verified: no node kept more than {most} connections for its own questions");
    Ok(())
}

/// One lookup, question by question: the one with the most hops from some nodes.
async fn show_one(peers: &[Peer], keys: &[String]) -> io::Result<()> {
    let lookups = peers.iter().map(|peer| async move { (peer, peer.look_up(Peer::key(&keys[0]), true).await) });
    let lookups = join_all(lookups).await;
    let longest = lookups.iter().max_by_key(|(_, lookup)| (lookup.hops, lookup.trail.len()));
    let Some((peer, lookup)) = longest else { return Ok(()) };
    println!(
        "node {} looks for {:?}, whose id begins with {}:",
        peer.number,
        keys[0],
        &format!("{:064b}", Peer::key(&keys[0]))[..16]
    );
    for Step { contact, hop, outcome } in &lookup.trail {
        let shared = (contact.id ^ Peer::key(&keys[0])).leading_zeros() as usize;
        let bits = format!("{:064b}", contact.id);
        let (same, other) = bits[..16].split_at(shared.min(16));
        println!("    hop {hop}: {}{other}.. {outcome}", Colour::Green.paint(same));
    }
    Ok(())
}

/// Looks for every key from every node.
async fn find_all(peers: &[Peer], keys: &[String]) -> io::Result<()> {
    let begun = Instant::now();
    let from_each = peers.iter().map(|peer| async move {
        let mut lookups = Vec::new();
        for key in keys {
            let lookup = peer.look_up(Peer::key(key), true).await;
            let right = lookup.value.as_deref() == Some(format!("value of {key}").as_bytes());
            require(right, &format!("node {} finds {key:?}", peer.number))?;
            lookups.push((lookup.hops, lookup.trail.len()));
        }
        Ok::<_, io::Error>(lookups)
    });
    let lookups = try_join_all(from_each).await?.concat();
    let asked: usize = lookups.iter().map(|(_, asked)| asked).sum();
    println!(
        "verified: each of the {} keys is found from each of the {} nodes, by {:.1} questions on average, in {:.1?}",
        keys.len(),
        peers.len(),
        asked as f64 / lookups.len() as f64,
        begun.elapsed()
    );
    let mut by_hops = BTreeMap::<_, usize>::new();
    lookups.iter().for_each(|(hops, _)| *by_hops.entry(*hops).or_default() += 1);
    for (hops, count) in by_hops {
        let bar = "#".repeat((count * 50).div_ceil(lookups.len()));
        println!("    {hops} hops: {count:5} lookups {}", Colour::Cyan.paint(bar));
    }
    Ok(())
}

/// What one node knows of another.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Contact {
    id: u64,
    /// Where it listens.
    addr: SocketAddr,
}

/// A node of the table.
#[derive(Clone)]
struct Peer {
    node: Node,
    number: usize,
    id: u64,
    values: Arc<Mutex<HashMap<u64, Bytes>>>,
    /// The contacts by the number of leading bits that their ids have in common with the own one.
    buckets: Arc<Mutex<Vec<Vec<Contact>>>>,
    links: Arc<Mutex<Links>>,
    /// How many questions may be under way at a time; so, of as many links one is not in use if another is to be dialled.
    may_ask: Arc<Semaphore>,
    waiting: Arc<Mutex<HashMap<u64, Asked>>>,
    next_question: Arc<AtomicU64>,
}

/// Who was asked, and where the answer is awaited.
type Asked = (SocketAddr, oneshot::Sender<Answer>);

/// The connections that this node has dialled.
#[derive(Default)]
struct Links {
    by_addr: HashMap<SocketAddr, Link>,
    uses: u64,
    most: usize,
}

#[derive(Default)]
struct Link {
    last_use: u64,
    questions: usize,
}

/// The end of a search for the nodes that are the closest to an id, or for the value with this id.
struct Lookup {
    value: Option<Bytes>,
    closest: Vec<Contact>,
    hops: usize,
    trail: Vec<Step>,
}

/// One question of a lookup.
struct Step {
    contact: Contact,
    hop: usize,
    outcome: String,
}

#[derive(Clone, Copy, PartialEq)]
enum Progress {
    Known,
    Asked,
    Answered,
}

impl Peer {
    async fn start(number: usize) -> Self {
        let node = Node::new(Config {
            name: Some(number.to_string()),
            listener_addr: Some(([127, 0, 0, 1], 0).into()),
            // Each of the others may ask something at the same time, and all have the same IP address here.
            max_connections: (NODES + MAX_LINKS) as u16,
            max_connections_per_ip: (NODES + MAX_LINKS) as u16,
            ..Default::default()
        });
        let peer = Self {
            node,
            number,
            id: Self::key(number),
            values: Arc::default(),
            buckets: Arc::new(Mutex::new(vec![Vec::new(); 64])),
            links: Arc::default(),
            may_ask: Arc::new(Semaphore::new(MAX_LINKS)),
            waiting: Arc::default(),
            next_question: Arc::default(),
        };
        peer.enable_reading().await;
        peer.enable_writing().await;
        peer.enable_on_disconnect().await;
        peer
    }

    /// The id of a key. This hash is the same for all nodes of this process, and that is all that it promises.
    fn key(key: impl Hash) -> u64 {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        hasher.finish()
    }

    async fn listen(&self) -> io::Result<Contact> {
        let addr = self.node.toggle_listener().await?.ok_or_else(|| io::Error::other("the listener went off"))?;
        Ok(Contact { id: self.id, addr })
    }

    /// Looks for itself: so it meets its neighbours, and they it.
    async fn join(&self, known: Contact) {
        self.seen(known);
        self.look_up(self.id, false).await;
    }

    /// Returns at how many nodes the value is.
    async fn store(&self, key: &str, value: String) -> usize {
        let (key, value) = (Self::key(key), Bytes::from(value));
        let mut closest = self.look_up(key, false).await.closest;
        if let Ok(addr) = self.node.listening_addr().await {
            closest.push(Contact { id: self.id, addr });
        }
        closest.sort_by_key(|contact| contact.id ^ key);
        closest.truncate(BUCKET);
        let stores = closest.into_iter().map(|contact| {
            let question = Question::Store { key, value: value.clone() };
            async move {
                if contact.id == self.id {
                    return self.answer(question) == Answer::Stored;
                }
                self.ask(contact, question).await.is_ok_and(|answer| answer == Answer::Stored)
            }
        });
        join_all(stores).await.into_iter().filter(|stored| *stored).count()
    }

    /// Asks the closest nodes that it knows for closer ones, until those that are left know none.
    async fn look_up(&self, target: u64, for_value: bool) -> Lookup {
        let mut lookup = Lookup { value: None, closest: Vec::new(), hops: 0, trail: Vec::new() };
        if for_value {
            lookup.value = self.values.lock().get(&target).cloned();
            if lookup.value.is_some() {
                return lookup;
            }
        }
        // All that it has heard of and that did not fail to answer, the closest first; more than it is to ask, so that there
        // are others when some of these are gone.
        let mut shortlist: Vec<_> =
            self.closest_known(target, usize::MAX).into_iter().map(|contact| (contact, 1, Progress::Known)).collect();
        let mut under_way = FuturesUnordered::new();
        loop {
            while under_way.len() < PARALLEL {
                let next = shortlist.iter_mut().take(BUCKET).find(|(.., progress)| *progress == Progress::Known);
                let Some((contact, hop, progress)) = next else { break };
                *progress = Progress::Asked;
                let (contact, hop) = (*contact, *hop);
                let question =
                    if for_value { Question::FindValue { key: target } } else { Question::FindNode { target } };
                under_way.push(async move { (contact, hop, self.ask(contact, question).await) });
            }
            let Some((contact, hop, answer)) = under_way.next().await else { break };
            lookup.hops = lookup.hops.max(hop);
            let mut step = Step { contact, hop, outcome: String::new() };
            match answer {
                Ok(Answer::Value(value)) => {
                    step.outcome = "has it".to_owned();
                    lookup.trail.push(step);
                    return Lookup { value: Some(value), hops: hop, ..lookup };
                }
                Ok(Answer::Contacts(contacts)) => {
                    step.outcome = format!("names {} others", contacts.len());
                    for contact in contacts {
                        if contact.id != self.id && shortlist.iter().all(|(known, ..)| known.id != contact.id) {
                            shortlist.push((contact, hop + 1, Progress::Known));
                        }
                    }
                    shortlist.sort_by_key(|(contact, ..)| contact.id ^ target);
                    shortlist
                        .iter_mut()
                        .filter(|(known, ..)| known.id == contact.id)
                        .for_each(|(.., progress)| *progress = Progress::Answered);
                }
                Ok(Answer::Stored) | Err(_) => {
                    step.outcome = "does not answer".to_owned();
                    shortlist.retain(|(known, ..)| known.id != contact.id);
                }
            }
            lookup.trail.push(step);
        }
        lookup.closest = shortlist.into_iter().take(BUCKET).map(|(contact, ..)| contact).collect();
        lookup
    }

    /// Asks one node, over a connection that is dialled for it unless there is one.
    async fn ask(&self, contact: Contact, question: Question) -> io::Result<Answer> {
        let _permit = self.may_ask.acquire().await.map_err(io::Error::other)?;
        let answer = timeout(PATIENCE, async {
            let (_use, not_needed) = self.take_link(contact.addr);
            if let Some(addr) = not_needed {
                self.node.disconnect(addr).await;
            }
            self.dial(contact.addr).await?;
            let number = self.next_question.fetch_add(1, Relaxed);
            let (sender, answer) = oneshot::channel();
            self.waiting.lock().insert(number, (contact.addr, sender));
            let _waiting = Waiting { peer: self, number };
            let from = Contact { id: self.id, addr: self.node.listening_addr().await? };
            self.unicast_fast(contact.addr, Wire::Question { number, from, question })?;
            answer.await.map_err(|_| io::Error::from(io::ErrorKind::ConnectionAborted))
        })
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match answer {
            Ok(_) => self.seen(contact),
            Err(_) => self.forget(contact),
        }
        answer
    }

    async fn dial(&self, addr: SocketAddr) -> io::Result<()> {
        while !self.node.is_connected(addr) {
            match self.node.connect(addr).await {
                // Another question is dialling, or the end of the connection before is not quite over.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => sleep(Duration::from_millis(1)).await,
                outcome => return outcome,
            }
        }
        Ok(())
    }

    /// Counts a use of the connection to this address, and names the one that has to go for it.
    fn take_link(&self, addr: SocketAddr) -> (LinkUse<'_>, Option<SocketAddr>) {
        let mut links = self.links.lock();
        let mut not_needed = None;
        if links.by_addr.len() == MAX_LINKS && !links.by_addr.contains_key(&addr) {
            let idle = links.by_addr.iter().filter(|(_, link)| link.questions == 0);
            not_needed = idle.min_by_key(|(_, link)| link.last_use).map(|(addr, _)| *addr);
            not_needed.and_then(|addr| links.by_addr.remove(&addr));
        }
        links.uses += 1;
        let last_use = links.uses;
        let link = links.by_addr.entry(addr).or_default();
        link.last_use = last_use;
        link.questions += 1;
        links.most = links.most.max(links.by_addr.len());
        (LinkUse { peer: self, addr }, not_needed)
    }

    fn answer(&self, question: Question) -> Answer {
        match question {
            Question::Store { key, value } => {
                self.values.lock().insert(key, value);
                Answer::Stored
            }
            Question::FindNode { target } => Answer::Contacts(self.closest_known(target, BUCKET)),
            Question::FindValue { key } => match self.values.lock().get(&key) {
                Some(value) => Answer::Value(value.clone()),
                None => Answer::Contacts(self.closest_known(key, BUCKET)),
            },
        }
    }

    fn closest_known(&self, target: u64, count: usize) -> Vec<Contact> {
        let mut contacts = self.buckets.lock().concat();
        contacts.sort_by_key(|contact| contact.id ^ target);
        contacts.truncate(count);
        contacts
    }

    /// A full bucket takes nobody: whoever has been there for long is the likeliest to stay. Whoever fails to answer goes.
    fn seen(&self, contact: Contact) {
        let Some(bucket) = self.bucket_of(contact.id) else { return };
        let mut buckets = self.buckets.lock();
        if buckets[bucket].len() < BUCKET && !buckets[bucket].iter().any(|known| known.id == contact.id) {
            buckets[bucket].push(contact);
        }
    }

    fn forget(&self, contact: Contact) {
        let Some(bucket) = self.bucket_of(contact.id) else { return };
        self.buckets.lock()[bucket].retain(|known| *known != contact);
    }

    /// There is none for the own id.
    fn bucket_of(&self, id: u64) -> Option<usize> {
        (id != self.id).then(|| (id ^ self.id).leading_zeros() as usize)
    }

    fn num_known(&self) -> usize {
        self.buckets.lock().iter().map(Vec::len).sum()
    }
}

struct LinkUse<'a> {
    peer: &'a Peer,
    addr: SocketAddr,
}

impl Drop for LinkUse<'_> {
    fn drop(&mut self) {
        if let Some(link) = self.peer.links.lock().by_addr.get_mut(&self.addr) {
            link.questions -= 1;
        }
    }
}

/// Whichever way a question ends, nothing waits for its answer any more.
struct Waiting<'a> {
    peer: &'a Peer,
    number: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.peer.waiting.lock().remove(&self.number);
    }
}

impl Pea2Pea for Peer {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Reading for Peer {
    type Message = Wire;
    type Codec = WireCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        WireCodec::default()
    }

    async fn process_message(&self, source: SocketAddr, message: Wire) {
        match message {
            Wire::Question { number, from, question } => {
                self.seen(from);
                let answer = self.answer(question);
                // Fails if whoever asked is gone.
                _ = self.unicast_fast(source, Wire::Answer { number, answer });
            }
            Wire::Answer { number, answer } => {
                let mut waiting = self.waiting.lock();
                if waiting.get(&number).is_some_and(|(addr, _)| *addr == source) {
                    // Fails if the question was given up.
                    _ = waiting.remove(&number).map(|(_, sender)| sender.send(answer));
                }
            }
        }
    }
}

impl Writing for Peer {
    type Message = Wire;
    type Codec = WireCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        WireCodec::default()
    }
}

/// No answer comes over a connection that has ended.
impl OnDisconnect for Peer {
    async fn on_disconnect(&self, addr: SocketAddr, _origin: DisconnectOrigin) {
        self.waiting.lock().retain(|_, (asked, _)| *asked != addr);
    }
}

#[derive(Debug)]
enum Question {
    FindNode { target: u64 },
    FindValue { key: u64 },
    Store { key: u64, value: Bytes },
}

#[derive(Debug, PartialEq)]
enum Answer {
    Contacts(Vec<Contact>),
    Value(Bytes),
    Stored,
}

#[derive(Debug)]
enum Wire {
    Question { number: u64, from: Contact, question: Question },
    Answer { number: u64, answer: Answer },
}

/// Each message behind its length; a number that belongs to the question, its kind, and what the kind needs.
#[derive(Default)]
struct WireCodec(LengthDelimitedCodec);

impl WireCodec {
    fn parse(mut frame: Bytes) -> Option<Wire> {
        let number = frame.try_get_u64().ok()?;
        let kind = frame.try_get_u8().ok()?;
        if matches!(kind, CONTACTS | VALUE | STORED) {
            let answer = match kind {
                CONTACTS => {
                    let mut contacts = Vec::new();
                    while frame.has_remaining() && contacts.len() < BUCKET {
                        contacts.push(Self::parse_contact(&mut frame)?);
                    }
                    Answer::Contacts(contacts)
                }
                VALUE => Answer::Value(frame),
                _ => Answer::Stored,
            };
            return Some(Wire::Answer { number, answer });
        }
        let from = Self::parse_contact(&mut frame)?;
        let id = frame.try_get_u64().ok()?;
        let question = match kind {
            FIND_NODE => Question::FindNode { target: id },
            FIND_VALUE => Question::FindValue { key: id },
            STORE => Question::Store { key: id, value: frame },
            _ => return None,
        };
        Some(Wire::Question { number, from, question })
    }

    fn parse_contact(frame: &mut Bytes) -> Option<Contact> {
        let id = frame.try_get_u64().ok()?;
        let ip = IpAddr::V6(Ipv6Addr::from_bits(frame.try_get_u128().ok()?)).to_canonical();
        Some(Contact { id, addr: (ip, frame.try_get_u16().ok()?).into() })
    }

    fn put_contact(frame: &mut BytesMut, Contact { id, addr }: Contact) {
        let ip = match addr.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        frame.put_u64(id);
        frame.put_u128(ip.to_bits());
        frame.put_u16(addr.port());
    }
}

impl Decoder for WireCodec {
    type Item = Wire;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<Wire>> {
        let Some(frame) = self.0.decode(src)? else { return Ok(None) };
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, "not a message of this protocol");
        Self::parse(frame.freeze()).ok_or_else(invalid).map(Some)
    }
}

impl Encoder<Wire> for WireCodec {
    type Error = io::Error;

    fn encode(&mut self, message: Wire, dst: &mut BytesMut) -> io::Result<()> {
        let mut frame = BytesMut::new();
        match message {
            Wire::Question { number, from, question } => {
                let (kind, id, value) = match question {
                    Question::FindNode { target } => (FIND_NODE, target, Bytes::new()),
                    Question::FindValue { key } => (FIND_VALUE, key, Bytes::new()),
                    Question::Store { key, value } => (STORE, key, value),
                };
                frame.put_u64(number);
                frame.put_u8(kind);
                Self::put_contact(&mut frame, from);
                frame.put_u64(id);
                frame.put_slice(&value);
            }
            Wire::Answer { number, answer } => {
                frame.put_u64(number);
                match answer {
                    Answer::Contacts(contacts) => {
                        frame.put_u8(CONTACTS);
                        contacts.into_iter().for_each(|contact| Self::put_contact(&mut frame, contact));
                    }
                    Answer::Value(value) => {
                        frame.put_u8(VALUE);
                        frame.put_slice(&value);
                    }
                    Answer::Stored => frame.put_u8(STORED),
                }
            }
        }
        self.0.encode(frame.freeze(), dst)
    }
}

fn require(holds: bool, claim: &str) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::Error::other(format!("this does not hold: {claim}"))) }
}

const FIND_NODE: u8 = 0;
const FIND_VALUE: u8 = 1;
const STORE: u8 = 2;
const CONTACTS: u8 = 3;
const VALUE: u8 = 4;
const STORED: u8 = 5;

const NODES: usize = 50;
/// How many contacts a bucket holds and an answer names, and at how many nodes a value is.
const BUCKET: usize = 5;
/// How many nodes a lookup asks at a time.
const PARALLEL: usize = 3;
/// How many connections a node keeps for its own questions.
const MAX_LINKS: usize = 8;
/// How long one question may take, its dial included.
const PATIENCE: Duration = Duration::from_secs(5);
