//! Handshakes: what they may do with the connection and its stream, and what they may not break.

use std::{
    error::Error,
    fmt, io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, future::join};
use pea2pea::{
    Connection, ConnectionSide, Pea2Pea,
    protocols::{Handshake, Writing},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep},
};
use tokio_util::bytes::Bytes;

use crate::{
    common::{
        Events,
        actor::{Actor, Script, Tuning, Unhurried, silent},
        in_time, poll_times,
        setups::{assert_vacant, end_of, raw_peer, settled},
        wait_until,
        wire::read_to_eof,
    },
    hook, ledger,
};

/// Proves that the node still takes and makes connections.
async fn unharmed<T: Tuning>(actor: &Actor<T>) {
    settled(actor.node(), 0).await;
    let (other, addr) = Actor::<Unhurried>::listening(Script::default()).await;
    in_time("a dial of ours", other.node().connect(actor.node().listening_addr().await.unwrap())).await.unwrap();
    settled(actor.node(), 1).await;
    in_time("a dial of theirs", actor.node().connect(addr)).await.unwrap();
    in_time("shut_down", other.node().shut_down()).await;
}

// --- metadata ---

/// A handshake in which both sides tell a name, the dialling side first.
fn introduction(name: u8, names: &Events<u8>) -> Script<Unhurried> {
    let names = names.clone();
    Script {
        handshake: hook!(|actor, mut conn| {
            let names = names.clone();
            async move {
                let we_accepted = conn.side() == ConnectionSide::Initiator;
                assert!(actor.node().is_connecting(conn.addr()));
                let stream = actor.borrow_stream(&mut conn);
                assert_eq!(stream.peer_addr()?, conn.addr());
                let stream = actor.borrow_stream(&mut conn);
                if we_accepted {
                    names.push(stream.read_u8().await?);
                    stream.write_u8(name).await?;
                } else {
                    stream.write_u8(name).await?;
                    names.push(stream.read_u8().await?);
                }
                conn.stats().register_sent_messages(1, 1);
                Ok(conn)
            }
        }),
        process: silent(),
        writes: true,
        ..Default::default()
    }
}

#[tokio::test(crate = "ledger")]
async fn both_sides_exchange_metadata_before_the_connection_is_live() {
    let (accepted, dialled) = (Events::default(), Events::default());
    let (acceptor, addr) = Actor::listening(introduction(7, &accepted)).await;
    let dialler = Actor::dialling(introduction(8, &dialled)).await;
    in_time("connect", dialler.node().connect(addr)).await.unwrap();
    assert_eq!(dialled.all(), [7]);
    let back = acceptor.only_peer().await;
    assert_eq!(accepted.all(), [8]);
    // What the handshake counted stays with the connection; the node's own counters do not know it.
    assert_eq!(dialler.node().connection_info(addr).unwrap().stats().sent(), (1, 1));
    assert_eq!(dialler.node().stats().sent(), (0, 0));
    acceptor.unicast_fast(back, Bytes::new()).unwrap();
    dialler.unicast_fast(addr, Bytes::new()).unwrap();
    wait_until("messages after the handshake", || dialler.received() + acceptor.received() == 2).await;
}

// --- the stream ---

#[tokio::test(crate = "ledger")]
async fn a_taken_tcp_stream_may_be_returned() {
    let script = || Script::<Unhurried> {
        handshake: hook!(|actor, mut conn| async move {
            let mut stream = actor.take_stream(&mut conn);
            stream.write_u8(1).await?;
            stream.read_u8().await?;
            actor.return_stream(&mut conn, stream);
            // It is the plain stream again.
            actor.borrow_stream(&mut conn).peer_addr()?;
            Ok(conn)
        }),
        process: silent(),
        writes: true,
        ..Default::default()
    };
    let (acceptor, addr) = Actor::listening(script()).await;
    let dialler = Actor::dialling(script()).await;
    in_time("connect", dialler.node().connect(addr)).await.unwrap();
    acceptor.unicast_fast(acceptor.only_peer().await, Bytes::new()).unwrap();
    dialler.unicast_fast(addr, Bytes::new()).unwrap();
    wait_until("messages after the handshake", || dialler.received() + acceptor.received() == 2).await;
}

/// A script whose handshake keeps the stream to itself.
fn taking(reads: bool, writes: bool) -> Script<Unhurried> {
    Script {
        handshake: hook!(|actor, mut conn| async move {
            drop(actor.take_stream(&mut conn));
            Ok(conn)
        }),
        process: if reads { silent() } else { None },
        writes,
        on_connect: silent(),
        on_disconnect: silent(),
        ..Default::default()
    }
}

#[tokio::test(crate = "ledger")]
async fn a_stream_that_is_not_returned_fails_the_setup_if_reading_or_writing_needs_it() {
    for (reads, writes) in [(true, false), (false, true), (true, true)] {
        let (actor, addr) = Actor::listening(taking(reads, writes)).await;
        let (_peer, peer_addr) = raw_peer().await;
        let error = in_time("connect", actor.node().connect(peer_addr)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Other);
        assert!(error.to_string().contains("return_stream"), "{error}");
        end_of(&mut TcpStream::connect(addr).await.unwrap()).await;
        settled(actor.node(), 0).await;
        assert_eq!((actor.begun_on_connect(), actor.begun_on_disconnect()), (0, 0));
    }
}

#[tokio::test(crate = "ledger")]
async fn a_stream_that_is_not_returned_is_fine_without_reading_and_writing() {
    let (actor, addr) = Actor::listening(taking(false, false)).await;
    let (_peer, peer_addr) = raw_peer().await;
    in_time("connect", actor.node().connect(peer_addr)).await.unwrap();
    let _accepted = TcpStream::connect(addr).await.unwrap();
    settled(actor.node(), 2).await;
    in_time("shut_down", actor.node().shut_down()).await;
    assert_eq!((actor.begun_on_connect(), actor.begun_on_disconnect()), (2, 2));
}

#[tokio::test(crate = "ledger")]
async fn returning_another_connection_fails_the_setup() {
    let stash = Arc::new(Mutex::new(None));
    let (actor, _addr) = Actor::<Unhurried>::listening(Script {
        handshake: {
            let stash = Arc::clone(&stash);
            hook!(|_actor, conn| {
                let other: Option<Connection> = stash.lock().unwrap().replace(conn);
                async move { other.ok_or_else(|| io::Error::from(io::ErrorKind::Interrupted)) }
            })
        },
        on_connect: silent(),
        ..Default::default()
    })
    .await;
    let ((_first, first), (_second, second)) = (raw_peer().await, raw_peer().await);
    let error = in_time("connect", actor.node().connect(first)).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Interrupted);
    for addr in [second, first] {
        let error = in_time("connect", actor.node().connect(addr)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Other, "{error}");
        assert!(error.to_string().contains("another Connection"), "{error}");
    }
    assert_vacant(actor.node());
    assert_eq!(actor.begun_on_connect(), 0);
}

#[tokio::test(crate = "ledger")]
async fn asking_for_a_stream_that_is_not_there_panics_and_ends_that_setup_only() {
    let asks: [fn(&Actor, &mut Connection); 4] = [
        |actor, conn| _ = actor.borrow_stream(conn),
        |actor, conn| _ = actor.take_stream(conn),
        |actor, conn| {
            actor.return_stream(conn, tokio::io::duplex(1).0);
            actor.borrow_stream(conn);
        },
        |actor, conn| {
            actor.return_stream(conn, tokio::io::duplex(1).0);
            actor.take_stream(conn);
        },
    ];
    for ask in asks {
        let is_first = Arc::new(AtomicBool::new(true));
        let (actor, addr) = Actor::<Unhurried>::listening(Script {
            handshake: {
                let is_first = Arc::clone(&is_first);
                hook!(|actor, mut conn| {
                    let is_first = is_first.swap(false, Ordering::SeqCst);
                    async move {
                        if is_first {
                            let _taken = actor.take_stream(&mut conn);
                            ask(&actor, &mut conn);
                        }
                        Ok(conn)
                    }
                })
            },
            ..Default::default()
        })
        .await;
        let (_peer, peer_addr) = raw_peer().await;
        let error = in_time("connect", actor.node().connect(peer_addr)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Other);
        let text = error.to_string();
        assert!(text.contains("perform_handshake") && text.contains("stream of this connection was taken"), "{text}");
        is_first.store(true, Ordering::SeqCst);
        end_of(&mut TcpStream::connect(addr).await.unwrap()).await;
        unharmed(&actor).await;
    }
}

// --- failures ---

#[derive(Debug, PartialEq)]
struct Refused(u32);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused because of {}", self.0)
    }
}

impl Error for Refused {}

#[tokio::test(crate = "ledger")]
async fn the_error_of_a_handshake_is_returned_as_it_is_and_the_peer_sees_a_clean_end() {
    let is_armed = Arc::new(AtomicBool::new(true));
    let (actor, addr) = Actor::<Unhurried>::listening(Script {
        handshake: {
            let is_armed = Arc::clone(&is_armed);
            hook!(|_actor, conn| {
                let is_armed = is_armed.load(Ordering::SeqCst);
                async move {
                    match is_armed {
                        true => Err(io::Error::new(io::ErrorKind::PermissionDenied, Refused(42))),
                        false => Ok(conn),
                    }
                }
            })
        },
        on_connect: silent(),
        on_disconnect: silent(),
        ..Default::default()
    })
    .await;
    let (listener, peer_addr) = raw_peer().await;
    let error = in_time("connect", actor.node().connect(peer_addr)).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    assert_eq!(error.get_ref().unwrap().downcast_ref(), Some(&Refused(42)));
    assert!(read_to_eof(&mut listener.accept().await.unwrap().0).await.is_empty());
    assert!(read_to_eof(&mut TcpStream::connect(addr).await.unwrap()).await.is_empty());
    settled(actor.node(), 0).await;
    let heuristics = actor.node().heuristics();
    assert_eq!((heuristics.handshake_timeouts(), heuristics.inbound_connections_rejected()), (0, 0));
    assert_eq!((actor.begun_on_connect(), actor.begun_on_disconnect()), (0, 0));
    is_armed.store(false, Ordering::SeqCst);
    unharmed(&actor).await;
}

#[derive(Clone)]
struct Hasty;

impl Tuning for Hasty {
    const HANDSHAKE_MS: u64 = 600;
}

#[tokio::test(crate = "ledger")]
async fn a_handshake_that_takes_too_long_is_dropped_and_counted() {
    let (actor, addr) = Actor::<Hasty>::listening(Script {
        handshake: hook!(|actor, mut conn| async move {
            // A trickle does not prolong it: the time is that of the whole handshake.
            while actor.borrow_stream(&mut conn).read_u8().await? != 0 {}
            Ok(conn)
        }),
        ..Default::default()
    })
    .await;
    let (listener, peer_addr) = raw_peer().await;
    let trickle = |mut peer: TcpStream| async move {
        while peer.write_u8(1).await.is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    let accept = async { listener.accept().await.unwrap().0 };
    tokio::time::pause();
    let begin = Instant::now();
    let peer = async { trickle(accept.await).await };
    let dial = async { (actor.node().connect(peer_addr).await, begin.elapsed()) };
    let ((dialled, took), ()) = in_time("a dial", join(dial, peer)).await;
    assert_eq!(dialled.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert!((Duration::from_millis(600)..Duration::from_millis(660)).contains(&took), "{took:?}");
    assert_eq!(actor.node().heuristics().handshake_timeouts(), 1);

    let begin = Instant::now();
    let mut peer = TcpStream::connect(addr).await.unwrap();
    assert!(read_to_eof(&mut peer).await.is_empty());
    let took = begin.elapsed();
    assert!((Duration::from_millis(600)..Duration::from_millis(660)).contains(&took), "{took:?}");
    assert_eq!(actor.node().heuristics().handshake_timeouts(), 2);
    settled(actor.node(), 0).await;
}

#[tokio::test(crate = "ledger")]
async fn a_handshake_runs_even_if_the_peer_is_gone_already() {
    for (resets, is_dialled) in [(false, false), (true, false), (false, true), (true, true)] {
        let shaken = Events::default();
        let (actor, addr) = Actor::<Unhurried>::listening(Script {
            handshake: {
                let shaken = shaken.clone();
                hook!(|_actor, conn| {
                    let shaken = shaken.clone();
                    async move {
                        shaken.push(conn.addr());
                        Ok(conn)
                    }
                })
            },
            on_connect: silent(),
            ..Default::default()
        })
        .await;
        let leave = |peer: TcpStream| {
            if resets {
                peer.set_zero_linger().unwrap();
            }
        };
        if is_dialled {
            let (listener, peer_addr) = raw_peer().await;
            let (dialled, ()) = in_time(
                "connect",
                join(actor.node().connect(peer_addr), async {
                    leave(listener.accept().await.unwrap().0);
                }),
            )
            .await;
            dialled.unwrap();
        } else {
            // One thread: the node accepts it only after this has been dropped.
            let peer = std::net::TcpStream::connect(addr).unwrap();
            peer.set_nonblocking(true).unwrap();
            leave(TcpStream::from_std(peer).unwrap());
        }
        wait_until("on_connect", || actor.begun_on_connect() == 1).await;
        assert_eq!(shaken.len(), 1);
    }
}

#[tokio::test(crate = "ledger")]
async fn a_handshake_is_dropped_with_the_connect_that_it_runs_in() {
    let (listener, addr) = raw_peer().await;
    let actor = Actor::<Unhurried>::dialling(Script {
        handshake: hook!(|_actor, conn| async move {
            std::future::pending::<()>().await;
            Ok(conn)
        }),
        ..Default::default()
    })
    .await;
    let mut connect = Box::pin(actor.node().connect(addr));
    let mut peer = None;
    while peer.is_none() {
        assert!(poll_times(connect.as_mut(), 5).await.is_none());
        peer = listener.accept().now_or_never();
    }
    assert_eq!(actor.node().num_connecting(), 1);
    drop(connect);
    assert_vacant(actor.node());
    assert!(read_to_eof(&mut peer.unwrap().unwrap().0).await.is_empty());
}
