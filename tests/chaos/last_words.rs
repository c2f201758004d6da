//! Last words: messages with a receipt, behind which their sender ends the connection gracefully.
//!
//! A confirmed one must have been processed when the other end's `on_disconnect` begins, if two things hold:
//! - the sender's call, and no other, has ended the connection, and has returned before the farewell can have run out of time
//!   ([`WRITE_TIMEOUT`] from the word on): so it has seen the end of the other side's stream, and reset nothing;
//! - the other end has ended by `Reading` or `Writing`, and not by a timeout, a panic or an error of its own, nor because its
//!   runtime went away ([`Line::has_followed`]).
//!
//! Raw sockets say some too, and close without reading what they have asked for: the first answer after that is met with a
//! reset, and yet the node processes what it was sent before.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, atomic::Ordering::SeqCst},
    time::{Duration, Instant},
};

use tokio::task_local;

use crate::{
    actions::Worker, common::wire::Random, frames::Speaker, hooks::WRITE_TIMEOUT, line::Line, outside, peer::Peer,
    sends::any_reply, tally::Event, world::World,
};

/// How long the other end's end is waited for: its node may have refused the connection, or ended it before.
const MAX_AGE: Duration = Duration::from_secs(10);

/// An end that comes later may have come of the bound of 3 s for what was sent before it.
const DRAINED_IN_TIME: Duration = Duration::from_millis(2_500);

/// Counted from here on, so many kept words of a hundred confirmed ones show that the rule is not empty.
const TELLING_WORDS: u64 = 1_000;
const FEWEST_KEPT: u64 = 20;

/// The connections that a call has ended, by the numbers of the caller's ends.
#[derive(Debug, Clone, Default)]
pub struct Ended(Arc<Mutex<Vec<u64>>>);

task_local! {
    /// Set around a call that ends connections: it begins their `on_disconnect` itself.
    pub static ENDED: Ended;
}

impl Ended {
    /// `on_disconnect` begins.
    pub fn note(number: u64) {
        _ = ENDED.try_with(|ended| ended.0.lock().unwrap().push(number));
    }

    fn contains(&self, number: u64) -> bool {
        self.0.lock().unwrap().contains(&number)
    }
}

#[derive(Debug)]
pub struct Word {
    began: Instant,
    lane: u8,
    serial: u32,
    /// The sender's end of the connection; known when the word is encoded.
    from: OnceLock<Arc<Line>>,
}

impl Word {
    /// To be made before the word is sent.
    pub fn new(lane: u8, serial: u32) -> Self {
        Self { began: Instant::now(), lane, serial, from: OnceLock::new() }
    }
}

/// What is known at the other end.
#[derive(Debug)]
struct Entry {
    word: Arc<Word>,
    is_processed: bool,
    /// Since when it is known that nothing excuses the sender's side.
    owed_since: Option<Instant>,
    end: Option<End>,
}

/// How the other end has ended.
#[derive(Debug, Clone, Copy)]
struct End {
    has_followed: bool,
    /// Whether it has sent something that was not read any more.
    has_talked_on: bool,
    at: Instant,
    /// How many messages it had decoded, and encoded.
    #[expect(dead_code, reason = "for whoever reads the fault")]
    messages: (u64, u64),
}

/// The words under way, by the number of the other end.
#[derive(Debug, Default)]
pub struct Words(Mutex<HashMap<u64, Vec<Entry>>>);

impl Words {
    /// The word is being encoded.
    pub fn register(&self, word: &Arc<Word>, from: &Arc<Line>) {
        if from.peer.is_stranger() || word.from.set(Arc::clone(from)).is_err() {
            return;
        }
        self.enter(from.peer.connection, word);
    }

    fn enter(&self, to: u64, word: &Arc<Word>) {
        let entry = Entry { word: Arc::clone(word), is_processed: false, owed_since: None, end: None };
        self.0.lock().unwrap().entry(to).or_default().push(entry);
    }

    /// A raw socket is about to say its last word to a connection.
    pub fn register_stranger(&self, to: Speaker, lane: u8, serial: u32) -> Arc<Word> {
        let word = Arc::new(Word::new(lane, serial));
        self.enter(to.connection, &word);
        word
    }

    /// It has closed, after the system took all of it, or not.
    pub fn conclude_stranger(&self, world: &World, to: Speaker, word: &Word, is_owed: bool) {
        if is_owed {
            world.count(Event::StrangerLastWord);
        }
        self.settle(world, to.connection, word, is_owed.then(Instant::now));
    }

    pub fn note_processed(&self, line: &Line, lane: u8, serial: u32) {
        let mut words = self.0.lock().unwrap();
        let entries = words.get_mut(&line.number).into_iter().flatten();
        for entry in entries.filter(|entry| (entry.word.lane, entry.word.serial) == (lane, serial)) {
            entry.is_processed = true;
        }
    }

    /// A connection's `on_disconnect` begins.
    pub fn note_end(&self, world: &World, line: &Line, has_followed: bool) {
        let mut words = self.0.lock().unwrap();
        for entry in words.get_mut(&line.number).into_iter().flatten() {
            let heard = entry.word.from.get().map_or(0, |from| from.decoded.load(SeqCst));
            let has_talked_on = line.encoded.load(SeqCst) > heard;
            let messages = (line.decoded.load(SeqCst), line.encoded.load(SeqCst));
            entry.end = Some(End { has_followed, has_talked_on, at: Instant::now(), messages });
        }
        judge(world, &mut words, line.number);
    }

    /// The sender has ended what it could, and knows what became of the word.
    pub fn conclude(&self, world: &World, word: &Word, is_confirmed: bool, returned: Instant, ended: &Ended) {
        let Some(from) = word.from.get() else { return };
        let is_owed = is_confirmed && {
            world.count(Event::LastWord);
            let is_by_call = ended.contains(from.number);
            let is_in_time = returned - word.began < WRITE_TIMEOUT;
            match (is_by_call, is_in_time) {
                (false, _) => world.count(Event::LastWordOfAnother),
                (true, false) => world.count(Event::LastWordLate),
                (true, true) => {}
            }
            is_by_call && is_in_time && !from.is_foreign
        };
        self.settle(world, from.peer.connection, word, is_owed.then_some(returned));
    }

    /// It is known since when the word is owed, or that it is not.
    fn settle(&self, world: &World, to: u64, word: &Word, owed_since: Option<Instant>) {
        let mut words = self.0.lock().unwrap();
        let Some(entries) = words.get_mut(&to) else { return };
        if owed_since.is_some() {
            for entry in entries.iter_mut().filter(|entry| std::ptr::eq(&*entry.word, word)) {
                entry.owed_since = owed_since;
            }
        } else {
            entries.retain(|entry| !std::ptr::eq(&*entry.word, word));
        }
        judge(world, &mut words, to);
    }

    /// Forgets the words of which nobody will hear; all that are left if the run is over.
    pub fn sweep(&self, world: &World, is_over: bool) {
        let mut words = self.0.lock().unwrap();
        words.retain(|_, entries| {
            entries.retain(|entry| {
                let is_old = entry.owed_since.is_some_and(|since| is_over || since.elapsed() > MAX_AGE);
                if is_old {
                    world.count(Event::LastWordUnheard);
                }
                !is_old
            });
            !entries.is_empty()
        });
        if is_over {
            words.shrink_to_fit();
        }
    }
}

/// Decides about the words of a connection of which both ends are known.
fn judge(world: &World, words: &mut HashMap<u64, Vec<Entry>>, to: u64) {
    let Some(entries) = words.get_mut(&to) else { return };
    entries.retain(|entry| {
        let (Some(since), Some(end)) = (entry.owed_since, entry.end) else { return true };
        let has_followed = end.has_followed && end.at.saturating_duration_since(since) < DRAINED_IN_TIME;
        let is_stranger = entry.word.from.get().is_none();
        match (has_followed, entry.is_processed) {
            (false, _) => world.count(Event::LastWordAbandoned),
            (true, true) if is_stranger => world.count(Event::StrangerLastWordKept),
            (true, true) => {
                world.count(Event::LastWordKept);
                if end.has_talked_on {
                    world.count(Event::LastWordBothWays);
                }
            }
            (true, false) => world.fault(format!(
                "a last word was lost: its sender was done with it {:?} after its beginning; {end:?}, {entry:?}",
                since - entry.word.began,
            )),
        }
        false
    });
    if entries.is_empty() {
        words.remove(&to);
    }
}

impl Worker {
    /// Says a last word to one peer, which is mostly asked for answers before, so that it talks on.
    pub async fn say_last_word(&self, peer: &Peer, addr: SocketAddr, dice: &mut Random) {
        let lane = self.lane;
        for _ in 0..dice.below(8) {
            _ = peer.ask(lane, addr, any_reply(dice));
        }
        let Ok((word, Some(mut receipt))) = peer.send_last_word(lane, addr, dice) else { return };
        let is_confirmed_first = dice.below(3) == 0;
        let mut is_confirmed = is_confirmed_first && self.await_receipt(&mut receipt).await;
        let ended = Ended::default();
        let own = peer.clone();
        let disconnect = ENDED.scope(ended.clone(), async move { own.node.disconnect(addr).await });
        let is_done = if dice.below(10) == 0 {
            self.world.count(Event::DisconnectedOutside);
            outside::without_runtime(&self.world, disconnect).await.unwrap_or(false)
        } else {
            disconnect.await
        };
        let returned = Instant::now();
        peer.note_disconnect(is_done);
        if !is_confirmed_first {
            is_confirmed = self.await_receipt(receipt).await;
        }
        self.world.words.conclude(&self.world, &word, is_confirmed, returned, &ended);
    }

    /// Says a last word to each peer, and shuts the node down.
    pub async fn say_last_words_to_all(&self, peer: &Peer, dice: &mut Random) {
        self.world.count(Event::ShutDownWithWords);
        let addrs = peer.node.connected_addrs();
        let words: Vec<_> =
            addrs.into_iter().filter_map(|addr| peer.send_last_word(self.lane, addr, dice).ok()).collect();
        let ended = Ended::default();
        peer.set_closing();
        ENDED.scope(ended.clone(), peer.node.shut_down()).await;
        let returned = Instant::now();
        for (word, receipt) in words {
            let Some(receipt) = receipt else { continue };
            let is_confirmed = self.await_receipt(receipt).await;
            self.world.words.conclude(&self.world, &word, is_confirmed, returned, &ended);
        }
    }
}

/// Called at the end of a run: the rule must have applied to many.
pub fn check_share(world: &World) {
    let (all, kept) = (world.tally.of(Event::LastWord), world.tally.of(Event::LastWordKept));
    if all >= TELLING_WORDS && kept * 100 < all * FEWEST_KEPT {
        world.fault(format!("of {all} confirmed last words only {kept} could be reconciled"));
    }
}
