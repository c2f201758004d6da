//! Raw sockets that do not behave: they dial nodes, or let nodes dial them.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};
use tokio_util::bytes::BytesMut;

use crate::{
    actions::judge_dial,
    common::wire::Random,
    frames::{GREETING_SIZE, Header, Outgoing, Sequence, Speaker, Wish},
    peer::Peer,
    tally::Event,
    world::{World, loopback},
};

/// The bound of each step of a stranger: whatever a node does, it is not waited for.
const STEP_TIME: Duration = Duration::from_millis(200);

/// How long the answers to all requests are waited for.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// The most sockets that a worker keeps open in silence.
pub const MAX_KEPT: usize = 4;

/// The sockets that a worker keeps open without using them.
#[derive(Default)]
pub struct Kept(VecDeque<TcpStream>);

impl Kept {
    fn keep(&mut self, stream: TcpStream) {
        self.0.push_back(stream);
        if self.0.len() > MAX_KEPT {
            self.0.pop_front();
        }
    }
}

/// Dials a node and misbehaves.
pub async fn dial(world: &World, addr: SocketAddr, dice: &mut Random, kept: &mut Kept) {
    world.count(Event::StrangerDialled);
    let wants_flood = dice.below(12) == 0;
    let Ok(Ok(stream)) = timeout(STEP_TIME, dialled(addr, wants_flood, dice)).await else { return };
    misbehave(world, stream, wants_flood, dice, kept).await;
}

async fn dialled(addr: SocketAddr, wants_flood: bool, dice: &mut Random) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if wants_flood {
        socket.set_recv_buffer_size(4_096)?;
    }
    socket.bind(SocketAddr::new(loopback(dice.below(4)), 0))?;
    socket.connect(addr).await
}

/// Lets a node dial a socket that misbehaves.
pub async fn listen(peer: &Peer, dice: &mut Random, kept: &mut Kept) {
    let world = Arc::clone(&peer.world);
    let Ok(listener) = TcpListener::bind(SocketAddr::new(loopback(dice.below(4)), 0)).await else { return };
    let Ok(addr) = listener.local_addr() else { return };
    world.count(Event::StrangerAccepted);
    let accepts = dice.below(8) > 0;
    let answer = async {
        // Also a node that never dials, because of its limits, is not waited for.
        if let (true, Ok(Ok((stream, _)))) = (accepts, timeout(STEP_TIME, listener.accept()).await) {
            misbehave(&world, stream, false, dice, kept).await;
        }
    };
    let (result, ()) = tokio::join!(peer.dial(addr, None), answer);
    judge_dial(peer, result);
}

/// Opens connections from one address, and ends them when they are all open; tells how many were greeted.
pub async fn fill(addr: SocketAddr, ip: IpAddr, count: usize) -> usize {
    let greeted = async || {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(ip, 0))?;
        let mut stream = socket.connect(addr).await?;
        _ = greet(&mut stream, Speaker::stranger(false)).await?;
        io::Result::Ok(stream)
    };
    let mut streams = Vec::new();
    while streams.len() < count {
        let Ok(Ok(stream)) = timeout(Duration::from_secs(10), greeted()).await else { break };
        streams.push(stream);
    }
    streams.len()
}

async fn misbehave(world: &World, mut stream: TcpStream, wants_flood: bool, dice: &mut Random, kept: &mut Kept) {
    let speaks = wants_flood || dice.below(3) > 0;
    let is_greeted = if speaks {
        let greeted = timeout(STEP_TIME, greet(&mut stream, Speaker::stranger(wants_flood))).await;
        matches!(greeted, Ok(Ok(_)))
    } else {
        false
    };
    if is_greeted {
        world.count(Event::StrangerSpoke);
    }
    if wants_flood && is_greeted {
        world.count(Event::StrangerFlooded);
        return kept.keep(stream);
    }
    let bytes = nonsense(world, is_greeted, dice);
    if !bytes.is_empty() && !matches!(timeout(STEP_TIME, stream.write_all(&bytes)).await, Ok(Ok(()))) {
        return;
    }
    match dice.below(5) {
        0 => {
            world.count(Event::StrangerKept);
            kept.keep(stream);
        }
        1 | 2 => {
            world.count(Event::StrangerReset);
            _ = stream.set_zero_linger();
        }
        3 => {
            world.count(Event::StrangerHalfClosed);
            _ = stream.shutdown().await;
            let mut received = [0; 512];
            let to_the_end = async { while matches!(stream.read(&mut received).await, Ok(1..)) {} };
            _ = timeout(STEP_TIME, to_the_end).await;
        }
        _ => {}
    }
}

async fn greet(stream: &mut TcpStream, own: Speaker) -> io::Result<Speaker> {
    stream.write_all(&own.greeting()).await?;
    let mut greeting = [0; GREETING_SIZE];
    stream.read_exact(&mut greeting).await?;
    Speaker::from_greeting(&greeting).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Dials a node, sends many requests in one write, and reads the answers.
pub async fn pipeline(world: &World, addr: SocketAddr, dice: &mut Random) {
    let Ok(Ok(mut stream)) = timeout(STEP_TIME, dialled(addr, false, dice)).await else { return };
    let Ok(Ok(node)) = timeout(STEP_TIME, greet(&mut stream, Speaker::stranger(false))).await else { return };
    world.count(Event::StrangerPipelined);
    let most = 1 << (4 + dice.below(6));
    let count = 1 + dice.below(most) as u32;
    let mut requests = BytesMut::new();
    for number in 0..count {
        let request = Outgoing { wish: Wish::Reply(1), ..Outgoing::new(0, number + 1, number, 8) };
        request.write(Speaker::stranger(false), number, &mut requests);
    }
    let (mut from_node, mut to_node) = stream.split();
    let answers = async {
        let (mut bytes, mut sequence, mut answered) = (BytesMut::new(), Sequence::new(node), 0);
        while answered < count && from_node.read_buf(&mut bytes).await? > 0 {
            while let Some(size) = Header::size(&bytes).map_err(io::Error::other)? {
                let header = sequence.check(&bytes.split_to(size)).map_err(io::Error::other)?;
                answered += u32::from(header.is_reply());
            }
        }
        io::Result::Ok(answered)
    };
    match timeout(ANSWER_TIME, async { tokio::join!(to_node.write_all(&requests), answers) }).await {
        Ok((_, Ok(answered))) if answered == count => world.count(Event::StrangerAnswered),
        Ok((_, Err(error))) if error.kind() == io::ErrorKind::Other => {
            world.fault(format!("a raw socket got from {node:?} {error}"));
        }
        // The connection may have ended, and a message may never be done with.
        _ => {}
    }
}

/// Dials a node, asks for answers, says a last word, and closes without reading.
pub async fn close_on_answers(world: &World, addr: SocketAddr, dice: &mut Random) {
    let Ok(Ok(mut stream)) = timeout(STEP_TIME, dialled(addr, false, dice)).await else { return };
    let Ok(Ok(node)) = timeout(STEP_TIME, greet(&mut stream, Speaker::stranger(false))).await else { return };
    // So few that the node's receive buffer holds them.
    let last = dice.below(60) as u32;
    let mut bytes = BytesMut::new();
    for number in 0..=last {
        let wish = if number == last { Wish::LastWord } else { Wish::Reply(1) };
        let message = Outgoing { wish, ..Outgoing::new(0, number + 1, number, 8) };
        message.write(Speaker::stranger(false), number, &mut bytes);
    }
    let word = world.words.register_stranger(node, 0, last + 1);
    let is_written = matches!(timeout(STEP_TIME, stream.write_all(&bytes)).await, Ok(Ok(())));
    drop(stream);
    world.words.conclude_stranger(world, node, &word, is_written);
}

/// What a stranger says: nothing, garbage, good messages, a good beginning.
fn nonsense(world: &World, is_greeted: bool, dice: &mut Random) -> BytesMut {
    let mut bytes = BytesMut::new();
    let choice = dice.below(6);
    match choice {
        0 => {}
        1 => bytes.extend((0..dice.below(200)).map(|_| dice.next() as u8)),
        // A length, and nothing more than that.
        2 => bytes.extend_from_slice(&(dice.next() as u32).to_be_bytes()),
        _ if is_greeted => {
            for number in 0..1 + dice.below(20) as u32 {
                let message = Outgoing::new(0, number + 1, number, dice.below(300));
                message.write(Speaker::stranger(false), number, &mut bytes);
            }
            if choice == 3 {
                bytes.truncate(bytes.len() - 1 - dice.below(30));
            }
        }
        _ => bytes.extend_from_slice(&Speaker::stranger(false).greeting()[..dice.below(GREETING_SIZE)]),
    }
    if matches!(choice, 1..=3) {
        world.count(Event::StrangerLied);
    }
    bytes
}
