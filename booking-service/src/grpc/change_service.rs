//! `ChangeService`: the change log as a feed for other backends.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use rowlock_proto::booking::v1 as pb;
use rowlock_proto::booking::v1::change_service_server::ChangeService;
use service_core::page::PageBinding;
use service_core::validation::Violations;
use sqlx::PgPool;
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::stream_end::StreamEnd;
use super::{Booking, CallError, convert, list_request};
use crate::domain::refusal::Refusal;
use crate::feed::Horizon;
use crate::store::changes::{self, Place, Placed};

/// How many changes are read from the log at once: all that a stream ever holds.
const PAGE: i64 = 500;

pub(super) struct Changes(pub(super) Arc<Booking>);

type Message = Result<pb::StreamChangesResponse, Status>;

#[tonic::async_trait]
impl ChangeService for Changes {
    type StreamChangesStream = BoxStream<'static, Message>;

    async fn stream_changes(
        &self,
        request: Request<pb::StreamChangesRequest>,
    ) -> Result<Response<Self::StreamChangesStream>, Status> {
        let end = self.0.stream_end(&request)?;
        Ok(Response::new(self.open(request.into_inner(), end).await?))
    }
}

impl Changes {
    async fn open(
        &self,
        request: pb::StreamChangesRequest,
        end: StreamEnd,
    ) -> Result<BoxStream<'static, Message>, CallError> {
        let mut violations = Violations::default();
        let event_id = violations.optional_uuid("event_id", &request.event_id);
        let binding = PageBinding::new("StreamChanges", &[event_id.unwrap_or_default().as_bytes()]);
        let place = binding.decode(&request.resume_token).and_then(list_request::place);
        if place.is_err() {
            violations.add("resume_token", "must be one of a stream with the same event_id");
        }
        violations.finish()?;
        let resumed = place.unwrap_or_default();

        let pool = self.0.pool.clone();
        // First listen, then look: the stream ends at the present at the earliest, not before it.
        let horizon = self.0.feed.horizon();
        let present = changes::look(&pool).await?.last_batch;
        let reader = Reader {
            pool,
            event_id,
            place: resumed.unwrap_or_default(),
            horizon,
            until: (!request.follow).then_some(present),
            page: VecDeque::new(),
            binding,
        };
        reader.check_start(resumed).await?;
        Ok(stream::unfold(Some((reader, end)), |open| async move {
            let (mut reader, end) = open?;
            let next = tokio::select! {
                next = reader.next() => next,
                ended = end.reached() => Err(ended),
            };
            match next {
                Ok(Some(message)) => Some((Ok(message), Some((reader, end)))),
                Ok(None) => None,
                Err(error) => Some((Err(error.into()), None)),
            }
        })
        .boxed())
    }
}

/// Reads the log page by page, no faster than the client takes it.
struct Reader {
    pool: PgPool,
    event_id: Option<Uuid>,
    place: Place,
    horizon: watch::Receiver<Horizon>,
    /// Where the stream ends; `None`: it follows.
    until: Option<Horizon>,
    page: VecDeque<Placed>,
    binding: PageBinding,
}

impl Reader {
    /// Whether everything after the place where the client was is still there.
    async fn check_start(&self, resumed: Option<Place>) -> Result<(), CallError> {
        let Some(event_id) = self.event_id else {
            let floor = changes::floor(&self.pool).await?;
            // Whoever was at the floor, or begins anew, misses nothing that is kept.
            return match resumed {
                Some(place) if place.batch < floor => Err(CallError::ResumeTokenExpired),
                _ => Ok(()),
            };
        };
        let Some(first) = changes::first_version(&self.pool, event_id).await? else {
            return Err(Refusal::EventNotFound { event_id }.into());
        };
        match resumed {
            Some(place) if place.version + 1 < first => Err(CallError::ResumeTokenExpired),
            _ => Ok(()),
        }
    }

    /// The next change; `None` where the stream ends.
    async fn next(&mut self) -> Result<Option<pb::StreamChangesResponse>, CallError> {
        loop {
            if let Some(placed) = self.page.pop_front() {
                self.place = placed.place;
                return Ok(Some(pb::StreamChangesResponse {
                    change: Some(convert::change(&placed.change)),
                    resume_token: self.binding.encode(&list_request::place_cursor(placed.place)),
                }));
            }
            let horizon = *self.horizon.borrow_and_update();
            let reached = self.until.is_some_and(|until| horizon >= until);
            self.page = match self.event_id {
                Some(event_id) => {
                    changes::of_event_after(&self.pool, event_id, self.place.version, PAGE).await?
                }
                None => {
                    changes::after(&self.pool, self.place, self.until.unwrap_or(horizon).min(horizon), PAGE)
                        .await?
                }
            }
            .into();
            if self.page.is_empty() {
                if reached || (self.until.is_some() && self.event_id.is_some()) {
                    return Ok(None);
                }
                self.horizon.changed().await.map_err(|_| CallError::Draining)?;
            }
        }
    }
}
