//! Many at once: messages, connections, setups.

use std::{io::ErrorKind, time::Duration};

use pea2pea::DisconnectOrigin::{Reading, Shutdown, Writing};

use crate::{
    common::wire::frame,
    row::{
        After, Count,
        Defence::{IpLimit, NodeLimit, SetupLimit},
        Ends,
        Meeting::Refuses,
        Owner, PATIENT, Seen, Setting,
        Step::{Expect, ExpectEof, Flood, Hold, ReadUntilEnd, Reset, Send, SendUntilBlocked, ShutWr, TryGreet},
        attack, dials, handshakes, is_dialled, lives_until, meets, rows,
    },
    victim::{HELLO, WELCOME, say},
};

const TEN: Setting = Setting { max_connections: 10, ..PATIENT };
const ONE_OF_EACH: Setting = Setting { max_connections_per_ip: 1, ..PATIENT };
const THREE_SETUPS: Setting = Setting { max_connecting: 3, ..PATIENT };

rows! {
    minimal_messages_at_line_rate_are_all_received =>
        attack(
            [dials([TryGreet, Flood(say::nothing().repeat(1_000), 50), ShutWr, ExpectEof(vec![])])],
            lives_until(&[(Reading, 1)], 50_000),
        );

    minimal_messages_of_many_at_line_rate_are_all_received =>
        attack(
            vec![dials([TryGreet, Flood(say::nothing().repeat(1_000), 10), ShutWr, ExpectEof(vec![])]); 5],
            Seen { handshakes: Count::Is(5), ..lives_until(&[(Reading, 5)], 50_000) },
        );

    empty_messages_that_are_all_to_be_answered_are_answered =>
        attack(
            [dials([TryGreet, Flood(frame(b""), 3_000), ShutWr, ExpectEof(frame(b"").repeat(3_000))])],
            lives_until(&[(Reading, 1)], 3_000),
        );

    a_crowd_gets_no_more_places_than_there_are =>
        attack(
            [dials([TryGreet, Hold]).crowd(50)],
            Seen { rejected: Count::Is(40), handshakes: Count::Is(10), ..lives_until(&[(Reading, 10)], 0) },
        )
        .on(TEN)
        .held_live(10)
        .thanks_to(NodeLimit, Duration::ZERO);

    a_crowd_from_everywhere_gets_no_more_places_than_there_are =>
        attack(
            [dials([TryGreet, Hold]).crowd(50).everywhere()],
            Seen { rejected: Count::Is(40), handshakes: Count::Is(10), ..lives_until(&[(Reading, 10)], 0) },
        )
        .on(TEN)
        .held_live(10)
        .thanks_to(NodeLimit, Duration::ZERO);

    /// Those that are being set up have their places too; the others wait in the kernel, and never begin.
    a_silent_crowd_gets_no_more_places_than_there_are =>
        attack([dials([Hold]).crowd(50)], handshakes(10))
            .on(TEN)
            .held_pending(10)
            .owner(Owner::ShutsDown)
            .thanks_to(NodeLimit, Duration::ZERO);

    a_crowd_from_one_address_gets_one_place =>
        attack(
            [dials([TryGreet, Hold]).crowd(50)],
            Seen { rejected: Count::Is(49), ..lives_until(&[(Reading, 1)], 0) },
        )
        .on(ONE_OF_EACH)
        .held_live(1)
        .thanks_to(IpLimit, Duration::ZERO);

    a_silent_crowd_from_one_address_gets_one_place =>
        attack([dials([Hold]).crowd(50)], Seen { rejected: Count::Is(49), ..handshakes(1) })
            .on(ONE_OF_EACH)
            .held_pending(1)
            .thanks_to(IpLimit, Duration::ZERO);

    a_crowd_from_one_address_leaves_room_for_others =>
        attack(
            [
                dials([TryGreet, Hold]).crowd(50),
                dials([TryGreet, Send(say::echo("me too")), Expect(say::echo("me too")), Hold])
                    .at("127.0.0.2")
                    .after(After::Live(1)),
            ],
            Seen { rejected: Count::Is(49), handshakes: Count::Is(2), ..lives_until(&[(Reading, 2)], 1) },
        )
        .on(ONE_OF_EACH)
        .held_live(2)
        .thanks_to(IpLimit, Duration::ZERO);

    a_crowd_from_everywhere_gets_one_place_each =>
        attack(
            [dials([TryGreet, Hold]).crowd(30).everywhere(), dials([TryGreet, Hold]).crowd(30).everywhere().after(After::Live(30))],
            Seen { rejected: Count::Is(30), handshakes: Count::Is(30), ..lives_until(&[(Reading, 30)], 0) },
        )
        .on(ONE_OF_EACH)
        .held_live(30)
        .thanks_to(IpLimit, Duration::ZERO);

    a_silent_crowd_gets_no_more_setups_than_there_are =>
        attack([dials([Hold]).crowd(40)], handshakes(3))
            .on(THREE_SETUPS)
            .held_pending(3)
            .owner(Owner::ShutsDown)
            .thanks_to(SetupLimit, Duration::ZERO);

    /// One goes live after the other, although there are only three setups at once.
    a_crowd_that_greets_gets_through_few_setups =>
        attack(
            [dials([TryGreet, Hold]).crowd(40)],
            Seen { handshakes: Count::Is(40), ..lives_until(&[(Shutdown, 40)], 0) },
        )
        .on(THREE_SETUPS)
        .held_live(40)
        .owner(Owner::ShutsDown);

    a_silent_crowd_uses_up_the_setups_of_our_own_dials =>
        attack(
            [dials([Hold]).crowd(3), meets(Refuses, []).after(After::Pending(3))],
            Seen { budget_rejections: 1, dials_fail: &[ErrorKind::QuotaExceeded], ..handshakes(3) },
        )
        .on(THREE_SETUPS)
        .held_pending(3)
        .thanks_to(SetupLimit, Duration::ZERO);

    a_full_node_dials_nobody =>
        attack(
            [dials([TryGreet, Hold]).crowd(10), meets(Refuses, []).after(After::Live(10))],
            Seen { dials_fail: &[ErrorKind::QuotaExceeded], handshakes: Count::Is(10), ..lives_until(&[(Reading, 10)], 0) },
        )
        .on(TEN)
        .held_live(10)
        .thanks_to(NodeLimit, Duration::ZERO);

    a_dialled_peer_shares_the_count_of_its_address =>
        attack(
            [
                is_dialled([Expect(HELLO.into()), Send(WELCOME.into()), Hold]),
                dials([TryGreet, Hold]).crowd(5).after(After::Live(1)),
            ],
            Seen { rejected: Count::Is(5), dials_succeed: 1, ..lives_until(&[(Reading, 1)], 0) },
        )
        .on(ONE_OF_EACH)
        .held_live(1)
        .thanks_to(IpLimit, Duration::ZERO);

    /// The system may give a port that one has just reset to another one, before the node knows of the reset.
    all_kinds_of_peers_at_once_are_no_harm =>
        attack(
            [
                dials([Hold]).crowd(20).at("127.0.0.2"),
                dials([Reset]).rounds(30),
                dials([Send(vec![0xff; 1_000]), ReadUntilEnd]).rounds(30),
                dials([TryGreet, Send(say::echo("?")), Expect(say::echo("?"))]).rounds(30),
                dials([TryGreet, Send(say::send_for_ever()), Expect(vec![0, 0]), Reset]).crowd(5),
                dials([TryGreet, Send(say::fail_in_decoder()), ReadUntilEnd]).crowd(5).rounds(5),
                dials([TryGreet, Send(say::hang()), SendUntilBlocked(say::nothing().repeat(1_000)), Reset])
                    .at("127.0.0.3"),
            ],
            Seen {
                ends: Ends::Among(&[Shutdown, Reading, Writing], 30 + 5 + 25 + 1),
                received: Count::AtMost(30 + 5 + 5),
                handshakes: Count::AtMost(20 + 30 + 30 + 30 + 5 + 25 + 1),
                rejected: Count::AtMost(10),
                ..handshakes(0)
            },
        )
        .held_live(1)
        .held_pending(20)
        .owner(Owner::ShutsDown);
}
