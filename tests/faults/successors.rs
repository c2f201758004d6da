//! Rows 21 and 25: connections that follow others from the same address and port.

use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    task::Poll,
    time::{Duration, Instant},
};

use pea2pea::{DisconnectOrigin, Pea2Pea, protocols::Writing};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};
use tokio_util::bytes::BytesMut;

use crate::{
    frames,
    kit::{
        Verdict, attack, ensure, sized,
        stage::Stage,
        victim::{LONG_MS, Temper, Victim},
    },
    row,
};

const HOOK_MS: u64 = 600;
const HOOK: Duration = Duration::from_millis(HOOK_MS);

/// How many connections of the only attacker are there, their endings included, and how often there were two.
static PRESENT: AtomicUsize = AtomicUsize::new(0);
static COEXISTED: AtomicUsize = AtomicUsize::new(0);

/// A temper whose endings never end by themselves.
#[derive(Clone)]
struct Lingering<const HOOK_MS: u64>;

/// Counts an ending to its end, also when it is cut short.
struct Ending;

impl Drop for Ending {
    fn drop(&mut self) {
        PRESENT.fetch_sub(1, SeqCst);
    }
}

impl<const HOOK_MS: u64> Temper for Lingering<HOOK_MS> {
    const GREETING: Option<&'static [u8]> = Some(b"g");
    const ON_DISCONNECT_MS: u64 = HOOK_MS;

    frames!();

    async fn shake_hands(_: &Victim<Self>, addr: SocketAddr, stream: &mut TcpStream) -> std::io::Result<()> {
        if addr.ip() != attack::BYSTANDER && PRESENT.fetch_add(1, SeqCst) > 0 {
            COEXISTED.fetch_add(1, SeqCst);
        }
        stream.read_u8().await.map(drop)
    }

    async fn ending(_: &Victim<Self>, addr: SocketAddr, _: DisconnectOrigin) {
        if addr.ip() != attack::BYSTANDER {
            let _ending = Ending;
            std::future::pending::<()>().await;
        }
    }
}

fn message(number: u64) -> [u8; 12] {
    let mut message = [0; 12];
    message[3] = 8;
    message[4..].copy_from_slice(&number.to_be_bytes());
    message
}

/// Sends a message, and tells the number in the reply; `None` if there is none.
async fn echo(stream: &mut TcpStream, number: u64) -> Option<u64> {
    let mut reply = [0; 12];
    stream.write_all(&message(number)).await.ok()?;
    stream.read_exact(&mut reply).await.ok()?;
    Some(u64::from_be_bytes(reply[4..].try_into().unwrap()))
}

/// A peer whose connection breaks, and who dials from the same port at once, and again until it is served.
fn reboot<const HOOK_MS: u64>(stage: &Stage) -> Verdict {
    const REDIAL: Duration = Duration::from_millis(50);
    let bound = HOOK + REDIAL + Duration::from_millis(1_000);

    PRESENT.store(0, SeqCst);
    let (victim, addr) = stage.victim::<Lingering<HOOK_MS>>(attack::config(21));
    let watch = stage.watch::<Lingering<HOOK_MS>>(addr);
    let (own, took, redials, mut successor) = stage.attack(async {
        let mut stream = attack::dial_politely::<Lingering<HOOK_MS>>(1, addr).await;
        let own = stream.local_addr().unwrap();
        assert_eq!(echo(&mut stream, 0).await, Some(0), "it is served");
        attack::reset(stream);
        let (since, mut redials) = (Instant::now(), 0);
        while since.elapsed() < bound {
            redials += 1;
            if let Ok(mut stream) = attack::dial_from_port(own, addr).await {
                _ = stream.write_all(b"g").await;
                if echo(&mut stream, 1).await == Some(1) {
                    return Ok((own, since.elapsed(), redials, stream));
                }
                attack::reset(stream);
            }
            sleep(REDIAL).await;
        }
        Err(format!("not served again within {bound:?}, after {redials} redials"))
    })?;
    let coexisted = COEXISTED.load(SeqCst);
    ensure(coexisted == 0, || format!("{coexisted} connections began while another was there"))?;
    ensure(took + Duration::from_millis(5) >= HOOK, || format!("served after {took:?}, while the hook ran"))?;
    // Whatever the predecessor has left behind has its chance.
    let alive = stage.attack(async {
        sleep(HOOK * 2).await;
        echo(&mut successor, 2).await
    });
    ensure(alive == Some(2) && victim.node().is_connected(own), || format!("the successor was hit: {alive:?}"))?;
    ensure((victim.on_connects(), victim.on_disconnects()) == (3, 1), || "a hook too many or too few".into())?;
    attack::reset(successor);
    watch.verdict(format_args!("served again after {took:.1?} and {redials} redials, beside a hook of {HOOK:?}"))
}

row!(row_21_a_peer_that_comes_back_is_served_when_its_predecessor_is_gone, reboot::<HOOK_MS>, [
    "the bound of on_disconnect" off: reboot::<LONG_MS> => "not served again",
]);

/// How a connection of the row below ends, by its number.
const ENDED_BY_VICTIM: u64 = 0;

/// A temper that leaves things behind when its connections end: queued messages, half-done disconnects, timers.
#[derive(Clone)]
struct Littering<const STRAYS: bool>;

impl<const STRAYS: bool> Temper for Littering<STRAYS> {
    const IDLE_MS: u64 = 1_500;
    const FLUSH_MS: u64 = 1_500;
    const ON_DISCONNECT_MS: u64 = 1_500;

    frames!();

    async fn process(victim: &Victim<Self>, source: SocketAddr, message: BytesMut) {
        let number = u64::from_be_bytes(message[..8].try_into().unwrap());
        let message = message.freeze();
        // The first is the reply; the others may be on their way when the connection ends.
        for _ in 0..4 {
            _ = victim.unicast_fast(source, message.clone());
        }
        if source.ip() == attack::BYSTANDER {
            return;
        }
        let victim = victim.clone();
        if number % 3 == ENDED_BY_VICTIM {
            tokio::spawn(async move {
                let mut disconnect = Box::pin(victim.node().disconnect(source));
                let first = poll_fn(|cx| Poll::Ready(disconnect.as_mut().poll(cx))).await;
                if first.is_pending() {
                    // Somebody else may live at the address when this goes on.
                    sleep(Duration::from_millis(number % 4)).await;
                    disconnect.await;
                }
            });
        } else if STRAYS && number % 3 == 1 {
            // By its address, and much too late: this is bound to meet a successor.
            tokio::spawn(async move {
                sleep(Duration::from_millis(1)).await;
                victim.node().disconnect(source).await;
            });
        }
    }
}

/// Many connections from one port, one after the other, each of which must get what is its own.
fn reconnects<const STRAYS: bool>(stage: &Stage) -> Verdict {
    let connections = sized(3_000, 100_000) as u64;
    let (victim, addr) = stage.victim::<Littering<STRAYS>>(attack::config(25));
    // The bystander hears everything four times.
    let others = stage.victim::<crate::kit::victim::Calm>(attack::config(26));
    let watch = stage.watch::<crate::kit::victim::Calm>(others.1);
    let own = SocketAddr::from(([127, 0, 82, 25], stage.attack(crate::common::setups::raw_peer()).1.port()));
    let refused = stage.attack(async {
        let mut refused = 0;
        for number in 0..connections {
            let mut stream = loop {
                let mut stream =
                    attack::dial_from_port(own, addr).await.map_err(|error| format!("{number}: {error}"))?;
                match echo(&mut stream, number).await {
                    Some(reply) if reply == number => break stream,
                    Some(reply) => return Err(format!("hit: number {number} got what was for {reply}")),
                    // The predecessor is still there.
                    None => refused += 1,
                }
                attack::reset(stream);
            };
            let mut rest = Vec::new();
            if number % 3 == ENDED_BY_VICTIM {
                _ = stream.read_to_end(&mut rest).await;
            } else {
                for _ in 0..3 {
                    let reply = echo(&mut stream, number).await;
                    ensure(reply == Some(number), || format!("hit: number {number} got {reply:?}"))?;
                    tokio::task::yield_now().await;
                }
                rest.resize(1_000, 0);
                let count = stream.try_read(&mut rest).unwrap_or(0);
                rest.truncate(count);
            }
            let is_own = rest.chunks_exact(12).all(|reply| *reply == message(number));
            ensure(is_own, || format!("hit: number {number} got what was for another"))?;
            attack::reset(stream);
        }
        Ok(refused)
    })?;
    crate::kit::stage::holds_within(Duration::from_secs(5), "all ended", || victim.is_settled(0))?;
    let (on_connects, on_disconnects) = (victim.on_connects() as u64, victim.on_disconnects() as u64);
    ensure(on_connects == connections && on_disconnects == connections, || {
        format!("hit: {on_connects} went live, {on_disconnects} ended, of {connections} that were served")
    })?;
    watch.verdict(format_args!("{connections} connections from one port, {refused} dials were too early"))
}

row!(row_25_what_a_connection_leaves_behind_does_not_touch_its_successors, reconnects::<false>, [
    "an identity of connections" off: reconnects::<true> => "hit:",
]);
