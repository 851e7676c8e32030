//! Authentication and authorization, before the request is even read.

use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use tonic::Code;
use tracing::Span;

use super::{Methods, Middleware, Next, Request, Response, refuse};
use crate::auth::{Access, Principal};
use crate::status::{Failure, reason};
use crate::token::{TokenError, TokenVerifier};

/// Longer than any token of ours.
const MAX_HEADER_BYTES: usize = 8 * 1024;

/// Lets a call through to its handler if its method exists and its caller may call it. The handler finds the caller with
/// [`crate::auth::principal`].
#[derive(Clone)]
pub(crate) struct AuthLayer {
    pub(crate) domain: &'static str,
    pub(crate) methods: Methods,
    pub(crate) verifier: Arc<TokenVerifier>,
}

impl Middleware for AuthLayer {
    async fn handle(self, mut request: Request, next: impl Next) -> Response {
        let Some(method) = self.methods.find(request.uri().path()) else {
            let message = "there is no such method";
            return refuse(Failure::new(
                Code::Unimplemented,
                self.domain,
                reason::METHOD_UNIMPLEMENTED,
                message,
            ));
        };
        if method.access != Access::Public {
            match self.authenticate(request.headers()) {
                Ok(principal) if method.access.allows(principal.role) => {
                    Span::current().record("user_id", tracing::field::display(principal.user_id));
                    request.extensions_mut().insert(principal);
                }
                Ok(principal) => return refuse(self.role_required(method.access, &principal)),
                Err(reason) => return refuse(self.unauthenticated(reason)),
            }
        }
        next.run(request).await
    }
}

impl AuthLayer {
    fn authenticate(&self, headers: &HeaderMap) -> Result<Principal, &'static str> {
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let header = given.next().ok_or(reason::TOKEN_MISSING)?;
        if given.next().is_some() || header.len() > MAX_HEADER_BYTES {
            return Err(reason::TOKEN_INVALID);
        }
        let (scheme, token) =
            header.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(reason::TOKEN_INVALID)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(reason::TOKEN_INVALID);
        }
        self.verifier.verify(token.trim_start_matches(' ')).map_err(|error| match error {
            TokenError::Invalid => reason::TOKEN_INVALID,
            TokenError::Expired => reason::TOKEN_EXPIRED,
            TokenError::Revoked => reason::TOKEN_REVOKED,
        })
    }

    fn unauthenticated(&self, why: &'static str) -> Failure {
        let message = match why {
            reason::TOKEN_MISSING => {
                "an access token is required: send `authorization: Bearer <access token>`"
            }
            reason::TOKEN_EXPIRED => "the access token has expired: get a new one",
            reason::TOKEN_REVOKED => "the access token was revoked: sign in again",
            _ => "the access token is invalid",
        };
        Failure::new(Code::Unauthenticated, self.domain, why, message)
    }

    fn role_required(&self, access: Access, principal: &Principal) -> Failure {
        let allowed = match access {
            Access::AnyOf(roles) => roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(", "),
            Access::Public | Access::SignedIn => String::new(),
        };
        let message = format!("this method is for the roles {allowed}; the caller is {}", principal.role);
        Failure::new(Code::PermissionDenied, self.domain, reason::ROLE_REQUIRED, message)
            .with("roles", allowed)
            .with("role", principal.role)
    }
}
