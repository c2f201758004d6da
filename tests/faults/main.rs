//! The fault matrix: what a hostile or unlucky network does to a node, one row after the other.
//!
//! Each row runs in processes of its own ([`kit::isolation`]): once with its defence, and once for each canary, the same
//! check with the defence switched off, which has to fail for the reason that is given. Injectors count what they
//! injected. Beside its own claim a row checks that everything is as before soon after the attack ([`kit::ledger`]), that
//! an honest pair gets its echoes in time ([`kit::bystander`], whose own canary is in row 16), and that the log stays quiet
//! ([`kit::logs`]).
//!
//! `cargo test --test faults` takes a size that every run can wait for. The matrix's own size:
//! `FAULTS_FULL=1 cargo test --release --test faults -- --nocapture`, which takes some minutes and shows the figures.
//!
//! | row | fault | test | defence that its canary lacks |
//! |---|---|---|---|
//! | 1 | silent peers in the handshake | `setups::row_01_*` | timeout of the handshake |
//! | 2 | peers that trickle in the handshake | `setups::row_02_*` | one deadline for all of it |
//! | 3 | own dials that nobody answers | `setups::row_03_*`, `netns` `cable::row_03_*` | timeouts of dial and handshake |
//! | 4 | peers that come and go | `floods::row_04_*` | the limit |
//! | 5 | resets at any time | `floods::row_05_*` | a reader that notices |
//! | 6 | no file descriptors | `starvation::row_06_*` | the pause; the lack itself |
//! | 7 | many dials from one address | `floods::row_07_*` | the limit per address |
//! | 8 | IPv4-mapped addresses | `addresses::row_08_*` | the limit per address |
//! | 9 | a crowd | `floods::row_09_*` | the limit |
//! | 10 | own addresses, and others at the same port | `addresses::row_10_*`, `netns` `addresses::row_10_*` | being the same node; somebody else |
//! | 11 | frames that never end | `frames::row_11_*` | the idle timeout |
//! | 12 | headers that announce 4 GiB | `frames::row_12_*` | the codec's limit |
//! | 13 | large messages, then nothing | `frames::row_13_*` | a decoder that lets go |
//! | 14 | tiny frames at line rate | `frames::row_14_*` | bounded queues |
//! | 15 | decoders that misbehave | `decoders::row_15_*` | each fault by itself |
//! | 16 | messages that are never done, or slow | `decoders::row_16_*` | the depth of the queue; a hook that gives way |
//! | 17 | peers that never read | `writes::row_17_*` | the flush timeout |
//! | 18 | a peer that hardly reads | `writes::row_18_*` | the flush timeout |
//! | 19 | one stalled of fifty | `writes::row_19_*` | independence of the peers |
//! | 20 | a pulled cable | `netns` `cable::row_20_*` | the idle timeout |
//! | 21 | a peer that reboots | `successors::row_21_*`, `netns` `cable::row_21_*` | the bound of `on_disconnect` |
//! | 22 | half-closed connections | `writes::row_22_*` | receipts |
//! | 23 | sockets killed by the OS, the listener's too | `netns` `kills::row_23_*` | a reader that notices; the kill |
//! | 24 | shutdowns | `endings::row_24_*`; also `tests/bounds/shutdown*.rs` | the bound of `on_disconnect` |
//! | 25 | many connections from one port | `successors::row_25_*` | identity: stale ends by address |
//! | 26 | settings at their ends, clocks | `settings::row_26_*`; also `tests/bounds/timeouts.rs` | the largest and smallest values; honesty; messages in time |
//! | 27 | limits and their knobs | `settings::row_27_*`; also `tests/setup/limits.rs`, `tests/messages/writing.rs` | the right value |
//! | 28 | rows 1, 4, 5, 12 and 15 at a high rate | `quiet::row_28_*` | the level of the lines |
//! | 29 | silent and deaf peers beside floods whose messages cost something | `turns::row_29_*` | the two timeouts |
//! | 30 | a thousand requests in one write | `turns::row_30_*` | answering inside of `process_message` |
//! | 31 | 16 floods whose messages cost something | `turns::row_31_*` | messages that take little time |
//! | 32 | last words while the other side sends | `last_words::row_32_*` | a graceful end |
//! | 33 | requests of a client that has gone, answered | `last_words::row_33_*` | the 3 s for the rest |
//! | 34 | resets and truncated ends behind decoded messages | `last_words::row_34_*` | a well-formed stream |
//!
//! `netns` is the target of the rows that need root.

#![allow(unsafe_code, reason = "an allocator that counts")]
#![allow(unreachable_pub, reason = "all of it is private to this test")]

#[path = "../common/mod.rs"]
mod common;

mod kit;

mod addresses;
mod decoders;
mod endings;
mod floods;
mod frames;
mod last_words;
mod quiet;
mod settings;
mod setups;
mod starvation;
mod successors;
mod turns;
mod writes;
