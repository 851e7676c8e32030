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
/// Longer than any method's name.
const MAX_METHOD_CHARS: usize = 200;

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
                Ok(None) => return refuse(self.token_missing()),
                Ok(Some(principal)) if method.access.allows(principal.role) => {
                    Span::current().record("user_id", tracing::field::display(principal.user_id));
                    request.extensions_mut().insert(principal);
                }
                Ok(Some(_)) => return refuse(self.role_required(method.access)),
                Err(error) => return refuse(error.failure(self.domain)),
            }
        }
        next.run(request).await
    }
}

impl AuthLayer {
    /// Who calls; `None` if no token was sent.
    fn authenticate(&self, headers: &HeaderMap) -> Result<Option<Principal>, TokenError> {
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let Some(header) = given.next() else { return Ok(None) };
        if given.next().is_some() || header.len() > MAX_HEADER_BYTES {
            return Err(TokenError::Invalid);
        }
        let (scheme, token) =
            header.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(TokenError::Invalid)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(TokenError::Invalid);
        }
        self.verifier.verify(token.trim_start_matches(' ')).map(Some)
    }

    fn unknown_method(&self, path: &str) -> Failure {
        // The caller made it up: no more of it goes back than any method's name needs.
        let method: String = path.chars().filter(char::is_ascii_graphic).take(MAX_METHOD_CHARS).collect();
        let message = format!("there is no method {method}");
        Failure::new(Code::Unimplemented, self.domain, reason::METHOD_UNIMPLEMENTED, message)
            .with("method", method)
    }

    fn token_missing(&self) -> Failure {
        let message = "this method needs an access token";
        Failure::new(Code::Unauthenticated, self.domain, reason::TOKEN_MISSING, message)
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
