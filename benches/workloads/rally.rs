//! The side of a ping-pong that measures, where messages come in a callback.

use std::{sync::Mutex, time::Instant};

use tokio::sync::Notify;

use super::workload::micros;

/// Round trips, those of the warm-up first.
#[derive(Debug)]
pub struct Rally {
    score: Mutex<Score>,
    /// Told after the last one.
    over: Notify,
}

#[derive(Debug)]
struct Score {
    /// When the ball left.
    start: Instant,
    /// How often it is still to come back.
    left: usize,
    /// How many microseconds it took.
    times: Vec<f64>,
}

impl Rally {
    pub fn new(round_trips: usize) -> Self {
        let score = Score { start: Instant::now(), left: round_trips, times: Vec::with_capacity(round_trips) };
        Self { score: Mutex::new(score), over: Notify::new() }
    }

    /// Notes that the ball is back; returns whether it has to leave again.
    pub fn score(&self) -> bool {
        let mut score = self.score.lock().expect("no panic meanwhile");
        let time = micros(score.start.elapsed());
        score.times.push(time);
        score.left -= 1;
        if score.left == 0 {
            self.over.notify_one();
        }
        score.start = Instant::now();
        score.left > 0
    }

    /// Waits for the last round trip; returns the microseconds of all but the first ones.
    pub async fn times(&self, warm_up: usize) -> Vec<f64> {
        self.over.notified().await;
        self.score.lock().expect("no panic meanwhile").times.split_off(warm_up)
    }
}
