//! Does a fixed amount of work on one thread, so that an instruction counter sees the same each time: `OPERATION REPETITIONS`.
//!
//! The other end is a bare socket of this same thread, which costs next to nothing outside of the kernel. What it takes to get
//! going cancels out in the difference between two numbers of repetitions; `check.sh` takes it.

mod peer;
mod work;

use std::{env, process::exit};

use tokio::runtime::Builder;

use work::OPERATIONS;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match &arguments[..] {
        // What there is: the name, what one of it is, and two numbers of repetitions.
        [] => {
            for operation in OPERATIONS {
                let (fewer, more) = operation.repetitions;
                println!("{}\t{}\t{fewer}\t{more}", operation.name, operation.units);
            }
        }
        [name, repetitions] => {
            let operation = OPERATIONS.iter().find(|operation| operation.name == name);
            let (Some(operation), Ok(repetitions)) = (operation, repetitions.parse()) else { usage() };
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on((operation.work)(repetitions));
        }
        _ => usage(),
    }
}

fn usage() -> ! {
    eprintln!("usage: pea2pea-instructions [OPERATION REPETITIONS]");
    exit(2)
}
