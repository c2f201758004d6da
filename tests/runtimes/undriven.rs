//! A runtime that has a node's tasks and that nobody drives: calls from another runtime end, and do what they promise.

use std::{io::ErrorKind, net::SocketAddr};

use pea2pea::{Node, Pea2Pea};
use tokio::{
    net::TcpStream,
    runtime::{Builder, Runtime},
};

use crate::{
    common::{
        self,
        actor::{Actor, Script, Tuning, silent},
        in_time, local_config,
        setups::{assert_vacant, end_of, raw_peer, settled},
    },
    ledger,
};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

async fn assert_refused(addr: SocketAddr) {
    let error = TcpStream::connect(addr).await.expect_err("nobody listens");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn whoever_switches_listening_off_closes_the_socket() {
    ledger::check(|| {
        let (undriven, driven) = (runtime(), runtime());
        let node = Node::new(local_config());
        let addr = undriven.block_on(node.toggle_listener()).unwrap().unwrap();
        driven.block_on(async {
            assert_eq!(in_time("the toggle", node.toggle_listener()).await.unwrap(), None);
            assert!(node.listening_addr().await.is_err());
            assert_refused(addr).await;

            let again = in_time("the next toggle", node.toggle_listener()).await.unwrap().unwrap();
            let _stream = TcpStream::connect(again).await.unwrap();
            settled(&node, 1).await;
            in_time("shut_down", node.shut_down()).await;
            assert_refused(again).await;
        });
    });
}

#[derive(Clone)]
struct Unbounded;

impl Tuning for Unbounded {
    const ON_DISCONNECT_MS: u64 = u64::MAX;
}

fn shut_down_from_elsewhere<T: Tuning>() {
    ledger::check(|| {
        let (undriven, driven) = (runtime(), runtime());
        let (actor, addr, peer) = undriven.block_on(async {
            let script = Script { process: silent(), on_disconnect: silent(), ..Default::default() };
            let (actor, addr) = Actor::<T>::listening(script).await;
            let (listener, peer_addr) = raw_peer().await;
            actor.node().connect(peer_addr).await.unwrap();
            (actor, addr, listener.accept().await.unwrap().0.into_std().unwrap())
        });
        driven.block_on(async {
            in_time("shut_down", actor.node().shut_down()).await;
            assert_vacant(actor.node());
            assert_refused(addr).await;
            assert_eq!(actor.begun_on_disconnect(), 1);
            end_of(&mut TcpStream::from_std(peer).unwrap()).await;
        });
    });
}

#[test]
fn a_shutdown_ends_and_has_closed_the_socket() {
    shut_down_from_elsewhere::<common::actor::Unhurried>();
}

#[test]
fn a_shutdown_ends_even_if_on_disconnect_has_no_bound() {
    shut_down_from_elsewhere::<Unbounded>();
}

/// Polls a future that is ready at once, outside of every runtime.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(output) => output,
        std::task::Poll::Pending => panic!("it waits"),
    }
}

#[test]
fn outside_of_a_runtime_a_dial_and_switching_on_fail_before_anything_has_changed() {
    ledger::check(|| {
        let node = Node::new(local_config());
        let addr = "127.0.0.1:1".parse().unwrap();
        for error in [at_once(node.connect(addr)).unwrap_err(), at_once(node.toggle_listener()).unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::Other);
            assert!(error.to_string().contains("tokio runtime"), "{error}");
        }
        assert_eq!((node.num_connecting(), node.is_connecting(addr)), (0, false));
        assert!(at_once(node.listening_addr()).is_err());
        assert!(!at_once(node.disconnect(addr)));
        at_once(node.shut_down());
    });
}
