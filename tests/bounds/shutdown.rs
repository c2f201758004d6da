//! `shut_down`: what it ends, who waits for it, and what is left of the node.

use std::{
    io,
    net::TcpListener,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::future::{BoxFuture, join_all};
use pea2pea::{
    DisconnectOrigin, Node, Pea2Pea, ShuttingDown,
    protocols::{Handshake, OnConnect, OnDisconnect, Reading, Writing},
};
use tokio::{io::AsyncWriteExt, net::TcpStream, runtime::Handle, sync::Semaphore, task::yield_now};
use tokio_util::bytes::Bytes;

use crate::{
    common::{
        Events,
        actor::{Actor, Script, Unhurried, silent},
        in_time, local_node, poll_times,
        setups::{assert_vacant, raw_peer, settled},
        wait_until,
        wire::{frame, read_to_eof},
    },
    hook, ledger,
};

/// An OnDisconnect that notes its origin and waits for the gate.
fn gated_ending(gate: &Arc<Semaphore>, origins: &Events<DisconnectOrigin>) -> Script<Unhurried> {
    let (gate, origins) = (Arc::clone(gate), origins.clone());
    Script {
        on_disconnect: hook!(|_actor, _addr, origin| {
            origins.push(origin);
            let gate = Arc::clone(&gate);
            async move { gate.acquire().await.unwrap().forget() }
        }),
        on_connect: silent(),
        ..Default::default()
    }
}

/// An actor with so many connections to raw peers, each of whose endings waits for the gate.
async fn gated(
    connections: usize,
    gate: &Arc<Semaphore>,
    origins: &Events<DisconnectOrigin>,
) -> (Actor, Vec<TcpStream>) {
    let (actor, addr) = Actor::listening(gated_ending(gate, origins)).await;
    let mut peers = Vec::new();
    for _ in 0..connections {
        peers.push(TcpStream::connect(addr).await.unwrap());
    }
    settled(actor.node(), connections).await;
    (actor, peers)
}

fn assert_closed(node: &Node, dialled: io::Result<()>) {
    assert!(ShuttingDown::caused(&dialled.unwrap_err()));
    assert_vacant(node);
}

// --- calls ---

#[tokio::test(crate = "ledger")]
async fn concurrent_calls_all_wait_for_the_same_end() {
    let (gate, origins) = (Arc::new(Semaphore::new(0)), Events::default());
    let (actor, peers) = gated(3, &gate, &origins).await;
    let returned = Events::default();
    let calls: Vec<_> = (0..4)
        .map(|number| {
            let (node, returned) = (actor.node().clone(), returned.clone());
            tokio::spawn(async move {
                node.shut_down().await;
                returned.push((number, node.num_connected()));
            })
        })
        .collect();
    wait_until("all endings have begun, side by side", || origins.len() == 3).await;
    for permits in [0, 1, 1] {
        gate.add_permits(permits);
        for _ in 0..20 {
            yield_now().await;
        }
        assert_eq!(returned.len(), 0);
    }
    assert_eq!(actor.node().num_connected(), 1);
    gate.add_permits(1);
    in_time("all calls", join_all(calls)).await.into_iter().for_each(|call| call.unwrap());
    let mut all = returned.all();
    all.sort_unstable();
    assert_eq!(all, [(0, 0), (1, 0), (2, 0), (3, 0)]);
    assert_eq!(origins.all(), [DisconnectOrigin::Shutdown; 3]);
    drop(peers);
}

#[tokio::test(crate = "ledger")]
async fn later_calls_return_at_once() {
    let (node, addr) = (local_node(), local_node());
    drop(addr);
    node.toggle_listener().await.unwrap();
    for _ in 0..3 {
        in_time("shut_down", node.shut_down()).await;
    }
    assert!(poll_times(pin!(node.shut_down()), 1).await.is_some());
}

#[tokio::test(crate = "ledger")]
async fn a_cancelled_call_leaves_the_node_closed_and_another_one_finishes() {
    for polls in 1..4 {
        let (gate, origins) = (Arc::new(Semaphore::new(0)), Events::default());
        let (actor, mut peers) = gated(3, &gate, &origins).await;
        let addr = actor.node().listening_addr().await.unwrap();
        assert!(poll_times(pin!(actor.node().shut_down()), polls).await.is_none());
        // Dropped: what it was ending is gone at once, each with its one on_disconnect.
        assert_eq!((origins.len(), actor.node().num_connected()), (3, 0));
        let (_peer, elsewhere) = raw_peer().await;
        assert_closed(actor.node(), actor.node().connect(elsewhere).await);
        in_time("a second call", actor.node().shut_down()).await;
        assert_eq!(origins.all(), [DisconnectOrigin::Shutdown; 3]);
        assert!(TcpListener::bind(addr).is_ok());
        for peer in &mut peers {
            read_to_eof(peer).await;
        }
    }
}

#[tokio::test(crate = "ledger")]
async fn a_second_call_finishes_while_the_first_is_cancelled() {
    let (gate, origins) = (Arc::new(Semaphore::new(0)), Events::default());
    let (actor, _peers) = gated(2, &gate, &origins).await;
    let mut first = Box::pin(actor.node().shut_down());
    assert!(poll_times(first.as_mut(), 3).await.is_none());
    let second = tokio::spawn({
        let node = actor.node().clone();
        async move { node.shut_down().await }
    });
    for _ in 0..20 {
        yield_now().await;
    }
    assert!(!second.is_finished());
    drop(first);
    in_time("the second call", second).await.unwrap();
    assert_eq!((origins.len(), actor.node().num_connected()), (2, 0));
}

#[tokio::test(crate = "ledger")]
async fn a_disconnect_in_progress_keeps_its_origin_and_is_waited_for() {
    let (gate, origins) = (Arc::new(Semaphore::new(0)), Events::default());
    let (actor, _peers) = gated(2, &gate, &origins).await;
    let (node, addr) = (actor.node().clone(), actor.node().connected_addrs()[0]);
    let disconnect = tokio::spawn(async move { node.disconnect(addr).await });
    origins.wait_for(DisconnectOrigin::User).await;
    let node = actor.node().clone();
    let shut_down = tokio::spawn(async move { node.shut_down().await });
    origins.wait_for(DisconnectOrigin::Shutdown).await;
    assert!(!in_time("a disconnect of the other", actor.node().disconnect(actor.node().connected_addrs()[1])).await);
    gate.add_permits(1);
    wait_until("one has ended", || actor.node().num_connected() == 1).await;
    assert!(!shut_down.is_finished());
    gate.add_permits(1);
    in_time("shut_down", shut_down).await.unwrap();
    assert!(in_time("disconnect", disconnect).await.unwrap());
    assert_eq!(origins.all(), [DisconnectOrigin::User, DisconnectOrigin::Shutdown]);
}

// --- from inside ---

#[derive(Debug, Clone, Copy, PartialEq)]
enum Site {
    Handshake,
    Process,
    OnConnect,
    OnDisconnect,
}

/// A script that calls `shut_down` in one hook, once, and notes its return.
fn closing(site: Site, is_armed: &Arc<AtomicBool>, returned: &Events<usize>) -> Script<Unhurried> {
    let (is_armed, returned) = (Arc::clone(is_armed), returned.clone());
    let at = Arc::new(move |here: Site, actor: Actor| -> BoxFuture<'static, ()> {
        let is_due = here == site && is_armed.swap(false, Ordering::SeqCst);
        let returned = returned.clone();
        Box::pin(async move {
            if is_due {
                actor.node().shut_down().await;
                returned.push(actor.node().num_connecting());
            }
        })
    });
    let [shaking, processing, connecting, ending] = std::array::from_fn(|_| Arc::clone(&at));
    Script {
        handshake: hook!(|actor, conn| {
            let call = shaking(Site::Handshake, actor);
            async move {
                call.await;
                Ok(conn)
            }
        }),
        process: hook!(|actor, _source, _message| processing(Site::Process, actor)),
        on_connect: hook!(|actor, _addr| connecting(Site::OnConnect, actor)),
        on_disconnect: hook!(|actor, _addr, _origin| ending(Site::OnDisconnect, actor)),
        writes: true,
        ..Default::default()
    }
}

#[tokio::test(crate = "ledger")]
async fn a_call_from_inside_a_hook_returns_there_and_one_from_outside_waits_for_the_rest() {
    for site in [Site::Handshake, Site::Process, Site::OnConnect, Site::OnDisconnect] {
        for is_dialled in [false, true] {
            println!("{site:?}, {}", if is_dialled { "dialled" } else { "accepted" });
            let (is_armed, returned) = (Arc::new(AtomicBool::new(false)), Events::default());
            let (actor, addr) = Actor::listening(closing(site, &is_armed, &returned)).await;
            let mut bystander = TcpStream::connect(addr).await.unwrap();
            wait_until("the bystander's on_connect", || actor.begun_on_connect() == 1).await;

            is_armed.store(true, Ordering::SeqCst);
            let (listener, peer_addr) = raw_peer().await;
            let (mut peer, dialled) = if is_dialled {
                let (dialled, peer) = tokio::join!(actor.node().connect(peer_addr), listener.accept());
                (peer.unwrap().0, Some(dialled))
            } else {
                (TcpStream::connect(addr).await.unwrap(), None)
            };
            if site == Site::Handshake {
                assert!(dialled.is_none_or(|result| ShuttingDown::caused(&result.unwrap_err())));
            } else {
                wait_until("live", || actor.begun_on_connect() == 2).await;
            }
            match site {
                Site::Process => peer.write_all(&frame(b"x")).await.unwrap(),
                Site::OnDisconnect => peer.shutdown().await.unwrap(),
                Site::Handshake | Site::OnConnect => {}
            }
            returned.wait_for(0).await;

            in_time("a call from outside", actor.node().shut_down()).await;
            assert_vacant(actor.node());
            assert!(TcpListener::bind(addr).is_ok());
            let went_live = if site == Site::Handshake { 1 } else { 2 };
            assert_eq!((actor.begun_on_connect(), actor.begun_on_disconnect()), (went_live, went_live));
            read_to_eof(&mut bystander).await;
            read_to_eof(&mut peer).await;
            assert_closed(actor.node(), actor.node().connect(peer_addr).await);
        }
    }
}

#[tokio::test(crate = "ledger")]
async fn a_call_from_inside_does_not_wait_for_other_endings_and_one_from_outside_does() {
    let (gate, origins) = (Arc::new(Semaphore::new(0)), Events::default());
    let returned = Events::default();
    let (actor, addr) = Actor::listening(Script {
        process: {
            let returned = returned.clone();
            hook!(|actor, _source, _message| {
                let returned = returned.clone();
                async move {
                    actor.node().shut_down().await;
                    returned.push(actor.node().num_connected());
                }
            })
        },
        ..gated_ending(&gate, &origins)
    })
    .await;
    let mut peers = [TcpStream::connect(addr).await.unwrap(), TcpStream::connect(addr).await.unwrap()];
    settled(actor.node(), 2).await;
    peers[0].write_all(&frame(b"x")).await.unwrap();
    returned.wait_for(2).await;
    let node = actor.node().clone();
    let outside = tokio::spawn(async move { node.shut_down().await });
    for _ in 0..20 {
        yield_now().await;
    }
    assert!(!outside.is_finished());
    gate.add_permits(2);
    in_time("the call from outside", outside).await.unwrap();
    assert_vacant(actor.node());
}

#[tokio::test(crate = "ledger")]
async fn a_task_that_a_hook_has_spawned_is_outside() {
    let (gate, origins) = (Arc::new(Semaphore::new(0)), Events::default());
    let returned = Events::default();
    let (actor, addr) = Actor::listening(Script {
        process: {
            let returned = returned.clone();
            hook!(|actor, _source, _message| {
                let returned = returned.clone();
                async move {
                    let call = tokio::spawn(async move {
                        actor.node().shut_down().await;
                        returned.push(actor.node().num_connected());
                    });
                    // The hook, which waits for it, is dropped in the meantime.
                    call.await.unwrap();
                }
            })
        },
        ..gated_ending(&gate, &origins)
    })
    .await;
    let mut peer = TcpStream::connect(addr).await.unwrap();
    peer.write_all(&frame(b"x")).await.unwrap();
    origins.wait_for(DisconnectOrigin::Shutdown).await;
    for _ in 0..20 {
        yield_now().await;
    }
    assert_eq!(returned.len(), 0);
    gate.add_permits(1);
    returned.wait_for(0).await;
    assert_vacant(actor.node());
}

// --- afterwards ---

#[tokio::test(crate = "ledger")]
async fn the_port_is_refused_and_free_when_it_returns() {
    for _ in 0..20 {
        let (actor, addr) =
            Actor::<Unhurried>::listening(Script { on_disconnect: silent(), ..Default::default() }).await;
        let _peer = TcpStream::connect(addr).await.unwrap();
        settled(actor.node(), 1).await;
        in_time("shut_down", actor.node().shut_down()).await;
        assert_eq!(TcpStream::connect(addr).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        TcpListener::bind(addr).unwrap();
        assert_eq!(actor.node().listening_addr().await.unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
        assert_closed(actor.node(), actor.node().connect(addr).await);
        assert!(ShuttingDown::caused(&actor.node().toggle_listener().await.unwrap_err()));
    }
}

#[tokio::test(crate = "ledger")]
#[expect(deprecated, reason = "it is lossy, and has to do what it promises all the same")]
async fn sends_find_nobody_and_protocols_are_not_enabled_any_more() {
    for writes in [false, true] {
        let (_peer, addr) = raw_peer().await;
        let actor = Actor::<Unhurried>::dialling(Script { writes, ..Default::default() }).await;
        actor.node().connect(addr).await.unwrap();
        in_time("shut_down", actor.node().shut_down()).await;
        if !writes {
            actor.enable_writing().await;
        }
        let kinds = [
            actor.unicast(addr, Bytes::new()).map(drop).unwrap_err().kind(),
            actor.unicast_fast(addr, Bytes::new()).unwrap_err().kind(),
            actor.broadcast(Bytes::new()).unwrap_err().kind(),
        ];
        assert_eq!(kinds, [io::ErrorKind::NotConnected; 3], "{writes}");
        for _ in 0..2 {
            actor.enable_handshake().await;
            actor.enable_reading().await;
            actor.enable_on_connect().await;
            actor.enable_on_disconnect().await;
        }
        // Nothing but the test itself holds the actor.
        assert_eq!(Arc::strong_count(&actor.begun), 1);
    }
}

#[tokio::test(crate = "ledger")]
async fn no_task_socket_or_hook_is_left() {
    let metrics = Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    let (actor, addr) = Actor::<Unhurried>::listening(Script {
        handshake: hook!(|_actor, conn| async move { Ok(conn) }),
        process: silent(),
        on_connect: silent(),
        on_disconnect: silent(),
        writes: true,
        ..Default::default()
    })
    .await;
    let (listener, peer_addr) = raw_peer().await;
    actor.node().connect(peer_addr).await.unwrap();
    let mut peers = vec![listener.accept().await.unwrap().0];
    for _ in 0..3 {
        peers.push(TcpStream::connect(addr).await.unwrap());
    }
    settled(actor.node(), 4).await;
    assert!(metrics.num_alive_tasks() > before + 4 && Arc::strong_count(&actor.begun) > 4);
    in_time("shut_down", actor.node().shut_down()).await;
    assert_eq!((metrics.num_alive_tasks(), Arc::strong_count(&actor.begun)), (before, 1));
    for peer in &mut peers {
        assert!(read_to_eof(peer).await.is_empty());
    }
}
