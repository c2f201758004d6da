//! Peers that begin a greeting.

use std::{io::ErrorKind, time::Duration};

use pea2pea::DisconnectOrigin::{Reading, Writing};

use crate::{
    row::{
        Count,
        Defence::HandshakeDeadline,
        Ends, SHORT, SHORT_HANDSHAKE, Seen,
        Step::{Expect, ExpectEof, Flood, Hold, Mirror, ReadUntilEnd, Reset, Send, ShutWr, Trickle},
        attack, dials, handshakes, is_dialled, lives_until, rows,
    },
    victim::{HANG_IN_HANDSHAKE, HELLO, PANIC_IN_HANDSHAKE, WELCOME, say},
};

const TIMED_OUT: Seen = Seen { handshake_timeouts: 1, ..handshakes(1) };

/// The greeting takes a second.
const TOO_SLOWLY: Duration = Duration::from_millis(1_000 / 16);

fn hello() -> Vec<u8> {
    HELLO.into()
}

fn half_a_hello() -> Vec<u8> {
    HELLO[..8].into()
}

/// A greeting with a typo at its end.
fn almost_hello() -> Vec<u8> {
    [&HELLO[..15], b"!"].concat()
}

rows! {
    a_greeting_in_single_bytes_is_a_greeting =>
        attack(
            [dials([
                Trickle(hello(), Duration::from_millis(1)),
                Expect(WELCOME.into()),
                Send(say::echo("hello")),
                Expect(say::echo("hello")),
            ])],
            lives_until(&[(Reading, 1)], 1),
        );

    /// The deadline is for all of the handshake, not for each read.
    a_greeting_that_trickles_meets_the_deadline =>
        attack([dials([Trickle(hello(), TOO_SLOWLY), Hold])], TIMED_OUT)
            .on(SHORT_HANDSHAKE)
            .thanks_to(HandshakeDeadline, SHORT);

    half_a_greeting_and_silence_meet_the_deadline =>
        attack([dials([Send(half_a_hello()), Hold])], TIMED_OUT)
            .on(SHORT_HANDSHAKE)
            .thanks_to(HandshakeDeadline, SHORT);

    a_greeting_but_for_its_last_byte_meets_the_deadline =>
        attack([dials([Send(HELLO[..15].into()), ReadUntilEnd])], TIMED_OUT)
            .on(SHORT_HANDSHAKE)
            .thanks_to(HandshakeDeadline, SHORT);

    half_a_greeting_and_a_close_are_the_end => attack([dials([Send(half_a_hello())])], handshakes(1));

    half_a_greeting_and_a_reset_are_the_end => attack([dials([Send(half_a_hello()), Reset])], handshakes(1));

    half_a_greeting_and_half_a_close_are_hung_up_on =>
        attack([dials([Send(half_a_hello()), ShutWr, ReadUntilEnd])], handshakes(1));

    a_wrong_greeting_is_hung_up_on => attack([dials([Send(almost_hello()), ReadUntilEnd])], handshakes(1));

    /// `WELCOME` is the word of who was dialled.
    a_greeting_of_the_wrong_side_is_hung_up_on => attack([dials([Send(WELCOME.into()), ReadUntilEnd])], handshakes(1));

    a_crowd_with_a_wrong_greeting_is_hung_up_on =>
        attack([dials([Send(almost_hello()), ReadUntilEnd]).crowd(50)], handshakes(50));

    megabytes_of_garbage_instead_of_a_greeting_are_hung_up_on =>
        attack([dials([Flood(vec![0xff; 64 * 1024], 64), ReadUntilEnd])], handshakes(1));

    a_greeting_and_a_reset_may_or_may_not_go_live =>
        attack(
            [dials([Send(hello()), Reset])],
            Seen { ends: Ends::Among(&[Reading], 1), ..handshakes(1) },
        );

    a_greeting_and_a_close_may_or_may_not_go_live =>
        attack([dials([Send(hello())])], Seen { ends: Ends::Among(&[Reading], 1), ..handshakes(1) });

    /// Nothing of what comes behind the greeting gets lost.
    a_greeting_with_a_message_in_the_same_packet_is_understood =>
        attack(
            [dials([
                Send([hello(), say::echo("at once")].concat()),
                ShutWr,
                ExpectEof([&WELCOME[..], &say::echo("at once")].concat()),
            ])],
            lives_until(&[(Reading, 1)], 1),
        );

    a_whole_conversation_that_nobody_listens_to_is_no_harm =>
        attack(
            [dials([Send([hello(), say::echo("?").repeat(100)].concat()), Reset])],
            Seen {
                ends: Ends::Among(&[Reading, Writing], 1),
                received: Count::AtMost(100),
                ..handshakes(1)
            },
        );

    /// The second greeting is a frame of 1.7 GB.
    a_second_greeting_is_not_a_message =>
        attack([dials([Send(hello()), Send(hello()), Expect(WELCOME.into()), ReadUntilEnd])], lives_until(&[(Reading, 1)], 0));

    a_greeting_that_makes_the_handshake_panic_ends_only_that =>
        attack(
            [dials([Send(PANIC_IN_HANDSHAKE.into()), ReadUntilEnd])],
            Seen { logged: Count::Is(1), ..handshakes(1) },
        );

    a_greeting_that_makes_the_handshake_hang_meets_the_deadline =>
        attack([dials([Send(HANG_IN_HANDSHAKE.into()), Hold])], TIMED_OUT)
            .on(SHORT_HANDSHAKE)
            .thanks_to(HandshakeDeadline, SHORT);

    /// What comes while a handshake hangs fills the kernel's buffers and nothing else.
    a_hanging_handshake_that_is_flooded_meets_the_deadline =>
        attack(
            [dials([Send(HANG_IN_HANDSHAKE.into()), Flood(vec![0; 64 * 1024], 1_000), Hold])],
            TIMED_OUT,
        )
        .on(SHORT_HANDSHAKE)
        .thanks_to(HandshakeDeadline, SHORT);

    a_dialled_peer_with_a_wrong_answer_fails_the_dial =>
        attack(
            [is_dialled([Expect(hello()), Send(almost_hello()), ReadUntilEnd])],
            Seen { dials_fail: &[ErrorKind::InvalidData], ..handshakes(1) },
        );

    a_dialled_peer_that_mirrors_fails_the_dial =>
        attack([is_dialled([Mirror])], Seen { dials_fail: &[ErrorKind::InvalidData], ..handshakes(1) });

    a_dialled_peer_that_closes_amid_its_answer_fails_the_dial =>
        attack(
            [is_dialled([Expect(hello()), Send(WELCOME[..8].into())])],
            Seen { dials_fail: &[ErrorKind::UnexpectedEof], ..handshakes(1) },
        );

    a_dialled_peer_that_resets_amid_its_answer_fails_the_dial =>
        attack(
            [is_dialled([Expect(hello()), Send(WELCOME[..8].into()), Reset])],
            Seen { dials_fail: &[ErrorKind::ConnectionReset], ..handshakes(1) },
        );

    a_dialled_peer_whose_answer_trickles_times_out =>
        attack(
            [is_dialled([Expect(hello()), Trickle(WELCOME.into(), TOO_SLOWLY), Hold])],
            Seen { dials_fail: &[ErrorKind::TimedOut], ..TIMED_OUT },
        )
        .on(SHORT_HANDSHAKE)
        .thanks_to(HandshakeDeadline, SHORT);

    a_dialled_peer_that_answers_and_leaves_was_live =>
        attack(
            [is_dialled([Expect(hello()), Send(WELCOME.into())])],
            Seen { dials_succeed: 1, ..lives_until(&[(Reading, 1)], 0) },
        );
}
