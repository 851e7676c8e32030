//! Users.

use service_core::auth::Role;
use service_core::secret::Secret;
use service_core::validation::Violations;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Email, Error, Result};

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
    /// Whether the user is one of those who may do everything.
    #[must_use]
    pub fn is_active_admin(&self) -> bool {
        self.active && self.role == Role::Admin
    }

    /// Whether the user may be demoted, deactivated or deleted. `other_admins`: whether another active admin is certain to
    /// be there.
    ///
    /// # Errors
    /// [`Error::LastAdmin`] if no active admin would be left.
    pub fn may_cease_to_be_admin(&self, other_admins: bool) -> Result<()> {
        if self.is_active_admin() && !other_admins {
            return Err(Error::LastAdmin { user_id: self.id });
        }
        Ok(())
    }

    /// Names the present state of the user; another one after every change that a client sees.
    #[must_use]
    pub fn etag(&self) -> String {
        format!("\"{}\"", self.revision)
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

/// Reads a display name: 1 to 100 characters, one line that is read from one side to the other, with something to see. Others
/// read it, in lists of guests and on terminals.
pub fn display_name(violations: &mut Violations, field: &str, value: &str) -> String {
    let name = violations.text(field, value, 1, 100);
    if name.contains(leaves_its_place) {
        violations.add(field, "must be one line without tabs, and must not turn the direction of the text");
    } else if !name.trim().is_empty() && name.chars().all(|c| c.is_whitespace() || has_no_width(c)) {
        violations.add(field, "must have something to see");
    }
    name
}

/// Ends a line, moves within it, or has what follows read from the other side (UAX #9: embeddings, overrides, isolates).
fn leaves_its_place(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\t' | '\u{2028}' | '\u{2029}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// Soft hyphen, joiners, marks of direction, invisible operators, fillers, variation selectors, tags, an empty pattern of
/// Braille, byte order mark.
fn has_no_width(c: char) -> bool {
    matches!(
        c,
        '\u{AD}' | '\u{61C}' | '\u{115F}' | '\u{1160}' | '\u{180E}' | '\u{200B}'..='\u{200F}' | '\u{2060}'..='\u{2064}'
            | '\u{2800}' | '\u{3164}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{FFA0}' | '\u{E0000}'..='\u{E007F}'
    )
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
    fn a_display_name_is_one_line_of_1_to_100_characters_with_something_to_see() {
        let valid = |value: &str| {
            let mut violations = Violations::default();
            display_name(&mut violations, "display_name", value);
            violations.is_empty()
        };
        // Joiners are part of some scripts and of emoji.
        for name in ["Ada", &"ü".repeat(100), "می\u{200C}خواهم", "👩\u{200D}🚀"] {
            assert!(valid(name), "{name:?}");
        }
        let long = "ü".repeat(101);
        for name in [
            "",
            "  ",
            &long,
            "Ada\nLovelace",
            "Ada\rroot",
            "A\0",
            "A\tB",
            "A\u{2028}B",
            "A\u{202E}B",
            "\u{200B} \u{FEFF}",
            "\u{3164}",
            "\u{2800}\u{FE0F}",
        ] {
            assert!(!valid(name), "{name:?}");
        }
    }
}
