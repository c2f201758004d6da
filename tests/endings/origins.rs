//! What each ending is called (`DisconnectOrigin`), what is counted with it, and what it still delivers.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use pea2pea::{DisconnectOrigin, Pea2Pea, ShuttingDown, protocols::Writing};
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::Semaphore, time::Instant};
use tokio_util::bytes::Bytes;

use crate::{
    common::{
        DELIBERATE, Events,
        actor::{Actor, AsyncHook, Hook, Script, Tuning, Unhurried, silent},
        in_time, keep_deliberate_panics_quiet,
        setups::{raw_peer, settled},
        wait_until,
        wire::{frame, frames, read_to_eof},
    },
    hook, ledger,
};

/// Short timeouts for the rows in which they are met.
#[derive(Clone)]
struct Hasty;

impl Tuning for Hasty {
    const IDLE_MS: u64 = 100;
    const FLUSH_MS: u64 = 100;
}

type Origins = Events<DisconnectOrigin>;

/// An OnDisconnect that notes its origin, and tells the peer of it as far as Writing works in it.
fn farewell<T: Tuning>(origins: &Origins) -> AsyncHook<(Actor<T>, SocketAddr, DisconnectOrigin), ()> {
    let origins = origins.clone();
    hook!(|actor, addr, origin| {
        assert!(actor.node().is_connected(addr));
        assert_eq!(actor.node().connected_addrs(), [addr]);
        assert!(actor.node().connection_info(addr).is_some());
        let sent = actor.unicast(addr, Bytes::from_static(b"farewell"));
        let origins = origins.clone();
        async move {
            if origin == DisconnectOrigin::Writing {
                let kind = sent.unwrap_err().kind();
                assert!(matches!(kind, io::ErrorKind::NotConnected | io::ErrorKind::BrokenPipe), "{kind}");
            } else {
                // It is taken; whether it arrives depends on the peer.
                _ = sent.unwrap().await;
            }
            assert!(!actor.node().disconnect(addr).await, "disconnect in on_disconnect");
            let redial = actor.node().connect(addr).await.unwrap_err();
            assert!(redial.kind() == io::ErrorKind::AlreadyExists || ShuttingDown::caused(&redial), "{redial}");
            assert_eq!(ShuttingDown::caused(&redial), origin == DisconnectOrigin::Shutdown);
            origins.push(origin);
        }
    })
}

/// One row: a listening actor with one raw peer, an event, and the origin that is to come of it.
struct Row<T: Tuning> {
    actor: Actor<T>,
    peer: TcpStream,
    back: SocketAddr,
    origins: Origins,
}

impl<T: Tuning> Row<T> {
    async fn new(script: Script<T>) -> Self {
        keep_deliberate_panics_quiet();
        let origins = Origins::default();
        let script = Script { on_disconnect: farewell(&origins), writes: true, ..script };
        let (actor, addr) = Actor::listening(script).await;
        let peer = TcpStream::connect(addr).await.unwrap();
        wait_until("live", || actor.node().num_connected() == 1 || !origins.all().is_empty()).await;
        let back = peer.local_addr().unwrap();
        Self { actor, peer, back, origins }
    }

    async fn ends_with(self, origin: DisconnectOrigin, idle_timeouts: u64, write_timeouts: u64) {
        settled(self.actor.node(), 0).await;
        assert_eq!(self.origins.all(), [origin]);
        let heuristics = self.actor.node().heuristics();
        assert_eq!((heuristics.idle_timeouts(), heuristics.write_timeouts()), (idle_timeouts, write_timeouts));
        in_time("shut_down", self.actor.node().shut_down()).await;
        assert_eq!(self.origins.len(), 1);
    }

    /// Checks also that the peer gets what on_disconnect sent, and then a clean end.
    async fn ends_politely_with(mut self, origin: DisconnectOrigin, idle_timeouts: u64) {
        assert_eq!(frames(&read_to_eof(&mut self.peer).await), [b"farewell"]);
        self.ends_with(origin, idle_timeouts, 0).await;
    }

    async fn peer_writes(&mut self, bytes: &[u8]) {
        self.peer.write_all(bytes).await.unwrap();
    }
}

#[tokio::test(crate = "ledger")]
async fn disconnect_is_the_user() {
    let row = Row::<Unhurried>::new(Script::default()).await;
    assert!(in_time("disconnect", row.actor.node().disconnect(row.back)).await);
    assert!(!in_time("disconnect", row.actor.node().disconnect(row.back)).await);
    row.ends_politely_with(DisconnectOrigin::User, 0).await;
}

#[tokio::test(crate = "ledger")]
async fn shut_down_is_shutdown() {
    let row = Row::<Unhurried>::new(Script::default()).await;
    in_time("shut_down", row.actor.node().shut_down()).await;
    row.ends_politely_with(DisconnectOrigin::Shutdown, 0).await;
}

#[tokio::test(crate = "ledger")]
async fn a_closing_peer_is_reading() {
    let mut row = Row::<Unhurried>::new(Script { process: silent(), ..Default::default() }).await;
    row.peer.shutdown().await.unwrap();
    row.ends_politely_with(DisconnectOrigin::Reading, 0).await;
}

#[tokio::test(crate = "ledger")]
async fn an_unfinished_message_is_reading() {
    let mut row = Row::<Unhurried>::new(Script { process: silent(), ..Default::default() }).await;
    row.peer_writes(&frame(b"torn")[..6]).await;
    row.peer.shutdown().await.unwrap();
    row.ends_politely_with(DisconnectOrigin::Reading, 0).await;
}

#[tokio::test(crate = "ledger")]
async fn a_decode_error_is_reading() {
    let mut row = Row::<Unhurried>::new(Script {
        process: silent(),
        decode: Some(Box::new(|_| Err(io::Error::other("not a message")))),
        ..Default::default()
    })
    .await;
    row.peer_writes(b"x").await;
    row.ends_politely_with(DisconnectOrigin::Reading, 0).await;
}

#[tokio::test(crate = "ledger")]
async fn a_panic_of_the_decoder_is_reading() {
    let decode: Hook<_, _> = Some(Box::new(|_| panic!("{DELIBERATE}")));
    let mut row = Row::<Unhurried>::new(Script { process: silent(), decode, ..Default::default() }).await;
    row.peer_writes(b"x").await;
    row.ends_politely_with(DisconnectOrigin::Reading, 0).await;
}

#[tokio::test(crate = "ledger")]
async fn a_panic_of_process_message_is_reading() {
    let mut row = Row::<Unhurried>::new(Script {
        process: hook!(|_actor, _source, _message| async { panic!("{DELIBERATE}") }),
        ..Default::default()
    })
    .await;
    row.peer_writes(&frame(b"x")).await;
    row.ends_politely_with(DisconnectOrigin::Reading, 0).await;
}

#[tokio::test(crate = "ledger")]
async fn an_idle_timeout_is_reading_and_is_counted() {
    let row = Row::<Hasty>::new(Script { process: silent(), ..Default::default() }).await;
    row.ends_politely_with(DisconnectOrigin::Reading, 1).await;
}

#[tokio::test(crate = "ledger")]
async fn a_panic_of_on_connect_is_on_connect_abort() {
    let row = Row::<Unhurried>::new(Script {
        on_connect: hook!(|_actor, _addr| async { panic!("{DELIBERATE}") }),
        ..Default::default()
    })
    .await;
    row.ends_politely_with(DisconnectOrigin::OnConnectAbort, 0).await;
}

/// Resets the connection, and puts some other stream in the place of the peer's.
async fn reset<T: Tuning>(row: &mut Row<T>) {
    row.peer.set_zero_linger().unwrap();
    let (_listener, addr) = raw_peer().await;
    row.peer = TcpStream::connect(addr).await.unwrap();
}

#[tokio::test(crate = "ledger")]
async fn a_reset_by_the_peer_is_reading() {
    let mut row = Row::<Unhurried>::new(Script { process: silent(), ..Default::default() }).await;
    reset(&mut row).await;
    row.ends_with(DisconnectOrigin::Reading, 0, 0).await;
}

#[tokio::test(crate = "ledger")]
async fn a_write_error_is_writing() {
    // Without Reading, nothing but a write finds out that the connection is reset.
    let mut row = Row::<Unhurried>::new(Script::default()).await;
    reset(&mut row).await;
    let receipt = row.actor.unicast(row.back, Bytes::from_static(b"too late")).unwrap();
    let error = in_time("receipt", receipt).await.unwrap().unwrap_err();
    assert!(matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset), "{error}");
    row.ends_with(DisconnectOrigin::Writing, 0, 0).await;
}

#[tokio::test(crate = "ledger")]
async fn a_flush_timeout_is_writing_and_is_counted() {
    let row = Row::<Hasty>::new(Script::default()).await;
    for _ in 0..8 {
        row.actor.unicast_fast(row.back, Bytes::from(vec![0; 4 * 1024 * 1024])).unwrap();
    }
    row.ends_with(DisconnectOrigin::Writing, 0, 1).await;
}

#[tokio::test(crate = "ledger")]
async fn an_encode_error_is_writing() {
    let encode: Hook<_, _> = Some(Box::new(|_| Err(io::Error::from(io::ErrorKind::InvalidInput))));
    let row = Row::<Unhurried>::new(Script { encode, ..Default::default() }).await;
    let receipt = row.actor.unicast(row.back, Bytes::new()).unwrap();
    assert_eq!(in_time("receipt", receipt).await.unwrap().unwrap_err().kind(), io::ErrorKind::InvalidInput);
    row.ends_with(DisconnectOrigin::Writing, 0, 0).await;
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 2)]
async fn an_encode_error_is_writing_however_fast_the_peer_hangs_up() {
    for _ in 0..500 {
        let encode: Hook<_, _> = Some(Box::new(|_| Err(io::Error::from(io::ErrorKind::InvalidInput))));
        let mut row = Row::<Unhurried>::new(Script { encode, process: silent(), ..Default::default() }).await;
        row.actor.unicast_fast(row.back, Bytes::new()).unwrap();
        assert!(read_to_eof(&mut row.peer).await.is_empty());
        row.peer.shutdown().await.unwrap();
        row.ends_with(DisconnectOrigin::Writing, 0, 0).await;
    }
}

#[tokio::test(crate = "ledger")]
async fn a_panic_of_the_encoder_is_writing() {
    let encode: Hook<_, _> = Some(Box::new(|_| panic!("{DELIBERATE}")));
    let row = Row::<Unhurried>::new(Script { encode, ..Default::default() }).await;
    let receipt = row.actor.unicast(row.back, Bytes::new()).unwrap();
    assert!(!matches!(in_time("receipt", receipt).await, Ok(Ok(()))));
    row.ends_with(DisconnectOrigin::Writing, 0, 0).await;
}

// --- the drain after the peer has closed its side ---

/// A row whose three messages have been received, and the peer's side closed, while the first is being processed.
async fn draining(gate: &Arc<Semaphore>, processed: &Events<usize>) -> Row<Unhurried> {
    let (gate, processed) = (Arc::clone(gate), processed.clone());
    let mut row = Row::new(Script {
        process: hook!(|_actor, _source, message| {
            let (gate, processed) = (Arc::clone(&gate), processed.clone());
            async move {
                gate.acquire().await.unwrap().forget();
                processed.push(message.len());
            }
        }),
        ..Default::default()
    })
    .await;
    row.peer_writes(&[frame(b"1"), frame(b"22"), frame(b"333")].concat()).await;
    row.peer.shutdown().await.unwrap();
    wait_until("all are received", || row.actor.node().stats().received().0 == 3).await;
    row
}

#[tokio::test(crate = "ledger")]
async fn a_connection_whose_peer_has_closed_stays_writable_until_its_messages_are_processed() {
    let (gate, processed) = (Arc::new(Semaphore::new(0)), Events::default());
    let mut row = draining(&gate, &processed).await;
    for reply in 1..=3 {
        assert_eq!((row.actor.node().is_connected(row.back), row.origins.len()), (true, 0));
        let receipt = row.actor.unicast(row.back, Bytes::from_static(b"reply")).unwrap();
        in_time("receipt", receipt).await.unwrap().unwrap();
        gate.add_permits(1);
        wait_until("one more is processed", || processed.len() == reply).await;
    }
    assert_eq!(frames(&read_to_eof(&mut row.peer).await), [&b"reply"[..], b"reply", b"reply", b"farewell"]);
    assert_eq!(processed.all(), [1, 2, 3]);
    row.ends_with(DisconnectOrigin::Reading, 0, 0).await;
}

#[tokio::test(crate = "ledger")]
async fn messages_that_hang_do_not_keep_a_closed_connection_for_more_than_three_seconds() {
    let row = draining(&Arc::new(Semaphore::new(0)), &Events::default()).await;
    tokio::time::pause();
    let begin = Instant::now();
    settled(row.actor.node(), 0).await;
    let took = begin.elapsed();
    assert!((Duration::from_millis(2_900)..Duration::from_millis(3_100)).contains(&took), "{took:?}");
    row.ends_politely_with(DisconnectOrigin::Reading, 0).await;
}

#[tokio::test(crate = "ledger")]
async fn disconnect_ends_the_drain_at_once() {
    let row = draining(&Arc::new(Semaphore::new(0)), &Events::default()).await;
    tokio::time::pause();
    let begin = Instant::now();
    assert!(row.actor.node().disconnect(row.back).await);
    assert!(begin.elapsed() < Duration::from_millis(100), "{:?}", begin.elapsed());
    row.ends_politely_with(DisconnectOrigin::User, 0).await;
}

#[tokio::test(crate = "ledger")]
async fn shut_down_ends_the_drain_at_once() {
    let row = draining(&Arc::new(Semaphore::new(0)), &Events::default()).await;
    tokio::time::pause();
    let begin = Instant::now();
    row.actor.node().shut_down().await;
    assert!(begin.elapsed() < Duration::from_millis(100), "{:?}", begin.elapsed());
    row.ends_politely_with(DisconnectOrigin::Shutdown, 0).await;
}
