//! The five protocols of one node may be implemented by different types.

use std::{io, net::SocketAddr};

use pea2pea::{
    Connection, ConnectionSide, DisconnectOrigin, Node, Pea2Pea,
    protocols::{Handshake, OnConnect, OnDisconnect, Reading, Writing},
};
use tokio_util::{
    bytes::{Bytes, BytesMut},
    codec::{BytesCodec, LengthDelimitedCodec},
};

use crate::{
    common::{
        Events,
        actor::{Actor, Script, Unhurried, silent},
        in_time, local_node, wait_until,
    },
    ledger,
};

/// Makes types that are nothing but a node.
macro_rules! owners {
    ($($owner:ident)*) => { $(
        #[derive(Clone)]
        struct $owner {
            node: Node,
            #[allow(dead_code, reason = "some only send")]
            events: Events<&'static str>,
        }

        impl $owner {
            fn of(node: &Node, events: &Events<&'static str>) -> Self {
                Self { node: node.clone(), events: events.clone() }
            }
        }

        impl Pea2Pea for $owner {
            fn node(&self) -> &Node {
                &self.node
            }
        }
    )* };
}

owners!(Shaker Reader Writer Greeter Mourner Sender Stranger);

impl Handshake for Shaker {
    async fn perform_handshake(&self, conn: Connection) -> io::Result<Connection> {
        self.events.push("handshake");
        Ok(conn)
    }
}

impl Reading for Reader {
    type Message = BytesMut;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        LengthDelimitedCodec::new()
    }

    async fn process_message(&self, _source: SocketAddr, _message: BytesMut) {
        self.events.push("process");
    }
}

macro_rules! writers {
    ($($writer:ident: $message:ty, $codec:ty;)*) => { $(
        impl Writing for $writer {
            type Message = $message;
            type Codec = $codec;

            fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
                <$codec>::default()
            }
        }
    )* };
}

writers! {
    Writer: Bytes, LengthDelimitedCodec;
    // The encoder of the type that enabled Writing counts, not the one of the type that sends.
    Sender: Bytes, BytesCodec;
    Stranger: BytesMut, BytesCodec;
}

impl OnConnect for Greeter {
    async fn on_connect(&self, _addr: SocketAddr) {
        self.events.push("on_connect");
    }
}

impl OnDisconnect for Mourner {
    async fn on_disconnect(&self, _addr: SocketAddr, _origin: DisconnectOrigin) {
        self.events.push("on_disconnect");
    }
}

#[tokio::test(crate = "ledger")]
#[expect(deprecated, reason = "it is lossy, and has to do what it promises all the same")]
async fn the_protocols_of_one_node_may_belong_to_different_types() {
    let (node, events) = (local_node(), Events::default());
    let (peer, addr) =
        Actor::<Unhurried>::listening(Script { process: silent(), writes: true, ..Default::default() }).await;
    Shaker::of(&node, &events).enable_handshake().await;
    Reader::of(&node, &events).enable_reading().await;
    Writer::of(&node, &events).enable_writing().await;
    Greeter::of(&node, &events).enable_on_connect().await;
    Mourner::of(&node, &events).enable_on_disconnect().await;
    node.connect(addr).await.unwrap();
    events.wait_for("on_connect").await;

    let sender = Sender::of(&node, &events);
    in_time("receipt", sender.unicast(addr, Bytes::from_static(b"1")).unwrap()).await.unwrap().unwrap();
    sender.unicast_fast(addr, Bytes::from_static(b"2")).unwrap();
    sender.broadcast(Bytes::from_static(b"3")).unwrap();
    wait_until("all three arrive", || peer.received() == 3).await;

    let stranger = Stranger::of(&node, &events);
    let refused = [
        stranger.unicast(addr, BytesMut::new()).map(drop).unwrap_err(),
        stranger.unicast_fast(addr, BytesMut::new()).unwrap_err(),
        stranger.broadcast(BytesMut::new()).unwrap_err(),
    ];
    assert_eq!(refused.map(|error| error.kind()), [io::ErrorKind::Unsupported; 3]);

    peer.unicast_fast(peer.only_peer().await, Bytes::new()).unwrap();
    events.wait_for("process").await;
    assert!(in_time("disconnect", node.disconnect(addr)).await);
    assert_eq!(events.all(), ["handshake", "on_connect", "process", "on_disconnect"]);
}
