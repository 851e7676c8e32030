//! Who may call which method at all. Whose things they are is decided by the rules, see [`crate::domain::authority`].

use service_core::auth::{Access, AccessTable, Role};

const ORGANIZERS: Access = Access::AnyOf(&[Role::Organizer, Role::Admin]);
const BACKENDS: Access = Access::AnyOf(&[Role::Service, Role::Admin]);
const ADMINS: Access = Access::AnyOf(&[Role::Admin]);

/// Every method. One that is missing is refused.
pub const ACCESS: AccessTable = &[
    ("/rowlock.booking.v1.EventService/CreateEvent", ORGANIZERS),
    ("/rowlock.booking.v1.EventService/GetEvent", Access::SignedIn),
    ("/rowlock.booking.v1.EventService/BatchGetEvents", Access::SignedIn),
    ("/rowlock.booking.v1.EventService/ListEvents", Access::SignedIn),
    ("/rowlock.booking.v1.EventService/UpdateEvent", ORGANIZERS),
    ("/rowlock.booking.v1.EventService/PublishEvent", ORGANIZERS),
    ("/rowlock.booking.v1.EventService/CancelEvent", ORGANIZERS),
    ("/rowlock.booking.v1.EventService/DeleteEvent", ORGANIZERS),
    ("/rowlock.booking.v1.EventService/GetEventStats", ORGANIZERS),
    ("/rowlock.booking.v1.EventService/WatchEvent", Access::SignedIn),
    ("/rowlock.booking.v1.EventService/VerifyEvent", ORGANIZERS),
    ("/rowlock.booking.v1.RegistrationService/Register", Access::SignedIn),
    ("/rowlock.booking.v1.RegistrationService/ConfirmRegistration", Access::SignedIn),
    ("/rowlock.booking.v1.RegistrationService/CancelRegistration", Access::SignedIn),
    ("/rowlock.booking.v1.RegistrationService/GetRegistration", Access::SignedIn),
    ("/rowlock.booking.v1.RegistrationService/ListRegistrations", Access::SignedIn),
    ("/rowlock.booking.v1.RegistrationService/CheckIn", Access::SignedIn),
    ("/rowlock.booking.v1.WaitlistService/JoinWaitlist", Access::SignedIn),
    ("/rowlock.booking.v1.WaitlistService/LeaveWaitlist", Access::SignedIn),
    ("/rowlock.booking.v1.WaitlistService/GetWaitlistEntry", Access::SignedIn),
    ("/rowlock.booking.v1.WaitlistService/AcceptOffer", Access::SignedIn),
    ("/rowlock.booking.v1.WaitlistService/DeclineOffer", Access::SignedIn),
    ("/rowlock.booking.v1.WaitlistService/ListWaitlistEntries", Access::SignedIn),
    ("/rowlock.booking.v1.AuditService/ListAuditEntries", ORGANIZERS),
    ("/rowlock.booking.v1.ChangeService/StreamChanges", BACKENDS),
    ("/rowlock.booking.v1.SimulationService/SimulateRush", ADMINS),
];

/// Those that answer with a stream.
pub const STREAMS: [&str; 3] = [
    "/rowlock.booking.v1.EventService/WatchEvent",
    "/rowlock.booking.v1.ChangeService/StreamChanges",
    "/rowlock.booking.v1.SimulationService/SimulateRush",
];
