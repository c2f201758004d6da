//! Peers that never come to say anything sensible.

use std::io::ErrorKind;

use crate::row::{
    After,
    Defence::HandshakeDeadline,
    Meeting::{IsABlackHole, Refuses},
    SHORT, SHORT_HANDSHAKE, Seen, Setting,
    Step::{Hold, ReadUntilEnd, Reset, Send, ShutRd, ShutWr},
    attack, dials, handshakes, is_dialled, meets, rows,
};

const TIMED_OUT: Seen = Seen { handshake_timeouts: 1, ..handshakes(1) };

rows! {
    a_peer_that_connects_and_closes_is_gone => attack([dials([])], handshakes(1));

    a_peer_that_connects_and_resets_is_gone => attack([dials([Reset])], handshakes(1));

    a_peer_that_says_nothing_meets_the_deadline =>
        attack([dials([Hold])], TIMED_OUT).on(SHORT_HANDSHAKE).thanks_to(HandshakeDeadline, SHORT);

    a_peer_that_says_nothing_sees_the_end_of_the_connection =>
        attack([dials([ReadUntilEnd])], TIMED_OUT).on(SHORT_HANDSHAKE).thanks_to(HandshakeDeadline, SHORT);

    a_peer_that_closes_its_write_side_at_once_is_hung_up_on => attack([dials([ShutWr, ReadUntilEnd])], handshakes(1));

    a_peer_that_closes_its_read_side_at_once_meets_the_deadline =>
        attack([dials([ShutRd, Hold])], TIMED_OUT).on(SHORT_HANDSHAKE).thanks_to(HandshakeDeadline, SHORT);

    a_peer_that_closes_both_sides_at_once_is_hung_up_on => attack([dials([ShutWr, ShutRd, Hold])], handshakes(1));

    a_crowd_that_connects_and_closes_is_gone => attack([dials([]).crowd(100)], handshakes(100));

    a_crowd_that_connects_and_resets_is_gone => attack([dials([Reset]).crowd(100)], handshakes(100));

    /// 200 silent sockets from 200 addresses.
    a_silent_crowd_is_cut_off =>
        attack(
            [dials([Hold]).crowd(200).everywhere()],
            Seen { handshake_timeouts: 200, ..handshakes(200) },
        )
        .on(Setting { max_connections_per_ip: 1, ..SHORT_HANDSHAKE })
        .thanks_to(HandshakeDeadline, SHORT);

    /// The crowd queues in the kernel, and each gets the whole of its time.
    a_silent_crowd_is_cut_off_batch_by_batch =>
        attack([dials([Hold]).crowd(60)], Seen { handshake_timeouts: 60, ..handshakes(60) })
            .on(Setting { max_connecting: 20, ..SHORT_HANDSHAKE })
            .not_before(SHORT * 3);

    /// They have gone before their turn comes.
    a_crowd_that_has_left_the_queue_costs_nothing =>
        attack(
            [dials([Hold]).crowd(4), dials([Reset]).crowd(60).after(After::Pending(4))],
            Seen { handshake_timeouts: 4, ..handshakes(64) },
        )
        .on(Setting { max_connecting: 4, ..SHORT_HANDSHAKE });

    a_dialled_peer_that_closes_at_once_fails_the_dial =>
        attack(
            [is_dialled([])],
            Seen { dials_fail: &[ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset], ..handshakes(1) },
        );

    a_dialled_peer_that_resets_at_once_fails_the_dial =>
        attack(
            [is_dialled([Reset])],
            Seen { dials_fail: &[ErrorKind::BrokenPipe, ErrorKind::ConnectionReset], ..handshakes(1) },
        );

    a_dialled_peer_that_says_nothing_times_out =>
        attack([is_dialled([Hold])], Seen { dials_fail: &[ErrorKind::TimedOut], ..TIMED_OUT })
            .on(SHORT_HANDSHAKE)
            .thanks_to(HandshakeDeadline, SHORT);

    a_dialled_peer_that_does_not_even_accept_times_out =>
        attack([meets(IsABlackHole, [Hold])], Seen { dials_fail: &[ErrorKind::TimedOut], ..handshakes(0) })
            .not_before(SHORT * 2);

    a_dialled_port_without_a_listener_refuses =>
        attack([meets(Refuses, [])], Seen { dials_fail: &[ErrorKind::ConnectionRefused], ..handshakes(0) });

    a_peer_that_speaks_another_protocol_is_hung_up_on =>
        attack([dials([Send(b"GET / HTTP/1.1\r\nHost: victim\r\n\r\n".into()), ReadUntilEnd])], handshakes(1));

    a_peer_that_begins_tls_is_hung_up_on =>
        attack([dials([Send([&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3][..], &[7; 506]].concat()), ReadUntilEnd])], handshakes(1));
}
