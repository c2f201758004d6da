//! Prints ping round-trip times between nodes of the two kinds, in all combinations, over the loopback interface:
//!
//! ```text
//! cargo run --release --manifest-path tests/interop/Cargo.toml
//! ```
//!
//! All are measured by the same few lines, on a substream of their own, while the other side answers as it always does. On
//! a busy machine with two cores:
//!
//! ```text
//! who pings whom         median        p99      least
//! ours   -> theirs       26.2µs     55.7µs     24.4µs
//! theirs -> ours         26.0µs     79.9µs     22.6µs
//! theirs -> theirs       23.4µs     62.3µs     19.3µs
//! ours   -> ours         28.1µs     81.8µs     24.8µs
//! ```

use std::time::Duration;

use pea2pea_interop::{Ours, PING, Theirs, in_time, ping};

/// In each combination.
const PINGS: usize = 2_000;

#[tokio::main]
async fn main() {
    if cfg!(debug_assertions) {
        println!("not optimised: for real figures, build it with --release");
    }
    println!("{:<18} {:>10} {:>10} {:>10}", "who pings whom", "median", "p99", "least");

    let (us, them) = (Ours::start().await, Theirs::start_quiet().await);
    let addr = us.meet(&them.multiaddr).await;
    them.pinged(us.peer_id(), 1).await;
    let mut stream = us.open(addr, PING).await.expect("they speak ping");
    print("ours   -> theirs", ping(&mut stream, PINGS).await);
    us.shut_down().await;

    let (us, them) = (Ours::start().await, Theirs::start_quiet().await);
    them.meet(&us.multiaddr).await.expect("we let them in");
    them.pinged(us.peer_id(), 1).await;
    let mut stream = them.open(us.peer_id(), PING).await.expect("we speak ping");
    print("theirs -> ours", ping(&mut stream, PINGS).await);
    us.shut_down().await;

    let (them, others) = (Theirs::start_quiet().await, Theirs::start_quiet().await);
    them.meet(&others.multiaddr).await.expect("they let each other in");
    // rust-libp2p answers on one substream only, the newest.
    them.pinged(others.peer_id, 1).await;
    let mut stream = them.open(others.peer_id, PING).await.expect("they speak ping");
    print("theirs -> theirs", ping(&mut stream, PINGS).await);

    let (us, friends) = (Ours::start().await, Ours::start().await);
    let addr = us.meet(&friends.multiaddr).await;
    let mut stream = us.open(addr, PING).await.expect("we speak ping");
    print("ours   -> ours", ping(&mut stream, PINGS).await);
    in_time("our goodbye", us.disconnect(addr)).await;
    us.shut_down().await;
    friends.shut_down().await;
}

fn print(who: &str, mut round_trips: Vec<Duration>) {
    round_trips.sort_unstable();
    let at = |share: usize| format!("{:.1?}", round_trips[(round_trips.len() - 1) * share / 100]);
    println!("{who:<18} {:>10} {:>10} {:>10}", at(50), at(99), at(0));
}
