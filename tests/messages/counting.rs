//! What counts as sent, and when: before the stream gets it, and not if the stream takes nothing of it.

use std::{
    future::pending,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    thread,
};

use pea2pea::{
    ConnectionInfo, Node, Pea2Pea, Stats,
    protocols::{Handshake, Writing},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    task::yield_now,
};
use tokio_util::bytes::Bytes;

use crate::{
    common::{
        actor::{Actor, Script, Unhurried, silent},
        in_time, poll_times,
        setups::raw_peer,
        wait_until,
        wire::{frame, frames},
    },
    hook, ledger,
};

/// What a stream does at one write.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Takes so many bytes at most.
    Take(usize),
    /// Takes nothing, and will be asked again.
    Later,
    /// Takes nothing any more.
    Never,
    Reset,
}

/// A stream, and what the counters of its node said whenever it was offered bytes.
struct Watched {
    stream: TcpStream,
    node: Node,
    log: Arc<Log>,
    /// Its last step is repeated.
    script: Vec<Step>,
}

#[derive(Default)]
struct Log {
    taken: Mutex<Vec<u8>>,
    /// Bytes of complete messages that were there or were offered, and the bytes that counted as sent.
    offers: Mutex<Vec<(u64, u64)>>,
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let log = Arc::clone(&self.log);
        let mut taken = log.taken.lock().unwrap();
        let complete = frames(&[&taken, buf].concat()).iter().map(|payload| payload.len() as u64 + 4).sum();
        log.offers.lock().unwrap().push((complete, self.node.stats().sent().1));
        let step = if self.script.len() > 1 { self.script.remove(0) } else { self.script[0] };
        match step {
            Step::Take(most) => {
                let count = buf.len().min(most);
                taken.extend_from_slice(&buf[..count]);
                Poll::Ready(Ok(count))
            }
            Step::Later => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Step::Never => Poll::Pending,
            Step::Reset => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A node that writes to one peer, through a stream that is watched.
struct Scene {
    actor: Actor,
    addr: SocketAddr,
    info: ConnectionInfo,
    log: Arc<Log>,
    _peer: TcpStream,
}

impl Scene {
    async fn new(script: &[Step]) -> Self {
        let (log, script) = (Arc::<Log>::default(), script.to_vec());
        let watch = Arc::clone(&log);
        let actor = Actor::dialling(Script::<Unhurried> {
            handshake: hook!(|actor, mut conn| {
                let (log, script) = (Arc::clone(&watch), script.clone());
                async move {
                    let (stream, node) = (actor.take_stream(&mut conn), actor.node().clone());
                    actor.return_stream(&mut conn, Watched { stream, node, log, script });
                    Ok(conn)
                }
            }),
            on_disconnect: silent(),
            writes: true,
            ..Default::default()
        })
        .await;
        let (listening, addr) = raw_peer().await;
        actor.node().connect(addr).await.unwrap();
        let (_peer, _) = in_time("the dial", listening.accept()).await.unwrap();
        let info = actor.node().connection_info(addr).unwrap();
        Self { actor, addr, info, log, _peer }
    }

    fn send(&self, sizes: &[usize]) {
        for size in sizes {
            self.actor.unicast_fast(self.addr, vec![7; *size].into()).unwrap();
        }
    }

    /// Lets the writer run until it has nothing more to do for now.
    async fn settle(&self) {
        poll_times(pin!(pending::<()>()), 20).await;
    }

    /// Ends the connection without waiting for a stream that may take nothing more.
    async fn end(&self) {
        poll_times(pin!(self.actor.node().disconnect(self.addr)), 1).await;
        assert!(!self.actor.node().is_connected(self.addr));
    }

    /// Checks what counts as sent, for the connection and for its node.
    #[track_caller]
    fn assert_sent(&self, messages: u64, bytes: u64) {
        assert_eq!(self.info.stats().sent(), (messages, bytes));
        assert_eq!(self.actor.node().stats().sent(), (messages, bytes));
    }
}

const SIZES: [usize; 3] = [10, 300, 50];
const BYTES: u64 = 10 + 300 + 50 + 3 * 4;

#[tokio::test(crate = "ledger")]
async fn a_message_counts_before_the_stream_gets_the_last_of_its_bytes() {
    for script in [
        &[Step::Take(usize::MAX)][..],
        &[Step::Later, Step::Take(20), Step::Later, Step::Take(1), Step::Take(usize::MAX)],
        &[Step::Take(7)],
    ] {
        let scene = Scene::new(script).await;
        // Several in one batch, then one by one.
        scene.send(&SIZES);
        wait_until("the batch is sent", || scene.info.stats().sent() == (3, BYTES)).await;
        for round in 1..=3 {
            let receipt = scene.actor.unicast(scene.addr, Bytes::from_static(&[7; 100])).unwrap();
            in_time("the receipt", receipt).await.unwrap().unwrap();
            scene.assert_sent(3 + round, BYTES + 104 * round);
        }
        let offers = scene.log.offers.lock().unwrap();
        assert!(offers.len() >= 4 && offers.iter().all(|(complete, sent)| complete <= sent), "{script:?}: {offers:?}");
    }
}

#[tokio::test(crate = "ledger")]
async fn a_batch_of_which_the_stream_takes_nothing_does_not_count() {
    for sizes in [&SIZES[..], &SIZES[..1]] {
        for script in [&[Step::Never][..], &[Step::Reset], &[Step::Later, Step::Later, Step::Never]] {
            let scene = Scene::new(script).await;
            scene.send(sizes);
            scene.settle().await;
            assert!(!scene.log.offers.lock().unwrap().is_empty());
            scene.assert_sent(0, 0);
            scene.end().await;
            scene.assert_sent(0, 0);
        }
    }
}

#[tokio::test(crate = "ledger")]
async fn a_batch_of_which_a_part_is_taken_counts_as_a_whole_and_goes_on_counting() {
    for end in [Step::Never, Step::Reset] {
        let scene = Scene::new(&[Step::Take(20), end]).await;
        scene.send(&SIZES);
        scene.settle().await;
        assert_eq!(scene.log.taken.lock().unwrap()[..14], frame(&[7; 10]), "the first one may have arrived");
        scene.assert_sent(3, BYTES);
        scene.end().await;
        scene.assert_sent(3, BYTES);
    }
}

#[tokio::test(crate = "ledger")]
async fn a_message_by_itself_counts_when_all_of_it_is_taken() {
    for end in [Step::Never, Step::Reset] {
        let scene = Scene::new(&[Step::Take(20), Step::Take(100), end]).await;
        scene.send(&[500]);
        scene.settle().await;
        assert_eq!(scene.log.taken.lock().unwrap().len(), 120);
        scene.assert_sent(0, 0);
        scene.end().await;
        scene.assert_sent(0, 0);
    }
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 2)]
async fn one_end_has_never_received_more_than_the_other_has_sent() {
    const MESSAGES: u64 = 20_000;

    let reading = || Script::<Unhurried> { process: silent(), writes: true, ..Default::default() };
    let (receiver, addr) = Actor::listening(reading()).await;
    let sender = Actor::dialling(reading()).await;
    sender.node().connect(addr).await.unwrap();
    let back = receiver.only_peer().await;
    let received = receiver.node().connection_info(back).unwrap();
    let sent = sender.node().connection_info(addr).unwrap();

    let is_over = AtomicBool::new(false);
    let ends: [(&Stats, &Stats); 2] =
        [(receiver.node().stats(), sender.node().stats()), (received.stats(), sent.stats())];
    let looks = thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut looks = 0_u64;
            while !is_over.load(Ordering::SeqCst) {
                for (to, from) in ends {
                    let (received, sent) = (to.received(), from.sent());
                    assert!(received.0 <= sent.0 && received.1 <= sent.1, "{received:?} of {sent:?}");
                }
                looks += 1;
            }
            looks
        });
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                for number in 0..MESSAGES {
                    while sender.unicast_fast(addr, Bytes::from_static(b"message")).is_err() {
                        yield_now().await;
                    }
                    if number % 7 == 0 {
                        yield_now().await;
                    }
                }
                wait_until("all have arrived", || watch.is_finished() || received.stats().received().0 == MESSAGES)
                    .await;
            });
        });
        is_over.store(true, Ordering::SeqCst);
        watch.join().expect("the watch saw nothing wrong")
    });
    assert!(looks > 100, "{looks} looks");
    // No wait is needed between the two.
    assert_eq!(
        (sent.stats().sent(), sender.node().stats().sent()),
        (received.stats().received(), receiver.node().stats().received())
    );
}
