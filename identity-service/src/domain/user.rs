//! Users.

use service_core::auth::Role;
use service_core::secret::Secret;
use service_core::validation::Violations;
use time::OffsetDateTime;
use uuid::Uuid;

use super::Email;

/// A user, as stored. The password hash is not part of it.
#[derive(Clone, Debug)]
pub struct User {
    /// The id; the `sub` claim.
    pub id: Uuid,
    /// The address, in lower case.
    pub email: Email,
    /// What to call the user, 1 to 100 characters.
    pub display_name: String,
    /// What the user may do; never [`Role::Service`].
    pub role: Role,
    /// Whether the user may sign in.
    pub active: bool,
    /// The `sv` claim: tokens with a lower number are void.
    pub session_version: i64,
    /// Counts the changes that a client sees.
    pub revision: i64,
    /// When the user signed up.
    pub create_time: OffsetDateTime,
}

impl User {
    /// Names the present state of the user; another one after every change that a client sees.
    #[must_use]
    pub fn etag(&self) -> String {
        self.revision.to_string()
    }
}

/// A user who is about to be stored.
#[derive(Clone, Debug)]
pub struct NewUser {
    /// The id, made by the service.
    pub id: Uuid,
    /// The address.
    pub email: Email,
    /// The PHC string of the password.
    pub password_hash: Secret,
    /// What to call the user.
    pub display_name: String,
    /// What the user may do.
    pub role: Role,
    /// The present.
    pub create_time: OffsetDateTime,
}

/// Reads a display name: 1 to 100 characters, one line.
pub fn display_name(violations: &mut Violations, field: &str, value: &str) -> String {
    let name = violations.text(field, value, 1, 100);
    if name.contains(['\n', '\t']) {
        violations.add(field, "must be one line without tabs");
    }
    name
}

/// The role of somebody who signs up: none asked for is an attendee, and nobody signs up as an admin or a
/// service.
pub fn sign_up_role(violations: &mut Violations, field: &str, asked: Option<Role>) -> Role {
    match asked {
        None | Some(Role::Attendee) => Role::Attendee,
        Some(Role::Organizer) => Role::Organizer,
        Some(Role::Admin | Role::Service) => {
            violations.add(field, "must be ROLE_ATTENDEE or ROLE_ORGANIZER");
            Role::Attendee
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_signs_up_as_admin_or_service() {
        for (asked, given, refused) in [
            (None, Role::Attendee, false),
            (Some(Role::Attendee), Role::Attendee, false),
            (Some(Role::Organizer), Role::Organizer, false),
            (Some(Role::Admin), Role::Attendee, true),
            (Some(Role::Service), Role::Attendee, true),
        ] {
            let mut violations = Violations::default();
            assert_eq!(sign_up_role(&mut violations, "role", asked), given);
            assert_eq!(violations.finish().is_err(), refused, "{asked:?}");
        }
    }

    #[test]
    fn a_display_name_is_one_line_of_1_to_100_characters() {
        let valid = |value: &str| {
            let mut violations = Violations::default();
            display_name(&mut violations, "display_name", value);
            violations.is_empty()
        };
        assert!(valid("Ada") && valid(&"ü".repeat(100)));
        assert!(
            !valid("")
                && !valid("  ")
                && !valid(&"ü".repeat(101))
                && !valid("Ada\nLovelace")
                && !valid("A\0")
        );
    }
}
