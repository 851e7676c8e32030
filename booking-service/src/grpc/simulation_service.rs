//! `SimulationService`: a rush on a private copy of an event, streamed as it goes.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use rowlock_proto::booking::v1 as pb;
use rowlock_proto::booking::v1::simulation_service_server::SimulationService;
use service_core::stream_end::StreamEnd;
use service_core::validation::{Violations, proto_duration};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::registration_service::when_full;
use super::{Booking, CallError, actor, convert};
use crate::domain::event::EventRecord;
use crate::simulate::{self, Progress, Rush, Tally};
use crate::store::{simulations, verify as counting};

const MOST_USERS: i64 = 100_000;
const MOST_AT_ONCE: i64 = 1_000;
const DEFAULT_AT_ONCE: i32 = 100;
/// As the contract says, four times a second.
const TICK: Duration = Duration::from_millis(250);

pub(super) struct Simulations(pub(super) Arc<Booking>);

#[tonic::async_trait]
impl SimulationService for Simulations {
    type SimulateRushStream = BoxStream<'static, Result<pb::SimulateRushResponse, Status>>;

    async fn simulate_rush(
        &self,
        request: Request<pb::SimulateRushRequest>,
    ) -> Result<Response<Self::SimulateRushStream>, Status> {
        let (actor, end) = (actor(&request)?, self.0.stream_end(&request)?);
        let request = request.into_inner();
        let mut violations = Violations::default();
        let event_id = violations.uuid("event_id", &request.event_id);
        violations.int("users", request.users, 1..=MOST_USERS);
        let concurrency = if request.concurrency == 0 { DEFAULT_AT_ONCE } else { request.concurrency };
        violations.int("concurrency", concurrency, 1..=MOST_AT_ONCE);
        let when_full = when_full(request.when_full, &mut violations);
        violations.finish().map_err(CallError::from)?;
        let rush = Rush { users: request.users, concurrency, when_full };

        let source = self.0.visible_event(actor, event_id).await?;
        let permit = self.0.simulator.begin().map_err(CallError::from)?;

        // Small on purpose: progress that is not read is skipped, see `rehearse`.
        let (updates, stream) = mpsc::channel(1);
        let (began, beginning) = oneshot::channel();
        let (booking, keep) = (Arc::clone(&self.0), request.keep_event);
        // A task of its own, from before the copy is made: whenever the client goes away, the copy has to be removed.
        tokio::spawn(async move {
            match simulate::copy_event(&booking.pool, &source, actor, booking.ids.as_ref()).await {
                Ok(copy) => {
                    // If the client is gone already, the first message finds out.
                    let _ = began.send(Ok(()));
                    Rehearsal { booking, copy, rush, keep, updates, end }.run(permit).await;
                }
                Err(error) => {
                    let _ = began.send(Err(error));
                }
            }
        });
        let began = beginning.await.map_err(|_| CallError::UnexpectedOutcome)?;
        began.map_err(CallError::from)?;
        Ok(Response::new(ReceiverStream::new(stream).boxed()))
    }
}

type Update = Result<pb::SimulateRushResponse, Status>;

struct Rehearsal {
    booking: Arc<Booking>,
    copy: EventRecord,
    rush: Rush,
    keep: bool,
    updates: mpsc::Sender<Update>,
    end: StreamEnd,
}

impl Rehearsal {
    /// Runs the rush, removes the copy, and only then says that it is over.
    async fn run(self, permit: OwnedSemaphorePermit) {
        let event_id = self.copy.event.id;
        let last = self.rehearse().await;
        let removed = if self.keep && matches!(last, Some(Ok(_))) {
            simulations::keep(&self.booking.pool, event_id).await
        } else {
            simulate::delete_copy(&self.booking.pool, event_id).await
        };
        if let Err(error) = removed {
            tracing::warn!(%error, %event_id, "the copy of a simulated rush was left to the sweeper");
        }
        drop(permit);
        if let Some(last) = last {
            // Nobody listens any more: nobody misses it.
            let _ = self.updates.send(last).await;
        }
    }

    /// The last message of the stream; `None`: the client went away.
    async fn rehearse(&self) -> Option<Update> {
        let Booking { seating, pool, ids, .. } = self.booking.as_ref();
        let event_id = self.copy.event.id;
        let (progress, mut seen) = watch::channel(Progress::default());
        let stop = CancellationToken::new();
        let rush = simulate::run(seating, event_id, self.rush, ids, &progress, TICK, &stop);
        let forward = async {
            while seen.changed().await.is_ok() {
                let progress = *seen.borrow_and_update();
                // A client that reads slowly gets fewer messages, each with the present numbers.
                if self.updates.send(Ok(self.progress(progress))).await.is_err() {
                    stop.cancel();
                    return;
                }
            }
        };
        let tally = tokio::select! {
            tally = rush => tally?,
            () = async { forward.await; std::future::pending().await } => return None,
            ended = self.end.reached() => {
                stop.cancel();
                return Some(Err(CallError::from(ended).into()));
            }
        };
        Some(match counting::count(pool, event_id).await {
            Ok(Some((record, counted, now))) => {
                let findings =
                    crate::domain::verify::verify(&record.event, &counted, record.event.serves_queue(now));
                let taken = counted.seats_held
                    + counted.seats_confirmed
                    + counted.seats_checked_in
                    + counted.seats_offered;
                let overbooked = (taken - i64::from(record.event.capacity)).max(0);
                Ok(self.tally(&tally, convert::number(overbooked), findings.is_empty()))
            }
            Ok(None) => Err(CallError::UnexpectedOutcome.into()),
            Err(error) => Err(CallError::from(error).into()),
        })
    }

    fn progress(&self, progress: Progress) -> pb::SimulateRushResponse {
        pb::SimulateRushResponse {
            update: Some(pb::simulate_rush_response::Update::Progress(pb::SimulationProgress {
                finished: progress.finished(),
                users: self.rush.users,
                confirmed: progress.confirmed,
                waitlisted: progress.waitlisted,
                rejected: progress.rejected,
                failed: progress.failed,
                elapsed: Some(proto_duration(progress.elapsed)),
            })),
        }
    }

    fn tally(&self, tally: &Tally, overbooked: i32, consistent: bool) -> pb::SimulateRushResponse {
        let Tally { progress, p50, p99 } = tally;
        let seconds = progress.elapsed.as_secs_f64();
        pb::SimulateRushResponse {
            update: Some(pb::simulate_rush_response::Update::Tally(pb::SimulationTally {
                event_id: self.copy.event.id.to_string(),
                users: self.rush.users,
                confirmed: progress.confirmed,
                waitlisted: progress.waitlisted,
                rejected: progress.rejected,
                failed: progress.failed,
                overbooked,
                p50: Some(proto_duration(*p50)),
                p99: Some(proto_duration(*p99)),
                registrations_per_second: if seconds > 0.0 {
                    f64::from(progress.finished()) / seconds
                } else {
                    0.0
                },
                elapsed: Some(proto_duration(progress.elapsed)),
                consistent,
            })),
        }
    }
}
