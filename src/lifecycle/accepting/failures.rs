//! What to do about an accept that fails: nothing, a pause, or the end of the listening. Decides, and does none of it.

use std::{io, time::Duration};

/// The pause after an accept that failed for want of resources: at most three errors a second, and accepting again
/// within half a second of the relief.
const PRESSURE_PAUSE: Duration = Duration::from_millis(400);

/// How many connections that their peers gave up are passed over in a row without a pause.
const ABORTS_PER_PAUSE: u32 = 16;

/// The first pause in a row of aborted connections; each further one is twice as long.
const FIRST_ABORT_PAUSE: Duration = Duration::from_millis(1);

/// The longest of them: ten wake-ups a second cost next to nothing, and 160 aborted connections a second are still passed
/// over, so that peers who abort theirs on purpose do not keep the others out.
const LONGEST_ABORT_PAUSE: Duration = Duration::from_millis(100);

/// How many errors in a row that say that the socket is none any more are believed.
const REVOCATIONS: u32 = 3;

/// The pause between them.
const REVOCATION_PAUSE: Duration = Duration::from_millis(1);

/// What follows from an accept that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Accept the next one.
    GoOn,
    /// Accept the next one after a pause; `is_news`: an operator should know.
    Pause { pause: Duration, is_news: bool },
    /// The socket does not listen any more, and never will.
    GiveUp,
}

/// The accepts that have failed since the last one that did not.
#[derive(Debug, Default)]
pub(super) struct Failures {
    /// Those that were their peers' doing, in a row.
    aborts: u32,
    /// Those that said that the socket does not listen, in a row.
    revocations: u32,
}

impl Failures {
    /// An accept succeeded, or there was none to fail.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    pub(super) fn next(&mut self, error: &io::Error) -> Step {
        if is_revocation(error) {
            self.revocations += 1;
            return match self.revocations {
                REVOCATIONS.. => Step::GiveUp,
                _ => Step::Pause { pause: REVOCATION_PAUSE, is_news: false },
            };
        }
        self.revocations = 0;
        if !is_peers_doing(error) {
            return Step::Pause { pause: PRESSURE_PAUSE, is_news: true };
        }
        self.aborts = self.aborts.saturating_add(1);
        if !self.aborts.is_multiple_of(ABORTS_PER_PAUSE) {
            return Step::GoOn;
        }
        let doublings = self.aborts / ABORTS_PER_PAUSE - 1;
        let pause = |doublings: u32| FIRST_ABORT_PAUSE.saturating_mul(1 << doublings.min(10)).min(LONGEST_ABORT_PAUSE);
        // Once in a row: more than a hundred of them without a gap are the system's, or somebody's, intent.
        let is_news =
            pause(doublings) == LONGEST_ABORT_PAUSE && pause(doublings.saturating_sub(1)) < LONGEST_ABORT_PAUSE;
        Step::Pause { pause: pause(doublings), is_news }
    }
}

/// Whether an error of accept belongs to one connection that is gone already, so that the next may be fine.
fn is_peers_doing(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionReset, HostUnreachable, Interrupted, NetworkDown, NetworkUnreachable, TimedOut,
    };
    // EPROTO, ENOPROTOOPT, EHOSTDOWN and ENONET, which accept(2) lists too, and which have no kind.
    let is_pending_network_error =
        cfg!(target_os = "linux") && matches!(error.raw_os_error(), Some(71 | 92 | 112 | 64));
    is_pending_network_error
        || matches!(
            error.kind(),
            ConnectionAborted
                | ConnectionReset
                | HostUnreachable
                | Interrupted
                | NetworkDown
                | NetworkUnreachable
                | TimedOut
        )
}

/// Whether an error of accept says that the socket does not listen, or is none: EINVAL, EBADF, ENOTSOCK, EOPNOTSUPP.
fn is_revocation(error: &io::Error) -> bool {
    let codes: &[i32] = if cfg!(windows) {
        &[10_022, 10_009, 10_038, 10_045]
    } else if cfg!(any(target_os = "linux", target_os = "android")) {
        &[22, 9, 88, 95]
    } else if cfg!(target_vendor = "apple") {
        &[22, 9, 38, 102]
    } else {
        &[22, 9, 38, 45]
    };
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    const EMFILE: i32 = 24;
    const ECONNABORTED: i32 = 103;

    fn next(failures: &mut Failures, code: i32) -> Step {
        failures.next(&io::Error::from_raw_os_error(code))
    }

    #[test]
    fn want_of_resources_pauses_each_time() {
        let mut failures = Failures::default();
        for _ in 0..3 {
            assert_eq!(next(&mut failures, EMFILE), Step::Pause { pause: PRESSURE_PAUSE, is_news: true });
        }
    }

    #[test]
    fn aborted_connections_pause_only_in_a_long_row_and_are_news_once() {
        let mut failures = Failures::default();
        let (mut pauses, mut news) = (Vec::new(), 0);
        for _ in 0..20 * ABORTS_PER_PAUSE {
            match next(&mut failures, ECONNABORTED) {
                Step::GoOn => {}
                Step::Pause { pause, is_news } => {
                    pauses.push(pause.as_millis());
                    news += usize::from(is_news);
                }
                Step::GiveUp => panic!("they are no revocation"),
            }
        }
        assert_eq!(pauses[..9], [1, 2, 4, 8, 16, 32, 64, 100, 100]);
        assert_eq!((pauses.len(), news), (20, 1));
        failures.reset();
        assert_eq!(next(&mut failures, ECONNABORTED), Step::GoOn);
    }

    #[test]
    fn a_socket_is_given_up_when_it_says_so_several_times_in_a_row() {
        for code in [9, 22, 88, 95] {
            let mut failures = Failures::default();
            let again = Step::Pause { pause: REVOCATION_PAUSE, is_news: false };
            assert_eq!([next(&mut failures, code), next(&mut failures, code)], [again, again]);
            assert_eq!(next(&mut failures, ECONNABORTED), Step::GoOn);
            assert_eq!([next(&mut failures, code), next(&mut failures, code)], [again, again]);
            assert_eq!(next(&mut failures, code), Step::GiveUp);
        }
    }
}
