//! `ChangeService`: the change log as a feed for other backends.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use rowlock_proto::booking::v1 as pb;
use rowlock_proto::booking::v1::change_service_server::ChangeService;
use service_core::page::{PageBinding, PageTokenInvalid};
use service_core::stream_end::{StreamEnd, StreamEnded};
use service_core::validation::Violations;
use sqlx::PgPool;
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{Booking, CallError, convert, list_request};
use crate::domain::refusal::Refusal;
use crate::feed::{Horizon, Watched};
use crate::store::changes::{self, Place, Placed};

/// How many changes are read from the log at once: all that a stream ever holds, about 120 KiB if nobody reads it, and 4 MiB
/// if all of them give events the longest description.
const PAGE: i64 = 100;

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
        let resumed = binding.decode(&request.resume_token).and_then(position);
        if resumed.is_err() {
            violations.add("resume_token", "must be one of a stream with the same event_id");
        }
        violations.finish()?;

        let pool = self.0.pool.clone();
        // First listen, then look: the stream ends at the present at the earliest, not before it.
        let log = match event_id {
            Some(event_id) => Log::OfEvent(self.0.feed.watch(event_id)),
            None => {
                let horizon = self.0.feed.horizon();
                let losses = horizon.borrow().losses;
                Log::Whole { horizon, losses }
            }
        };
        let present = changes::look(&pool).await?.last_batch;
        let resumed = resumed.unwrap_or_default();
        if resumed.is_some_and(|(place, _)| place.batch > present) {
            // It was given by a server whose end of the log is lost.
            return Err(CallError::ResumeTokenExpired);
        }
        let mut reader = Reader {
            pool,
            log,
            read: Place::default(),
            floor: Place::default(),
            until: (!request.follow).then_some(present),
            page: VecDeque::new(),
            binding,
        };
        reader.start(resumed).await?;
        Ok(stream::unfold(Some((reader, end)), |open| async move {
            let (mut reader, end) = open?;
            let next = tokio::select! {
                next = reader.next() => next,
                ended = end.reached() => Err(ended.into()),
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

/// What is read, and how one hears that there is more.
enum Log {
    /// The changes of all events, as far as they are final.
    Whole {
        horizon: watch::Receiver<Horizon>,
        /// How often the log had lost its end when the stream began.
        losses: u32,
    },
    /// The changes of one event.
    OfEvent(Watched),
}

/// Reads the log page by page, no faster than the client takes it.
struct Reader {
    pool: PgPool,
    log: Log,
    /// Everything up to here has been read.
    read: Place,
    /// How far the log was gone when this stream, or the one that it goes on from, began.
    floor: Place,
    /// Where the stream ends; `None`: it follows.
    until: Option<i64>,
    page: VecDeque<Placed>,
    binding: PageBinding,
}

impl Reader {
    /// Takes up where the client was, if everything after it is still there.
    async fn start(&mut self, resumed: Option<(Place, Place)>) -> Result<(), CallError> {
        if let Log::OfEvent(event) = &self.log {
            let event_id = event.event_id();
            let first = changes::first_version(&self.pool, event_id).await?;
            let first = first.ok_or(Refusal::EventNotFound { event_id })?;
            return match resumed {
                Some((place, _)) if place.version + 1 < first => Err(CallError::ResumeTokenExpired),
                _ => {
                    (self.read, self.floor) = resumed.unwrap_or_default();
                    Ok(())
                }
            };
        }
        let floor = changes::floor(&self.pool).await?;
        (self.read, self.floor) = resumed.unwrap_or((Place::default(), floor));
        self.check_floor(floor)
    }

    /// Whether nothing that comes after what has been read is gone.
    fn check_floor(&self, floor: Place) -> Result<(), CallError> {
        if floor > self.read.max(self.floor) { Err(CallError::ResumeTokenExpired) } else { Ok(()) }
    }

    /// The next change; `None` where the stream ends.
    async fn next(&mut self) -> Result<Option<pb::StreamChangesResponse>, CallError> {
        loop {
            if let Some(placed) = self.page.pop_front() {
                let position =
                    [list_request::place_cursor(placed.place), list_request::place_cursor(self.floor)];
                return Ok(Some(pb::StreamChangesResponse {
                    change: Some(convert::change(&placed.change)),
                    resume_token: self.binding.encode(&position.concat()),
                }));
            }
            let ended = match &mut self.log {
                Log::Whole { horizon, losses } => {
                    let horizon = *horizon.borrow_and_update();
                    if horizon.losses != *losses {
                        return Err(CallError::ResumeTokenExpired);
                    }
                    self.read_whole(horizon.batch).await?
                }
                Log::OfEvent(event) => {
                    event.seen.mark_unchanged();
                    if event.log_lost_its_end() {
                        return Err(CallError::ResumeTokenExpired);
                    }
                    let event_id = event.event_id();
                    self.read_event(event_id).await?
                }
            };
            if self.page.is_empty() {
                if ended {
                    return Ok(None);
                }
                match &mut self.log {
                    Log::Whole { horizon, .. } => horizon.changed().await,
                    Log::OfEvent(event) => event.seen.changed().await,
                }
                .map_err(|_| CallError::Ended(StreamEnded::Draining))?;
            }
        }
    }

    /// Reads a page of the whole log. Returns whether the stream has come to its end.
    async fn read_whole(&mut self, horizon: i64) -> Result<bool, CallError> {
        let end = self.until.unwrap_or(horizon).min(horizon);
        let page = loop {
            let page = changes::after(&self.pool, self.read, end, PAGE).await?;
            // In this order: what was gone before the page was read has raised the floor by now.
            let floor = changes::floor(&self.pool).await?;
            if self.read != Place::default() {
                self.check_floor(floor)?;
            } else if floor > self.floor {
                // Nothing has been told yet: the stream begins where the log now does.
                self.floor = floor;
                continue;
            }
            break page;
        };
        if i64::try_from(page.len()).unwrap_or(PAGE) >= PAGE {
            self.read = page.last().map_or(self.read, |placed| placed.place);
        } else if end > 0 {
            // Rehearsals, which are not told, are not read again either.
            self.read = self.read.max(Place { batch: end, event_id: Uuid::max(), version: i64::MAX });
        }
        self.page = page.into();
        Ok(self.until.is_some_and(|until| horizon >= until))
    }

    /// Reads a page of one event's changes. Returns whether the stream has come to its end.
    async fn read_event(&mut self, event_id: Uuid) -> Result<bool, CallError> {
        let page = changes::of_event_after(&self.pool, event_id, self.read.version, PAGE).await?;
        if let Some(first) = page.first()
            && self.read.version > 0
            && first.place.version > self.read.version + 1
        {
            return Err(CallError::ResumeTokenExpired);
        }
        self.read = page.last().map_or(self.read, |placed| placed.place);
        self.page = page.into();
        Ok(self.until.is_some())
    }
}

/// What a resume token says: a place, and how far the log was gone when the stream began.
fn position(cursor: Option<Vec<u8>>) -> Result<Option<(Place, Place)>, PageTokenInvalid> {
    let Some(mut place) = cursor else { return Ok(None) };
    let floor = place.split_off(place.len() / 2);
    Ok(list_request::place(Some(place))?.zip(list_request::place(Some(floor))?))
}
