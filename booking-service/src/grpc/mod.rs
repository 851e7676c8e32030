//! What clients call. Each handler reads: validate → command or query → convert. No rule and no SQL lives here.

pub mod access;
mod audit_service;
mod change_service;
mod convert;
mod error;
mod event_request;
mod event_service;
mod list_request;
mod registration_service;
mod simulation_service;
mod turns;
mod waitlist_service;
mod watch;

use std::sync::Arc;

use futures_util::FutureExt;
use rowlock_proto::booking::v1 as pb;
use service_core::auth::{Principal, Role, principal};
use service_core::clock::Clock;
use service_core::ids::IdSource;
use service_core::stream_end::StreamEnd;
use service_core::token::KnownRevocations;
use sqlx::PgPool;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use uuid::Uuid;

use crate::domain::command::{Action, Actor, ActorRole, Command};
use crate::domain::decide::Outcome;
use crate::domain::event::EventRecord;
use crate::feed::Feed;
use crate::seating::Seating;
use crate::simulate::Simulator;
use crate::store::lookup::Lookup;
use crate::store::{events, registrations, waitlist};

pub use error::{CallError, DOMAIN};
pub use turns::Turns;

/// What the handlers work with.
pub struct Booking {
    /// Where commands go.
    pub seating: Arc<Seating>,
    /// For everything that takes no seat: a rush cannot starve it.
    pub pool: PgPool,
    /// What many calls look up at once.
    pub lookups: Lookups,
    /// Makes ids of new events.
    pub ids: Arc<dyn IdSource>,
    /// Runs rehearsals, one at a time.
    pub simulator: Simulator,
    /// The change log as it grows.
    pub feed: Feed,
    /// Whose turn it is to read what may take long.
    pub turns: Turns,
    /// Tells when tokens end.
    pub clock: Arc<dyn Clock>,
    /// Which tokens are good no longer.
    pub revocations: Arc<KnownRevocations>,
    /// Cancelled when this replica begins to go away.
    pub draining: CancellationToken,
}

/// What nearly every call has to look up first.
pub struct Lookups {
    /// Events.
    pub events: Lookup<EventRecord>,
    /// The events that registrations belong to.
    pub events_of_registrations: Lookup<Uuid>,
    /// The events that queue entries belong to.
    pub events_of_entries: Lookup<Uuid>,
}

impl Lookups {
    /// To be called within a tokio runtime.
    pub fn start(pool: &PgPool) -> Self {
        Self {
            events: Lookup::start(pool.clone(), |connection, ids| events::find(connection, ids).boxed()),
            events_of_registrations: Lookup::start(pool.clone(), |connection, ids| {
                registrations::events_of(connection, ids).boxed()
            }),
            events_of_entries: Lookup::start(pool.clone(), |connection, ids| {
                waitlist::events_of(connection, ids).boxed()
            }),
        }
    }
}

impl Booking {
    /// When a stream that this request opens has to end.
    fn stream_end<T>(&self, request: &tonic::Request<T>) -> Result<StreamEnd, CallError> {
        let (revocations, draining) = (Arc::clone(&self.revocations), self.draining.clone());
        Ok(StreamEnd::new(principal(request)?, self.clock.as_ref(), revocations, draining))
    }

    /// Gives a command to its event's queue.
    async fn submit(
        &self,
        actor: Actor,
        event_id: Uuid,
        action: Action,
        deadline: Instant,
    ) -> Result<Outcome, CallError> {
        Ok(self.seating.submit(Command { event_id, actor, action }, deadline).await?)
    }
}

/// All services of the package, with their size limit.
pub fn routes(booking: &Arc<Booking>, max_message_bytes: usize) -> Routes {
    use pb::audit_service_server::AuditServiceServer;
    use pb::change_service_server::ChangeServiceServer;
    use pb::event_service_server::EventServiceServer;
    use pb::registration_service_server::RegistrationServiceServer;
    use pb::simulation_service_server::SimulationServiceServer;
    use pb::waitlist_service_server::WaitlistServiceServer;

    macro_rules! limited {
        ($server:ident, $handlers:expr) => {
            $server::new($handlers).max_decoding_message_size(max_message_bytes)
        };
    }
    Routes::new(limited!(EventServiceServer, event_service::Events(Arc::clone(booking))))
        .add_service(limited!(
            RegistrationServiceServer,
            registration_service::Registrations(Arc::clone(booking))
        ))
        .add_service(limited!(WaitlistServiceServer, waitlist_service::Waitlists(Arc::clone(booking))))
        .add_service(limited!(AuditServiceServer, audit_service::Audits(Arc::clone(booking))))
        .add_service(limited!(ChangeServiceServer, change_service::Changes(Arc::clone(booking))))
        .add_service(limited!(SimulationServiceServer, simulation_service::Simulations(Arc::clone(booking))))
}

/// The services' full names, for health checks.
pub const SERVICE_NAMES: [&str; 6] = [
    "rowlock.booking.v1.EventService",
    "rowlock.booking.v1.RegistrationService",
    "rowlock.booking.v1.WaitlistService",
    "rowlock.booking.v1.AuditService",
    "rowlock.booking.v1.ChangeService",
    "rowlock.booking.v1.SimulationService",
];

/// Who calls, as the rules know them.
fn actor<T>(request: &tonic::Request<T>) -> Result<Actor, CallError> {
    let Principal { user_id, role, .. } = principal(request)?;
    let role = match role {
        Role::Attendee => ActorRole::Attendee,
        Role::Organizer => ActorRole::Organizer,
        Role::Admin => ActorRole::Admin,
        Role::Service => ActorRole::Service,
    };
    Ok(Actor { id: *user_id, role })
}
