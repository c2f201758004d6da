//! Streams that a handshake puts in the place of the TCP one: both directions, the flush of each batch, the farewell.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use pea2pea::{
    Connection, Pea2Pea,
    protocols::{Handshake, Writing},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::Instant,
};
use tokio_util::bytes::Bytes;

use crate::{
    common::{
        Events,
        actor::{Actor, Script, Unhurried, silent},
        in_time,
        setups::raw_peer,
        wait_until,
        wire::{frame, read_to_eof},
    },
    hook, ledger,
};

const VEIL: u8 = 0x5a;

/// What a veiled stream sends last when it is shut down.
const GOODBYE: &[u8] = b"goodbye";

/// A stream that veils what it carries, and sends nothing before it is flushed.
struct Veiled {
    stream: TcpStream,
    unflushed: Vec<u8>,
    is_shut: bool,
    /// Whether a shutdown hangs.
    hangs: bool,
}

impl Veiled {
    fn new(stream: TcpStream) -> Self {
        Self { stream, unflushed: Vec::new(), is_shut: false, hangs: false }
    }

    fn veil(bytes: &[u8]) -> Vec<u8> {
        bytes.iter().map(|byte| byte ^ VEIL).collect()
    }
}

impl AsyncRead for Veiled {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        buf.filled_mut()[before..].iter_mut().for_each(|byte| *byte ^= VEIL);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Veiled {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.unflushed.len() >= 1_000 {
            ready!(self.as_mut().poll_flush(cx))?;
        }
        // Takes as little as it likes.
        let taken = &buf[..buf.len().min(100)];
        self.unflushed.extend(Self::veil(taken));
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, unflushed, .. } = self.get_mut();
        while !unflushed.is_empty() {
            let written = ready!(Pin::new(&mut *stream).poll_write(cx, unflushed))?;
            unflushed.drain(..written);
        }
        Pin::new(stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.hangs {
            return Poll::Pending;
        }
        if !self.is_shut {
            self.is_shut = true;
            self.unflushed.extend(Self::veil(GOODBYE));
        }
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

fn veil(actor: &Actor, conn: &mut Connection, hangs: bool) {
    let stream = actor.take_stream(conn);
    actor.return_stream(conn, Veiled { hangs, ..Veiled::new(stream) });
}

/// A script that veils each connection and notes the messages.
fn veiling(received: &Events<Vec<u8>>) -> Script<Unhurried> {
    let received = received.clone();
    Script {
        handshake: hook!(|actor, mut conn| async move {
            // What was sent in the clear stays in the clear.
            actor.borrow_stream(&mut conn).write_u8(1).await?;
            actor.borrow_stream(&mut conn).read_u8().await?;
            veil(&actor, &mut conn, false);
            Ok(conn)
        }),
        process: hook!(|_actor, _source, message| {
            received.push(message.to_vec());
            async {}
        }),
        writes: true,
        ..Default::default()
    }
}

#[tokio::test(crate = "ledger")]
async fn messages_cross_a_wrapped_stream_in_both_directions() {
    let (at_acceptor, at_dialler) = (Events::default(), Events::default());
    let (acceptor, addr) = Actor::listening(veiling(&at_acceptor)).await;
    let dialler = Actor::dialling(veiling(&at_dialler)).await;
    in_time("connect", dialler.node().connect(addr)).await.unwrap();
    let back = acceptor.only_peer().await;
    let sizes = [0, 1, 99, 100, 101, 10_000, 300_000];
    let messages: Vec<_> = sizes.iter().map(|&size| Bytes::from(vec![size as u8; size])).collect();
    for message in &messages {
        acceptor.unicast_fast(back, message.clone()).unwrap();
        dialler.unicast_fast(addr, message.clone()).unwrap();
    }
    wait_until("all arrive", || at_acceptor.len() + at_dialler.len() == 2 * messages.len()).await;
    assert!(at_acceptor.all() == messages && at_dialler.all() == messages);
}

/// An actor with one veiled connection to a raw peer.
async fn veiled_pair(hangs: bool, reads: bool, writes: bool) -> (Actor, std::net::SocketAddr, TcpStream) {
    let (listener, addr) = raw_peer().await;
    let actor = Actor::<Unhurried>::dialling(Script {
        handshake: hook!(|actor, mut conn| async move {
            veil(&actor, &mut conn, hangs);
            Ok(conn)
        }),
        process: if reads { silent() } else { None },
        writes,
        ..Default::default()
    })
    .await;
    let (connected, accepted) = tokio::join!(actor.node().connect(addr), listener.accept());
    connected.unwrap();
    (actor, addr, accepted.unwrap().0)
}

#[tokio::test(crate = "ledger")]
async fn each_batch_on_a_wrapped_stream_is_flushed() {
    let (actor, addr, mut peer) = veiled_pair(false, true, true).await;
    for message in [&b"one"[..], b"two", b"three"] {
        let receipt = actor.unicast(addr, Bytes::from_static(message)).unwrap();
        in_time("receipt", receipt).await.unwrap().unwrap();
        let mut arrived = vec![0; frame(message).len()];
        in_time("the message", peer.read_exact(&mut arrived)).await.unwrap();
        assert_eq!(arrived, Veiled::veil(&frame(message)));
    }
    // A message that needs many partial writes, and a flush only at the end of the batch.
    actor.unicast_fast(addr, Bytes::from(vec![7; 2_345])).unwrap();
    let mut arrived = vec![0; 2_349];
    in_time("the message", peer.read_exact(&mut arrived)).await.unwrap();
    assert_eq!(arrived, Veiled::veil(&frame(&[7; 2_345])));
}

#[tokio::test(crate = "ledger")]
async fn a_graceful_end_flushes_a_wrapped_stream_and_shuts_it_down() {
    for (is_shutdown, reads, writes) in
        [(false, true, true), (true, true, true), (false, false, true), (false, true, false), (true, false, false)]
    {
        let (actor, addr, mut peer) = veiled_pair(false, reads, writes).await;
        let mut expected = Vec::new();
        if writes {
            actor.unicast_fast(addr, Bytes::from_static(b"last words")).unwrap();
            expected.extend(frame(b"last words"));
        }
        if is_shutdown {
            in_time("shut_down", actor.node().shut_down()).await;
        } else {
            assert!(in_time("disconnect", actor.node().disconnect(addr)).await);
        }
        expected.extend(GOODBYE);
        let case = format!("shutdown: {is_shutdown}, reads: {reads}, writes: {writes}");
        assert_eq!(Veiled::veil(&read_to_eof(&mut peer).await), expected, "{case}");
    }
}

#[tokio::test(crate = "ledger")]
async fn a_wrapped_stream_whose_shutdown_hangs_ends_with_the_flush_bound() {
    for is_shutdown in [false, true] {
        for (reads, writes) in [(false, false), (true, true), (true, false)] {
            let (actor, addr, mut peer) = veiled_pair(true, reads, writes).await;
            tokio::time::pause();
            let begin = Instant::now();
            if is_shutdown {
                actor.node().shut_down().await;
            } else {
                assert!(actor.node().disconnect(addr).await);
            }
            // One second for the flush, at most one more for the tasks to be dropped.
            assert!(begin.elapsed() <= Duration::from_millis(2_010), "{:?}", begin.elapsed());
            assert_eq!(actor.node().num_connected(), 0);
            assert!(read_to_eof(&mut peer).await.is_empty());
            tokio::time::resume();
        }
    }
}

#[tokio::test(crate = "ledger")]
async fn the_end_of_a_wrapped_stream_ends_the_connection() {
    let (actor, addr, mut peer) = veiled_pair(false, true, true).await;
    peer.write_all(&Veiled::veil(&frame(b"x"))).await.unwrap();
    peer.shutdown().await.unwrap();
    wait_until("the end", || !actor.node().is_connected(addr)).await;
    assert_eq!(actor.received(), 1);
}
