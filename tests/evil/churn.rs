//! Peers that come and go.

use pea2pea::DisconnectOrigin::{Reading, Writing};

use crate::{
    row::{
        Count, Ends, PATIENT, Seen, Setting,
        Step::{Expect, ReadUntilEnd, Reset, Send, ShutWr, TryGreet},
        attack, dials, handshakes, is_dialled, lives_until, rows,
    },
    victim::{HELLO, WELCOME, say},
};

rows! {
    connecting_and_closing_again_and_again_is_no_harm => attack([dials([]).rounds(500)], handshakes(500));

    connecting_and_resetting_again_and_again_is_no_harm => attack([dials([Reset]).rounds(500)], handshakes(500));

    greeting_and_closing_again_and_again_is_no_harm =>
        attack(
            [dials([TryGreet]).rounds(200)],
            Seen { handshakes: Count::Is(200), ..lives_until(&[(Reading, 200)], 0) },
        );

    greeting_and_resetting_again_and_again_is_no_harm =>
        attack(
            [dials([TryGreet, Reset]).rounds(200)],
            Seen { handshakes: Count::Is(200), ..lives_until(&[(Reading, 200)], 0) },
        );

    failing_the_handshake_again_and_again_is_no_harm =>
        attack([dials([Send(vec![0; 16]), ReadUntilEnd]).rounds(200)], handshakes(200));

    whole_lives_from_many_sides_are_no_harm =>
        attack(
            vec![dials([TryGreet, Send(say::echo("!")), Expect(say::echo("!")), ShutWr, ReadUntilEnd]).rounds(50); 4],
            Seen { handshakes: Count::Is(200), ..lives_until(&[(Reading, 200)], 200) },
        );

    /// Whoever comes before the place is free again is rejected.
    coming_back_to_a_node_with_one_place_is_no_harm =>
        attack(
            [dials([TryGreet, Send(say::echo("!")), Expect(say::echo("!")), ShutWr, ReadUntilEnd]).rounds(50)],
            Seen {
                handshakes: Count::AtMost(50),
                rejected: Count::AtMost(49),
                received: Count::AtMost(50),
                ends: Ends::Among(&[Reading], 50),
                ..handshakes(0)
            },
        )
        .on(Setting { max_connections: 1, max_connections_per_ip: 1, max_connecting: 1, ..PATIENT });

    being_dialled_and_closing_again_and_again_is_no_harm =>
        attack(
            [is_dialled([Expect(HELLO.into()), Send(WELCOME.into()), ShutWr, ReadUntilEnd]).rounds(50)],
            Seen { handshakes: Count::Is(50), dials_succeed: 50, ..lives_until(&[(Reading, 50)], 0) },
        );

    /// Row 25: whoever comes back at once is a stranger to its predecessor, or is rejected.
    coming_back_at_the_same_port_again_and_again_is_no_harm =>
        attack(
            [dials([TryGreet, Send(say::echo("mine")), Send(say::send_a_lot()), Reset]).rounds(200).at_one_port()],
            Seen {
                ends: Ends::Among(&[Reading, Writing], 200),
                handshakes: Count::AtMost(200),
                received: Count::AtMost(400),
                rejected: Count::AtMost(199),
                ..handshakes(0)
            },
        );

    /// Row 21: the predecessor is still listed, its `on_disconnect` goes on.
    coming_back_while_the_old_connection_lingers_is_rejected =>
        attack(
            [dials([TryGreet, Reset]).rounds(2).at_one_port()],
            Seen { rejected: Count::Is(1), ..lives_until(&[(Reading, 1)], 0) },
        )
        .on(Setting { lingers: true, ..PATIENT });

    /// Row 25: what is left of the predecessor, and ends in a panic, ends nobody else.
    coming_back_to_an_address_that_is_haunted_is_no_harm =>
        attack(
            [dials([TryGreet, Send(say::echo_behind_the_ghost()), Expect(say::echo_behind_the_ghost()), Reset]).rounds(20).at_one_port()],
            Seen {
                ends: Ends::Among(&[Reading], 20),
                handshakes: Count::AtMost(20),
                received: Count::AtMost(20),
                rejected: Count::AtMost(19),
                // The panic.
                logged: Count::Is(1),
                ..handshakes(0)
            },
        )
        .on(Setting { haunts: true, ..PATIENT });

    ends_that_linger_do_not_wait_for_each_other =>
        attack(
            [dials([TryGreet, Reset]).crowd(10), dials([TryGreet, Reset]).at_one_port().rounds(2)],
            Seen { rejected: Count::Is(1), handshakes: Count::Is(11), ..lives_until(&[(Reading, 11)], 0) },
        )
        .on(Setting { lingers: true, ..PATIENT });
}
