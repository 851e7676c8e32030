//! An organizer's events with one of everything in them, for tests that try every rpc on every kind of thing.

use prost::Message;
use rowlock_proto::booking::v1 as pb;
use service_core::auth::Role;

use crate::acts::{ask, ask_to_wait, draft, offering_draft, update};
use crate::caller::Caller;
use crate::system::System;

/// Everything of it belongs to `owner` or to `user`. Whatever the requests of [`Scene::requests`] ask for is already so:
/// they can be sent again and again.
pub(crate) struct Scene {
    pub(crate) system: System,
    pub(crate) owner: Caller,
    pub(crate) user: Caller,
    pub(crate) draft: pb::Event,
    pub(crate) open: pb::Event,
    pub(crate) cancelled: pb::Event,
    pub(crate) confirmed: pb::Registration,
    pub(crate) checked_in: pb::Registration,
    pub(crate) given_back: pb::Registration,
    pub(crate) full: pb::Event,
    pub(crate) waiting: pb::WaitlistEntry,
    pub(crate) left: pb::WaitlistEntry,
    pub(crate) accepted: pb::WaitlistEntry,
    pub(crate) declined: pb::WaitlistEntry,
}

impl Scene {
    pub(crate) async fn set(replicas: usize) -> Self {
        let system = System::with_replicas(replicas).await;
        let (owner, user) = (system.caller(Role::Organizer), system.caller(Role::Attendee));
        let draft_event = owner.create(draft(5)).await.unwrap();
        let cancelled = owner.publish_new(draft(5)).await;
        let cancelled = owner.cancel_event(&cancelled, "rain").await.unwrap();
        let open = owner.publish_new(draft(5)).await;
        let confirmed = user.seat(&open).await;
        let door = owner.publish_new(draft(5)).await;
        let checked_in = user.seat(&door).await;
        let checked_in = owner.check_in(&checked_in.registration_id).await.unwrap().registration.unwrap();
        let quiet = owner.publish_new(draft(5)).await;
        let given_back = user.seat(&quiet).await;
        let given_back = user.cancel(&given_back.registration_id).await.unwrap();

        let full = owner.publish_new(draft(1)).await;
        system.attendee().seat(&full).await;
        let waiting = user.join(&full).await.unwrap();
        let other = owner.publish_new(draft(1)).await;
        system.attendee().seat(&other).await;
        let left = user.join(&other).await.unwrap();
        let left = user.leave(&left.entry_id).await.unwrap();
        let (mut accepted, mut declined) =
            (offered(&system, &owner, &user).await, offered(&system, &owner, &user).await);
        accepted = user.accept(&accepted.entry_id).await.unwrap().entry.unwrap();
        declined = user.decline(&declined.entry_id).await.unwrap();
        Self {
            system,
            owner,
            user,
            draft: draft_event,
            open,
            cancelled,
            confirmed,
            checked_in,
            given_back,
            full,
            waiting,
            left,
            accepted,
            declined,
        }
    }

    /// A valid request for every rpc: `(rpc, message)`.
    pub(crate) fn requests(&self) -> Vec<(&'static str, Vec<u8>)> {
        let event_id = || self.open.event_id.clone();
        let user_id = || self.user.id.to_string();
        let registration_id = |registration: &pb::Registration| registration.registration_id.clone();
        let entry_id = |entry: &pb::WaitlistEntry| entry.entry_id.clone();
        let titled = pb::Event { etag: String::new(), ..self.open.clone() };
        vec![
            (
                "EventService/CreateEvent",
                pb::CreateEventRequest { event: Some(draft(5)), ..Default::default() }.encode_to_vec(),
            ),
            ("EventService/GetEvent", pb::GetEventRequest { event_id: event_id() }.encode_to_vec()),
            (
                "EventService/BatchGetEvents",
                pb::BatchGetEventsRequest { event_ids: vec![event_id()] }.encode_to_vec(),
            ),
            ("EventService/ListEvents", pb::ListEventsRequest::default().encode_to_vec()),
            ("EventService/UpdateEvent", update(titled, &["title"]).encode_to_vec()),
            (
                "EventService/PublishEvent",
                pb::PublishEventRequest { event_id: event_id(), ..Default::default() }.encode_to_vec(),
            ),
            (
                "EventService/CancelEvent",
                pb::CancelEventRequest { event_id: self.cancelled.event_id.clone(), ..Default::default() }
                    .encode_to_vec(),
            ),
            // It is published, so this is as far as one can come.
            (
                "EventService/DeleteEvent",
                pb::DeleteEventRequest { event_id: event_id(), ..Default::default() }.encode_to_vec(),
            ),
            ("EventService/GetEventStats", pb::GetEventStatsRequest { event_id: event_id() }.encode_to_vec()),
            ("EventService/WatchEvent", pb::WatchEventRequest { event_id: event_id() }.encode_to_vec()),
            ("EventService/VerifyEvent", pb::VerifyEventRequest { event_id: event_id() }.encode_to_vec()),
            (
                "RegistrationService/Register",
                pb::RegisterRequest { user_id: user_id(), ..ask(&self.open) }.encode_to_vec(),
            ),
            (
                "RegistrationService/ConfirmRegistration",
                pb::ConfirmRegistrationRequest { registration_id: registration_id(&self.confirmed) }
                    .encode_to_vec(),
            ),
            (
                "RegistrationService/CancelRegistration",
                pb::CancelRegistrationRequest { registration_id: registration_id(&self.given_back) }
                    .encode_to_vec(),
            ),
            (
                "RegistrationService/GetRegistration",
                pb::GetRegistrationRequest { registration_id: registration_id(&self.confirmed) }
                    .encode_to_vec(),
            ),
            (
                "RegistrationService/ListRegistrations",
                pb::ListRegistrationsRequest { event_id: event_id(), ..Default::default() }.encode_to_vec(),
            ),
            (
                "RegistrationService/CheckIn",
                pb::CheckInRequest { registration_id: registration_id(&self.checked_in) }.encode_to_vec(),
            ),
            (
                "WaitlistService/JoinWaitlist",
                pb::JoinWaitlistRequest { user_id: user_id(), ..ask_to_wait(&self.full) }.encode_to_vec(),
            ),
            (
                "WaitlistService/LeaveWaitlist",
                pb::LeaveWaitlistRequest { entry_id: entry_id(&self.left) }.encode_to_vec(),
            ),
            (
                "WaitlistService/GetWaitlistEntry",
                pb::GetWaitlistEntryRequest { entry_id: entry_id(&self.waiting) }.encode_to_vec(),
            ),
            (
                "WaitlistService/AcceptOffer",
                pb::AcceptOfferRequest { entry_id: entry_id(&self.accepted) }.encode_to_vec(),
            ),
            (
                "WaitlistService/DeclineOffer",
                pb::DeclineOfferRequest { entry_id: entry_id(&self.declined) }.encode_to_vec(),
            ),
            (
                "WaitlistService/ListWaitlistEntries",
                pb::ListWaitlistEntriesRequest { event_id: event_id(), ..Default::default() }.encode_to_vec(),
            ),
            (
                "AuditService/ListAuditEntries",
                pb::ListAuditEntriesRequest { event_id: event_id(), ..Default::default() }.encode_to_vec(),
            ),
            (
                "ChangeService/StreamChanges",
                pb::StreamChangesRequest { event_id: event_id(), ..Default::default() }.encode_to_vec(),
            ),
            (
                "SimulationService/SimulateRush",
                pb::SimulateRushRequest { event_id: event_id(), users: 1, ..Default::default() }
                    .encode_to_vec(),
            ),
        ]
    }
}

/// An offer to the user at a new event of the owner's.
async fn offered(system: &System, owner: &Caller, user: &Caller) -> pb::WaitlistEntry {
    let event = owner.publish_new(offering_draft(1)).await;
    let holder = system.attendee();
    let registration = holder.seat(&event).await;
    let entry = user.join(&event).await.unwrap();
    holder.cancel(&registration.registration_id).await.unwrap();
    entry
}
