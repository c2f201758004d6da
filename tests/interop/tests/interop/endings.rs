//! How connections between the two end, whoever dialled them.

use pea2pea::{DisconnectOrigin, Pea2Pea};
use pea2pea_interop::{Ours, Theirs, in_time};

#[tokio::test]
async fn they_hang_up_after_our_dial() {
    let (ours, theirs) = (Ours::start().await, Theirs::start().await);
    ours.meet(&theirs.multiaddr).await;
    theirs.met(ours.peer_id()).await;
    they_hang_up(ours, theirs).await;
}

#[tokio::test]
async fn they_hang_up_after_their_dial() {
    let (ours, theirs) = (Ours::start().await, Theirs::start().await);
    theirs.meet(&ours.multiaddr).await.expect("we let them in");
    ours.met(theirs.peer_id).await;
    they_hang_up(ours, theirs).await;
}

async fn they_hang_up(ours: Ours, theirs: Theirs) {
    theirs.disconnect(ours.peer_id());
    assert_eq!(theirs.lost(ours.peer_id()).await, None, "they have asked for it");
    assert_peer_did_it(ours.lost(theirs.peer_id).await);
    ours.is_alone().await;
    assert_eq!(ours.addr_of(theirs.peer_id), None);
    ours.shut_down().await;
}

#[tokio::test]
async fn they_vanish() {
    let (ours, theirs) = (Ours::start().await, Theirs::start().await);
    ours.meet(&theirs.multiaddr).await;
    let them = theirs.peer_id;
    drop(theirs);
    assert_peer_did_it(ours.lost(them).await);
    ours.is_alone().await;
    ours.shut_down().await;
}

/// Whoever pings the other one at that moment finds out first: the reader or the writer.
fn assert_peer_did_it(origin: DisconnectOrigin) {
    assert!(matches!(origin, DisconnectOrigin::Reading | DisconnectOrigin::Writing), "origin {origin:?}");
}

#[tokio::test]
async fn we_hang_up_after_our_dial() {
    let (ours, theirs) = (Ours::start().await, Theirs::start_quiet().await);
    ours.meet(&theirs.multiaddr).await;
    we_hang_up(ours, theirs).await;
}

#[tokio::test]
async fn we_hang_up_after_their_dial() {
    let (ours, theirs) = (Ours::start().await, Theirs::start_quiet().await);
    theirs.meet(&ours.multiaddr).await.expect("we let them in");
    ours.met(theirs.peer_id).await;
    we_hang_up(ours, theirs).await;
}

async fn we_hang_up(ours: Ours, theirs: Theirs) {
    is_quiet(&ours, &theirs).await;
    let addr = ours.addr_of(theirs.peer_id).expect("they are connected");
    assert!(in_time("our goodbye", ours.disconnect(addr)).await);
    assert_eq!(ours.lost(theirs.peer_id).await, DisconnectOrigin::User);
    assert_eq!(ours.node().num_connected(), 0);
    assert_closed(theirs.lost(ours.peer_id()).await);

    ours.meet(&theirs.multiaddr).await;
    ours.shut_down().await;
}

#[tokio::test]
async fn our_shutdown_says_goodbye() {
    let (ours, theirs) = (Ours::start().await, Theirs::start_quiet().await);
    ours.meet(&theirs.multiaddr).await;
    is_quiet(&ours, &theirs).await;
    let us = ours.peer_id();
    ours.shut_down().await;
    assert_closed(theirs.lost(us).await);
}

/// Waits until they have asked all that they want to know: whoever is about to write something sees a broken pipe instead
/// of a goodbye, and so do two nodes of rust-libp2p among themselves.
async fn is_quiet(ours: &Ours, theirs: &Theirs) {
    theirs.pinged(ours.peer_id(), 1).await;
    theirs.identified(ours.peer_id()).await;
}

/// What one node of rust-libp2p sees of another one that hangs up.
fn assert_closed(cause: Option<String>) {
    assert!(cause.as_ref().is_some_and(|cause| cause.contains("Error(Closed)")), "cause {cause:?}");
}
