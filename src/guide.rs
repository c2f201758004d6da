//! A guide in reading order: the concepts, a page per protocol, and what it takes to run a network.
//!
//! Each page stands alone too. All programs in them are complete and run as tests: real nodes on
//! 127.0.0.1, over in a fraction of a second, and every claim that a program makes is an assertion in it.
//!
//! | page | answers |
//! |---|---|
//! | [`concepts`] | what a node, a connection, a protocol, a side, an origin and a limit are; which tasks exist; the picture of a life |
//! | [`handshake`] | how to look at a peer, refuse it, or encrypt, before anything else happens |
//! | [`reading`] | how bytes become messages, and what a slow consumer does to its peer |
//! | [`writing`] | how messages leave, what a receipt says, and what a full queue means |
//! | [`on_connect`] | how to greet, and what may happen before, beside and after that |
//! | [`on_disconnect`] | how to say goodbye, and how to learn what ended a connection |
//! | [`queues_and_buffers`] | which depths and buffer sizes to choose, and what they cost |
//! | [`backpressure`] | how a slow end slows down a fast one, from one program to the other |
//! | [`cancel_safety`] | what is left when a future of this crate is dropped |
//! | [`public_internet`] | what to set before strangers can dial |
//! | [`scaling`] | how to go on when one process is not enough |
//! | [`testing`] | how to test a network of your own |
//! | [`migrating`] | how to come here from the published crate, from hand-written tokio, or from libp2p |
//!
//! After the first six pages a chat node is within reach; the example `chat` is one that can be used across machines. The
//! files of all examples are listed, with what each shows, in `examples/README.md`.

#[doc = include_str!("../docs/guide/concepts.md")]
#[doc = "<div class=\"life\"><style>.life { overflow-x: auto } .life svg { max-width: 100%; height: auto }</style>"]
#[doc = include_str!("../docs/lifecycle.svg")]
#[doc = "</div>"]
pub mod concepts {}

#[doc = include_str!("../docs/guide/handshake.md")]
pub mod handshake {}

#[doc = include_str!("../docs/guide/reading.md")]
pub mod reading {}

#[doc = include_str!("../docs/guide/writing.md")]
pub mod writing {}

#[doc = include_str!("../docs/guide/on_connect.md")]
pub mod on_connect {}

#[doc = include_str!("../docs/guide/on_disconnect.md")]
pub mod on_disconnect {}

#[doc = include_str!("../docs/guide/queues_and_buffers.md")]
pub mod queues_and_buffers {}

#[doc = include_str!("../docs/guide/backpressure.md")]
pub mod backpressure {}

#[doc = include_str!("../docs/guide/cancel_safety.md")]
pub mod cancel_safety {}

#[doc = include_str!("../docs/guide/public_internet.md")]
pub mod public_internet {}

#[doc = include_str!("../docs/guide/scaling.md")]
pub mod scaling {}

#[doc = include_str!("../docs/guide/testing.md")]
pub mod testing {}

#[doc = include_str!("../docs/guide/migrating.md")]
pub mod migrating {}
