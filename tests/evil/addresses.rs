//! Peers that are where they should not be.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use pea2pea::DisconnectOrigin::Reading;

use crate::{
    row::{
        After, Count,
        Defence::IpLimit,
        Meeting::{IsDialledAndDialsBack, IsTheVictim},
        PATIENT, Seen, Setting,
        Step::{Expect, Hold, ReadUntilEnd, Reset, Send, TryGreet},
        attack, dials, handshakes, is_dialled, lives_until, meets, rows,
    },
    victim::{HELLO, WELCOME, say},
};

const EVERYWHERE: Setting = Setting { listens_at: "0.0.0.0:0", ..PATIENT };
const DUAL_STACK: Setting = Setting { listens_at: "[::]:0", ..PATIENT };
const IPV6: Setting = Setting { listens_at: "[::1]:0", ..PATIENT };

/// No connection comes about, at neither end.
const ITSELF: Seen = Seen { dials_fail: &[ErrorKind::AddrInUse], ..handshakes(0) };

fn v4(last: u8) -> Option<IpAddr> {
    Some(Ipv4Addr::new(127, 0, 0, last).into())
}

fn mapped() -> Option<IpAddr> {
    Some(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into())
}

rows! {
    a_node_does_not_dial_the_address_it_listens_at => attack([meets(IsTheVictim(None), [])], ITSELF);

    a_node_does_not_dial_itself_at_the_loopback_address =>
        attack([meets(IsTheVictim(v4(1)), [])], ITSELF).on(EVERYWHERE);

    a_node_does_not_dial_itself_at_another_loopback_address =>
        attack([meets(IsTheVictim(v4(77)), [])], ITSELF).on(EVERYWHERE);

    a_node_does_not_dial_itself_at_no_address =>
        attack([meets(IsTheVictim(Some(Ipv4Addr::UNSPECIFIED.into())), [])], ITSELF).on(EVERYWHERE);

    a_node_does_not_dial_itself_at_a_mapped_address =>
        attack([meets(IsTheVictim(mapped()), [])], ITSELF).on(DUAL_STACK);

    a_node_does_not_dial_itself_at_the_other_kind_of_loopback_address =>
        attack([meets(IsTheVictim(v4(1)), []), meets(IsTheVictim(Some(Ipv6Addr::LOCALHOST.into())), [])], ITSELF).on(DUAL_STACK);

    /// The two have one address: what is dialled and what dials.
    a_peer_that_dials_back_from_where_it_was_dialled_is_rejected =>
        attack(
            [meets(IsDialledAndDialsBack, [Hold])],
            Seen {
                rejected: Count::Is(1),
                dials_fail: &[ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset],
                ..handshakes(1)
            },
        )
        .held_pending(1);

    /// On a dual-stack listener an IPv4 peer has a mapped address.
    a_mapped_crowd_gets_one_place =>
        attack(
            [dials([TryGreet, Hold]).crowd(10).at("127.0.0.1")],
            Seen { rejected: Count::Is(9), ..lives_until(&[(Reading, 1)], 0) },
        )
        .on(Setting { max_connections_per_ip: 1, ..DUAL_STACK })
        .held_live(1)
        .thanks_to(IpLimit, Duration::ZERO);

    /// Row 8: the same IPv4 address, once as it is and then mapped, has one place.
    a_peer_that_was_dialled_has_no_second_place_as_a_mapped_one =>
        attack(
            [
                is_dialled([Expect(HELLO.into()), Send(WELCOME.into()), Hold]),
                dials([TryGreet, Hold]).crowd(5).at("127.0.0.1").after(After::Live(1)),
            ],
            Seen { rejected: Count::Is(5), dials_succeed: 1, ..lives_until(&[(Reading, 1)], 0) },
        )
        .on(Setting { max_connections_per_ip: 1, ..DUAL_STACK })
        .held_live(1)
        .thanks_to(IpLimit, Duration::ZERO);

    the_two_kinds_of_loopback_addresses_are_two_peers =>
        attack(
            [
                dials([TryGreet, Hold]).crowd(3).at("127.0.0.1"),
                dials([TryGreet, Hold]).crowd(3).at("::1").after(After::Live(1)),
            ],
            Seen { rejected: Count::Is(4), handshakes: Count::Is(2), ..lives_until(&[(Reading, 2)], 0) },
        )
        .on(Setting { max_connections_per_ip: 1, ..DUAL_STACK })
        .held_live(2)
        .thanks_to(IpLimit, Duration::ZERO);

    an_ipv6_crowd_gets_one_place =>
        attack(
            [dials([TryGreet, Hold]).crowd(10)],
            Seen { rejected: Count::Is(9), ..lives_until(&[(Reading, 1)], 0) },
        )
        .on(Setting { max_connections_per_ip: 1, ..IPV6 })
        .held_live(1)
        .thanks_to(IpLimit, Duration::ZERO);

    an_ipv6_peer_is_a_peer_like_others =>
        attack(
            [
                dials([TryGreet, Send(say::echo("six")), Expect(say::echo("six")), Reset]),
                dials([Send(vec![6; 16]), ReadUntilEnd]),
            ],
            Seen { handshakes: Count::Is(2), ..lives_until(&[(Reading, 1)], 1) },
        )
        .on(IPV6);
}
