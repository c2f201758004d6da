//! The connections that our node dials.

use std::io::ErrorKind;

use libp2p::{PeerId, multiaddr::Protocol};
use pea2pea::Pea2Pea;
use pea2pea_interop::{NOBODY_SPEAKS_THIS, Ours, PING, Theirs, in_time, ping};
use pea2pea_libp2p::{AGENT, IDENTIFY};

#[tokio::test]
async fn both_ping_each_other() {
    let (ours, theirs) = (Ours::start().await, Theirs::start().await);
    let addr = ours.meet(&theirs.multiaddr).await;
    assert_eq!(ours.peer_at(addr), Some(theirs.peer_id));

    let mut pinger = ours.pinger(addr).await.expect("they speak ping");
    for _ in 0..3 {
        in_time("a ping's answer", pinger.ping()).await.expect("they answer pings");
    }
    pinger.close().await.expect("a substream can be ended");
    theirs.pinged(ours.peer_id(), 3).await;
    ours.answered(theirs.peer_id, 3).await;
    ours.shut_down().await;
}

#[tokio::test]
async fn both_identify_each_other() {
    let (ours, theirs) = (Ours::start().await, Theirs::start().await);
    let addr = ours.meet(&theirs.multiaddr).await;

    let they_say = ours.identify(addr).await.expect("they say who they are");
    assert_eq!(they_say.public_key.to_peer_id(), theirs.peer_id);
    assert_eq!(they_say.agent, Theirs::AGENT);
    for protocol in [PING, IDENTIFY] {
        assert!(they_say.protocols.iter().any(|spoken| spoken == protocol), "{protocol} in {they_say:?}");
    }
    let mut listening = theirs.multiaddr.clone();
    listening.pop();
    assert_eq!(they_say.listen_addrs, [listening]);

    let we_say = theirs.identified(ours.peer_id()).await;
    assert_eq!(we_say.public_key.to_peer_id(), ours.peer_id());
    assert_eq!(we_say.agent_version, AGENT);
    assert_eq!(we_say.protocols.iter().map(|spoken| spoken.as_ref()).collect::<Vec<_>>(), [PING, IDENTIFY]);
    assert_eq!(we_say.listen_addrs, [ours.multiaddr.iter().take(2).collect()]);
    // To us, they are at the address that they listen on.
    assert_eq!(Some(we_say.observed_addr), they_say.listen_addrs.first().cloned());
    ours.shut_down().await;
}

#[tokio::test]
async fn another_peer_id_than_the_one_dialled_is_refused() {
    let (ours, theirs) = (Ours::start().await, Theirs::start().await);
    let wanted = PeerId::random();
    let mut multiaddr = theirs.multiaddr.clone();
    multiaddr.pop();

    let error =
        in_time("our dial", ours.dial(&multiaddr.with(Protocol::P2p(wanted)))).await.expect_err("somebody else");
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    let text = error.to_string();
    assert!(text.contains(&wanted.to_string()) && text.contains(&theirs.peer_id.to_string()), "{text}");
    assert_eq!(ours.node().num_connected(), 0);

    // The address is free again, and the right name is let in.
    ours.meet(&theirs.multiaddr).await;
    ours.shut_down().await;
}

#[tokio::test]
async fn an_address_without_a_peer_id_finds_out_who_it_is() {
    let (ours, theirs) = (Ours::start().await, Theirs::start().await);
    let mut multiaddr = theirs.multiaddr.clone();
    multiaddr.pop();
    let addr = ours.meet(&multiaddr).await;
    assert_eq!(ours.peer_at(addr), Some(theirs.peer_id));
    ours.shut_down().await;
}

#[tokio::test]
async fn many_pings_are_answered_on_one_substream() {
    let (ours, theirs) = (Ours::start().await, Theirs::start().await);
    let addr = ours.meet(&theirs.multiaddr).await;
    let mut stream = ours.open(addr, PING).await.expect("they speak ping");
    assert_eq!(ping(&mut stream, 200).await.len(), 200);
    ours.shut_down().await;
}

#[tokio::test]
async fn substreams_are_independent_of_each_other() {
    let (ours, theirs) = (Ours::start().await, Theirs::start().await);
    let addr = ours.meet(&theirs.multiaddr).await;
    // One that is never used must not be in the way of the others.
    let _silent = ours.open(addr, PING).await.expect("they speak ping");
    let asking = (0..16).map(|_| ours.identify(addr));
    for they_say in in_time("what they say of themselves", futures_util::future::join_all(asking)).await {
        assert_eq!(they_say.expect("they say who they are").agent, Theirs::AGENT);
    }
    ours.shut_down().await;
}

#[tokio::test]
async fn they_answer_na_to_an_unknown_protocol() {
    let (ours, theirs) = (Ours::start().await, Theirs::start().await);
    let addr = ours.meet(&theirs.multiaddr).await;
    let error = ours.open(addr, NOBODY_SPEAKS_THIS).await.expect_err("nobody speaks it");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let mut stream = ours.open(addr, PING).await.expect("the connection is none the worse for it");
    ping(&mut stream, 1).await;
    ours.shut_down().await;
}
