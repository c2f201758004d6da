//! A node of the table: what it knows, what it asks, and what it answers.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use parking_lot::Mutex;
use pea2pea::{
    Config, ConnectionSide, DisconnectOrigin, Node, Pea2Pea,
    protocols::{OnDisconnect, Reading, Writing},
};
use tokio::{
    sync::{Semaphore, oneshot},
    time::{sleep, timeout},
};

use crate::{
    links::{Links, MAX_LINKS},
    wire::{Answer, Contact, Question, Wire, WireCodec},
};

/// A node of the table.
#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) node: Node,
    pub(crate) number: usize,
    pub(crate) id: u64,
    values: Arc<Mutex<HashMap<u64, Bytes>>>,
    /// The contacts by the number of leading bits that their ids have in common with the own one.
    buckets: Arc<Mutex<Vec<Vec<Contact>>>>,
    links: Links,
    /// How many questions may be under way at a time; so, of as many links one is not in use if another is to be dialled.
    may_ask: Arc<Semaphore>,
    waiting: Arc<Mutex<HashMap<u64, Asked>>>,
    next_question: Arc<AtomicU64>,
}

/// Who was asked, and where the answer is awaited.
type Asked = (SocketAddr, oneshot::Sender<Answer>);

/// The end of a search for the nodes that are the closest to an id, or for the value with this id.
pub(crate) struct Lookup {
    pub(crate) value: Option<Bytes>,
    closest: Vec<Contact>,
    pub(crate) hops: usize,
    pub(crate) trail: Vec<Step>,
}

/// One question of a lookup.
pub(crate) struct Step {
    pub(crate) contact: Contact,
    pub(crate) hop: usize,
    pub(crate) outcome: String,
}

#[derive(Clone, Copy, PartialEq)]
enum Progress {
    Known,
    Asked,
    Answered,
}

impl Peer {
    pub(crate) async fn start(number: usize) -> Self {
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
            links: Links::default(),
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
    pub(crate) fn key(key: impl Hash) -> u64 {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        hasher.finish()
    }

    pub(crate) async fn listen(&self) -> io::Result<Contact> {
        let addr = self.node.toggle_listener().await?.ok_or_else(|| io::Error::other("the listener went off"))?;
        Ok(Contact { id: self.id, addr })
    }

    /// Looks for itself: so it meets its neighbours, and they it.
    pub(crate) async fn join(&self, known: Contact) {
        self.seen(known);
        self.look_up(self.id, false).await;
    }

    /// Asks all that it knows; who does not answer is forgotten.
    pub(crate) async fn refresh(&self) {
        let questions = self.closest_known(self.id, usize::MAX).into_iter();
        join_all(questions.map(|contact| self.ask(contact, Question::FindNode { target: self.id }))).await;
    }

    /// Returns at how many nodes the value is.
    pub(crate) async fn store(&self, key: &str, value: String) -> usize {
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
    pub(crate) async fn look_up(&self, target: u64, for_value: bool) -> Lookup {
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
            let (_use, not_needed) = self.links.take(contact.addr);
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

    /// How many connections it kept for its own questions, at most.
    pub(crate) fn most_links(&self) -> usize {
        self.links.most()
    }

    pub(crate) fn num_known(&self) -> usize {
        self.buckets.lock().iter().map(Vec::len).sum()
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

pub(crate) const NODES: usize = 50;
/// How many contacts a bucket holds and an answer names, and at how many nodes a value is.
pub(crate) const BUCKET: usize = 5;
/// How many nodes a lookup asks at a time.
const PARALLEL: usize = 3;
/// How long one question may take, its dial included.
const PATIENCE: Duration = Duration::from_secs(5);
