//! What several integration tests need: loopback configurations, waiting for conditions, polling by hand.

#![allow(dead_code, unreachable_pub, reason = "each test file uses the part it needs")]

use std::{
    fmt::Debug,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use pea2pea::{Config, Node};

/// The bound of every wait: far more than ten times what any of the waits takes on a quiet machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A configuration for networks on one host: any port of the loopback interface, and limits that are out of the way.
pub fn local_config() -> Config {
    Config {
        listener_addr: Some("127.0.0.1:0".parse().unwrap()),
        max_connections: 1_000,
        max_connections_per_ip: 1_000,
        max_connecting: 1_000,
        connection_timeout_ms: 10_000,
        ..Default::default()
    }
}

pub fn local_node() -> Node {
    nodes::listed(local_config())
}

/// Waits until the condition holds; panics with its description when it takes too long.
pub async fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "waited in vain: {what}");
}

/// Resolves a future in time; panics with the description when it takes too long.
pub async fn in_time<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("not in time: {what}"),
    }
}

/// Polls a future up to `times` times, letting the runtime go on in between; `None` if it is still pending then.
pub async fn poll_times<F: Future>(mut future: Pin<&mut F>, times: usize) -> Option<F::Output> {
    for _ in 0..times {
        let polled = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
        if let Poll::Ready(output) = polled {
            return Some(output);
        }
        tokio::task::yield_now().await;
    }
    None
}

/// A list of what happened, shared by the hooks of a test.
#[derive(Debug)]
pub struct Events<T>(Arc<Mutex<Vec<T>>>);

impl<T> Clone for Events<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Events<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone + Debug + PartialEq> Events<T> {
    pub fn push(&self, event: T) {
        self.0.lock().unwrap().push(event);
    }

    pub fn all(&self) -> Vec<T> {
        self.0.lock().unwrap().clone()
    }

    pub fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub fn contains(&self, event: &T) -> bool {
        self.0.lock().unwrap().contains(event)
    }

    pub fn count(&self, event: &T) -> usize {
        self.0.lock().unwrap().iter().filter(|other| *other == event).count()
    }

    pub async fn wait_for(&self, event: T) {
        wait_until(&format!("{event:?}"), || self.contains(&event)).await;
    }
}

pub mod setups;

pub mod actor;

pub mod wire;

/// The message of panics that a test wants; see [`keep_deliberate_panics_quiet`].
pub const DELIBERATE: &str = "deliberate";

/// Keeps panics with the message [`DELIBERATE`], or without a text, out of the output of the tests.
pub fn keep_deliberate_panics_quiet() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let text = info.payload().downcast_ref::<&str>().copied();
            let text = text.or_else(|| info.payload().downcast_ref::<String>().map(String::as_str));
            if text.is_some_and(|text| text != DELIBERATE) {
                usual(info);
            }
        }));
    });
}

pub mod nodes;

pub mod reader;

/// Polls a future on a thread that knows no runtime: the smallest executor that there is.
pub fn block_on_outside<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let (mut future, began) = (pin!(future), Instant::now());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park_timeout(PATIENCE);
        assert!(began.elapsed() < PATIENCE, "not in time");
    }
}
