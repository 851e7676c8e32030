//! Reading what organizers send: new events and changes to them.

use std::time::Duration;

use rowlock_proto::booking::v1 as pb;
use service_core::validation::{Violations, paths};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::domain::command::EventPatch;
use crate::domain::event::{Event, EventRecord, EventState, EventText, QueueDiscipline, WaitlistPolicy};
use crate::domain::schedule::{LARGEST_CAPACITY, LARGEST_PARTY};

const TITLE_CHARS: usize = 200;
const DESCRIPTION_CHARS: usize = 10_000;
const LOCATION_CHARS: usize = 500;
const SHORTEST_OFFER: Duration = Duration::from_secs(1);
const LONGEST_OFFER: Duration = Duration::from_secs(7 * 24 * 60 * 60);
const DEFAULT_OFFER: Duration = Duration::from_secs(15 * 60);

/// What of a new event the caller has given: what is output only is ignored, also where repetitions are compared.
pub(super) fn given(event: pb::Event) -> pb::Event {
    pb::Event {
        event_id: String::new(),
        organizer_id: String::new(),
        seats_remaining: 0,
        waitlist_size: 0,
        state: pb::EventState::Unspecified.into(),
        create_time: None,
        update_time: None,
        etag: String::new(),
        version: 0,
        cancel_reason: String::new(),
        ..event
    }
}

/// A new draft. What depends on the present is checked by [`crate::domain::schedule::check`].
pub(super) fn draft(
    event: &pb::Event,
    id: Uuid,
    organizer_id: Uuid,
    now: OffsetDateTime,
    violations: &mut Violations,
) -> EventRecord {
    let text = EventText {
        title: title(event, violations),
        description: description(event, violations),
        location: location(event, violations),
    };
    let capacity = capacity(event, violations);
    let event = Event {
        id,
        organizer_id,
        start_time: required_time("event.start_time", event.start_time.as_ref(), now, violations),
        end_time: required_time("event.end_time", event.end_time.as_ref(), now, violations),
        registration_open_time: violations
            .time("event.registration_open_time", event.registration_open_time.as_ref()),
        registration_close_time: violations
            .time("event.registration_close_time", event.registration_close_time.as_ref()),
        capacity,
        seats_remaining: capacity,
        waitlist_size: 0,
        largest_party: 1,
        next_position: 1,
        max_seats_per_registration: max_seats(event, violations),
        waitlist_policy: waitlist_policy(event, violations),
        offer_ttl: offer_ttl(event, violations),
        queue_discipline: queue_discipline(event, violations),
        state: EventState::Draft,
        cancel_reason: String::new(),
        revision: 1,
        version: 1,
        create_time: now,
        update_time: now,
    };
    EventRecord { event, text }
}

/// The fields that the mask names, with their new values. A named field that is not set gets its default.
pub(super) fn patch(event: &pb::Event, mask: &[String], violations: &mut Violations) -> EventPatch {
    let mut patch = EventPatch { etag: etag(&event.etag), ..EventPatch::default() };
    if mask.is_empty() {
        violations.add("update_mask", "is required: name the fields to change");
    }
    // A missing time is reported and then stands in for nothing, since the request is refused.
    let missing = OffsetDateTime::UNIX_EPOCH;
    for path in paths(mask) {
        match path {
            "title" => patch.title = Some(title(event, violations)),
            "description" => patch.description = Some(description(event, violations)),
            "location" => patch.location = Some(location(event, violations)),
            "start_time" => {
                let time = required_time("event.start_time", event.start_time.as_ref(), missing, violations);
                patch.start_time = Some(time);
            }
            "end_time" => {
                let time = required_time("event.end_time", event.end_time.as_ref(), missing, violations);
                patch.end_time = Some(time);
            }
            "registration_open_time" => {
                let time = event.registration_open_time.as_ref();
                patch.registration_open_time = Some(violations.time("event.registration_open_time", time));
            }
            "registration_close_time" => {
                let time = event.registration_close_time.as_ref();
                patch.registration_close_time = Some(violations.time("event.registration_close_time", time));
            }
            "capacity" => patch.capacity = Some(capacity(event, violations)),
            "max_seats_per_registration" => {
                patch.max_seats_per_registration = Some(max_seats(event, violations));
            }
            "waitlist_policy" => patch.waitlist_policy = Some(waitlist_policy(event, violations)),
            "offer_ttl" => patch.offer_ttl = Some(offer_ttl(event, violations)),
            "queue_discipline" => patch.queue_discipline = Some(queue_discipline(event, violations)),
            _ => violations.add("update_mask", "names a field that cannot be changed"),
        }
    }
    patch
}

/// An etag that was sent; empty means that the revision does not matter.
pub(super) fn etag(etag: &str) -> Option<String> {
    (!etag.is_empty()).then(|| etag.to_owned())
}

fn title(event: &pb::Event, violations: &mut Violations) -> String {
    violations.text("event.title", &event.title, 1, TITLE_CHARS)
}

fn description(event: &pb::Event, violations: &mut Violations) -> String {
    violations.text("event.description", &event.description, 0, DESCRIPTION_CHARS)
}

fn location(event: &pb::Event, violations: &mut Violations) -> String {
    violations.text("event.location", &event.location, 0, LOCATION_CHARS)
}

fn required_time(
    field: &str,
    value: Option<&prost_types::Timestamp>,
    otherwise: OffsetDateTime,
    violations: &mut Violations,
) -> OffsetDateTime {
    if value.is_none() {
        violations.add(field, "is required");
    }
    violations.time(field, value).unwrap_or(otherwise)
}

fn capacity(event: &pb::Event, violations: &mut Violations) -> i32 {
    violations.int("event.capacity", event.capacity, 1..=i64::from(LARGEST_CAPACITY));
    event.capacity
}

fn max_seats(event: &pb::Event, violations: &mut Violations) -> i32 {
    let seats = event.max_seats_per_registration.unwrap_or(1);
    violations.int("event.max_seats_per_registration", seats, 1..=i64::from(LARGEST_PARTY));
    seats
}

fn offer_ttl(event: &pb::Event, violations: &mut Violations) -> Duration {
    let ttl = violations
        .duration("event.offer_ttl", event.offer_ttl.as_ref(), SHORTEST_OFFER..=LONGEST_OFFER)
        .unwrap_or(DEFAULT_OFFER);
    // The row keeps milliseconds: what is answered now must be what is read later.
    ttl - Duration::from_nanos(u64::from(ttl.subsec_nanos() % 1_000_000))
}

fn waitlist_policy(event: &pb::Event, violations: &mut Violations) -> WaitlistPolicy {
    match pb::WaitlistPolicy::try_from(event.waitlist_policy) {
        Ok(pb::WaitlistPolicy::Unspecified | pb::WaitlistPolicy::Promote) => WaitlistPolicy::Promote,
        Ok(pb::WaitlistPolicy::Offer) => WaitlistPolicy::Offer,
        Err(_) => {
            violations.add("event.waitlist_policy", "must be a policy that exists");
            WaitlistPolicy::Promote
        }
    }
}

fn queue_discipline(event: &pb::Event, violations: &mut Violations) -> QueueDiscipline {
    match pb::QueueDiscipline::try_from(event.queue_discipline) {
        Ok(pb::QueueDiscipline::Unspecified | pb::QueueDiscipline::Strict) => QueueDiscipline::Strict,
        Ok(pb::QueueDiscipline::SkipAhead) => QueueDiscipline::SkipAhead,
        Err(_) => {
            violations.add("event.queue_discipline", "must be a discipline that exists");
            QueueDiscipline::Strict
        }
    }
}
