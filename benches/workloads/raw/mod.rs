//! The yardstick: what a careful person writes by hand on tokio for each workload.
//!
//! A `TcpStream` with `FramedRead` and `FramedWrite`, buffers of 64 KiB and the `LengthDelimitedCodec`; a sender feeds all
//! it has and flushes once, a receiver loops over `next()`.

pub mod many;
pub mod pair;
mod serve;

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
};
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

use super::{
    clients,
    workload::{BACKLOG, Contender, Sample, Workload, on_workers, seated},
};

/// The yardstick as a contender.
pub const CONTENDER: Contender = Contender { name: "raw tokio", run };

fn run(workload: &Workload, workers: usize) -> Option<Sample> {
    Some(match *workload {
        Workload::OneWay { size, messages } => on_workers(workers, pair::one_way(size, messages)),
        Workload::PingPong { size, round_trips, answered } => {
            on_workers(workers, pair::ping_pong(size, round_trips, answered))
        }
        Workload::Churn { connections } => on_workers(workers, pair::churn(connections)),
        Workload::IdlePairs { pairs } => on_workers(workers, pair::idle(pairs)),
        Workload::FanIn { senders, size, messages_each } => {
            on_workers(workers, many::fan_in(senders, size, messages_each))
        }
        Workload::FanOut { receivers, size, messages_each, sender } => {
            seated(workers, sender, many::fan_out(receivers, size, messages_each))
        }
        Workload::Relay { nodes, size, journeys } => on_workers(workers, many::relay(nodes, size, journeys)),
        Workload::Crowd { few, many, busy, messages } => {
            clients::crowd(|| serve::serve(workers), few, many, busy, messages)
        }
        Workload::Fairness { honest, requests_each } => {
            clients::fairness(|| serve::serve(workers), honest, requests_each)
        }
        // A bare listener is no measure for a node.
        Workload::IdleNodes { .. } | Workload::UpDown { .. } => return None,
    })
}

/// The buffer of each direction.
const BUFFER: usize = 64 << 10;

pub fn reader<R: AsyncRead>(half: R) -> FramedRead<R, LengthDelimitedCodec> {
    FramedRead::with_capacity(half, LengthDelimitedCodec::new(), BUFFER)
}

pub fn writer<W: AsyncWrite>(half: W) -> FramedWrite<W, LengthDelimitedCodec> {
    let mut writer = FramedWrite::new(half, LengthDelimitedCodec::new());
    writer.set_backpressure_boundary(BUFFER);
    writer
}

fn local_listener() -> TcpListener {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("a port of the loopback interface");
    socket.listen(BACKLOG).expect("a listener")
}

async fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().await.expect("a connection");
    stream.set_nodelay(true).expect("a socket that takes options");
    stream
}

/// Connects to a listener that has nobody else waiting; returns the near and the far end.
async fn connect(listener: &TcpListener) -> (TcpStream, TcpStream) {
    let near = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("a listener");
    near.set_nodelay(true).expect("a socket that takes options");
    (near, accept(listener).await)
}
