//! Evil peers: plain blocking sockets that do to a node whatever a socket can do.
//!
//! Each row of the table is a test: a name that says what comes of it, the scripts of its peers, and what the owner of the
//! attacked node sees. The rows are in the files by theme; `row.rs` has their vocabulary, `victim.rs` and `codec.rs` the
//! node that is attacked, `interpreter.rs` plays the scripts, `verdict.rs` says what else each row checks, `ledger.rs`
//! counts descriptors, and `canaries.rs` shows that the rows fail where a defence is switched off. To attack another
//! library, write another `victim.rs`.

#![allow(unreachable_pub, reason = "all of it is private to this test")]

#[path = "../common/mod.rs"]
mod common;

mod codec;
mod interpreter;
mod row;
mod traces;
mod verdict;
mod victim;

mod addresses;
mod before_the_handshake;
mod churn;
mod endings;
mod floods;
mod flow_control;
mod framing;
mod in_the_handshake;

mod canaries;
mod ledger;

/// All rows, by name.
fn table() -> Vec<(&'static str, row::Row)> {
    [
        before_the_handshake::all(),
        in_the_handshake::all(),
        framing::all(),
        flow_control::all(),
        endings::all(),
        floods::all(),
        churn::all(),
        addresses::all(),
    ]
    .concat()
}
