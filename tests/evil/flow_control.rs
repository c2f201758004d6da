//! Peers that read too little, or make the victim work too much.

use std::time::Duration;

use pea2pea::DisconnectOrigin::{Reading, User, Writing};

use crate::{
    common::wire::frame,
    row::{
        Count,
        Defence::{IdleTimeout, WriteTimeout},
        Ends, MAX_FRAME, Owner, Peer, SHORT, SHORT_FLUSH, SHORT_IDLE, Seen,
        Step::{
            self, Expect, ExpectEof, Flood, Hold, HoldAndRead, ReadSlowly, ReadUntilEnd, Reset, Send, SendUntilBlocked,
            ShutRd, ShutWr, TryGreet,
        },
        attack, dials, lives_until, rows,
    },
    victim::{A_LOT, HELLO, PIECE, say},
};

/// A flush that takes too long.
const STALLED: Seen = Seen { write_timeouts: 1, ..lives_until(&[(Writing, 1)], 1) };

/// After its drain; see `DRAIN_TIME` in the read loop.
const DRAINED: Duration = Duration::from_secs(3);

/// A peer that greets first.
fn reads(steps: impl Into<Vec<Step>>) -> Peer {
    dials([vec![TryGreet], steps.into()].concat())
}

/// A peer that greets first, with a small receive buffer.
fn hoards(steps: impl Into<Vec<Step>>) -> Peer {
    reads(steps).tight()
}

fn a_lot() -> Vec<u8> {
    frame(&[b'l'; PIECE]).repeat(A_LOT)
}

rows! {
    a_peer_that_never_reads_meets_the_write_timeout =>
        attack([hoards([Send(say::send_for_ever()), Hold])], STALLED).on(SHORT_FLUSH).thanks_to(WriteTimeout, SHORT);

    /// With the buffers that the system gives it.
    a_peer_with_large_buffers_that_never_reads_meets_the_write_timeout =>
        attack([dials([TryGreet, Send(say::send_for_ever()), Hold])], STALLED)
            .on(SHORT_FLUSH)
            .thanks_to(WriteTimeout, SHORT);

    a_crowd_that_never_reads_meets_the_write_timeout =>
        attack(
            [hoards([Send(say::send_for_ever()), Hold]).crowd(20)],
            Seen { handshakes: Count::Is(20), write_timeouts: 20, ..lives_until(&[(Writing, 20)], 20) },
        )
        .on(SHORT_FLUSH)
        .thanks_to(WriteTimeout, SHORT);

    /// The kernel's buffers are more than it reads in the time of a flush.
    a_peer_that_reads_too_slowly_meets_the_write_timeout =>
        attack([hoards([Send(say::send_for_ever()), HoldAndRead(64, Duration::from_millis(20))])], STALLED)
            .on(SHORT_FLUSH)
            .thanks_to(WriteTimeout, SHORT);

    a_peer_that_closes_its_read_side_meets_the_write_timeout =>
        attack([hoards([Send(say::send_for_ever()), ShutRd, Hold])], STALLED)
            .on(SHORT_FLUSH)
            .thanks_to(WriteTimeout, SHORT);

    /// It sends for as long as the victim takes what it sends.
    a_peer_that_only_sends_what_is_to_be_answered_meets_the_write_timeout =>
        attack(
            [hoards([SendUntilBlocked(say::large_echo(MAX_FRAME)), Hold])],
            Seen { received: Count::AtMost(1_000), ..STALLED },
        )
        .on(SHORT_FLUSH)
        .thanks_to(WriteTimeout, SHORT);

    a_peer_that_reads_slowly_but_steadily_gets_everything =>
        attack(
            [reads([
                Send(say::send_a_lot()),
                Send(say::goodbye()),
                ReadSlowly(64 * 1024, Duration::from_millis(1)),
            ])],
            lives_until(&[(User, 1)], 2),
        );

    a_peer_that_reads_late_gets_everything =>
        attack(
            [reads([SendUntilBlocked(say::large_echo(MAX_FRAME)), ShutWr, ReadUntilEnd])],
            Seen { received: Count::AtMost(1_000), ..lives_until(&[(Reading, 1)], 0) },
        );

    /// Row 22: what is queued our way when we close our side is flushed.
    a_peer_that_closes_its_write_side_early_gets_everything =>
        attack([reads([Send(say::send_a_lot()), ShutWr, ExpectEof(a_lot())])], lives_until(&[(Reading, 1)], 1));

    a_peer_that_resets_while_it_is_sent_to_is_the_end =>
        attack(
            [hoards([Send(say::send_for_ever()), Expect(frame(&[b'f'; PIECE])), Reset])],
            Seen { ends: Ends::Among(&[Reading, Writing], 1), ..lives_until(&[], 1) },
        );

    a_peer_that_closes_while_it_is_sent_to_is_the_end =>
        attack(
            [hoards([Send(say::send_for_ever()), Expect(frame(&[b'f'; PIECE]))])],
            Seen { ends: Ends::Among(&[Reading, Writing], 1), ..lives_until(&[], 1) },
        );

    /// It holds one message, the queue's four, and what the kernel buffers; the owner can get rid of it.
    a_message_that_hangs_stops_the_reading =>
        attack(
            [dials([TryGreet, Send(say::hang()), SendUntilBlocked(say::nothing().repeat(10_000)), Hold])],
            lives_until(&[(User, 1)], 5),
        )
        .held_live(1)
        .owner(Owner::Disconnects);

    a_message_that_hangs_does_not_keep_a_closed_connection =>
        attack([dials([TryGreet, Send(say::hang()), ShutWr, ReadUntilEnd])], lives_until(&[(Reading, 1)], 1))
            .not_before(DRAINED);

    a_message_that_hangs_does_not_keep_a_connection_that_is_reset =>
        attack([dials([TryGreet, Send(say::hang()), Reset])], Seen { received: Count::AtMost(1), ..lives_until(&[(Reading, 1)], 0) });

    a_message_that_hangs_does_not_stop_the_idle_clock =>
        attack(
            [dials([Send([&HELLO[..], &say::hang()].concat()), Hold])],
            Seen { idle_timeouts: 1, ..lives_until(&[(Reading, 1)], 1) },
        )
        .on(SHORT_IDLE)
        .thanks_to(IdleTimeout, SHORT);

    a_crowd_whose_messages_hang_is_no_harm =>
        attack(
            [dials([TryGreet, Send(say::hang()), Flood(say::nothing(), 100), Hold]).crowd(30)],
            Seen { handshakes: Count::Is(30), ..lives_until(&[(User, 30)], 30 * 5) },
        )
        .held_live(30)
        .owner(Owner::Disconnects);
}
