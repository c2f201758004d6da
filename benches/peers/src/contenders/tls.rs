//! This crate with TLS in the place of the TCP stream, as in the example `tls`: TLS 1.3, certificates on both sides.

pub use pea2pea as p2p;

#[path = "../../../workloads/node/mod.rs"]
pub mod node;

use crate::workloads::workload::{Contender, Sample, Workload};

pub const CONTENDER: Contender = Contender { name: "ours+tls", run };

fn run(workload: &Workload, workers: usize) -> Option<Sample> {
    match workload {
        // Their clients speak in the clear.
        Workload::Crowd { .. } | Workload::Fairness { .. } => None,
        _ => node::run(workload, workers),
    }
}

pub mod wire {
    use std::{io, net::SocketAddr, sync::LazyLock};

    use pea2pea::{Connection, ConnectionSide, protocols::Handshake};
    use pea2pea_secure::tls::{Authority, Tls};
    use tokio_util::codec::LengthDelimitedCodec;

    pub type Decoding = LengthDelimitedCodec;
    pub type Encoding = LengthDelimitedCodec;

    /// One certificate for all.
    static TLS: LazyLock<Tls> = LazyLock::new(|| {
        let authority = Authority::new("the benches").expect("a certificate");
        let credentials = authority.issue(NAME).expect("a certificate");
        Tls::new(&authority, Some(&credentials)).expect("certificates that fit")
    });

    const NAME: &str = "everybody";

    /// What a node keeps for its connections.
    #[derive(Clone, Default)]
    pub struct Wire;

    impl Wire {
        pub async fn secure(&self, node: &impl Handshake, mut connection: Connection) -> io::Result<Connection> {
            let stream = node.take_stream(&mut connection);
            stream.set_nodelay(true)?;
            let stream = match connection.side() {
                ConnectionSide::Initiator => TLS.accept(stream).await?.0,
                ConnectionSide::Responder => TLS.dial(stream, NAME).await?,
            };
            node.return_stream(&mut connection, stream);
            Ok(connection)
        }

        pub fn decoding(&self, _: SocketAddr) -> Decoding {
            LengthDelimitedCodec::new()
        }

        pub fn encoding(&self, _: SocketAddr) -> Encoding {
            LengthDelimitedCodec::new()
        }

        pub fn end(&self, _: SocketAddr) {}
    }
}
