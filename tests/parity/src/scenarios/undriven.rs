//! Calls from one runtime, of a node whose tasks belong to another one that nobody drives.

use std::{net::SocketAddr, thread};

use tokio::{
    net::TcpStream,
    runtime::{Builder, Runtime},
};

use super::{
    super::p2p::{Node, Pea2Pea},
    actor::plain,
    faults::fault,
};
use crate::shared::{observation::Observation, timing::patiently};

/// Makes a node listen on a runtime that is driven only for that.
fn listening_elsewhere(node: &Node) -> (Runtime, SocketAddr) {
    let node = node.clone();
    let elsewhere = thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let addr = runtime.block_on(async { node.toggle_listener().await.unwrap().unwrap() });
        (runtime, addr)
    });
    elsewhere.join().unwrap()
}

pub(crate) async fn a_listener_can_be_switched_off() -> Observation {
    let mut seen = Observation::new();
    let actor = plain();
    let (undriven, addr) = listening_elsewhere(actor.node());
    seen.note("off", patiently("the toggle", actor.node().toggle_listener()).await.unwrap());
    seen.note("listening_addr", fault(&actor.node().listening_addr().await));
    seen.note("a dial", fault(&TcpStream::connect(addr).await));
    undriven.shutdown_background();
    seen
}

pub(crate) async fn a_shutdown_ends() -> Observation {
    let mut seen = Observation::new();
    let actor = plain();
    let (undriven, addr) = listening_elsewhere(actor.node());
    patiently("the shutdown", actor.node().shut_down()).await;
    seen.note("a dial", fault(&TcpStream::connect(addr).await));
    undriven.shutdown_background();
    seen
}
