//! The stream of a connection in the hands of a handshake: borrowed, taken, returned, wrapped.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpSocket, TcpStream},
};

use super::{
    super::p2p::{
        Pea2Pea,
        protocols::{Handshake, Writing},
    },
    actor::{Actor, Protocol, config},
    faults::fault,
};
use crate::shared::{
    observation::Observation,
    raw,
    timing::{eventually, patiently},
    wire::{frames, payloads},
};

/// A wrapper that makes a stream anything but a plain TCP stream.
struct Wrapped(TcpStream);

impl AsyncRead for Wrapped {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wrapped {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

async fn with_a_taken_stream(wrap: bool) -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .handshake(move |actor, mut conn| async move {
            let mut stream = actor.take_stream(&mut conn);
            stream.write_all(b"hi").await?;
            stream.read_u8().await?;
            if wrap {
                actor.return_stream(&mut conn, Wrapped(stream));
            } else {
                actor.return_stream(&mut conn, stream);
            }
            Ok(conn)
        })
        .enabling([Protocol::Handshake, Protocol::Reading, Protocol::Writing, Protocol::OnDisconnect])
        .await;
    let addr = actor.listen().await;
    let mut peer = raw::dial(addr).await;
    peer.write_all(&[1]).await.unwrap();
    seen.note("greeting", raw::read_exactly(&mut peer, 2).await);
    peer.write_all(&frames(["one", "two"])).await.unwrap();
    actor.log.wait_for("got", 2).await;
    let receipt = actor.unicast(actor.only_peer(), "three".into()).unwrap();
    seen.note("receipt", receipt.await.unwrap().is_ok());
    seen.note("the peer got", payloads(&raw::read_exactly(&mut peer, 9).await));
    drop(peer);
    actor.log.wait_for("on_disconnect", 1).await;
    seen.note("log", actor.log.events());
    seen
}

pub(crate) async fn a_taken_stream_can_be_returned() -> Observation {
    with_a_taken_stream(false).await
}

pub(crate) async fn a_wrapped_stream_can_be_returned() -> Observation {
    with_a_taken_stream(true).await
}

async fn keep_the_stream(protocols: &[Protocol]) -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .handshake(|actor, mut conn| async move {
            drop(actor.take_stream(&mut conn));
            Ok(conn)
        })
        .enabling(protocols.iter().copied().chain([Protocol::Handshake]))
        .await;
    let (_listener, addr) = raw::listener().await;
    let result = patiently("a dial", actor.node().connect(addr)).await;
    seen.note("connect", fault(&result));
    seen.note("counts", (actor.node().num_connected(), actor.node().num_connecting()));
    seen
}

pub(crate) async fn reading_needs_the_taken_stream_back() -> Observation {
    keep_the_stream(&[Protocol::Reading]).await
}

pub(crate) async fn writing_needs_the_taken_stream_back() -> Observation {
    keep_the_stream(&[Protocol::Writing]).await
}

pub(crate) async fn without_reading_and_writing_the_stream_may_be_kept() -> Observation {
    keep_the_stream(&[]).await
}

async fn misuse_a_taken_stream(borrow: bool) -> Observation {
    let mut seen = Observation::new();
    let actor: Actor = Actor::build(config())
        .handshake(move |actor, mut conn| async move {
            let _taken = actor.take_stream(&mut conn);
            if borrow {
                actor.borrow_stream(&mut conn);
            } else {
                drop(actor.take_stream(&mut conn));
            }
            actor.log.add("went on");
            Ok(conn)
        })
        .enabling([Protocol::Handshake])
        .await;
    let addr = actor.listen().await;
    let mut peer = raw::dial(addr).await;
    seen.note("closed", raw::is_ended(&mut peer).await);
    eventually("the slot is free", || actor.node().num_connecting() == 0).await;
    seen.note("counts", (actor.node().num_connected(), actor.log.events()));
    seen.note("still listening", actor.node().listening_addr().await.is_ok());
    seen
}

pub(crate) async fn borrowing_a_taken_stream_panics() -> Observation {
    misuse_a_taken_stream(true).await
}

pub(crate) async fn taking_a_stream_twice_panics() -> Observation {
    misuse_a_taken_stream(false).await
}

pub(crate) async fn a_handshake_finds_default_socket_options() -> Observation {
    let mut seen = Observation::new();
    let make = || {
        Actor::build(config()).handshake(|actor: Actor, mut conn| async move {
            let stream = actor.borrow_stream(&mut conn);
            actor.log.add(format!("nodelay {:?}, ttl {:?}", stream.nodelay()?, stream.ttl()?));
            Ok(conn)
        })
    };
    let (dialler, listener) =
        (make().enabling([Protocol::Handshake]).await, make().enabling([Protocol::Handshake]).await);
    let addr = listener.listen().await;
    dialler.node().connect(addr).await.unwrap();
    listener.log.wait_for("nodelay", 1).await;
    seen.note("dialled", dialler.log.events());
    seen.note("accepted", listener.log.events());
    let socket = TcpSocket::new_v4().unwrap();
    dialler.node().disconnect(addr).await;
    dialler.node().connect_using_socket(addr, socket).await.unwrap();
    seen.note("dialled with a socket", dialler.log.events());
    seen
}
