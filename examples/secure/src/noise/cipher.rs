//! One direction of a session: a key, a counter, and a new key now and then.
//!
//! This is Noise's `CipherState` with AES-256-GCM, done by the instructions that the processor has for it, and in place.

use std::io;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, Tag, UnboundKey};

use crate::invalid;

/// What authenticates a frame.
pub(super) const TAG: usize = 16;

/// How many frames a key is good for: at most 256 MiB, far below what AES-GCM allows. The receiver counts along, so nothing
/// needs to be said about it.
pub(super) const FRAMES_PER_KEY: u64 = 4_096;

pub(super) struct Cipher {
    key: LessSafeKey,
    /// The number of the next frame; it goes on across new keys.
    nonce: u64,
}

impl Cipher {
    pub(super) fn new(key: &[u8; 32]) -> io::Result<Self> {
        Ok(Self { key: prepared(key)?, nonce: 0 })
    }

    /// Encrypts a frame in place; returns what has to follow it.
    pub(super) fn seal(&mut self, frame: &mut [u8]) -> io::Result<[u8; TAG]> {
        let nonce = self.next_nonce()?;
        let tag: Tag = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::empty(), frame)
            .map_err(|_| io::Error::other("the cipher fails"))?;
        self.count()?;
        tag.as_ref().try_into().map_err(io::Error::other)
    }

    /// Decrypts a frame with its tag in place; returns how many bytes of it remain.
    pub(super) fn open(&mut self, frame: &mut [u8]) -> io::Result<usize> {
        let nonce = self.next_nonce()?;
        let plaintext = self
            .key
            .open_in_place(nonce, Aad::empty(), frame)
            .map_err(|_| invalid("a frame is not what the peer sent"))?
            .len();
        self.count()?;
        Ok(plaintext)
    }

    /// How often the key has been replaced.
    pub(super) fn renewals(&self) -> u64 {
        self.nonce / FRAMES_PER_KEY
    }

    /// The last number is not for frames: new keys are made with it.
    fn next_nonce(&self) -> io::Result<Nonce> {
        match self.nonce {
            RENEWAL => Err(io::Error::other("the session is used up")),
            number => Ok(nonce(number)),
        }
    }

    fn count(&mut self) -> io::Result<()> {
        self.nonce += 1;
        if self.nonce.is_multiple_of(FRAMES_PER_KEY) { self.renew() } else { Ok(()) }
    }

    /// Noise's `REKEY`: the new key is the encryption of zeros, so that whoever learns it knows nothing of what was before.
    fn renew(&mut self) -> io::Result<()> {
        let mut key = [0; 32];
        let _tag = self
            .key
            .seal_in_place_separate_tag(nonce(RENEWAL), Aad::empty(), &mut key)
            .map_err(|_| io::Error::other("the cipher fails"))?;
        self.key = prepared(&key)?;
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn starting_at(key: &[u8; 32], nonce: u64) -> io::Result<Self> {
        Ok(Self { key: prepared(key)?, nonce })
    }
}

fn prepared(key: &[u8; 32]) -> io::Result<LessSafeKey> {
    let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| io::Error::other("the cipher takes no such key"))?;
    Ok(LessSafeKey::new(key))
}

fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

const RENEWAL: u64 = u64::MAX;
