//! The workers: each performs its own plan, and knows nothing of the others.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::{JoinHandle, yield_now},
    time::sleep,
};

use crate::{
    actions::Worker,
    common::wire::Random,
    plan::{Action, MAX_PAUSE, Plan},
    strangers::Kept,
    tally::Event,
    world::{EXTRA_WORKERS, WORKERS, World},
};

/// How many actions of each worker are digested.
pub const DIGESTED: usize = 500;

/// Distinguishes the dice of the bursts from those of the workers.
const BURSTS: u64 = 0xB425;

/// Starts the workers, and whoever sends for extra workers now and then.
pub fn start(world: &Arc<World>) -> Vec<JoinHandle<()>> {
    let mut crew: Vec<_> = (0..WORKERS).map(|lane| tokio::spawn(work(Arc::clone(world), lane))).collect();
    crew.push(tokio::spawn(send_bursts(Arc::clone(world))));
    crew
}

fn seed_of(world: &World, whom: u64) -> u64 {
    Random::new(world.seed ^ whom.wrapping_mul(0x9e37_79b9_7f4a_7c15)).next()
}

async fn work(world: Arc<World>, lane: usize) {
    let plan = Plan::new(seed_of(&world, lane as u64), true);
    let mut digest = (0, lane as u64);
    let note = |action: &Action| {
        if digest.0 < DIGESTED {
            digest = (digest.0 + 1, action.digest(digest.1));
            if digest.0 == DIGESTED {
                let mut all = world.digest.lock().unwrap();
                *all = (all.0 + 1, all.1 ^ digest.1);
            }
        }
    };
    perform(&world, lane, plan, note).await;
}

async fn perform(world: &Arc<World>, lane: usize, plan: impl Iterator<Item = Action>, mut note: impl FnMut(&Action)) {
    let mut worker = Worker { world: Arc::clone(world), lane, kept: Kept::default() };
    for action in plan {
        if world.is_stopping() {
            break;
        }
        note(&action);
        let progress = &world.progress[lane];
        progress.begin(world, action.kind);
        Box::pin(worker.perform(action)).await;
        progress.end();
        // The timer knows no less than a millisecond: waiting for its next tick, half a millisecond away on average, with a
        // probability that grows with the pause, makes the pauses right in the mean.
        if action.pause * u64::from(u32::MAX) > MAX_PAUSE * (action.seed >> 32) {
            sleep(Duration::from_micros(1)).await;
        } else {
            yield_now().await;
        }
    }
}

/// Every now and then a few more workers, who do not pause.
async fn send_bursts(world: Arc<World>) {
    let mut dice = Random::new(seed_of(&world, BURSTS));
    while !world.is_stopping() {
        for _ in 0..10 + dice.below(30) {
            if !world.is_stopping() {
                sleep(Duration::from_millis(100)).await;
            }
        }
        world.count(Event::Burst);
        let extra: Vec<_> = (0..4 + dice.below(EXTRA_WORKERS - 3))
            .map(|number| {
                let plan = Plan::new(dice.next(), false).take(100 + dice.below(400));
                let world = Arc::clone(&world);
                tokio::spawn(async move { perform(&world, WORKERS + number, plan, |_| {}).await })
            })
            .collect();
        for worker in extra {
            // A panic has been noticed where it happened.
            _ = worker.await;
        }
    }
}
