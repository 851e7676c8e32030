//! `ChangeService`: the change log as a feed for other backends.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use rowlock_proto::booking::v1 as pb;
use rowlock_proto::booking::v1::change_service_server::ChangeService;
use service_core::digest::sha256_start;
use service_core::page::{PageBinding, PageTokenInvalid};
use service_core::stream_end::{StreamEnd, StreamEnded};
use service_core::validation::Violations;
use sqlx::PgPool;
use time::OffsetDateTime;
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{Booking, CallError, convert, list_request};
use crate::domain::change::Change;
use crate::domain::refusal::Refusal;
use crate::feed::{Horizon, Watched};
use crate::store::changes::{self, Page, Place, Placed};

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
        let resumed = binding.decode(&request.resume_token).and_then(Position::read);
        if resumed.is_err() {
            violations.add("resume_token", "must be one of a stream with the same event_id");
        } else if request.from_present && !request.resume_token.is_empty() {
            violations.add("from_present", "must not be set with a resume_token");
        }
        violations.finish()?;

        let pool = self.0.pool.clone();
        // First listen, then look: the stream ends at the present at the earliest, not before it.
        let log = match event_id {
            Some(event_id) => Log::OfEvent(self.0.feed.watch(event_id)),
            None => Log::Whole(self.0.feed.horizon()),
        };
        let present = changes::look(&pool).await?;
        let mut reader = Reader {
            pool,
            log,
            read: Place::default(),
            floor: Place::default(),
            last: None,
            server_start: present.server_start,
            arriving: request.from_present,
            is_empty: present.last_batch == 0,
            until: (!request.follow).then_some(present.last_batch),
            page: VecDeque::new(),
            binding,
        };
        reader.start(resumed.unwrap_or_default()).await?;
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
    Whole(watch::Receiver<Horizon>),
    /// The changes of one event.
    OfEvent(Watched),
}

impl Log {
    /// Waits for news.
    async fn changed(&mut self) -> Result<(), CallError> {
        let changed = match self {
            Self::Whole(horizon) => horizon.changed().await,
            Self::OfEvent(event) => event.seen.changed().await,
        };
        changed.map_err(|_| CallError::Ended(StreamEnded::Draining))
    }
}

/// Behind everything in this batch.
fn end_of(batch: i64) -> Place {
    Place { batch, event_id: Uuid::max(), version: i64::MAX }
}

/// Reads the log page by page, no faster than the client takes it.
struct Reader {
    pool: PgPool,
    log: Log,
    /// Everything up to here has been read.
    read: Place,
    /// How far the log was gone when this stream, or the one that it goes on from, began.
    floor: Place,
    /// The last change that was read, by this stream or the one that it goes on from, and what it says.
    last: Option<(Place, Digest)>,
    /// When the server was started that is read from.
    server_start: OffsetDateTime,
    /// Whether the stream begins at the present, and has not said yet where that is.
    arriving: bool,
    /// Whether there was nothing in the log as the stream was opened: its end does not become known then.
    is_empty: bool,
    /// Where the stream ends; `None`: it follows.
    until: Option<i64>,
    page: VecDeque<Placed>,
    binding: PageBinding,
}

impl Reader {
    /// Takes up where the client was, if everything after it is still there.
    async fn start(&mut self, resumed: Option<Position>) -> Result<(), CallError> {
        if let Some(Position { place, floor, digest }) = resumed {
            (self.read, self.floor, self.last) = (place, floor, Some((place, digest)));
        }
        if let Log::OfEvent(event) = &self.log {
            let event_id = event.event_id();
            let first = changes::first_version(&self.pool, event_id).await?;
            let first = first.ok_or(Refusal::EventNotFound { event_id })?;
            if resumed.is_some() && self.read.version + 1 < first {
                return Err(CallError::ResumeTokenExpired);
            }
        } else {
            let floor = changes::floor(&self.pool).await?;
            if resumed.is_none() {
                (self.read, self.floor) = (floor, floor);
            }
            self.check_floor(floor)?;
        }
        self.check_last().await
    }

    /// Whether the log still has what was last read of it. A failover may have lost that, and what came before it; then this
    /// stream has told what never was. The place alone says nothing: versions and numbers that are lost are given again. (Nor does
    /// this change speak for those with lower numbers that were committed after it, at the same moment.)
    async fn check_last(&self) -> Result<(), CallError> {
        let Some((place, digest)) = self.last else { return Ok(()) };
        let kept = changes::at(&self.pool, place.event_id, place.version).await?;
        let is_it = kept.is_some_and(|kept| (kept.place, self::digest(&kept.change)) == (place, digest));
        // In this order: what retention has removed has raised the floor by now.
        if is_it || place <= changes::floor(&self.pool).await? {
            Ok(())
        } else {
            Err(CallError::ResumeTokenExpired)
        }
    }

    /// Goes on with another run of the server, if it has what was last read.
    async fn go_over(&mut self) -> Result<(), CallError> {
        let present = changes::look(&self.pool).await?;
        self.check_last().await?;
        self.server_start = present.server_start;
        self.is_empty = present.last_batch == 0;
        // What there was to pass over may have been lost, and the numbers given again.
        self.read = self.last.map_or(self.floor, |(place, _)| place);
        self.until = self.until.map(|_| present.last_batch);
        Ok(())
    }

    /// Whether a page is of the server that is read from.
    fn is_of_this_run(&self, page: &Page) -> bool {
        page.server_start.is_none_or(|server_start| server_start == self.server_start)
    }

    fn turn_to(&mut self, page: Page) {
        if let Some(last) = page.changes.last() {
            self.last = Some((last.place, digest(&last.change)));
        }
        self.page = page.changes.into();
    }

    /// Whether nothing that comes after what has been read is gone.
    fn check_floor(&self, floor: Place) -> Result<(), CallError> {
        if floor > self.read.max(self.floor) { Err(CallError::ResumeTokenExpired) } else { Ok(()) }
    }

    /// Goes to the present, if that is known by now: the last change before it, if there was any.
    async fn arrive(&mut self) -> Result<bool, CallError> {
        let last = match &mut self.log {
            Log::Whole(horizon) => {
                let Horizon { batch, server_start } = *horizon.borrow_and_update();
                if server_start.is_some_and(|server_start| server_start != self.server_start) {
                    self.go_over().await?;
                }
                let is_known = server_start == Some(self.server_start) && batch > 0;
                if !self.is_empty && !is_known {
                    return Ok(false);
                }
                self.read = self.read.max(end_of(batch));
                changes::last(&self.pool, batch).await?
            }
            Log::OfEvent(event) => {
                let last = changes::last_of_event(&self.pool, event.event_id()).await?;
                self.read = last.as_ref().map_or(self.read, |last| last.place);
                last
            }
        };
        self.last = last.map(|Placed { place, change }| (place, digest(&change)));
        self.arriving = false;
        Ok(true)
    }

    /// Where to go on from what was told last.
    fn token(&self, last: Option<(Place, Digest)>) -> String {
        let floor = self.floor;
        let position = last.map(|(place, digest)| Position { place, floor, digest });
        position.map(|position| self.binding.encode(&position.cursor())).unwrap_or_default()
    }

    /// The next message; `None` where the stream ends.
    async fn next(&mut self) -> Result<Option<pb::StreamChangesResponse>, CallError> {
        while self.arriving {
            if self.arrive().await? {
                return Ok(Some(pb::StreamChangesResponse {
                    change: None,
                    resume_token: self.token(self.last),
                }));
            }
            self.log.changed().await?;
        }
        loop {
            if let Some(Placed { place, change }) = self.page.pop_front() {
                let resume_token = self.token(Some((place, digest(&change))));
                let change = Some(convert::change(&change));
                return Ok(Some(pb::StreamChangesResponse { change, resume_token }));
            }
            let ended = match &mut self.log {
                Log::Whole(horizon) => {
                    let horizon = *horizon.borrow_and_update();
                    if horizon.server_start.is_some_and(|server_start| server_start != self.server_start) {
                        self.go_over().await?;
                    }
                    // Another server's word says nothing of this one's log.
                    let is_known = horizon.server_start == Some(self.server_start);
                    is_known && self.read_whole(horizon.batch).await?
                }
                Log::OfEvent(event) => {
                    event.seen.mark_unchanged();
                    let (event_id, is_another_run) = (event.event_id(), event.is_another_run());
                    if is_another_run {
                        self.go_over().await?;
                    }
                    self.read_event(event_id).await?
                }
            };
            if self.page.is_empty() {
                if ended {
                    return Ok(None);
                }
                self.log.changed().await?;
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
            if self.last.is_some() || self.read > self.floor {
                self.check_floor(floor)?;
            } else if floor > self.floor {
                // Nothing has been read yet: the stream begins where the log now does.
                (self.read, self.floor) = (floor, floor);
                continue;
            }
            break page;
        };
        if !self.is_of_this_run(&page) {
            // It will be heard of.
            return Ok(false);
        }
        if i64::try_from(page.changes.len()).unwrap_or(PAGE) >= PAGE {
            self.read = page.changes.last().map_or(self.read, |placed| placed.place);
        } else if end > 0 {
            // Rehearsals, which are not told, are not read again either.
            self.read = self.read.max(end_of(end));
        }
        self.turn_to(page);
        Ok(self.until.is_some_and(|until| horizon >= until))
    }

    /// Reads a page of one event's changes. Returns whether the stream has come to its end.
    async fn read_event(&mut self, event_id: Uuid) -> Result<bool, CallError> {
        let page = loop {
            let page = changes::of_event_after(&self.pool, event_id, self.read.version, PAGE).await?;
            if self.is_of_this_run(&page) {
                break page;
            }
            self.go_over().await?;
        };
        if let Some(first) = page.changes.first()
            && self.read.version > 0
            && first.place.version > self.read.version + 1
        {
            return Err(CallError::ResumeTokenExpired);
        }
        self.read = page.changes.last().map_or(self.read, |placed| placed.place);
        self.turn_to(page);
        Ok(self.until.is_some())
    }
}

/// What a change says, in short.
type Digest = [u8; 8];

fn digest(change: &Change) -> Digest {
    sha256_start(&[
        change.actor.id.as_bytes(),
        change.action.word().as_bytes(),
        change.entity_id.as_bytes(),
        change.subject_id.unwrap_or_default().as_bytes(),
        change.details.to_string().as_bytes(),
    ])
}

/// What a resume token says.
#[derive(Clone, Copy)]
struct Position {
    /// The last change that was dealt with.
    place: Place,
    /// How far the log was gone when the stream began.
    floor: Place,
    /// What the change says.
    digest: Digest,
}

impl Position {
    fn cursor(&self) -> Vec<u8> {
        let places = [self.place, self.floor].map(list_request::place_cursor);
        [places[0].as_slice(), &places[1], &self.digest].concat()
    }

    fn read(cursor: Option<Vec<u8>>) -> Result<Option<Self>, PageTokenInvalid> {
        let Some(cursor) = cursor else { return Ok(None) };
        let (place, rest) = cursor.split_at_checked(list_request::PLACE_BYTES).ok_or(PageTokenInvalid)?;
        let (floor, digest) = rest.split_at_checked(list_request::PLACE_BYTES).ok_or(PageTokenInvalid)?;
        Ok(Some(Self {
            place: list_request::place(place)?,
            floor: list_request::place(floor)?,
            digest: digest.try_into().map_err(|_| PageTokenInvalid)?,
        }))
    }
}
