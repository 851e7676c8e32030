//! Messages from values, and values from messages.

use rowlock_proto::identity::v1 as proto;
use service_core::auth::Role;
use service_core::validation::{Violations, timestamp};

use crate::accounts::{SignIn, SignUp, SignedIn};
use crate::domain::{Email, NewPassword, Password, Result, User, display_name, sign_up_role};

use super::client::Client;

/// Reads a sign-up.
pub(super) fn sign_up(request: &proto::SignUpRequest) -> Result<SignUp> {
    let mut violations = Violations::default();
    let email = Email::read(&mut violations, "email", &request.email);
    let password = NewPassword::read(&mut violations, "password", &request.password, &email);
    let display_name = display_name(&mut violations, "display_name", &request.display_name);
    let asked = role_asked(&mut violations, "role", request.role);
    let role = sign_up_role(&mut violations, "role", asked);
    violations.finish()?;
    Ok(SignUp { email, password, display_name, role })
}

/// Reads a sign-in. What cannot be an address or a password of anybody is told as such: it says nothing about
/// accounts.
pub(super) fn sign_in(request: &proto::SignInRequest, client: Client) -> Result<SignIn> {
    let mut violations = Violations::default();
    let email = Email::read(&mut violations, "email", &request.email);
    let password = Password::read(&mut violations, "password", &request.password);
    violations.finish()?;
    Ok(SignIn { email, password, address: client.address, user_agent: client.user_agent })
}

/// The role that a request names; `None` if it is left open.
fn role_asked(violations: &mut Violations, field: &str, value: i32) -> Option<Role> {
    match proto::Role::try_from(value) {
        Ok(proto::Role::Unspecified) => None,
        Ok(proto::Role::Attendee) => Some(Role::Attendee),
        Ok(proto::Role::Organizer) => Some(Role::Organizer),
        Ok(proto::Role::Admin) => Some(Role::Admin),
        Ok(proto::Role::Service) => Some(Role::Service),
        Err(_) => {
            violations.add(field, "is not a known role");
            None
        }
    }
}

fn role(role: Role) -> proto::Role {
    match role {
        Role::Attendee => proto::Role::Attendee,
        Role::Organizer => proto::Role::Organizer,
        Role::Admin => proto::Role::Admin,
        Role::Service => proto::Role::Service,
    }
}

/// A user as clients see one.
pub(super) fn user(user: &User) -> proto::User {
    proto::User {
        user_id: user.id.to_string(),
        email: user.email.as_str().to_owned(),
        display_name: user.display_name.clone(),
        role: role(user.role).into(),
        active: user.active,
        create_time: Some(timestamp(user.create_time)),
        etag: user.etag(),
    }
}

/// The tokens of a session that began.
pub(super) fn signed_in(session: &SignedIn) -> proto::SignInResponse {
    proto::SignInResponse {
        access_token: session.access.token.expose().to_owned(),
        access_token_expire_time: Some(timestamp(session.access.expire_time)),
        refresh_token: session.refresh.expose().to_owned(),
        refresh_token_expire_time: Some(timestamp(session.refresh_expire_time)),
        user: Some(user(&session.user)),
    }
}
