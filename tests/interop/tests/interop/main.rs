//! Real nodes of rust-libp2p as the other end of the libp2p example, over TCP on the loopback interface.

mod endings;
mod they_dial;
mod we_dial;
