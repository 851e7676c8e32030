//! What people do, as one line each.

use std::time::Duration;

use rowlock_proto::booking::v1 as pb;
use rowlock_proto::booking::v1::register_response::Outcome;
use service_core::validation::timestamp;
use tonic::Status;

use crate::caller::Caller;
use crate::system::now;

/// A draft with so many seats that starts in a day.
pub(crate) fn draft(capacity: i32) -> pb::Event {
    let start = now() + Duration::from_secs(86_400);
    pb::Event {
        title: "An evening of locks".to_owned(),
        capacity,
        start_time: Some(timestamp(start)),
        end_time: Some(timestamp(start + Duration::from_secs(7_200))),
        ..pb::Event::default()
    }
}

/// The same for parties.
pub(crate) fn party_draft(capacity: i32, max_seats: i32) -> pb::Event {
    pb::Event { max_seats_per_registration: Some(max_seats), ..draft(capacity) }
}

/// The same, whose freed seats are offered.
pub(crate) fn offering_draft(capacity: i32) -> pb::Event {
    pb::Event { waitlist_policy: pb::WaitlistPolicy::Offer.into(), ..draft(capacity) }
}

/// Asks for one seat.
pub(crate) fn ask(event: &pb::Event) -> pb::RegisterRequest {
    pb::RegisterRequest { event_id: event.event_id.clone(), ..pb::RegisterRequest::default() }
}

/// Asks for seats, or a place in the queue.
pub(crate) fn ask_or_queue(event: &pb::Event, seats: i32) -> pb::RegisterRequest {
    pb::RegisterRequest { seats: Some(seats), when_full: pb::WhenFull::JoinWaitlist.into(), ..ask(event) }
}

/// Asks for a place in the queue.
pub(crate) fn ask_to_wait(event: &pb::Event) -> pb::JoinWaitlistRequest {
    pb::JoinWaitlistRequest { event_id: event.event_id.clone(), ..pb::JoinWaitlistRequest::default() }
}

/// A change of these fields.
pub(crate) fn update(event: pb::Event, paths: &[&str]) -> pb::UpdateEventRequest {
    let paths = paths.iter().map(|path| (*path).to_owned()).collect();
    pb::UpdateEventRequest { event: Some(event), update_mask: Some(prost_types::FieldMask { paths }) }
}

impl Caller {
    pub(crate) async fn create(&self, event: pb::Event) -> Result<pb::Event, Status> {
        let request = pb::CreateEventRequest { event: Some(event), request_id: String::new() };
        Ok(self.events().create_event(request).await?.into_inner().event.unwrap())
    }

    pub(crate) async fn publish(&self, event: &pb::Event) -> Result<pb::Event, Status> {
        let request = pb::PublishEventRequest { event_id: event.event_id.clone(), etag: String::new() };
        Ok(self.events().publish_event(request).await?.into_inner().event.unwrap())
    }

    pub(crate) async fn publish_new(&self, event: pb::Event) -> pb::Event {
        let draft = self.create(event).await.unwrap();
        self.publish(&draft).await.unwrap()
    }

    pub(crate) async fn get_event(&self, event: &pb::Event) -> Result<pb::Event, Status> {
        let request = pb::GetEventRequest { event_id: event.event_id.clone() };
        Ok(self.events().get_event(request).await?.into_inner().event.unwrap())
    }

    pub(crate) async fn update(&self, event: pb::Event, paths: &[&str]) -> Result<pb::Event, Status> {
        Ok(self.events().update_event(update(event, paths)).await?.into_inner().event.unwrap())
    }

    pub(crate) async fn set_capacity(&self, event: &pb::Event, capacity: i32) -> Result<pb::Event, Status> {
        let event = pb::Event { event_id: event.event_id.clone(), capacity, ..pb::Event::default() };
        self.update(event, &["capacity"]).await
    }

    pub(crate) async fn cancel_event(&self, event: &pb::Event, reason: &str) -> Result<pb::Event, Status> {
        let request = pb::CancelEventRequest {
            event_id: event.event_id.clone(),
            reason: reason.to_owned(),
            etag: String::new(),
        };
        Ok(self.events().cancel_event(request).await?.into_inner().event.unwrap())
    }

    pub(crate) async fn delete_event(&self, event: &pb::Event) -> Result<pb::Event, Status> {
        let request = pb::DeleteEventRequest { event_id: event.event_id.clone(), etag: String::new() };
        Ok(self.events().delete_event(request).await?.into_inner().event.unwrap())
    }

    pub(crate) async fn stats(&self, event: &pb::Event) -> Result<pb::GetEventStatsResponse, Status> {
        let request = pb::GetEventStatsRequest { event_id: event.event_id.clone() };
        Ok(self.events().get_event_stats(request).await?.into_inner())
    }

    pub(crate) async fn verify(&self, event: &pb::Event) -> Result<pb::VerifyEventResponse, Status> {
        let request = pb::VerifyEventRequest { event_id: event.event_id.clone() };
        Ok(self.events().verify_event(request).await?.into_inner())
    }

    pub(crate) async fn try_register(&self, request: pb::RegisterRequest) -> Result<Outcome, Status> {
        Ok(self.registrations().register(request).await?.into_inner().outcome.unwrap())
    }

    /// Asks for one seat.
    pub(crate) async fn register(&self, event: &pb::Event) -> Result<Outcome, Status> {
        self.try_register(ask(event)).await
    }

    /// Gets what was asked for.
    pub(crate) async fn seats(&self, request: pb::RegisterRequest) -> pb::Registration {
        match self.try_register(request).await.unwrap() {
            Outcome::Registration(registration) => registration,
            Outcome::WaitlistEntry(entry) => panic!("a place in the queue: {entry:?}"),
        }
    }

    /// Gets one seat.
    pub(crate) async fn seat(&self, event: &pb::Event) -> pb::Registration {
        self.seats(ask(event)).await
    }

    /// Gets seats for so long.
    pub(crate) async fn hold(&self, event: &pb::Event, seconds: i64) -> pb::Registration {
        let hold_duration = Some(prost_types::Duration { seconds, nanos: 0 });
        self.seats(pb::RegisterRequest { hold_duration, ..ask(event) }).await
    }

    pub(crate) async fn confirm(&self, id: &str) -> Result<pb::Registration, Status> {
        let request = pb::ConfirmRegistrationRequest { registration_id: id.to_owned() };
        Ok(self.registrations().confirm_registration(request).await?.into_inner().registration.unwrap())
    }

    pub(crate) async fn cancel(&self, id: &str) -> Result<pb::Registration, Status> {
        let request = pb::CancelRegistrationRequest { registration_id: id.to_owned() };
        Ok(self.registrations().cancel_registration(request).await?.into_inner().registration.unwrap())
    }

    pub(crate) async fn check_in(&self, id: &str) -> Result<pb::CheckInResponse, Status> {
        let request = pb::CheckInRequest { registration_id: id.to_owned() };
        Ok(self.registrations().check_in(request).await?.into_inner())
    }

    pub(crate) async fn registration(&self, id: &str) -> Result<pb::Registration, Status> {
        let request = pb::GetRegistrationRequest { registration_id: id.to_owned() };
        Ok(self.registrations().get_registration(request).await?.into_inner().registration.unwrap())
    }

    pub(crate) async fn try_join(
        &self,
        request: pb::JoinWaitlistRequest,
    ) -> Result<pb::WaitlistEntry, Status> {
        Ok(self.waitlists().join_waitlist(request).await?.into_inner().entry.unwrap())
    }

    /// Queues for one seat.
    pub(crate) async fn join(&self, event: &pb::Event) -> Result<pb::WaitlistEntry, Status> {
        self.try_join(ask_to_wait(event)).await
    }

    /// Queues for so many seats.
    pub(crate) async fn join_for(&self, event: &pb::Event, seats: i32) -> pb::WaitlistEntry {
        self.try_join(pb::JoinWaitlistRequest { seats: Some(seats), ..ask_to_wait(event) }).await.unwrap()
    }

    pub(crate) async fn leave(&self, id: &str) -> Result<pb::WaitlistEntry, Status> {
        let request = pb::LeaveWaitlistRequest { entry_id: id.to_owned() };
        Ok(self.waitlists().leave_waitlist(request).await?.into_inner().entry.unwrap())
    }

    pub(crate) async fn entry(&self, id: &str) -> Result<pb::WaitlistEntry, Status> {
        let request = pb::GetWaitlistEntryRequest { entry_id: id.to_owned() };
        Ok(self.waitlists().get_waitlist_entry(request).await?.into_inner().entry.unwrap())
    }

    pub(crate) async fn accept(&self, id: &str) -> Result<pb::AcceptOfferResponse, Status> {
        let request = pb::AcceptOfferRequest { entry_id: id.to_owned() };
        Ok(self.waitlists().accept_offer(request).await?.into_inner())
    }

    pub(crate) async fn decline(&self, id: &str) -> Result<pb::WaitlistEntry, Status> {
        let request = pb::DeclineOfferRequest { entry_id: id.to_owned() };
        Ok(self.waitlists().decline_offer(request).await?.into_inner().entry.unwrap())
    }
}
