//! `EventService`: making, changing, finding and proving events.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::stream::BoxStream;
use prost::Message;
use rowlock_proto::booking::v1 as pb;
use rowlock_proto::booking::v1::event_service_server::EventService;
use service_core::database::run_tx;
use service_core::digest::sha256;
use service_core::layers::deadline;
use service_core::page::PageBinding;
use service_core::validation::{Invalid, Violations, required_id};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{Booking, CallError, actor, convert, event_request, list_request, watch};
use crate::domain::command::{Action, Actor, RequestKey};
use crate::domain::decide::Outcome;
use crate::domain::event::{EventRecord, EventState};
use crate::domain::refusal::Refusal;
use crate::domain::verify::verify;
use crate::domain::{authority, schedule};
use crate::store::events::EventFilter;
use crate::store::{StoreError, changes, commit_nothing, events, stats, verify as counting};

/// The most events that one BatchGetEvents asks for: so many of the longest are less than clients of gRPC take, 4 MiB.
const MAX_EVENT_IDS: usize = 50;
const TEXT_FILTER_CHARS: usize = 200;
const REASON_CHARS: usize = 500;
/// How often a draft is inserted whose twin, of the same request, is deleted as it is looked for.
const TRIES: usize = 3;

pub(super) struct Events(pub(super) Arc<Booking>);

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl EventService for Events {
    async fn create_event(&self, request: Request<pb::CreateEventRequest>) -> Reply<pb::CreateEventResponse> {
        let actor = actor(&request)?;
        let record = self.create(actor, request.into_inner()).await?;
        Ok(Response::new(pb::CreateEventResponse { event: Some(convert::event(record)) }))
    }

    async fn get_event(&self, request: Request<pb::GetEventRequest>) -> Reply<pb::GetEventResponse> {
        let actor = actor(&request)?;
        let event_id = event_id(&request.get_ref().event_id)?;
        let record = self.0.visible_event(actor, event_id).await?;
        Ok(Response::new(pb::GetEventResponse { event: Some(convert::event(record)) }))
    }

    async fn batch_get_events(
        &self,
        request: Request<pb::BatchGetEventsRequest>,
    ) -> Reply<pb::BatchGetEventsResponse> {
        let actor = actor(&request)?;
        let mut violations = Violations::default();
        let ids = violations.uuids("event_ids", &request.get_ref().event_ids, MAX_EVENT_IDS);
        violations.finish().map_err(CallError::from)?;
        let events = self.visible_events(actor, &ids).await?;
        Ok(Response::new(pb::BatchGetEventsResponse { events }))
    }

    async fn list_events(&self, request: Request<pb::ListEventsRequest>) -> Reply<pb::ListEventsResponse> {
        let actor = actor(&request)?;
        Ok(Response::new(self.list(actor, request.into_inner()).await?))
    }

    async fn update_event(&self, request: Request<pb::UpdateEventRequest>) -> Reply<pb::UpdateEventResponse> {
        let (actor, deadline) = (actor(&request)?, deadline(&request));
        let pb::UpdateEventRequest { event, update_mask } = request.into_inner();
        let event = event.unwrap_or_default();
        let mut violations = Violations::default();
        let id = violations.uuid("event.event_id", &event.event_id);
        let patch = event_request::patch(&event, &update_mask.unwrap_or_default().paths, &mut violations);
        violations.finish().map_err(CallError::from)?;
        let record = self.change(actor, id, Action::Update(Box::new(patch)), deadline).await?;
        Ok(Response::new(pb::UpdateEventResponse { event: Some(record) }))
    }

    async fn publish_event(
        &self,
        request: Request<pb::PublishEventRequest>,
    ) -> Reply<pb::PublishEventResponse> {
        let (actor, deadline) = (actor(&request)?, deadline(&request));
        let request = request.into_inner();
        let action = Action::Publish { etag: event_request::etag(&request.etag) };
        let event = self.change(actor, event_id(&request.event_id)?, action, deadline).await?;
        Ok(Response::new(pb::PublishEventResponse { event: Some(event) }))
    }

    async fn cancel_event(&self, request: Request<pb::CancelEventRequest>) -> Reply<pb::CancelEventResponse> {
        let (actor, deadline) = (actor(&request)?, deadline(&request));
        let request = request.into_inner();
        let mut violations = Violations::default();
        let id = violations.uuid("event_id", &request.event_id);
        let reason = violations.text("reason", &request.reason, 0, REASON_CHARS);
        violations.finish().map_err(CallError::from)?;
        let action = Action::CancelEvent { reason, etag: event_request::etag(&request.etag) };
        let event = self.change(actor, id, action, deadline).await?;
        Ok(Response::new(pb::CancelEventResponse { event: Some(event) }))
    }

    async fn delete_event(&self, request: Request<pb::DeleteEventRequest>) -> Reply<pb::DeleteEventResponse> {
        let (actor, deadline) = (actor(&request)?, deadline(&request));
        let request = request.into_inner();
        let action = Action::DeleteEvent { etag: event_request::etag(&request.etag) };
        let event = self.change(actor, event_id(&request.event_id)?, action, deadline).await?;
        Ok(Response::new(pb::DeleteEventResponse { event: Some(event) }))
    }

    async fn get_event_stats(
        &self,
        request: Request<pb::GetEventStatsRequest>,
    ) -> Reply<pb::GetEventStatsResponse> {
        let actor = actor(&request)?;
        let id = event_id(&request.get_ref().event_id)?;
        let record = self.0.visible_event(actor, id).await?;
        authority::require_runs(actor, &record.event).map_err(CallError::from)?;
        let pool = self.0.pool.clone();
        let stats = self.0.turns.count(async move { stats::read(&pool, id).await }).await?;
        let stats = stats.ok_or(Refusal::EventNotFound { event_id: id }).map_err(CallError::from)?;
        Ok(Response::new(convert::stats(&stats)))
    }

    type WatchEventStream = BoxStream<'static, Result<pb::WatchEventResponse, Status>>;

    async fn watch_event(&self, request: Request<pb::WatchEventRequest>) -> Reply<Self::WatchEventStream> {
        let (actor, end) = (actor(&request)?, self.0.stream_end(&request)?);
        let id = event_id(&request.get_ref().event_id)?;
        self.0.visible_event(actor, id).await?;
        // First listen, then look: what happens in between is heard.
        let watched = self.0.feed.watch(id);
        let present = changes::seats(&self.0.pool, &[id]).await.map_err(CallError::from)?;
        let present = present.into_iter().next().ok_or(Refusal::EventNotFound { event_id: id });
        let present = present.map_err(CallError::from)?;
        Ok(Response::new(watch::stream(watched, present, end)))
    }

    async fn verify_event(&self, request: Request<pb::VerifyEventRequest>) -> Reply<pb::VerifyEventResponse> {
        let actor = actor(&request)?;
        let id = event_id(&request.get_ref().event_id)?;
        Ok(Response::new(self.verified(actor, id).await?))
    }
}

impl Booking {
    /// An event that the actor may know of.
    pub(super) async fn visible_event(&self, actor: Actor, event_id: Uuid) -> Result<EventRecord, CallError> {
        self.lookups
            .events
            .get(event_id)
            .await?
            .filter(|record| authority::sees_event(actor, &record.event))
            .ok_or_else(|| Refusal::EventNotFound { event_id }.into())
    }
}

impl Events {
    /// Those of these events that the actor may know of, in the order of the ids, each once.
    async fn visible_events(&self, actor: Actor, ids: &[Uuid]) -> Result<Vec<pb::Event>, CallError> {
        let mut connection = self.0.pool.acquire().await.map_err(StoreError::from)?;
        let mut found = events::find(&mut connection, ids.to_vec()).await?;
        let in_order = ids.iter().filter_map(|id| found.remove(id));
        let visible = in_order.filter(|record| authority::sees_event(actor, &record.event));
        Ok(visible.map(convert::event).collect())
    }

    /// Stores a draft, or finds the one that the same request made before.
    async fn create(&self, actor: Actor, request: pb::CreateEventRequest) -> Result<EventRecord, CallError> {
        let mut violations = Violations::default();
        let request_id = violations.optional_uuid("request_id", &request.request_id);
        if request.event.is_none() {
            violations.add("event", "is required");
        }
        let draft = event_request::given(request.event.unwrap_or_default());
        let key = request_id.map(|id| RequestKey {
            actor_id: actor.id,
            id,
            fingerprint: sha256(&[b"CreateEvent", &draft.encode_to_vec()]),
        });
        let mut connection = self.0.pool.acquire().await.map_err(StoreError::from)?;
        // The database's clock judges whether the start is in the future, as it will judge the registration window.
        let now = events::database_time(&mut connection).await?;
        drop(connection);
        let record = event_request::draft(&draft, self.0.ids.new_id(), actor.id, now, &mut violations);
        let mut wrong = violations.finish().err().map_or_else(Vec::new, |invalid| invalid.0);
        // A replay is answered even when the start has passed since, so the store is asked first.
        if let Some(key) = &key
            && wrong.is_empty()
            && let Some(made) = self.replayed(key).await?
        {
            return Ok(made);
        }
        let mut among = Violations::default();
        let sound = |field: &str| wrong.iter().all(|violation| violation.field != field);
        schedule::check_sound(&record.event, true, now, sound, &mut among);
        wrong.extend(among.finish().err().map_or_else(Vec::new, |invalid| invalid.0));
        if !wrong.is_empty() {
            return Err(Invalid(wrong).into());
        }

        for _ in 0..TRIES {
            let inserted = run_tx(&self.0.pool, "event.create", |connection| {
                let (record, key) = (record.clone(), key.clone());
                async move { events::insert(connection, &record, actor, key.as_ref(), None).await }.boxed()
            })
            .await?;
            if inserted {
                return Ok(record);
            }
            if let Some(key) = &key
                && let Some(made) = self.replayed(key).await?
            {
                return Ok(made);
            }
            // The draft that another copy of the request has made was deleted since.
        }
        Err(CallError::UnexpectedOutcome)
    }

    /// What the same request has made before, once it is as safe as a commit.
    async fn replayed(&self, key: &RequestKey) -> Result<Option<EventRecord>, CallError> {
        let mut connection = self.0.pool.acquire().await.map_err(StoreError::from)?;
        match events::made_by(&mut connection, key.actor_id, key.id).await? {
            Some((record, fingerprint)) if fingerprint == key.fingerprint => {
                commit_nothing(&mut connection).await?;
                Ok(Some(record))
            }
            Some(_) => Err(Refusal::RequestIdReused { request_id: key.id }.into()),
            None => Ok(None),
        }
    }

    /// Gives an organizer's command to its event's queue, if the caller runs the event: that never changes, and others are to
    /// be refused here. In the queue such a command has a batch of its own, so strangers could break a rush into pieces.
    async fn change(
        &self,
        actor: Actor,
        event_id: Uuid,
        action: Action,
        deadline: tokio::time::Instant,
    ) -> Result<pb::Event, CallError> {
        let event = self.0.visible_event(actor, event_id).await?.event;
        authority::require_runs(actor, &event).map_err(CallError::from)?;
        match self.0.submit(actor, event_id, action, deadline).await? {
            Outcome::Event(record) => Ok(convert::event(*record)),
            _ => Err(CallError::UnexpectedOutcome),
        }
    }

    async fn list(
        &self,
        actor: Actor,
        request: pb::ListEventsRequest,
    ) -> Result<pb::ListEventsResponse, CallError> {
        let mut violations = Violations::default();
        let size = violations.page_size(request.page_size);
        let filter = EventFilter {
            states: list_request::known(
                "states",
                &request.states,
                EventState::ALL,
                |state| convert::event_state(state).into(),
                &mut violations,
            ),
            organizer_id: violations.optional_uuid("organizer_id", &request.organizer_id),
            start_time_after: violations.time("start_time_after", request.start_time_after.as_ref()),
            start_time_before: violations.time("start_time_before", request.start_time_before.as_ref()),
            only_available: request.only_available,
            text: Some(violations.text("text", &request.text, 0, TEXT_FILTER_CHARS))
                .filter(|text| !text.trim().is_empty()),
            drafts_of: authority::sees_drafts_of(actor),
        };
        if let (Some(after), Some(before)) = (filter.start_time_after, filter.start_time_before)
            && before <= after
        {
            violations.add("start_time_before", "must be after start_time_after");
        }
        violations.finish()?;

        let arguments = pb::ListEventsRequest { page_size: 0, page_token: String::new(), ..request.clone() };
        let binding = PageBinding::new("ListEvents", &[actor.id.as_bytes(), &arguments.encode_to_vec()]);
        let after = list_request::after_time_and_id(binding.decode(&request.page_token)?)?;
        let pool = self.0.pool.clone();
        let page = async move {
            let read = |after, limit| events::list(&pool, &filter, after, limit);
            let key = |record: &EventRecord| (record.event.start_time, record.event.id);
            let cursor = list_request::time_and_id;
            list_request::page(after, size, &binding, read, key, cursor, convert::event).await
        };
        let (events, next_page_token) = self.0.turns.page(page).await?;
        Ok(pb::ListEventsResponse { events, next_page_token })
    }

    async fn verified(&self, actor: Actor, id: Uuid) -> Result<pb::VerifyEventResponse, CallError> {
        let record = self.0.visible_event(actor, id).await?;
        authority::require_runs(actor, &record.event)?;
        let pool = self.0.pool.clone();
        let counted = self.0.turns.count(async move { counting::count(&pool, id).await }).await?;
        let (record, counted, now) = counted.ok_or(Refusal::EventNotFound { event_id: id })?;
        let findings = verify(&record.event, &counted, record.event.serves_queue(now));
        if !findings.is_empty() {
            tracing::error!(event_id = %id, ?findings, "an event is not consistent");
        }
        Ok(convert::verification(&record.event, &counted, &findings))
    }
}

fn event_id(value: &str) -> Result<Uuid, CallError> {
    Ok(required_id("event_id", value)?)
}
