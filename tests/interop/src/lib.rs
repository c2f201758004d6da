//! The two kinds of nodes of the interop tests: one of the libp2p example of this crate, and one of rust-libp2p.
//!
//! Each keeps a log of what happened to it, so that a test can wait for something without knowing what else happens.

mod log;
mod ours;
mod theirs;

use std::time::{Duration, Instant};

use futures_util::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub use ours::Ours;
pub use theirs::{Seen, Theirs};

pub const PING: &str = "/ipfs/ping/1.0.0";

pub const NOBODY_SPEAKS_THIS: &str = "/nobody/speaks/this/1.0.0";

/// How long anything may take; all of it takes milliseconds.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for something, and panics with its name if it does not come.
pub async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("{what} did not come"))
}

/// Pings on a substream of either implementation, one ping after the other, and returns the round-trip times.
pub async fn ping<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, times: usize) -> Vec<Duration> {
    let mut round_trips = Vec::with_capacity(times);
    for number in 0..times {
        let sent: [u8; 32] = std::array::from_fn(|position| (position * 7 + number) as u8);
        let mut received = [0; 32];
        let begun = Instant::now();
        in_time("a ping's answer", async {
            stream.write_all(&sent).await.expect("a ping is sent");
            stream.flush().await.expect("a ping is flushed");
            stream.read_exact(&mut received).await.expect("a ping is answered");
        })
        .await;
        round_trips.push(begun.elapsed());
        assert_eq!(received, sent, "the answer is the question");
    }
    round_trips
}
