//! Who calls, and what a method asks for.

use std::str::FromStr;

use time::OffsetDateTime;
use uuid::Uuid;

/// What a caller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Registers for events.
    Attendee,
    /// Makes events.
    Organizer,
    /// Runs the system.
    Admin,
    /// Another backend.
    Service,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Attendee, Self::Organizer, Self::Admin, Self::Service];

    /// The word for this role in tokens, rows and messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Attendee => "attendee",
            Self::Organizer => "organizer",
            Self::Admin => "admin",
            Self::Service => "service",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a role: expected attendee, organizer, admin or service")]
pub struct UnknownRole;

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(word: &str) -> Result<Self, UnknownRole> {
        Self::ALL.into_iter().find(|role| role.as_str() == word).ok_or(UnknownRole)
    }
}

/// Who calls, as their token says. The auth layer puts it into the extensions of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The user, or the service account.
    pub user_id: Uuid,
    /// What they are.
    pub role: Role,
    /// The session that the token came from; service accounts have none.
    pub session_id: Option<Uuid>,
    /// The version of the user's sessions when the token was issued: tokens of lower versions are revoked by raising it.
    pub session_version: i64,
    /// When the token expires. A stream must end then.
    pub expires: OffsetDateTime,
}

/// A handler asked who calls, but its method lets everybody in. A bug: answer INTERNAL, never "anyone".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request carries no principal")]
pub struct NoPrincipal;

/// Who calls.
///
/// # Errors
/// [`NoPrincipal`] if the request did not pass the auth layer, or the method is [`Access::Public`].
pub fn principal<T>(request: &tonic::Request<T>) -> Result<&Principal, NoPrincipal> {
    request.extensions().get().ok_or(NoPrincipal)
}

/// What a method asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing. A token that is sent along is not even looked at.
    Public,
    /// A valid token, of any role.
    SignedIn,
    /// A valid token of one of these roles.
    AnyOf(&'static [Role]),
}

impl Access {
    /// Whether a caller of this role is let through.
    #[must_use]
    pub fn allows(self, role: Role) -> bool {
        match self {
            Self::Public | Self::SignedIn => true,
            Self::AnyOf(roles) => roles.contains(&role),
        }
    }
}

/// What every method of a server asks, by its full path such as `/rowlock.booking.v1.EventService/GetEvent`.
/// A method that is not in the table is refused.
pub type AccessTable = &'static [(&'static str, Access)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_reads_back_from_its_word() {
        for role in Role::ALL {
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        for word in ["", "Admin", "ADMIN", "root", "admin "] {
            assert_eq!(word.parse::<Role>(), Err(UnknownRole), "{word:?}");
        }
    }

    #[test]
    fn a_request_that_did_not_pass_the_auth_layer_has_no_principal() {
        assert_eq!(principal(&tonic::Request::new(())), Err(NoPrincipal));
    }

    #[test]
    fn only_the_listed_roles_are_let_through() {
        let access = Access::AnyOf(&[Role::Admin, Role::Service]);
        assert_eq!(Role::ALL.map(|role| access.allows(role)), [false, false, true, true]);
        assert_eq!(Role::ALL.map(|role| Access::AnyOf(&[]).allows(role)), [false; 4]);
        assert!(Role::ALL.into_iter().all(|role| Access::SignedIn.allows(role)));
    }
}
