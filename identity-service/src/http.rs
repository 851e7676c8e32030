//! What the HTTP port serves beside operations: the public keys, and where verifiers find them.

use std::sync::Arc;

use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HOST, IF_NONE_MATCH};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::signing::KeyRing;

/// Verifiers fetch the keys about once a minute; with a cache in between they know a new one after two.
const CACHE: &str = "public, max-age=60";

const JWKS_PATH: &str = "/.well-known/jwks.json";

/// `GET /.well-known/jwks.json` and `GET /.well-known/openid-configuration`. `public_url` is where the port is reached
/// from outside; without it, a request's own `Host` says so.
pub(crate) fn router(ring: Arc<KeyRing>, issuer: String, public_url: Option<String>) -> Router {
    let keys = ring.clone();
    Router::new().route(JWKS_PATH, get(async move |headers: HeaderMap| jwks(&keys, &headers))).route(
        "/.well-known/openid-configuration",
        get(async move |headers: HeaderMap| discovery(&ring, &issuer, public_url.as_deref(), &headers)),
    )
}

/// What a verifier has to know, in the words of OpenID Connect Discovery and RFC 8414. There is no flow with a browser
/// here, and no endpoint of one: tokens come from gRPC. The lists that are empty would otherwise have defaults.
fn discovery(ring: &KeyRing, issuer: &str, public_url: Option<&str>, headers: &HeaderMap) -> Response {
    let (base, caching) = match public_url {
        Some(url) => (url.to_owned(), CACHE),
        None => {
            let host = headers.get(HOST).and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
            let Some(host) = host else { return StatusCode::BAD_REQUEST.into_response() };
            // What one client said about the host is not for the next one.
            (format!("http://{host}"), "no-store")
        }
    };
    let algorithms: Vec<_> = ring.algorithms().iter().map(|algorithm| format!("{algorithm:?}")).collect();
    let document = serde_json::json!({
        "issuer": issuer,
        "jwks_uri": format!("{base}{JWKS_PATH}"),
        // Libraries look here for what access tokens are signed with, too.
        "id_token_signing_alg_values_supported": algorithms,
        "subject_types_supported": ["public"],
        "response_types_supported": [],
        "grant_types_supported": [],
        "claims_supported": ["iss", "sub", "aud", "exp", "nbf", "iat", "jti", "role", "sid", "sv"],
    });
    ([(CACHE_CONTROL, caching), (CONTENT_TYPE, "application/json")], document.to_string()).into_response()
}

fn jwks(ring: &KeyRing, headers: &HeaderMap) -> Response {
    let caching = [(CACHE_CONTROL, CACHE.to_owned()), (ETAG, ring.etag().to_owned())];
    if headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .any(|value| value.to_str().is_ok_and(|tags| names(tags, ring.etag())))
    {
        return (StatusCode::NOT_MODIFIED, caching).into_response();
    }
    (caching, [(CONTENT_TYPE, "application/jwk-set+json")], ring.jwks_json().to_owned()).into_response()
}

/// Whether a list of entity tags names this one, weak or strong (RFC 9110, section 13.1.2).
fn names(tags: &str, etag: &str) -> bool {
    tags.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entity_tag_is_found_in_a_list_weak_or_strong() {
        for (tags, expected) in [
            ("\"a\"", true),
            ("W/\"a\"", true),
            ("\"b\", \"a\"", true),
            ("*", true),
            ("\"b\"", false),
            ("a", false),
            ("", false),
        ] {
            assert_eq!(names(tags, "\"a\""), expected, "{tags}");
        }
    }
}
