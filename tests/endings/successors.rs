//! What still runs for a connection that has ended does not reach its successor at the same address.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use futures_util::FutureExt;
use pea2pea::{
    Config, ConnectionInfo, ConnectionSide, Node, Pea2Pea,
    protocols::{Reading, Writing},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::{
    bytes::{Bytes, BytesMut},
    codec::BytesCodec,
};

use crate::{
    common::{in_time, nodes::listed, setups::raw_peer},
    ledger,
};

/// What a late `process_message` was told.
struct Told {
    sent: io::Result<()>,
    disconnected: Option<bool>,
    is_connected: bool,
    info: Option<ConnectionInfo>,
}

#[derive(Clone)]
struct Late {
    node: Node,
    /// Told when a message is being processed.
    begun: mpsc::Sender<()>,
    /// Lets it go on.
    go_on: Arc<Mutex<mpsc::Receiver<()>>>,
    told: mpsc::Sender<Told>,
}

impl Pea2Pea for Late {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Reading for Late {
    type Message = BytesMut;
    type Codec = BytesCodec;

    fn codec(&self, _: SocketAddr, _: ConnectionSide) -> BytesCodec {
        BytesCodec::new()
    }

    async fn process_message(&self, source: SocketAddr, _: BytesMut) {
        self.begun.send(()).unwrap();
        // Without an await: nothing can stop it before it goes on.
        let go_on = || self.go_on.lock().unwrap().recv_timeout(Duration::from_secs(60));
        tokio::task::block_in_place(go_on).unwrap();
        let sent = self.unicast_fast(source, Bytes::from_static(b"late"));
        let disconnected = self.node.disconnect(source).now_or_never();
        let (is_connected, info) = (self.node.is_connected(source), self.node.connection_info(source));
        self.told.send(Told { sent, disconnected, is_connected, info }).unwrap();
    }
}

impl Writing for Late {
    type Message = Bytes;
    type Codec = BytesCodec;

    fn codec(&self, _: SocketAddr, _: ConnectionSide) -> BytesCodec {
        BytesCodec::new()
    }
}

#[tokio::test(crate = "ledger", flavor = "multi_thread", worker_threads = 3)]
async fn a_process_message_that_outlives_its_connection_reaches_no_successor() {
    let (listener, addr) = raw_peer().await;
    let ((begun, begins), (go, go_on), (told, tells)) = (mpsc::channel(), mpsc::channel(), mpsc::channel());
    let node = listed(Config { listener_addr: None, ..Default::default() });
    let late = Late { node, begun, go_on: Arc::new(Mutex::new(go_on)), told };
    late.enable_reading().await;
    late.enable_writing().await;

    late.node.connect(addr).await.unwrap();
    let (mut first, _) = in_time("the first connection", listener.accept()).await.unwrap();
    first.write_all(b"process this").await.unwrap();
    let begun = tokio::task::spawn_blocking(move || begins.recv_timeout(Duration::from_secs(60)));
    in_time("process_message", begun).await.unwrap().unwrap();

    assert!(in_time("disconnect", late.node.disconnect(addr)).await);
    late.node.connect(addr).await.unwrap();
    let (mut second, _) = in_time("its successor", listener.accept()).await.unwrap();
    go.send(()).unwrap();
    let told = tokio::task::spawn_blocking(move || tells.recv_timeout(Duration::from_secs(60)));
    let told = in_time("the late calls", told).await.unwrap().unwrap();
    assert_eq!(told.sent.unwrap_err().kind(), io::ErrorKind::NotConnected);
    assert_eq!(told.disconnected, Some(false));
    assert!(!told.is_connected, "its own connection is gone");
    assert!(told.info.is_none(), "these are the facts of the successor");

    assert!(late.node.is_connected(addr));
    assert!(late.node.connection_info(addr).is_some());
    let receipt = late.unicast(addr, Bytes::from_static(b"fresh")).unwrap();
    in_time("the receipt", receipt).await.unwrap().unwrap();
    let mut received = [0; 5];
    in_time("a message", second.read_exact(&mut received)).await.unwrap();
    assert_eq!(&received, b"fresh");
    in_time("shut_down", late.node.shut_down()).await;
}
