//! Reading changes of users: which fields the mask names, and what they are to become.

use rowlock_proto::identity::v1 as proto;
use service_core::auth::Role;
use service_core::validation::{Violations, paths};

use super::convert::role_asked;
use crate::domain::{UserUpdate, display_name};

/// Reads the fields of `user` that the mask names. `allowed` are those that it may name.
pub(super) fn user_update(
    violations: &mut Violations,
    user: &proto::User,
    mask: Option<&prost_types::FieldMask>,
    allowed: &[&str],
) -> UserUpdate {
    let mut update =
        UserUpdate { etag: Some(user.etag.clone()).filter(|etag| !etag.is_empty()), ..UserUpdate::default() };
    let mask = mask.map(|mask| mask.paths.as_slice()).unwrap_or_default();
    if mask.is_empty() {
        violations.add("update_mask", format!("is required: {}", allowed.join(", ")));
    }
    for path in paths(mask) {
        match path {
            path if !allowed.contains(&path) => {
                violations.add("update_mask", format!("may name: {}", allowed.join(", ")));
                break;
            }
            "display_name" => {
                update.display_name = Some(display_name(violations, "user.display_name", &user.display_name));
            }
            "role" => update.role = Some(users_role(violations, user.role)),
            "active" => update.active = Some(user.active),
            _ => violations.add("update_mask", "names a field that cannot be changed"),
        }
    }
    update
}

/// A role that a user can have.
fn users_role(violations: &mut Violations, value: i32) -> Role {
    match proto::Role::try_from(value) {
        Ok(proto::Role::Unspecified | proto::Role::Service) => {
            violations.add("user.role", "must be ROLE_ATTENDEE, ROLE_ORGANIZER or ROLE_ADMIN");
            Role::Attendee
        }
        // Unknown ones are a violation there.
        _ => role_asked(violations, "user.role", value).unwrap_or(Role::Attendee),
    }
}
