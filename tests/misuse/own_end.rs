//! A hook may end the connection that it runs for.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::FutureExt;
use pea2pea::{Pea2Pea, protocols::Writing};
use tokio::{io::AsyncWriteExt, net::TcpStream, task::yield_now};
use tokio_util::bytes::Bytes;

use crate::{
    common::{
        Events,
        actor::{Actor, Script, Tuning},
        in_time, local_node, wait_until,
        wire::{frame, frames, read_to_eof},
    },
    hook, ledger,
};

#[derive(Clone)]
struct Abortable;

impl Tuning for Abortable {
    const ABORTABLE: bool = true;
}

/// Sets a flag when it is dropped.
struct Flagged(Arc<AtomicBool>);

impl Drop for Flagged {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A script whose `process_message` or `on_connect` sends last words and disconnects from their peer.
fn leaving(in_process: bool, events: &Events<&'static str>, dropped: &Arc<AtomicBool>) -> Script<Abortable> {
    let (events, dropped) = (events.clone(), Arc::clone(dropped));
    let leave = Arc::new(move |actor: Actor<Abortable>, addr: SocketAddr| {
        let (events, flagged) = (events.clone(), Flagged(Arc::clone(&dropped)));
        async move {
            let receipt = actor.unicast(addr, Bytes::from_static(b"last words")).unwrap();
            if actor.node().disconnect(addr).await {
                events.push("disconnected");
            }
            assert!(!actor.node().is_connected(addr));
            assert!(matches!(receipt.now_or_never(), Some(Ok(Ok(())))));
            events.push("still here");
            yield_now().await;
            events.push("beyond the await");
            drop(flagged);
        }
    });
    let (processing, connecting) = (Arc::clone(&leave), leave);
    Script {
        process: hook!(|actor, source, _message| {
            let leave = in_process.then(|| processing(actor, source));
            async move {
                if let Some(leave) = leave {
                    leave.await;
                }
            }
        }),
        on_connect: hook!(|actor, addr| {
            let leave = (!in_process).then(|| connecting(actor, addr));
            async move {
                if let Some(leave) = leave {
                    leave.await;
                }
            }
        }),
        on_disconnect: hook!(|actor, addr, _origin| async move {
            assert!(!actor.node().disconnect(addr).await);
            yield_now().await;
        }),
        writes: true,
        ..Default::default()
    }
}

async fn a_hook_leaves(in_process: bool) {
    let (events, dropped) = (Events::default(), Arc::new(AtomicBool::new(false)));
    let (acceptor, addr) = Actor::listening(leaving(in_process, &events, &dropped)).await;
    let mut peer = TcpStream::connect(addr).await.unwrap();
    peer.write_all(&frame(b"x")).await.unwrap();
    assert_eq!(frames(&read_to_eof(&mut peer).await), [b"last words"]);
    wait_until("the hook is dropped", || dropped.load(Ordering::SeqCst)).await;
    assert_eq!(events.all(), ["disconnected", "still here"]);
    assert_eq!(acceptor.begun_on_disconnect(), 1);
    in_time("a fresh dial", local_node().connect(addr)).await.unwrap();
}

#[tokio::test(crate = "ledger")]
async fn process_message_may_end_its_own_connection_and_is_dropped_at_its_next_await() {
    a_hook_leaves(true).await;
}

#[tokio::test(crate = "ledger")]
async fn on_connect_may_end_its_own_connection_and_is_dropped_at_its_next_await() {
    a_hook_leaves(false).await;
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 2)]
async fn hooks_may_end_their_own_connections_on_many_threads() {
    for round in 0..50 {
        a_hook_leaves(round % 2 == 0).await;
    }
}
