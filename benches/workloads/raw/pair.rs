//! Two ends and one connection.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    sync::Arc,
    task::{Poll, ready},
    time::Instant,
};

use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_util::{
    bytes::Bytes,
    codec::{FramedRead, FramedWrite, LengthDelimitedCodec},
};

use super::{
    super::{
        cpu, heap,
        workload::{Answered, IDLE_TRAFFIC, IDLE_TRAFFIC_SIZE, Sample, micros, percentile},
    },
    accept, connect, local_listener, reader, writer,
};

pub async fn one_way(size: usize, messages: u64) -> Sample {
    let (near, far) = connect(&local_listener()).await;
    one_way_over(near, far, size, messages).await
}

pub async fn one_way_over<W, R>(near: W, far: R, size: usize, messages: u64) -> Sample
where
    W: AsyncWrite + Unpin,
    R: AsyncRead + Unpin + Send + 'static,
{
    let payload = Bytes::from(vec![7; size]);
    let warm_up = messages.div_ceil(10);
    let (warm, warmed_up) = oneshot::channel();
    let receiver = tokio::spawn(async move {
        let mut frames = reader(far);
        receive(&mut frames, warm_up).await;
        warm.send(()).expect("the sender waits");
        receive(&mut frames, messages).await;
        Instant::now()
    });

    let mut sink = writer(near);
    send(&mut sink, &payload, warm_up).await;
    warmed_up.await.expect("a receiver");
    let (start, cpu) = (Instant::now(), cpu::Stopwatch::start());
    send(&mut sink, &payload, messages).await;
    let end = receiver.await.expect("a receiver");
    vec![messages as f64 / (end - start).as_secs_f64(), cpu.micros_per(messages)]
}

/// Feeds all, flushes once.
pub async fn send<W: AsyncWrite + Unpin>(
    sink: &mut FramedWrite<W, LengthDelimitedCodec>,
    payload: &Bytes,
    messages: u64,
) {
    for _ in 0..messages {
        sink.feed(payload.clone()).await.expect("a receiver");
    }
    SinkExt::<Bytes>::flush(sink).await.expect("a receiver");
}

async fn receive<R: AsyncRead + Unpin>(frames: &mut FramedRead<R, LengthDelimitedCodec>, messages: u64) {
    for _ in 0..messages {
        frames.next().await.expect("a sender").expect("whole frames");
    }
}

pub async fn ping_pong(size: usize, round_trips: usize, answered: Answered) -> Sample {
    let (near, far) = connect(&local_listener()).await;
    ping_pong_over(near.into_split(), far.into_split(), size, round_trips, answered).await
}

pub async fn ping_pong_over<R, W>(
    near: (R, W),
    far: (R, W),
    size: usize,
    round_trips: usize,
    answered: Answered,
) -> Sample
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let payload = Bytes::from(vec![7; size]);
    let warm_up = round_trips.div_ceil(10);
    tokio::spawn(echo(far.0, far.1));

    let (mut frames, mut sink) = (reader(near.0), writer(near.1));
    let mut times = Vec::with_capacity(round_trips);
    match answered {
        Answered::InPlace => {
            for trip in 0..warm_up + round_trips {
                let start = Instant::now();
                sink.send(payload.clone()).await.expect("an echo");
                frames.next().await.expect("an echo").expect("whole frames");
                if trip >= warm_up {
                    times.push(micros(start.elapsed()));
                }
            }
        }
        Answered::ByTask => {
            let (arrived, mut arrivals) = mpsc::unbounded_channel();
            tokio::spawn(async move { while frames.next().await.is_some_and(|_| arrived.send(()).is_ok()) {} });
            for trip in 0..warm_up + round_trips {
                let start = Instant::now();
                sink.send(payload.clone()).await.expect("an echo");
                arrivals.recv().await.expect("an echo");
                if trip >= warm_up {
                    times.push(micros(start.elapsed()));
                }
            }
        }
    }
    vec![percentile(&mut times, 0.5), percentile(&mut times, 0.99)]
}

async fn echo<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(read_half: R, write_half: W) {
    let (mut frames, mut sink) = (reader(read_half), writer(write_half));
    while let Some(Ok(frame)) = frames.next().await {
        if sink.send(frame.freeze()).await.is_err() {
            break;
        }
    }
}

pub async fn churn(connections: usize) -> Sample {
    let listener = local_listener();
    let addr = listener.local_addr().expect("bound");
    let accepting = tokio::spawn(async move {
        loop {
            tokio::spawn(drain(accept(&listener).await));
        }
    });

    for _ in 0..connections.div_ceil(10) {
        connect_and_end(addr).await;
    }
    let (start, cpu) = (Instant::now(), cpu::Stopwatch::start());
    for _ in 0..connections {
        connect_and_end(addr).await;
    }
    let sample = vec![connections as f64 / start.elapsed().as_secs_f64(), cpu.micros_per(connections as u64)];
    accepting.abort();
    sample
}

/// Keeps the write half where a program would send from, and reads in a task.
async fn connect_and_end(addr: SocketAddr) {
    let stream = TcpStream::connect(addr).await.expect("a listener");
    stream.set_nodelay(true).expect("a socket that takes options");
    let (read_half, write_half) = stream.into_split();
    let reading = tokio::spawn(drain(read_half));
    drop(write_half);
    reading.abort();
    _ = reading.await;
}

async fn drain<R: AsyncRead + Unpin>(half: R) {
    let mut frames = reader(half);
    while let Some(Ok(_)) = frames.next().await {}
}

/// The least there is: at both ends a parked task, and no buffer while nothing comes.
pub async fn idle(pairs: usize) -> Sample {
    heap::start_counting();
    let listener = local_listener();
    let mut ends = Vec::with_capacity(2 * pairs);
    open(&listener, &mut ends, pairs).await;
    close(&mut ends).await;
    let base = heap::settled().await;

    open(&listener, &mut ends, pairs).await;
    let before = heap::settled().await;
    for (end, _) in &ends {
        for _ in 0..IDLE_TRAFFIC {
            _ = end.try_write(&[1; IDLE_TRAFFIC_SIZE]);
        }
    }
    let after = heap::settled().await;
    close(&mut ends).await;
    [before, after].map(|bytes| (bytes - base) as f64 / pairs as f64).to_vec()
}

type End = (Arc<TcpStream>, JoinHandle<()>);

async fn open(listener: &TcpListener, ends: &mut Vec<End>, pairs: usize) {
    for _ in 0..pairs {
        let (near, far) = connect(listener).await;
        for end in [near, far].map(Arc::new) {
            let parked = tokio::spawn(park(Arc::clone(&end)));
            ends.push((end, parked));
        }
    }
}

async fn close(ends: &mut Vec<End>) {
    for (_, parked) in ends.drain(..) {
        parked.abort();
        _ = parked.await;
    }
}

async fn park(stream: Arc<TcpStream>) {
    poll_fn(|cx| {
        while ready!(stream.poll_read_ready(cx)).is_ok() {
            let mut buffer = [0; 4 << 10];
            match stream.try_read(&mut buffer) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => break,
            }
        }
        Poll::Ready(())
    })
    .await;
}
