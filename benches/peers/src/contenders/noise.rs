//! This crate with Noise in its codecs, as in the example `noise`: XX, AES-256-GCM.

pub use pea2pea as p2p;

#[path = "../../../workloads/node/mod.rs"]
pub mod node;

use crate::workloads::workload::{Contender, Sample, Workload};

pub const CONTENDER: Contender = Contender { name: "ours+noise", run };

fn run(workload: &Workload, workers: usize) -> Option<Sample> {
    match workload {
        // Their clients speak in the clear.
        Workload::Crowd { .. } | Workload::Fairness { .. } => None,
        _ => node::run(workload, workers),
    }
}

pub mod wire {
    use std::{io, net::SocketAddr, sync::LazyLock};

    use pea2pea::{Connection, protocols::Handshake};
    use pea2pea_secure::noise::{Identity, Opener, Sealer, Sessions, secure};

    pub type Decoding = Opener;
    pub type Encoding = Sealer;

    /// Nobody asks who the other side is, so all may be the same one.
    static IDENTITY: LazyLock<Identity> = LazyLock::new(|| Identity::generate().expect("a source of randomness"));

    /// What a node keeps for its connections.
    #[derive(Clone, Default)]
    pub struct Wire(Sessions);

    impl Wire {
        pub async fn secure(&self, node: &impl Handshake, mut connection: Connection) -> io::Result<Connection> {
            let (addr, own_side) = (connection.addr(), !connection.side());
            let stream = node.borrow_stream(&mut connection);
            stream.set_nodelay(true)?;
            self.0.begin(addr, secure(stream, own_side, &IDENTITY, None, |_| true).await?);
            Ok(connection)
        }

        pub fn decoding(&self, addr: SocketAddr) -> Decoding {
            self.0.opener(addr)
        }

        pub fn encoding(&self, addr: SocketAddr) -> Encoding {
            self.0.sealer(addr)
        }

        pub fn end(&self, addr: SocketAddr) {
            self.0.end(addr);
        }
    }
}
