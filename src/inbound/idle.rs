//! How long a reader has been waiting for the next complete message, with as few looks at the clock as that takes.
//!
//! While messages keep coming, only a short timer runs, the *tick*: the wait that it finds counts from there. So nobody
//! looks at the clock for each message, and a connection that was busy ends at most one tick late.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    task::coop,
    time::{Instant, Sleep, sleep_until},
};

use crate::waiting::Grace;

/// How many ticks make up the idle time: a connection that was busy ends a sixteenth of it late at most.
const TICKS: u32 = 16;

/// A tick that is shorter would wake the reader more often than looks at the clock are worth.
const MIN_TICK: Duration = Duration::from_millis(100);

/// Since when a wait has been going on.
#[derive(Debug, Clone, Copy)]
enum Wait {
    /// There is none: a message has come, or there is no room for one.
    Over,
    /// Since this instant.
    Since(Instant),
    /// Since some instant within the tick that is running.
    SinceTick,
}

/// Measures each wait for a message.
#[derive(Debug)]
pub(super) struct IdleClock {
    /// The wait that is going on.
    wait: Wait,
    /// Whether the timer is set to a tick, and not to the end of a wait.
    is_ticking: bool,
    /// Whether the timer knows whom to wake.
    is_timer_polled: bool,
    /// Of this wait.
    grace: Grace,
}

impl IdleClock {
    pub(super) fn new() -> Self {
        Self { wait: Wait::Over, is_ticking: false, is_timer_polled: false, grace: Grace::default() }
    }

    /// Ends the wait: a message has come, or the clock has to stand still.
    #[inline]
    pub(super) fn stop(&mut self) {
        self.wait = Wait::Over;
    }

    /// Goes on with a wait, or begins one; ready when it takes too long. The timer is nobody else's meanwhile.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut timer: Pin<&mut Option<Sleep>>,
        timeout: Duration,
    ) -> Poll<()> {
        loop {
            let end_of_wait = match self.wait {
                Wait::Over if self.is_ticking => {
                    self.wait = Wait::SinceTick;
                    None
                }
                Wait::SinceTick => None,
                Wait::Over => {
                    let now = Instant::now();
                    self.begin(now);
                    let tick = timeout / TICKS;
                    // Not for the first message: most connections are silent, and need only the one timer.
                    if timer.is_some() && tick >= MIN_TICK {
                        self.is_ticking = self.set(timer.as_mut(), now.checked_add(tick));
                    }
                    continue;
                }
                Wait::Since(since) => since.checked_add(timeout),
            };
            if timer.is_none() && !self.set(timer.as_mut(), end_of_wait) {
                return Poll::Pending;
            }
            let Some(sleep) = timer.as_mut().as_pin_mut() else { unreachable!("it has just been set") };
            // One task polls the reader all its life: the timer needs to be told only once whom to wake, but it does not
            // listen to a task without budget.
            if self.is_timer_polled && !sleep.is_elapsed() {
                return Poll::Pending;
            }
            self.is_timer_polled = coop::has_budget_remaining();
            ready!(sleep.poll(cx));

            let now = Instant::now();
            self.is_ticking = false;
            match (self.wait, end_of_wait) {
                (Wait::SinceTick, _) | (_, None) => self.begin(now),
                // The timer is not moved with each message: it may have been set for an earlier one.
                (_, Some(end)) if now < end => {}
                (_, Some(end)) => {
                    // While it is pending the timer stays: a new one would fire only when the runtime next looks at its clock.
                    if ready!(self.grace.poll_is_over(cx, now - end)) {
                        return Poll::Ready(());
                    }
                    self.wait = Wait::Since(now);
                }
            }
            timer.set(None);
        }
    }

    fn begin(&mut self, now: Instant) {
        self.wait = Wait::Since(now);
        self.grace = Grace::default();
    }

    /// Sets the timer; `false` if that instant never comes.
    fn set(&mut self, mut timer: Pin<&mut Option<Sleep>>, at: Option<Instant>) -> bool {
        self.is_timer_polled = false;
        timer.set(at.map(sleep_until));
        at.is_some()
    }
}
