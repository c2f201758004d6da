//! What a worker does next: drawn from its own dice alone, so that a seed gives each worker the same sequence of actions,
//! whatever becomes of them.

use crate::common::wire::Random;

macro_rules! kinds {
    ($($name:ident: $text:literal, $weight:literal,)*) => {
        /// Something that a worker can do.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Kind {
            $(#[doc = $text] $name,)*
        }

        impl Kind {
            /// Each with its text and its usual weight.
            pub const ALL: &[(Self, &str, u32)] = &[$((Self::$name, $text, $weight)),*];
        }
    };
}

kinds! {
    Spawn: "spawn a node", 12,
    ShutDown: "shut a node down", 3,
    ShutDownCancelled: "begin to shut a node down", 1,
    ToggleListener: "switch a listener off and on", 4,
    ToggleCancelled: "begin to switch a listener off or on", 2,
    Connect: "connect", 120,
    ConnectCancelled: "begin to connect", 30,
    ConnectFrom: "connect from another address", 60,
    ConnectAndEnd: "connect, send and disconnect", 150,
    Disconnect: "disconnect", 120,
    DisconnectCancelled: "begin to disconnect", 40,
    Send: "send", 100,
    SendAndWait: "send and wait for the receipt", 40,
    SendMany: "send more than the queue holds", 10,
    Broadcast: "broadcast", 10,
    LastWords: "say a last word and disconnect", 60,
    LastWordsToAll: "say a last word to all and shut down", 2,
    DialAndVanish: "dial from a runtime that goes away", 4,
    DisconnectOutside: "disconnect outside of a runtime", 6,
    Pipeline: "a raw socket sends requests all at once", 12,
    Stranger: "a raw socket dials", 40,
    StrangerListens: "dial a raw socket", 15,
    DialNobody: "dial nobody, or oneself", 6,
    Inspect: "ask a node about everything", 10,
}

impl Kind {
    fn connects(self) -> bool {
        matches!(self, Self::Connect | Self::ConnectFrom | Self::ConnectAndEnd)
    }
}

/// The share, in percent, of actions that connect, in every mix: no phase is idle.
const CONNECT_FLOOR: u32 = 35;

/// The longest pause between two actions, in microseconds.
pub const MAX_PAUSE: u64 = 500;

/// One action; the numbers choose its nodes, the seed all the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Action {
    pub kind: Kind,
    pub first: usize,
    pub second: usize,
    pub seed: u64,
    /// The pause after it, in microseconds.
    pub pause: u64,
}

impl Action {
    /// Folds the action into a digest.
    pub fn digest(&self, digest: u64) -> u64 {
        let fields = [self.kind as u64, self.first as u64, self.second as u64, self.seed, self.pause];
        fields.into_iter().fold(digest, |digest, field| Random::new(digest ^ field).next())
    }
}

/// The actions of one worker, without end.
pub struct Plan {
    dice: Random,
    weights: Vec<(Kind, u32)>,
    /// How many more actions this mix is for.
    remaining: usize,
    pauses: bool,
}

impl Plan {
    pub fn new(seed: u64, pauses: bool) -> Self {
        Self { dice: Random::new(seed), weights: Vec::new(), remaining: 0, pauses }
    }

    /// Makes some kinds up to eight times as frequent as others, and leaves some out.
    fn reroll(&mut self) {
        self.remaining = 300 + self.dice.below(3_000);
        let dice = &mut self.dice;
        self.weights.clear();
        self.weights.extend(Kind::ALL.iter().map(|&(kind, _, usual)| {
            let factor = if dice.below(8) == 0 { 0 } else { 1 << dice.below(4) };
            // Without new nodes there would soon be none, and with few of them little happens.
            (kind, usual * if kind == Kind::Spawn { 8 } else { factor })
        }));
        let sum = |connects: bool, weights: &[(Kind, u32)]| -> u32 {
            weights.iter().filter(|(kind, _)| kind.connects() == connects).map(|(_, weight)| weight).sum()
        };
        let (connecting, others) = (sum(true, &self.weights), sum(false, &self.weights));
        let missing = (others * CONNECT_FLOOR / (100 - CONNECT_FLOOR)).saturating_sub(connecting);
        for (kind, weight) in &mut self.weights {
            if kind.connects() {
                *weight += missing / 3 + 1;
            }
        }
    }
}

impl Iterator for Plan {
    type Item = Action;

    fn next(&mut self) -> Option<Action> {
        if self.remaining == 0 {
            self.reroll();
        }
        self.remaining -= 1;
        let total: u32 = self.weights.iter().map(|(_, weight)| weight).sum();
        let mut place = self.dice.below(total as usize) as u32;
        let (kind, _) = self.weights.iter().find(|(_, weight)| {
            let is_here = place < *weight;
            place = place.saturating_sub(*weight);
            is_here
        })?;
        let (first, second, seed) = (self.dice.below(1_000), self.dice.below(1_000), self.dice.next());
        let pause = if self.pauses { self.dice.below(MAX_PAUSE as usize + 1) as u64 } else { 0 };
        Some(Action { kind: *kind, first, second, seed, pause })
    }
}
