//! A keyed hash for addresses: one multiplication per word, with keys that no peer knows.
//!
//! A lookup is most of what the kernel adds to a send, and the standard library's hash was most of a lookup.

use std::hash::{BuildHasher, Hasher, RandomState};

/// Makes hashers with keys that were drawn when it was made.
#[derive(Debug, Clone)]
pub(crate) struct AddrHash {
    /// What a hash begins with.
    seed: u64,
    /// What each word is multiplied by.
    factor: u64,
}

impl Default for AddrHash {
    fn default() -> Self {
        let random = RandomState::new();
        // Odd, so that multiplying loses nothing, and with high bits, so that it mixes.
        Self { seed: random.hash_one(0), factor: random.hash_one(1) | 1 | 1 << 63 }
    }
}

impl BuildHasher for AddrHash {
    type Hasher = AddrHasher;

    fn build_hasher(&self) -> AddrHasher {
        AddrHasher { state: self.seed, factor: self.factor }
    }
}

/// Folds each word in with a multiplication whose both halves are kept.
#[derive(Debug)]
pub(crate) struct AddrHasher {
    /// The hash so far.
    state: u64,
    /// See [`AddrHash`].
    factor: u64,
}

impl AddrHasher {
    fn folded(&self, word: u64) -> u64 {
        let product = u128::from(self.state ^ word) * u128::from(self.factor);
        // The two halves of the product.
        product as u64 ^ (product >> 64) as u64
    }

    fn fold(&mut self, word: u64) {
        self.state = self.folded(word);
    }
}

impl Hasher for AddrHasher {
    fn finish(&self) -> u64 {
        // Once more: after the last word alone, neighbouring ports gather in a part of the range under one key in ten.
        self.folded(0)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.fold(u64::from_ne_bytes(word));
        }
    }

    fn write_u8(&mut self, word: u8) {
        self.fold(word.into());
    }

    fn write_u16(&mut self, word: u16) {
        self.fold(word.into());
    }

    fn write_u32(&mut self, word: u32) {
        self.fold(word.into());
    }

    fn write_u64(&mut self, word: u64) {
        self.fold(word);
    }

    fn write_usize(&mut self, word: usize) {
        self.fold(word as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, net::SocketAddr};

    use super::*;

    #[test]
    fn neighbouring_addresses_spread_over_the_bits_that_a_table_uses() {
        // Many keys: a weak hash is good under most of them.
        for _ in 0..50 {
            assert_spread(&AddrHash::default());
        }
    }

    fn assert_spread(hash: &AddrHash) {
        let v4 = (0..4_096_u16).map(|port| SocketAddr::from(([10, 0, 0, 1], port)));
        let hosts = (0..4_096_u32).map(|host| SocketAddr::from((host.to_be_bytes(), 30_303)));
        let v6 = (0..4_096_u16).map(|host| SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, host], 30_303)));
        for addrs in [v4.collect::<Vec<_>>(), hosts.collect(), v6.collect()] {
            let hashes: Vec<u64> = addrs.iter().map(|addr| hash.hash_one(addr)).collect();
            assert_eq!(hashes.iter().collect::<HashSet<_>>().len(), addrs.len(), "no two are equal");
            // 4,096 balls in 4,096 bins leave about 63 % of the bins used; half is far from chance.
            let low = hashes.iter().map(|hash| hash & 0xfff).collect::<HashSet<_>>().len();
            let high = hashes.iter().map(|hash| hash >> 52).collect::<HashSet<_>>().len();
            assert!(low > 2_048 && high > 2_048, "{low} and {high} of 4,096");
        }
    }

    #[test]
    fn two_tables_hash_differently() {
        let addr: SocketAddr = "10.0.0.1:1".parse().unwrap();
        assert_ne!(AddrHash::default().hash_one(addr), AddrHash::default().hash_one(addr));
    }
}
