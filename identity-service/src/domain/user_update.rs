//! Changing a user.

use service_core::auth::Role;

use super::{Error, Result, User};

/// What is to change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserUpdate {
    /// What to call the user from now on.
    pub display_name: Option<String>,
    /// What the user may do from now on; not [`Role::Service`].
    pub role: Option<Role>,
    /// Whether the user may sign in from now on.
    pub active: Option<bool>,
    /// Refuse unless this is the user's etag.
    pub etag: Option<String>,
}

/// What comes of it.
#[derive(Clone, Debug)]
pub struct UpdatedUser {
    /// The user after the change.
    pub user: User,
    /// Whether anything is different.
    pub changed: bool,
    /// Whether every token that is out ends.
    pub ends_tokens: bool,
    /// Whether the sessions end too.
    pub ends_sessions: bool,
    /// What changed, for the audit entry: role and activity from and to, and that the name did.
    pub details: serde_json::Value,
}

impl UserUpdate {
    /// Whether this could take an active admin away, so that it has to be known whether others are left.
    #[must_use]
    pub fn may_remove_an_admin(&self) -> bool {
        self.active == Some(false) || self.role.is_some_and(|role| role != Role::Admin)
    }

    /// Changes `present`. `other_admins`: whether another active admin is certain to be there.
    ///
    /// A new role, and active switched off, end the tokens that are out; active switched off ends the sessions
    /// too. What is set to what it was already is no change, whatever the etag: so the same change may be asked for again.
    ///
    /// # Errors
    /// [`Error::EtagMismatch`]; [`Error::LastAdmin`] if no active admin would be left.
    pub fn apply(&self, present: &User, other_admins: bool) -> Result<UpdatedUser> {
        let mut user = present.clone();
        user.display_name.clone_from(self.display_name.as_ref().unwrap_or(&present.display_name));
        user.role = self.role.unwrap_or(present.role);
        user.active = self.active.unwrap_or(present.active);

        let mut details = serde_json::Map::new();
        if user.role != present.role {
            details.insert("role".into(), serde_json::json!([present.role.as_str(), user.role.as_str()]));
        }
        if user.active != present.active {
            details.insert("active".into(), serde_json::json!([present.active, user.active]));
        }
        if user.display_name != present.display_name {
            details.insert("display_name".into(), true.into());
        }
        let changed = !details.is_empty();
        let etag = present.etag();
        if changed && self.etag.as_ref().is_some_and(|expected| *expected != etag) {
            return Err(Error::EtagMismatch { user_id: present.id, etag });
        }
        if !user.is_active_admin() {
            present.may_cease_to_be_admin(other_admins)?;
        }
        let ends_sessions = present.active && !user.active;
        let ends_tokens = ends_sessions || user.role != present.role;
        user.revision += i64::from(changed);
        user.session_version += i64::from(ends_tokens);
        Ok(UpdatedUser { user, changed, ends_tokens, ends_sessions, details: details.into() })
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;
    use uuid::Uuid;

    use super::super::Email;
    use super::*;

    fn user(role: Role, active: bool) -> User {
        User {
            id: Uuid::from_u128(1),
            email: Email::parse("ada@example.org").unwrap(),
            display_name: "Ada".into(),
            role,
            active,
            session_version: 4,
            revision: 7,
            create_time: datetime!(2026-01-01 12:00 UTC),
        }
    }

    #[test]
    fn a_new_role_ends_tokens_deactivation_ends_sessions_too_and_a_name_ends_nothing() {
        let update = |name: Option<&str>, role, active| UserUpdate {
            display_name: name.map(Into::into),
            role,
            active,
            etag: None,
        };
        // What is asked for, and: changed, ends tokens, ends sessions.
        for (update, expected) in [
            (update(Some("Countess"), None, None), (true, false, false)),
            (update(None, Some(Role::Organizer), None), (true, true, false)),
            (update(None, None, Some(false)), (true, true, true)),
            (update(Some("Ada"), Some(Role::Attendee), Some(true)), (false, false, false)),
        ] {
            let updated = update.apply(&user(Role::Attendee, true), true).unwrap();
            assert_eq!((updated.changed, updated.ends_tokens, updated.ends_sessions), expected, "{update:?}");
            assert_eq!(updated.user.revision, 7 + i64::from(expected.0));
            assert_eq!(updated.user.session_version, 4 + i64::from(expected.1));
        }
        let back = update(None, None, Some(true)).apply(&user(Role::Attendee, false), true).unwrap();
        assert!(back.changed && !back.ends_tokens && !back.ends_sessions);
    }

    #[test]
    fn the_last_active_admin_stays_one() {
        let demote = UserUpdate { role: Some(Role::Organizer), ..UserUpdate::default() };
        let deactivate = UserUpdate { active: Some(false), ..UserUpdate::default() };
        let rename = UserUpdate { display_name: Some("Root".into()), ..UserUpdate::default() };
        for update in [&demote, &deactivate] {
            assert!(update.may_remove_an_admin());
            let refused = update.apply(&user(Role::Admin, true), false);
            assert!(matches!(refused, Err(Error::LastAdmin { .. })), "{refused:?}");
            assert!(update.apply(&user(Role::Admin, true), true).is_ok());
            assert!(update.apply(&user(Role::Admin, false), false).is_ok(), "was none that counts");
            assert!(update.apply(&user(Role::Attendee, true), false).is_ok());
        }
        assert!(!rename.may_remove_an_admin() && rename.apply(&user(Role::Admin, true), false).is_ok());
    }

    #[test]
    fn an_etag_of_another_state_is_refused_with_the_present_one_if_anything_is_to_change() {
        let update = |name: &str, etag: &str| UserUpdate {
            display_name: Some(name.into()),
            etag: Some(etag.into()),
            ..UserUpdate::default()
        };
        assert!(update("Eve", "\"7\"").apply(&user(Role::Admin, true), true).unwrap().changed);
        let refused = update("Eve", "\"6\"").apply(&user(Role::Admin, true), true).unwrap_err();
        assert!(matches!(refused, Error::EtagMismatch { etag, .. } if etag == "\"7\""));
        assert!(!update("Ada", "\"6\"").apply(&user(Role::Admin, true), true).unwrap().changed);
    }
}
