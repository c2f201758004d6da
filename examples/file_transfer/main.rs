//! File transfer: a large file in chunks, with a progress bar, which goes on where it was cut.
//!
//! Shows how receipts bound what a sender holds: it has at most 8 chunks of 64 KiB under way, reads the next one from the
//! disk only when the oldest has its receipt, and so holds 512 KiB of a file of any length; a receiver that stands still
//! makes it stand still, too. The receiver writes into a part file, and begins each connection with the place where it
//! stands. A receipt tells only that the system has the bytes: so the receiver's last word, that all has come, is answered,
//! and is said again over another connection if the answer does not come. The name of the file comes from the other side,
//! so all that could lead out of the directory is taken off it.
//!
//! ```text
//! cargo run --example file_transfer                             # both ends, and a cut in the middle
//! cargo run --example file_transfer -- send FILE [ADDRESS]      # serves it to everybody who asks, until Ctrl-C
//! cargo run --example file_transfer -- receive DIR ADDRESS      # tries again when the connection is cut
//! ```
//!
//! Without arguments you will see, with other times and figures (in a terminal there is a bar instead of the lines with the
//! percentages):
//!
//! ```text
//! large.bin, 128.0 MiB, CRC-32 2a45b238, is offered
//! 127.0.0.1:49728 asks for what lies behind 0.0 MiB
//!     25%, 121 MiB/s
//! the receiver stands still at 42.7 MiB: so does the sender, with 8 chunks under way; 6.2 MiB are in the system's buffers
//! 127.0.0.1:49728 does not get more: Broken pipe (os error 32)
//! the connection is cut: 42.7 MiB are on the receiver's disk
//! 127.0.0.1:49732 asks for what lies behind 42.7 MiB
//!     50%, 176 MiB/s
//!     75%, 257 MiB/s
//!     100%, 294 MiB/s
//! 127.0.0.1:49732 has the file, and it is the right one
//! over another connection, only the rest was sent: 85.3 MiB
//! verified: the CRC-32 is the same, and so is each byte
//! verified: the sender never had more than 8 chunks, 512 KiB, of it under way
//! 127.0.0.1:35954 asks for what lies behind 0.0 MiB
//!     100%, 0 MiB/s
//! 127.0.0.1:35954 has the file, and it is the right one
//! 127.0.0.1:35956 has the file, and it is the right one
//! verified: a receiver that cannot know whether its last word has arrived says it again
//! verified: a file by the name of "..\\../../from/.\u{1b}[31mevil:\0.bin" ends as "__31mevil__.bin"
//! ```
//!
//! The CRC-32 finds what accidents do to a file. It is no proof against somebody who changes it on purpose: for that, a
//! cryptographic hash has to come by another way than the file does (and an encrypted connection: see the examples for TLS
//! and Noise).

#[path = "../common/mod.rs"]
mod common;
mod demonstration;
mod digest;
mod receiver;
mod sender;
mod terminal;
mod wire;

use std::{
    env,
    io::{self, ErrorKind},
    net::SocketAddr,
    path::Path,
    time::Duration,
};

use receiver::{Outcome, Receiver};
use sender::{Sender, Source};
use terminal::{mib, say};
use tokio::time::sleep;

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    common::exit(match words[..] {
        [] => demonstration::run().await,
        ["send", file] => send(file, "0.0.0.0:0").await,
        ["send", file, addr] => send(file, addr).await,
        ["receive", dir, addr] => receive(dir, addr).await,
        _ => Err(io::Error::new(
            ErrorKind::InvalidInput,
            "either nothing, or send FILE [ADDRESS], or receive DIR ADDRESS",
        )),
    })
}

async fn send(file: &str, addr: &str) -> io::Result<()> {
    let sender = Sender::start(Path::new(file), None, parsed(addr)?).await?;
    let outcome = async {
        let addr = sender.listen().await?;
        let Source { name, len, crc, .. } = &*sender.source;
        println!("{name}, {}, CRC-32 {crc:08x}, is offered at {addr}; Ctrl-C ends that", mib(*len));
        common::ctrl_c().await;
        println!("\nno longer offered");
        Ok(())
    };
    let outcome = outcome.await;
    sender.node.shut_down().await;
    outcome
}

async fn receive(dir: &str, addr: &str) -> io::Result<()> {
    let addr = parsed(addr)?;
    let (receiver, mut events) = Receiver::start(Path::new(dir), u64::MAX).await?;
    let work = async {
        let mut in_vain = 0;
        loop {
            let outcome = match receiver.node.connect(addr).await {
                Ok(()) => {
                    in_vain = 0;
                    receiver::next(&mut events).await?
                }
                Err(error) => {
                    in_vain += 1;
                    Outcome::Cut(format!("{addr}: {error}"))
                }
            };
            let complete = receiver.complete();
            match (outcome, complete) {
                (Outcome::Complete(path), _) => {
                    say(format_args!("{} is complete, and its CRC-32 is right", path.display()));
                    return Ok(());
                }
                (Outcome::Failed(error), _) => return Err(error),
                (Outcome::Cut(reason), None) if in_vain < 30 => say(format_args!("{reason}; trying again in a second")),
                (Outcome::Cut(reason), None) => return Err(io::Error::other(reason)),
                (Outcome::Cut(_), Some(_)) if in_vain < 5 => {
                    say(format_args!("all is here, but the sender may not know; telling it again in a second"));
                }
                (Outcome::Cut(_), Some(path)) => {
                    let path = path.display();
                    say(format_args!("{path} is complete, and its CRC-32 is right; the sender does not know"));
                    return Ok(());
                }
            }
            sleep(Duration::from_secs(1)).await;
        }
    };
    let outcome = tokio::select! {
        outcome = work => outcome,
        () = common::ctrl_c() => {
            println!("\nthe part that is here is kept: the same command goes on from there");
            Ok(())
        }
    };
    receiver.node.shut_down().await;
    outcome
}

fn parsed(addr: &str) -> io::Result<SocketAddr> {
    addr.parse()
        .map_err(|_| io::Error::new(ErrorKind::InvalidInput, format!("{addr} is not an address like 1.2.3.4:5")))
}
