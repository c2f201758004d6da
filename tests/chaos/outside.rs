//! Calls from elsewhere than the run's runtime: from runtimes that go away, and from threads without any.

use std::{cell::Cell, future::Future, net::SocketAddr, sync::Arc, thread, time::Duration};

use tokio::{runtime::Builder, sync::oneshot, time::sleep};

use crate::{
    actions::judge_dial,
    common::{block_on_outside, wire::Random},
    peer::Peer,
    tally::Event,
    world::World,
};

thread_local! {
    /// Whether this thread drives a runtime that is dropped before the nodes are.
    static IS_FOREIGN: Cell<bool> = const { Cell::new(false) };

    /// Whether this thread polls a call without being in a runtime.
    static IS_WITHOUT_RUNTIME: Cell<bool> = const { Cell::new(false) };
}

/// Whether what is made here belongs to a runtime that goes away.
pub fn is_foreign() -> bool {
    IS_FOREIGN.get()
}

/// Whether this thread is in a runtime only while the library lets it borrow one.
pub fn is_without_runtime() -> bool {
    IS_WITHOUT_RUNTIME.get()
}

/// Runs something on a thread of its own; `None` if that panicked, which has been noticed where it happened.
async fn on_a_thread<T: Send + 'static>(world: &World, run: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (tell, told) = oneshot::channel();
    let thread = thread::spawn(move || _ = tell.send(run()));
    world.threads.lock().unwrap().push(thread);
    told.await.ok()
}

/// Polls a future on a thread that knows no runtime.
pub async fn without_runtime<F>(world: &World, future: F) -> Option<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let call = move || {
        IS_WITHOUT_RUNTIME.set(true);
        block_on_outside(future)
    };
    on_a_thread(world, call).await
}

/// Dials from a runtime that is dropped soon after, whatever has become of the connection.
pub async fn dial_and_vanish(peer: &Peer, lane: usize, addr: SocketAddr, dice: &mut Random) {
    let (world, peer, mut dice) = (Arc::clone(&peer.world), peer.clone(), Random::new(dice.next()));
    let vanish = move || {
        IS_FOREIGN.set(true);
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let is_connected = runtime.block_on(async {
            let is_connected = judge_dial(&peer, peer.dial(addr, None).await);
            for _ in 0..dice.below(4) {
                _ = peer.send(lane, addr, None, &mut dice);
            }
            if dice.below(3) > 0 {
                sleep(Duration::from_millis(dice.below(20) as u64)).await;
            }
            is_connected
        });
        if is_connected && peer.node.is_connected(addr) {
            peer.world.count(Event::RuntimeVanished);
        }
        drop(runtime);
    };
    _ = on_a_thread(&world, vanish).await;
}

/// Waits for the threads that are ending.
pub fn join(world: &World, is_over: bool) {
    let mut threads = world.threads.lock().unwrap();
    let (done, going_on): (Vec<_>, Vec<_>) = threads.drain(..).partition(|thread| is_over || thread.is_finished());
    *threads = going_on;
    drop(threads);
    for thread in done {
        // A panic has been noticed where it happened.
        _ = thread.join();
    }
}
