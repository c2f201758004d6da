//! How long a task runs user code before the other tasks get their turn.
//!
//! Reads the clock; knows no task and no stream.

use std::time::{Duration, Instant};

/// How long a turn may take. The other tasks of a thread wait for as many of these as there are busy connections on it.
const TURN_TIME: Duration = Duration::from_millis(1);

/// The most messages between two looks at the clock. A look costs about as much as receiving one small message.
const MAX_UNIT: u8 = 64;

/// For so many messages a turn takes one unit of its task's cooperation budget, of which there are 128: it ends after 2,048
/// small messages at the latest.
const MESSAGES_PER_BUDGET_UNIT: u8 = 16;

/// How many looks at the clock a turn of slow messages has: it ends late by this share of itself at most.
const LOOKS_PER_TURN: u32 = 16;

/// How many messages are handled between two looks at the clock: few while they are slow.
///
/// A connection begins with one. Each look may double that, and lowers it at once if messages have become slow.
#[derive(Debug)]
pub(crate) struct Pace {
    /// How many messages there are between two looks.
    unit: u8,
    /// How many of them are left.
    left: u8,
}

/// One turn of a task.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// Since when it is measured: from the first work if messages are slow, else from the first look.
    began: Option<Instant>,
    /// How many messages it has had since then.
    messages: u32,
}

impl Pace {
    pub(crate) const fn new() -> Self {
        Self { unit: 1, left: 1 }
    }

    /// Whether messages are so slow that their time has to be measured.
    #[inline]
    pub(crate) fn is_slow(&self) -> bool {
        self.unit < MAX_UNIT
    }

    /// How many messages there are between two looks.
    pub(crate) fn unit(&self) -> usize {
        self.unit.into()
    }

    /// How many units of the task's cooperation budget the messages between two looks are worth.
    pub(crate) fn budget_units(&self) -> u8 {
        self.unit.div_ceil(MESSAGES_PER_BUDGET_UNIT)
    }

    /// There is work: begins to measure the turn if messages are slow.
    #[inline]
    pub(crate) fn begin(&self, turn: &mut Turn) {
        if self.is_slow() && turn.began.is_none() {
            turn.began = Some(Instant::now());
        }
    }

    /// Counts a message, of which some must be [due](Self::is_look_due).
    #[inline]
    pub(crate) fn count(&mut self) {
        self.left -= 1;
    }

    /// Whether the clock has to be looked at before another message.
    #[inline]
    pub(crate) fn is_look_due(&self) -> bool {
        self.left == 0
    }

    /// Looks at the clock after the messages that were counted; `true` if the turn is over.
    pub(crate) fn look(&mut self, turn: &mut Turn) -> bool {
        let messages = self.unit - self.left;
        self.look_after(messages.into(), turn)
    }

    /// Looks at the clock after so many messages; `true` if the turn is over.
    pub(crate) fn look_after(&mut self, messages: usize, turn: &mut Turn) -> bool {
        let now = Instant::now();
        let elapsed = match turn.began {
            Some(began) => {
                turn.messages += messages as u32;
                let elapsed = now.duration_since(began);
                self.adapt(turn.messages, elapsed);
                elapsed
            }
            // Nothing is known of what came before.
            None => {
                turn.began = Some(now);
                Duration::ZERO
            }
        };
        self.left = self.unit;
        elapsed >= TURN_TIME
    }

    /// Makes a unit as long as a share of a turn.
    fn adapt(&mut self, messages: u32, elapsed: Duration) {
        let share = u128::from(messages) * (TURN_TIME / LOOKS_PER_TURN).as_nanos() / elapsed.as_nanos().max(1);
        self.unit = u8::try_from(share).unwrap_or(MAX_UNIT).clamp(1, (self.unit * 2).min(MAX_UNIT));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets `messages` of a turn pass that took so long in all.
    fn after(pace: &mut Pace, messages: u32, elapsed: Duration) -> u8 {
        pace.adapt(messages, elapsed);
        pace.unit
    }

    #[test]
    fn a_unit_grows_by_doubling_while_messages_are_quick() {
        let mut pace = Pace::new();
        let units: Vec<_> = (0..7).map(|_| after(&mut pace, 64, Duration::from_micros(8))).collect();
        assert_eq!(units, [2, 4, 8, 16, 32, 64, 64]);
        assert!(!pace.is_slow());
    }

    #[test]
    fn a_unit_shrinks_at_once_to_a_sixteenth_of_a_turn() {
        let mut pace = Pace { unit: 64, left: 0 };
        assert_eq!(after(&mut pace, 16, Duration::from_micros(160)), 6);
        assert_eq!(after(&mut pace, 16, Duration::from_millis(16)), 1);
        assert_eq!(after(&mut pace, 1, Duration::from_secs(100)), 1, "one message that is slow by itself");
        assert!(pace.is_slow());
    }

    #[test]
    fn a_turn_of_slow_messages_is_over_in_time_and_one_of_quick_messages_is_not() {
        let (mut pace, mut turn) = (Pace::new(), Turn::default());
        pace.begin(&mut turn);
        turn.began = turn.began.and_then(|began| began.checked_sub(TURN_TIME));
        pace.count();
        assert!(pace.is_look_due() && pace.look(&mut turn));

        let (mut pace, mut turn) = (Pace { unit: 64, left: 1 }, Turn::default());
        pace.begin(&mut turn);
        assert!(turn.began.is_none(), "quick messages are not measured from the beginning");
        pace.count();
        assert!(pace.is_look_due() && !pace.look(&mut turn));
    }
}
