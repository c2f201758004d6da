//! One of the processes: it obeys the lines that come in, answers each with a line, and ends with its input.

use std::{
    future::Future,
    io::{self, BufRead},
    net::{Ipv4Addr, SocketAddr},
    process::exit,
};

use tokio::{
    net::TcpSocket,
    runtime::{Builder, Runtime},
};
use tokio_util::bytes::Bytes;

use crate::{heap, ours, published};

/// What a process is there for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Role {
    /// Accepts, and answers every message with the same.
    Listens,
    /// Dials.
    Dials,
}

/// A node of either crate.
pub trait Member: Clone + Send + Sync + 'static {
    fn new(role: Role, port: u16) -> impl Future<Output = Self> + Send;
    fn listen(&self) -> impl Future<Output = u16> + Send;
    fn connect(&self, to: SocketAddr, socket: TcpSocket) -> impl Future<Output = io::Result<()>> + Send;
    fn connected_addrs(&self) -> Vec<SocketAddr>;
    fn num_connected(&self) -> usize;
    fn num_received(&self) -> usize;
    fn send(&self, to: SocketAddr, message: Bytes);
}

/// Is a member: `listens CRATE PORT _`, or `dials CRATE PORT INDEX`, where the index is that of the process.
pub fn be(role: &str, library: &str, port: usize, index: usize) -> ! {
    let role = match role {
        "listens" => Role::Listens,
        "dials" => Role::Dials,
        _ => panic!("no such role: {role}"),
    };
    let port = u16::try_from(port).expect("a port");
    match library {
        "ours" => obey::<ours::peer::Peer>(role, port, index),
        "0.57.4" => obey::<published::peer::Peer>(role, port, index),
        _ => panic!("no such crate: {library}"),
    }
}

fn obey<M: Member>(role: Role, port: u16, index: usize) -> ! {
    heap::start_counting();
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let member = runtime.block_on(M::new(role, port));
    for line in io::stdin().lock().lines() {
        let line = line.expect("whoever started this process");
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match &words[..] {
            ["listen"] => runtime.block_on(member.listen()).to_string(),
            ["connect", connections] => {
                let connections = connections.parse().expect("a number");
                runtime.spawn(connect_all(member.clone(), port, index, connections));
                String::new()
            }
            ["talk"] => {
                let member = member.clone();
                runtime.spawn(async move {
                    member.connected_addrs().into_iter().for_each(|addr| member.send(addr, MESSAGE));
                });
                String::new()
            }
            ["state"] => format!("{} {}", member.num_connected(), member.num_received()),
            ["measure"] => measure(&runtime),
            _ => panic!("no such order: {line}"),
        };
        println!("{answer}");
    }
    // Nobody needs a graceful end of so many connections.
    exit(0)
}

/// Connects one after another, from an IP that no other process has, each time from another port and to another IP.
async fn connect_all(member: impl Member, port: u16, index: usize, connections: usize) {
    let own = Ipv4Addr::new(127, 1, u8::try_from(index).expect("fewer processes"), 1);
    for which in 0..u16::try_from(connections).expect("fewer connections") {
        let socket = TcpSocket::new_v4().expect("a file descriptor");
        socket.set_reuseaddr(true).expect("a socket that takes options");
        socket.bind((own, FIRST_PORT + which).into()).expect("a free port");
        let [high, low] = which.to_be_bytes();
        let to = SocketAddr::from(([127, 2, high, low], port));
        if let Err(error) = member.connect(to, socket).await {
            eprintln!("{to}: {error}");
            exit(1);
        }
    }
}

fn measure(runtime: &Runtime) -> String {
    let heap = runtime.block_on(heap::settled());
    format!("{heap} {}", heap::resident().expect("Linux"))
}

/// Goes there and back once over every connection.
const MESSAGE: Bytes = Bytes::from_static(&[7; 1 << 10]);

/// Below the ports that the kernel gives out by itself.
const FIRST_PORT: u16 = 20_000;
