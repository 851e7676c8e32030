//! `WaitlistService`: places in the queue, and offers.

use std::sync::Arc;

use prost::Message;
use rowlock_proto::booking::v1 as pb;
use rowlock_proto::booking::v1::waitlist_service_server::WaitlistService;
use service_core::digest::sha256;
use service_core::layers::deadline;
use service_core::page::PageBinding;
use service_core::validation::{Violations, required_id};
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::registration_service::{Whose, beneficiary, check_labels, party};
use super::{Booking, CallError, actor, convert, list_request};
use crate::domain::authority;
use crate::domain::command::{Action, Actor, Join, RequestKey};
use crate::domain::decide::Outcome;
use crate::domain::refusal::Refusal;
use crate::domain::waitlist::{Entry, EntryState};
use crate::store::waitlist;

pub(super) struct Waitlists(pub(super) Arc<Booking>);

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl WaitlistService for Waitlists {
    async fn join_waitlist(
        &self,
        request: Request<pb::JoinWaitlistRequest>,
    ) -> Reply<pb::JoinWaitlistResponse> {
        let (actor, deadline) = (actor(&request)?, deadline(&request));
        let (event_id, join) = read_join(actor, request.into_inner())?;
        let outcome = self.0.submit(actor, event_id, Action::Join(join), deadline).await?;
        Ok(Response::new(pb::JoinWaitlistResponse { entry: Some(entry_of(outcome)?) }))
    }

    async fn leave_waitlist(
        &self,
        request: Request<pb::LeaveWaitlistRequest>,
    ) -> Reply<pb::LeaveWaitlistResponse> {
        let (actor, deadline) = (actor(&request)?, deadline(&request));
        let entry_id = entry_id(&request.get_ref().entry_id)?;
        let outcome = self.act(actor, entry_id, Action::Leave { entry_id }, deadline).await?;
        Ok(Response::new(pb::LeaveWaitlistResponse { entry: Some(entry_of(outcome)?) }))
    }

    async fn get_waitlist_entry(
        &self,
        request: Request<pb::GetWaitlistEntryRequest>,
    ) -> Reply<pb::GetWaitlistEntryResponse> {
        let actor = actor(&request)?;
        let entry_id = entry_id(&request.get_ref().entry_id)?;
        let entry = self.get(actor, entry_id).await?;
        Ok(Response::new(pb::GetWaitlistEntryResponse { entry: Some(entry) }))
    }

    async fn accept_offer(&self, request: Request<pb::AcceptOfferRequest>) -> Reply<pb::AcceptOfferResponse> {
        let (actor, deadline) = (actor(&request)?, deadline(&request));
        let entry_id = entry_id(&request.get_ref().entry_id)?;
        let outcome = self.act(actor, entry_id, Action::AcceptOffer { entry_id }, deadline).await?;
        let Outcome::Accepted { registration, entry } = outcome else {
            return Err(CallError::UnexpectedOutcome.into());
        };
        Ok(Response::new(pb::AcceptOfferResponse {
            registration: Some(convert::registration(registration)),
            entry: Some(convert::entry(entry, 0)),
        }))
    }

    async fn decline_offer(
        &self,
        request: Request<pb::DeclineOfferRequest>,
    ) -> Reply<pb::DeclineOfferResponse> {
        let (actor, deadline) = (actor(&request)?, deadline(&request));
        let entry_id = entry_id(&request.get_ref().entry_id)?;
        let outcome = self.act(actor, entry_id, Action::DeclineOffer { entry_id }, deadline).await?;
        Ok(Response::new(pb::DeclineOfferResponse { entry: Some(entry_of(outcome)?) }))
    }

    async fn list_waitlist_entries(
        &self,
        request: Request<pb::ListWaitlistEntriesRequest>,
    ) -> Reply<pb::ListWaitlistEntriesResponse> {
        let actor = actor(&request)?;
        Ok(Response::new(self.list(actor, request.into_inner()).await?))
    }
}

impl Waitlists {
    /// Gives a command for an entry to its event's queue.
    async fn act(
        &self,
        actor: Actor,
        entry_id: Uuid,
        action: Action,
        deadline: Instant,
    ) -> Result<Outcome, CallError> {
        let event_id = self
            .0
            .lookups
            .events_of_entries
            .get(entry_id)
            .await?
            .ok_or(Refusal::EntryNotFound { entry_id })?;
        self.0.submit(actor, event_id, action, deadline).await
    }

    async fn get(&self, actor: Actor, entry_id: Uuid) -> Result<pb::WaitlistEntry, CallError> {
        let row = self.read(actor, entry_id).await?;
        if row.state != EntryState::Waiting {
            return Ok(convert::entry(row, 0));
        }
        match waitlist::rank(&self.0.pool, row.event_id, row.position).await? {
            Some(rank) => Ok(convert::entry(row, convert::number(rank))),
            // It was served or left between the two reads, and never waits again.
            None => Ok(convert::entry(self.read(actor, entry_id).await?, 0)),
        }
    }

    async fn read(&self, actor: Actor, entry_id: Uuid) -> Result<Entry, CallError> {
        waitlist::get(&self.0.pool, entry_id)
            .await?
            .filter(|(row, organizer_id)| authority::acts_for(actor, row.user_id, *organizer_id))
            .map(|(row, _)| row)
            .ok_or_else(|| Refusal::EntryNotFound { entry_id }.into())
    }

    async fn list(
        &self,
        actor: Actor,
        request: pb::ListWaitlistEntriesRequest,
    ) -> Result<pb::ListWaitlistEntriesResponse, CallError> {
        let mut violations = Violations::default();
        let size = violations.page_size(request.page_size);
        let event_id = violations.optional_uuid("event_id", &request.event_id);
        let user_id = violations.optional_uuid("user_id", &request.user_id);
        let states = list_request::known(
            "states",
            &request.states,
            EntryState::ALL,
            |state| convert::entry_state(state).into(),
            &mut violations,
        );
        violations.finish()?;

        let arguments =
            pb::ListWaitlistEntriesRequest { page_size: 0, page_token: String::new(), ..request.clone() };
        let binding =
            PageBinding::new("ListWaitlistEntries", &[actor.id.as_bytes(), &arguments.encode_to_vec()]);
        let cursor = binding.decode(&request.page_token)?;
        let pool = self.0.pool.clone();
        let entry = |row| convert::entry(row, 0);
        let (entries, next_page_token) = match self.0.whose(actor, event_id, user_id).await? {
            Whose::AllAt(event_id) => {
                let after = list_request::after_position(cursor)?;
                let page = async move {
                    let read = |after, limit| waitlist::list_of_event(&pool, event_id, &states, after, limit);
                    let (key, cursor) = (|row: &Entry| row.position, list_request::position_cursor);
                    list_request::page(after, size, &binding, read, key, cursor, entry).await
                };
                self.0.turns.page(page).await?
            }
            Whose::Of { user_id, at } => {
                let after = list_request::after_id(cursor)?;
                let page = async move {
                    let read =
                        |after, limit| waitlist::list_of_user(&pool, user_id, at, &states, after, limit);
                    let (key, cursor) = (|row: &Entry| row.id, list_request::id_cursor);
                    list_request::page(after, size, &binding, read, key, cursor, entry).await
                };
                self.0.turns.page(page).await?
            }
        };
        Ok(pb::ListWaitlistEntriesResponse { entries, next_page_token })
    }
}

fn entry_id(value: &str) -> Result<Uuid, CallError> {
    Ok(required_id("entry_id", value)?)
}

fn entry_of(outcome: Outcome) -> Result<pb::WaitlistEntry, CallError> {
    match outcome {
        Outcome::Entry(row) => Ok(convert::entry(row, 0)),
        _ => Err(CallError::UnexpectedOutcome),
    }
}

fn read_join(actor: Actor, request: pb::JoinWaitlistRequest) -> Result<(Uuid, Join), CallError> {
    let mut violations = Violations::default();
    let event_id = violations.uuid("event_id", &request.event_id);
    let seats = party(request.seats, &mut violations);
    let user_id = beneficiary(actor, &request.user_id, &mut violations);
    check_labels(&request.labels, &mut violations);
    let request_id = violations.optional_uuid("request_id", &request.request_id);
    violations.finish()?;
    let request_key = request_id.map(|id| RequestKey {
        actor_id: actor.id,
        id,
        fingerprint: sha256(&[
            b"JoinWaitlist",
            user_id.as_bytes(),
            &seats.to_be_bytes(),
            &pb::JoinWaitlistRequest { labels: request.labels.clone(), ..Default::default() }.encode_to_vec(),
        ]),
    });
    Ok((event_id, Join { user_id, seats, labels: request.labels, request: request_key }))
}
