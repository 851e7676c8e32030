//! Authentication and authorization, before the request is even read.

use std::sync::Arc;
use std::time::Duration;

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
/// Longer than any method's name.
const MAX_METHOD_CHARS: usize = 200;
/// The keys are tried for again and again; they come when identity-service does.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Lets a call through to its handler if its method exists and its caller may call it. The handler finds the caller with
/// [`crate::auth::principal`].
#[derive(Clone)]
pub(crate) struct AuthLayer {
    pub(crate) domain: &'static str,
    pub(crate) methods: Methods,
    pub(crate) verifier: Arc<TokenVerifier>,
}

impl Middleware for AuthLayer {
    async fn handle(&self, mut request: Request, next: &impl Next) -> Response {
        let Some(method) = self.methods.find(request.uri().path()) else {
            return refuse(self.unknown_method(request.uri().path()));
        };
        if method.access != Access::Public {
            match self.authenticate(request.headers()) {
                Ok(principal) if method.access.allows(principal.role) => {
                    Span::current().record("user_id", tracing::field::display(principal.user_id));
                    request.extensions_mut().insert(principal);
                }
                Ok(_) => return refuse(self.role_required(method.access)),
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
            TokenError::NoKeys => reason::IDENTITY_UNAVAILABLE,
        })
    }

    fn unknown_method(&self, path: &str) -> Failure {
        // The caller made it up: no more of it goes back than any method's name needs.
        let method: String = path.chars().filter(char::is_ascii_graphic).take(MAX_METHOD_CHARS).collect();
        let message = format!("there is no method {method}");
        Failure::new(Code::Unimplemented, self.domain, reason::METHOD_UNIMPLEMENTED, message)
            .with("method", method)
    }

    fn unauthenticated(&self, why: &'static str) -> Failure {
        let message = match why {
            reason::TOKEN_MISSING => "this method needs an access token",
            reason::TOKEN_EXPIRED => "the access token has expired",
            reason::TOKEN_REVOKED => "the access token has been revoked",
            reason::IDENTITY_UNAVAILABLE => {
                return Failure::new(
                    Code::Unavailable,
                    self.domain,
                    why,
                    "access tokens cannot be checked yet",
                )
                .retry_after(RETRY_AFTER);
            }
            _ => "the access token is not valid",
        };
        Failure::new(Code::Unauthenticated, self.domain, why, message)
    }

    fn role_required(&self, access: Access) -> Failure {
        let needed = match access {
            Access::AnyOf(roles) => roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(" or "),
            Access::Public | Access::SignedIn => String::new(),
        };
        let message = format!("{needed} may do this");
        Failure::new(Code::PermissionDenied, self.domain, reason::ROLE_REQUIRED, message)
            .with("needed", needed)
    }
}
