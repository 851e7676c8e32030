//! The rush itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use service_core::ids::IdSource;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::domain::command::{Action, Actor, ActorRole, Command, Register, WhenFull};
use crate::domain::decide::Outcome;
use crate::domain::refusal::Refusal;
use crate::domain::registration::Labels;
use crate::seating::{Answer, CommandError, Seating};

/// How long one made-up user waits for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What to rehearse.
#[derive(Clone, Copy, Debug)]
pub struct Rush {
    /// Users who try once each.
    pub users: i32,
    /// How many at the same time.
    pub concurrency: i32,
    /// What they do when there are no seats.
    pub when_full: WhenFull,
}

/// How far a rush is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Users who got a registration.
    pub confirmed: i32,
    /// Users who got a place in the queue.
    pub waitlisted: i32,
    /// Users who were told that the event is full.
    pub rejected: i32,
    /// Users whose call failed in another way.
    pub failed: i32,
    /// Since the first user tried.
    pub elapsed: Duration,
}

impl Progress {
    /// Users who have their answer.
    pub fn finished(&self) -> i32 {
        self.confirmed + self.waitlisted + self.rejected + self.failed
    }
}

/// What came of a rush.
#[derive(Clone, Copy, Debug)]
pub struct Tally {
    /// All users.
    pub progress: Progress,
    /// Half of the calls took at most this long.
    pub p50: Duration,
    /// 99 of 100 calls took at most this long.
    pub p99: Duration,
}

#[derive(Default)]
struct Counters {
    begun: AtomicI32,
    confirmed: AtomicI32,
    waitlisted: AtomicI32,
    rejected: AtomicI32,
    failed: AtomicI32,
}

impl Counters {
    fn count(&self, answer: &Answer) {
        let counter = match answer {
            Ok(Outcome::Registration(_)) => &self.confirmed,
            Ok(Outcome::Entry(_)) => &self.waitlisted,
            Err(CommandError::Refused(Refusal::EventFull { .. })) => &self.rejected,
            Ok(_) | Err(_) => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn progress(&self, began: Instant) -> Progress {
        Progress {
            confirmed: self.confirmed.load(Ordering::Relaxed),
            waitlisted: self.waitlisted.load(Ordering::Relaxed),
            rejected: self.rejected.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            elapsed: began.elapsed(),
        }
    }
}

/// Lets everyone register, and reports on the way at every `tick`. `None`: it was stopped before its end.
pub async fn run(
    seating: &Arc<Seating>,
    event_id: Uuid,
    rush: Rush,
    ids: &Arc<dyn IdSource>,
    progress: &watch::Sender<Progress>,
    tick: Duration,
    stop: &CancellationToken,
) -> Option<Tally> {
    let counters = Arc::new(Counters::default());
    let began = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..rush.concurrency.clamp(1, rush.users.max(1)) {
        let (seating, ids, counters) = (Arc::clone(seating), Arc::clone(ids), Arc::clone(&counters));
        workers.spawn(async move {
            let mut latencies = Vec::new();
            while counters.begun.fetch_add(1, Ordering::Relaxed) < rush.users {
                let asked = Instant::now();
                let command = register(event_id, ids.new_id(), rush.when_full);
                let answer = seating.submit(command, asked + PATIENCE).await;
                latencies.push(asked.elapsed());
                counters.count(&answer);
            }
            latencies
        });
    }

    let mut latencies = Vec::new();
    let mut ticks = tokio::time::interval(tick);
    loop {
        tokio::select! {
            joined = workers.join_next() => match joined {
                Some(finished) => latencies.extend(finished.unwrap_or_default()),
                None => break,
            },
            _ = ticks.tick() => {
                progress.send_replace(counters.progress(began));
            }
            () = stop.cancelled() => {
                workers.shutdown().await;
                return None;
            }
        }
    }
    let progress = counters.progress(began);
    latencies.sort_unstable();
    Some(Tally { progress, p50: quantile(&latencies, 50), p99: quantile(&latencies, 99) })
}

fn register(event_id: Uuid, user_id: Uuid, when_full: WhenFull) -> Command {
    let actor = Actor { id: user_id, role: ActorRole::Attendee };
    let register =
        Register { user_id, seats: 1, when_full, hold: None, labels: Labels::new(), request: None };
    Command { event_id, actor, action: Action::Register(register) }
}

/// The least duration that `percent` of 100 calls did not exceed.
fn quantile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_least_value_that_enough_do_not_exceed() {
        let millis: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(quantile(&millis, 50), Duration::from_millis(100));
        assert_eq!(quantile(&millis, 99), Duration::from_millis(198));
        assert_eq!(quantile(&[], 99), Duration::ZERO);
        assert_eq!(quantile(&[Duration::from_millis(7)], 50), Duration::from_millis(7));
    }
}
