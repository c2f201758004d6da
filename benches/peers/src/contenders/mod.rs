//! Who takes part.

#[cfg(feature = "commonware-p2p")]
mod commonware;
#[cfg(feature = "iroh")]
mod iroh;
#[cfg(feature = "libp2p")]
mod libp2p;
#[cfg(feature = "message-io")]
mod message_io;
#[cfg(feature = "secure")]
#[allow(clippy::duplicate_mod, reason = "one source, two wires that are compared")]
mod noise;
#[cfg(feature = "tentacle")]
mod tentacle;
#[cfg(feature = "secure")]
#[allow(clippy::duplicate_mod, reason = "one source, two wires that are compared")]
mod tls;

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
    #[cfg(feature = "secure")]
    noise::CONTENDER,
    #[cfg(feature = "secure")]
    tls::CONTENDER,
    #[cfg(feature = "commonware-p2p")]
    commonware::CONTENDER,
    #[cfg(feature = "iroh")]
    iroh::CONTENDER,
];

/// What encrypts, and so is compared with what else encrypts.
pub const ENCRYPTED_OURS: &[&str] = &["ours+noise", "ours+tls"];

/// The others that encrypt.
pub const ENCRYPTED_PEERS: &[&str] = &["libp2p", "commonware-p2p", "iroh"];

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
