//! Messages from values, and values from messages.

use std::time::Duration;

use rowlock_proto::identity::v1 as proto;
use service_core::auth::{Principal, Role};
use service_core::validation::{Violations, required_id, timestamp};
use uuid::Uuid;

use crate::accounts::{
    ChangePassword, ClientSecret, RefreshToken, ResetToken, ServiceSignIn, SessionTokens, SignIn, SignUp,
};
use crate::domain::{
    Email, Error, LONGEST_OVERLAP, NewPassword, Password, Result, RevokedTokens, ServiceAccount, Session,
    User, display_name, sign_up_role,
};
use crate::store::StoredRevocation;

use super::client::Client;

/// Reads a sign-up.
pub(super) fn sign_up(request: &proto::SignUpRequest, client: &Client) -> Result<SignUp> {
    let mut violations = Violations::default();
    let email = Email::read(&mut violations, "email", &request.email);
    let password = NewPassword::read(&mut violations, "password", &request.password, &email);
    let display_name = display_name(&mut violations, "display_name", &request.display_name);
    let asked = role_asked(&mut violations, "role", request.role);
    let role = sign_up_role(&mut violations, "role", asked);
    violations.finish()?;
    Ok(SignUp { email, password, display_name, role, address: client.address })
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

/// Reads a refresh token. What cannot be one is answered as one that nobody was given.
pub(super) fn refresh_token(value: &str) -> Result<RefreshToken> {
    if value.is_empty() {
        let mut violations = Violations::default();
        violations.add("refresh_token", "is required");
        violations.finish()?;
    }
    RefreshToken::presented(value).ok_or(Error::RefreshTokenInvalid)
}

/// Reads a change of password by the user with this address.
pub(super) fn change_password(
    request: &proto::ChangePasswordRequest,
    email: &Email,
    client: &Client,
) -> Result<ChangePassword> {
    let mut violations = Violations::default();
    let current = Password::read(&mut violations, "current_password", &request.current_password);
    let new = NewPassword::read(&mut violations, "new_password", &request.new_password, email);
    violations.finish()?;
    Ok(ChangePassword { current, new, address: client.address })
}

/// Reads the password of somebody who wants to go.
pub(super) fn delete_me(request: &proto::DeleteMeRequest) -> Result<Password> {
    let mut violations = Violations::default();
    let current = Password::read(&mut violations, "current_password", &request.current_password);
    violations.finish()?;
    Ok(current)
}

/// Reads a token that replaces a password. What cannot be one is answered as one that nobody was given. Of the new password
/// it can only be said whether there is one: whose it is to be is not known yet.
pub(super) fn reset_token(request: &proto::ResetPasswordRequest) -> Result<ResetToken> {
    let mut violations = Violations::default();
    for (field, value) in [("reset_token", &request.reset_token), ("new_password", &request.new_password)] {
        if value.is_empty() {
            violations.add(field, "is required");
        }
    }
    violations.finish()?;
    ResetToken::presented(&request.reset_token).ok_or(Error::PasswordResetInvalid)
}

/// Reads the new password of the user with this address.
pub(super) fn new_password(request: &proto::ResetPasswordRequest, email: &Email) -> Result<NewPassword> {
    let mut violations = Violations::default();
    let new = NewPassword::read(&mut violations, "new_password", &request.new_password, email);
    violations.finish()?;
    Ok(new)
}

/// The role that a request names; `None` if it is left open.
pub(super) fn role_asked(violations: &mut Violations, field: &str, value: i32) -> Option<Role> {
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
pub(super) fn signed_in(tokens: &SessionTokens) -> proto::SignInResponse {
    proto::SignInResponse {
        access_token: tokens.access.token.expose().to_owned(),
        access_token_expire_time: Some(timestamp(tokens.access.expire_time)),
        refresh_token: tokens.refresh.expose().to_owned(),
        refresh_token_expire_time: Some(timestamp(tokens.refresh_expire_time)),
        user: Some(user(&tokens.user)),
    }
}

/// The most characters of a client id or a client secret. More cannot be right and costs time to look at.
const MAX_CREDENTIAL_CHARS: usize = 256;

/// Reads what a backend presents. What cannot be anybody's is told as such: it says nothing about accounts.
pub(super) fn service_sign_in(
    request: &proto::IssueServiceTokenRequest,
    client: &Client,
) -> Result<ServiceSignIn> {
    let mut violations = Violations::default();
    let mut credential = |field: &str, value: &str| {
        if value.is_empty() {
            violations.add(field, "is required");
        } else if value.chars().nth(MAX_CREDENTIAL_CHARS).is_some() {
            violations.add(field, format!("must have at most {MAX_CREDENTIAL_CHARS} characters"));
        } else if value.contains('\0') {
            violations.add(field, "must not contain NUL");
        }
    };
    credential("client_id", &request.client_id);
    credential("client_secret", &request.client_secret);
    violations.finish()?;
    Ok(ServiceSignIn {
        client_id: request.client_id.clone(),
        secret: ClientSecret::claimed(&request.client_secret),
        address: client.address,
    })
}

/// Reads which token is asked about.
pub(super) fn token(request: &proto::IntrospectTokenRequest) -> Result<&str> {
    let mut violations = Violations::default();
    if request.token.is_empty() {
        violations.add("token", "is required");
    }
    violations.finish()?;
    Ok(&request.token)
}

/// A token that is good.
pub(super) fn introspected(holder: &Principal) -> proto::IntrospectTokenResponse {
    proto::IntrospectTokenResponse {
        active: true,
        user_id: holder.user_id.to_string(),
        role: role(holder.role).into(),
        expire_time: Some(timestamp(holder.expires)),
    }
}

/// Reads what a new service account is for.
pub(super) fn new_service_account(request: &proto::CreateServiceAccountRequest) -> Result<String> {
    let mut violations = Violations::default();
    let name = display_name(&mut violations, "display_name", &request.display_name);
    violations.finish()?;
    Ok(name)
}

/// Reads the only field of a request that has one id.
pub(super) fn id(field: &str, value: &str) -> Result<Uuid> {
    Ok(required_id(field, value)?)
}

/// Reads whose secret is rotated, and for how long the old one goes on working.
pub(super) fn rotation(
    request: &proto::RotateServiceAccountSecretRequest,
) -> Result<(Uuid, Option<Duration>)> {
    let mut violations = Violations::default();
    let id = violations.uuid("service_account_id", &request.service_account_id);
    let overlap = violations.duration("overlap", request.overlap.as_ref(), Duration::ZERO..=LONGEST_OVERLAP);
    violations.finish()?;
    Ok((id, overlap))
}

/// A service account as admins see one.
pub(super) fn service_account(account: &ServiceAccount) -> proto::ServiceAccount {
    proto::ServiceAccount {
        service_account_id: account.id.to_string(),
        client_id: account.client_id.clone(),
        display_name: account.display_name.clone(),
        create_time: Some(timestamp(account.create_time)),
        secret_create_time: Some(timestamp(account.secret_create_time)),
        old_secret_expire_time: account.old_secret_expire_time.map(timestamp),
        secret_last_use_time: account.secret_last_use_time.map(timestamp),
        old_secret_last_use_time: account.old_secret_last_use_time.map(timestamp),
    }
}

/// A revocation as verifiers see one.
pub(super) fn revocation(stored: &StoredRevocation) -> proto::Revocation {
    let target = match stored.revocation.tokens {
        RevokedTokens::OfSession(session_id) => proto::revocation::Target::SessionId(session_id.to_string()),
        RevokedTokens::BelowVersion(minimum_session_version) => {
            let user_id = stored.revocation.user_id.to_string();
            proto::revocation::Target::User(proto::UserRevocation { user_id, minimum_session_version })
        }
    };
    proto::Revocation {
        target: Some(target),
        revoke_time: Some(timestamp(stored.revoke_time)),
        expire_time: Some(timestamp(stored.expire_time)),
    }
}

/// The tokens of a session that goes on.
pub(super) fn refreshed(tokens: &SessionTokens) -> proto::RefreshTokensResponse {
    let proto::SignInResponse {
        access_token,
        access_token_expire_time,
        refresh_token,
        refresh_token_expire_time,
        user,
    } = signed_in(tokens);
    proto::RefreshTokensResponse {
        access_token,
        access_token_expire_time,
        refresh_token,
        refresh_token_expire_time,
        user,
    }
}

/// A session as its user sees it, in a call with a token of the session `current`.
pub(super) fn session(session: &Session, current: Option<Uuid>) -> proto::Session {
    proto::Session {
        session_id: session.id.to_string(),
        create_time: Some(timestamp(session.create_time)),
        last_use_time: Some(timestamp(session.last_use_time)),
        expire_time: Some(timestamp(session.expire_time)),
        current: current == Some(session.id),
        user_agent: session.user_agent.clone(),
    }
}

/// A count as it goes over the wire.
pub(super) fn count(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
