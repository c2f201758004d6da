//! A node's own record of its connections, kept by its hooks, against which the kernel is checked at every step.
//!
//! Every entry is made while the kernel must hold a slot for the connection: what is counted here never exceeds what the
//! kernel has, so that a count over a limit is the kernel's fault at that very instant.
//!
//! `on_connect` is told only an address, and may begin when its connection is gone and has a successor: it is then put to
//! the account of the oldest connection of that address that still lacks it. Nothing more can be known from outside.
//!
//! A runtime that goes away may take an `on_connect` with it that has not begun. Those of foreign runtimes are kept apart.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering::SeqCst},
};

use pea2pea::{Config, Stats};

use crate::line::Line;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    ShakingHands,
    /// The handshake is done.
    Greeted,
    /// There is a decoder.
    Reading,
    /// There is an encoder too: the connection is about to be live.
    Attached,
}

#[derive(Debug)]
struct Record {
    number: u64,
    stats: Arc<Stats>,
    stage: Stage,
    line: Option<Arc<Line>>,
    is_on_connect_begun: bool,
    /// The serial number of the last message that each lane had accepted.
    sent: Vec<(u8, u32)>,
}

impl Record {
    fn is_live(&self) -> bool {
        self.stage == Stage::Attached
    }

    fn is_foreign(&self) -> bool {
        self.line.as_ref().is_some_and(|line| line.is_foreign)
    }
}

#[derive(Debug, Default)]
struct Account {
    current: Option<Record>,
    /// How many connections have ended whose `on_connect` is still to come.
    owed: usize,
}

#[derive(Debug)]
pub struct Ledger {
    max_connections: usize,
    max_per_ip: usize,
    max_connecting: usize,
    accounts: HashMap<SocketAddr, Account>,
    /// Slots that must be taken.
    taken: usize,
    per_ip: HashMap<IpAddr, usize>,
    /// Handshakes under way.
    shaking_hands: usize,
    /// How many connections of foreign runtimes have ended before their `on_connect` began, if it ever does.
    pub foreign_owed: usize,
}

impl Ledger {
    pub fn new(config: &Config) -> Self {
        Self {
            max_connections: config.max_connections.into(),
            max_per_ip: config.max_connections_per_ip.into(),
            max_connecting: config.max_connecting.into(),
            accounts: HashMap::new(),
            taken: 0,
            per_ip: HashMap::new(),
            shaking_hands: 0,
            foreign_owed: 0,
        }
    }

    /// A handshake begins.
    pub fn begin(&mut self, addr: SocketAddr, number: u64, stats: Arc<Stats>) -> Result<(), String> {
        let account = self.accounts.entry(addr).or_default();
        let record = Record {
            number,
            stats,
            stage: Stage::ShakingHands,
            line: None,
            is_on_connect_begun: false,
            sent: Vec::new(),
        };
        let previous = account.current.replace(record);
        self.taken += 1;
        self.shaking_hands += 1;
        let per_ip = self.per_ip.entry(addr.ip()).or_default();
        *per_ip += 1;
        if let Some(previous) = previous {
            return Err(format!("a successor is set up while {addr} is still in use: {previous:?}"));
        }
        if self.taken > self.max_connections {
            return Err(format!("{} connections, of {} at most", self.taken, self.max_connections));
        }
        if *per_ip > self.max_per_ip {
            return Err(format!("{per_ip} connections with {}, of {} at most", addr.ip(), self.max_per_ip));
        }
        if self.shaking_hands > self.max_connecting {
            return Err(format!("{} setups, of {} at most", self.shaking_hands, self.max_connecting));
        }
        Ok(())
    }

    fn record(&mut self, addr: SocketAddr) -> Option<&mut Record> {
        self.accounts.get_mut(&addr)?.current.as_mut()
    }

    /// The handshake succeeded.
    pub fn greet(&mut self, addr: SocketAddr, line: Line) -> Result<(), String> {
        self.shaking_hands -= 1;
        let Some(record) = self.record(addr).filter(|record| record.number == line.number) else {
            return Err(format!("the setup of {addr} lost its slot"));
        };
        record.stage = Stage::Greeted;
        record.line = Some(Arc::new(line));
        Ok(())
    }

    /// The setup fails, and its slot will be given back.
    pub fn abandon(&mut self, addr: SocketAddr, number: u64) -> Result<(), String> {
        match self.remove(addr, |record| record.number == number && !record.is_on_connect_begun) {
            Some(record) => {
                self.shaking_hands -= usize::from(record.stage == Stage::ShakingHands);
                Ok(())
            }
            None => Err(format!("a failed setup of {addr} had lost its slot, or had gone live")),
        }
    }

    fn remove(&mut self, addr: SocketAddr, is_it: impl FnOnce(&Record) -> bool) -> Option<Record> {
        let account = self.accounts.get_mut(&addr)?;
        let record = account.current.take_if(|record| is_it(record))?;
        if account.owed == 0 {
            self.accounts.remove(&addr);
        }
        self.taken -= 1;
        if let Some(per_ip) = self.per_ip.get_mut(&addr.ip()) {
            *per_ip -= 1;
            if *per_ip == 0 {
                self.per_ip.remove(&addr.ip());
            }
        }
        Some(record)
    }

    /// The number of the connection that is set up with the address.
    pub fn number(&mut self, addr: SocketAddr) -> Option<u64> {
        self.record(addr).map(|record| record.number)
    }

    /// The connection with the address, if it has been greeted.
    pub fn line(&mut self, addr: SocketAddr) -> Option<Arc<Line>> {
        self.record(addr)?.line.clone()
    }

    pub fn attach_decoder(&mut self, addr: SocketAddr) -> Result<Arc<Line>, String> {
        self.attach(addr, Stage::Greeted, Stage::Reading)
    }

    pub fn attach_encoder(&mut self, addr: SocketAddr) -> Result<Arc<Line>, String> {
        self.attach(addr, Stage::Reading, Stage::Attached)
    }

    fn attach(&mut self, addr: SocketAddr, from: Stage, to: Stage) -> Result<Arc<Line>, String> {
        let record = self.record(addr).filter(|record| record.stage == from);
        let Some(record) = record else { return Err(format!("a codec is made for {addr}, which is not {from:?}")) };
        record.stage = to;
        record.line.clone().ok_or_else(|| format!("{addr} was not greeted"))
    }

    /// `on_connect` begins; tells whether the connection's `on_disconnect` has begun already, and whose turn it is if not.
    pub fn on_connect(&mut self, addr: SocketAddr, is_foreign: bool) -> Result<(bool, Option<Arc<Line>>), String> {
        let owed = match self.accounts.get_mut(&addr) {
            Some(account) if !is_foreign && account.owed > 0 => {
                account.owed -= 1;
                if account.owed == 0 && account.current.is_none() {
                    self.accounts.remove(&addr);
                }
                return Ok((true, None));
            }
            account => account.and_then(|account| account.current.as_mut()),
        };
        match owed {
            Some(record) if record.is_live() && record.is_foreign() == is_foreign && !record.is_on_connect_begun => {
                record.is_on_connect_begun = true;
                Ok((false, record.line.clone()))
            }
            _ if is_foreign && self.foreign_owed > 0 => {
                self.foreign_owed -= 1;
                Ok((true, None))
            }
            other => Err(format!("on_connect of {addr} for {other:?}")),
        }
    }

    /// `on_disconnect` begins; tells whether the connection's `on_connect` has begun already, and whose end it is.
    pub fn on_disconnect(
        &mut self,
        addr: SocketAddr,
        listed: Option<&Arc<Stats>>,
    ) -> Result<(bool, Option<Arc<Line>>), String> {
        let is_it =
            |record: &Record| record.is_live() && listed.is_none_or(|listed| Arc::ptr_eq(listed, &record.stats));
        let Some(record) = self.remove(addr, is_it) else {
            let account = self.accounts.get(&addr);
            return Err(format!("on_disconnect of {addr}, of which this is known: {account:?}"));
        };
        if let Some(line) = &record.line {
            // It is still writable, and sends are no longer found to be its.
            line.other_sends.fetch_add(1, SeqCst);
        }
        match (record.is_on_connect_begun, record.is_foreign()) {
            (true, _) => {}
            (false, true) => self.foreign_owed += 1,
            (false, false) => self.accounts.entry(addr).or_default().owed += 1,
        }
        Ok((record.is_on_connect_begun, record.line))
    }

    /// The serial number of the last message of a lane that the connection with the address accepted, if it is known.
    pub fn last_sent(&mut self, addr: SocketAddr, lane: u8) -> Option<u32> {
        self.record(addr)?.sent.iter().find(|(other, _)| *other == lane).map(|(_, serial)| *serial)
    }

    pub fn note_sent(&mut self, addr: SocketAddr, lane: u8, serial: u32) {
        let Some(record) = self.record(addr) else { return };
        match record.sent.iter_mut().find(|(other, _)| *other == lane) {
            Some((_, last)) => *last = serial,
            None => record.sent.push((lane, serial)),
        }
    }

    /// Called when the node is gone: every connection must have had both hooks, or neither if it never went live.
    pub fn audit(&self) -> Result<(), String> {
        let is_settled = |account: &Account| {
            account.owed == 0 && account.current.as_ref().is_none_or(|record| !record.is_on_connect_begun)
        };
        match self.accounts.iter().find(|(_, account)| !is_settled(account)) {
            Some(unsettled) => Err(format!("a hook is missing at the end: {unsettled:?}")),
            None => Ok(()),
        }
    }
}
