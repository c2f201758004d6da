//! Random operations on the registry against a reference model, which is in `crate::fuzzing`; and its waiters.
//!
//! `REGISTRY_SEED=n cargo test registry` repeats the walk of a printed seed.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use futures_util::FutureExt;

use super::{Refusal, Registry, SlotLimits};
use crate::{fuzzing::check_registry, host::Host};

const WALKS: usize = 300;

/// Some 400 steps.
const BYTES: usize = 1_000;

/// What a walk does, by its seed.
fn decisions(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(BYTES).collect()
}

#[test]
fn random_walks_agree_with_the_model_at_every_step() {
    let given = std::env::var("REGISTRY_SEED").ok().map(|seed| seed.parse().expect("REGISTRY_SEED is a number"));
    let first: u64 = given.unwrap_or_else(|| RandomState::new().hash_one("registry") >> 1);
    for seed in (first..).take(if given.is_some() { 1 } else { WALKS }) {
        let outcome = std::panic::catch_unwind(|| check_registry(&decisions(seed)));
        assert!(outcome.is_ok(), "REGISTRY_SEED={seed} fails");
    }
}

#[test]
fn whoever_waits_for_the_end_is_woken_by_the_last_release() {
    let registry = Arc::new(Registry::new(SlotLimits { node: 5, per_ip: 2 }));
    let addr = "10.0.0.1:1".parse().unwrap();
    registry.reserve(addr).unwrap().establish(Arc::new(0)).unwrap();
    let claims = registry.close();
    let mut drained = Box::pin(crate::waiting::wait_until(registry.changed(), || registry.is_closed_and_empty()));
    assert!(drained.as_mut().now_or_never().is_none());
    drop(claims);
    assert!(drained.now_or_never().is_some());
}

#[test]
fn one_link_local_address_on_two_interfaces_is_two_peers() {
    let registry = Arc::new(Registry::<()>::new(SlotLimits { node: 5, per_ip: 1 }));
    let on = |interface: u32, port: u16| format!("[fe80::1%{interface}]:{port}").parse().unwrap();
    let _first = registry.reserve(on(2, 1)).unwrap();
    let _second = registry.reserve(on(3, 1)).unwrap();
    for interface in [2, 3] {
        let addr = on(interface, 2);
        assert_eq!(registry.reserve(addr).err(), Some(Refusal::IpLimit(Host::of(addr))));
    }
    registry.assert_conserved();
}
