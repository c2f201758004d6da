//! Row 28: what strangers do, a thousand times a second, is not worth a line of the log, and counted exactly.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use pea2pea::{Config, Pea2Pea, protocols::Writing};
use tokio::{io::AsyncWriteExt, task::JoinSet};
use tokio_util::{
    bytes::BytesMut,
    codec::{Decoder, LengthDelimitedCodec},
};
use tracing::Level;

use crate::{
    kit::{
        Verdict, attack, ensure, logs, sized,
        stage::{Stage, holds_within},
        victim::{Temper, Victim},
    },
    row,
};

/// A thousand in the matrix, for a release build; a stalling decoder costs a debug build many times the CPU.
const PER_SECOND: usize = if cfg!(debug_assertions) { 300 } else { 1_000 };

#[derive(Clone)]
struct Hurried;

impl Temper for Hurried {
    const GREETING: Option<&'static [u8]> = Some(b"g");
    const HANDSHAKE_MS: u64 = 300;

    type Decoder = Picky;

    fn decoder() -> Picky {
        Picky(LengthDelimitedCodec::new())
    }

    async fn process(victim: &Victim<Self>, source: SocketAddr, message: BytesMut) {
        if !message.is_empty() {
            _ = victim.unicast_fast(source, message.freeze());
        }
    }
}

/// Decodes frames; fails, or stalls for ever, if a peer asks for it.
struct Picky(LengthDelimitedCodec);

impl Decoder for Picky {
    type Item = BytesMut;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<BytesMut>> {
        match src.first() {
            Some(b'e') => Err(io::Error::other("as the attacker likes")),
            Some(b's') => Ok(Some(BytesMut::new())),
            _ => self.0.decode(src),
        }
    }
}

/// What a stranger does after the dial.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Deed {
    StaySilent,
    Leave,
    Reset,
    AnnounceTooMuch,
    BreakTheDecoder,
    StallTheDecoder,
    /// From an address that has no place left.
    Crowd,
}

const DEEDS: [Deed; 7] = [
    Deed::StaySilent,
    Deed::Leave,
    Deed::Reset,
    Deed::AnnounceTooMuch,
    Deed::BreakTheDecoder,
    Deed::StallTheDecoder,
    Deed::Crowd,
];

async fn commit(deed: Deed, number: usize, target: SocketAddr) {
    let mut stream = attack::dial(if deed == Deed::Crowd { 0 } else { number }, target).await;
    let said: &[u8] = match deed {
        Deed::StaySilent | Deed::Leave | Deed::Crowd => b"",
        Deed::Reset => return attack::reset(stream),
        Deed::AnnounceTooMuch => b"g\xff\xff\xff\xff",
        Deed::BreakTheDecoder => b"ge",
        Deed::StallTheDecoder => b"gs",
    };
    _ = stream.write_all(said).await;
    if deed != Deed::Leave {
        attack::closed_within(Duration::from_secs(20), &mut stream).await.expect("the victim closes it");
    }
}

fn deeds(stage: &Stage, level: Level) -> Verdict {
    logs::count_debug(level == Level::DEBUG);
    let seconds = sized(2, 20);
    let (victim, addr) = stage.victim::<Hurried>(Config { max_connections_per_ip: 1, ..attack::config(33) });
    // The only place of the crowd.
    let kept = stage.attack(attack::dial_politely::<Hurried>(0, addr));
    holds_within(Duration::from_secs(5), "it is live", || victim.is_settled(1))?;
    let mut watch = stage.watch::<Hurried>(addr);
    watch.level = level;
    let total = seconds * PER_SECOND / DEEDS.len() * DEEDS.len();
    let since = Instant::now();
    stage.attack(async {
        let mut strangers = JoinSet::new();
        for number in 0..total {
            strangers.spawn(commit(DEEDS[number % DEEDS.len()], number + 1, addr));
            let due = Duration::from_secs(1) * number as u32 / PER_SECOND as u32;
            tokio::time::sleep(due.saturating_sub(since.elapsed())).await;
        }
        strangers.join_all().await
    });
    let rate = total as f64 / since.elapsed().as_secs_f64();
    holds_within(Duration::from_secs(5), "the bystander and the kept one", || victim.is_settled(2))?;
    let each = (total / DEEDS.len()) as u64;
    let heuristics = victim.node().heuristics();
    let counted = [
        heuristics.handshake_timeouts(),
        heuristics.inbound_connections_rejected(),
        heuristics.accept_errors(),
        heuristics.idle_timeouts(),
        victim.on_disconnects() as u64,
    ];
    ensure(counted == [each, each, 0, 0, 3 * each], || format!("{each} deeds of each kind, counted: {counted:?}"))?;
    // Less than asked for is for a busy machine.
    ensure(rate > PER_SECOND as f64 / 4.0, || format!("only {rate:.0} deeds a second"))?;
    drop(kept);
    watch.verdict_without_ledger(format_args!("{total} deeds, {rate:.0} a second, counted exactly: {counted:?}"))
}

fn at_info(stage: &Stage) -> Verdict {
    deeds(stage, Level::INFO)
}

/// At DEBUG every deed has its lines: the subscriber does count.
fn at_debug(stage: &Stage) -> Verdict {
    deeds(stage, Level::DEBUG)
}

row!(row_28_what_strangers_do_is_counted_and_not_logged, at_info, [
    "the low level of such lines" off: at_debug => "lines within a second",
]);
