//! Holds many idle connections and reports what each of them costs, in heap and in resident memory.
//!
//! A process has a limited number of file descriptors, so the connections are spread over several: some listen, all of them at
//! one port, and the kernel deals the connections out; as many dial. Every connection has an address of its own at either end,
//! because connections are keyed by the peer's address: a dialling process has an IP of its own and a port per connection, and
//! reaches the listeners by another IP each time. That takes Linux, where all of 127.0.0.0/8 is this host.

mod member;
mod process;
mod report;
mod run;

#[allow(clippy::duplicate_mod, reason = "one source, two crates that are compared")]
mod ours;
#[allow(clippy::duplicate_mod, reason = "one source, two crates that are compared")]
mod published;

#[path = "../../workloads/heap.rs"]
#[allow(dead_code, reason = "shared with the other benches")]
mod heap;
#[path = "../../workloads/machine.rs"]
mod machine;

use std::env;

#[global_allocator]
static COUNTING: heap::Counting = heap::Counting;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match &arguments[..] {
        [] => run::run(),
        [role, library, first, second] => member::be(role, library, number(first), number(second)),
        _ => panic!("this program takes its settings from environment variables"),
    }
}

fn number(text: &str) -> usize {
    text.parse().unwrap_or_else(|_| panic!("not a number: {text:?}"))
}
