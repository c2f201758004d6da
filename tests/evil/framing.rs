//! Peers whose frames are not as they should be.

use std::time::Duration;

use pea2pea::DisconnectOrigin::{Reading, Writing};

use crate::{
    common::wire::{Random, frame},
    row::{
        Count,
        Defence::{FrameLimit, IdleTimeout},
        MAX_FRAME, Peer, SHORT, SHORT_IDLE, Seen,
        Step::{self, Expect, ExpectEof, Flood, Hold, ReadUntilEnd, Reset, Send, ShutWr, Trickle, TryGreet},
        attack, dials, lives_until, rows,
    },
    victim::{HELLO, say},
};

const CUT_OFF: Seen = lives_until(&[(Reading, 1)], 0);
const IDLE: Seen = Seen { idle_timeouts: 1, ..CUT_OFF };

/// A peer that greets first.
fn talks(steps: impl Into<Vec<Step>>) -> Peer {
    dials([vec![TryGreet], steps.into()].concat())
}

/// A length and nothing else.
fn announcement(size: u32) -> Vec<u8> {
    size.to_be_bytes().into()
}

fn noise(size: usize) -> Vec<u8> {
    let mut random = Random::new(5);
    // As a length, the first bytes are more than the limit.
    (0..size).map(|_| random.next() as u8 | 0x80).collect()
}

rows! {
    an_empty_frame_is_a_message => attack([talks([Send(frame(b"")), Expect(frame(b""))])], lives_until(&[(Reading, 1)], 1));

    a_thousand_empty_frames_at_once_are_a_thousand_messages =>
        attack(
            [talks([Send(frame(b"").repeat(1_000)), ShutWr, ExpectEof(frame(b"").repeat(1_000))])],
            lives_until(&[(Reading, 1)], 1_000),
        );

    a_frame_of_the_largest_size_is_a_message =>
        attack(
            [talks([Send(say::large_echo(MAX_FRAME)), Expect(say::large_echo(MAX_FRAME))])],
            lives_until(&[(Reading, 1)], 1),
        );

    a_frame_of_one_byte_more_is_the_end =>
        attack([talks([Send(say::large_echo(MAX_FRAME + 1)), ReadUntilEnd])], CUT_OFF)
            .thanks_to(FrameLimit, Duration::ZERO);

    /// The end does not wait for the frame.
    a_header_that_announces_too_much_is_the_end =>
        attack([talks([Send(announcement(MAX_FRAME as u32 + 1)), Hold])], CUT_OFF).thanks_to(FrameLimit, Duration::ZERO);

    a_header_that_announces_four_gibibytes_is_the_end => attack([talks([Send(announcement(u32::MAX)), ReadUntilEnd])], CUT_OFF);

    a_crowd_that_announces_four_gibibytes_is_cut_off =>
        attack(
            [talks([Send(announcement(u32::MAX)), ReadUntilEnd]).crowd(100)],
            Seen { handshakes: Count::Is(100), ..lives_until(&[(Reading, 100)], 0) },
        );

    megabytes_behind_a_header_that_announces_too_much_are_not_taken =>
        attack([talks([Send(announcement(u32::MAX)), Flood(vec![0; 64 * 1024], 64), ReadUntilEnd])], CUT_OFF);

    half_a_header_and_a_close_are_the_end => attack([talks([Send(vec![0, 0])])], CUT_OFF);

    half_a_header_and_silence_meet_the_idle_timeout =>
        attack([talks([Send(vec![0, 0]), Hold])], IDLE).on(SHORT_IDLE).thanks_to(IdleTimeout, SHORT);

    silence_after_the_greeting_meets_the_idle_timeout =>
        attack([talks([Hold])], IDLE).on(SHORT_IDLE).thanks_to(IdleTimeout, SHORT);

    silence_after_a_message_meets_the_idle_timeout =>
        attack([dials([Send([&HELLO[..], &say::nothing()].concat()), Hold])], Seen { received: Count::Is(1), ..IDLE })
            .on(SHORT_IDLE)
            .thanks_to(IdleTimeout, SHORT);

    half_a_frame_and_a_close_are_the_end => attack([talks([Send(say::echo("half")[..6].into())])], CUT_OFF);

    half_a_frame_and_half_a_close_are_the_end =>
        attack([talks([Send(say::echo("half")[..6].into()), ShutWr, ExpectEof(vec![])])], CUT_OFF);

    half_a_frame_and_a_reset_are_the_end => attack([talks([Send(say::echo("half")[..6].into()), Reset])], CUT_OFF);

    half_a_frame_and_silence_meet_the_idle_timeout =>
        attack([talks([Send(say::echo("half")[..6].into()), Hold])], IDLE).on(SHORT_IDLE).thanks_to(IdleTimeout, SHORT);

    /// Bytes are no message: it would take a minute to send this one.
    a_frame_that_trickles_meets_the_idle_timeout =>
        attack([talks([Trickle(say::large_echo(2_400), SHORT / 10), ReadUntilEnd])], IDLE)
            .on(SHORT_IDLE)
            .thanks_to(IdleTimeout, SHORT);

    a_crowd_with_half_a_frame_each_meets_the_idle_timeout =>
        attack(
            [talks([Send(say::echo("half")[..6].into()), Hold]).crowd(50)],
            Seen { handshakes: Count::Is(50), idle_timeouts: 50, ..lives_until(&[(Reading, 50)], 0) },
        )
        .on(SHORT_IDLE)
        .thanks_to(IdleTimeout, SHORT);

    frames_in_single_bytes_are_messages =>
        attack(
            [talks([
                Trickle([say::echo("a"), say::echo("bcd"), frame(b"")].concat(), Duration::from_millis(1)),
                Expect([say::echo("a"), say::echo("bcd"), frame(b"")].concat()),
            ])],
            lives_until(&[(Reading, 1)], 3),
        );

    frames_that_are_cut_anywhere_are_messages =>
        attack(
            [talks([
                Send([say::echo("a"), say::echo("b")[..2].into()].concat()),
                Expect(say::echo("a")),
                Send([&say::echo("b")[2..], &say::echo("c")[..5]].concat()),
                Expect(say::echo("b")),
                Send([&say::echo("c")[5..], &frame(b"")[..]].concat()),
                Expect([say::echo("c"), frame(b"")].concat()),
            ])],
            lives_until(&[(Reading, 1)], 4),
        );

    garbage_behind_a_message_does_not_undo_it =>
        attack(
            [talks([Send(say::nothing()), Send(noise(100)), ReadUntilEnd])],
            lives_until(&[(Reading, 1)], 1),
        );

    noise_is_the_end => attack([talks([Send(noise(64 * 1024)), ReadUntilEnd])], CUT_OFF);

    a_message_that_fails_the_decoder_is_the_end => attack([talks([Send(say::fail_in_decoder()), ReadUntilEnd])], CUT_OFF);

    a_message_that_makes_the_decoder_panic_ends_only_its_connection =>
        attack([talks([Send(say::panic_in_decoder()), ReadUntilEnd])], Seen { logged: Count::Is(1), ..CUT_OFF });

    /// It has ten thousand tries, and the message before them and the one behind them are received too.
    a_decoder_that_consumes_nothing_is_stopped =>
        attack(
            [talks([Send(say::decode_without_end()), ReadUntilEnd])],
            Seen { received: Count::AtMost(10_002), ..CUT_OFF },
        );

    a_decoder_that_yields_nothing_meets_the_idle_timeout =>
        attack([talks([Send(say::decode_nothing()), Flood(vec![0; 1_000], 100), Hold])], IDLE)
            .on(SHORT_IDLE)
            .thanks_to(IdleTimeout, SHORT);

    a_message_whose_processing_panics_ends_only_its_connection =>
        attack(
            [talks([Send(say::panic()), ReadUntilEnd])],
            Seen { logged: Count::Is(1), ..lives_until(&[(Reading, 1)], 1) },
        );

    a_crowd_whose_messages_panic_ends_only_its_connections =>
        attack(
            // Only a few panics a second are errors in the log; the bound has room for seven seconds.
            [talks([Send(say::panic()), ReadUntilEnd]).crowd(40)],
            Seen { handshakes: Count::Is(40), logged: Count::AtMost(35), ..lives_until(&[(Reading, 40)], 40) },
        );

    a_message_whose_answer_fails_the_encoder_is_the_end =>
        attack([talks([Send(say::fail_in_encoder()), ReadUntilEnd])], lives_until(&[(Writing, 1)], 1));

    a_message_whose_answer_makes_the_encoder_panic_ends_only_its_connection =>
        attack(
            [talks([Send(say::panic_in_encoder()), ReadUntilEnd])],
            Seen { logged: Count::Is(1), ..lives_until(&[(Writing, 1)], 1) },
        );
}
