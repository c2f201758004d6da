//! A contender as a server, for clients that are the same for all.

use std::{fmt, future::Future, net::SocketAddr, pin::Pin, time::Duration};

use tokio::runtime::Runtime;

/// A running server that answers a message with the same message, if it asks for that.
pub struct Served {
    /// Where it listens.
    pub addr: SocketAddr,
    /// What it runs on.
    pub runtime: Runtime,
    /// How many connections are live.
    pub num_connected: Box<dyn Fn() -> usize>,
    /// Ends it.
    pub stop: Pin<Box<dyn Future<Output = ()>>>,
}

impl Served {
    /// Ends the server and its runtime.
    pub fn stop(self) {
        self.runtime.block_on(self.stop);
        self.runtime.shutdown_timeout(PATIENCE);
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served").field("addr", &self.addr).finish_non_exhaustive()
    }
}

/// Returns whether a message asks for an answer.
pub fn wants_answer(message: &[u8]) -> bool {
    message.first() == Some(&ASKS)
}

/// The first byte of a message that wants an answer.
pub const ASKS: u8 = 1;

/// The first byte of a message that is swallowed.
pub const TELLS: u8 = 0;

/// Within this, the tasks of a server that was stopped are gone.
const PATIENCE: Duration = Duration::from_secs(5);
