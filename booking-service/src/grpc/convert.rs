//! From the rules' values to the contract's messages.

use rowlock_proto::booking::v1 as pb;
use service_core::validation::{proto_duration, timestamp};

use crate::domain::change::{Change, ChangeAction};
use crate::domain::command::ActorRole;
use crate::domain::event::{Event, EventRecord, EventState, QueueDiscipline, WaitlistPolicy};
use crate::domain::registration::{Registration, RegistrationState};
use crate::domain::stats::EventStats;
use crate::domain::verify::{Counted, Finding};
use crate::domain::waitlist::{Entry, EntryState};
use crate::store::changes::Seats;

pub(super) fn event(record: EventRecord) -> pb::Event {
    let EventRecord { event, text } = record;
    pb::Event {
        event_id: event.id.to_string(),
        organizer_id: event.organizer_id.to_string(),
        title: text.title,
        description: text.description,
        location: text.location,
        start_time: Some(timestamp(event.start_time)),
        end_time: Some(timestamp(event.end_time)),
        registration_open_time: event.registration_open_time.map(timestamp),
        registration_close_time: event.registration_close_time.map(timestamp),
        capacity: event.capacity,
        seats_remaining: event.seats_remaining,
        waitlist_size: event.waitlist_size,
        max_seats_per_registration: Some(event.max_seats_per_registration),
        waitlist_policy: waitlist_policy(event.waitlist_policy).into(),
        offer_ttl: Some(proto_duration(event.offer_ttl)),
        queue_discipline: queue_discipline(event.queue_discipline).into(),
        state: event_state(event.state).into(),
        create_time: Some(timestamp(event.create_time)),
        update_time: Some(timestamp(event.update_time)),
        etag: event.etag(),
        version: event.version,
        cancel_reason: event.cancel_reason,
    }
}

pub(super) fn registration(row: Registration) -> pb::Registration {
    pb::Registration {
        registration_id: row.id.to_string(),
        event_id: row.event_id.to_string(),
        user_id: row.user_id.to_string(),
        seats: row.seats,
        state: registration_state(row.state).into(),
        hold_expire_time: row.hold_expire_time.map(timestamp),
        waitlist_entry_id: row.waitlist_entry_id.map(|id| id.to_string()).unwrap_or_default(),
        labels: row.labels,
        create_time: Some(timestamp(row.create_time)),
        update_time: Some(timestamp(row.update_time)),
        confirm_time: row.confirm_time.map(timestamp),
        cancel_time: row.cancel_time.map(timestamp),
        check_in_time: row.check_in_time.map(timestamp),
    }
}

/// `rank` is 0 where it is not known.
pub(super) fn entry(row: Entry, rank: i32) -> pb::WaitlistEntry {
    pb::WaitlistEntry {
        entry_id: row.id.to_string(),
        event_id: row.event_id.to_string(),
        user_id: row.user_id.to_string(),
        seats: row.seats,
        state: entry_state(row.state).into(),
        position: row.position,
        rank,
        offer_expire_time: row.offer_expire_time.map(timestamp),
        registration_id: row.registration_id.map(|id| id.to_string()).unwrap_or_default(),
        labels: row.labels,
        create_time: Some(timestamp(row.create_time)),
        update_time: Some(timestamp(row.update_time)),
    }
}

pub(super) fn stats(stats: &EventStats) -> pb::GetEventStatsResponse {
    pb::GetEventStatsResponse {
        confirmed: number(stats.confirmed.count),
        held: number(stats.held.count),
        checked_in: number(stats.checked_in.count),
        cancelled: number(stats.cancelled),
        expired: number(stats.expired),
        seats_confirmed: number(stats.confirmed.seats),
        seats_held: number(stats.held.seats),
        seats_checked_in: number(stats.checked_in.seats),
        waiting: number(stats.waiting.count),
        offered: number(stats.offered.count),
        seats_waiting: stats.waiting.seats,
        seats_offered: number(stats.offered.seats),
        seats_remaining: stats.seats_remaining,
        idle_seats: stats.idle_seats(),
        filled_percent: stats.filled_percent(),
        first_registration_time: stats.first_registration_time.map(timestamp),
        last_registration_time: stats.last_registration_time.map(timestamp),
    }
}

pub(super) fn verification(
    event: &Event,
    counted: &Counted,
    findings: &[Finding],
) -> pb::VerifyEventResponse {
    let findings: Vec<pb::Finding> = findings
        .iter()
        .map(|finding| pb::Finding { check: finding.check.to_owned(), detail: finding.detail.clone() })
        .collect();
    pb::VerifyEventResponse {
        consistent: findings.is_empty(),
        findings,
        capacity: event.capacity,
        seats_remaining: event.seats_remaining,
        seats_held: counted.seats_held,
        seats_confirmed: counted.seats_confirmed,
        seats_checked_in: counted.seats_checked_in,
        seats_offered: counted.seats_offered,
        waiting_entries: counted.waiting_entries,
        version: event.version,
    }
}

/// A count as the contract has it; more than two thousand million is shown as that.
pub(super) fn number(count: i64) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

pub(super) fn seats(seats: Seats) -> pb::WatchEventResponse {
    pb::WatchEventResponse {
        event_id: seats.event_id.to_string(),
        state: event_state(seats.state).into(),
        capacity: seats.capacity,
        seats_remaining: seats.seats_remaining,
        waitlist_size: seats.waitlist_size,
        version: seats.version,
    }
}

pub(super) fn change(change: &Change) -> pb::Change {
    let system = change.actor.role == ActorRole::System;
    pb::Change {
        event_id: change.event_id.to_string(),
        version: change.version,
        actor_id: if system { String::new() } else { change.actor.id.to_string() },
        actor_role: actor_role(change.actor.role).into(),
        action: change_action(change.action).into(),
        entity_id: change.entity_id.to_string(),
        subject_id: change.subject_id.map(|id| id.to_string()).unwrap_or_default(),
        details_json: change.details.to_string(),
        change_time: Some(timestamp(change.time)),
    }
}

fn actor_role(role: ActorRole) -> pb::ActorRole {
    match role {
        ActorRole::Attendee => pb::ActorRole::Attendee,
        ActorRole::Organizer => pb::ActorRole::Organizer,
        ActorRole::Admin => pb::ActorRole::Admin,
        ActorRole::Service => pb::ActorRole::Service,
        ActorRole::System => pb::ActorRole::System,
    }
}

pub(super) fn change_action(action: ChangeAction) -> pb::ChangeAction {
    match action {
        ChangeAction::EventCreated => pb::ChangeAction::EventCreated,
        ChangeAction::EventUpdated => pb::ChangeAction::EventUpdated,
        ChangeAction::EventPublished => pb::ChangeAction::EventPublished,
        ChangeAction::EventCancelled => pb::ChangeAction::EventCancelled,
        ChangeAction::EventDeleted => pb::ChangeAction::EventDeleted,
        ChangeAction::RegistrationCreated => pb::ChangeAction::RegistrationCreated,
        ChangeAction::RegistrationHeld => pb::ChangeAction::RegistrationHeld,
        ChangeAction::RegistrationConfirmed => pb::ChangeAction::RegistrationConfirmed,
        ChangeAction::RegistrationCancelled => pb::ChangeAction::RegistrationCancelled,
        ChangeAction::RegistrationExpired => pb::ChangeAction::RegistrationExpired,
        ChangeAction::RegistrationCheckedIn => pb::ChangeAction::RegistrationCheckedIn,
        ChangeAction::WaitlistJoined => pb::ChangeAction::WaitlistJoined,
        ChangeAction::WaitlistLeft => pb::ChangeAction::WaitlistLeft,
        ChangeAction::WaitlistPromoted => pb::ChangeAction::WaitlistPromoted,
        ChangeAction::WaitlistOffered => pb::ChangeAction::WaitlistOffered,
        ChangeAction::OfferAccepted => pb::ChangeAction::OfferAccepted,
        ChangeAction::OfferDeclined => pb::ChangeAction::OfferDeclined,
        ChangeAction::OfferExpired => pb::ChangeAction::OfferExpired,
        ChangeAction::WaitlistCancelled => pb::ChangeAction::WaitlistCancelled,
    }
}

fn waitlist_policy(policy: WaitlistPolicy) -> pb::WaitlistPolicy {
    match policy {
        WaitlistPolicy::Promote => pb::WaitlistPolicy::Promote,
        WaitlistPolicy::Offer => pb::WaitlistPolicy::Offer,
    }
}

fn queue_discipline(discipline: QueueDiscipline) -> pb::QueueDiscipline {
    match discipline {
        QueueDiscipline::Strict => pb::QueueDiscipline::Strict,
        QueueDiscipline::SkipAhead => pb::QueueDiscipline::SkipAhead,
    }
}

pub(super) fn event_state(state: EventState) -> pb::EventState {
    match state {
        EventState::Draft => pb::EventState::Draft,
        EventState::Published => pb::EventState::Published,
        EventState::Cancelled => pb::EventState::Cancelled,
    }
}

pub(super) fn registration_state(state: RegistrationState) -> pb::RegistrationState {
    match state {
        RegistrationState::Held => pb::RegistrationState::Held,
        RegistrationState::Confirmed => pb::RegistrationState::Confirmed,
        RegistrationState::CheckedIn => pb::RegistrationState::CheckedIn,
        RegistrationState::Cancelled => pb::RegistrationState::Cancelled,
        RegistrationState::Expired => pb::RegistrationState::Expired,
    }
}

pub(super) fn entry_state(state: EntryState) -> pb::WaitlistEntryState {
    match state {
        EntryState::Waiting => pb::WaitlistEntryState::Waiting,
        EntryState::Promoted => pb::WaitlistEntryState::Promoted,
        EntryState::Offered => pb::WaitlistEntryState::Offered,
        EntryState::Accepted => pb::WaitlistEntryState::Accepted,
        EntryState::Declined => pb::WaitlistEntryState::Declined,
        EntryState::Expired => pb::WaitlistEntryState::Expired,
        EntryState::Left => pb::WaitlistEntryState::Left,
        EntryState::Cancelled => pb::WaitlistEntryState::Cancelled,
    }
}
