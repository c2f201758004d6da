//! A server that answers.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use futures_util::{StreamExt, future};
use tokio::{net::TcpStream, sync::oneshot};

use super::{
    super::{
        served::{Served, wants_answer},
        workload::runtime,
    },
    accept, local_listener, reader, writer,
};

pub fn serve(workers: usize) -> Served {
    let runtime = runtime(workers);
    let listener = runtime.block_on(async { local_listener() });
    let addr = listener.local_addr().expect("bound");
    let live = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&live);
    let (stop, stopped) = oneshot::channel::<()>();
    runtime.spawn(async move {
        let accepting = async {
            loop {
                tokio::spawn(answer(accept(&listener).await, Arc::clone(&counted)));
            }
        };
        tokio::select! {
            () = accepting => {}
            _ = stopped => {}
        }
    });
    Served {
        addr,
        runtime,
        num_connected: Box::new(move || live.load(Relaxed)),
        stop: Box::pin(async move { drop(stop) }),
    }
}

/// Feeds the answers of what has come at once, and flushes when there is nothing more.
async fn answer(stream: TcpStream, live: Arc<AtomicUsize>) {
    live.fetch_add(1, Relaxed);
    let (read_half, write_half) = stream.into_split();
    let answers = reader(read_half)
        .filter(|frame| future::ready(frame.as_ref().map_or(true, |frame| wants_answer(frame))))
        .map(|frame| frame.map(|frame| frame.freeze()));
    _ = answers.forward(writer(write_half)).await;
    live.fetch_sub(1, Relaxed);
}
