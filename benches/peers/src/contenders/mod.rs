//! Who takes part.

#[cfg(feature = "libp2p")]
mod libp2p;
#[cfg(feature = "message-io")]
mod message_io;
#[cfg(feature = "tentacle")]
mod tentacle;

use crate::{
    published,
    workloads::{ours, raw, settings::words, workload::Contender},
};

/// All of them: this crate and the yardstick first, then what else it is compared with.
pub const ALL: &[Contender] = &[
    ours::CONTENDER,
    raw::CONTENDER,
    Contender { name: "0.57.4", run: published::node::run },
    #[cfg(feature = "message-io")]
    message_io::CONTENDER,
    #[cfg(feature = "tentacle")]
    tentacle::CONTENDER,
    #[cfg(feature = "libp2p")]
    libp2p::CONTENDER,
];

/// Returns those that `BENCH_PEERS` names, separated by commas; all of them if it is not set. This crate and raw tokio always
/// take part.
pub fn wanted() -> Vec<Contender> {
    let names = words("BENCH_PEERS");
    for name in &names {
        assert!(ALL.iter().any(|one| one.name == name), "BENCH_PEERS: nobody is called {name:?}");
    }
    let wanted = |one: &Contender| names.is_empty() || names.iter().any(|name| name == one.name);
    ALL.iter().enumerate().filter(|(which, one)| *which < 2 || wanted(one)).map(|(_, one)| *one).collect()
}
