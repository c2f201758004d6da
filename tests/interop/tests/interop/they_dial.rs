//! The connections that a node of rust-libp2p dials.

use libp2p::{PeerId, multiaddr::Protocol, swarm::DialError};
use libp2p_stream::OpenStreamError;
use pea2pea::Pea2Pea;
use pea2pea_interop::{NOBODY_SPEAKS_THIS, Ours, PING, Theirs, in_time, ping};
use pea2pea_libp2p::{AGENT, IDENTIFY, address};

#[tokio::test]
async fn both_ping_each_other() {
    let (ours, theirs) = (Ours::start().await, Theirs::start().await);
    assert_eq!(theirs.meet(&ours.multiaddr).await.expect("we let them in"), ours.peer_id());
    let addr = ours.met(theirs.peer_id).await;

    theirs.pinged(ours.peer_id(), 3).await;
    ours.answered(theirs.peer_id, 3).await;
    let mut pinger = ours.pinger(addr).await.expect("they speak ping");
    for _ in 0..3 {
        in_time("a ping's answer", pinger.ping()).await.expect("they answer pings");
    }
    pinger.close().await.expect("a substream can be ended");
    ours.shut_down().await;
}

#[tokio::test]
async fn both_identify_each_other() {
    let (ours, theirs) = (Ours::start().await, Theirs::start().await);
    theirs.meet(&ours.multiaddr).await.expect("we let them in");
    let addr = ours.met(theirs.peer_id).await;

    let we_say = theirs.identified(ours.peer_id()).await;
    assert_eq!(we_say.public_key.to_peer_id(), ours.peer_id());
    assert_eq!(we_say.agent_version, AGENT);
    assert_eq!(we_say.protocols.iter().map(|spoken| spoken.as_ref()).collect::<Vec<_>>(), [PING, IDENTIFY]);
    assert_eq!(we_say.observed_addr, address::format(addr));

    let they_say = ours.identify(addr).await.expect("they say who they are");
    assert_eq!(they_say.public_key.to_peer_id(), theirs.peer_id);
    assert_eq!(they_say.agent, Theirs::AGENT);
    let mut we_listen_on = ours.multiaddr.clone();
    we_listen_on.pop();
    assert_eq!(they_say.observed_addr, Some(we_listen_on));
    ours.shut_down().await;
}

#[tokio::test]
async fn another_peer_id_than_the_one_dialled_is_refused() {
    let (ours, theirs) = (Ours::start().await, Theirs::start().await);
    let mut multiaddr = ours.multiaddr.clone();
    multiaddr.pop();

    match theirs.meet(&multiaddr.with(Protocol::P2p(PeerId::random()))).await {
        Err(DialError::WrongPeerId { obtained, .. }) => assert_eq!(obtained, ours.peer_id()),
        other => panic!("their dial gave {other:?}"),
    }
    // To us it may have been a connection for a moment.
    ours.is_alone().await;
    theirs.meet(&ours.multiaddr).await.expect("the right name is let in");
    ours.shut_down().await;
}

#[tokio::test]
async fn many_pings_are_answered_on_one_substream() {
    let (ours, theirs) = (Ours::start().await, Theirs::start().await);
    theirs.meet(&ours.multiaddr).await.expect("we let them in");
    let mut stream = theirs.open(ours.peer_id(), PING).await.expect("we speak ping");
    assert_eq!(ping(&mut stream, 200).await.len(), 200);
    ours.shut_down().await;
}

#[tokio::test]
async fn substreams_are_independent_of_each_other() {
    let (ours, theirs) = (Ours::start().await, Theirs::start().await);
    theirs.meet(&ours.multiaddr).await.expect("we let them in");
    // One that is never used must not be in the way of the others.
    let _silent = theirs.open(ours.peer_id(), PING).await.expect("we speak ping");
    let pinging = (0..16).map(|_| async {
        let mut stream = theirs.open(ours.peer_id(), PING).await.expect("we speak ping");
        ping(&mut stream, 20).await
    });
    assert_eq!(in_time("all the pings", futures_util::future::join_all(pinging)).await.len(), 16);
    ours.shut_down().await;
}

#[tokio::test]
async fn we_answer_na_to_an_unknown_protocol() {
    let (ours, theirs) = (Ours::start().await, Theirs::start().await);
    theirs.meet(&ours.multiaddr).await.expect("we let them in");
    match theirs.open(ours.peer_id(), NOBODY_SPEAKS_THIS).await {
        Err(OpenStreamError::UnsupportedProtocol(protocol)) => assert_eq!(protocol.as_ref(), NOBODY_SPEAKS_THIS),
        other => panic!("their substream gave {other:?}"),
    }
    let mut stream = theirs.open(ours.peer_id(), PING).await.expect("the connection is none the worse for it");
    ping(&mut stream, 1).await;
    assert_eq!(ours.node().num_connected(), 1);
    ours.shut_down().await;
}
