//! Peers that end a live connection, or that do not let it end.

use pea2pea::DisconnectOrigin::{Reading, Shutdown, User, Writing};

use crate::{
    common::wire::frame,
    row::{
        After, Count, Ends, Owner, Peer, Seen,
        Step::{
            self, Expect, ExpectEnd, ExpectEof, Flood, Hold, ReadUntilEnd, Reset, Send, SendUntilBlocked, ShutRd,
            ShutWr, TryGreet,
        },
        attack, dials, handshakes, is_dialled, lives_until, rows,
    },
    victim::{HELLO, PIECE, WELCOME, say},
};

const HELLO_AGAIN: &str = "hello again";

/// A peer that greets and exchanges a message first, so that it is live for certain.
fn is_live(steps: impl Into<Vec<Step>>) -> Peer {
    let first = vec![TryGreet, Send(say::echo(HELLO_AGAIN)), Expect(say::echo(HELLO_AGAIN))];
    dials([first, steps.into()].concat())
}

const CLOSED: Seen = lives_until(&[(Reading, 1)], 1);

rows! {
    a_close_is_the_end => attack([is_live([])], CLOSED);

    a_reset_is_the_end => attack([is_live([Reset])], CLOSED);

    half_a_close_is_answered_with_a_close => attack([is_live([ShutWr, ExpectEof(vec![])])], CLOSED);

    half_a_close_is_the_end_even_if_the_peer_stays => attack([is_live([ShutWr, Hold])], CLOSED);

    both_halves_closed_are_the_end_even_if_the_peer_stays => attack([is_live([ShutRd, ShutWr, Hold])], CLOSED);

    /// The victim cannot know it.
    half_a_close_of_the_read_side_is_no_end => attack([is_live([ShutRd, Hold])], CLOSED).held_live(1);

    a_reset_after_half_a_close_is_one_end => attack([is_live([ShutWr, Reset])], CLOSED);

    a_crowd_that_resets_is_the_end_of_each =>
        attack(
            [is_live([Reset]).crowd(50)],
            Seen { handshakes: Count::Is(50), ..lives_until(&[(Reading, 50)], 50) },
        );

    a_dialled_peer_that_resets_later_is_the_end =>
        attack(
            [is_dialled([Expect(HELLO.into()), Send(WELCOME.into()), Send(say::echo("!")), Expect(say::echo("!")), Reset])],
            Seen { dials_succeed: 1, ..CLOSED },
        );

    last_words_are_heard =>
        attack([is_live([Send(say::nothing().repeat(1_000))])], Seen { received: Count::Is(1_001), ..CLOSED });

    last_words_before_a_reset_are_heard_in_part =>
        attack(
            [is_live([Send(say::nothing().repeat(1_000)), Reset])],
            Seen { received: Count::AtMost(1_001), ..CLOSED },
        );

    /// Closing a socket with unread input resets it.
    answers_that_nobody_reads_are_no_harm =>
        attack(
            [is_live([Send(say::echo("?").repeat(1_000))])],
            Seen { ends: Ends::Among(&[Reading, Writing], 1), received: Count::AtMost(1_001), ..CLOSED },
        );

    /// What was queued before the end arrives before it.
    a_goodbye_is_answered_with_a_clean_end =>
        attack(
            [is_live([Send(say::echo("bye")), Send(say::goodbye()), ExpectEof([say::echo("bye"), say::last_words()].concat())])],
            lives_until(&[(User, 1)], 3),
        );

    a_goodbye_and_half_a_close_are_one_end =>
        attack([is_live([Send(say::goodbye()), ShutWr, ExpectEof(say::last_words())])], lives_until(&[(User, 1)], 2));

    a_goodbye_and_a_reset_are_one_end =>
        attack(
            [is_live([Send(say::goodbye()), Reset])],
            Seen { ends: Ends::Among(&[User, Reading], 1), received: Count::AtMost(2), ..CLOSED },
        );

    a_panic_behind_a_goodbye_does_not_come_to_pass =>
        attack(
            [is_live([Send([say::goodbye(), say::panic()].concat()), ReadUntilEnd])],
            Seen { received: Count::AtMost(3), ..lives_until(&[(User, 1)], 0) },
        );

    the_owner_ends_a_silent_peer =>
        attack([is_live([Hold, ExpectEof(vec![])])], lives_until(&[(User, 1)], 1)).held_live(1).owner(Owner::Disconnects);

    the_owner_ends_a_peer_amid_a_frame =>
        attack([is_live([Send(vec![0, 0, 1]), Hold, ExpectEof(vec![])])], lives_until(&[(User, 1)], 1))
            .held_live(1)
            .owner(Owner::Disconnects);

    /// While the end is being flushed, what has come already may still be received.
    the_owner_ends_a_peer_that_never_reads =>
        attack(
            [is_live([Send(say::send_for_ever()), SendUntilBlocked(say::nothing().repeat(10_000)), Hold]).tight()],
            Seen { received: Count::AtMost(10_000_000), ..lives_until(&[(User, 1)], 0) },
        )
        .held_live(1)
        .owner(Owner::Disconnects);

    the_owner_ends_a_peer_that_has_stopped_reading_for_good =>
        attack([is_live([ShutRd, Send(say::send_for_ever()), Hold]).tight()], Seen { received: Count::AtMost(2), ..lives_until(&[(User, 1)], 0) })
            .held_live(1)
            .owner(Owner::Disconnects);

    /// More than the read buffer: what lies in the kernel does not turn the end into a reset.
    the_owner_ends_a_peer_with_unread_input =>
        attack(
            [is_live([Send(say::hang()), Flood(say::nothing().repeat(1_000), 22), Hold, ExpectEof(vec![])])],
            lives_until(&[(User, 1)], 6),
        )
        .held_live(1)
        .owner(Owner::Disconnects);

    /// So much that the end is a reset after all; what was said before it is not lost, nor is the end itself.
    the_owner_ends_a_peer_with_unread_input_without_end =>
        attack(
            [is_live([Send(say::hang()), SendUntilBlocked(say::nothing().repeat(1_000)), Hold, ExpectEnd(vec![])])],
            lives_until(&[(User, 1)], 6),
        )
        .held_live(1)
        .owner(Owner::Disconnects);

    a_shutdown_ends_a_silent_peer =>
        attack([is_live([Hold, ExpectEof(vec![])])], lives_until(&[(Shutdown, 1)], 1)).held_live(1).owner(Owner::ShutsDown);

    a_shutdown_ends_a_peer_that_never_reads =>
        attack(
            [is_live([Send(say::send_for_ever()), Expect(frame(&[b'f'; PIECE])), Hold, ReadUntilEnd]).tight()],
            lives_until(&[(Shutdown, 1)], 2),
        )
        .held_live(1)
        .owner(Owner::ShutsDown);

    a_shutdown_ends_peers_in_the_handshake =>
        attack([dials([Hold, ReadUntilEnd]).crowd(5)], handshakes(5)).held_pending(5).owner(Owner::ShutsDown);

    a_shutdown_ends_peers_at_every_stage =>
        attack(
            [
                is_live([Hold]),
                is_live([Send(say::send_for_ever()), Hold]).tight(),
                is_live([Send(say::hang()), Hold]),
                is_live([Send(vec![0, 0, 1]), Hold]),
                dials([Hold]).after(After::Live(4)),
                dials([Send(HELLO[..8].into()), Hold]).after(After::Live(4)),
            ],
            Seen {
                ends: Ends::Are(&[(Shutdown, 4)]),
                received: Count::AtMost(6),
                ..handshakes(6)
            },
        )
        .held_live(4)
        .held_pending(2)
        .owner(Owner::ShutsDown);
}
