//! Runtimes that go away, and threads without one.

use std::{net::SocketAddr, thread};

use bytes::Bytes;
use tokio::{net::TcpListener, runtime::Builder, task::spawn_blocking};

use super::{
    super::p2p::{Pea2Pea, protocols::Writing},
    actor::{Actor, Protocol, config},
    faults::fault,
};
use crate::shared::{
    observation::Observation,
    raw,
    timing::{eventually, happens_soon, patiently},
    waiting::block_on,
};

/// Dials on a runtime that is gone when this returns.
async fn dial_on_another_runtime(actor: &Actor, addr: SocketAddr, speaks: bool) {
    let actor = actor.clone();
    let dialling = spawn_blocking(move || {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            actor.node().connect(addr).await.unwrap();
            if speaks {
                actor.unicast(addr, Bytes::from_static(b"hello")).unwrap().await.unwrap().unwrap();
            }
        });
    });
    patiently("the other runtime", dialling).await.unwrap();
}

/// What is left of a connection whose runtime is gone.
async fn left_behind(protocols: &[Protocol], speaks: bool) -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config()).enabling(protocols.iter().copied()).await;
    let (listener, addr) = raw::listener().await;
    dial_on_another_runtime(&actor, addr, speaks).await;
    let _peer = raw::accept(&listener).await;
    seen.note("gone", happens_soon(|| !actor.node().is_connected(addr)).await);
    seen.note("hooks", actor.log.after("on_disconnect ").len());
    seen.note("a send", fault(&actor.unicast_fast(addr, Bytes::from_static(b"hello"))));
    seen.note("a dial", fault(&actor.node().connect(addr).await));
    drop(listener);
    actor.node().shut_down().await;
    seen.note("connected", actor.node().num_connected());
    seen
}

pub(crate) async fn a_reader_goes_with_its_runtime() -> Observation {
    left_behind(&[Protocol::Reading, Protocol::Writing, Protocol::OnDisconnect], false).await
}

pub(crate) async fn a_writer_goes_with_its_runtime() -> Observation {
    left_behind(&[Protocol::Writing, Protocol::OnDisconnect], true).await
}

/// An actor with a connection to a peer that does nothing.
async fn connected(protocols: &[Protocol]) -> (Actor, SocketAddr, TcpListener) {
    let actor: Actor = Actor::build(config()).enabling(protocols.iter().copied()).await;
    let (listener, addr) = raw::listener().await;
    actor.node().connect(addr).await.unwrap();
    (actor, addr, listener)
}

pub(crate) async fn a_thread_without_a_runtime_may_disconnect() -> Observation {
    let mut seen = Observation::new();
    let (actor, addr, _listener) = connected(&[Protocol::Reading, Protocol::Writing, Protocol::OnDisconnect]).await;
    let node = actor.node().clone();
    let thread = thread::spawn(move || (block_on(node.disconnect(addr)), block_on(node.disconnect(addr))));
    eventually("the thread ends", || thread.is_finished()).await;
    seen.note("disconnect, twice", thread.join().ok());
    seen.note("connected", actor.node().num_connected());
    seen.note("log", actor.log.after("on_disconnect "));
    seen
}
