//! Both ends in one process, a cut in the middle and one at the end, and a name that is none.

use std::{
    env,
    fs::{self, File},
    io::{self, ErrorKind, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use tokio::{
    net::TcpSocket,
    task::block_in_place,
    time::{sleep, timeout},
};

use crate::{
    common,
    digest::{crc32, read_chunk},
    receiver::{Outcome, Receiver, next, safe_name},
    sender::{Sender, WINDOW},
    terminal::mib,
    wire::CHUNK,
};

/// Both ends in one process, in a directory for the time being.
pub(crate) async fn run() -> io::Result<()> {
    let dir = env::temp_dir().join(format!("file_transfer-{}", std::process::id()));
    let [from, to] = ["from", "to"].map(|end| dir.join(end));
    for dir in [&from, &to] {
        fs::create_dir_all(dir)?;
    }
    let outcome = tokio::select! {
        outcome = story(&from, &to) => outcome,
        () = common::ctrl_c() => Err(io::Error::other("interrupted")),
    };
    fs::remove_dir_all(&dir)?;
    outcome
}

async fn story(from: &Path, to: &Path) -> io::Result<()> {
    require(crc32(0, b"123456789") == 0xCBF4_3926, "the CRC-32 is the one that everybody else computes")?;
    let len = if common::is_short() { 40 } else { 128 } << 20;
    let original = from.join("large.bin");
    block_in_place(|| write_noise(&original, len))?;

    let sender = Sender::start(&original, None, LOOPBACK).await?;
    // This receiver stands still after the first third.
    let (receiver, mut events) = Receiver::start(to, len / 3).await?;
    let outcome = async {
        let addr = sender.listen().await?;
        println!("large.bin, {}, CRC-32 {:08x}, is offered", mib(len), sender.source.crc);
        // Little room in the system's buffers, so that the sender soon feels that the receiver stands still.
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(1 << 20)?;
        receiver.node.connect_using_socket(addr, socket).await?;
        let ahead = until_it_stands_still(&sender, || receiver.have(), len / 3).await?;
        println!(
            "the receiver stands still at {}: so does the sender, with {WINDOW} chunks under way; {} are in the system's buffers",
            mib(receiver.have()),
            mib(ahead)
        );

        receiver.node.disconnect(addr).await;
        let stands_at = receiver.have();
        require(matches!(next(&mut events).await?, Outcome::Cut(_)), "the connection was cut")?;
        println!("the connection is cut: {} are on the receiver's disk", mib(stands_at));
        require(0 < stands_at && stands_at < len, "a part is on the disk")?;

        // The end of a connection ends the sending, too.
        in_time(until(|| sender.serving.lock().is_empty())).await?;
        let sent_before = sender.flow.sent.load(Relaxed);
        receiver.gate.send_replace(u64::MAX);
        receiver.node.connect(addr).await?;
        let path = match in_time(next(&mut events)).await? {
            Outcome::Complete(path) => path,
            Outcome::Failed(error) => return Err(error),
            Outcome::Cut(reason) => return Err(io::Error::other(reason)),
        };
        let resent = sender.flow.sent.load(Relaxed) - sent_before;
        require(resent == len - stands_at, "only what was missing is sent")?;
        println!("over another connection, only the rest was sent: {}", mib(resent));
        require(path == to.join("large.bin"), "it has its name")?;
        require(block_in_place(|| same_bytes(&original, &path))?, "both files hold the same bytes")?;
        println!("verified: the CRC-32 is the same, and so is each byte");
        let most = sender.flow.most.load(Relaxed);
        require(most == WINDOW, "the window is used, and kept")?;
        println!(
            "verified: the sender never had more than {most} chunks, {} KiB, of it under way",
            most * CHUNK / 1024
        );
        Ok(())
    };
    let outcome = outcome.await;
    receiver.node.shut_down().await;
    sender.node.shut_down().await;
    outcome?;
    offer_an_evil_name(from, to).await
}

/// A sender that would like its file to be somewhere else than in the receiver's directory.
async fn offer_an_evil_name(from: &Path, to: &Path) -> io::Result<()> {
    for name in ["", ".", "..", "/", "\\", "a/..", " . "] {
        require(safe_name(name).is_none(), &format!("{name:?} names no file"))?;
    }
    let file = from.join("small.bin");
    fs::write(&file, b"small")?;
    let sender = Sender::start(&file, Some("..\\../../from/.\u{1b}[31mevil:\0.bin"), LOOPBACK).await?;
    // This receiver stands still before it reads the answer to its last word.
    let (receiver, mut events) = Receiver::start(to, sender.source.len).await?;
    let outcome = async {
        let addr = sender.listen().await?;
        receiver.node.connect(addr).await?;
        in_time(until(|| receiver.complete().is_some())).await?;
        receiver.node.disconnect(addr).await;
        let cut = in_time(next(&mut events)).await?;
        require(matches!(cut, Outcome::Cut(_)), "without the answer, the receiver takes it for a cut")?;

        receiver.gate.send_replace(u64::MAX);
        receiver.node.connect(addr).await?;
        in_time(next(&mut events)).await
    };
    let outcome = outcome.await;
    receiver.node.shut_down().await;
    sender.node.shut_down().await;
    let path = match outcome? {
        Outcome::Complete(path) => path,
        Outcome::Failed(error) => return Err(error),
        Outcome::Cut(reason) => return Err(io::Error::other(reason)),
    };
    println!("verified: a receiver that cannot know whether its last word has arrived says it again");
    require(path.parent() == Some(to), "it is where the receiver wanted it")?;
    println!(
        "verified: a file by the name of {:?} ends as {:?}",
        sender.source.name,
        path.file_name().unwrap_or_default()
    );
    Ok(())
}

/// Until the receiver stands still, and the sender therefore, too: its window is full, and nothing moves. Returns how far
/// it is ahead.
async fn until_it_stands_still(sender: &Sender, have: impl Fn() -> u64, stops_at: u64) -> io::Result<u64> {
    let still = async {
        let mut before = (u64::MAX, Instant::now());
        loop {
            let (have, sent) = (have(), sender.flow.sent.load(Relaxed));
            let full = sender.flow.under_way.load(Relaxed) == WINDOW;
            if have < stops_at || sent <= have || sent != before.0 || !full {
                before = (sent, Instant::now());
            } else if before.1.elapsed() > Duration::from_millis(300) {
                return sent - have;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, still).await.map_err(|_| io::Error::other("nothing makes the sender stand still"))
}

async fn until(is_so: impl Fn() -> bool) -> io::Result<()> {
    while !is_so() {
        sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// A file in which no two pieces are alike.
fn write_noise(path: &Path, len: u64) -> io::Result<()> {
    let mut file = io::BufWriter::new(File::create(path)?);
    let mut state = 1u64;
    for _ in 0..len / 8 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        file.write_all(&state.to_be_bytes())?;
    }
    file.flush()
}

fn same_bytes(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    loop {
        let (piece, other_piece) = (read_chunk(&mut one)?, read_chunk(&mut other)?);
        if piece != other_piece || piece.is_empty() {
            return Ok(piece == other_piece);
        }
    }
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(PATIENCE, work).await.map_err(|_| io::Error::new(ErrorKind::TimedOut, "nothing happens any more"))?
}

fn require(holds: bool, claim: &str) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::Error::other(format!("this does not hold: {claim}"))) }
}

const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// How long anything may take in the demonstration.
const PATIENCE: Duration = Duration::from_secs(20);
