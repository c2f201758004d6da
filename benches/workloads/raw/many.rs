//! Many ends: to one, from one, in a line.

use std::{sync::Arc, time::Instant};

use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::mpsc,
};
use tokio_util::bytes::Bytes;

use super::{
    super::{
        cpu,
        tally::Tally,
        workload::{Sample, micros},
    },
    connect, local_listener, pair, reader, writer,
};

pub async fn fan_in(senders: usize, size: usize, messages_each: u64) -> Sample {
    fan_in_over(connections(senders).await, size, messages_each).await
}

async fn connections(count: usize) -> Vec<(TcpStream, TcpStream)> {
    let listener = local_listener();
    let mut connections = Vec::with_capacity(count);
    for _ in 0..count {
        connections.push(connect(&listener).await);
    }
    connections
}

pub async fn fan_in_over<W, R>(connections: Vec<(W, R)>, size: usize, messages_each: u64) -> Sample
where
    W: AsyncWrite + Unpin + Send + 'static,
    R: AsyncRead + Unpin + Send + 'static,
{
    let payload = Bytes::from(vec![7; size]);
    let tally = Arc::new(Tally::default());
    let mut sinks = Vec::with_capacity(connections.len());
    for (near, far) in connections {
        tokio::spawn(count(far, Arc::clone(&tally)));
        sinks.push(writer(near));
    }

    let warm_up = messages_each.div_ceil(10);
    tally.expect(warm_up * sinks.len() as u64);
    for sink in &mut sinks {
        pair::send(sink, &payload, warm_up).await;
    }
    tally.reached().await;

    let messages = messages_each * sinks.len() as u64;
    tally.expect(messages);
    let (start, cpu) = (Instant::now(), cpu::Stopwatch::start());
    for mut sink in sinks {
        let payload = payload.clone();
        tokio::spawn(async move { pair::send(&mut sink, &payload, messages_each).await });
    }
    tally.reached().await;
    vec![messages as f64 / start.elapsed().as_secs_f64(), cpu.micros_per(messages)]
}

pub async fn fan_out(receivers: usize, size: usize, messages_each: u64) -> Sample {
    fan_out_over(connections(receivers).await, size, messages_each).await
}

/// Feeds one message to each receiver in turn and flushes them all at the end.
pub async fn fan_out_over<W, R>(connections: Vec<(W, R)>, size: usize, messages_each: u64) -> Sample
where
    W: AsyncWrite + Unpin,
    R: AsyncRead + Unpin + Send + 'static,
{
    let payload = Bytes::from(vec![7; size]);
    let (mut sinks, mut tallies) = (Vec::new(), Vec::new());
    for (near, far) in connections {
        let tally = Arc::new(Tally::default());
        tokio::spawn(count(far, Arc::clone(&tally)));
        tallies.push(tally);
        sinks.push(writer(near));
    }
    let mut sample = Vec::new();
    for messages_each in [messages_each.div_ceil(10), messages_each] {
        tallies.iter().for_each(|tally| tally.expect(messages_each));
        let (start, cpu) = (Instant::now(), cpu::Stopwatch::start());
        for _ in 0..messages_each {
            for sink in &mut sinks {
                sink.feed(payload.clone()).await.expect("a receiver");
            }
        }
        for sink in &mut sinks {
            SinkExt::<Bytes>::flush(sink).await.expect("a receiver");
        }
        for tally in &tallies {
            tally.reached().await;
        }
        let messages = messages_each * sinks.len() as u64;
        sample = vec![messages as f64 / start.elapsed().as_secs_f64(), cpu.micros_per(messages)];
    }
    sample
}

async fn count<R: AsyncRead + Unpin>(stream: R, tally: Arc<Tally>) {
    let mut frames = reader(stream);
    while let Some(Ok(_)) = frames.next().await {
        tally.add();
    }
}

pub async fn relay(nodes: usize, size: usize, journeys: usize) -> Sample {
    let listener = local_listener();
    let payload = Bytes::from(vec![7; size]);
    let (first, mut incoming) = connect(&listener).await;
    for _ in 2..nodes {
        let (near, far) = connect(&listener).await;
        tokio::spawn(forward(incoming, near));
        incoming = far;
    }
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut frames = reader(incoming);
        while frames.next().await.is_some_and(|_| arrived.send(()).is_ok()) {}
    });

    let mut sink = writer(first);
    let warm_up = journeys.div_ceil(10);
    let mut start = Instant::now();
    for journey in 0..warm_up + journeys {
        if journey == warm_up {
            start = Instant::now();
        }
        sink.send(payload.clone()).await.expect("a line");
        arrivals.recv().await.expect("a line");
    }
    vec![micros(start.elapsed()) / (journeys * (nodes - 1)) as f64]
}

async fn forward(from: TcpStream, to: TcpStream) {
    let (mut frames, mut sink) = (reader(from), writer(to));
    while let Some(Ok(frame)) = frames.next().await {
        if sink.send(frame.freeze()).await.is_err() {
            break;
        }
    }
}
