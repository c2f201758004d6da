//! The connections that a node has dialled: few of them, for those that it asks often.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use parking_lot::Mutex;

#[derive(Clone, Default)]
pub(crate) struct Links(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    by_addr: HashMap<SocketAddr, Link>,
    uses: u64,
    most: usize,
}

#[derive(Default)]
struct Link {
    last_use: u64,
    questions: usize,
}

impl Links {
    /// Counts a use of the connection to this address, and names the one that has to go for it.
    pub(crate) fn take(&self, addr: SocketAddr) -> (LinkUse<'_>, Option<SocketAddr>) {
        let mut table = self.0.lock();
        let mut not_needed = None;
        if table.by_addr.len() == MAX_LINKS && !table.by_addr.contains_key(&addr) {
            let idle = table.by_addr.iter().filter(|(_, link)| link.questions == 0);
            not_needed = idle.min_by_key(|(_, link)| link.last_use).map(|(addr, _)| *addr);
            not_needed.and_then(|addr| table.by_addr.remove(&addr));
        }
        table.uses += 1;
        let last_use = table.uses;
        let link = table.by_addr.entry(addr).or_default();
        link.last_use = last_use;
        link.questions += 1;
        table.most = table.most.max(table.by_addr.len());
        (LinkUse { links: self, addr }, not_needed)
    }

    pub(crate) fn most(&self) -> usize {
        self.0.lock().most
    }
}

/// A question that is under way.
pub(crate) struct LinkUse<'a> {
    links: &'a Links,
    addr: SocketAddr,
}

impl Drop for LinkUse<'_> {
    fn drop(&mut self) {
        if let Some(link) = self.links.0.lock().by_addr.get_mut(&self.addr) {
            link.questions -= 1;
        }
    }
}

/// How many connections a node keeps for its own questions.
pub(crate) const MAX_LINKS: usize = 8;
