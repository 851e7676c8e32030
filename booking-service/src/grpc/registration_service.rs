//! `RegistrationService`: taking, confirming, giving back and listing seats.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use rowlock_proto::booking::v1 as pb;
use rowlock_proto::booking::v1::registration_service_server::RegistrationService;
use service_core::digest::sha256;
use service_core::layers::deadline;
use service_core::page::PageBinding;
use service_core::validation::{Violations, required_id};
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{Booking, CallError, actor, convert, list_request};
use crate::domain::authority;
use crate::domain::command::{Action, Actor, ActorRole, Register, RequestKey, WhenFull};
use crate::domain::decide::Outcome;
use crate::domain::refusal::Refusal;
use crate::domain::registration::{Labels, Registration, RegistrationState};
use crate::domain::schedule::LARGEST_PARTY;
use crate::store::registrations;

const SHORTEST_HOLD: Duration = Duration::from_secs(1);
const LONGEST_HOLD: Duration = Duration::from_secs(24 * 60 * 60);
const MOST_LABELS: usize = 16;
const LABEL_BYTES: usize = 2 * 1024;

pub(super) struct Registrations(pub(super) Arc<Booking>);

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl RegistrationService for Registrations {
    async fn register(&self, request: Request<pb::RegisterRequest>) -> Reply<pb::RegisterResponse> {
        let (actor, deadline) = (actor(&request)?, deadline(&request));
        let (event_id, register) = read_register(actor, request.into_inner())?;
        let outcome = self.0.submit(actor, event_id, Action::Register(register), deadline).await?;
        let outcome = match outcome {
            Outcome::Registration(row) => {
                pb::register_response::Outcome::Registration(convert::registration(row))
            }
            Outcome::Entry(row) => pb::register_response::Outcome::WaitlistEntry(convert::entry(row, 0)),
            _ => return Err(CallError::UnexpectedOutcome.into()),
        };
        Ok(Response::new(pb::RegisterResponse { outcome: Some(outcome) }))
    }

    async fn confirm_registration(
        &self,
        request: Request<pb::ConfirmRegistrationRequest>,
    ) -> Reply<pb::ConfirmRegistrationResponse> {
        let (actor, deadline) = (actor(&request)?, deadline(&request));
        let registration_id = registration_id(&request.get_ref().registration_id)?;
        let outcome = self.act(actor, registration_id, Action::Confirm { registration_id }, deadline).await?;
        let registration = Some(registration_of(outcome)?);
        Ok(Response::new(pb::ConfirmRegistrationResponse { registration }))
    }

    async fn cancel_registration(
        &self,
        request: Request<pb::CancelRegistrationRequest>,
    ) -> Reply<pb::CancelRegistrationResponse> {
        let (actor, deadline) = (actor(&request)?, deadline(&request));
        let registration_id = registration_id(&request.get_ref().registration_id)?;
        let action = Action::CancelRegistration { registration_id };
        let outcome = self.act(actor, registration_id, action, deadline).await?;
        let registration = Some(registration_of(outcome)?);
        Ok(Response::new(pb::CancelRegistrationResponse { registration }))
    }

    async fn get_registration(
        &self,
        request: Request<pb::GetRegistrationRequest>,
    ) -> Reply<pb::GetRegistrationResponse> {
        let actor = actor(&request)?;
        let registration_id = registration_id(&request.get_ref().registration_id)?;
        let found = registrations::get(&self.0.pool, registration_id).await.map_err(CallError::from)?;
        let row = found
            .filter(|(row, organizer_id)| authority::acts_for(actor, row.user_id, *organizer_id))
            .map(|(row, _)| row)
            .ok_or(Refusal::RegistrationNotFound { registration_id })
            .map_err(CallError::from)?;
        Ok(Response::new(pb::GetRegistrationResponse { registration: Some(convert::registration(row)) }))
    }

    async fn list_registrations(
        &self,
        request: Request<pb::ListRegistrationsRequest>,
    ) -> Reply<pb::ListRegistrationsResponse> {
        let actor = actor(&request)?;
        Ok(Response::new(self.list(actor, request.into_inner()).await?))
    }

    async fn check_in(&self, request: Request<pb::CheckInRequest>) -> Reply<pb::CheckInResponse> {
        let (actor, deadline) = (actor(&request)?, deadline(&request));
        let registration_id = registration_id(&request.get_ref().registration_id)?;
        let outcome = self.act(actor, registration_id, Action::CheckIn { registration_id }, deadline).await?;
        let Outcome::CheckedIn { registration, already } = outcome else {
            return Err(CallError::UnexpectedOutcome.into());
        };
        Ok(Response::new(pb::CheckInResponse {
            registration: Some(convert::registration(registration)),
            already_checked_in: already,
        }))
    }
}

impl Registrations {
    /// Gives a command for a registration to its event's queue.
    async fn act(
        &self,
        actor: Actor,
        registration_id: Uuid,
        action: Action,
        deadline: Instant,
    ) -> Result<Outcome, CallError> {
        let event_id = self
            .0
            .lookups
            .events_of_registrations
            .get(registration_id)
            .await?
            .ok_or(Refusal::RegistrationNotFound { registration_id })?;
        self.0.submit(actor, event_id, action, deadline).await
    }

    async fn list(
        &self,
        actor: Actor,
        request: pb::ListRegistrationsRequest,
    ) -> Result<pb::ListRegistrationsResponse, CallError> {
        let mut violations = Violations::default();
        let size = violations.page_size(request.page_size);
        let event_id = violations.optional_uuid("event_id", &request.event_id);
        let user_id = violations.optional_uuid("user_id", &request.user_id);
        let states = list_request::known(
            "states",
            &request.states,
            RegistrationState::ALL,
            |state| convert::registration_state(state).into(),
            &mut violations,
        );
        violations.finish()?;

        let arguments =
            pb::ListRegistrationsRequest { page_size: 0, page_token: String::new(), ..request.clone() };
        let binding =
            PageBinding::new("ListRegistrations", &[actor.id.as_bytes(), &arguments.encode_to_vec()]);
        let after = list_request::after_id(binding.decode(&request.page_token)?)?;
        let whose = self.0.whose(actor, event_id, user_id).await?;
        let pool = self.0.pool.clone();
        let page = async move {
            let read = async |after, limit| match whose {
                Whose::AllAt(event_id) => {
                    registrations::list_of_event(&pool, event_id, &states, after, limit).await
                }
                Whose::Of { user_id, at } => {
                    registrations::list_of_user(&pool, user_id, at, &states, after, limit).await
                }
            };
            let (key, cursor) = (|row: &Registration| row.id, list_request::id_cursor);
            list_request::page(after, size, &binding, read, key, cursor, convert::registration).await
        };
        let (registrations, next_page_token) = self.0.turns.page(page).await?;
        Ok(pb::ListRegistrationsResponse { registrations, next_page_token })
    }
}

/// Whose rows a list has.
#[derive(Clone, Copy, Debug)]
pub(super) enum Whose {
    /// Everybody's at this event.
    AllAt(Uuid),
    /// This user's, at one event or at all.
    Of { user_id: Uuid, at: Option<Uuid> },
}

impl Booking {
    /// Whose rows a list with these filters has, which the actor may see.
    pub(super) async fn whose(
        &self,
        actor: Actor,
        event_id: Option<Uuid>,
        user_id: Option<Uuid>,
    ) -> Result<Whose, CallError> {
        if let Some(event_id) = event_id.filter(|_| user_id != Some(actor.id)) {
            self.served_event(actor, event_id).await?;
        }
        match (event_id, user_id) {
            (Some(event_id), None) => Ok(Whose::AllAt(event_id)),
            (None, Some(user_id)) if !authority::sees_all_of(actor, user_id) => {
                Err(Refusal::RoleRequired { needed: "the user, a service or an admin" }.into())
            }
            (at, user_id) => Ok(Whose::Of { user_id: user_id.unwrap_or(actor.id), at }),
        }
    }

    /// Asks that the actor handles other people's registrations at this event.
    pub(super) async fn served_event(&self, actor: Actor, event_id: Uuid) -> Result<(), CallError> {
        let record = self.visible_event(actor, event_id).await?;
        if authority::serves_event(actor, record.event.organizer_id) {
            Ok(())
        } else {
            Err(Refusal::RoleRequired { needed: "the event's organizer, a service or an admin" }.into())
        }
    }
}

fn registration_id(value: &str) -> Result<Uuid, CallError> {
    Ok(required_id("registration_id", value)?)
}

fn registration_of(outcome: Outcome) -> Result<pb::Registration, CallError> {
    match outcome {
        Outcome::Registration(row) => Ok(convert::registration(row)),
        _ => Err(CallError::UnexpectedOutcome),
    }
}

fn read_register(actor: Actor, request: pb::RegisterRequest) -> Result<(Uuid, Register), CallError> {
    let mut violations = Violations::default();
    let event_id = violations.uuid("event_id", &request.event_id);
    let seats = party(request.seats, &mut violations);
    let user_id = beneficiary(actor, &request.user_id, &mut violations);
    let when_full = when_full(request.when_full, &mut violations);
    let hold =
        violations.duration("hold_duration", request.hold_duration.as_ref(), SHORTEST_HOLD..=LONGEST_HOLD);
    check_labels(&request.labels, &mut violations);
    let request_id = violations.optional_uuid("request_id", &request.request_id);
    violations.finish()?;
    let request_key = request_id.map(|id| RequestKey {
        actor_id: actor.id,
        id,
        // What is meant counts, not how it was written: defaults are filled in.
        fingerprint: sha256(&[
            b"Register",
            user_id.as_bytes(),
            &seats.to_be_bytes(),
            &[u8::from(when_full == WhenFull::JoinWaitlist)],
            &hold.map(|hold| hold.as_nanos().to_be_bytes()).unwrap_or_default(),
            &pb::RegisterRequest { labels: request.labels.clone(), ..Default::default() }.encode_to_vec(),
        ]),
    });
    let register = Register { user_id, seats, when_full, hold, labels: request.labels, request: request_key };
    Ok((event_id, register))
}

/// The size of a party. The event's own limit is checked under its lock.
pub(super) fn party(seats: Option<i32>, violations: &mut Violations) -> i32 {
    let seats = seats.unwrap_or(1);
    violations.int("seats", seats, 1..=i64::from(LARGEST_PARTY));
    seats
}

/// For whom the seats are. A service has none of its own.
pub(super) fn beneficiary(actor: Actor, user_id: &str, violations: &mut Violations) -> Uuid {
    if user_id.is_empty() && actor.role == ActorRole::Service {
        violations.add("user_id", "is required of a service");
    }
    violations.optional_uuid("user_id", user_id).unwrap_or(actor.id)
}

pub(super) fn check_labels(labels: &Labels, violations: &mut Violations) {
    if labels.len() > MOST_LABELS {
        violations.add("labels", format!("must have at most {MOST_LABELS} entries"));
    }
    if labels.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > LABEL_BYTES {
        violations.add("labels", format!("must have at most {LABEL_BYTES} bytes in all"));
    }
    if labels.contains_key("") {
        violations.add("labels", "must not have an empty key");
    }
    // PostgreSQL's jsonb cannot hold NUL.
    if labels.iter().any(|(key, value)| key.contains('\0') || value.contains('\0')) {
        violations.add("labels", "must not contain NUL");
    }
}

pub(super) fn when_full(value: i32, violations: &mut Violations) -> WhenFull {
    match pb::WhenFull::try_from(value) {
        Ok(pb::WhenFull::Unspecified | pb::WhenFull::Reject) => WhenFull::Reject,
        Ok(pb::WhenFull::JoinWaitlist) => WhenFull::JoinWaitlist,
        Err(_) => {
            violations.add("when_full", "must be a value that exists");
            WhenFull::Reject
        }
    }
}
