//! Who may do what to whose things. Fails closed: a role that is not named here may not.

use uuid::Uuid;

use super::command::{Actor, ActorRole};
use super::event::{Event, EventState};
use super::refusal::Refusal;

/// Whether the actor runs this event: its organizer, or an admin.
pub fn runs_event(actor: Actor, organizer_id: Uuid) -> bool {
    match actor.role {
        ActorRole::Admin => true,
        // The role matters as well as the name: an organizer who was demoted no longer runs the event.
        ActorRole::Organizer => actor.id == organizer_id,
        ActorRole::Attendee | ActorRole::Service | ActorRole::System => false,
    }
}

/// Whether the actor may see that the event exists: drafts are seen by those who run them.
pub fn sees_event(actor: Actor, event: &Event) -> bool {
    event.state != EventState::Draft || runs_event(actor, event.organizer_id)
}

/// Whose drafts the actor sees, as [`sees_event`] says it of one: `None` for everybody's. Nobody's are the nil UUID's.
pub fn sees_drafts_of(actor: Actor) -> Option<Uuid> {
    match actor.role {
        ActorRole::Admin => None,
        ActorRole::Organizer => Some(actor.id),
        ActorRole::Attendee | ActorRole::Service | ActorRole::System => Some(Uuid::nil()),
    }
}

/// Whether the actor may act in the name of `user_id` at this event.
pub fn acts_for(actor: Actor, user_id: Uuid, organizer_id: Uuid) -> bool {
    actor.id == user_id || serves_event(actor, organizer_id)
}

/// Whether the actor may see what this user has at all events.
pub fn sees_all_of(actor: Actor, user_id: Uuid) -> bool {
    actor.id == user_id || matches!(actor.role, ActorRole::Service | ActorRole::System | ActorRole::Admin)
}

/// Whether the actor handles other people's registrations at this event: who runs it, a service, the system.
pub fn serves_event(actor: Actor, organizer_id: Uuid) -> bool {
    matches!(actor.role, ActorRole::Service | ActorRole::System) || runs_event(actor, organizer_id)
}

/// Asks that the actor runs the event.
///
/// # Errors
/// [`Refusal::EventNotFound`] if the actor may not even see it, else [`Refusal::RoleRequired`].
pub fn require_runs(actor: Actor, event: &Event) -> Result<(), Refusal> {
    if runs_event(actor, event.organizer_id) {
        Ok(())
    } else if sees_event(actor, event) {
        Err(Refusal::RoleRequired { needed: "the event's organizer or an admin" })
    } else {
        Err(Refusal::EventNotFound { event_id: event.id })
    }
}
